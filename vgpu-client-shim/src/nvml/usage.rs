//! What is used of a device: memory and processes, as far as this process knows.
//!
//! A device's memory is counted by its driver, so asking costs a context on the server, as a process of `nvidia-smi` on
//! that machine would not; a program that uses CUDA has one anyway. Processes of other clients are not told.

use proto::MemoryCalls;

use super::{NvmlError, Outcome, device, entries, reached, room};
use crate::edge::Out;
use crate::state::Device;

entries! {
    /// Bytes of memory: all, free, used.
    fn nvmlDeviceGetMemoryInfo(handle: u64, memory: Out<'_, Memory>) {
        let memory = room(memory)?;
        let (free, total) = bytes(device(handle)?)?;
        memory.write(Memory { total, free, used: total - free });
        Ok(())
    }

    /// Bytes of memory: all, held by the driver, free, used. What the driver holds counts as used here.
    fn nvmlDeviceGetMemoryInfo_v2(handle: u64, memory: Option<&mut Memory2>) {
        let memory = memory.ok_or(NvmlError::INVALID_ARGUMENT)?;
        if memory.version != MEMORY_2 {
            return Err(NvmlError::ARGUMENT_VERSION_MISMATCH);
        }
        let (free, total) = bytes(device(handle)?)?;
        *memory = Memory2 { version: MEMORY_2, total, reserved: 0, free, used: total - free };
        Ok(())
    }

    /// The processes that compute on a device: this one, if it does.
    fn nvmlDeviceGetComputeRunningProcesses(handle: u64, count: Option<&mut u32>, processes: *mut Process1) {
        let own = |pid, bytes| Process1 { pid, bytes };
        list(device(handle)?, count, processes, own)
    }

    /// The processes that compute on a device: this one, if it does.
    fn nvmlDeviceGetComputeRunningProcesses_v2(handle: u64, count: Option<&mut u32>, processes: *mut Process) {
        list(device(handle)?, count, processes, Process::new)
    }

    /// The processes that compute on a device: this one, if it does.
    fn nvmlDeviceGetComputeRunningProcesses_v3(handle: u64, count: Option<&mut u32>, processes: *mut Process) {
        list(device(handle)?, count, processes, Process::new)
    }

    /// The processes that draw with a device: none, a remote device does not draw here.
    fn nvmlDeviceGetGraphicsRunningProcesses(handle: u64, count: Option<&mut u32>, _processes: *mut Process1) {
        none(handle, count)
    }

    /// The processes that draw with a device: none, a remote device does not draw here.
    fn nvmlDeviceGetGraphicsRunningProcesses_v2(handle: u64, count: Option<&mut u32>, _processes: *mut Process) {
        none(handle, count)
    }

    /// The processes that draw with a device: none, a remote device does not draw here.
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(handle: u64, count: Option<&mut u32>, _processes: *mut Process) {
        none(handle, count)
    }

    /// The processes behind NVIDIA's multi-process service: none.
    fn nvmlDeviceGetMPSComputeRunningProcesses(handle: u64, count: Option<&mut u32>, _processes: *mut Process1) {
        none(handle, count)
    }

    /// The processes behind NVIDIA's multi-process service: none.
    fn nvmlDeviceGetMPSComputeRunningProcesses_v2(handle: u64, count: Option<&mut u32>, _processes: *mut Process) {
        none(handle, count)
    }

    /// The processes behind NVIDIA's multi-process service: none.
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(handle: u64, count: Option<&mut u32>, _processes: *mut Process) {
        none(handle, count)
    }
}

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory2 {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `NVML_STRUCT_VERSION(Memory, 2)`: size and version.
const MEMORY_2: u32 = 40 | 2 << 24;

/// `nvmlProcessInfo_v1_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process1 {
    pid: u32,
    bytes: u64,
}

/// `nvmlProcessInfo_v2_t` and `nvmlProcessInfo_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: u32,
    bytes: u64,
    /// Parts of a device: none.
    gpu_instance: u32,
    compute_instance: u32,
}

impl Process {
    fn new(pid: u32, bytes: u64) -> Process {
        Process { pid, bytes, gpu_instance: u32::MAX, compute_instance: u32::MAX }
    }
}

/// Free bytes and all.
fn bytes(device: &Device) -> Outcome<(u64, u64)> {
    let session = match device.open_session() {
        Some(session) => session,
        None => reached(device.session())?,
    };
    reached(session.cuMemGetInfo_v2())
}

/// Lists this process if it has a context on the device.
fn list<T>(device: &Device, count: Option<&mut u32>, room: *mut T, own: impl Fn(u32, u64) -> T) -> Outcome {
    let count = count.ok_or(NvmlError::INVALID_ARGUMENT)?;
    let given = std::mem::replace(count, u32::from(device.open_session().is_some()));
    if *count == 0 {
        return Ok(());
    }
    // NVML Reference, nvmlDeviceGetComputeRunningProcesses: asked with no room, it says how much is needed.
    if given == 0 || room.is_null() {
        return Err(NvmlError::INSUFFICIENT_SIZE);
    }
    let (free, total) = bytes(device)?;
    // SAFETY: the caller's array has room for `given` entries (module doc of `edge`).
    unsafe { room.write(own(std::process::id(), total - free)) };
    Ok(())
}

fn none(handle: u64, count: Option<&mut u32>) -> Outcome {
    device(handle)?;
    *count.ok_or(NvmlError::INVALID_ARGUMENT)? = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!((size_of::<Memory>(), size_of::<Memory2>()), (24, 40));
        assert_eq!((size_of::<Process1>(), size_of::<Process>()), (16, 24));
    }
}
