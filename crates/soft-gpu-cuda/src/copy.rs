//! Copies and settings.
//!
//! From pageable memory a copy is captured before the call returns; to pageable memory the call returns when the bytes
//! are there; pinned memory is used in stream order (CUDA Driver API, "API synchronization behavior").

use std::ffi::c_uint;

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult};
use proto::param::Copy2D;

use crate::edge::{Opened, current};
use crate::entries;
use crate::pointers::{Host, In};

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Memcpy2D {
    src: Side,
    dst: Side,
    width: usize,
    height: usize,
}

/// One side of a two-dimensional copy.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Side {
    x: usize,
    y: usize,
    kind: c_uint,
    host: usize,
    device: u64,
    array: usize,
    pitch: usize,
}

impl Side {
    /// Where row `row` begins.
    fn row(&self, row: usize) -> CuResult<usize> {
        let base = match self.kind {
            HOST => self.host,
            DEVICE | UNIFIED => usize::try_from(self.device).map_err(|_| CuError::INVALID_VALUE)?,
            _ => return Err(CuError::NOT_SUPPORTED),
        };
        let offset = (self.y + row).checked_mul(self.pitch).and_then(|offset| offset.checked_add(self.x));
        offset.and_then(|offset| base.checked_add(offset)).ok_or(CuError::INVALID_VALUE)
    }
}

fn up(opened: &Opened, dst: u64, src: Host, bytes: usize, stream: CUstream) -> CuResult<()> {
    let pinned = opened.books().is_pinned(src.address(), bytes);
    if pinned {
        return opened.device.cuMemcpyHtoDAsync_v2(CUdeviceptr(dst), src.span(bytes)?, stream);
    }
    opened.device.cuMemcpyHtoD_v2(CUdeviceptr(dst), src.bytes(0, bytes)?, stream)
}

fn down(opened: &Opened, dst: Host, src: u64, bytes: usize, stream: CUstream) -> CuResult<()> {
    let pinned = opened.books().is_pinned(dst.address(), bytes);
    opened.device.cuMemcpyDtoHAsync_v2(dst.span(bytes)?, CUdeviceptr(src), stream)?;
    if pinned { Ok(()) } else { synchronize(opened, stream) }
}

fn synchronize(opened: &Opened, stream: CUstream) -> CuResult<()> {
    let done = opened.device.cuStreamSynchronize(stream);
    opened.print();
    done
}

fn copy_2d(opened: &Opened, copy: Memcpy2D, stream: CUstream) -> CuResult<()> {
    let (src, dst) = (copy.src, copy.dst);
    if src.kind != HOST && dst.kind != HOST {
        let copy = Copy2D {
            dst: CUdeviceptr(dst.row(0)? as u64),
            dst_pitch: dst.pitch as u64,
            src: CUdeviceptr(src.row(0)? as u64),
            src_pitch: src.pitch as u64,
            width: copy.width as u64,
            height: copy.height as u64,
        };
        return opened.device.cuMemcpy2DAsync_v2(copy, stream);
    }
    for row in 0..copy.height {
        let (from, to) = (src.row(row)?, dst.row(row)?);
        match (src.kind, dst.kind) {
            (HOST, HOST) => return Err(CuError::NOT_SUPPORTED),
            (HOST, _) => up(opened, to as u64, Host::at(from), copy.width, stream)?,
            _ => down(opened, Host::at(to), from as u64, copy.width, stream)?,
        }
    }
    Ok(())
}

entries! {
    fn cuMemcpyHtoD_v2(dst: u64, src: Host, bytes: usize) {
        let opened = current()?;
        up(&opened, dst, src, bytes, CUstream::NULL)?;
        synchronize(&opened, CUstream::NULL)
    }

    fn cuMemcpyHtoDAsync_v2(dst: u64, src: Host, bytes: usize, stream: CUstream) {
        up(&*current()?, dst, src, bytes, stream)
    }

    fn cuMemcpyDtoH_v2(dst: Host, src: u64, bytes: usize) {
        let opened = current()?;
        down(&opened, dst, src, bytes, CUstream::NULL)?;
        synchronize(&opened, CUstream::NULL)
    }

    fn cuMemcpyDtoHAsync_v2(dst: Host, src: u64, bytes: usize, stream: CUstream) {
        down(&*current()?, dst, src, bytes, stream)
    }

    fn cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) {
        current()?.device.cuMemcpyDtoDAsync_v2(CUdeviceptr(dst), CUdeviceptr(src), bytes as u64, CUstream::NULL)
    }

    fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: CUstream) {
        current()?.device.cuMemcpyDtoDAsync_v2(CUdeviceptr(dst), CUdeviceptr(src), bytes as u64, stream)
    }

    fn cuMemcpy2D_v2(copy: In<Memcpy2D>) {
        let opened = current()?;
        copy_2d(&opened, copy.get()?, CUstream::NULL)?;
        synchronize(&opened, CUstream::NULL)
    }

    fn cuMemcpy2DAsync_v2(copy: In<Memcpy2D>, stream: CUstream) {
        copy_2d(&*current()?, copy.get()?, stream)
    }

    fn cuMemsetD8_v2(dst: u64, value: u8, count: usize) {
        current()?.device.cuMemsetD8Async(CUdeviceptr(dst), value, count as u64, CUstream::NULL)
    }

    fn cuMemsetD8Async(dst: u64, value: u8, count: usize, stream: CUstream) {
        current()?.device.cuMemsetD8Async(CUdeviceptr(dst), value, count as u64, stream)
    }

    fn cuMemsetD16Async(dst: u64, value: u16, count: usize, stream: CUstream) {
        current()?.device.cuMemsetD16Async(CUdeviceptr(dst), value, count as u64, stream)
    }

    fn cuMemsetD32_v2(dst: u64, value: c_uint, count: usize) {
        current()?.device.cuMemsetD32Async(CUdeviceptr(dst), value, count as u64, CUstream::NULL)
    }

    fn cuMemsetD32Async(dst: u64, value: c_uint, count: usize, stream: CUstream) {
        current()?.device.cuMemsetD32Async(CUdeviceptr(dst), value, count as u64, stream)
    }

    fn cuMemsetD2D8Async(dst: u64, pitch: usize, value: u8, width: usize, height: usize, stream: CUstream) {
        let (pitch, width, height) = (pitch as u64, width as u64, height as u64);
        current()?.device.cuMemsetD2D8Async(CUdeviceptr(dst), pitch, value, width, height, stream)
    }
}

/// `CUmemorytype`.
const HOST: c_uint = 1;
const DEVICE: c_uint = 2;
const UNIFIED: c_uint = 4;
