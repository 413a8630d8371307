//! Arrays, and copies of rectangles and boxes, which may have an array on either side.

use std::ffi::{c_int, c_void};

use cuda_types::{CuError, CuResult};

use super::{context, entries, of_runtime, twins};
use crate::edge::{DefaultStream, Out, Required};
use crate::handles::resolve;
use crate::runtime::array::{self as runtime, Array};
use crate::runtime::copy::{Box3D, Extent, PitchedPointer, Position, Timing, copy_3d};
use crate::runtime::version::ChannelFormat;

entries! {
    /// Makes an array of one or two dimensions.
    fn cuArrayCreate_v2(array: Out<'_, u64>, description: Option<&Description>) {
        let Description { width, height, format, channels } = *description.required()?;
        make(array, format, channels, Extent { width, height, depth: 0 }, 0)
    }

    /// Makes an array of up to three dimensions, or with layers or faces.
    fn cuArray3DCreate_v2(array: Out<'_, u64>, description: Option<&Description3D>) {
        let Description3D { width, height, depth, format, channels, flags } = *description.required()?;
        make(array, format, channels, Extent { width, height, depth }, flags)
    }

    /// Ends an array.
    fn cuArrayDestroy(array: u64) {
        context::current()?;
        if array == 0 {
            return Err(CuError::INVALID_HANDLE);
        }
        of_runtime(|| runtime::cudaFreeArray(array))
    }

    /// What an array of one or two dimensions is.
    fn cuArrayGetDescriptor_v2(description: Out<'_, Description>, array: u64) {
        let description = description.required()?;
        let Description3D { width, height, format, channels, .. } = Description3D::of(array)?;
        description.write(Description { width, height, format, channels });
        Ok(())
    }

    /// What an array is.
    fn cuArray3DGetDescriptor_v2(description: Out<'_, Description3D>, array: u64) {
        let description = description.required()?;
        description.write(Description3D::of(array)?);
        Ok(())
    }

    /// Memory that an array would need: told for deferred arrays only.
    fn cuArrayGetMemoryRequirements(requirements: *mut c_void, array: u64, device: c_int) {
        context::current()?;
        of_runtime(|| runtime::cudaArrayGetMemoryRequirements(requirements, array, device))
    }

    /// Memory that a mipmapped array would need: told for deferred arrays only.
    fn cuMipmappedArrayGetMemoryRequirements(requirements: *mut c_void, array: u64, device: c_int) {
        context::current()?;
        of_runtime(|| runtime::cudaMipmappedArrayGetMemoryRequirements(requirements, array, device))
    }

    /// Tiles of a sparse array, which there are none of.
    fn cuArrayGetSparseProperties(properties: *mut c_void, array: u64) {
        context::current()?;
        of_runtime(|| runtime::cudaArrayGetSparseProperties(properties, array))
    }

    /// Tiles of a sparse mipmapped array, which there are none of.
    fn cuMipmappedArrayGetSparseProperties(properties: *mut c_void, array: u64) {
        context::current()?;
        of_runtime(|| runtime::cudaMipmappedArrayGetSparseProperties(properties, array))
    }

    /// A plane of an array with several, which there are none of.
    fn cuArrayGetPlane(plane: Out<'_, u64>, array: u64, index: u32) {
        context::current()?;
        of_runtime(|| runtime::cudaArrayGetPlane(plane, array, index))
    }

    /// Makes an array of levels, each half as large as the one before.
    fn cuMipmappedArrayCreate(array: Out<'_, u64>, description: Option<&Description3D>, levels: u32) {
        let Description3D { width, height, depth, format, channels, flags } = *description.required()?;
        context::current()?;
        let format = channel_format(format, channels)?;
        of_runtime(|| {
            runtime::cudaMallocMipmappedArray(array, Some(&format), Extent { width, height, depth }, levels, flags)
        })
    }

    /// Ends a mipmapped array and its levels.
    fn cuMipmappedArrayDestroy(array: u64) {
        context::current()?;
        if array == 0 {
            return Err(CuError::INVALID_HANDLE);
        }
        of_runtime(|| runtime::cudaFreeMipmappedArray(array))
    }

    /// A level of a mipmapped array.
    fn cuMipmappedArrayGetLevel(level_array: Out<'_, u64>, array: u64, level: u32) {
        context::current()?;
        of_runtime(|| runtime::cudaGetMipmappedArrayLevel(level_array, array, level))
    }
}

twins! {
    /// Copies a rectangle.
    fn cuMemcpy2D_v2, cuMemcpy2D_v2_ptds(default; copy: Option<&Copy2D>) {
        copied(default, 0, copy.required()?.as_box()?, Timing::Sync)
    }

    /// Copies a rectangle whose pitch may be any.
    fn cuMemcpy2DUnaligned_v2, cuMemcpy2DUnaligned_v2_ptds(default; copy: Option<&Copy2D>) {
        copied(default, 0, copy.required()?.as_box()?, Timing::Sync)
    }

    /// Copies a rectangle in stream order.
    fn cuMemcpy2DAsync_v2, cuMemcpy2DAsync_v2_ptsz(default; copy: Option<&Copy2D>, stream: u64) {
        copied(default, stream, copy.required()?.as_box()?, Timing::Async)
    }

    /// Copies a box.
    fn cuMemcpy3D_v2, cuMemcpy3D_v2_ptds(default; copy: Option<&Copy3D>) {
        copied(default, 0, copy.required()?.as_box()?, Timing::Sync)
    }

    /// Copies a box in stream order.
    fn cuMemcpy3DAsync_v2, cuMemcpy3DAsync_v2_ptsz(default; copy: Option<&Copy3D>, stream: u64) {
        copied(default, stream, copy.required()?.as_box()?, Timing::Async)
    }

    /// Copies a box from one context to another: addresses and arrays tell which.
    fn cuMemcpy3DPeer, cuMemcpy3DPeer_ptds(default; copy: Option<&Copy3D>) {
        copied(default, 0, copy.required()?.as_box()?, Timing::Sync)
    }

    /// Copies a box from one context to another in stream order.
    fn cuMemcpy3DPeerAsync, cuMemcpy3DPeerAsync_ptsz(default; copy: Option<&Copy3D>, stream: u64) {
        copied(default, stream, copy.required()?.as_box()?, Timing::Async)
    }
}

twins! {
    /// Copies bytes from an array to the host.
    fn cuMemcpyAtoH_v2, cuMemcpyAtoH_v2_ptds(default; dst: u64, src: u64, offset: usize, bytes: usize) {
        linear(default, 0, Side::host(dst), Side::array(src, offset), bytes, Timing::Sync)
    }

    /// Copies bytes from the host to an array.
    fn cuMemcpyHtoA_v2, cuMemcpyHtoA_v2_ptds(default; dst: u64, offset: usize, src: u64, bytes: usize) {
        linear(default, 0, Side::array(dst, offset), Side::host(src), bytes, Timing::Sync)
    }

    /// Copies bytes from an array to device memory.
    fn cuMemcpyAtoD_v2, cuMemcpyAtoD_v2_ptds(default; dst: u64, src: u64, offset: usize, bytes: usize) {
        linear(default, 0, Side::device(dst), Side::array(src, offset), bytes, Timing::Sync)
    }

    /// Copies bytes from device memory to an array.
    fn cuMemcpyDtoA_v2, cuMemcpyDtoA_v2_ptds(default; dst: u64, offset: usize, src: u64, bytes: usize) {
        linear(default, 0, Side::array(dst, offset), Side::device(src), bytes, Timing::Sync)
    }

    /// Copies bytes from array to array.
    fn cuMemcpyAtoA_v2, cuMemcpyAtoA_v2_ptds(default; dst: u64, dst_offset: usize, src: u64, src_offset: usize, bytes: usize) {
        linear(default, 0, Side::array(dst, dst_offset), Side::array(src, src_offset), bytes, Timing::Sync)
    }

    /// Copies bytes from an array to the host in stream order.
    fn cuMemcpyAtoHAsync_v2, cuMemcpyAtoHAsync_v2_ptsz(default; dst: u64, src: u64, offset: usize, bytes: usize, stream: u64) {
        linear(default, stream, Side::host(dst), Side::array(src, offset), bytes, Timing::Async)
    }

    /// Copies bytes from the host to an array in stream order.
    fn cuMemcpyHtoAAsync_v2, cuMemcpyHtoAAsync_v2_ptsz(default; dst: u64, offset: usize, src: u64, bytes: usize, stream: u64) {
        linear(default, stream, Side::array(dst, offset), Side::host(src), bytes, Timing::Async)
    }
}

/// `CUDA_ARRAY_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description {
    width: usize,
    height: usize,
    /// `CUarray_format`.
    format: u32,
    channels: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description3D {
    width: usize,
    height: usize,
    depth: usize,
    /// `CUarray_format`.
    format: u32,
    channels: u32,
    flags: u32,
}

impl Description3D {
    fn of(array: u64) -> CuResult<Description3D> {
        let desc = Array::of(array)?.desc;
        let size = |extent: u64| usize::try_from(extent).map_err(|_| CuError::UNKNOWN);
        Ok(Description3D {
            width: size(desc.width)?,
            height: size(desc.height)?,
            depth: size(desc.depth)?,
            format: desc.format,
            channels: desc.channels,
            flags: desc.flags,
        })
    }
}

/// One end of `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Side2D {
    x_bytes: usize,
    y: usize,
    /// `CUmemorytype`.
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy2D {
    src: Side2D,
    dst: Side2D,
    width_bytes: usize,
    height: usize,
}

/// One end of `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Side {
    x_bytes: usize,
    y: usize,
    z: usize,
    level: usize,
    /// `CUmemorytype`.
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    /// Of the peer copies: the context.
    reserved: u64,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy3D {
    src: Side,
    dst: Side,
    width_bytes: usize,
    height: usize,
    depth: usize,
}

/// `CUmemorytype`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

impl From<Side2D> for Side {
    fn from(side: Side2D) -> Side {
        let Side2D { x_bytes, y, kind, host, device, array, pitch } = side;
        Side { x_bytes, y, z: 0, level: 0, kind, host, device, array, reserved: 0, pitch, height: 0 }
    }
}

impl Side {
    const NONE: Side = Side {
        x_bytes: 0,
        y: 0,
        z: 0,
        level: 0,
        kind: 0,
        host: 0,
        device: 0,
        array: 0,
        reserved: 0,
        pitch: 0,
        height: 0,
    };

    fn host(host: u64) -> Side {
        Side { kind: HOST, host, ..Side::NONE }
    }

    fn device(device: u64) -> Side {
        Side { kind: DEVICE, device, ..Side::NONE }
    }

    fn array(array: u64, x_bytes: usize) -> Side {
        Side { kind: ARRAY, array, x_bytes, ..Side::NONE }
    }

    /// Handle of the array, memory, and the position in it, as the runtime has them: in arrays it counts elements.
    fn lowered(
        &self,
        width_bytes: usize,
        height: usize,
    ) -> CuResult<(*const c_void, PitchedPointer, Position)> {
        if self.level != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let nothing = PitchedPointer { address: 0, pitch: 0, width: 0, height: 0 };
        let address = match self.kind {
            ARRAY => {
                let element = element_bytes(self.array)?;
                if !self.x_bytes.is_multiple_of(element) {
                    return Err(CuError::INVALID_VALUE);
                }
                let position = Position { x: self.x_bytes / element, y: self.y, z: self.z };
                let array = usize::try_from(self.array).map_err(|_| CuError::INVALID_HANDLE)?;
                return Ok((std::ptr::without_provenance(array), nothing, position));
            }
            HOST => self.host,
            DEVICE | UNIFIED => self.device,
            _ => return Err(CuError::INVALID_VALUE),
        };
        let row = self.x_bytes.checked_add(width_bytes).ok_or(CuError::INVALID_VALUE)?;
        // CUDA Driver API, cuMemcpy2D: a pitch of 0 stands for rows one behind the other.
        let pitch = if self.pitch == 0 { row } else { self.pitch };
        let rows = self.y.checked_add(height).ok_or(CuError::INVALID_VALUE)?;
        let memory = PitchedPointer { address, pitch, width: row, height: self.height.max(rows) };
        Ok((std::ptr::null(), memory, Position { x: self.x_bytes, y: self.y, z: self.z }))
    }
}

impl Copy2D {
    /// As the runtime has it.
    fn as_box(&self) -> CuResult<Box3D> {
        let Copy2D { src, dst, width_bytes, height } = *self;
        Copy3D { src: src.into(), dst: dst.into(), width_bytes, height, depth: 1 }.as_box()
    }
}

impl Copy3D {
    /// As the runtime has it.
    pub(super) fn as_box(&self) -> CuResult<Box3D> {
        let Copy3D { src, dst, width_bytes, height, depth } = *self;
        let (src_array, src_memory, src_position) = src.lowered(width_bytes, height)?;
        let (dst_array, dst_memory, dst_position) = dst.lowered(width_bytes, height)?;
        // With an array the width counts its elements.
        let array = if src.kind == ARRAY { src.array } else { dst.array };
        let element = if src.kind == ARRAY || dst.kind == ARRAY { element_bytes(array)? } else { 1 };
        if !width_bytes.is_multiple_of(element) {
            return Err(CuError::INVALID_VALUE);
        }
        // cudaMemcpyKind: 0 host to host, 1 to the device, 2 to the host, 3 on the device, 4 as the pointers say.
        let kind = match (src.kind, dst.kind) {
            (UNIFIED, _) | (_, UNIFIED) => 4,
            (HOST, HOST) => 0,
            (HOST, _) => 1,
            (_, HOST) => 2,
            _ => 3,
        };
        Ok(Box3D {
            src_array,
            src_position,
            src: src_memory,
            dst_array,
            dst_position,
            dst: dst_memory,
            extent: Extent { width: width_bytes / element, height, depth },
            kind,
        })
    }

    /// As the driver has what the runtime has: for the parameters of a graph's node.
    pub(super) fn of_box(copy: &Box3D) -> CuResult<Copy3D> {
        let array_of = |array: *const c_void| array.addr() as u64;
        let (src_array, dst_array) = (array_of(copy.src_array), array_of(copy.dst_array));
        let element = match (src_array, dst_array) {
            (0, 0) => 1,
            (0, array) | (array, _) => element_bytes(array)?,
        };
        let side = |array: u64, memory: &PitchedPointer, position: Position, is_host: bool| {
            let Position { x, y, z } = position;
            let plain = Side { y, z, pitch: memory.pitch, height: memory.height, ..Side::NONE };
            match (array, is_host) {
                (0, true) => Side { kind: HOST, host: memory.address, x_bytes: x, ..plain },
                (0, false) if copy.kind == 4 => {
                    Side { kind: UNIFIED, device: memory.address, x_bytes: x, ..plain }
                }
                (0, false) => Side { kind: DEVICE, device: memory.address, x_bytes: x, ..plain },
                _ => Side { kind: ARRAY, array, x_bytes: x * element, ..plain },
            }
        };
        Ok(Copy3D {
            src: side(src_array, &copy.src, copy.src_position, matches!(copy.kind, 0 | 1)),
            dst: side(dst_array, &copy.dst, copy.dst_position, matches!(copy.kind, 0 | 2)),
            width_bytes: copy.extent.width * element,
            height: copy.extent.height,
            depth: copy.extent.depth,
        })
    }
}

/// Channels as the runtime names them.
pub(super) fn channel_format(format: u32, channels: u32) -> CuResult<ChannelFormat> {
    const SIGNED: i32 = 0;
    const UNSIGNED: i32 = 1;
    const FLOAT: i32 = 2;
    let (bits, kind) = match format {
        0x01 => (8, UNSIGNED),
        0x02 => (16, UNSIGNED),
        0x03 => (32, UNSIGNED),
        0x08 => (8, SIGNED),
        0x09 => (16, SIGNED),
        0x0a => (32, SIGNED),
        0x10 => (16, FLOAT),
        0x20 => (32, FLOAT),
        _ => {
            crate::log::warn(format_args!("array format {format:#x} is not supported"));
            return Err(CuError::NOT_SUPPORTED);
        }
    };
    let bits = match channels {
        1 => [bits, 0, 0, 0],
        2 => [bits, bits, 0, 0],
        4 => [bits; 4],
        _ => return Err(CuError::INVALID_VALUE),
    };
    Ok(ChannelFormat { bits, kind })
}

fn make(array: Out<'_, u64>, format: u32, channels: u32, extent: Extent, flags: u32) -> CuResult<()> {
    context::current()?;
    let format = channel_format(format, channels)?;
    of_runtime(|| runtime::cudaMalloc3DArray(array, Some(&format), extent, flags))
}

fn element_bytes(array: u64) -> CuResult<usize> {
    usize::try_from(Array::of(array)?.element_bytes()).map_err(|_| CuError::UNKNOWN)
}

fn copied(default: DefaultStream, stream: u64, copy: Box3D, timing: Timing) -> CuResult<()> {
    context::current()?;
    copy_3d(&resolve(default, stream)?, &copy, timing)
}

/// Copies bytes of the first row of an array.
fn linear(
    default: DefaultStream,
    stream: u64,
    dst: Side,
    src: Side,
    bytes: usize,
    timing: Timing,
) -> CuResult<()> {
    let copy = Copy3D { src, dst, width_bytes: bytes, height: 1, depth: 1 };
    copied(default, stream, copy.as_box()?, timing)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!((size_of::<Description>(), size_of::<Description3D>()), (24, 40));
        assert_eq!((size_of::<Copy2D>(), offset_of!(Copy2D, dst)), (128, 56));
        assert_eq!((size_of::<Copy3D>(), offset_of!(Copy3D, dst)), (200, 88));
        assert_eq!(offset_of!(Copy3D, width_bytes), 176);
    }

    #[test]
    fn a_box_of_memory_survives_the_way_to_the_runtime_and_back() {
        let src = Side { x_bytes: 4, y: 2, z: 1, pitch: 64, height: 8, ..Side::host(0x1000) };
        let dst = Side { pitch: 32, height: 4, ..Side::device(0x2000) };
        let copy = Copy3D { src, dst, width_bytes: 16, height: 3, depth: 2 };
        let lowered = copy.as_box().unwrap();
        assert_eq!((lowered.kind, lowered.extent.width), (1, 16));
        let back = Copy3D::of_box(&lowered).unwrap();
        assert_eq!((back.src.host, back.src.x_bytes, back.src.pitch, back.src.height), (0x1000, 4, 64, 8));
        assert_eq!((back.dst.device, back.dst.kind, back.depth), (0x2000, DEVICE, 2));
    }

    #[test]
    fn rows_without_a_pitch_follow_each_other() {
        let copy = Copy3D { src: Side::host(1), dst: Side::device(2), width_bytes: 10, height: 2, depth: 1 };
        assert_eq!(copy.as_box().unwrap().src.pitch, 10);
        let levels = Copy3D { src: Side { level: 1, ..Side::host(1) }, ..copy };
        assert_eq!(levels.as_box().err(), Some(CuError::INVALID_VALUE));
    }
}
