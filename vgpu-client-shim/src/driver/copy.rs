//! Copies of bytes in a row. Rectangles, boxes and arrays: [`super::array`].

use std::ffi::c_int;

use cuda_types::{CuError, CuResult};

use super::{context, twins};
use crate::edge::DefaultStream;
use crate::handles::resolve;
use crate::runtime::copy::{self as runtime, Timing};

/// `cudaMemcpyKind`.
const TO_DEVICE: c_int = 1;
const TO_HOST: c_int = 2;
const ON_DEVICE: c_int = 3;
const BY_POINTERS: c_int = 4;

twins! {
    /// Copies bytes; the pointers tell which way.
    fn cuMemcpy, cuMemcpy_ptds(default; dst: u64, src: u64, bytes: usize) {
        copy(default, dst, src, bytes, BY_POINTERS, None)
    }

    /// Copies bytes in stream order; the pointers tell which way.
    fn cuMemcpyAsync, cuMemcpyAsync_ptsz(default; dst: u64, src: u64, bytes: usize, stream: u64) {
        copy(default, dst, src, bytes, BY_POINTERS, Some(stream))
    }

    /// Copies bytes to the device.
    fn cuMemcpyHtoD_v2, cuMemcpyHtoD_v2_ptds(default; dst: u64, src: u64, bytes: usize) {
        copy(default, dst, src, bytes, TO_DEVICE, None)
    }

    /// Copies bytes to the device in stream order.
    fn cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync_v2_ptsz(default; dst: u64, src: u64, bytes: usize, stream: u64) {
        copy(default, dst, src, bytes, TO_DEVICE, Some(stream))
    }

    /// Copies bytes from the device.
    fn cuMemcpyDtoH_v2, cuMemcpyDtoH_v2_ptds(default; dst: u64, src: u64, bytes: usize) {
        copy(default, dst, src, bytes, TO_HOST, None)
    }

    /// Copies bytes from the device in stream order.
    fn cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync_v2_ptsz(default; dst: u64, src: u64, bytes: usize, stream: u64) {
        copy(default, dst, src, bytes, TO_HOST, Some(stream))
    }

    /// Copies bytes on the device.
    fn cuMemcpyDtoD_v2, cuMemcpyDtoD_v2_ptds(default; dst: u64, src: u64, bytes: usize) {
        copy(default, dst, src, bytes, ON_DEVICE, None)
    }

    /// Copies bytes on the device in stream order.
    fn cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync_v2_ptsz(default; dst: u64, src: u64, bytes: usize, stream: u64) {
        copy(default, dst, src, bytes, ON_DEVICE, Some(stream))
    }

    /// Copies bytes from one context to another.
    fn cuMemcpyPeer, cuMemcpyPeer_ptds(default; dst: u64, dst_context: u64, src: u64, src_context: u64, bytes: usize) {
        between(default, (dst, dst_context), (src, src_context), bytes, None)
    }

    /// Copies bytes from one context to another in stream order.
    fn cuMemcpyPeerAsync, cuMemcpyPeerAsync_ptsz(default; dst: u64, dst_context: u64, src: u64, src_context: u64, bytes: usize, stream: u64) {
        between(default, (dst, dst_context), (src, src_context), bytes, Some(stream))
    }
}

/// Copies in the order of a stream; without one, at once.
fn copy(
    default: DefaultStream,
    dst: u64,
    src: u64,
    bytes: usize,
    kind: c_int,
    stream: Option<u64>,
) -> CuResult<()> {
    context::current()?;
    let timing = if stream.is_some() { Timing::Async } else { Timing::Sync };
    runtime::copy(&resolve(default, stream.unwrap_or(0))?, dst, src, bytes, kind, timing)
}

fn between(
    default: DefaultStream,
    (dst, dst_context): (u64, u64),
    (src, src_context): (u64, u64),
    bytes: usize,
    stream: Option<u64>,
) -> CuResult<()> {
    let holds = |handle, address| {
        let device = context::find(handle)?;
        let holder = crate::state::devices().holding(address);
        let is_there = holder.is_some_and(|holder| holder.ordinal == device.ordinal);
        if is_there { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    };
    holds(dst_context, dst)?;
    holds(src_context, src)?;
    copy(default, dst, src, bytes, ON_DEVICE, stream)
}
