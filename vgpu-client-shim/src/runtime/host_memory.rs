//! Page-locked host memory. It is ordinary memory of this process; that it is registered tells the client crate how
//! copies from and to it may travel (design.md section 4).

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cuda_types::{CuError, CuResult, HostSpan};

use crate::config::config;
use crate::edge::{Out, Required, entries};
use crate::graph::{capture, host_value};
use crate::registry::{Function, Kernel};
use crate::state::{Device, devices};
use crate::{log, managed};
use client::hazards;

/// `cudaHostAllocPortable | Mapped | WriteCombined`: hints about a device that shares this memory.
const ALLOCATION_FLAGS: u32 = 7;
/// `cudaHostRegisterPortable | Mapped | ReadOnly`; not `IoMemory`.
const REGISTRATION_FLAGS: u32 = 1 | 2 | 8;

/// Page-locked ranges by address.
static BLOCKS: Mutex<BTreeMap<usize, Block>> = Mutex::new(BTreeMap::new());

struct Block {
    bytes: usize,
    flags: u32,
    kind: Kind,
}

/// Who made a block, and who ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Memory of this process: `cudaMallocHost`, `cudaHostAlloc`.
    Allocated,
    /// Memory that the device reaches as well: `cudaHostAlloc` with `cudaHostAllocMapped`.
    Mapped,
    /// The program's own: `cudaHostRegister`.
    Registered,
}

/// `cudaHostAllocMapped`.
const MAPPED: u32 = 2;

entries! {
    /// Allocates page-locked memory.
    fn cudaMallocHost(pointer: Out<'_, *mut c_void>, bytes: usize) {
        capture::refuse_unsafe()?;
        let pointer = pointer.required()?;
        pointer.write(if config().pinned_is_mapped { mapped(bytes, 0)? } else { allocate(bytes, 0)? });
        Ok(())
    }

    /// Allocates page-locked memory.
    fn cudaHostAlloc(pointer: Out<'_, *mut c_void>, bytes: usize, flags: u32) {
        capture::refuse_unsafe()?;
        let pointer = pointer.required()?;
        if flags & !ALLOCATION_FLAGS != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let is_mapped = flags & MAPPED != 0 || config().pinned_is_mapped;
        pointer.write(if is_mapped { mapped(bytes, flags)? } else { allocate(bytes, flags)? });
        Ok(())
    }

    /// Where a device reaches host memory that was allocated as mapped; other host memory it does not reach.
    fn cudaHostGetDevicePointer(device_pointer: Out<'_, u64>, pointer: *mut c_void, flags: u32) {
        let device_pointer = device_pointer.required()?;
        let is_mapped = managed::ordinal_of(pointer.addr() as u64).is_some();
        match (is_mapped, flags) {
            (_, 1..) => Err(CuError::INVALID_VALUE),
            (true, 0) => {
                device_pointer.write(pointer.addr() as u64);
                Ok(())
            }
            (false, 0) if hazards::registered_range(pointer.addr()).is_some() => {
                log::warn(format_args!(
                    "cudaHostGetDevicePointer: only memory of cudaHostAlloc with cudaHostAllocMapped is supported"
                ));
                Err(CuError::NOT_SUPPORTED)
            }
            (false, 0) => Err(CuError::INVALID_VALUE),
        }
    }

    /// Frees page-locked memory.
    fn cudaFreeHost(pointer: *mut c_void) {
        capture::refuse_unsafe()?;
        let session = devices().current()?.session()?;
        if pointer.is_null() {
            return session.check();
        }
        let address = pointer.addr();
        let found = blocks(|blocks| blocks.get(&address).map(|block| (block.kind, block.bytes)));
        let bytes = match found {
            Some((Kind::Allocated, bytes)) => bytes,
            Some((Kind::Mapped, _)) => {
                blocks(|blocks| blocks.remove(&address));
                return managed::free(address as u64).unwrap_or(Err(CuError::INVALID_VALUE));
            }
            Some((Kind::Registered, _)) | None => return Err(CuError::INVALID_VALUE),
        };
        // Copies from or to it may still be under way, on any device (CUDA frees it after them).
        finish_all();
        blocks(|blocks| blocks.remove(&address));
        host_value::forget(address, bytes);
        hazards::unregister(address);
        // SAFETY: exactly the mapping that `allocate` made; no copy uses it any more.
        let unmapped = unsafe { libc::munmap(pointer, bytes) };
        if unmapped == 0 { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }

    /// Page-locks memory of the program.
    fn cudaHostRegister(pointer: *mut c_void, bytes: usize, flags: u32) {
        capture::refuse_unsafe()?;
        devices().current()?.session()?.check()?;
        if pointer.is_null() || bytes == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        if flags & !REGISTRATION_FLAGS != 0 {
            return Err(if flags & 4 != 0 { CuError::NOT_SUPPORTED } else { CuError::INVALID_VALUE });
        }
        // SAFETY: the program promises that the memory stays until it ends the registration (`cudaHostRegister`).
        let span = unsafe { HostSpan::new(pointer.cast(), bytes) };
        if !hazards::register(span) {
            return Err(CuError::HOST_MEMORY_ALREADY_REGISTERED);
        }
        blocks(|blocks| blocks.insert(pointer.addr(), Block { bytes, flags, kind: Kind::Registered }));
        note_plain(pointer.addr(), bytes);
        Ok(())
    }

    /// Ends what `cudaHostRegister` began.
    fn cudaHostUnregister(pointer: *mut c_void) {
        capture::refuse_unsafe()?;
        devices().current()?.session()?.check()?;
        if pointer.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        let address = pointer.addr();
        let registered = blocks(|blocks| blocks.get(&address).is_some_and(|block| block.kind == Kind::Registered));
        if !registered {
            return Err(CuError::HOST_MEMORY_NOT_REGISTERED);
        }
        finish_all();
        if let Some(block) = blocks(|blocks| blocks.remove(&address)) {
            host_value::forget(address, block.bytes);
        }
        hazards::unregister(address);
        Ok(())
    }

    /// The flags that page-locked memory was made with.
    fn cudaHostGetFlags(flags: Out<'_, u32>, pointer: *mut c_void) {
        let flags = flags.required()?;
        let found = blocks(|blocks| {
            let (start, block) = blocks.range(..=pointer.addr()).next_back()?;
            (pointer.addr() - start < block.bytes).then_some(block.flags)
        });
        flags.write(found.ok_or(CuError::INVALID_VALUE)?);
        Ok(())
    }
}

/// u64 and usize are the same on the platforms that have CUDA.
fn address_of(address: u64) -> usize {
    usize::try_from(address).unwrap_or(0)
}

fn blocks<T>(look: impl FnOnce(&mut BTreeMap<usize, Block>) -> T) -> T {
    look(&mut BLOCKS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Waits for the work of every context: none uses host memory after that.
fn finish_all() {
    for session in devices().iter().filter_map(Device::open_session) {
        // A context that is broken or lost uses no host memory either; its error comes with the next call.
        let _ = proto::ContextCalls::cuCtxSynchronize(&*session);
    }
}

/// Says once that a kernel is given plain page-locked memory, which a remote device does not reach.
#[inline(always)]
pub(crate) fn warn_of_plain(kernel: &Kernel, function: &Function, values: &[u8]) {
    let (low, high) = (LOWEST.load(Ordering::Relaxed), HIGHEST.load(Ordering::Relaxed));
    if low < high {
        warn_of_plain_between(low, high, kernel, function, values);
    }
}

#[cold]
fn warn_of_plain_between(low: usize, high: usize, kernel: &Kernel, function: &Function, values: &[u8]) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if SAID.load(Ordering::Relaxed) {
        return;
    }
    let mut at = 0;
    for size in &function.facts.parameters {
        let size = *size as usize;
        let word = values.get(at..at + size).and_then(|value| <[u8; 8]>::try_from(value).ok());
        at += size;
        let Some(address) = word.and_then(|word| usize::try_from(u64::from_le_bytes(word)).ok()) else {
            continue;
        };
        let is_plain = (low..high).contains(&address)
            && blocks(|blocks| {
                let (start, block) = blocks.range(..=address).next_back()?;
                (address - start < block.bytes).then_some(block.kind != Kind::Mapped)
            }) == Some(true);
        if is_plain && !SAID.swap(true, Ordering::Relaxed) {
            log::warn(format_args!(
                "kernel {} is given page-locked host memory, which a remote device does not reach unless it was \
                 allocated with cudaHostAllocMapped: set VGPU_PINNED=mapped",
                kernel.name.to_string_lossy()
            ));
        }
    }
}

/// Memory that the device reaches by turns with this process, at the same address.
fn mapped(bytes: usize, flags: u32) -> CuResult<*mut c_void> {
    let device = devices().current()?;
    device.session()?.check()?;
    if bytes == 0 {
        return Ok(std::ptr::null_mut());
    }
    let address = address_of(managed::allocate(device, bytes)?);
    blocks(|mapped| mapped.insert(address, Block { bytes, flags, kind: Kind::Mapped }));
    Ok(std::ptr::with_exposed_provenance_mut(address))
}

/// Where page-locked memory that is not mapped lies, to tell it quickly from other addresses.
static LOWEST: AtomicUsize = AtomicUsize::new(usize::MAX);
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

fn note_plain(address: usize, bytes: usize) {
    LOWEST.fetch_min(address, Ordering::Relaxed);
    HIGHEST.fetch_max(address.saturating_add(bytes), Ordering::Relaxed);
}

fn allocate(bytes: usize, flags: u32) -> CuResult<*mut c_void> {
    devices().current()?.session()?.check()?;
    if bytes == 0 {
        return Ok(std::ptr::null_mut());
    }
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: asks for new memory only.
    let pointer = unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, kind, -1, 0) };
    if pointer == libc::MAP_FAILED {
        return Err(CuError::OUT_OF_MEMORY);
    }
    // A new mapping overlaps nothing that is registered.
    // SAFETY: mapped just now, and unregistered before it is unmapped.
    hazards::register(unsafe { HostSpan::new(pointer.cast(), bytes) });
    blocks(|blocks| blocks.insert(pointer.addr(), Block { bytes, flags, kind: Kind::Allocated }));
    note_plain(pointer.addr(), bytes);
    Ok(pointer)
}
