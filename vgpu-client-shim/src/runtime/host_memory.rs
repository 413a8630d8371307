//! Page-locked host memory. It is ordinary memory of this process; that it is registered tells the client crate how
//! copies from and to it may travel (design.md section 4).

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cuda_types::{CuError, CuResult};

use crate::edge::{Out, Required, entries};
use crate::state::{Device, devices};
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
    /// Mapped by `cudaMallocHost`, to be unmapped by `cudaFreeHost`.
    is_ours: bool,
}

entries! {
    /// Allocates page-locked memory.
    fn cudaMallocHost(pointer: Out<'_, *mut c_void>, bytes: usize) {
        pointer.required()?.write(allocate(bytes, 0)?);
        Ok(())
    }

    /// Allocates page-locked memory.
    fn cudaHostAlloc(pointer: Out<'_, *mut c_void>, bytes: usize, flags: u32) {
        let pointer = pointer.required()?;
        if flags & !ALLOCATION_FLAGS != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        pointer.write(allocate(bytes, flags)?);
        Ok(())
    }

    /// Frees page-locked memory.
    fn cudaFreeHost(pointer: *mut c_void) {
        let session = devices().current()?.session()?;
        if pointer.is_null() {
            return session.check();
        }
        let address = pointer.addr();
        let bytes = blocks(|blocks| blocks.get(&address).filter(|block| block.is_ours).map(|block| block.bytes));
        let bytes = bytes.ok_or(CuError::INVALID_VALUE)?;
        // Copies from or to it may still be under way, on any device (CUDA frees it after them).
        finish_all();
        blocks(|blocks| blocks.remove(&address));
        hazards::unregister(address);
        // SAFETY: exactly the mapping that `allocate` made; no copy uses it any more.
        let unmapped = unsafe { libc::munmap(pointer, bytes) };
        if unmapped == 0 { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }

    /// Page-locks memory of the program.
    fn cudaHostRegister(pointer: *mut c_void, bytes: usize, flags: u32) {
        devices().current()?.session()?.check()?;
        if pointer.is_null() || bytes == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        if flags & !REGISTRATION_FLAGS != 0 {
            return Err(if flags & 4 != 0 { CuError::NOT_SUPPORTED } else { CuError::INVALID_VALUE });
        }
        if !hazards::register(pointer.addr(), bytes) {
            return Err(CuError::HOST_MEMORY_ALREADY_REGISTERED);
        }
        blocks(|blocks| blocks.insert(pointer.addr(), Block { bytes, flags, is_ours: false }));
        Ok(())
    }

    /// Ends what `cudaHostRegister` began.
    fn cudaHostUnregister(pointer: *mut c_void) {
        devices().current()?.session()?.check()?;
        if pointer.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        let address = pointer.addr();
        let registered = blocks(|blocks| blocks.get(&address).is_some_and(|block| !block.is_ours));
        if !registered {
            return Err(CuError::HOST_MEMORY_NOT_REGISTERED);
        }
        finish_all();
        blocks(|blocks| blocks.remove(&address));
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
    hazards::register(pointer.addr(), bytes);
    blocks(|blocks| blocks.insert(pointer.addr(), Block { bytes, flags, is_ours: true }));
    Ok(pointer)
}
