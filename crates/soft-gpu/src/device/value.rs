//! Words of device memory that streams write and wait for: `cuStreamWriteValue`, `cuStreamWaitValue`.
//!
//! A wait stands in the stream's queue; its thread looks at the word until it is met. The memory stays as long:
//! freeing and unmapping wait for the streams, and a stream of a broken context looks no more.

use std::sync::atomic::Ordering;

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult};

use super::queue::Operation;
use super::{SoftGpu, bytes};

/// A value of one of the two widths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Half(u32),
    Whole(u64),
}

/// `CUstreamWaitValue_flags`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Condition {
    AtLeast,
    Equal,
    CommonBits,
    NotAllBits,
}

/// What a stream waits for. The word was checked when it was made.
pub(crate) struct Awaited {
    address: u64,
    value: Word,
    condition: Condition,
}

/// `CU_STREAM_WAIT_VALUE_FLUSH`: nothing remote writes to this device, so there is nothing to flush.
const FLUSH: u32 = 1 << 30;
/// `CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER`: a permission that is not used.
const NO_MEMORY_BARRIER: u32 = 1;

impl Word {
    fn bytes(self) -> u64 {
        match self {
            Word::Half(_) => 4,
            Word::Whole(_) => 8,
        }
    }
}

impl Condition {
    fn of_flags(flags: u32) -> CuResult<Condition> {
        match flags & !FLUSH {
            0 => Ok(Condition::AtLeast),
            1 => Ok(Condition::Equal),
            2 => Ok(Condition::CommonBits),
            3 => Ok(Condition::NotAllBits),
            _ => Err(CuError::INVALID_VALUE),
        }
    }

    fn is_met_32(self, now: u32, value: u32) -> bool {
        match self {
            // CUDA Driver API, CU_STREAM_WAIT_VALUE_GEQ: a signed difference, so that counters may wrap.
            Condition::AtLeast => now.wrapping_sub(value).cast_signed() >= 0,
            Condition::Equal => now == value,
            Condition::CommonBits => now & value != 0,
            Condition::NotAllBits => !(now | value) != 0,
        }
    }

    fn is_met_64(self, now: u64, value: u64) -> bool {
        match self {
            Condition::AtLeast => now.wrapping_sub(value).cast_signed() >= 0,
            Condition::Equal => now == value,
            Condition::CommonBits => now & value != 0,
            Condition::NotAllBits => !(now | value) != 0,
        }
    }
}

impl Awaited {
    /// Looks at the word.
    pub(crate) fn is_met(&self) -> bool {
        match self.value {
            Word::Half(value) => {
                // SAFETY: checked when it was made, aligned, and it stays while the stream waits (module's text).
                let word = unsafe { bytes::word_32(self.address) };
                self.condition.is_met_32(word.load(Ordering::Acquire), value)
            }
            Word::Whole(value) => {
                // SAFETY: as above.
                let word = unsafe { bytes::word_64(self.address) };
                self.condition.is_met_64(word.load(Ordering::Acquire), value)
            }
        }
    }
}

impl SoftGpu {
    pub(super) fn await_word(
        &self,
        stream: CUstream,
        address: CUdeviceptr,
        value: Word,
        flags: u32,
    ) -> CuResult<()> {
        let condition = Condition::of_flags(flags)?;
        let address = address.0;
        if !address.is_multiple_of(value.bytes()) {
            return Err(CuError::INVALID_VALUE);
        }
        self.memory.check(address, value.bytes())?;
        self.queues.submit(stream, Operation::Value(Awaited { address, value, condition }), true)
    }

    pub(super) fn write_word(
        &self,
        stream: CUstream,
        address: CUdeviceptr,
        value: Word,
        flags: u32,
    ) -> CuResult<()> {
        let address = address.0;
        if flags & !NO_MEMORY_BARRIER != 0 || !address.is_multiple_of(value.bytes()) {
            return Err(CuError::INVALID_VALUE);
        }
        self.memory.check_write(address, value.bytes())?;
        self.work(stream, 8, move || {
            match value {
                // SAFETY: checked above, and it stays until the stream has passed.
                Word::Half(value) => unsafe { bytes::word_32(address) }.store(value, Ordering::Release),
                // SAFETY: as above.
                Word::Whole(value) => unsafe { bytes::word_64(address) }.store(value, Ordering::Release),
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_those_of_the_manual() {
        let met = |flags, now, value| {
            let condition = Condition::of_flags(flags).expect("a condition");
            let whole = condition.is_met_64(now, value);
            let low = |value: u64| u32::try_from(value & 0xffff_ffff).expect("32 bits");
            let half = condition.is_met_32(low(now), low(value));
            (half, whole)
        };
        assert_eq!(met(0, 5, 5), (true, true));
        assert_eq!(met(0, 4, 5), (false, false));
        assert_eq!(met(0, 1, u64::MAX), (true, true), "a counter that has wrapped");
        assert_eq!(met(1 | FLUSH, 6, 5), (false, false));
        assert_eq!(met(2, 0b0110, 0b0010), (true, true));
        assert_eq!(met(2, 0b0100, 0b0010), (false, false));
        assert_eq!(met(3, 0xffff_0000, 0x0000_ffff), (false, true));
        assert_eq!(Condition::of_flags(4), Err(CuError::INVALID_VALUE));
    }
}
