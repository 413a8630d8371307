//! When a stream goes on that waits for a word of memory: `CUstreamWaitValue_flags`.

use crate::{CuError, CuResult};

/// What is asked of the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitCondition {
    AtLeast,
    Equal,
    CommonBits,
    NotAllBits,
}

impl WaitCondition {
    /// `CU_STREAM_WAIT_VALUE_FLUSH`, which stands beside a condition.
    pub const FLUSH: u32 = 1 << 30;

    /// The condition of the flags of a call.
    pub fn of_flags(flags: u32) -> CuResult<WaitCondition> {
        match flags & !WaitCondition::FLUSH {
            0 => Ok(WaitCondition::AtLeast),
            1 => Ok(WaitCondition::Equal),
            2 => Ok(WaitCondition::CommonBits),
            3 => Ok(WaitCondition::NotAllBits),
            _ => Err(CuError::INVALID_VALUE),
        }
    }

    /// Whether the word `now` meets it.
    pub fn is_met_32(self, now: u32, value: u32) -> bool {
        match self {
            // CUDA Driver API, CU_STREAM_WAIT_VALUE_GEQ: a signed difference, so that counters may wrap.
            WaitCondition::AtLeast => now.wrapping_sub(value).cast_signed() >= 0,
            WaitCondition::Equal => now == value,
            WaitCondition::CommonBits => now & value != 0,
            WaitCondition::NotAllBits => !(now | value) != 0,
        }
    }

    /// As [`is_met_32`](WaitCondition::is_met_32), for 64 bits.
    pub fn is_met_64(self, now: u64, value: u64) -> bool {
        match self {
            WaitCondition::AtLeast => now.wrapping_sub(value).cast_signed() >= 0,
            WaitCondition::Equal => now == value,
            WaitCondition::CommonBits => now & value != 0,
            WaitCondition::NotAllBits => !(now | value) != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_those_of_the_manual() {
        let met = |flags, now: u64, value: u64| {
            let condition = WaitCondition::of_flags(flags).expect("a condition");
            let low = |value: u64| u32::try_from(value & 0xffff_ffff).expect("32 bits");
            (condition.is_met_32(low(now), low(value)), condition.is_met_64(now, value))
        };
        assert_eq!(met(0, 5, 5), (true, true));
        assert_eq!(met(0, 4, 5), (false, false));
        assert_eq!(met(0, 1, u64::MAX), (true, true), "a counter that has wrapped");
        assert_eq!(met(1 | WaitCondition::FLUSH, 6, 5), (false, false));
        assert_eq!(met(2, 0b0110, 0b0010), (true, true));
        assert_eq!(met(2, 0b0100, 0b0010), (false, false));
        assert_eq!(met(3, 0xffff_0000, 0x0000_ffff), (false, true));
        assert_eq!(WaitCondition::of_flags(4), Err(CuError::INVALID_VALUE));
    }
}
