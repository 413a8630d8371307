//! Addresses and physical memory apart: reserve, create, map.
//!
//! The device maps a chunk and its memory in one step, so physical memory exists only while it is mapped, in one place
//! and as a whole. That is how this project uses it; other uses answer `CUDA_ERROR_NOT_SUPPORTED`.

use std::ffi::{c_int, c_uint};

use cuda_types::{CUdeviceptr, CuError, CuResult};
use window::CHUNK_BYTES;

use crate::edge::{Physical, current};
use crate::entries;
use crate::pointers::{In, Out};

/// `CUmemAllocationProp`, as far as it matters here.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AllocationProp {
    kind: c_int,
    handle_types: c_int,
    location_kind: c_int,
    location_id: c_int,
    win32: usize,
    flags: [u8; 8],
}

entries! {
    /// There is no device memory to share by descriptor, as the device's attributes say.
    fn cuMemGetHandleForAddressRange(_handle: Out<c_int>, _address: u64, _bytes: usize, _kind: c_int, _flags: u64) {
        Err(CuError::NOT_SUPPORTED)
    }

    fn cuMemAddressReserve(address: Out<u64>, bytes: usize, alignment: usize, hint: u64, flags: u64) {
        if bytes == 0 || !(bytes as u64).is_multiple_of(CHUNK_BYTES) || flags != 0 || alignment as u64 > CHUNK_BYTES {
            return Err(CuError::INVALID_VALUE);
        }
        // A place of the device's own choosing would have to be remembered by it.
        if hint == 0 {
            return Err(CuError::NOT_SUPPORTED);
        }
        current()?.device.reserve_window(hint, bytes as u64)?;
        address.set(hint)
    }

    /// Reserved addresses stay with the device; they cost nothing.
    fn cuMemAddressFree(_address: u64, _bytes: usize) {
        current().map(drop)
    }

    fn cuMemGetAllocationGranularity(bytes: Out<usize>, _prop: In<AllocationProp>, _option: c_uint) {
        bytes.set(usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX))
    }

    fn cuMemCreate(handle: Out<u64>, bytes: usize, prop: In<AllocationProp>, flags: u64) {
        let prop = prop.get()?;
        let whole = (bytes as u64).is_multiple_of(CHUNK_BYTES) && bytes > 0;
        if prop.kind != PINNED || prop.location_kind != DEVICE || !whole || flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let opened = current()?;
        let mut books = opened.books();
        let number = books.new_handle();
        books.physical.insert(number, Physical { bytes: bytes as u64, is_mapped: false });
        handle.set(number)
    }

    /// Mapped memory stays until it is unmapped.
    fn cuMemRelease(handle: u64) {
        current()?.books().physical.remove(&handle).map(drop).ok_or(CuError::INVALID_VALUE)
    }

    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, _flags: u64) {
        let opened = current()?;
        let mut books = opened.books();
        let physical = books.physical.get_mut(&handle).ok_or(CuError::INVALID_VALUE)?;
        if physical.is_mapped || offset != 0 || physical.bytes != bytes as u64 {
            return Err(CuError::NOT_SUPPORTED);
        }
        opened.device.vgpuMemMap(address, bytes as u64)?;
        // A mapping may be used as a whole; the device wants to hear of allocations.
        opened.device.cuMemAlloc_v2(CUdeviceptr(address), bytes as u64)?;
        physical.is_mapped = true;
        books.mapped.insert(address, bytes as u64);
        Ok(())
    }

    fn cuMemUnmap(address: u64, bytes: usize) {
        let opened = current()?;
        {
            let mut books = opened.books();
            if books.mapped.get(&address) != Some(&(bytes as u64)) {
                return Err(CuError::INVALID_VALUE);
            }
            books.mapped.remove(&address);
        }
        // Not under the lock: this waits for work, which may wait for other calls.
        opened.device.cuMemFree_v2(CUdeviceptr(address))?;
        opened.device.vgpuMemUnmap(address, bytes as u64)
    }

    /// Mapped memory can be used at once; this only checks that it is mapped.
    fn cuMemSetAccess(address: u64, bytes: usize, _access: In<u8>, _count: usize) {
        let opened = current()?;
        let books = opened.books();
        let mapped = books.mapped.range(..=address).next_back();
        let inside = mapped.is_some_and(|(start, length)| address - start + bytes as u64 <= *length);
        if inside { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }
}

/// The place of `cuMemAlloc`'s own addresses for device `ordinal`: far from every window that a client proposes.
pub(crate) fn own_window(ordinal: usize) -> CuResult<(u64, u64)> {
    let ordinal = u64::try_from(ordinal).map_err(|_| CuError::INVALID_DEVICE)?;
    Ok((OWN_BASE + ordinal * OWN_BYTES, OWN_BYTES))
}

const PINNED: c_int = 1;
const DEVICE: c_int = 1;
const OWN_BASE: u64 = 0x1000_0000_0000;
const OWN_BYTES: u64 = 64 << 30;
