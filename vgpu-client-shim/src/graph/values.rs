//! Words of device memory that streams write and wait for, one or several at a time; also as a node of a graph.

use std::ffi::c_void;

use cuda_types::wait_value::WaitCondition;
use cuda_types::{CUdeviceptr, CuError, CuResult};
use proto::StreamCalls;

use super::host_value::{self, Word};
use crate::handles::Resolved;
use crate::state::devices;
use crate::{log, managed};
use client::hazards;

/// `CUstreamBatchMemOpParams`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Operation {
    kind: u32,
    /// Of operations that have no address.
    early_flags: u32,
    address: u64,
    value: u64,
    flags: u32,
    alias: u64,
    padding: u64,
}

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeParameters {
    pub(crate) context: u64,
    pub(crate) count: u32,
    pub(crate) operations: *const Operation,
    pub(crate) flags: u32,
}

/// Operations that have been found to be sound.
pub(crate) struct Values {
    ordinal: usize,
    operations: Vec<Operation>,
}

/// `CUstreamBatchMemOpType`
const WAIT_32: u32 = 1;
const WRITE_32: u32 = 2;
const FLUSH_REMOTE_WRITES: u32 = 3;
const WAIT_64: u32 = 4;
const WRITE_64: u32 = 5;
const BARRIER: u32 = 6;
const ATOMIC_REDUCTION: u32 = 8;

/// Only this program writes to the device's memory, and in stream order: there is nothing to flush.
const FLUSH: u32 = WaitCondition::FLUSH;

/// CUDA Driver API, cuStreamBatchMemOp: the most operations.
const MOST: usize = 256;

impl Operation {
    /// A wait for 32 or 64 bits.
    pub(crate) fn wait(address: u64, value: u64, is_whole: bool, flags: u32) -> Operation {
        Operation::new(if is_whole { WAIT_64 } else { WAIT_32 }, address, value, flags)
    }

    /// A write of 32 or 64 bits.
    pub(crate) fn write(address: u64, value: u64, is_whole: bool, flags: u32) -> Operation {
        Operation::new(if is_whole { WRITE_64 } else { WRITE_32 }, address, value, flags)
    }

    fn new(kind: u32, address: u64, value: u64, flags: u32) -> Operation {
        Operation { kind, early_flags: 0, address, value, flags, alias: 0, padding: 0 }
    }

    fn bytes(&self) -> u64 {
        if matches!(self.kind, WAIT_64 | WRITE_64) { 8 } else { 4 }
    }

    /// Refuses what it cannot be, on the device of an ordinal.
    fn check(&self, ordinal: usize) -> CuResult<()> {
        match self.kind {
            WAIT_32 | WAIT_64 if self.flags & !FLUSH <= 3 => {}
            // CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER
            WRITE_32 | WRITE_64 if self.flags <= 1 => {}
            // CU_STREAM_MEMORY_BARRIER_TYPE_SYS, CU_STREAM_MEMORY_BARRIER_TYPE_GPU
            BARRIER if self.early_flags <= 1 => return Ok(()),
            FLUSH_REMOTE_WRITES | ATOMIC_REDUCTION => {
                log::warn(format_args!(
                    "cuStreamBatchMemOp: flushes and atomic reductions are not supported; a kernel can do the latter"
                ));
                return Err(CuError::NOT_SUPPORTED);
            }
            _ => return Err(CuError::INVALID_VALUE),
        }
        if self.address == 0 || !self.address.is_multiple_of(self.bytes()) {
            return Err(CuError::INVALID_VALUE);
        }
        let is_wait = matches!(self.kind, WAIT_32 | WAIT_64);
        let is_managed = managed::ordinal_of(self.address).is_some();
        match devices().holding(self.address) {
            Some(device) if device.ordinal == ordinal && !(is_managed && is_wait) => Ok(()),
            None if self.host_word().is_some() => Ok(()),
            // What the program writes there reaches the device with the next work, which would be behind the wait.
            _ => {
                log::warn(format_args!(
                    "streams write and wait for values in memory of their own device, and in page-locked memory that is not mapped"
                ));
                Err(CuError::NOT_SUPPORTED)
            }
        }
    }

    /// The word, if it is in page-locked memory of this process.
    fn host_word(&self) -> Option<Word> {
        let address = usize::try_from(self.address).ok()?;
        let (start, length) = hazards::registered_range(address)?;
        let bytes = usize::try_from(self.bytes()).ok()?;
        (bytes <= start + length - address).then(|| match bytes {
            4 => Word::Half(address, self.half()),
            _ => Word::Whole(address, self.value),
        })
    }

    fn half(&self) -> u32 {
        u32::try_from(self.value & 0xffff_ffff).unwrap_or(0)
    }

    fn run(&self, target: &Resolved) -> CuResult<()> {
        let (session, stream, address) = (&target.session, target.stream, CUdeviceptr(self.address));
        if self.kind == BARRIER {
            // Work of a stream is ordered as it is.
            return Ok(());
        }
        if devices().holding(self.address).is_none()
            && let Some(word) = self.host_word()
        {
            return match self.kind {
                WAIT_32 | WAIT_64 => host_value::wait(target, word, self.flags),
                _ => host_value::write(target, word),
            };
        }
        match self.kind {
            WAIT_32 | WAIT_64 => session.check_range(address, self.bytes())?,
            _ => session.check_target(address, self.bytes())?,
        }
        match self.kind {
            WAIT_32 => session.cuStreamWaitValue32_v2(stream, address, self.half(), self.flags & !FLUSH),
            WAIT_64 => session.cuStreamWaitValue64_v2(stream, address, self.value, self.flags & !FLUSH),
            WRITE_32 => session.cuStreamWriteValue32_v2(stream, address, self.half(), self.flags),
            _ => session.cuStreamWriteValue64_v2(stream, address, self.value, self.flags),
        }
    }
}

impl Values {
    /// Takes operations for the device of an ordinal.
    pub(crate) fn new(ordinal: usize, operations: Vec<Operation>) -> CuResult<Values> {
        if operations.is_empty() || operations.len() > MOST {
            return Err(CuError::INVALID_VALUE);
        }
        operations.iter().try_for_each(|operation| operation.check(ordinal))?;
        Ok(Values { ordinal, operations })
    }

    /// Reads operations of the program.
    ///
    /// # Safety
    /// `operations` is NULL or has `count` entries.
    pub(crate) unsafe fn read(ordinal: usize, operations: *const c_void, count: u32) -> CuResult<Values> {
        if operations.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        let all = unsafe { std::slice::from_raw_parts(operations.cast::<Operation>(), count as usize) };
        Values::new(ordinal, all.to_vec())
    }

    /// The parameters of a node, which point to what is kept here.
    pub(crate) fn parameters(&self) -> NodeParameters {
        let count = u32::try_from(self.operations.len()).unwrap_or(0);
        NodeParameters { context: 0, count, operations: self.operations.as_ptr(), flags: 0 }
    }

    /// The context that it is for.
    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Does it in the order of `target`'s stream.
    pub(crate) fn run(&self, target: &Resolved) -> CuResult<()> {
        target.session.check()?;
        managed::to_device(target)?;
        self.operations.iter().try_for_each(|operation| operation.run(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!((size_of::<Operation>(), size_of::<NodeParameters>()), (48, 32));
        assert_eq!(std::mem::offset_of!(Operation, value), 16);
        assert_eq!(std::mem::offset_of!(Operation, flags), 24);
        assert_eq!(std::mem::offset_of!(NodeParameters, operations), 16);
    }

    #[test]
    fn operations_that_cannot_be_are_refused() {
        let refused = |operation: Operation| Values::new(0, vec![operation]).err();
        assert_eq!(
            refused(Operation::wait(0x1000, 1, false, 4)),
            Some(CuError::INVALID_VALUE),
            "no condition"
        );
        assert_eq!(refused(Operation::wait(0x1004, 1, true, 0)), Some(CuError::INVALID_VALUE), "not aligned");
        assert_eq!(refused(Operation::write(0x1000, 1, false, 2)), Some(CuError::INVALID_VALUE), "no flag");
        assert_eq!(refused(Operation::new(7, 0x1000, 1, 0)), Some(CuError::INVALID_VALUE), "no operation");
        assert_eq!(refused(Operation::new(BARRIER, 0, 0, 0)), None);
        assert_eq!(Values::new(0, Vec::new()).err(), Some(CuError::INVALID_VALUE));
    }
}
