//! Barriers that are objects of 64 bits in shared memory (PTX ISA, "mbarrier").
//!
//! The manual leaves their form open. Here, from the top: one bit is the parity of the phase, 20 bits count the arrivals
//! that are still expected in it, 20 those of every next phase, and the low 23 the bytes that transfers still owe, as a
//! signed number. What `arrive` gives as a state is the object as it was before.
//!
//! All threads of a block run on one CPU thread, so plain reads and writes are atomic enough.

use cuda_types::CuError;

use super::context::ThreadContext;
use super::helpers::fault;

const COUNT_MASK: u64 = (1 << 20) - 1;
const PENDING: u32 = 43;
const EXPECTED: u32 = 23;
const BYTES: u32 = 23;
const PHASE: u64 = 1 << 63;

/// What is done to a barrier. The discriminants are constants in generated code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Act {
    /// `value` arrivals make a phase.
    Init,
    Invalidate,
    /// `value` arrivals.
    Arrive,
    /// `value` arrivals, and as many fewer in every next phase.
    Drop,
    /// `value` bytes more are owed.
    Expect,
    /// `value` bytes have come.
    Complete,
    /// Expects `value` bytes, then arrives once; `Drop` likewise.
    ExpectArrive,
    ExpectDrop,
}

impl Act {
    pub(crate) const ALL: [Self; 8] = [
        Self::Init,
        Self::Invalidate,
        Self::Arrive,
        Self::Drop,
        Self::Expect,
        Self::Complete,
        Self::ExpectArrive,
        Self::ExpectDrop,
    ];
}

/// A barrier's contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Barrier {
    phase: bool,
    pending: u64,
    expected: u64,
    bytes: i64,
}

impl Barrier {
    fn read(word: u64) -> Self {
        Self {
            phase: word & PHASE != 0,
            pending: word >> PENDING & COUNT_MASK,
            expected: word >> EXPECTED & COUNT_MASK,
            bytes: (word << (64 - BYTES)).cast_signed() >> (64 - BYTES),
        }
    }

    fn word(self) -> u64 {
        (if self.phase { PHASE } else { 0 })
            | self.pending << PENDING
            | self.expected << EXPECTED
            | self.bytes.cast_unsigned() & ((1 << BYTES) - 1)
    }

    /// Does it; `None` where the program arrives more often than it said.
    fn act(mut self, act: Act, value: u32) -> Option<Self> {
        let count = u64::from(value);
        match act {
            Act::Init => {
                return Some(Self { phase: false, pending: count, expected: count, bytes: 0 });
            }
            Act::Invalidate => return Some(Self { phase: false, pending: 0, expected: 0, bytes: 0 }),
            Act::Arrive => self.pending = self.pending.checked_sub(count)?,
            Act::Drop => {
                self.pending = self.pending.checked_sub(count)?;
                self.expected = self.expected.checked_sub(count)?;
            }
            Act::Expect => self.bytes += i64::from(value),
            Act::Complete => self.bytes -= i64::from(value),
            Act::ExpectArrive => return self.act(Act::Expect, value)?.act(Act::Arrive, 1),
            Act::ExpectDrop => return self.act(Act::Expect, value)?.act(Act::Drop, 1),
        }
        // Expecting bytes completes nothing by itself: it comes before the arrival that it belongs to.
        if self.pending == 0 && self.bytes == 0 && act != Act::Expect {
            self.phase = !self.phase;
            self.pending = self.expected;
        }
        Some(self)
    }
}

/// Changes the barrier at a checked address, and answers what it was.
pub(crate) unsafe extern "C" fn mbarrier(ctx: *mut ThreadContext, address: u64, act: u32, value: u32) -> u64 {
    let pointer = std::ptr::with_exposed_provenance_mut::<u64>(usize::try_from(address).unwrap_or(0));
    let act = Act::ALL.get(act as usize).copied().unwrap_or(Act::Init);
    // SAFETY: generated code has checked that the address is aligned and in the block's shared memory.
    let old = unsafe { pointer.read() };
    match Barrier::read(old).act(act, value) {
        // SAFETY: as above.
        Some(new) => unsafe { pointer.write(new.word()) },
        // SAFETY: generated code passes its own context.
        None => unsafe { fault(ctx, CuError::LAUNCH_FAILED.0) },
    }
    old
}

/// `mbarrier.pending_count` of a state.
pub(crate) extern "C" fn pending_count(state: u64) -> u32 {
    u32::try_from(Barrier::read(state).pending).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_ends_when_all_have_arrived_and_all_bytes_have_come() {
        let start = Barrier::read(0x1234).act(Act::Init, 2).unwrap();
        assert_eq!(Barrier::read(start.word()), start);
        let one = start.act(Act::ExpectArrive, 64).unwrap();
        assert_eq!((one.phase, one.pending, one.bytes), (false, 1, 64));
        assert_eq!(Barrier::read(one.word()), one);
        let early = one.act(Act::Complete, 100).unwrap();
        assert_eq!(Barrier::read(early.word()).bytes, -36);
        let both = one.act(Act::Arrive, 1).unwrap();
        assert!(!both.phase);
        let next = both.act(Act::Complete, 64).unwrap();
        assert_eq!((next.phase, next.pending, next.bytes), (true, 2, 0));
        let fewer = next.act(Act::Drop, 1).unwrap().act(Act::Arrive, 1).unwrap();
        assert_eq!((fewer.phase, fewer.pending), (false, 1));
        assert_eq!(fewer.act(Act::Arrive, 2), None);
    }
}
