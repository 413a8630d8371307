//! Addresses and physical memory apart: reserve, create, map.
//!
//! The device has all of it but the choice of addresses, so a reservation names its place; one without a place answers
//! `CUDA_ERROR_NOT_SUPPORTED`.

use std::ffi::{c_int, c_uint};

use cuda_types::{CuError, CuResult};
use window::CHUNK_BYTES;

use crate::edge::current;
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

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AccessDescription {
    location_kind: c_int,
    location_id: c_int,
    flags: c_int,
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
        if prop.kind != PINNED || prop.location_kind != DEVICE || flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let opened = current()?;
        let number = opened.books().new_handle();
        opened.device.vgpuMemCreate(number, bytes as u64)?;
        handle.set(number)
    }

    /// Mapped memory stays until it is unmapped.
    fn cuMemRelease(handle: u64) {
        current()?.device.vgpuMemRelease(handle)
    }

    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64) {
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        current()?.device.vgpuMemMapPhysical(address, bytes as u64, offset as u64, handle)
    }

    fn cuMemUnmap(address: u64, bytes: usize) {
        current()?.device.vgpuMemUnmapPhysical(address, bytes as u64)
    }

    fn cuMemSetAccess(address: u64, bytes: usize, access: In<AccessDescription>, count: usize) {
        let opened = current()?;
        for index in 0..count {
            let AccessDescription { location_kind, flags, .. } = access.at(index)?;
            if location_kind != DEVICE {
                return Err(CuError::INVALID_VALUE);
            }
            let flags = u32::try_from(flags).map_err(|_| CuError::INVALID_VALUE)?;
            opened.device.vgpuMemSetAccess(address, bytes as u64, flags)?;
        }
        Ok(())
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
