//! Copies with an array on either side. Memory of the same device is copied by one call; anything else goes through a
//! temporary allocation beside the array.

use std::ffi::c_int;
use std::sync::Arc;

use cuda_types::{CUarray, CUdeviceptr, CUstream, CuError, CuResult};
use proto::ArrayCalls;
use proto::param::{Copy3D, Side3D};

use super::array::Array;
use super::copy::{Box3D, Extent, PitchedPointer, Position, Rectangle, Timing, copy_2d, copy_3d, place};
use super::error::{INVALID_MEMCPY_DIRECTION, INVALID_PITCH_VALUE};
use crate::edge::{DefaultStream, twins};
use crate::handles::{Resolved, device, resolve};
use crate::managed;
use crate::state::devices;

twins! {
    /// Copies a rectangle into an array.
    fn cudaMemcpy2DToArray, cudaMemcpy2DToArray_ptds(default; dst: u64, x: usize, y: usize, src: u64, pitch: usize, width: usize, height: usize, kind: c_int) {
        to_array(default, 0, (dst, x, y), (src, pitch), (width, height), (kind, Timing::Sync))
    }

    /// Copies a rectangle into an array in stream order.
    fn cudaMemcpy2DToArrayAsync, cudaMemcpy2DToArrayAsync_ptsz(default; dst: u64, x: usize, y: usize, src: u64, pitch: usize, width: usize, height: usize, kind: c_int, stream: u64) {
        to_array(default, stream, (dst, x, y), (src, pitch), (width, height), (kind, Timing::Async))
    }

    /// Copies a rectangle out of an array.
    fn cudaMemcpy2DFromArray, cudaMemcpy2DFromArray_ptds(default; dst: u64, pitch: usize, src: u64, x: usize, y: usize, width: usize, height: usize, kind: c_int) {
        from_array(default, 0, (src, x, y), (dst, pitch), (width, height), (kind, Timing::Sync))
    }

    /// Copies a rectangle out of an array in stream order.
    fn cudaMemcpy2DFromArrayAsync, cudaMemcpy2DFromArrayAsync_ptsz(default; dst: u64, pitch: usize, src: u64, x: usize, y: usize, width: usize, height: usize, kind: c_int, stream: u64) {
        from_array(default, stream, (src, x, y), (dst, pitch), (width, height), (kind, Timing::Async))
    }

    /// Copies a rectangle from array to array.
    fn cudaMemcpy2DArrayToArray, cudaMemcpy2DArrayToArray_ptds(default; dst: u64, dst_x: usize, dst_y: usize, src: u64, src_x: usize, src_y: usize, width: usize, height: usize, kind: c_int) {
        let ends = (End::Array(dst, dst_x, dst_y), End::Array(src, src_x, src_y));
        copy_3d(&resolve(default, 0)?, &rectangle(ends.0, ends.1, width, height, kind)?, Timing::Sync)
    }

    /// Copies bytes into an array, row by row.
    fn cudaMemcpyToArray, cudaMemcpyToArray_ptds(default; dst: u64, x: usize, y: usize, src: u64, bytes: usize, kind: c_int) {
        runs(dst, x, y, bytes, |place, from, (width, height)| {
            to_array(default, 0, place, (src + from, width), (width, height), (kind, Timing::Sync))
        })
    }

    /// Copies bytes into an array, row by row, in stream order.
    fn cudaMemcpyToArrayAsync, cudaMemcpyToArrayAsync_ptsz(default; dst: u64, x: usize, y: usize, src: u64, bytes: usize, kind: c_int, stream: u64) {
        runs(dst, x, y, bytes, |place, from, (width, height)| {
            to_array(default, stream, place, (src + from, width), (width, height), (kind, Timing::Async))
        })
    }

    /// Copies bytes out of an array, row by row.
    fn cudaMemcpyFromArray, cudaMemcpyFromArray_ptds(default; dst: u64, src: u64, x: usize, y: usize, bytes: usize, kind: c_int) {
        runs(src, x, y, bytes, |place, to, (width, height)| {
            from_array(default, 0, place, (dst + to, width), (width, height), (kind, Timing::Sync))
        })
    }

    /// Copies bytes out of an array, row by row, in stream order.
    fn cudaMemcpyFromArrayAsync, cudaMemcpyFromArrayAsync_ptsz(default; dst: u64, src: u64, x: usize, y: usize, bytes: usize, kind: c_int, stream: u64) {
        runs(src, x, y, bytes, |place, to, (width, height)| {
            from_array(default, stream, place, (dst + to, width), (width, height), (kind, Timing::Async))
        })
    }

    /// Copies bytes from array to array, where both have rows of one length.
    fn cudaMemcpyArrayToArray, cudaMemcpyArrayToArray_ptds(default; dst: u64, dst_x: usize, dst_y: usize, src: u64, src_x: usize, src_y: usize, bytes: usize, kind: c_int) {
        if dst_x != src_x || Array::of(dst)?.bounds()[0] != Array::of(src)?.bounds()[0] {
            crate::log::warn(format_args!("cudaMemcpyArrayToArray between rows that differ is not supported"));
            return Err(CuError::NOT_SUPPORTED);
        }
        let target = resolve(default, 0)?;
        runs(src, src_x, src_y, bytes, |(src, x, y), _, (width, height)| {
            let ends = (End::Array(dst, x, y - src_y + dst_y), End::Array(src, x, y));
            copy_3d(&target, &rectangle(ends.0, ends.1, width, height, kind)?, Timing::Sync)
        })
    }
}

/// One end of a copy.
enum Side {
    /// A place in an array: bytes, rows, slices.
    Array {
        array: Arc<Array>,
        at: [u64; 3],
    },
    Memory {
        pointer: PitchedPointer,
        position: Position,
    },
}

impl Side {
    /// One end of a `cudaMemcpy3DParms`: the array, or the memory; positions in arrays count elements.
    fn of(array: u64, pointer: PitchedPointer, position: Position) -> CuResult<Side> {
        match (array, pointer.address) {
            (0, _) => Ok(Side::Memory { pointer, position }),
            (_, 0) => {
                let array = Array::of(array)?;
                let x = (position.x as u64).checked_mul(array.element_bytes());
                let at = [x.ok_or(CuError::INVALID_VALUE)?, position.y as u64, position.z as u64];
                Ok(Side::Array { array, at })
            }
            // CUDA Runtime API, cudaMemcpy3D: exactly one of both.
            _ => Err(CuError::INVALID_VALUE),
        }
    }

    fn device(&self) -> Option<usize> {
        match self {
            Side::Array { array, .. } => Some(array.ordinal),
            Side::Memory { .. } => None,
        }
    }

    /// As the call has it; `None` for memory that is not this device's.
    fn on_device(&self, ordinal: usize, kind: c_int, extent: Extent) -> CuResult<Option<Side3D>> {
        match self {
            Side::Array { array, at: [x, y, z] } => {
                let wanted = [extent.width as u64, extent.height as u64, extent.depth as u64];
                let ends = [*x, *y, *z].into_iter().zip(wanted).zip(array.bounds());
                let inside = |((start, length), bound): ((u64, u64), u64)| {
                    start.checked_add(length).is_some_and(|end| end <= bound)
                };
                if !ends.into_iter().all(inside) {
                    return Err(CuError::INVALID_VALUE);
                }
                if array.ordinal != ordinal {
                    return Ok(None);
                }
                Ok(Some(Side3D {
                    kind: Side3D::ARRAY,
                    array: array.name,
                    x: *x,
                    y: *y,
                    z: *z,
                    ..Side3D::default()
                }))
            }
            Side::Memory { pointer, position } => {
                let start = place(pointer, *position, 0)?;
                let holder = match kind {
                    3 => devices().holding(start),
                    4 => devices().guess(start),
                    _ => None,
                };
                if holder.is_none_or(|device| device.ordinal != ordinal) {
                    return Ok(None);
                }
                if extent.height > 1 && pointer.pitch < extent.width {
                    return Err(INVALID_PITCH_VALUE);
                }
                let last = place(
                    pointer,
                    Position { y: position.y + extent.height - 1, ..*position },
                    extent.depth - 1,
                )?;
                let bytes = last.checked_sub(start).and_then(|rows| rows.checked_add(extent.width as u64));
                let session = device(ordinal)?.session()?;
                session.check_range(CUdeviceptr(start), bytes.ok_or(CuError::INVALID_VALUE)?)?;
                Ok(Some(Side3D {
                    kind: Side3D::DEVICE,
                    address: CUdeviceptr(start),
                    array: CUarray::NULL,
                    x: 0,
                    y: 0,
                    z: 0,
                    pitch: pointer.pitch as u64,
                    height: pointer.height.max(extent.height) as u64,
                }))
            }
        }
    }
}

/// `cudaMemcpy3D` with an array on either side: the extent counts elements.
pub(super) fn copy_arrays(target: &Resolved, parameters: &Box3D, timing: Timing) -> CuResult<()> {
    let handle = |array: *const std::ffi::c_void| array.addr() as u64;
    let dst = Side::of(handle(parameters.dst_array), parameters.dst, parameters.dst_position)?;
    let src = Side::of(handle(parameters.src_array), parameters.src, parameters.src_position)?;
    let element = match (&dst, &src) {
        (Side::Array { array: to, .. }, Side::Array { array: from, .. })
            if to.element_bytes() != from.element_bytes() =>
        {
            return Err(CuError::INVALID_VALUE);
        }
        (Side::Array { array, .. }, _) | (_, Side::Array { array, .. }) => array.element_bytes(),
        _ => 1,
    };
    let element = usize::try_from(element).map_err(|_| CuError::INVALID_VALUE)?;
    let width = parameters.extent.width.checked_mul(element).ok_or(CuError::INVALID_VALUE)?;
    copy_box(target, &dst, &src, Extent { width, ..parameters.extent }, parameters.kind, timing)
}

/// A rectangle into an array, as the box that it is.
fn to_array(
    default: DefaultStream,
    stream: u64,
    (array, x, y): (u64, usize, usize),
    (src, pitch): (u64, usize),
    (width, height): (usize, usize),
    (kind, timing): (c_int, Timing),
) -> CuResult<()> {
    let ends = (End::Array(array, x, y), End::Memory(src, pitch));
    copy_3d(&resolve(default, stream)?, &rectangle(ends.0, ends.1, width, height, kind)?, timing)
}

/// A rectangle out of an array, as the box that it is.
fn from_array(
    default: DefaultStream,
    stream: u64,
    (array, x, y): (u64, usize, usize),
    (dst, pitch): (u64, usize),
    (width, height): (usize, usize),
    (kind, timing): (c_int, Timing),
) -> CuResult<()> {
    let ends = (End::Memory(dst, pitch), End::Array(array, x, y));
    copy_3d(&resolve(default, stream)?, &rectangle(ends.0, ends.1, width, height, kind)?, timing)
}

/// One end of a copy of a rectangle.
#[derive(Clone, Copy)]
enum End {
    /// Handle, byte of the row, row.
    Array(u64, usize, usize),
    /// Address and pitch.
    Memory(u64, usize),
}

/// A rectangle of `width` bytes with an array on one side at least, whose elements the box counts.
fn rectangle(dst: End, src: End, width: usize, height: usize, kind: c_int) -> CuResult<Box3D> {
    let element = match (dst, src) {
        (End::Array(array, ..), _) | (_, End::Array(array, ..)) => Array::of(array)?.element_bytes(),
        _ => 1,
    };
    let element = usize::try_from(element).map_err(|_| CuError::INVALID_VALUE)?;
    let whole =
        |bytes: usize| bytes.is_multiple_of(element).then_some(bytes / element).ok_or(CuError::INVALID_VALUE);
    let end = |end| {
        Ok(match end {
            End::Array(array, x, y) => {
                // A handle is told as a pointer and never looked behind.
                let handle = usize::try_from(array).map_err(|_| CuError::INVALID_VALUE)?;
                (std::ptr::without_provenance(handle), Position { x: whole(x)?, y, z: 0 }, NOWHERE)
            }
            End::Memory(_, pitch) if height > 1 && pitch < width => return Err(INVALID_PITCH_VALUE),
            End::Memory(address, pitch) => {
                let pointer = PitchedPointer { address, pitch, width, height };
                (std::ptr::null(), Position { x: 0, y: 0, z: 0 }, pointer)
            }
        })
    };
    let ((dst_array, dst_position, dst), (src_array, src_position, src)) = (end(dst)?, end(src)?);
    let extent = Extent { width: whole(width)?, height, depth: 1 };
    Ok(Box3D { src_array, src_position, src, dst_array, dst_position, dst, extent, kind })
}

/// What a box says of memory on a side where an array is meant.
const NOWHERE: PitchedPointer = PitchedPointer { address: 0, pitch: 0, width: 0, height: 0 };

/// Cuts a run of bytes that begins at `(x, y)` of an array and goes on in its next rows into rectangles: place in the
/// array, bytes before it, width and height.
fn runs(
    array: u64,
    x: usize,
    y: usize,
    bytes: usize,
    mut copy: impl FnMut((u64, usize, usize), u64, (usize, usize)) -> CuResult<()>,
) -> CuResult<()> {
    let row = usize::try_from(Array::of(array)?.bounds()[0]).map_err(|_| CuError::INVALID_VALUE)?;
    let (mut x, mut y, mut done) = (x, y, 0);
    if x > row {
        return Err(CuError::INVALID_VALUE);
    }
    while done < bytes {
        let left = bytes - done;
        let (width, height) = if x == 0 && left >= row { (row, left / row) } else { (left.min(row - x), 1) };
        if width > 0 {
            copy((array, x, y), done as u64, (width, height))?;
        }
        done += width * height;
        (x, y) = (0, y + height);
    }
    Ok(())
}

/// Copies a box whose width counts bytes; one side at least is an array.
fn copy_box(
    target: &Resolved,
    dst: &Side,
    src: &Side,
    extent: Extent,
    kind: c_int,
    timing: Timing,
) -> CuResult<()> {
    if !(0..=4).contains(&kind) {
        return Err(INVALID_MEMCPY_DIRECTION);
    }
    if extent.width == 0 || extent.height == 0 || extent.depth == 0 {
        return target.session.check();
    }
    let expected = |to_array: bool, from_array: bool| match kind {
        0 => false,
        1 => !from_array,
        2 => !to_array,
        _ => true,
    };
    if !expected(dst.device().is_some(), src.device().is_some()) {
        return Err(INVALID_MEMCPY_DIRECTION);
    }
    if let (Some(to), Some(from)) = (dst.device(), src.device())
        && to != from
    {
        return between(target, dst, src, extent);
    }
    let ordinal = dst.device().or(src.device()).ok_or(CuError::INVALID_VALUE)?;
    if ordinal != target.device.ordinal {
        // As `copy::on_its_device`: the stream's earlier work first, then the copy, to its end.
        target.session.cuStreamSynchronize(target.stream)?;
        let other = device(ordinal)?;
        let other = Resolved { device: other, session: other.session()?, stream: CUstream::NULL };
        copy_box(&other, dst, src, extent, kind, Timing::Sync)?;
        return other.session.cuStreamSynchronize(CUstream::NULL);
    }
    managed::to_device(target)?;
    let Extent { width, height, depth } = extent;
    let call = |dst, src| {
        let (width, height, depth) = (width as u64, height as u64, depth as u64);
        target.session.cuMemcpy3DAsync_v2(Copy3D { dst, src, width, height, depth }, target.stream)
    };
    let ends = (dst.on_device(ordinal, kind, extent)?, src.on_device(ordinal, kind, extent)?);
    if let (Some(dst), Some(src)) = ends {
        return call(dst, src);
    }
    let bytes = width.checked_mul(height).and_then(|slice| slice.checked_mul(depth));
    let staged = target.session.cuMemAlloc(bytes.ok_or(CuError::OUT_OF_MEMORY)? as u64)?;
    let staging = Side3D {
        kind: Side3D::DEVICE,
        address: staged,
        pitch: width as u64,
        height: height as u64,
        ..Side3D::default()
    };
    let slices = |pointer: &PitchedPointer, position: Position, up: bool| {
        (0..depth).try_for_each(|slice| {
            let (there, here) =
                (place(pointer, position, slice)?, staged.0 + (slice * width * height) as u64);
            let rectangle = if up {
                Rectangle {
                    dst: here,
                    dst_pitch: width,
                    src: there,
                    src_pitch: pointer.pitch.max(width),
                    width,
                    height,
                }
            } else {
                Rectangle {
                    dst: there,
                    dst_pitch: pointer.pitch.max(width),
                    src: here,
                    src_pitch: width,
                    width,
                    height,
                }
            };
            copy_2d(target, rectangle, kind, timing)
        })
    };
    let copied = match (ends, dst, src) {
        ((Some(to), None), _, Side::Memory { pointer, position }) => {
            slices(pointer, *position, true).and_then(|()| call(to, staging))
        }
        ((None, Some(from)), Side::Memory { pointer, position }, _) => {
            call(staging, from).and_then(|()| slices(pointer, *position, false))
        }
        // An array is always on the device that was chosen by it.
        _ => Err(CuError::UNKNOWN),
    };
    // Given back when the work posted so far is done.
    copied.and(target.session.cuMemFree(staged))
}

/// Copies from an array of one device to an array of another by way of this process, as `copy::between` does.
fn between(target: &Resolved, dst: &Side, src: &Side, extent: Extent) -> CuResult<()> {
    let Extent { width, height, depth } = extent;
    let bytes = width.checked_mul(height).and_then(|slice| slice.checked_mul(depth));
    let mut kept = vec![0_u8; bytes.ok_or(CuError::OUT_OF_MEMORY)?];
    let address = kept.as_mut_ptr().expose_provenance() as u64;
    let pointer = PitchedPointer { address, pitch: width, width, height };
    let here = Side::Memory { pointer, position: Position::default() };
    copy_box(target, &here, src, extent, DEVICE_TO_HOST, Timing::Sync)?;
    copy_box(target, dst, &here, extent, HOST_TO_DEVICE, Timing::Sync)?;
    target.session.cuStreamSynchronize(target.stream)
}

/// `cudaMemcpyHostToDevice`.
const HOST_TO_DEVICE: c_int = 1;
/// `cudaMemcpyDeviceToHost`.
const DEVICE_TO_HOST: c_int = 2;
