//! Physical memory apart from addresses: objects that are mapped into the window, in several places if the program
//! likes.
//!
//! An object is a part of a memory file, so that every mapping of it shows the same bytes. One file for all, because a
//! program can make more of them than a process may have descriptors. An object takes memory of the machine as it is
//! written, but counts as a whole from its making, as on a real device.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;

use cuda_types::{CuError, CuResult};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap};

use super::{Access, Memory, contains, discard, overlaps, pointer, protect};

/// What objects and mappings are multiples of.
const GRANULARITY: u64 = 2 << 20;
/// How far the file may reach, most of it nothing: parts are used again by their length alone.
const FILE_BYTES: u64 = 1 << 46;

/// The objects, and where they are mapped.
#[derive(Default)]
pub(super) struct Physical {
    file: Option<OwnedFd>,
    /// How far the file has been used.
    end: u64,
    /// Parts of the file that are used no more, by their length.
    unused: HashMap<u64, Vec<u64>>,
    objects: HashMap<u64, Object>,
    /// By address.
    mappings: BTreeMap<u64, Mapping>,
}

struct Object {
    /// Where it begins in the file.
    start: u64,
    bytes: u64,
    mappings: usize,
    is_released: bool,
}

#[derive(Clone, Copy)]
struct Mapping {
    bytes: u64,
    object: u64,
    access: Access,
}

impl Physical {
    /// Takes a part of the file, all zeros; where it begins.
    fn take(&mut self, bytes: u64) -> CuResult<u64> {
        if self.file.is_none() {
            let file = memfd_create(c"vgpu-physical", MemfdFlags::CLOEXEC);
            let file = file.map_err(|_| CuError::OUT_OF_MEMORY)?;
            ftruncate(&file, FILE_BYTES).map_err(|_| CuError::OUT_OF_MEMORY)?;
            self.file = Some(file);
        }
        if let Some(start) = self.unused.get_mut(&bytes).and_then(Vec::pop) {
            return Ok(start);
        }
        let start = self.end;
        self.end = start.checked_add(bytes).filter(|end| *end <= FILE_BYTES).ok_or(CuError::OUT_OF_MEMORY)?;
        Ok(start)
    }

    /// Gives a part of the file back to the system.
    fn give_back(&mut self, start: u64, bytes: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A part that cannot be emptied is not used again: it would not be zero.
        if self.file.as_ref().is_some_and(|file| fallocate(file, flags, start, bytes).is_ok()) {
            self.unused.entry(bytes).or_default().push(start);
        }
    }

    /// Whether something is mapped in a range.
    pub(super) fn is_mapped(&self, address: u64, bytes: u64) -> bool {
        let end = address.saturating_add(bytes);
        self.mappings.range(..end).next_back().is_some_and(|(start, mapping)| start + mapping.bytes > address)
    }

    /// Whether all bytes of a range are mapped with at least this access.
    pub(super) fn allows(&self, access: Access, address: u64, bytes: u64) -> bool {
        let Some(end) = address.checked_add(bytes.max(1)) else { return false };
        let mut at = address;
        while at < end {
            let found = self.mappings.range(..=at).next_back();
            match found {
                Some((start, mapping)) if at - start < mapping.bytes && mapping.access >= access => {
                    at = start + mapping.bytes;
                }
                _ => return false,
            }
        }
        true
    }

    /// The mappings that make up a range exactly.
    fn within(&self, address: u64, bytes: u64) -> CuResult<Vec<(u64, Mapping)>> {
        let end = address.checked_add(bytes).ok_or(CuError::INVALID_VALUE)?;
        let found: Vec<_> =
            self.mappings.range(address..end).map(|(start, mapping)| (*start, *mapping)).collect();
        let mut at = address;
        for (start, mapping) in &found {
            if *start != at {
                return Err(CuError::INVALID_VALUE);
            }
            at += mapping.bytes;
        }
        if at == end && bytes > 0 { Ok(found) } else { Err(CuError::INVALID_VALUE) }
    }
}

impl Memory {
    /// Makes an object under a number of the caller's.
    pub(crate) fn create_physical(&self, number: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) || state.physical.objects.contains_key(&number) {
            return Err(CuError::INVALID_VALUE);
        }
        if bytes > self.total - state.used {
            return Err(CuError::OUT_OF_MEMORY);
        }
        let start = state.physical.take(bytes)?;
        state.used += bytes;
        let object = Object { start, bytes, mappings: 0, is_released: false };
        state.physical.objects.insert(number, object);
        Ok(())
    }

    /// Gives an object back, now or when its last mapping ends.
    pub(crate) fn release_physical(&self, number: u64) -> CuResult<()> {
        let mut state = self.lock();
        let object = state.physical.objects.get_mut(&number).filter(|object| !object.is_released);
        object.ok_or(CuError::INVALID_HANDLE)?.is_released = true;
        state.drop_unused(number);
        Ok(())
    }

    /// Maps a part of an object; nothing may access it yet.
    pub(crate) fn map_physical(&self, address: u64, bytes: u64, offset: u64, number: u64) -> CuResult<()> {
        let mut state = self.lock();
        let inside = state.window.is_some_and(|window| contains(window, address, bytes));
        let is_whole = [address, bytes, offset].iter().all(|value| value.is_multiple_of(GRANULARITY));
        if !inside || bytes == 0 || !is_whole {
            return Err(CuError::INVALID_VALUE);
        }
        if overlaps(&state.chunks, address, bytes) || state.physical.is_mapped(address, bytes) {
            return Err(CuError::ALREADY_MAPPED);
        }
        let Physical { file, objects, .. } = &mut state.physical;
        let object = objects.get_mut(&number).filter(|object| !object.is_released);
        let (object, file) = object.zip(file.as_ref()).ok_or(CuError::INVALID_HANDLE)?;
        if !contains((0, object.bytes), offset, bytes) {
            return Err(CuError::INVALID_VALUE);
        }
        map_file(address, bytes, file, object.start + offset)?;
        object.mappings += 1;
        let mapping = Mapping { bytes, object: number, access: Access::None };
        state.physical.mappings.insert(address, mapping);
        Ok(())
    }

    /// Ends the mappings that make up a range. No work may use it any more.
    pub(crate) fn unmap_physical(&self, address: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        for (start, mapping) in state.physical.within(address, bytes)? {
            discard(start, mapping.bytes)?;
            state.physical.mappings.remove(&start);
            if let Some(object) = state.physical.objects.get_mut(&mapping.object) {
                object.mappings -= 1;
            }
            state.drop_unused(mapping.object);
        }
        Ok(())
    }

    /// Whether mappings that make up a range can do more now than `access`.
    pub(crate) fn loses_access(&self, address: u64, bytes: u64, access: Access) -> CuResult<bool> {
        let found = self.lock().physical.within(address, bytes)?;
        Ok(found.iter().any(|(_, mapping)| mapping.access > access))
    }

    /// Sets what may be done with the mappings that make up a range.
    pub(crate) fn set_access(&self, address: u64, bytes: u64, access: Access) -> CuResult<()> {
        let mut state = self.lock();
        let found = state.physical.within(address, bytes)?;
        let rights = match access {
            Access::None => MprotectFlags::empty(),
            Access::Read => MprotectFlags::READ,
            Access::Write => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        protect(address, address + bytes, rights)?;
        for (start, _) in found {
            state.physical.mappings.entry(start).and_modify(|mapping| mapping.access = access);
        }
        Ok(())
    }
}

impl super::State {
    /// Frees an object that nobody holds and that is mapped nowhere.
    fn drop_unused(&mut self, number: u64) {
        let unused = |object: &Object| object.is_released && object.mappings == 0;
        if self.physical.objects.get(&number).is_some_and(unused)
            && let Some(object) = self.physical.objects.remove(&number)
        {
            self.used -= object.bytes;
            self.physical.give_back(object.start, object.bytes);
        }
    }
}

fn map_file(address: u64, bytes: u64, file: &OwnedFd, offset: u64) -> CuResult<()> {
    let length = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
    let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: callers pass a part of our own window in which nothing is mapped or allocated.
    unsafe { mmap(pointer(address), length, ProtFlags::empty(), flags, file, offset) }
        .map(drop)
        .map_err(|_| CuError::OUT_OF_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x3500_0000_0000;
    const UNIT: u64 = GRANULARITY;

    fn device() -> Memory {
        Memory::new(16 * UNIT)
    }

    #[test]
    fn memory_stays_while_it_is_mapped_and_counts_until_then() {
        let memory = device();
        memory.reserve(BASE, 1 << 30).expect("nothing lies there");
        memory.create_physical(1, 4 * UNIT).expect("memory");
        assert_eq!(memory.create_physical(2, 13 * UNIT), Err(CuError::OUT_OF_MEMORY));
        assert_eq!(memory.create_physical(2, UNIT / 2), Err(CuError::INVALID_VALUE));
        memory.map_physical(BASE, 2 * UNIT, UNIT, 1).expect("free");
        assert_eq!(memory.map_physical(BASE + UNIT, UNIT, 0, 1), Err(CuError::ALREADY_MAPPED));
        assert_eq!(memory.map(BASE, UNIT), Err(CuError::ALREADY_MAPPED));
        assert_eq!(memory.map_physical(BASE + 8 * UNIT, 2 * UNIT, 3 * UNIT, 1), Err(CuError::INVALID_VALUE));
        memory.release_physical(1).expect("held");
        assert_eq!(memory.release_physical(1), Err(CuError::INVALID_HANDLE));
        assert_eq!(memory.info().0, 12 * UNIT);
        assert_eq!(memory.unmap_physical(BASE, UNIT), Err(CuError::INVALID_VALUE), "a part of a mapping");
        memory.unmap_physical(BASE, 2 * UNIT).expect("mapped");
        assert_eq!(memory.info().0, 16 * UNIT);
    }

    #[test]
    fn memory_is_zero_whoever_had_it_before() {
        let memory = device();
        let base = BASE + (2 << 40);
        memory.reserve(base, 1 << 30).expect("nothing lies there");
        for (number, byte) in [(1, 7), (2, 9)] {
            memory.create_physical(number, UNIT).expect("memory");
            memory.map_physical(base, UNIT, 0, number).expect("free");
            memory.set_access(base, UNIT, Access::Write).expect("mapped");
            let at = pointer(base).cast::<u8>();
            // SAFETY: mapped for writing just now, and nobody else knows of it.
            assert_eq!(unsafe { at.read() }, 0);
            // SAFETY: as above.
            unsafe { at.write(byte) };
            memory.unmap_physical(base, UNIT).expect("mapped");
            memory.release_physical(number).expect("held");
        }
        assert_eq!(memory.lock().physical.end, UNIT, "the same part of the file");
    }

    #[test]
    fn ranges_across_mappings_need_access_to_all_of_them() {
        let memory = device();
        let base = BASE + (1 << 40);
        memory.reserve(base, 1 << 30).expect("nothing lies there");
        for (number, at) in [(1, 0), (2, UNIT)] {
            memory.create_physical(number, UNIT).expect("memory");
            memory.map_physical(base + at, UNIT, 0, number).expect("free");
        }
        assert_eq!(memory.check(base, 8), Err(CuError::INVALID_VALUE), "no access yet");
        memory.set_access(base, 2 * UNIT, Access::Write).expect("mapped");
        assert_eq!(memory.check_write(base + UNIT - 4, 8), Ok(()));
        assert_eq!(memory.check(base + 2 * UNIT - 4, 8), Err(CuError::INVALID_VALUE), "beyond both");
        assert_eq!(memory.set_access(base, UNIT / 2, Access::Read), Err(CuError::INVALID_VALUE));
        assert_eq!(memory.loses_access(base + UNIT, UNIT, Access::Read), Ok(true));
        memory.set_access(base + UNIT, UNIT, Access::Read).expect("mapped");
        assert_eq!(memory.check(base + UNIT - 4, 8), Ok(()));
        assert_eq!(memory.check_write(base + UNIT - 4, 8), Err(CuError::INVALID_VALUE));
    }
}
