//! Device memory: allocations, sets, and what a pointer is.

use std::ffi::{c_int, c_void};

use cuda_types::{CUdeviceptr, CuError, CuResult};
use proto::MemoryCalls;

use super::copy::{Extent, PitchedPointer};
use crate::edge::{DefaultStream, Out, Required, entries, twins};
use crate::graph::memory::GraphMemory;
use crate::graph::work::{Fill, Work};
use crate::graph::{self, capture};
use crate::handles::{Resolved, resolve};
use crate::managed;
use crate::runtime::error::INVALID_PITCH_VALUE;
use crate::state::{Device, devices};
use client::hazards;

/// Rows of pitched memory start at multiples of this, as NVIDIA's runtime has it.
const PITCH_BYTES: usize = 512;

entries! {
    /// Allocates memory on the current device.
    fn cudaMalloc(pointer: Out<'_, u64>, bytes: usize) {
        capture::refuse_unsafe()?;
        pointer.required()?.write(allocate(bytes)?);
        Ok(())
    }

    /// Frees memory of any device; NULL only makes the context, which programs use for just that.
    fn cudaFree(pointer: u64) {
        capture::refuse_unsafe()?;
        free(pointer)
    }

    /// Allocates rows that start at multiples of the pitch.
    fn cudaMallocPitch(pointer: Out<'_, u64>, pitch: Out<'_, usize>, width: usize, height: usize) {
        capture::refuse_unsafe()?;
        let (pointer, pitch) = (pointer.required()?, pitch.required()?);
        let row = pitched(width)?;
        let address = allocate(row.checked_mul(height).ok_or(CuError::OUT_OF_MEMORY)?)?;
        pointer.write(address);
        pitch.write(row);
        Ok(())
    }

    /// Allocates a box of rows.
    fn cudaMalloc3D(pointer: Out<'_, PitchedPointer>, extent: Extent) {
        capture::refuse_unsafe()?;
        let pointer = pointer.required()?;
        let pitch = pitched(extent.width)?;
        let rows = extent.height.checked_mul(extent.depth);
        let bytes = rows.and_then(|rows| rows.checked_mul(pitch)).ok_or(CuError::OUT_OF_MEMORY)?;
        let address = allocate(bytes)?;
        pointer.write(PitchedPointer { address, pitch, width: extent.width, height: extent.height });
        Ok(())
    }

    /// Free and total bytes of the current device.
    fn cudaMemGetInfo(free: Out<'_, usize>, total: Out<'_, usize>) {
        let (free, total) = (free.required()?, total.required()?);
        let (free_bytes, total_bytes) = devices().current()?.session()?.cuMemGetInfo_v2()?;
        free.write(usize::try_from(free_bytes).unwrap_or(usize::MAX));
        total.write(usize::try_from(total_bytes).unwrap_or(usize::MAX));
        Ok(())
    }

    /// What a pointer is, for major 12.
    fn pointer_attributes_12(attributes: Out<'_, PointerAttributes>, pointer: u64) {
        let found = attributes_of(pointer)?;
        attributes.required()?.write(found);
        Ok(())
    }

    /// What a pointer is, for major 13, whose structure ends with reserved words.
    fn pointer_attributes_13(attributes: Out<'_, PointerAttributes13>, pointer: u64) {
        let found = attributes_of(pointer)?;
        attributes.required()?.write(PointerAttributes13 { known: found, reserved: [0; 8] });
        Ok(())
    }
}

twins! {
    /// Frees memory in stream order: not used again before all work posted so far is done, on every stream.
    fn cudaFreeAsync, cudaFreeAsync_ptsz(default; pointer: u64, stream: u64) {
        let target = resolve(default, stream)?;
        if pointer == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let node = || Ok(Work::Free(GraphMemory::find(pointer).ok_or(CuError::INVALID_VALUE)?));
        if capture::record(&target, node)? { Ok(()) } else { free(pointer) }
    }

    /// Sets bytes.
    fn cudaMemset, cudaMemset_ptds(default; pointer: u64, value: c_int, bytes: usize) {
        set(default, 0, pointer, value, bytes)
    }

    /// Sets bytes in stream order.
    fn cudaMemsetAsync, cudaMemsetAsync_ptsz(default; pointer: u64, value: c_int, bytes: usize, stream: u64) {
        set(default, stream, pointer, value, bytes)
    }

    /// Sets the bytes of a rectangle.
    fn cudaMemset2D, cudaMemset2D_ptds(default; pointer: u64, pitch: usize, value: c_int, width: usize, height: usize) {
        set_2d(default, 0, pointer, pitch, value, width, height)
    }

    /// Sets the bytes of a rectangle in stream order.
    fn cudaMemset2DAsync, cudaMemset2DAsync_ptsz(default; pointer: u64, pitch: usize, value: c_int, width: usize, height: usize, stream: u64) {
        set_2d(default, stream, pointer, pitch, value, width, height)
    }

    /// Sets the bytes of a box.
    fn cudaMemset3D, cudaMemset3D_ptds(default; pointer: PitchedPointer, value: c_int, extent: Extent) {
        set_3d(default, 0, pointer, value, extent)
    }

    /// Sets the bytes of a box in stream order.
    fn cudaMemset3DAsync, cudaMemset3DAsync_ptsz(default; pointer: PitchedPointer, value: c_int, extent: Extent, stream: u64) {
        set_3d(default, stream, pointer, value, extent)
    }
}

/// `cudaPointerAttributes` of major 12, and the start of that of major 13.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PointerAttributes {
    /// `cudaMemoryType`: 0 unregistered, 1 host, 2 device, 3 managed.
    pub(crate) kind: u32,
    pub(crate) device: c_int,
    device_pointer: u64,
    host_pointer: u64,
}

/// `cudaPointerAttributes` of major 13.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PointerAttributes13 {
    known: PointerAttributes,
    reserved: [u64; 8],
}

/// What a pointer is, as far as this process knows.
pub(crate) fn attributes_of(pointer: u64) -> CuResult<PointerAttributes> {
    if let Some(ordinal) = managed::ordinal_of(pointer) {
        let device = devices().at(ordinal)?.program_number();
        return Ok(PointerAttributes { kind: 3, device, device_pointer: pointer, host_pointer: pointer });
    }
    if let Some(device) = devices().guess(pointer) {
        let session = device.open_session();
        let allocated = session.is_none_or(|session| {
            !session.owns(CUdeviceptr(pointer)) || session.allocation(CUdeviceptr(pointer)).is_some()
        });
        if allocated {
            return Ok(PointerAttributes {
                kind: 2,
                device: device.program_number(),
                device_pointer: pointer,
                host_pointer: 0,
            });
        }
    }
    let registered = usize::try_from(pointer).ok().and_then(hazards::registered_range);
    let device = devices().current().map_or(0, Device::program_number);
    Ok(match registered {
        // Host memory has no address on a remote device.
        Some(_) => PointerAttributes { kind: 1, device, device_pointer: 0, host_pointer: pointer },
        None => PointerAttributes { kind: 0, device: -2, device_pointer: 0, host_pointer: pointer },
    })
}

/// Allocates on the current device; 0 bytes are a NULL pointer.
fn allocate(bytes: usize) -> CuResult<u64> {
    allocate_on(devices().current()?, bytes)
}

pub(crate) fn allocate_on(device: &Device, bytes: usize) -> CuResult<u64> {
    let session = device.session()?;
    if bytes == 0 {
        session.check()?;
        return Ok(0);
    }
    Ok(session.cuMemAlloc(bytes as u64)?.0)
}

fn free(pointer: u64) -> CuResult<()> {
    if pointer == 0 {
        return devices().current()?.session()?.check();
    }
    if let Some(freed) = managed::free(pointer).or_else(|| graph::memory::free(pointer)) {
        return freed;
    }
    // No context, then nothing was allocated; but a server that is gone is told first.
    let Some(device) = devices().owner(pointer) else {
        devices().current()?.session()?.check()?;
        return Err(CuError::INVALID_VALUE);
    };
    device.session()?.cuMemFree(CUdeviceptr(pointer))?;
    super::pool::freed(pointer);
    Ok(())
}

fn pitched(width: usize) -> CuResult<usize> {
    width.checked_next_multiple_of(PITCH_BYTES).ok_or(CuError::OUT_OF_MEMORY)
}

/// The stream for a set at `pointer`: memory of another device than the stream's is refused.
fn target(default: DefaultStream, stream: u64, pointer: u64) -> CuResult<Resolved> {
    let target = resolve(default, stream)?;
    match devices().holding(pointer) {
        Some(device) if device.ordinal == target.device.ordinal => {
            managed::to_device(&target).map(|()| target)
        }
        _ => {
            target.session.check()?;
            Err(CuError::INVALID_VALUE)
        }
    }
}

fn set(default: DefaultStream, stream: u64, pointer: u64, value: c_int, bytes: usize) -> CuResult<()> {
    let node = || filled(pointer, bytes, value, bytes, 1);
    if capture::record(&resolve(default, stream)?, node)? {
        return Ok(());
    }
    if bytes == 0 {
        return resolve(default, stream)?.session.check();
    }
    let target = target(default, stream, pointer)?;
    target.session.check_target(CUdeviceptr(pointer), bytes as u64)?;
    target.session.cuMemsetD8Async(CUdeviceptr(pointer), low_byte(value), bytes as u64, target.stream)
}

fn set_2d(
    default: DefaultStream,
    stream: u64,
    pointer: u64,
    pitch: usize,
    value: c_int,
    width: usize,
    height: usize,
) -> CuResult<()> {
    if capture::record(&resolve(default, stream)?, || filled(pointer, pitch, value, width, height))? {
        return Ok(());
    }
    if width == 0 || height == 0 {
        return resolve(default, stream)?.session.check();
    }
    if height > 1 && pitch < width {
        return Err(INVALID_PITCH_VALUE);
    }
    let target = target(default, stream, pointer)?;
    let bytes = pitch.checked_mul(height - 1).and_then(|rows| rows.checked_add(width));
    target.session.check_target(CUdeviceptr(pointer), bytes.ok_or(CuError::INVALID_VALUE)? as u64)?;
    let (pitch, width, height) = (pitch as u64, width as u64, height as u64);
    target.session.cuMemsetD2D8Async(
        CUdeviceptr(pointer),
        pitch,
        low_byte(value),
        width,
        height,
        target.stream,
    )
}

fn set_3d(
    default: DefaultStream,
    stream: u64,
    pointer: PitchedPointer,
    value: c_int,
    extent: Extent,
) -> CuResult<()> {
    // Slices follow each other after `height` rows of the whole box.
    if pointer.height == extent.height || extent.depth <= 1 {
        let rows = extent.height.checked_mul(extent.depth).ok_or(CuError::INVALID_VALUE)?;
        return set_2d(default, stream, pointer.address, pointer.pitch, value, extent.width, rows);
    }
    for slice in 0..extent.depth {
        let offset = slice.checked_mul(pointer.pitch).and_then(|bytes| bytes.checked_mul(pointer.height));
        let start = offset.and_then(|offset| pointer.address.checked_add(offset as u64));
        let start = start.ok_or(CuError::INVALID_VALUE)?;
        set_2d(default, stream, start, pointer.pitch, value, extent.width, extent.height)?;
    }
    Ok(())
}

/// A set of bytes as a node; of none, an empty one.
fn filled(dst: u64, pitch: usize, value: c_int, width: usize, height: usize) -> CuResult<Work> {
    if width == 0 || height == 0 {
        return Ok(Work::Empty);
    }
    Work::set(Fill { dst, pitch, value: low_byte(value).into(), element_bytes: 1, width, height })
}

/// CUDA Runtime API, cudaMemset: the value is given as an int and used as a byte.
fn low_byte(value: c_int) -> u8 {
    value.to_le_bytes()[0]
}

/// Names a place of host memory that the caller of the C edge vouches for.
pub(crate) fn host_span(address: *const c_void, bytes: usize) -> cuda_types::HostSpan {
    // SAFETY: the program owes a mapped range until its copy is over (module doc of `edge`).
    unsafe { cuda_types::HostSpan::new(address.cast(), bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_attributes_have_the_size_of_each_major() {
        assert_eq!(size_of::<PointerAttributes>(), 24);
        assert_eq!(size_of::<PointerAttributes13>(), 88);
        assert_eq!(std::mem::offset_of!(PointerAttributes, device_pointer), 8);
        assert_eq!(std::mem::offset_of!(PointerAttributes, host_pointer), 16);
    }

    #[test]
    fn a_row_that_overflows_is_out_of_memory() {
        assert_eq!(pitched(1), Ok(512));
        assert_eq!(pitched(513), Ok(1024));
        assert_eq!(pitched(usize::MAX), Err(CuError::OUT_OF_MEMORY));
    }
}
