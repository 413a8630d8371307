//! Chapter 0x03: device memory.

use cuda_types::{CUdeviceptr, CUstream};

use crate::param::{Copy2D, InBytes};

macro_rules! memory_calls {
    ($reader:path) => {
        $reader! {
            /// Calls about device memory. Addresses are chosen by the client inside the session's window.
            trait MemoryCalls; rows ROWS;

            /// Backs `bytes` bytes of the window at `address` with device memory; both are multiples of 2 MiB.
            /// `CUDA_ERROR_OUT_OF_MEMORY` when the device has no more.
            0x0301 since 1 wait fn vgpuMemMap(address: u64, bytes: u64);
            /// Gives a chunk that `vgpuMemMap` mapped back to the device.
            0x0302 since 1 post fn vgpuMemUnmap(address: u64, bytes: u64);
            /// Makes `bytesize` bytes at `dptr`, inside mapped chunks, one allocation.
            0x0303 since 1 post fn cuMemAlloc_v2(dptr: CUdeviceptr, bytesize: u64);
            /// Ends an allocation, once all work posted before is done on every stream.
            0x0304 since 1 post fn cuMemFree_v2(dptr: CUdeviceptr);
            /// Free and total bytes of the device.
            0x0305 since 1 wait fn cuMemGetInfo_v2() -> (u64, u64);
            /// Makes `bytes` bytes of physical memory, a multiple of 2 MiB, under a number of the client's choice.
            /// `CUDA_ERROR_OUT_OF_MEMORY` when the device has no more.
            0x0306 since 3 wait fn vgpuMemCreate(physical: u64, bytes: u64);
            /// Gives physical memory back; while it is mapped, when it is unmapped.
            0x0307 since 3 post fn vgpuMemRelease(physical: u64);
            /// Maps physical memory from `offset` on at a range of the window, without access. All are multiples of 2 MiB.
            0x0308 since 3 post fn vgpuMemMapPhysical(address: u64, bytes: u64, offset: u64, physical: u64);
            /// Ends the mappings that make up a range, once all work posted before is done on every stream.
            0x0309 since 3 post fn vgpuMemUnmapPhysical(address: u64, bytes: u64);
            /// What work may do with the mappings that make up a range: 0 nothing, 1 read, 3 read and write.
            0x030a since 3 post fn vgpuMemSetAccess(address: u64, bytes: u64, access: u32);
            /// Copies host bytes to the device in stream order; they are captured before the call returns.
            0x0310 since 1 post fn cuMemcpyHtoD_v2(dst: CUdeviceptr, src: InBytes, stream: CUstream);
            /// Copies up to 64 KiB from the device in stream order and waits for them.
            0x0311 since 1 wait fn cuMemcpyDtoH_v2(src: CUdeviceptr, bytes: u64, stream: CUstream) -> Vec<u8>;
            /// Copies within the device, in stream order.
            0x0312 since 1 post fn cuMemcpyDtoDAsync_v2(dst: CUdeviceptr, src: CUdeviceptr, bytes: u64, stream: CUstream);
            /// Copies a rectangle within the device, in stream order.
            0x0313 since 1 post fn cuMemcpy2DAsync_v2(copy: Copy2D, stream: CUstream);
            /// Sets `count` bytes.
            0x0320 since 1 post fn cuMemsetD8Async(dst: CUdeviceptr, value: u8, count: u64, stream: CUstream);
            /// Sets `count` 16-bit values.
            0x0321 since 1 post fn cuMemsetD16Async(dst: CUdeviceptr, value: u16, count: u64, stream: CUstream);
            /// Sets `count` 32-bit values.
            0x0322 since 1 post fn cuMemsetD32Async(dst: CUdeviceptr, value: u32, count: u64, stream: CUstream);
            /// Sets a rectangle of bytes; pitch and width in bytes.
            0x0323 since 1 post fn cuMemsetD2D8Async(
                dst: CUdeviceptr, pitch: u64, value: u8, width: u64, height: u64, stream: CUstream,
            );
        }
    };
}

memory_calls!(crate::calls::declare);
memory_calls!(crate::calls::remote);
memory_calls!(crate::calls::serve);
#[cfg(test)]
memory_calls!(crate::calls::tests::probe);
