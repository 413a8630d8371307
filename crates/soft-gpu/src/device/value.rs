//! Words of device memory that streams write and wait for: `cuStreamWriteValue`, `cuStreamWaitValue`.
//!
//! A wait stands in the stream's queue; its thread looks at the word until it is met. The memory stays as long:
//! freeing and unmapping wait for the streams, and a stream of a broken context looks no more.

use std::sync::atomic::Ordering;

use cuda_types::wait_value::WaitCondition;
use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult};

use super::queue::Operation;
use super::{SoftGpu, bytes};

/// A value of one of the two widths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Half(u32),
    Whole(u64),
}

/// What a stream waits for. The word was checked when it was made.
pub(crate) struct Awaited {
    address: u64,
    value: Word,
    condition: WaitCondition,
}

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
        // Nothing remote writes to this device, so there is nothing to flush.
        let condition = WaitCondition::of_flags(flags)?;
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
