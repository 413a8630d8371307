//! Any bytes decode to an error or a value: no panic, no unbounded memory, no endless loop.

use fatbin::cubin::elf_len;
use fatbin::{Cubin, Fatbin, Image, MAX_IMAGE_BYTES};
use proptest::collection::vec;
use proptest::prelude::*;

const SEEDS: [&[u8]; 6] = [
    include_bytes!("fixtures/zstd.fatbin"),
    include_bytes!("fixtures/lz4.fatbin"),
    include_bytes!("fixtures/stored.fatbin"),
    include_bytes!("fixtures/many.fatbin"),
    include_bytes!("fixtures/sm_90.cubin"),
    include_bytes!("fixtures/sm_100.cubin"),
];

fn read_everything(bytes: &[u8]) {
    let mut elves: Vec<Vec<u8>> = vec![bytes.to_vec()];
    if let Ok(fatbin) = Fatbin::parse(bytes) {
        for entry in fatbin.entries() {
            if let Ok(payload) = entry.payload() {
                assert_eq!(payload.len() as u64, entry.unpacked_bytes());
                assert!(payload.len() as u64 <= MAX_IMAGE_BYTES.max(bytes.len() as u64));
                elves.push(payload.into_owned());
            }
            let _ = (entry.ptx(), entry.name(), entry.options());
        }
        for capability in [0, 75, 90, u32::MAX] {
            let _ = (fatbin.best_ptx(capability), fatbin.best_elf(capability));
        }
    }
    for elf in elves {
        if let Ok(cubin) = Cubin::parse(&elf) {
            assert!(cubin.kernels.is_sorted_by(|a, b| a.name <= b.name));
        }
        let _ = (Image::classify(&elf), elf_len(&elf));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_answered(bytes in vec(any::<u8>(), 0..600)) {
        read_everything(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_magic_number_are_answered(bytes in vec(any::<u8>(), 0..600)) {
        let mut fatbin = vec![0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0];
        fatbin.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        fatbin.extend_from_slice(&bytes);
        read_everything(&fatbin);
        let mut elf = SEEDS[4][..64].to_vec();
        elf.extend_from_slice(&bytes);
        read_everything(&elf);
    }

    #[test]
    fn changed_files_are_answered(
        seed in 0..SEEDS.len(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = SEEDS[seed].to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_everything(&bytes);
    }

    // Header fields matter most: there a change has the widest effect.
    #[test]
    fn changed_headers_are_answered(seed in 0..SEEDS.len(), changes in vec((0usize..160, any::<u8>()), 1..6)) {
        let mut bytes = SEEDS[seed].to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        read_everything(&bytes);
    }
}
