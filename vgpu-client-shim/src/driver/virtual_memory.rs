//! Virtual memory management: reserved addresses, physical memory, and what is mapped where.
//!
//! Addresses belong to a context, because each context has a window of its own; so do physical memory and mappings. A
//! call that names a device means this thread's context if that is on the device, else the device's primary one.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cuda_types::{CUdeviceptr, CuError, CuResult};

use super::{context, entries};
use crate::edge::{Out, Required};
use crate::handles::{self, Table};
use crate::log;
use crate::state::{Device, devices};
use client::Session;
use client::virtual_memory::Access;

/// Physical memory as programs name it.
struct Physical {
    ordinal: usize,
    /// What its session calls it.
    number: u64,
    properties: Properties,
}

/// The physical memory of the process.
static PHYSICAL: Table<Physical> = Table::new();

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    windows_metadata: *const c_void,
    compression: u8,
    gpu_direct_rdma: u8,
    usage: u16,
    reserved: [u8; 4],
}

// SAFETY: the pointer concerns another system; it is kept to be shown, and never looked behind.
unsafe impl Send for Properties {}
// SAFETY: as above.
unsafe impl Sync for Properties {}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    kind: c_int,
    id: c_int,
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AccessDescription {
    location: Location,
    flags: c_int,
}

/// `CU_MEM_ALLOCATION_TYPE_PINNED`, `CU_MEM_LOCATION_TYPE_DEVICE`
const PINNED: c_int = 1;
const DEVICE: c_int = 1;
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`: memory that may be exported can be made, since most programs that ask
/// for it never do.
const FILE_DESCRIPTOR: c_int = 1;
/// `CU_MEM_CREATE_USAGE_TILE_POOL`: memory of sparse arrays, which there are none of.
const TILE_POOL: u16 = 1;

entries! {
    /// Takes addresses without memory, at `hint` if that is free.
    fn cuMemAddressReserve(address: Out<'_, u64>, bytes: usize, alignment: usize, hint: u64, flags: u64) {
        let address = address.required()?;
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let session = here()?.session()?;
        address.write(session.reserve_addresses(bytes as u64, alignment as u64, hint)?);
        Ok(())
    }

    /// Gives addresses back in which nothing is mapped any more.
    fn cuMemAddressFree(address: u64, bytes: usize) {
        owner(address)?.unreserve_addresses(address, bytes as u64)
    }

    /// Makes physical memory.
    fn cuMemCreate(handle: Out<'_, u64>, bytes: usize, properties: Option<&Properties>, flags: u64) {
        let (handle, properties) = (handle.required()?, properties.required()?);
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let device = properties.device("cuMemCreate")?;
        let number = device.session()?.create_physical(bytes as u64)?;
        handle.write(PHYSICAL.insert(Physical { ordinal: device.ordinal, number, properties: *properties }));
        Ok(())
    }

    /// Gives physical memory back; it stays while it is mapped.
    fn cuMemRelease(handle: u64) {
        let (physical, session) = find(handle)?;
        if session.release_physical(physical.number)? {
            forget(physical.ordinal, physical.number);
        }
        Ok(())
    }

    /// Maps physical memory at reserved addresses; what may be done with it says `cuMemSetAccess`.
    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64) {
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let (physical, session) = find(handle)?;
        let owner = owner(address)?;
        if !Arc::ptr_eq(&owner, &session) {
            log::warn(format_args!("cuMemMap: memory can be mapped in the context alone that its addresses were reserved in"));
            return Err(CuError::NOT_SUPPORTED);
        }
        session.map_physical(address, bytes as u64, offset as u64, physical.number)
    }

    /// Ends mappings, once the device's work is done.
    fn cuMemUnmap(address: u64, bytes: usize) {
        let device = devices().owner(address).ok_or(CuError::INVALID_VALUE)?;
        for number in device.session()?.unmap_physical(address, bytes as u64)? {
            forget(device.ordinal, number);
        }
        Ok(())
    }

    /// Sets what locations may do with mapped memory.
    fn cuMemSetAccess(address: u64, bytes: usize, descriptions: *const AccessDescription, count: usize) {
        if descriptions.is_null() || count == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let device = devices().owner(address).ok_or(CuError::INVALID_VALUE)?;
        // SAFETY: the caller's array of `count` descriptions (module doc of `edge`).
        let all = unsafe { std::slice::from_raw_parts(descriptions, count) };
        let wanted: Vec<Access> = all.iter().map(|description| description.for_device(device)).collect::<CuResult<_>>()?;
        let session = device.session()?;
        wanted.into_iter().try_for_each(|access| session.set_access(address, bytes as u64, access))
    }

    /// What a location may do with what is mapped at an address.
    fn cuMemGetAccess(flags: Out<'_, u64>, location: Option<&Location>, address: u64) {
        let (flags, location) = (flags.required()?, location.required()?);
        let device = devices().owner(address).ok_or(CuError::INVALID_VALUE)?;
        let access = device.session()?.access(address).ok_or(CuError::INVALID_VALUE)?;
        if location.kind == DEVICE {
            devices().get(location.id)?;
        }
        let is_own = location.kind == DEVICE && location.id == device.program_number();
        flags.write(if is_own { access as u64 } else { Access::None as u64 });
        Ok(())
    }

    /// What sizes, addresses and offsets are multiples of.
    fn cuMemGetAllocationGranularity(bytes: Out<'_, usize>, properties: Option<&Properties>, option: c_int) {
        const GRANULARITY: usize = 2 << 20;
        let (bytes, properties) = (bytes.required()?, properties.required()?);
        // CU_MEM_ALLOC_GRANULARITY_MINIMUM, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
        if !(0..=1).contains(&option) {
            return Err(CuError::INVALID_VALUE);
        }
        properties.device("cuMemGetAllocationGranularity")?;
        bytes.write(GRANULARITY);
        Ok(())
    }

    /// The memory that is mapped at an address, held once more.
    fn cuMemRetainAllocationHandle(handle: Out<'_, u64>, address: u64) {
        let handle = handle.required()?;
        let device = devices().owner(address).ok_or(CuError::INVALID_VALUE)?;
        let number = device.session()?.retain_physical(address)?;
        handle.write(handle_of(device.ordinal, number).ok_or(CuError::UNKNOWN)?);
        Ok(())
    }

    /// What physical memory was made with.
    fn cuMemGetAllocationPropertiesFromHandle(properties: Out<'_, Properties>, handle: u64) {
        let properties = properties.required()?;
        properties.write(find(handle)?.0.properties);
        Ok(())
    }
}

impl Properties {
    /// The context of memory with these properties.
    fn device(&self, call: &str) -> CuResult<&'static Device> {
        if self.kind != PINNED {
            return Err(CuError::INVALID_VALUE);
        }
        if self.location.kind != DEVICE {
            log::warn(format_args!("{call}: memory of this machine cannot be mapped on a remote device"));
            return Err(CuError::NOT_SUPPORTED);
        }
        let refused =
            self.handle_types & !FILE_DESCRIPTOR != 0 || self.compression != 0 || self.usage & TILE_POOL != 0;
        if refused {
            log::warn(format_args!(
                "{call}: fabric handles, compressed memory and tile pools are not supported"
            ));
            return Err(CuError::NOT_SUPPORTED);
        }
        let device = devices().get(self.location.id)?;
        Ok(context::current().ok().filter(|current| current.number == device.number).unwrap_or(device))
    }
}

impl AccessDescription {
    /// The access of a device to its own memory, which is the only one that it can be given.
    fn for_device(self, device: &Device) -> CuResult<Access> {
        let access = match self.flags {
            0 => Access::None,
            1 => Access::Read,
            3 => Access::ReadWrite,
            _ => return Err(CuError::INVALID_VALUE),
        };
        if self.location.kind != DEVICE {
            log::warn(format_args!("cuMemSetAccess: this machine cannot reach the device's memory"));
            return Err(CuError::NOT_SUPPORTED);
        }
        devices().get(self.location.id)?;
        if self.location.id != device.program_number() {
            log::warn(format_args!("cuMemSetAccess: a device cannot reach the memory of another one"));
            return Err(CuError::NOT_SUPPORTED);
        }
        Ok(access)
    }
}

/// The handle of the memory that is mapped at an address.
pub(super) fn mapped_at(address: u64) -> Option<u64> {
    let device = devices().owner(address)?;
    let number = device.open_session()?.physical_at(CUdeviceptr(address))?;
    handle_of(device.ordinal, number)
}

/// What the device may do with what is mapped at an address: `CUmemAccess_flags`.
pub(super) fn access_at(address: u64) -> Option<u32> {
    let access = devices().owner(address)?.open_session()?.access(address)?;
    Some(access as u32)
}

/// The context of an ordinal is gone, and its memory.
pub(super) fn forget_device(ordinal: usize) {
    PHYSICAL.remove_where(|physical| physical.ordinal == ordinal);
}

/// This thread's context; the first device's without one, since these calls need none (CUDA Driver API).
fn here() -> CuResult<&'static Device> {
    context::current().or_else(|_| devices().get(0))
}

/// The session in whose window an address lies.
fn owner(address: u64) -> CuResult<Arc<Session>> {
    devices().owner(address).ok_or(CuError::INVALID_VALUE)?.session()
}

fn find(handle: u64) -> CuResult<(Arc<Physical>, Arc<Session>)> {
    let physical = PHYSICAL.get(handle).map_err(|_| CuError::INVALID_VALUE)?;
    let session = handles::device(physical.ordinal)?.session()?;
    Ok((physical, session))
}

fn handle_of(ordinal: usize, number: u64) -> Option<u64> {
    PHYSICAL.find(|physical| physical.ordinal == ordinal && physical.number == number)
}

fn forget(ordinal: usize, number: u64) {
    PHYSICAL.remove_where(|physical| physical.ordinal == ordinal && physical.number == number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<Properties>(), 32);
        assert_eq!(std::mem::offset_of!(Properties, location), 8);
        assert_eq!(std::mem::offset_of!(Properties, compression), 24);
        assert_eq!(std::mem::offset_of!(Properties, usage), 26);
        assert_eq!(size_of::<AccessDescription>(), 12);
    }
}
