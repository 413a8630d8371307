//! What a worker needs of a device beside the calls of the table: host memory it can stage in, signals, facts.

use std::os::fd::OwnedFd;

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult, HostSpan};

use crate::calls::Driver;
use crate::facts::DeviceFacts;

/// Runs once when a stream arrives where it was put; gets the error if the context is broken. It must not block, and
/// of the device it may call `gate_open` alone.
pub type Callback = Box<dyn FnOnce(CuResult<()>) + Send>;

/// The pieces in which device memory is given to a network adapter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetworkUnit {
    /// What `vgpuMemMap` maps.
    Chunk,
    /// What `cuMemAlloc` gives: what is not allocated is not accessible.
    Allocation,
}

/// Device memory that a network adapter can be given.
#[derive(Debug)]
pub enum NetworkMemory {
    /// Addresses that the kernel can resolve: memory of this process, or a GPU's with nvidia-peermem.
    Mapped(HostSpan),
    /// A dma-buf, and where the memory begins in it.
    DmaBuf { descriptor: OwnedFd, offset: u64 },
}

/// A device behind a worker: the calls of the table plus what the worker builds transfers from.
///
/// Any thread may call any method; calls that a thread makes one after the other take effect in that order. Streams,
/// events, modules and functions are the device's own handles here, never the client's names.
pub trait Device: Driver + Send + Sync {
    /// The device's description. Needs no context.
    fn facts(&self) -> CuResult<DeviceFacts>;

    /// Reserves `bytes` of device address space at exactly `base`, for the chunks that `vgpuMemMap` maps.
    /// `MAP_FAILED` when something lies there: the caller proposes another place.
    fn reserve_window(&self, base: u64, bytes: u64) -> CuResult<()>;

    /// Pinned host memory that the device copies from and to quickly; lives as long as the device.
    fn staging(&self, bytes: usize) -> CuResult<HostSpan>;

    /// `cuMemcpyHtoDAsync_v2`: copies pinned host memory to the device in stream order. The span stays untouched
    /// until the stream has passed.
    fn cuMemcpyHtoDAsync_v2(&self, dst: CUdeviceptr, src: HostSpan, stream: CUstream) -> CuResult<()>;

    /// `cuMemcpyDtoHAsync_v2`: copies device memory to pinned host memory in stream order.
    fn cuMemcpyDtoHAsync_v2(&self, dst: HostSpan, src: CUdeviceptr, stream: CUstream) -> CuResult<()>;

    /// `cuStreamAddCallback`: runs `callback` when the stream arrives here, always, with the context's error if it
    /// has one by then. Later work of the stream waits until the callback has returned.
    fn cuStreamAddCallback(&self, stream: CUstream, callback: Callback) -> CuResult<()>;

    /// Makes a closed gate. Cheap; gates are reused only by the device itself.
    fn gate_create(&self) -> CuResult<u64>;

    /// Later work of the stream waits until the gate is open.
    fn gate_wait(&self, gate: u64, stream: CUstream) -> CuResult<()>;

    /// Opens a gate: streams waiting at it go on, later waits pass at once. Never blocks.
    fn gate_open(&self, gate: u64) -> CuResult<()>;

    /// Ends a gate that is open and at which no stream waits any more.
    fn gate_destroy(&self, gate: u64);

    /// The stream that does not synchronize with the default streams, for the worker's own copies.
    fn helper_stream(&self) -> CuResult<CUstream>;

    /// The pieces for [`network_memory`](Device::network_memory).
    fn network_unit(&self) -> NetworkUnit {
        NetworkUnit::Chunk
    }

    /// Device memory as a network adapter can reach it (GPUDirect RDMA): one whole [`NetworkUnit`]. What is answered stays
    /// valid until that is freed or unmapped.
    fn network_memory(&self, address: u64, bytes: u64) -> CuResult<NetworkMemory> {
        let _ = (address, bytes);
        Err(CuError::NOT_SUPPORTED)
    }

    /// Hands out what kernels have printed so far, when the device keeps it itself.
    fn take_printed(&self) -> Vec<u8> {
        Vec::new()
    }
}
