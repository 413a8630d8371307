//! Memory pools: books about allocations, which are placed on this side anyway.
//!
//! A pool here holds no memory back: what is freed goes to the device's window, whose chunks stay mapped until an
//! allocation would otherwise fail. So reserved and used bytes are the same number, and reuse follows from the
//! window's own rule: a range is given out again when all work posted before its free is issued.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_types::{CuError, CuResult};

use super::managed::{LOCATION_DEVICE, Location};
use super::memory::allocate_on;
use crate::edge::{Out, Required, entries, twins};
use crate::graph::capture;
use crate::graph::memory::GraphMemory;
use crate::graph::work::Work;
use crate::handles::{self, Resolved, Table, resolve};
use crate::state::{Device, devices};

/// The pools of the process, by handle.
static POOLS: Table<Mutex<Pool>> = Table::new();
static BOOKS: Mutex<Option<Books>> = Mutex::new(None);

struct Pool {
    ordinal: usize,
    is_default: bool,
    /// Reuse policies (attributes 1 to 3): kept and answered; reuse here breaks none of them.
    reuse: [c_int; 3],
    release_threshold: u64,
    max_bytes: u64,
    used_bytes: u64,
    high_bytes: u64,
}

#[derive(Default)]
struct Books {
    defaults: HashMap<usize, u64>,
    current: HashMap<usize, u64>,
    /// Address -> pool, bytes.
    allocations: HashMap<u64, (u64, u64)>,
}

entries! {
    /// Makes a pool on a device.
    fn cudaMemPoolCreate(pool: Out<'_, u64>, properties: Option<&Properties>) {
        let (pool, properties) = (pool.required()?, properties.required()?);
        let ordinal = properties.device()?.ordinal;
        pool.write(POOLS.insert(Mutex::new(Pool::new(ordinal, false, properties.max_bytes as u64))));
        Ok(())
    }

    /// Ends a pool; what was allocated from it lives on.
    fn cudaMemPoolDestroy(pool: u64) {
        if lock(&*POOLS.get(pool)?).is_default {
            return Err(CuError::INVALID_VALUE);
        }
        POOLS.remove(pool)?;
        books().get_or_insert_default().current.retain(|_, current| *current != pool);
        Ok(())
    }

    /// The pool that a device has from the start.
    fn cudaDeviceGetDefaultMemPool(pool: Out<'_, u64>, ordinal: c_int) {
        let pool = pool.required()?;
        pool.write(default_of(devices().get(ordinal)?));
        Ok(())
    }

    /// The pool that `cudaMallocAsync` uses on a device.
    fn cudaDeviceGetMemPool(pool: Out<'_, u64>, ordinal: c_int) {
        let pool = pool.required()?;
        pool.write(current_of(devices().get(ordinal)?));
        Ok(())
    }

    /// Sets the pool that `cudaMallocAsync` uses on a device.
    fn cudaDeviceSetMemPool(ordinal: c_int, pool: u64) {
        make_current(devices().get(ordinal)?, pool)
    }

    /// The pool that a location has from the start.
    fn cudaMemGetDefaultMemPool(pool: Out<'_, u64>, location: Option<&Location>, kind: c_int) {
        let pool = pool.required()?;
        pool.write(default_of(of_location(location, kind)?));
        Ok(())
    }

    /// The pool that a location's allocations come from.
    fn cudaMemGetMemPool(pool: Out<'_, u64>, location: Option<&Location>, kind: c_int) {
        let pool = pool.required()?;
        pool.write(current_of(of_location(location, kind)?));
        Ok(())
    }

    /// Sets the pool that a location's allocations come from.
    fn cudaMemSetMemPool(location: Option<&Location>, kind: c_int, pool: u64) {
        make_current(of_location(location, kind)?, pool)
    }

    /// Gives unused memory back: a pool here holds none.
    fn cudaMemPoolTrimTo(pool: u64, _bytes_to_keep: usize) {
        POOLS.get(pool).map(drop)
    }

    /// Sets an attribute of a pool.
    fn cudaMemPoolSetAttribute(pool: u64, attribute: c_int, value: *const c_void) {
        let pool = POOLS.get(pool)?;
        let mut pool = lock(&pool);
        match attribute {
            1..=3 => pool.reuse[index(attribute)?] = read(value)?,
            4 => pool.release_threshold = read(value)?,
            // The highest marks can be reset, and only that.
            6 | 8 => match read::<u64>(value)? {
                0 => pool.high_bytes = pool.used_bytes,
                _ => return Err(CuError::INVALID_VALUE),
            },
            _ => return Err(CuError::INVALID_VALUE),
        }
        Ok(())
    }

    /// Reads an attribute of a pool.
    fn cudaMemPoolGetAttribute(pool: u64, attribute: c_int, value: *mut c_void) {
        let pool = POOLS.get(pool)?;
        let pool = lock(&pool);
        match attribute {
            1..=3 => write(value, pool.reuse[index(attribute)?]),
            4 => write(value, pool.release_threshold),
            5 | 7 => write(value, pool.used_bytes),
            6 | 8 => write(value, pool.high_bytes),
            13 => write(value, pool.max_bytes),
            _ => Err(CuError::INVALID_VALUE),
        }
    }

    /// Lets devices use a pool's memory: its own device does anyway, no other one can.
    fn cudaMemPoolSetAccess(pool: u64, descriptions: *const AccessDescription, count: usize) {
        let ordinal = lock(&*POOLS.get(pool)?).ordinal;
        if descriptions.is_null() && count > 0 {
            return Err(CuError::INVALID_VALUE);
        }
        for index in 0..count {
            // SAFETY: the caller's array of `count` descriptions (module doc of `edge`).
            let AccessDescription { location_type, location_id, flags } = unsafe { *descriptions.add(index) };
            let own = location_type == 1 && devices().get(location_id)?.ordinal == ordinal;
            match (own, flags) {
                (true, 3) | (false, 0) => {}
                (false, _) => return Err(super::error::PEER_ACCESS_UNSUPPORTED),
                (true, _) => return Err(CuError::INVALID_VALUE),
            }
        }
        Ok(())
    }

    /// What a location may do with a pool's memory.
    fn cudaMemPoolGetAccess(flags: Out<'_, c_int>, pool: u64, location: Option<&[c_int; 2]>) {
        let flags = flags.required()?;
        let [kind, id] = *location.required()?;
        let ordinal = lock(&*POOLS.get(pool)?).ordinal;
        let own = kind == 1 && devices().get(id)?.ordinal == ordinal;
        // cudaMemAccessFlagsProtReadWrite or none.
        flags.write(if own { 3 } else { 0 });
        Ok(())
    }
}

twins! {
    /// Allocates from the device's pool for use in stream order: it is there at once, which is earlier than asked.
    fn cudaMallocAsync, cudaMallocAsync_ptsz(default; pointer: Out<'_, u64>, bytes: usize, stream: u64) {
        let pointer = pointer.required()?;
        let target = resolve(default, stream)?;
        match captured(&target, target.device, bytes)? {
            Some(address) => pointer.write(address),
            None => pointer.write(from_pool(current_of(target.device), bytes)?),
        };
        Ok(())
    }

    /// Allocates from a pool for use in stream order.
    fn cudaMallocFromPoolAsync, cudaMallocFromPoolAsync_ptsz(default; pointer: Out<'_, u64>, bytes: usize, pool: u64, stream: u64) {
        let pointer = pointer.required()?;
        let target = resolve(default, stream)?;
        let device = handles::device(lock(&*POOLS.get(pool)?).ordinal)?;
        match captured(&target, device, bytes)? {
            Some(address) => pointer.write(address),
            None => pointer.write(from_pool(pool, bytes)?),
        };
        Ok(())
    }
}

/// `cudaMemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    allocation_type: c_int,
    handle_types: c_int,
    location_type: c_int,
    location_id: c_int,
    security: *const c_void,
    max_bytes: usize,
    reserved: [u64; 7],
}

/// `cudaMemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessDescription {
    location_type: c_int,
    location_id: c_int,
    flags: c_int,
}

impl Properties {
    /// What a pool on a device has.
    pub(crate) fn of_device(ordinal: usize) -> Properties {
        Properties {
            allocation_type: 1,
            handle_types: 0,
            location_type: 1,
            location_id: c_int::try_from(ordinal).unwrap_or(c_int::MAX),
            security: std::ptr::null(),
            max_bytes: 0,
            reserved: [0; 7],
        }
    }

    /// The device that memory with these properties lies on.
    pub(crate) fn device(&self) -> CuResult<&'static Device> {
        // cudaMemAllocationTypePinned, cudaMemLocationTypeDevice.
        if self.allocation_type != 1 || self.location_type != 1 {
            return Err(CuError::INVALID_VALUE);
        }
        if self.handle_types != 0 {
            // To be shared with other processes.
            return Err(CuError::NOT_SUPPORTED);
        }
        devices().get(self.location_id)
    }
}

impl Pool {
    fn new(ordinal: usize, is_default: bool, max_bytes: u64) -> Pool {
        let reuse = [1; 3];
        Pool { ordinal, is_default, reuse, release_threshold: 0, max_bytes, used_bytes: 0, high_bytes: 0 }
    }
}

/// The pool that an allocation came from.
pub(crate) fn of_allocation(address: u64) -> Option<u64> {
    books().as_ref()?.allocations.get(&address).map(|(pool, _)| *pool)
}

/// An allocation was freed: it no longer counts for its pool.
pub(crate) fn freed(address: u64) {
    let entry = books().as_mut().and_then(|books| books.allocations.remove(&address));
    if let Some((pool, bytes)) = entry
        && let Ok(pool) = POOLS.get(pool)
    {
        lock(&pool).used_bytes -= bytes;
    }
}

/// The device was reset: its pools and what they held are gone.
pub(crate) fn forget_device(ordinal: usize) {
    POOLS.remove_where(|pool| lock(pool).ordinal == ordinal);
    if let Some(books) = books().as_mut() {
        books.defaults.remove(&ordinal);
        books.current.remove(&ordinal);
        books.allocations.retain(|_, (pool, _)| POOLS.get(*pool).is_ok());
    }
}

/// The address of a new allocation node, if the stream is captured.
fn captured(target: &Resolved, device: &Device, bytes: usize) -> CuResult<Option<u64>> {
    let mut address = None;
    capture::record(target, || {
        let memory = GraphMemory::new(device, bytes)?;
        address = Some(memory.address);
        Ok(Work::Allocate(memory))
    })?;
    Ok(address)
}

fn from_pool(handle: u64, bytes: usize) -> CuResult<u64> {
    if bytes == 0 {
        return Err(CuError::INVALID_VALUE);
    }
    let pool = POOLS.get(handle)?;
    let mut pool = lock(&pool);
    let used = pool.used_bytes + bytes as u64;
    if pool.max_bytes != 0 && used > pool.max_bytes {
        return Err(CuError::OUT_OF_MEMORY);
    }
    let address = allocate_on(handles::device(pool.ordinal)?, bytes)?;
    pool.used_bytes = used;
    pool.high_bytes = pool.high_bytes.max(used);
    drop(pool);
    books().get_or_insert_default().allocations.insert(address, (handle, bytes as u64));
    Ok(address)
}

fn default_of(device: &Device) -> u64 {
    let mut books = books();
    let defaults = &mut books.get_or_insert_default().defaults;
    *defaults
        .entry(device.ordinal)
        .or_insert_with(|| POOLS.insert(Mutex::new(Pool::new(device.ordinal, true, 0))))
}

fn current_of(device: &Device) -> u64 {
    let current = books().as_ref().and_then(|books| books.current.get(&device.ordinal).copied());
    current.unwrap_or_else(|| default_of(device))
}

fn make_current(device: &Device, pool: u64) -> CuResult<()> {
    if lock(&*POOLS.get(pool)?).ordinal != device.ordinal {
        return Err(CuError::INVALID_VALUE);
    }
    books().get_or_insert_default().current.insert(device.ordinal, pool);
    Ok(())
}

/// The device of a location that has pools. Pinned memory of the host and managed memory come from no pool here.
fn of_location(location: Option<&Location>, kind: c_int) -> CuResult<&'static Device> {
    let location = *location.required()?;
    match (location.kind, kind) {
        // cudaMemAllocationTypePinned.
        (LOCATION_DEVICE, 1) => devices().get(location.id),
        (LOCATION_DEVICE | 0, 2) | (2..=4, 1 | 2) => {
            crate::log::warn(format_args!(
                "memory pools of the host and of managed memory are not supported: use cudaMallocHost, cudaMallocManaged"
            ));
            Err(CuError::NOT_SUPPORTED)
        }
        _ => Err(CuError::INVALID_VALUE),
    }
}

fn books() -> MutexGuard<'static, Option<Books>> {
    lock(&BOOKS)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(attribute: c_int) -> CuResult<usize> {
    usize::try_from(attribute - 1).map_err(|_| CuError::INVALID_VALUE)
}

fn read<T: Copy>(value: *const c_void) -> CuResult<T> {
    if value.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: the caller's value has the type that the attribute asks for (module doc of `edge`).
    Ok(unsafe { value.cast::<T>().read_unaligned() })
}

fn write<T>(value: *mut c_void, found: T) -> CuResult<()> {
    if value.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: the caller's room has the type that the attribute asks for (module doc of `edge`).
    unsafe { value.cast::<T>().write_unaligned(found) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<Properties>(), 88);
        assert_eq!(std::mem::offset_of!(Properties, max_bytes), 24);
        assert_eq!(size_of::<AccessDescription>(), 12);
    }
}
