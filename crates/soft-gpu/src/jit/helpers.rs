//! Functions that generated code calls.
//!
//! They run on a coroutine's stack: no panic, nothing with `Drop` and no lock may be alive when one of them suspends.
//! Memory of the device is read through the kernel where an address comes from the program ([`peek`]).

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use cuda_types::CuError;

use super::context::{Reduce, Request, ThreadContext, WarpOp};
use super::numeric::{f16_to_f32, f64_to_bf16, f64_to_f16};
use super::{Exit, printf};

/// Suspends the thread with a request; who resumes it has put the answer into `result`.
///
/// # Safety
/// `ctx` is the running thread's own context.
unsafe fn ask(ctx: *mut ThreadContext, request: Request) -> u64 {
    // SAFETY: the caller's promise; the yielder lives in the coroutine that is running.
    unsafe {
        (*ctx).request = request;
        (*(*ctx).yielder).suspend(());
        (*ctx).result
    }
}

/// Ends the thread, and with a fault the grid. Never returns.
pub(crate) unsafe extern "C" fn fault(ctx: *mut ThreadContext, code: u32) {
    // SAFETY: generated code passes its own context.
    unsafe {
        (*ctx).culprit = (*ctx).at + 1;
        ask(ctx, Request::Leave(Exit::Fault(code)));
    }
}

/// `exit` in a function that was called. Never returns.
pub(crate) unsafe extern "C" fn exit(ctx: *mut ThreadContext) {
    // SAFETY: generated code passes its own context.
    unsafe { ask(ctx, Request::Leave(Exit::Finished)) };
}

/// The cold side of an access check: an address outside the window, or a misaligned one. Returns only if the access
/// may go on. `shape` is the access's bytes, and bit 16 is set for generic addresses.
pub(crate) unsafe extern "C" fn judge(ctx: *mut ThreadContext, address: u64, shape: u64) {
    // SAFETY: generated code passes its own context, whose grid outlives the thread.
    let (thread, grid) = unsafe { (&*ctx, &*(*ctx).grid) };
    let (bytes, generic) = (shape & 0xffff, shape & 0x1_0000 != 0);
    let inside = |base: u64, length: u64| length >= bytes && address.wrapping_sub(base) <= length - bytes;
    let window = grid.limits.window_base;
    let found = inside(window, grid.limits.window_bytes)
        || inside(grid.limits.arena_base, grid.limits.arena_bytes)
        || generic
            && (inside(thread.shared_base, u64::from(thread.shared_bytes))
                || inside(thread.local_base, thread.local_bytes)
                || inside(thread.params, thread.params_bytes)
                || inside(thread.stack_limit, thread.stack_base - thread.stack_limit));
    let aligned = address.is_multiple_of(bytes.next_power_of_two().max(1));
    let code = match (found, aligned) {
        (true, true) => return,
        (true, false) => CuError::MISALIGNED_ADDRESS,
        (false, _) => CuError::ILLEGAL_ADDRESS,
    };
    // SAFETY: as above.
    unsafe { fault(ctx, code.0) };
}

/// The check of an access to the byte. `shape` as for [`judge`].
pub(crate) unsafe extern "C" fn inspect(ctx: *mut ThreadContext, address: u64, shape: u64) {
    // SAFETY: generated code passes its own context.
    unsafe { judge(ctx, address, shape) };
    // SAFETY: generated code passes its own context, whose grid outlives the thread.
    let grid = unsafe { &*(*ctx).grid };
    if !grid.is_allocated(address, shape & 0xffff) {
        // SAFETY: as above.
        unsafe { fault(ctx, CuError::ILLEGAL_ADDRESS.0) };
    }
}

/// The back edge of a loop in which the thread may be waiting for another one.
pub(crate) unsafe extern "C" fn spin(ctx: *mut ThreadContext) {
    // SAFETY: generated code passes its own context.
    unsafe { ask(ctx, Request::Spin) };
}

/// A volatile access to shared memory: lets the other lanes of the warp catch up.
pub(crate) unsafe extern "C" fn step(ctx: *mut ThreadContext) {
    // SAFETY: generated code passes its own context.
    unsafe { ask(ctx, Request::Step) };
}

/// `bar`: `reduce` is 0 for none, else the operation's index plus 1.
pub(crate) unsafe extern "C" fn barrier(
    ctx: *mut ThreadContext,
    id: u32,
    count: u32,
    reduce: u32,
    value: u32,
) -> u64 {
    let reduce =
        reduce.checked_sub(1).and_then(|index| Reduce::ALL.get(index as usize)).map(|op| (*op, value));
    // SAFETY: generated code passes its own context.
    unsafe { ask(ctx, Request::Barrier { id, count, reduce }) }
}

/// `bar.arrive`
pub(crate) unsafe extern "C" fn arrive(ctx: *mut ThreadContext, id: u32, count: u32) {
    // SAFETY: generated code passes its own context.
    unsafe { ask(ctx, Request::Arrive { id, count }) };
}

/// A warp operation; the predicate that comes with it is left in the context.
pub(crate) unsafe extern "C" fn warp(
    ctx: *mut ThreadContext,
    op: u32,
    mask: u32,
    value: u64,
    b: u32,
    c: u32,
) -> u64 {
    let op = WarpOp::ALL.get(op as usize).copied().unwrap_or(WarpOp::Sync);
    // SAFETY: generated code passes its own context.
    unsafe { ask(ctx, Request::Warp { mask, op, value, b, c }) }
}

pub(crate) unsafe extern "C" fn activemask(ctx: *mut ThreadContext, place: u32) -> u64 {
    // SAFETY: generated code passes its own context.
    unsafe { ask(ctx, Request::ActiveMask { place }) }
}

/// Counts nanoseconds: the clock of a device of 1 GHz.
pub(crate) unsafe extern "C" fn clock(ctx: *mut ThreadContext) -> u64 {
    // SAFETY: generated code passes its own context.
    unsafe { globaltimer(ctx) }
}

pub(crate) unsafe extern "C" fn globaltimer(_: *mut ThreadContext) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The memory in which the blocks of a cooperative grid meet.
pub(crate) unsafe extern "C" fn grid_workspace(ctx: *mut ThreadContext) -> u64 {
    // SAFETY: generated code passes its own context, whose grid outlives the thread.
    unsafe { (*(*ctx).grid).workspace() }
}

/// PTX ISA, "prmt": mode 0 is the general form, then f4e, b4e, rc8, ecl, ecr, rc16.
pub(crate) extern "C" fn permute(a: u32, b: u32, selector: u32, mode: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let byte = |index: u32| bytes >> (8 * (index & 7)) & 0xff;
    let control = selector & 3;
    let pick = |position: u32| -> u64 {
        match mode {
            1 => byte(control + position),
            2 => byte(control.wrapping_sub(position)),
            3 => byte(control),
            4 => byte(position.max(control)),
            5 => byte(position.min(control)),
            6 => byte(control % 2 * 2 + position % 2),
            _ => {
                let choice = selector >> (4 * position) & 15;
                let value = byte(choice);
                if choice & 8 == 0 {
                    value
                } else if value & 0x80 != 0 {
                    0xff
                } else {
                    0
                }
            }
        }
    };
    let word = (0..4).fold(0, |word, position| word | pick(position) << (8 * position));
    u32::try_from(word).unwrap_or(0)
}

/// PTX ISA, "fns": the place of the `offset`-th set bit from `base` on, downwards for a negative one; none: all ones.
pub(crate) extern "C" fn nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let set = |place: &u32| mask >> place & 1 == 1;
    let nth = offset.unsigned_abs().saturating_sub(1) as usize;
    let found = match offset {
        0 => Some(base).filter(|place| *place < 32 && set(place)),
        1.. => (base..32).filter(set).nth(nth),
        _ => (0..=base.min(31)).rev().filter(set).nth(nth),
    };
    found.unwrap_or(u32::MAX)
}

/// Atomic operations without an instruction. The discriminants are constants in generated code.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Exchange {
    AddF32,
    AddF64,
    AddF16,
    AddBf16,
    AddF16x2,
    AddBf16x2,
    Inc,
    Dec,
    MinF32,
    MaxF32,
    MinF16,
    MinBf16,
    MinF16x2,
    MinBf16x2,
    MaxF16,
    MaxBf16,
    MaxF16x2,
    MaxBf16x2,
}

/// A sum, or for other codes than those of sums the less or the greater; a NaN loses to a number.
fn half_joined(op: u32, bf16: bool, a: u32, b: u32) -> u32 {
    if op < 10 {
        return half_add(bf16, a, b);
    }
    let wide = |half: u32| if bf16 { f32::from_bits(half << 16) } else { f16_to_f32(half) };
    let (a, b) = (a & 0xffff, b & 0xffff);
    let (x, y) = (wide(a), wide(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => 0x7fff,
        (true, false) => b,
        (false, true) => a,
        // Zeros of both signs: -0 is less.
        _ if x == y => {
            if op < 14 {
                a | b
            } else {
                a & b
            }
        }
        _ => {
            if (x < y) == (op < 14) {
                a
            } else {
                b
            }
        }
    }
}

fn half_add(bf16: bool, a: u32, b: u32) -> u32 {
    let wide = |half: u32| if bf16 { f32::from_bits(half << 16) } else { f16_to_f32(half) };
    let sum = f64::from(wide(a & 0xffff)) + f64::from(wide(b & 0xffff));
    if bf16 { f64_to_bf16(sum, 0) } else { f64_to_f16(sum, 0) }
}

fn exchanged32(op: u32, old: u32, value: u32) -> u32 {
    let (x, y) = (f32::from_bits(old), f32::from_bits(value));
    match op {
        0 => (x + y).to_bits(),
        4 | 5 | 12 | 13 | 16 | 17 => {
            let bf16 = op % 2 == 1;
            half_joined(op, bf16, old, value) | half_joined(op, bf16, old >> 16, value >> 16) << 16
        }
        6 => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        7 => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        8 => x.min(y).to_bits(),
        9 => x.max(y).to_bits(),
        _ => old,
    }
}

/// Changes a word atomically and answers what it was; the address has been checked.
pub(crate) unsafe extern "C" fn exchange(address: u64, value: u64, op: u32) -> u64 {
    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap_or(0));
    match op {
        1 => {
            // SAFETY: the caller checked the address and its alignment; all device accesses to it are atomic or racy
            // by the program's own choice.
            let word = unsafe { AtomicU64::from_ptr(pointer.cast()) };
            let add = |old: u64| (f64::from_bits(old) + f64::from_bits(value)).to_bits();
            update64(word, add)
        }
        2 | 3 | 10 | 11 | 14 | 15 => {
            // SAFETY: as above.
            let word = unsafe { AtomicU16::from_ptr(pointer.cast()) };
            let mut old = word.load(Ordering::SeqCst);
            loop {
                let sum = half_joined(op, op % 2 == 1, u32::from(old), low32(value)) & 0xffff;
                let new = u16::try_from(sum).unwrap_or(0);
                match word.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => return u64::from(old),
                    Err(now) => old = now,
                }
            }
        }
        _ => {
            // SAFETY: as above.
            let word = unsafe { AtomicU32::from_ptr(pointer.cast()) };
            let mut old = word.load(Ordering::SeqCst);
            loop {
                let new = exchanged32(op, old, low32(value));
                match word.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => return u64::from(old),
                    Err(now) => old = now,
                }
            }
        }
    }
}

fn update64(word: &AtomicU64, change: impl Fn(u64) -> u64) -> u64 {
    let mut old = word.load(Ordering::SeqCst);
    loop {
        match word.compare_exchange_weak(old, change(old), Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return old,
            Err(now) => old = now,
        }
    }
}

fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

/// `vprintf(format, arguments)`: answers the number of arguments, or -1.
pub(crate) unsafe extern "C" fn vprintf(ctx: *mut ThreadContext, format: u64, arguments: u64) -> u32 {
    // SAFETY: generated code passes its own context, whose grid outlives the thread.
    let grid = unsafe { &*(*ctx).grid };
    let Some(format) = printf::text(format) else { return u32::MAX };
    let (printed, count) = printf::format(&format, arguments);
    grid.print(&printed);
    count
}

/// `__assertfail`: prints what failed where, and ends the grid.
pub(crate) unsafe extern "C" fn assert_fail(
    ctx: *mut ThreadContext,
    message: u64,
    file: u64,
    line: u32,
    function: u64,
) {
    // SAFETY: generated code passes its own context, whose grid outlives the thread.
    let (thread, grid) = unsafe { (&*ctx, &*(*ctx).grid) };
    {
        let text = |address| String::from_utf8_lossy(&printf::text(address).unwrap_or_default()).into_owned();
        let ([bx, by, bz], [tx, ty, tz]) = (thread.ctaid, thread.tid);
        let line = format!(
            "{}:{line}: {}: block: [{bx},{by},{bz}], thread: [{tx},{ty},{tz}] Assertion `{}` failed.\n",
            text(file),
            text(function),
            text(message)
        );
        grid.print(line.as_bytes());
    }
    // SAFETY: as above.
    unsafe { fault(ctx, CuError::ASSERT.0) };
}

/// Device `malloc`; 0 when the heap is full.
pub(crate) unsafe extern "C" fn malloc(ctx: *mut ThreadContext, bytes: u64) -> u64 {
    // SAFETY: generated code passes its own context, whose grid outlives the thread.
    unsafe { (*(*ctx).grid).malloc(bytes) }
}

/// Device `free`.
pub(crate) unsafe extern "C" fn free(ctx: *mut ThreadContext, address: u64) {
    if address != 0 {
        // SAFETY: generated code passes its own context, whose grid outlives the thread.
        unsafe { (*(*ctx).grid).arena.free(address) };
    }
}
