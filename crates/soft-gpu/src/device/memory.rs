//! The device's memory: a window of address space, chunks mapped into it, exact allocations inside chunks.
//!
//! A device address is the address of the bytes in this process, so generated code uses it as it is. Pages that no
//! allocation covers are inaccessible: a kernel that goes there takes a fault which the grid runner turns into
//! `CUDA_ERROR_ILLEGAL_ADDRESS`, and copies are checked against the allocations before they are begun.
//!
//! Physical memory of its own (`cuMemCreate`) is in [`physical`]: it shares the window and the count of bytes.

mod physical;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_types::{CuError, CuResult};
use physical::Physical;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Bytes of a page; the window and its chunks are multiples of far more.
const PAGE: u64 = 4096;

/// See the module's text. All addresses are checked before they are used.
pub(crate) struct Memory {
    state: Mutex<State>,
    total: u64,
}

#[derive(Default)]
struct State {
    window: Option<(u64, u64)>,
    /// Address -> bytes.
    chunks: BTreeMap<u64, u64>,
    allocations: BTreeMap<u64, u64>,
    used: u64,
    /// Variables of modules, outside the window: address -> bytes.
    variables: BTreeMap<u64, u64>,
    physical: Physical,
}

/// What work is about to do with memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Access {
    None,
    Read,
    Write,
}

impl Memory {
    /// A device with `total` bytes.
    pub(crate) fn new(total: u64) -> Memory {
        Memory { state: Mutex::default(), total }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Base and length of the window; nothing before it is reserved.
    pub(crate) fn window(&self) -> (u64, u64) {
        self.lock().window.unwrap_or((0, 0))
    }

    /// Free and total bytes.
    pub(crate) fn info(&self) -> (u64, u64) {
        (self.total - self.lock().used, self.total)
    }

    /// Reserves the window at exactly `base`.
    pub(crate) fn reserve(&self, base: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        if state.window.is_some() {
            return Err(CuError::ILLEGAL_STATE);
        }
        let length = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: FIXED_NOREPLACE maps only where nothing is, so no memory of this process changes.
        let mapped = unsafe { mmap_anonymous(pointer(base), length, ProtFlags::empty(), flags) };
        let at = mapped.map_err(|_| CuError::MAP_FAILED)?;
        if at.addr() as u64 != base {
            // A kernel that does not know the flag takes the address as a hint.
            // SAFETY: this very range was mapped just now, and nobody knows of it.
            let _ = unsafe { munmap(at, length) };
            return Err(CuError::MAP_FAILED);
        }
        state.window = Some((base, bytes));
        Ok(())
    }

    /// Backs a range of the window with memory, inaccessible until something is allocated in it.
    pub(crate) fn map(&self, address: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        let inside = state.window.is_some_and(|(base, length)| contains((base, length), address, bytes));
        if !inside || bytes == 0 || !address.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) {
            return Err(CuError::INVALID_VALUE);
        }
        if overlaps(&state.chunks, address, bytes) || state.physical.is_mapped(address, bytes) {
            return Err(CuError::ALREADY_MAPPED);
        }
        if bytes > self.total - state.used {
            return Err(CuError::OUT_OF_MEMORY);
        }
        state.used += bytes;
        state.chunks.insert(address, bytes);
        Ok(())
    }

    /// Counts memory outside the window, of an array.
    pub(crate) fn charge(&self, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        if bytes > self.total - state.used {
            return Err(CuError::OUT_OF_MEMORY);
        }
        state.used += bytes;
        Ok(())
    }

    /// Undoes `charge`.
    pub(crate) fn refund(&self, bytes: u64) {
        let mut state = self.lock();
        state.used = state.used.saturating_sub(bytes);
    }

    /// Gives a chunk's memory back.
    pub(crate) fn unmap(&self, address: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        if state.chunks.get(&address) != Some(&bytes) || overlaps(&state.allocations, address, bytes) {
            return Err(CuError::INVALID_VALUE);
        }
        state.chunks.remove(&address);
        state.used -= bytes;
        discard(address, bytes)
    }

    /// Makes a range of a chunk an allocation.
    pub(crate) fn allocate(&self, address: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        let chunk = state.chunks.range(..=address).next_back().map(|(start, length)| (*start, *length));
        let inside = chunk.is_some_and(|chunk| contains(chunk, address, bytes));
        if !inside || bytes == 0 || overlaps(&state.allocations, address, bytes) {
            return Err(CuError::INVALID_VALUE);
        }
        state.allocations.insert(address, bytes);
        let (from, to) = (address / PAGE * PAGE, (address + bytes).next_multiple_of(PAGE));
        protect(from, to, MprotectFlags::READ | MprotectFlags::WRITE)
    }

    /// Ends an allocation: pages that no other one shares become inaccessible and lose their contents.
    pub(crate) fn free(&self, address: u64) -> CuResult<()> {
        let mut state = self.lock();
        let bytes = state.allocations.remove(&address).ok_or(CuError::INVALID_VALUE)?;
        let before = state.allocations.range(..address).next_back().map(|(start, length)| start + length);
        let after = state.allocations.range(address..).next().map(|(start, _)| *start);
        let from = (address / PAGE * PAGE).max(before.unwrap_or(0).next_multiple_of(PAGE));
        let to =
            (address + bytes).next_multiple_of(PAGE).min(after.map_or(u64::MAX, |start| start / PAGE * PAGE));
        if from < to { discard(from, to - from) } else { Ok(()) }
    }

    /// Tells of a module's variable, so that copies to it pass.
    pub(crate) fn add_variable(&self, address: u64, bytes: u64) {
        self.lock().variables.insert(address, bytes);
    }

    /// A module's variable is gone.
    pub(crate) fn remove_variable(&self, address: u64) {
        self.lock().variables.remove(&address);
    }

    /// Whether the range lies in one allocation or variable, or in mappings side by side that can be read.
    pub(crate) fn check(&self, address: u64, bytes: u64) -> CuResult<()> {
        self.check_for(Access::Read, address, bytes)
    }

    /// As [`check`](Memory::check), for bytes that will be written.
    pub(crate) fn check_write(&self, address: u64, bytes: u64) -> CuResult<()> {
        self.check_for(Access::Write, address, bytes)
    }

    fn check_for(&self, access: Access, address: u64, bytes: u64) -> CuResult<()> {
        let state = self.lock();
        let holds = |ranges: &BTreeMap<u64, u64>| {
            let found = ranges.range(..=address).next_back();
            found.is_some_and(|(start, length)| contains((*start, *length), address, bytes))
        };
        let allows = || state.physical.allows(access, address, bytes);
        (holds(&state.allocations) || holds(&state.variables) || allows())
            .then_some(())
            .ok_or(CuError::INVALID_VALUE)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some((base, bytes)) = self.lock().window
            && let Ok(length) = usize::try_from(bytes)
        {
            // SAFETY: the window is ours, and the device that could use it is being dropped.
            let _ = unsafe { munmap(pointer(base), length) };
        }
    }
}

fn contains((start, length): (u64, u64), address: u64, bytes: u64) -> bool {
    address >= start && bytes <= length && address - start <= length - bytes
}

fn overlaps(ranges: &BTreeMap<u64, u64>, address: u64, bytes: u64) -> bool {
    let end = address.saturating_add(bytes);
    ranges.range(..end).next_back().is_some_and(|(start, length)| start + length > address)
}

fn pointer(address: u64) -> *mut std::ffi::c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

fn protect(from: u64, to: u64, access: MprotectFlags) -> CuResult<()> {
    let length = usize::try_from(to - from).map_err(|_| CuError::INVALID_VALUE)?;
    // SAFETY: callers pass whole pages of our own window.
    unsafe { mprotect(pointer(from), length, access) }.map_err(|_| CuError::OUT_OF_MEMORY)
}

/// Makes pages inaccessible and gives their memory back to the system.
fn discard(address: u64, bytes: u64) -> CuResult<()> {
    let length = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: callers pass whole pages of our own window in which nothing is allocated any more; mapping over them
    // replaces their contents by nothing.
    unsafe { mmap_anonymous(pointer(address), length, ProtFlags::empty(), flags) }
        .map(drop)
        .map_err(|_| CuError::OUT_OF_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x3300_0000_0000;
    const CHUNK: u64 = 2 << 20;

    #[test]
    fn what_is_mapped_counts_and_what_is_allocated_can_be_used() {
        let memory = Memory::new(64 << 20);
        memory.reserve(BASE, 1 << 30).expect("nothing lies there");
        assert_eq!(memory.reserve(BASE, 1 << 30), Err(CuError::ILLEGAL_STATE));
        memory.map(BASE, CHUNK).expect("memory");
        assert_eq!(memory.map(BASE, CHUNK), Err(CuError::ALREADY_MAPPED));
        assert_eq!(memory.map(BASE + CHUNK, 128 << 20), Err(CuError::OUT_OF_MEMORY));
        memory.allocate(BASE + 256, 5000).expect("inside");
        assert_eq!(memory.allocate(BASE + 512, 1), Err(CuError::INVALID_VALUE), "overlaps");
        assert_eq!(memory.allocate(BASE + CHUNK - 1, 2), Err(CuError::INVALID_VALUE), "beyond the chunk");
        assert_eq!(memory.check(BASE + 256, 5000), Ok(()));
        assert_eq!(memory.check(BASE + 257, 5000), Err(CuError::INVALID_VALUE));
        assert_eq!(memory.unmap(BASE, CHUNK), Err(CuError::INVALID_VALUE), "in use");
        memory.free(BASE + 256).expect("allocated");
        assert_eq!(memory.free(BASE + 256), Err(CuError::INVALID_VALUE));
        memory.unmap(BASE, CHUNK).expect("empty");
        assert_eq!(memory.info(), (64 << 20, 64 << 20));
    }

    #[test]
    fn a_window_that_is_taken_is_refused() {
        let (first, second) = (Memory::new(1 << 20), Memory::new(1 << 20));
        first.reserve(BASE + (1 << 40), 1 << 30).expect("nothing lies there");
        assert_eq!(second.reserve(BASE + (1 << 40), 1 << 30), Err(CuError::MAP_FAILED));
        drop(first);
        second.reserve(BASE + (1 << 40), 1 << 30).expect("given back");
    }
}
