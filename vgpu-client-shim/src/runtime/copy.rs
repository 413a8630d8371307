//! Copies: which way a copy goes, and rectangles and boxes as runs of bytes.
//!
//! How bytes travel (captured, pulled, landing) is decided by the client crate, by host memory; see its `copy.rs`.

use std::ffi::{c_int, c_void};

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult};
use proto::MemoryCalls;
use proto::param::Copy2D;

use super::error::{INVALID_MEMCPY_DIRECTION, INVALID_PITCH_VALUE};
use super::memory::host_span;
use crate::edge::{Required, entries, twins};
use crate::graph::capture;
use crate::graph::work::Work;
use crate::handles::{Resolved, resolve};
use crate::managed;
use crate::state::{Device, devices};

entries! {
    /// Copies between two devices.
    fn cudaMemcpyPeer(dst: u64, dst_device: c_int, src: u64, src_device: c_int, bytes: usize) {
        let target = resolve(crate::edge::DefaultStream::Legacy, 0)?;
        peer(&target, dst, dst_device, src, src_device, bytes, Timing::Sync)
    }

    /// Copies between two devices, in stream order.
    fn cudaMemcpyPeerAsync(dst: u64, dst_device: c_int, src: u64, src_device: c_int, bytes: usize, stream: u64) {
        let target = resolve(crate::edge::DefaultStream::Legacy, stream)?;
        peer(&target, dst, dst_device, src, src_device, bytes, Timing::Async)
    }
}

twins! {
    /// Copies bytes.
    fn cudaMemcpy, cudaMemcpy_ptds(default; dst: u64, src: u64, bytes: usize, kind: c_int) {
        copy(&resolve(default, 0)?, dst, src, bytes, kind, Timing::Sync)
    }

    /// Copies bytes in stream order.
    fn cudaMemcpyAsync, cudaMemcpyAsync_ptsz(default; dst: u64, src: u64, bytes: usize, kind: c_int, stream: u64) {
        copy(&resolve(default, stream)?, dst, src, bytes, kind, Timing::Async)
    }

    /// Copies a rectangle.
    fn cudaMemcpy2D, cudaMemcpy2D_ptds(default; dst: u64, dst_pitch: usize, src: u64, src_pitch: usize, width: usize, height: usize, kind: c_int) {
        let rectangle = Rectangle { dst, dst_pitch, src, src_pitch, width, height };
        copy_2d(&resolve(default, 0)?, rectangle, kind, Timing::Sync)
    }

    /// Copies a rectangle in stream order.
    fn cudaMemcpy2DAsync, cudaMemcpy2DAsync_ptsz(default; dst: u64, dst_pitch: usize, src: u64, src_pitch: usize, width: usize, height: usize, kind: c_int, stream: u64) {
        let rectangle = Rectangle { dst, dst_pitch, src, src_pitch, width, height };
        copy_2d(&resolve(default, stream)?, rectangle, kind, Timing::Async)
    }

    /// Copies a box.
    fn cudaMemcpy3D, cudaMemcpy3D_ptds(default; parameters: Option<&Box3D>) {
        copy_3d(&resolve(default, 0)?, parameters.required()?, Timing::Sync)
    }

    /// Copies a box in stream order.
    fn cudaMemcpy3DAsync, cudaMemcpy3DAsync_ptsz(default; parameters: Option<&Box3D>, stream: u64) {
        copy_3d(&resolve(default, stream)?, parameters.required()?, Timing::Async)
    }
}

/// `cudaExtent`: bytes, rows, slices.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

/// `cudaPitchedPtr`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PitchedPointer {
    pub(crate) address: u64,
    pub(crate) pitch: usize,
    /// Logical width in bytes.
    pub(crate) width: usize,
    /// Rows of a slice.
    pub(crate) height: usize,
}

/// `cudaPos`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Position {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) z: usize,
}

/// `cudaMemcpy3DParms`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Box3D {
    pub(crate) src_array: *const c_void,
    pub(crate) src_position: Position,
    pub(crate) src: PitchedPointer,
    pub(crate) dst_array: *const c_void,
    pub(crate) dst_position: Position,
    pub(crate) dst: PitchedPointer,
    pub(crate) extent: Extent,
    pub(crate) kind: c_int,
}

// SAFETY: arrays are handles here, never looked behind by their pointers; a graph keeps them for another thread.
unsafe impl Send for Box3D {}

impl Box3D {
    /// A rectangle as a box of one slice.
    fn of_rectangle(rectangle: Rectangle, kind: c_int) -> Box3D {
        let Rectangle { dst, dst_pitch, src, src_pitch, width, height } = rectangle;
        let end = |address, pitch| PitchedPointer { address, pitch, width, height };
        Box3D {
            src_array: std::ptr::null(),
            src_position: Position::default(),
            src: end(src, src_pitch),
            dst_array: std::ptr::null(),
            dst_position: Position::default(),
            dst: end(dst, dst_pitch),
            extent: Extent { width, height, depth: 1 },
            kind,
        }
    }

    /// Bytes in a row as a box.
    pub(crate) fn of_bytes(dst: u64, src: u64, bytes: usize, kind: c_int) -> Box3D {
        let rectangle = Rectangle { dst, dst_pitch: bytes, src, src_pitch: bytes, width: bytes, height: 1 };
        Box3D::of_rectangle(rectangle, kind)
    }

    /// Whether both ends are given, each as an array or as an address.
    pub(crate) fn names_both_ends(&self) -> bool {
        let named = |array: *const c_void, end: &PitchedPointer| !array.is_null() || end.address != 0;
        named(self.src_array, &self.src) && named(self.dst_array, &self.dst)
    }
}

/// Whether the caller may use host memory again when the call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timing {
    Sync,
    Async,
}

/// `cudaMemcpyDeviceToDevice`.
pub(super) const DEVICE_TO_DEVICE: c_int = 3;
/// `cudaMemcpyDefault`: the pointers say which way.
pub(super) const DEFAULT: c_int = 4;

/// Both ends of a copy, found.
enum Way {
    HostToHost,
    ToDevice(&'static Device),
    ToHost(&'static Device),
    Within(&'static Device),
    Between(&'static Device, &'static Device),
}

#[derive(Clone, Copy)]
pub(super) struct Rectangle {
    pub(super) dst: u64,
    pub(super) dst_pitch: usize,
    pub(super) src: u64,
    pub(super) src_pitch: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// Whether the copy has become a node of a graph; an error where a capture forbids it.
fn captured(target: &Resolved, timing: Timing, copy: impl FnOnce() -> Box3D) -> CuResult<bool> {
    if timing == Timing::Async {
        return capture::record(target, || Work::copy(copy()));
    }
    // CUDA Programming Guide, "Prohibited and Unhandled Operations": these wait for their stream, the legacy one mostly.
    capture::refuse_waiting(target).map(|()| false)
}

/// Copies `bytes` bytes in the order of `target`'s stream.
pub(crate) fn copy(
    target: &Resolved,
    dst: u64,
    src: u64,
    bytes: usize,
    kind: c_int,
    timing: Timing,
) -> CuResult<()> {
    if captured(target, timing, || Box3D::of_bytes(dst, src, bytes, kind))? {
        return Ok(());
    }
    if !(0..=4).contains(&kind) {
        return Err(INVALID_MEMCPY_DIRECTION);
    }
    if bytes == 0 {
        return target.session.check();
    }
    let way = way(target, dst, src, kind)?;
    on_its_device(target, &way, |target| run(target, &way, dst, src, bytes, timing))
}

/// Which way a copy goes. `cudaMemcpyDefault` (4) asks the pointers; the others must agree with them.
fn way(target: &Resolved, dst: u64, src: u64, kind: c_int) -> CuResult<Way> {
    target.session.check()?;
    if dst == 0 || src == 0 {
        return Err(CuError::INVALID_VALUE);
    }
    let end = |address, is_device: bool| match (kind, is_device) {
        (4, _) => devices().guess(address),
        (_, true) => devices().holding(address),
        // Named as host memory: only an address that cannot be one shows a mistake.
        (_, false) => devices().owner(address),
    };
    let way = match (end(dst, kind == 1 || kind == 3), end(src, kind == 2 || kind == 3)) {
        (None, None) => Way::HostToHost,
        (Some(to), None) => Way::ToDevice(to),
        (None, Some(from)) => Way::ToHost(from),
        (Some(to), Some(from)) if to.ordinal == from.ordinal => Way::Within(to),
        (Some(to), Some(from)) => Way::Between(to, from),
    };
    let expected = match way {
        Way::HostToHost => 0,
        Way::ToDevice(_) => 1,
        Way::ToHost(_) => 2,
        Way::Within(_) | Way::Between(..) => 3,
    };
    // Managed memory may be called either: it lies with its device whatever the program says.
    let is_managed = |address| managed::ordinal_of(address).is_some();
    if kind == expected || kind == 4 || is_managed(dst) || is_managed(src) {
        Ok(way)
    } else {
        Err(CuError::INVALID_VALUE)
    }
}

/// Runs a copy on the device whose memory it concerns, which unified addressing allows to be another than the
/// stream's: the stream's earlier work is then waited for, and the copy is over when the call returns.
fn on_its_device(target: &Resolved, way: &Way, run: impl FnOnce(&Resolved) -> CuResult<()>) -> CuResult<()> {
    let (Way::ToDevice(device) | Way::ToHost(device) | Way::Within(device)) = way else { return run(target) };
    if device.ordinal == target.device.ordinal {
        managed::to_device(target)?;
        return run(target);
    }
    target.session.cuStreamSynchronize(target.stream)?;
    let other = Resolved { device, session: device.session()?, stream: CUstream::NULL };
    managed::to_device(&other)?;
    run(&other)?;
    other.session.cuStreamSynchronize(CUstream::NULL)
}

fn run(target: &Resolved, way: &Way, dst: u64, src: u64, bytes: usize, timing: Timing) -> CuResult<()> {
    let session = &target.session;
    let wait = timing == Timing::Sync;
    match way {
        Way::HostToHost => {
            session.cuStreamSynchronize(target.stream)?;
            let (from, to) = (pointer(src), pointer(dst).cast_mut());
            // SAFETY: both ranges are the program's, mapped for `bytes` bytes (module doc of `edge`); they may
            // overlap.
            unsafe { std::ptr::copy(from.cast::<u8>(), to.cast::<u8>(), bytes) };
            Ok(())
        }
        Way::ToDevice(_) => {
            session.copy_to_device(CUdeviceptr(dst), host_span(pointer(src), bytes), target.stream, wait)
        }
        Way::ToHost(_) => {
            session.copy_to_host(host_span(pointer(dst), bytes), CUdeviceptr(src), target.stream, wait)
        }
        Way::Within(_) => {
            session.check_target(CUdeviceptr(dst), bytes as u64)?;
            session.check_range(CUdeviceptr(src), bytes as u64)?;
            session.cuMemcpyDtoDAsync_v2(CUdeviceptr(dst), CUdeviceptr(src), bytes as u64, target.stream)
        }
        Way::Between(to, from) => between(target, to, from, dst, src, bytes),
    }
}

/// Copies from one device to another by way of this process: the stream is waited for first, so that its earlier work
/// is done, and the copy is over when the call returns.
fn between(
    target: &Resolved,
    to: &'static Device,
    from: &'static Device,
    dst: u64,
    src: u64,
    bytes: usize,
) -> CuResult<()> {
    const PART_BYTES: usize = 4 * 1024 * 1024;
    target.session.cuStreamSynchronize(target.stream)?;
    for device in [to, from] {
        managed::to_device(&Resolved { device, session: device.session()?, stream: CUstream::NULL })?;
    }
    let (to, from) = (to.session()?, from.session()?);
    to.check_target(CUdeviceptr(dst), bytes as u64)?;
    from.check_range(CUdeviceptr(src), bytes as u64)?;
    let mut part = vec![0_u8; bytes.min(PART_BYTES)];
    let mut done = 0;
    while done < bytes {
        let length = part.len().min(bytes - done);
        let span = host_span(part.as_mut_ptr().cast(), length);
        from.copy_to_host(span, CUdeviceptr(src + done as u64), CUstream::NULL, true)?;
        to.copy_to_device(CUdeviceptr(dst + done as u64), span, CUstream::NULL, true)?;
        done += length;
    }
    to.cuStreamSynchronize(CUstream::NULL)
}

fn peer(
    target: &Resolved,
    dst: u64,
    dst_device: c_int,
    src: u64,
    src_device: c_int,
    bytes: usize,
    timing: Timing,
) -> CuResult<()> {
    let (to, from) = (devices().get(dst_device)?, devices().get(src_device)?);
    if captured(target, timing, || Box3D::of_bytes(dst, src, bytes, DEVICE_TO_DEVICE))? {
        return Ok(());
    }
    if bytes == 0 {
        return target.session.check();
    }
    let holds = |device: &Device, address| {
        devices().holding(address).is_some_and(|holder| holder.ordinal == device.ordinal)
    };
    if !holds(to, dst) || !holds(from, src) {
        return Err(CuError::INVALID_VALUE);
    }
    if to.ordinal == from.ordinal && to.ordinal == target.device.ordinal {
        managed::to_device(target)?;
        return run(target, &Way::Within(to), dst, src, bytes, Timing::Async);
    }
    between(target, to, from, dst, src, bytes)
}

pub(super) fn copy_2d(target: &Resolved, rectangle: Rectangle, kind: c_int, timing: Timing) -> CuResult<()> {
    let Rectangle { dst, dst_pitch, src, src_pitch, width, height } = rectangle;
    if captured(target, timing, || Box3D::of_rectangle(rectangle, kind))? {
        return Ok(());
    }
    if !(0..=4).contains(&kind) {
        return Err(INVALID_MEMCPY_DIRECTION);
    }
    if width == 0 || height == 0 {
        return target.session.check();
    }
    if dst_pitch < width || src_pitch < width {
        return Err(INVALID_PITCH_VALUE);
    }
    let span = |pitch: usize| pitch.checked_mul(height - 1).and_then(|rows| rows.checked_add(width));
    let dst_bytes = span(dst_pitch).ok_or(CuError::INVALID_VALUE)?;
    let src_bytes = span(src_pitch).ok_or(CuError::INVALID_VALUE)?;
    let way = way(target, dst, src, kind)?;
    on_its_device(target, &way, |target| {
        if height == 1 || (dst_pitch == width && src_pitch == width) {
            return run(target, &way, dst, src, dst_bytes, timing);
        }
        rows(target, &way, rectangle, (dst_bytes, src_bytes), timing)
    })
}

/// Copies a rectangle with gaps between its rows; `spans` are the bytes from the first to the last on both ends.
fn rows(
    target: &Resolved,
    way: &Way,
    rectangle: Rectangle,
    spans: (usize, usize),
    timing: Timing,
) -> CuResult<()> {
    let Rectangle { dst, dst_pitch, src, src_pitch, width, height } = rectangle;
    let (dst_bytes, src_bytes) = spans;
    match way {
        Way::Within(_) => {
            target.session.check_target(CUdeviceptr(dst), dst_bytes as u64)?;
            target.session.check_range(CUdeviceptr(src), src_bytes as u64)?;
            let copy = Copy2D {
                dst: CUdeviceptr(dst),
                dst_pitch: dst_pitch as u64,
                src: CUdeviceptr(src),
                src_pitch: src_pitch as u64,
                width: width as u64,
                height: height as u64,
            };
            target.session.cuMemcpy2DAsync_v2(copy, target.stream)
        }
        // Reading row by row would be a round trip each; the gaps between are read along where they are small.
        Way::ToHost(_) if src_pitch <= 4 * width => {
            let mut rows = vec![0_u8; src_bytes];
            let span = host_span(rows.as_mut_ptr().cast(), src_bytes);
            target.session.copy_to_host(span, CUdeviceptr(src), target.stream, true)?;
            for row in 0..height {
                let to = pointer(dst + (row * dst_pitch) as u64).cast_mut().cast::<u8>();
                let from = &rows[row * src_pitch..][..width];
                // SAFETY: a row of the program's rectangle (module doc of `edge`).
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, width) };
            }
            Ok(())
        }
        _ => (0..height).try_for_each(|row| {
            let (to, from) = (dst + (row * dst_pitch) as u64, src + (row * src_pitch) as u64);
            run(target, way, to, from, width, timing)
        }),
    }
}

/// Copies a box in the order of `target`'s stream.
pub(crate) fn copy_3d(target: &Resolved, parameters: &Box3D, timing: Timing) -> CuResult<()> {
    if captured(target, timing, || *parameters)? {
        return Ok(());
    }
    let Box3D { src, dst, src_position, dst_position, extent, kind, .. } = *parameters;
    if !parameters.src_array.is_null() || !parameters.dst_array.is_null() {
        return super::array_copy::copy_arrays(target, parameters, timing);
    }
    if extent.width == 0 || extent.height == 0 || extent.depth == 0 {
        return target.session.check();
    }
    for slice in 0..extent.depth {
        let rectangle = Rectangle {
            dst: place(&dst, dst_position, slice)?,
            dst_pitch: dst.pitch,
            src: place(&src, src_position, slice)?,
            src_pitch: src.pitch,
            width: extent.width,
            height: extent.height,
        };
        copy_2d(target, rectangle, kind, timing)?;
    }
    Ok(())
}

/// Where `slice` of a box begins.
pub(super) fn place(pointer: &PitchedPointer, position: Position, slice: usize) -> CuResult<u64> {
    let rows = position.z.checked_add(slice).and_then(|slices| slices.checked_mul(pointer.height));
    let rows = rows.and_then(|rows| rows.checked_add(position.y));
    let offset =
        rows.and_then(|rows| rows.checked_mul(pointer.pitch)).and_then(|bytes| bytes.checked_add(position.x));
    let address = offset.and_then(|offset| pointer.address.checked_add(offset as u64));
    address.filter(|_| pointer.address != 0).ok_or(CuError::INVALID_VALUE)
}

/// A host address as the pointer that the program gave.
pub(super) fn pointer(address: u64) -> *const c_void {
    // u64 and usize are the same on the platforms that have CUDA.
    std::ptr::with_exposed_provenance(usize::try_from(address).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<Box3D>(), 160);
        assert_eq!(std::mem::offset_of!(Box3D, src), 32);
        assert_eq!(std::mem::offset_of!(Box3D, dst_array), 64);
        assert_eq!(std::mem::offset_of!(Box3D, dst), 96);
        assert_eq!(std::mem::offset_of!(Box3D, extent), 128);
        assert_eq!(std::mem::offset_of!(Box3D, kind), 152);
        assert_eq!(size_of::<PitchedPointer>(), 32);
    }

    #[test]
    fn a_place_in_a_box_counts_slices_rows_and_bytes() {
        let pointer = PitchedPointer { address: 0x1000, pitch: 512, width: 100, height: 10 };
        let position = Position { x: 3, y: 2, z: 1 };
        assert_eq!(place(&pointer, position, 0), Ok(0x1000 + 12 * 512 + 3));
        assert_eq!(place(&pointer, position, 1), Ok(0x1000 + 22 * 512 + 3));
        let far = Position { x: 0, y: 0, z: usize::MAX };
        assert_eq!(place(&pointer, far, 1), Err(CuError::INVALID_VALUE));
    }
}
