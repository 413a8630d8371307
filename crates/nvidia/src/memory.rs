//! Device memory: chunks of the client's window, copies, settings.
//!
//! A chunk is one physical allocation, mapped where the client wants it. Its handle is released at once: the driver
//! keeps the memory until it is unmapped, so there is nothing to remember here. Physical memory that the program
//! itself makes has handles, known by the client's numbers.

use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::null_mut;

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult, HostSpan};
use proto::MemoryCalls;
use proto::device::NetworkMemory;
use proto::param::Copy2D;

use crate::api::{AccessDesc, AllocationProp, Memcpy2D, call};
use crate::device::{NvidiaGpu, lock};

impl NvidiaGpu {
    /// Reserves addresses at exactly `base`.
    pub(crate) fn reserve(&self, base: u64, bytes: u64) -> CuResult<()> {
        let api = self.enter()?;
        let bytes = size(bytes)?;
        let mut address = 0;
        // SAFETY: `address` is writable; the hint may be refused.
        unsafe { call!(api, cuMemAddressReserve(&raw mut address, bytes, 0, base, 0)) }?;
        if address == base {
            return Ok(());
        }
        // SAFETY: the range was reserved just now and nothing lies in it.
        unsafe { call!(api, cuMemAddressFree(address, bytes)) }?;
        Err(CuError::MAP_FAILED)
    }

    /// Pinned host memory, seen by the device as well. It is never freed.
    pub(crate) fn pinned(&self, bytes: usize) -> CuResult<HostSpan> {
        let api = self.enter()?;
        let mut memory = null_mut();
        // SAFETY: `memory` is writable.
        unsafe { call!(api, cuMemHostAlloc(&raw mut memory, bytes, HOST_PORTABLE | HOST_DEVICE_MAP)) }?;
        memory.expose_provenance();
        // SAFETY: the driver keeps the memory until the process ends, because it is never freed.
        Ok(unsafe { HostSpan::new(memory.cast(), bytes) })
    }

    /// Physical memory of this device; its handle.
    fn create(&self, bytes: usize) -> CuResult<u64> {
        let api = self.enter()?;
        let rdma = self.attribute(GPU_DIRECT_RDMA_WITH_VMM).is_some_and(|value| value != 0);
        let prop = AllocationProp {
            kind: ALLOCATION_PINNED,
            handle_types: 0,
            location_kind: LOCATION_DEVICE,
            location_id: self.location(),
            win32: null_mut(),
            compression: 0,
            gpu_direct_rdma: u8::from(rdma),
            usage: 0,
            reserved: [0; 4],
        };
        let mut handle = 0;
        // SAFETY: `handle` is writable and `prop` is readable.
        unsafe { call!(api, cuMemCreate(&raw mut handle, bytes, &raw const prop, 0)) }?;
        Ok(handle)
    }

    /// Sets what this device may do with mapped memory.
    fn set_access(&self, address: u64, bytes: usize, flags: c_int) -> CuResult<()> {
        let api = self.enter()?;
        let access = AccessDesc { location_kind: LOCATION_DEVICE, location_id: self.location(), flags };
        // SAFETY: `access` is one readable description; what is not mapped is an error.
        unsafe { call!(api, cuMemSetAccess(address, bytes, &raw const access, 1)) }
    }

    /// The driver's handle of physical memory.
    fn physical(&self, number: u64) -> CuResult<u64> {
        lock(&self.physical).get(&number).copied().ok_or(CuError::INVALID_HANDLE)
    }

    fn map(&self, address: u64, bytes: usize) -> CuResult<()> {
        let api = self.enter()?;
        let handle = self.create(bytes)?;
        // SAFETY: the handle was made just now; a range that is not free is an error.
        let mapped = unsafe { call!(api, cuMemMap(address, bytes, 0, handle, 0)) };
        // SAFETY: the handle is released once; the memory stays as long as it is mapped.
        let released = unsafe { call!(api, cuMemRelease(handle)) };
        mapped.and(released)?;
        self.set_access(address, bytes, READ_WRITE).inspect_err(|_| {
            // SAFETY: the range was mapped above and nothing uses it yet.
            let _ = unsafe { call!(api, cuMemUnmap(address, bytes)) };
        })
    }
}

impl NvidiaGpu {
    /// A mapped chunk as a dma-buf, or by its address where nvidia-peermem resolves that.
    pub(crate) fn exported(&self, address: u64, bytes: u64) -> CuResult<NetworkMemory> {
        let api = self.enter()?;
        let length = size(bytes)?;
        if self.attribute(DMA_BUF_SUPPORTED).is_some_and(|value| value != 0) {
            let mut descriptor = -1_i32;
            let handle = (&raw mut descriptor).cast();
            // SAFETY: `handle` is writable, and a descriptor is what this kind of handle is; a bad range is an error.
            let exported =
                unsafe { call!(api, cuMemGetHandleForAddressRange(handle, address, length, DMA_BUF_FD, 0)) };
            if exported.is_ok() && descriptor >= 0 {
                // SAFETY: made for us just now, so it is ours to close.
                let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
                return Ok(NetworkMemory::DmaBuf { descriptor, offset: 0 });
            }
        }
        if !std::path::Path::new("/sys/module/nvidia_peermem").exists() {
            return Err(CuError::NOT_SUPPORTED);
        }
        let pointer = std::ptr::without_provenance(size(address)?);
        // SAFETY: named for the kernel alone, which resolves it while the chunk is mapped; nobody reads through it.
        Ok(NetworkMemory::Mapped(unsafe { HostSpan::new(pointer, length) }))
    }
}

impl MemoryCalls for NvidiaGpu {
    fn vgpuMemMap(&self, address: u64, bytes: u64) -> CuResult<()> {
        self.map(address, size(bytes)?)
    }

    fn vgpuMemUnmap(&self, address: u64, bytes: u64) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: what is not a whole mapping of ours is an error; addresses are only used by the device.
        unsafe { call!(api, cuMemUnmap(address, size(bytes)?)) }
    }

    /// The chunk is there already, so this only says where an allocation lies; bounds are the client's to check.
    fn cuMemAlloc_v2(&self, dptr: CUdeviceptr, bytesize: u64) -> CuResult<()> {
        if bytesize == 0 || dptr.0.checked_add(bytesize).is_none() {
            return Err(CuError::INVALID_VALUE);
        }
        Ok(())
    }

    fn cuMemFree_v2(&self, _dptr: CUdeviceptr) -> CuResult<()> {
        let api = self.enter()?;
        // CUDA Driver API, cuMemFree: the memory may be used again only when no work uses it any more.
        // SAFETY: takes nothing.
        unsafe { call!(api, cuCtxSynchronize()) }
    }

    fn cuMemGetInfo_v2(&self) -> CuResult<(u64, u64)> {
        let api = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are writable.
        unsafe { call!(api, cuMemGetInfo_v2(&raw mut free, &raw mut total)) }?;
        Ok((free as u64, total as u64))
    }

    fn vgpuMemCreate(&self, physical: u64, bytes: u64) -> CuResult<()> {
        let handle = self.create(size(bytes)?)?;
        lock(&self.physical).insert(physical, handle);
        Ok(())
    }

    fn vgpuMemRelease(&self, physical: u64) -> CuResult<()> {
        let api = self.enter()?;
        let handle = lock(&self.physical).remove(&physical).ok_or(CuError::INVALID_HANDLE)?;
        // SAFETY: released once; the memory stays as long as it is mapped.
        unsafe { call!(api, cuMemRelease(handle)) }
    }

    fn vgpuMemMapPhysical(&self, address: u64, bytes: u64, offset: u64, physical: u64) -> CuResult<()> {
        let api = self.enter()?;
        let handle = self.physical(physical)?;
        // SAFETY: the handle is one of ours; a range that is not free or not there is an error.
        unsafe { call!(api, cuMemMap(address, size(bytes)?, size(offset)?, handle, 0)) }
    }

    fn vgpuMemUnmapPhysical(&self, address: u64, bytes: u64) -> CuResult<()> {
        let api = self.enter()?;
        // CUDA Driver API, cuMemUnmap: no work may use the range any more.
        // SAFETY: takes nothing.
        let done = unsafe { call!(api, cuCtxSynchronize()) };
        // SAFETY: what is not made up of whole mappings is an error; addresses are only used by the device.
        unsafe { call!(api, cuMemUnmap(address, size(bytes)?)) }?;
        done
    }

    fn vgpuMemSetAccess(&self, address: u64, bytes: u64, access: u32) -> CuResult<()> {
        self.set_access(address, size(bytes)?, c_int::try_from(access).map_err(|_| CuError::INVALID_VALUE)?)
    }

    fn cuMemcpyHtoD_v2(&self, dst: CUdeviceptr, src: &[u8], stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: `src` is readable for its length. CUDA Runtime API, "API synchronization behavior": pageable bytes
        // are captured before an asynchronous copy returns.
        unsafe { call!(api, cuMemcpyHtoDAsync_v2(dst.0, src.as_ptr().cast(), src.len(), stream.0)) }
    }

    fn cuMemcpyDtoH_v2(&self, src: CUdeviceptr, bytes: u64, stream: CUstream) -> CuResult<Vec<u8>> {
        let api = self.enter()?;
        let bytes = size(bytes)?;
        if bytes > SMALL_COPY_BYTES {
            return Err(CuError::INVALID_VALUE);
        }
        let mut copied = vec![0; bytes];
        let to = copied.as_mut_ptr().cast::<c_void>();
        // SAFETY: `copied` is writable for `bytes` and stays until the stream has been waited for.
        let started = unsafe { call!(api, cuMemcpyDtoHAsync_v2(to, src.0, bytes, stream.0)) };
        // SAFETY: the stream is one that this device made, or a default stream.
        let done = unsafe { call!(api, cuStreamSynchronize(stream.0)) };
        started.and(done).map(|()| copied)
    }

    fn cuMemcpyDtoDAsync_v2(
        &self,
        dst: CUdeviceptr,
        src: CUdeviceptr,
        bytes: u64,
        stream: CUstream,
    ) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: addresses are only used by the device.
        unsafe { call!(api, cuMemcpyDtoDAsync_v2(dst.0, src.0, size(bytes)?, stream.0)) }
    }

    fn cuMemcpy2DAsync_v2(&self, copy: Copy2D, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        let copy = Memcpy2D {
            src_x: 0,
            src_y: 0,
            src_kind: MEMORY_DEVICE,
            src_host: null_mut(),
            src_device: copy.src.0,
            src_array: null_mut(),
            src_pitch: size(copy.src_pitch)?,
            dst_x: 0,
            dst_y: 0,
            dst_kind: MEMORY_DEVICE,
            dst_host: null_mut(),
            dst_device: copy.dst.0,
            dst_array: null_mut(),
            dst_pitch: size(copy.dst_pitch)?,
            width: size(copy.width)?,
            height: size(copy.height)?,
        };
        // SAFETY: `copy` is readable and read before the call returns; it names device memory only.
        unsafe { call!(api, cuMemcpy2DAsync_v2(&raw const copy, stream.0)) }
    }

    fn cuMemsetD8Async(&self, dst: CUdeviceptr, value: u8, count: u64, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: addresses are only used by the device.
        unsafe { call!(api, cuMemsetD8Async(dst.0, value, size(count)?, stream.0)) }
    }

    fn cuMemsetD16Async(&self, dst: CUdeviceptr, value: u16, count: u64, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: addresses are only used by the device.
        unsafe { call!(api, cuMemsetD16Async(dst.0, value, size(count)?, stream.0)) }
    }

    fn cuMemsetD32Async(&self, dst: CUdeviceptr, value: u32, count: u64, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: addresses are only used by the device.
        unsafe { call!(api, cuMemsetD32Async(dst.0, value, size(count)?, stream.0)) }
    }

    fn cuMemsetD2D8Async(
        &self,
        dst: CUdeviceptr,
        pitch: u64,
        value: u8,
        width: u64,
        height: u64,
        stream: CUstream,
    ) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: addresses are only used by the device.
        unsafe {
            call!(api, cuMemsetD2D8Async(dst.0, size(pitch)?, value, size(width)?, size(height)?, stream.0))
        }
    }
}

fn size(bytes: u64) -> CuResult<usize> {
    usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)
}

/// What `cuMemcpyDtoH_v2` carries at most; larger copies are landings.
const SMALL_COPY_BYTES: usize = 64 * 1024;

const HOST_PORTABLE: c_uint = 1;
const HOST_DEVICE_MAP: c_uint = 2;
const MEMORY_DEVICE: c_uint = 2;
const ALLOCATION_PINNED: c_int = 1;
const LOCATION_DEVICE: c_int = 1;
const READ_WRITE: c_int = 3;

/// `CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED`.
const GPU_DIRECT_RDMA_WITH_VMM: i32 = 110;
/// `CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED`.
const DMA_BUF_SUPPORTED: i32 = 124;
/// `CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD`.
const DMA_BUF_FD: c_int = 1;
