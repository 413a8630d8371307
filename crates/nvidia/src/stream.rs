//! Streams, and the callbacks that run when a stream arrives at them.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_types::{CUdeviceptr, CUevent, CUstream, CuResult};
use proto::StreamCalls;
use proto::device::Callback;

use crate::api::{call, check};
use crate::device::NvidiaGpu;

impl NvidiaGpu {
    /// `cuStreamAddCallback` and not `cuLaunchHostFunc`: only the former runs when the context is broken.
    pub(crate) fn add_callback(&self, stream: CUstream, callback: Callback) -> CuResult<()> {
        let api = self.enter()?;
        let data: *mut Callback = Box::into_raw(Box::new(callback));
        // SAFETY: `data` stays until `run_callback` takes it, which the driver calls exactly once.
        let added = unsafe { call!(api, cuStreamAddCallback(stream.0, run_callback, data.cast(), 0)) };
        if added.is_err() {
            // SAFETY: the driver has not taken the callback, so it is ours to free.
            drop(unsafe { Box::from_raw(data) });
        }
        added
    }
}

unsafe extern "C" fn run_callback(_stream: u64, status: u32, data: *mut c_void) {
    // SAFETY: `data` is the box that `add_callback` gave to the driver; this is its only call.
    let callback: Box<Callback> = unsafe { Box::from_raw(data.cast()) };
    // Nothing may unwind into the driver. The hook has printed what happened.
    let _ = catch_unwind(AssertUnwindSafe(|| callback(check(status))));
}

impl StreamCalls for NvidiaGpu {
    fn cuStreamCreateWithPriority(&self, flags: u32, priority: i32) -> CuResult<CUstream> {
        let api = self.enter()?;
        let mut stream = 0;
        // SAFETY: `stream` is writable.
        unsafe { call!(api, cuStreamCreateWithPriority(&raw mut stream, flags, priority)) }?;
        Ok(CUstream(stream))
    }

    fn cuStreamDestroy_v2(&self, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the session hands out each stream once for its end.
        unsafe { call!(api, cuStreamDestroy_v2(stream.0)) }
    }

    fn cuStreamSynchronize(&self, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the stream is one that this device made, or a default stream.
        unsafe { call!(api, cuStreamSynchronize(stream.0)) }
    }

    fn cuStreamQuery(&self, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: as in `cuStreamSynchronize`.
        unsafe { call!(api, cuStreamQuery(stream.0)) }
    }

    fn cuStreamWaitEvent(&self, stream: CUstream, event: CUevent, flags: u32) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: stream and event were made by this device.
        unsafe { call!(api, cuStreamWaitEvent(stream.0, event.0, flags)) }
    }

    fn cuStreamWaitValue32_v2(
        &self,
        stream: CUstream,
        addr: CUdeviceptr,
        value: u32,
        flags: u32,
    ) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: as in `cuStreamSynchronize`; addresses are only used by the device.
        unsafe { call!(api, cuStreamWaitValue32_v2(stream.0, addr.0, value, flags)) }
    }

    fn cuStreamWaitValue64_v2(
        &self,
        stream: CUstream,
        addr: CUdeviceptr,
        value: u64,
        flags: u32,
    ) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: as above.
        unsafe { call!(api, cuStreamWaitValue64_v2(stream.0, addr.0, value, flags)) }
    }

    fn cuStreamWriteValue32_v2(
        &self,
        stream: CUstream,
        addr: CUdeviceptr,
        value: u32,
        flags: u32,
    ) -> CuResult<()> {
        let api = self.enter()?;
        // The second version of the call knows no permission to do without its barrier.
        // SAFETY: as above.
        unsafe { call!(api, cuStreamWriteValue32_v2(stream.0, addr.0, value, flags & !NO_MEMORY_BARRIER)) }
    }

    fn cuStreamWriteValue64_v2(
        &self,
        stream: CUstream,
        addr: CUdeviceptr,
        value: u64,
        flags: u32,
    ) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: as above.
        unsafe { call!(api, cuStreamWriteValue64_v2(stream.0, addr.0, value, flags & !NO_MEMORY_BARRIER)) }
    }
}

/// `CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER`
const NO_MEMORY_BARRIER: u32 = 1;
