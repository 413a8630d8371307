use proptest::prelude::*;

use super::*;

const BASE: u64 = 0x2000_0000_0000;

fn window() -> Window {
    Window::new(BASE, 64 * CHUNK_BYTES)
}

#[test]
fn small_allocations_share_one_chunk_at_multiples_of_256() {
    let mut window = window();
    let first = window.allocate(100, 1).unwrap();
    let second = window.allocate(300, 1).unwrap();
    assert_eq!(first.address, BASE);
    assert_eq!(first.new_chunk, Some(Chunk { address: BASE, bytes: CHUNK_BYTES }));
    assert_eq!(second, Placement { address: BASE + 256, new_chunk: None });
    assert_eq!(window.used_bytes(), 400);
    assert_eq!(window.mapped_bytes(), CHUNK_BYTES);
}

#[test]
fn a_larger_alignment_is_kept() {
    let mut window = window();
    window.allocate(1, 1).unwrap();
    assert_eq!(window.allocate(1, 4096).unwrap().address, BASE + 4096);
    assert_eq!(window.allocate(1, 4 * CHUNK_BYTES).unwrap().address % (4 * CHUNK_BYTES), 0);
    assert_eq!(window.allocate(1, 3), Err(Full));
}

#[test]
fn a_freed_range_is_not_given_out_before_its_ticket_is_redeemed() {
    let mut window = window();
    let first = window.allocate(CHUNK_BYTES, 1).unwrap();
    let freed = window.free(first.address).unwrap();
    assert_eq!(freed.bytes, CHUNK_BYTES);
    assert_ne!(window.allocate(CHUNK_BYTES, 1).unwrap().address, first.address);
    let chunk = window.release(freed.ticket).unwrap();
    assert_eq!(chunk, Chunk { address: first.address, bytes: CHUNK_BYTES });
    assert_eq!(window.allocate(CHUNK_BYTES, 1).unwrap(), Placement { address: BASE, new_chunk: None });
    assert_eq!(window.release(freed.ticket), None);
}

#[test]
fn an_address_inside_an_allocation_cannot_be_freed_nor_freed_twice() {
    let mut window = window();
    let address = window.allocate(1000, 1).unwrap().address;
    assert_eq!(window.free(address + 256), None);
    assert!(window.free(address).is_some());
    assert_eq!(window.free(address), None);
    assert_eq!(window.used_bytes(), 0);
}

#[test]
fn a_pointer_finds_the_allocation_that_holds_it() {
    let mut window = window();
    let address = window.allocate(1000, 1).unwrap().address;
    assert_eq!(window.containing(address), Some((address, 1000)));
    assert_eq!(window.containing(address + 999), Some((address, 1000)));
    assert_eq!(window.containing(address + 1000), None);
    assert_eq!(window.containing(BASE - 1), None);
    assert!(
        window.holds(address + 1000) && !window.holds(BASE - 1) && !window.holds(BASE + 64 * CHUNK_BYTES)
    );
}

#[test]
fn an_empty_chunk_can_be_removed_and_its_addresses_used_for_a_larger_one() {
    let mut window = Window::new(BASE, 2 * CHUNK_BYTES);
    let first = window.allocate(CHUNK_BYTES, 1).unwrap();
    let second = window.allocate(CHUNK_BYTES, 1).unwrap();
    assert_eq!(window.allocate(1, 1), Err(Full));
    assert!(!window.remove_chunk(first.address));
    for placement in [first, second] {
        let freed = window.free(placement.address).unwrap();
        let chunk = window.release(freed.ticket).unwrap();
        assert!(window.empty_chunks().contains(&chunk));
        assert!(window.remove_chunk(chunk.address));
    }
    assert_eq!(window.allocate(2 * CHUNK_BYTES, 1).unwrap().address, BASE);
}

#[test]
fn ranges_of_two_chunks_are_not_merged() {
    let mut window = window();
    let first = window.allocate(CHUNK_BYTES, 1).unwrap();
    let second = window.allocate(CHUNK_BYTES, 1).unwrap();
    for placement in [first, second] {
        let freed = window.free(placement.address).unwrap();
        window.release(freed.ticket);
    }
    assert!(window.allocate(2 * CHUNK_BYTES, 1).unwrap().new_chunk.is_some());
}

#[test]
fn undo_leaves_the_window_as_it_was() {
    let mut window = Window::new(BASE, CHUNK_BYTES);
    let placement = window.allocate(5, 1).unwrap();
    window.undo(placement);
    assert_eq!(window.mapped_bytes(), 0);
    assert_eq!(window.allocate(CHUNK_BYTES, 1), Ok(placement_at(BASE)));
}

#[test]
fn sizes_that_overflow_are_refused() {
    let mut window = window();
    assert_eq!(window.allocate(u64::MAX, 1), Err(Full));
    assert_eq!(window.allocate(u64::MAX - CHUNK_BYTES, 1), Err(Full));
    assert_eq!(Window::new(u64::MAX - 10, 100).allocate(1, 1), Err(Full));
}

fn placement_at(address: u64) -> Placement {
    Placement { address, new_chunk: Some(Chunk { address, bytes: CHUNK_BYTES }) }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { bytes: u64, align_log2: u32 },
    Free(usize),
    Release(usize),
    RemoveEmpty,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6 * CHUNK_BYTES, 0_u32..23).prop_map(|(bytes, align_log2)| Step::Allocate { bytes, align_log2 }),
        2 => (1_u64..5000, 0_u32..10).prop_map(|(bytes, align_log2)| Step::Allocate { bytes, align_log2 }),
        3 => any::<usize>().prop_map(Step::Free),
        3 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::RemoveEmpty),
    ]
}

#[test]
fn reserved_addresses_are_nobody_elses() {
    let mut window = window();
    let first = window.reserve(4 * CHUNK_BYTES, 1, 0).unwrap();
    let hint = BASE + 32 * CHUNK_BYTES;
    assert_eq!(window.reserve(CHUNK_BYTES, 1, hint), Ok(hint));
    let other = window.reserve(CHUNK_BYTES, 1, hint).unwrap();
    assert!(other != hint && window.holds(other), "taken, so another place");
    let aligned = window.reserve(CHUNK_BYTES, 16 * CHUNK_BYTES, 0).unwrap();
    assert!(aligned.is_multiple_of(16 * CHUNK_BYTES));
    assert_eq!(window.reserve(CHUNK_BYTES - 1, 1, 0), Err(Full));
    assert_eq!(window.reserve(CHUNK_BYTES, 3, 0), Err(Full));
    assert_eq!(window.reserve(65 * CHUNK_BYTES, 1, 0), Err(Full));
    assert!(window.is_reserved(first + CHUNK_BYTES, 3 * CHUNK_BYTES));
    assert!(!window.is_reserved(first + CHUNK_BYTES, 4 * CHUNK_BYTES));
    assert_eq!(window.containing(first), None, "there is no memory");
    let chunk = window.allocate(40 * CHUNK_BYTES, 1);
    assert_eq!(chunk, Err(Full), "they lie between");
    assert!(!window.unreserve(first, CHUNK_BYTES));
    for (start, chunks) in [(first, 4), (hint, 1), (other, 1), (aligned, 1)] {
        assert!(window.unreserve(start, chunks * CHUNK_BYTES));
    }
    assert_eq!(window.reserve(64 * CHUNK_BYTES, 1, 0), Ok(BASE));
}

proptest! {
    #[test]
    fn allocations_never_overlap_each_other_or_the_quarantine(steps in prop::collection::vec(step(), 1..200)) {
        let mut window = window();
        let mut live: Vec<(u64, u64)> = Vec::new();
        let mut waiting: Vec<(u64, u64, Ticket)> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { bytes, align_log2 } => {
                    let align = 1 << align_log2;
                    let Ok(placement) = window.allocate(bytes, align) else { continue };
                    let (start, end) = (placement.address, placement.address + bytes.max(1));
                    prop_assert!(start % align == 0 && start % GRANULE_BYTES == 0);
                    prop_assert!(start >= BASE && end <= BASE + 64 * CHUNK_BYTES);
                    let taken = live.iter().copied().chain(waiting.iter().map(|w| (w.0, w.1)));
                    for (other, size) in taken {
                        prop_assert!(end <= other || other + size.max(1) <= start);
                    }
                    live.push((start, bytes));
                }
                Step::Free(which) if !live.is_empty() => {
                    let (start, bytes) = live.swap_remove(which % live.len());
                    let freed = window.free(start).unwrap();
                    prop_assert_eq!(freed.bytes, bytes);
                    waiting.push((start, bytes, freed.ticket));
                }
                Step::Release(which) if !waiting.is_empty() => {
                    let (.., ticket) = waiting.swap_remove(which % waiting.len());
                    window.release(ticket);
                }
                Step::RemoveEmpty => {
                    for chunk in window.empty_chunks() {
                        prop_assert!(window.remove_chunk(chunk.address));
                    }
                }
                _ => {}
            }
            prop_assert_eq!(window.used_bytes(), live.iter().map(|l| l.1).sum::<u64>());
        }
        for (start, _) in live {
            let freed = window.free(start).unwrap();
            window.release(freed.ticket);
        }
        for (.., ticket) in waiting {
            window.release(ticket);
        }
        for chunk in window.empty_chunks() {
            prop_assert!(window.remove_chunk(chunk.address));
        }
        prop_assert_eq!(window.mapped_bytes(), 0);
        prop_assert!(window.allocate(64 * CHUNK_BYTES, 1).is_ok());
    }
}

#[test]
fn a_chunk_that_is_mapped_already_is_given_out_first() {
    let mut window = window();
    assert!(window.add_mapped(BASE, CHUNK_BYTES));
    assert!(!window.add_mapped(BASE, CHUNK_BYTES), "its addresses are taken");
    assert!(!window.add_mapped(BASE + 4096, CHUNK_BYTES) && !window.add_mapped(BASE + 4 * CHUNK_BYTES, 100));
    assert_eq!(window.allocate(100, 1).unwrap(), Placement { address: BASE, new_chunk: None });
    let large = window.allocate(CHUNK_BYTES, 1).unwrap();
    assert_eq!(large.new_chunk, Some(Chunk { address: BASE + CHUNK_BYTES, bytes: CHUNK_BYTES }));
}
