//! Streams, and what happens in their order beside kernels and copies.

use std::ffi::{c_int, c_uint, c_void};

use cuda_types::{CUdeviceptr, CUevent, CUstream, CuError};

use crate::edge::current;
use crate::entries;
use crate::pointers::Out;

/// `CUstreamCallback`.
type StreamCallback = extern "C" fn(stream: u64, status: u32, data: *mut c_void);
/// `CUhostFn`.
type HostFunction = extern "C" fn(data: *mut c_void);

entries! {
    fn cuStreamCreate(stream: Out<u64>, flags: c_uint) {
        stream.set(current()?.device.cuStreamCreateWithPriority(flags, 0)?.0)
    }

    fn cuStreamCreateWithPriority(stream: Out<u64>, flags: c_uint, priority: c_int) {
        stream.set(current()?.device.cuStreamCreateWithPriority(flags, priority)?.0)
    }

    fn cuStreamDestroy_v2(stream: CUstream) {
        current()?.device.cuStreamDestroy_v2(stream)
    }

    fn cuStreamSynchronize(stream: CUstream) {
        let opened = current()?;
        let done = opened.device.cuStreamSynchronize(stream);
        opened.print();
        done
    }

    fn cuStreamQuery(stream: CUstream) {
        current()?.device.cuStreamQuery(stream)
    }

    fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint) {
        current()?.device.cuStreamWaitEvent(stream, event, flags)
    }

    /// Waits for a word of pinned memory, where host and device have the same addresses, or of device memory.
    fn cuStreamWaitValue32_v2(stream: CUstream, address: u64, value: c_uint, flags: c_uint) {
        let opened = current()?;
        let word = usize::try_from(address).map_err(|_| CuError::INVALID_VALUE)?;
        if !opened.books().is_pinned(word, 4) {
            return opened.device.cuStreamWaitValue32_v2(stream, CUdeviceptr(address), value, flags);
        }
        opened.gates.wait(stream, word, value, flags)
    }

    /// Waits for 64 bits of device memory.
    fn cuStreamWaitValue64_v2(stream: CUstream, address: u64, value: u64, flags: c_uint) {
        current()?.device.cuStreamWaitValue64_v2(stream, CUdeviceptr(address), value, flags)
    }

    fn cuStreamWriteValue32_v2(stream: CUstream, address: u64, value: c_uint, flags: c_uint) {
        current()?.device.cuStreamWriteValue32_v2(stream, CUdeviceptr(address), value, flags)
    }

    fn cuStreamWriteValue64_v2(stream: CUstream, address: u64, value: u64, flags: c_uint) {
        current()?.device.cuStreamWriteValue64_v2(stream, CUdeviceptr(address), value, flags)
    }

    fn cuStreamAddCallback(stream: CUstream, callback: Option<StreamCallback>, data: *mut c_void, flags: c_uint) {
        let callback = callback.filter(|_| flags == 0).ok_or(CuError::INVALID_VALUE)?;
        let data = data.expose_provenance();
        current()?.device.cuStreamAddCallback(
            stream,
            Box::new(move |status| {
                let status = status.err().map_or(0, |error| error.0);
                callback(stream.0, status, std::ptr::with_exposed_provenance_mut(data));
            }),
        )
    }

    fn cuLaunchHostFunc(stream: CUstream, function: Option<HostFunction>, data: *mut c_void) {
        let function = function.ok_or(CuError::INVALID_VALUE)?;
        let data = data.expose_provenance();
        current()?.device.cuStreamAddCallback(
            stream,
            Box::new(move |status| {
                // CUDA Driver API, cuLaunchHostFunc: not called when the context is broken.
                if status.is_ok() {
                    function(std::ptr::with_exposed_provenance_mut(data));
                }
            }),
        )
    }
}
