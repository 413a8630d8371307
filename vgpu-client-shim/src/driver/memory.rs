//! Memory: allocations, page-locked and managed memory, sets, and what a pointer is.

use std::ffi::{c_int, c_void};

use cuda_types::{CUdeviceptr, CuError, CuResult};

use super::{as_the_runtime, context, entries, of_runtime, twins, virtual_memory};
use crate::edge::{DefaultStream, Out};
use crate::graph::capture;
use crate::graph::work::{Fill, Work};
use crate::handles::resolve;
use crate::managed;
use crate::runtime::memory::{self as runtime, PointerAttributes};
use crate::runtime::{host_memory, managed as runtime_managed, pool};
use crate::state::devices;
use client::hazards;

entries! {
    /// Allocates device memory.
    fn cuMemAlloc_v2(address: Out<'_, u64>, bytes: usize) {
        context::current()?;
        if bytes == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        of_runtime(|| runtime::cudaMalloc(address, bytes))
    }

    /// Allocates rows that start at multiples of the pitch.
    fn cuMemAllocPitch_v2(address: Out<'_, u64>, pitch: Out<'_, usize>, width: usize, height: usize, element_bytes: u32) {
        context::current()?;
        // CUDA Driver API, cuMemAllocPitch: what one thread reads at once.
        if !matches!(element_bytes, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        of_runtime(|| runtime::cudaMallocPitch(address, pitch, width, height))
    }

    /// Frees device memory.
    fn cuMemFree_v2(address: u64) {
        context::current()?;
        of_runtime(|| runtime::cudaFree(address))
    }

    /// Allocates page-locked memory.
    fn cuMemAllocHost_v2(pointer: Out<'_, *mut c_void>, bytes: usize) {
        context::current()?;
        if bytes == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        of_runtime(|| host_memory::cudaMallocHost(pointer, bytes))
    }

    /// Allocates memory that the device and the program reach at the same address.
    fn cuMemAllocManaged(address: Out<'_, u64>, bytes: usize, flags: u32) {
        context::current()?;
        // CU_MEM_ATTACH_SINGLE (4) cannot be given here either (CUDA Driver API, cuMemAllocManaged).
        of_runtime(|| runtime_managed::cudaMallocManaged(address, bytes, flags))
    }

    /// The allocation that holds an address: start and length, either of which may not be wanted.
    fn cuMemGetAddressRange_v2(start: Option<&mut u64>, bytes: Option<&mut usize>, address: u64) {
        context::current()?;
        let found = range_of(address).ok_or(CuError::NOT_FOUND)?;
        if let Some(start) = start {
            *start = found.0;
        }
        if let Some(bytes) = bytes {
            *bytes = usize::try_from(found.1).map_err(|_| CuError::UNKNOWN)?;
        }
        Ok(())
    }

    /// Something that is known about a pointer; also by threads without a context, which look for the memory's own.
    fn cuPointerGetAttribute(value: *mut c_void, attribute: c_int, pointer: u64) {
        if value.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        let found = attribute_of(attribute, pointer)?.ok_or(CuError::INVALID_VALUE)?;
        // SAFETY: the caller's room is what the manual has for this attribute (module doc of `edge`).
        unsafe { found.write(value) };
        Ok(())
    }

    /// What is known about a pointer; what is not becomes zero.
    fn cuPointerGetAttributes(count: u32, attributes: *const c_int, values: *const *mut c_void, pointer: u64) {
        if count == 0 || attributes.is_null() || values.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        for index in 0..count as usize {
            // SAFETY: within the caller's arrays of `count` elements (module doc of `edge`).
            let (attribute, value) = unsafe { (*attributes.add(index), *values.add(index)) };
            if value.is_null() {
                return Err(CuError::INVALID_VALUE);
            }
            let found = attribute_of(attribute, pointer)?.unwrap_or_else(|| nothing(attribute));
            // SAFETY: the caller's room is what the manual has for this attribute.
            unsafe { found.write(value) };
        }
        Ok(())
    }

    /// Sets what can be set of a pointer: that its synchronous copies really wait (6), which they do.
    fn cuPointerSetAttribute(value: *const c_void, attribute: c_int, pointer: u64) {
        context::current()?;
        if value.is_null() || range_of(pointer).is_none() {
            return Err(CuError::INVALID_VALUE);
        }
        if attribute == SYNC_MEMOPS { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }
}

as_the_runtime! {
    /// Free and total bytes of the device.
    fn cuMemGetInfo_v2(free: Out<'_, usize>, total: Out<'_, usize>) = runtime::cudaMemGetInfo;
    /// Allocates page-locked memory.
    fn cuMemHostAlloc(pointer: Out<'_, *mut c_void>, bytes: usize, flags: u32) = host_memory::cudaHostAlloc;
    /// Frees page-locked memory.
    fn cuMemFreeHost(pointer: *mut c_void) = host_memory::cudaFreeHost;
    /// Where a device reaches mapped host memory.
    fn cuMemHostGetDevicePointer_v2(address: Out<'_, u64>, pointer: *mut c_void, flags: u32) = host_memory::cudaHostGetDevicePointer;
    /// The flags of page-locked memory.
    fn cuMemHostGetFlags(flags: Out<'_, u32>, pointer: *mut c_void) = host_memory::cudaHostGetFlags;
    /// Page-locks memory of the program.
    fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: u32) = host_memory::cudaHostRegister;
    /// Page-locks memory of the program.
    fn cuMemHostRegister(pointer: *mut c_void, bytes: usize, flags: u32) = host_memory::cudaHostRegister;
    /// Ends what `cuMemHostRegister` began.
    fn cuMemHostUnregister(pointer: *mut c_void) = host_memory::cudaHostUnregister;
    /// Allocates in stream order.
    fn cuMemAllocAsync(address: Out<'_, u64>, bytes: usize, stream: u64) = pool::cudaMallocAsync;
    /// Allocates in stream order.
    fn cuMemAllocAsync_ptsz(address: Out<'_, u64>, bytes: usize, stream: u64) = pool::cudaMallocAsync_ptsz;
    /// Allocates from a pool in stream order.
    fn cuMemAllocFromPoolAsync(address: Out<'_, u64>, bytes: usize, pool: u64, stream: u64) = pool::cudaMallocFromPoolAsync;
    /// Allocates from a pool in stream order.
    fn cuMemAllocFromPoolAsync_ptsz(address: Out<'_, u64>, bytes: usize, pool: u64, stream: u64) = pool::cudaMallocFromPoolAsync_ptsz;
    /// Frees in stream order.
    fn cuMemFreeAsync(address: u64, stream: u64) = runtime::cudaFreeAsync;
    /// Frees in stream order.
    fn cuMemFreeAsync_ptsz(address: u64, stream: u64) = runtime::cudaFreeAsync_ptsz;
    /// Makes a pool.
    fn cuMemPoolCreate(pool: Out<'_, u64>, properties: Option<&pool::Properties>) = pool::cudaMemPoolCreate;
    /// Ends a pool.
    fn cuMemPoolDestroy(pool: u64) = pool::cudaMemPoolDestroy;
    /// Gives unused memory back.
    fn cuMemPoolTrimTo(pool: u64, bytes_to_keep: usize) = pool::cudaMemPoolTrimTo;
    /// Sets an attribute of a pool.
    fn cuMemPoolSetAttribute(pool: u64, attribute: c_int, value: *const c_void) = pool::cudaMemPoolSetAttribute;
    /// Reads an attribute of a pool.
    fn cuMemPoolGetAttribute(pool: u64, attribute: c_int, value: *mut c_void) = pool::cudaMemPoolGetAttribute;
    /// The pool that a location has from the start.
    fn cuMemGetDefaultMemPool(pool: Out<'_, u64>, location: Option<&runtime_managed::Location>, kind: c_int) = pool::cudaMemGetDefaultMemPool;
    /// The pool that a location's allocations come from.
    fn cuMemGetMemPool(pool: Out<'_, u64>, location: Option<&runtime_managed::Location>, kind: c_int) = pool::cudaMemGetMemPool;
    /// Sets the pool that a location's allocations come from.
    fn cuMemSetMemPool(location: Option<&runtime_managed::Location>, kind: c_int, pool: u64) = pool::cudaMemSetMemPool;
    /// Lets devices use a pool's memory.
    fn cuMemPoolSetAccess(pool: u64, descriptions: *const pool::AccessDescription, count: usize) = pool::cudaMemPoolSetAccess;
    /// What a location may do with a pool's memory.
    fn cuMemPoolGetAccess(flags: Out<'_, c_int>, pool: u64, location: Option<&[c_int; 2]>) = pool::cudaMemPoolGetAccess;
}

entries! {
    /// The pool that a device has from the start.
    fn cuDeviceGetDefaultMemPool(pool: Out<'_, u64>, device: c_int) {
        of_runtime(|| pool::cudaDeviceGetDefaultMemPool(pool, device))
    }

    /// The pool that a device allocates from.
    fn cuDeviceGetMemPool(pool: Out<'_, u64>, device: c_int) {
        of_runtime(|| pool::cudaDeviceGetMemPool(pool, device))
    }

    /// Sets the pool that a device allocates from.
    fn cuDeviceSetMemPool(device: c_int, pool: u64) {
        of_runtime(|| pool::cudaDeviceSetMemPool(device, pool))
    }

    /// Says how managed memory will be used.
    fn cuMemAdvise(address: u64, bytes: usize, advice: c_int, device: c_int) {
        context::current()?;
        of_runtime(|| runtime_managed::advise_12(address, bytes, advice, device))
    }

    /// Says how managed memory will be used.
    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: c_int, location: runtime_managed::Location) {
        context::current()?;
        of_runtime(|| runtime_managed::advise_13(address, bytes, advice, location))
    }
}

as_the_runtime! {
    /// Moves managed memory to a device, or to the host (-1).
    fn cuMemPrefetchAsync(address: u64, bytes: usize, device: c_int, stream: u64) = runtime_managed::prefetch_12;
    /// Moves managed memory to a device, or to the host (-1).
    fn cuMemPrefetchAsync_ptsz(address: u64, bytes: usize, device: c_int, stream: u64) = runtime_managed::prefetch_12_ptsz;
    /// Moves managed memory to a location.
    fn cuMemPrefetchAsync_v2(address: u64, bytes: usize, location: runtime_managed::Location, flags: u32, stream: u64) = runtime_managed::prefetch_13;
    /// Moves managed memory to a location.
    fn cuMemPrefetchAsync_v2_ptsz(address: u64, bytes: usize, location: runtime_managed::Location, flags: u32, stream: u64) = runtime_managed::prefetch_13_ptsz;
    /// Says which stream uses managed memory.
    fn cuStreamAttachMemAsync(stream: u64, address: u64, bytes: usize, flags: u32) = runtime_managed::cudaStreamAttachMemAsync;
    /// Says which stream uses managed memory.
    fn cuStreamAttachMemAsync_ptsz(stream: u64, address: u64, bytes: usize, flags: u32) = runtime_managed::cudaStreamAttachMemAsync_ptsz;
}

twins! {
    /// Sets bytes.
    fn cuMemsetD8_v2, cuMemsetD8_v2_ptds(default; address: u64, value: u8, count: usize) {
        set(default, 0, row(address, value.into(), 1, count))
    }

    /// Sets 16-bit words.
    fn cuMemsetD16_v2, cuMemsetD16_v2_ptds(default; address: u64, value: u16, count: usize) {
        set(default, 0, row(address, value.into(), 2, count))
    }

    /// Sets 32-bit words.
    fn cuMemsetD32_v2, cuMemsetD32_v2_ptds(default; address: u64, value: u32, count: usize) {
        set(default, 0, row(address, value, 4, count))
    }

    /// Sets bytes in stream order.
    fn cuMemsetD8Async, cuMemsetD8Async_ptsz(default; address: u64, value: u8, count: usize, stream: u64) {
        set(default, stream, row(address, value.into(), 1, count))
    }

    /// Sets 16-bit words in stream order.
    fn cuMemsetD16Async, cuMemsetD16Async_ptsz(default; address: u64, value: u16, count: usize, stream: u64) {
        set(default, stream, row(address, value.into(), 2, count))
    }

    /// Sets 32-bit words in stream order.
    fn cuMemsetD32Async, cuMemsetD32Async_ptsz(default; address: u64, value: u32, count: usize, stream: u64) {
        set(default, stream, row(address, value, 4, count))
    }

    /// Sets the bytes of a rectangle.
    fn cuMemsetD2D8_v2, cuMemsetD2D8_v2_ptds(default; dst: u64, pitch: usize, value: u8, width: usize, height: usize) {
        set(default, 0, Fill { dst, pitch, value: value.into(), element_bytes: 1, width, height })
    }

    /// Sets the 16-bit words of a rectangle.
    fn cuMemsetD2D16_v2, cuMemsetD2D16_v2_ptds(default; dst: u64, pitch: usize, value: u16, width: usize, height: usize) {
        set(default, 0, Fill { dst, pitch, value: value.into(), element_bytes: 2, width, height })
    }

    /// Sets the 32-bit words of a rectangle.
    fn cuMemsetD2D32_v2, cuMemsetD2D32_v2_ptds(default; dst: u64, pitch: usize, value: u32, width: usize, height: usize) {
        set(default, 0, Fill { dst, pitch, value, element_bytes: 4, width, height })
    }

    /// Sets the bytes of a rectangle in stream order.
    fn cuMemsetD2D8Async, cuMemsetD2D8Async_ptsz(default; dst: u64, pitch: usize, value: u8, width: usize, height: usize, stream: u64) {
        set(default, stream, Fill { dst, pitch, value: value.into(), element_bytes: 1, width, height })
    }

    /// Sets the 16-bit words of a rectangle in stream order.
    fn cuMemsetD2D16Async, cuMemsetD2D16Async_ptsz(default; dst: u64, pitch: usize, value: u16, width: usize, height: usize, stream: u64) {
        set(default, stream, Fill { dst, pitch, value: value.into(), element_bytes: 2, width, height })
    }

    /// Sets the 32-bit words of a rectangle in stream order.
    fn cuMemsetD2D32Async, cuMemsetD2D32Async_ptsz(default; dst: u64, pitch: usize, value: u32, width: usize, height: usize, stream: u64) {
        set(default, stream, Fill { dst, pitch, value, element_bytes: 4, width, height })
    }
}

/// `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`
const SYNC_MEMOPS: c_int = 6;

/// A value of a pointer's attribute, as wide as the program has room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Bool(bool),
    Int(u32),
    Long(u64),
    /// Two words: the tokens of peer-to-peer memory.
    Pair,
}

impl Value {
    /// # Safety
    /// `room` is as wide as the value.
    unsafe fn write(self, room: *mut c_void) {
        // SAFETY: the caller's promise, for each of the four.
        unsafe {
            match self {
                Value::Bool(value) => room.cast::<bool>().write(value),
                Value::Int(value) => room.cast::<u32>().write_unaligned(value),
                Value::Long(value) => room.cast::<u64>().write_unaligned(value),
                Value::Pair => room.cast::<[u64; 2]>().write_unaligned([0; 2]),
            }
        }
    }
}

/// `CUpointer_attribute` by number; `None` if the pointer is not known, or has no such thing.
fn attribute_of(attribute: c_int, pointer: u64) -> CuResult<Option<Value>> {
    if !(1..=21).contains(&attribute) {
        return Err(CuError::INVALID_VALUE);
    }
    let known: PointerAttributes = runtime::attributes_of(pointer)?;
    if known.kind == 0 {
        return Ok(None);
    }
    let is_host = known.kind == 1;
    let holder = devices().guess(pointer);
    let range = || range_of(pointer);
    Ok(match attribute {
        1 => match holder {
            Some(device) => Some(Value::Long(context::handle_of_device(device)?)),
            // Memory of the host belongs to no context that a thread without one could be told.
            None => Some(Value::Long(context::current().and_then(context::handle_of_device).unwrap_or(0))),
        },
        // CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE
        2 => Some(Value::Int(if is_host { 1 } else { 2 })),
        3 => (!is_host).then_some(Value::Long(pointer)),
        4 => (known.kind != 2).then_some(Value::Long(pointer)),
        5 => Some(Value::Pair),
        SYNC_MEMOPS => Some(Value::Bool(true)),
        // Unique in the process: an address is not given out twice at a time.
        7 => range().map(|(start, _)| Value::Long(start)),
        8 => Some(Value::Int(u32::from(known.kind == 3))),
        9 => Some(Value::Int(u32::try_from(known.device).unwrap_or(0))),
        10 | 15 => Some(Value::Bool(false)),
        11 | 19 => range().map(|(start, _)| Value::Long(start)),
        12 | 18 => range().map(|(_, bytes)| Value::Long(bytes)),
        13 => Some(Value::Bool(true)),
        14 => Some(Value::Long(0)),
        // CU_POINTER_ATTRIBUTE_ACCESS_FLAGS_READWRITE
        16 => Some(Value::Int(virtual_memory::access_at(pointer).unwrap_or(3))),
        17 => Some(Value::Long(pool::of_allocation(pointer).unwrap_or(0))),
        // What two mappings of the same physical memory have in common.
        20 => virtual_memory::mapped_at(pointer).or_else(|| Some(range()?.0)).map(Value::Long),
        _ => Some(Value::Bool(false)),
    })
}

/// CUDA Driver API, cuPointerGetAttributes: what an unknown pointer has; its device is -2.
fn nothing(attribute: c_int) -> Value {
    match attribute {
        5 => Value::Pair,
        SYNC_MEMOPS | 10 | 13 | 15 | 21 => Value::Bool(false),
        9 => Value::Int(u32::MAX - 1),
        2 | 8 | 16 => Value::Int(0),
        _ => Value::Long(0),
    }
}

/// Start and length of the memory that holds an address: of an allocation, or page-locked.
fn range_of(address: u64) -> Option<(u64, u64)> {
    let of_device = devices().guess(address).and_then(|device| device.open_session());
    match of_device.and_then(|session| session.allocation(CUdeviceptr(address))) {
        Some((start, bytes)) => Some((start.0, bytes)),
        None => {
            let (start, bytes) = hazards::registered_range(usize::try_from(address).ok()?)?;
            Some((start as u64, bytes as u64))
        }
    }
}

fn row(dst: u64, value: u32, element_bytes: u32, count: usize) -> Fill {
    Fill { dst, pitch: 0, value, element_bytes, width: count, height: 1 }
}

/// Sets elements in the order of a stream, on the device that holds them.
fn set(default: DefaultStream, stream: u64, fill: Fill) -> CuResult<()> {
    context::current()?;
    let target = resolve(default, stream)?;
    let is_empty = fill.width == 0 || fill.height == 0;
    // CUDA Driver API, cuMemsetD16: destination and pitch are multiples of the element.
    let element = u64::from(fill.element_bytes);
    if !fill.dst.is_multiple_of(element) || (fill.height > 1 && !(fill.pitch as u64).is_multiple_of(element))
    {
        return Err(CuError::INVALID_VALUE);
    }
    let work = if is_empty { Work::Empty } else { Work::set(fill)? };
    if capture::record(&target, || Ok(work.clone()))? {
        return Ok(());
    }
    if is_empty {
        return target.session.check();
    }
    target.session.check()?;
    managed::to_device(&target)?;
    work.run(&target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_pointer_has_nothing() {
        assert_eq!(nothing(9), Value::Int(u32::MAX - 1));
        assert_eq!(nothing(3), Value::Long(0));
        let mut room = [7_u64; 2];
        // SAFETY: room for two words.
        unsafe { nothing(5).write(room.as_mut_ptr().cast()) };
        assert_eq!(room, [0, 0]);
    }
}
