//! What is used of a device: memory, time and processes, as far as server and clients know.
//!
//! Where this process has a context, the device's driver is asked for the memory; else, and for everything else, the server,
//! which knows what its clients use and needs no context to tell. A server of an older release tells nothing: then memory
//! costs a context, and this process is the only one.

use proto::MemoryCalls;
use proto::handshake::Status;

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

    /// Percent of the last second in which calls were being made. How busy the memory was nobody knows: 0.
    fn nvmlDeviceGetUtilizationRates(handle: u64, rates: Out<'_, Utilization>) {
        let rates = room(rates)?;
        let status = device(handle)?.status().ok_or(NvmlError::NOT_SUPPORTED)?;
        let gpu = u32::from(status.utilization_percent.ok_or(NvmlError::NOT_SUPPORTED)?);
        rates.write(Utilization { gpu, memory: 0 });
        Ok(())
    }

    /// The processes that compute on a device, of all clients; their numbers are those on their own machines.
    fn nvmlDeviceGetComputeRunningProcesses(handle: u64, count: Option<&mut u32>, processes: *mut Process1) {
        list(device(handle)?, count, processes, |pid, bytes| Process1 { pid, bytes })
    }

    /// The processes that compute on a device, of all clients; their numbers are those on their own machines.
    fn nvmlDeviceGetComputeRunningProcesses_v2(handle: u64, count: Option<&mut u32>, processes: *mut Process) {
        list(device(handle)?, count, processes, Process::new)
    }

    /// The processes that compute on a device, of all clients; their numbers are those on their own machines.
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

/// `nvmlUtilization_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Utilization {
    gpu: u32,
    memory: u32,
}

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

/// Free bytes, and all, which are no less.
fn bytes(device: &Device) -> Outcome<(u64, u64)> {
    let told = |(free, total): (u64, u64)| (free.min(total), total);
    if let Some(session) = device.open_session() {
        return reached(session.cuMemGetInfo_v2()).map(told);
    }
    match device.status() {
        Some(Status { total_memory, used_bytes: Some(used), .. }) => {
            Ok((total_memory.saturating_sub(used), total_memory))
        }
        _ => reached(reached(device.session())?.cuMemGetInfo_v2()).map(told),
    }
}

/// Lists the processes that have a context on the device.
fn list<T>(device: &Device, count: Option<&mut u32>, room: *mut T, entry: impl Fn(u32, u64) -> T) -> Outcome {
    let count = count.ok_or(NvmlError::INVALID_ARGUMENT)?;
    let all = processes(device);
    let given = std::mem::replace(count, u32::try_from(all.len()).unwrap_or(u32::MAX));
    if all.is_empty() {
        return Ok(());
    }
    // NVML Reference, nvmlDeviceGetComputeRunningProcesses: with too little room it says how much is needed.
    if given < *count || room.is_null() {
        return Err(NvmlError::INSUFFICIENT_SIZE);
    }
    for (place, (pid, bytes)) in all.into_iter().enumerate() {
        // SAFETY: the caller's array has room for `given` entries (module doc of `edge`), and there are no more.
        unsafe { room.add(place).write(entry(pid, bytes)) };
    }
    Ok(())
}

/// Processes with their bytes, as far as the clients have told who they are; with an older server this process alone.
fn processes(device: &Device) -> Vec<(u32, u64)> {
    if let Some(status) = device.status() {
        let told = |bytes: Option<u64>| bytes.unwrap_or(NOT_AVAILABLE);
        let clients = status.clients.iter();
        return clients.filter_map(|client| Some((client.process?, told(client.used_bytes)))).collect();
    }
    let own = device.open_session().map(|session| {
        let bytes =
            session.cuMemGetInfo_v2().map_or(NOT_AVAILABLE, |(free, total)| total.saturating_sub(free));
        (std::process::id(), bytes)
    });
    own.into_iter().collect()
}

/// `NVML_VALUE_NOT_AVAILABLE`.
const NOT_AVAILABLE: u64 = u64::MAX;

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
        assert_eq!((size_of::<Process1>(), size_of::<Process>(), size_of::<Utilization>()), (16, 24, 8));
    }
}
