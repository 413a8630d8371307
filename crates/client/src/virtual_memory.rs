//! Virtual memory management: addresses, physical memory and mappings apart.
//!
//! Addresses are taken from the session's window, and everything that can be wrong about a mapping is found here, so
//! mapping, access and unmapping are posted. Only making physical memory waits: the device knows what it has left.
//!
//! Physical memory is counted by who holds its number and by its mappings; the device is told when both are gone.
//!
//! What must never happen: a range that is posted to be mapped before its last unmapping is. So what is known here
//! changes, and is posted, under the lock `allocating`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};

use cuda_types::{CUdeviceptr, CuError, CuResult};
use proto::{Caller, MemoryCalls};
use window::CHUNK_BYTES;

use crate::session::Session;

/// What work may do with mapped memory: `CUmemAccess_flags`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    None = 0,
    Read = 1,
    ReadWrite = 3,
}

/// What a session knows of its physical memory.
#[derive(Default)]
pub(crate) struct VirtualMemory {
    objects: HashMap<u64, Object>,
    /// By address.
    mappings: BTreeMap<u64, Mapping>,
}

struct Object {
    bytes: u64,
    references: u64,
    mappings: u64,
}

#[derive(Clone, Copy)]
struct Mapping {
    bytes: u64,
    object: u64,
    access: Access,
}

impl VirtualMemory {
    /// The mapping that holds an address: where it starts, its length.
    pub(crate) fn containing(&self, address: u64) -> Option<(u64, u64)> {
        self.find(address).map(|(start, mapping)| (start, mapping.bytes))
    }

    /// Whether all bytes of a range are mapped, with at least this access.
    pub(crate) fn allows(&self, access: Access, address: u64, bytes: u64) -> bool {
        let Some(end) = address.checked_add(bytes.max(1)) else { return false };
        let mut at = address;
        while at < end {
            match self.find(at) {
                Some((start, mapping)) if mapping.access >= access => at = start + mapping.bytes,
                _ => return false,
            }
        }
        true
    }

    fn find(&self, address: u64) -> Option<(u64, Mapping)> {
        let (start, mapping) = self.mappings.range(..=address).next_back()?;
        (address - start < mapping.bytes).then_some((*start, *mapping))
    }

    fn overlaps(&self, address: u64, bytes: u64) -> bool {
        let before = self.mappings.range(..address.saturating_add(bytes)).next_back();
        before.is_some_and(|(start, mapping)| start + mapping.bytes > address)
    }

    /// The mappings that make up a range exactly. CUDA Driver API, cuMemUnmap, cuMemSetAccess: whole mappings only.
    fn within(&self, address: u64, bytes: u64) -> CuResult<Vec<u64>> {
        let end = address.checked_add(bytes).filter(|_| bytes > 0).ok_or(CuError::INVALID_VALUE)?;
        let (mut starts, mut at) = (Vec::new(), address);
        for (start, mapping) in self.mappings.range(address..end) {
            if *start != at {
                return Err(CuError::INVALID_VALUE);
            }
            starts.push(*start);
            at += mapping.bytes;
        }
        if at == end { Ok(starts) } else { Err(CuError::INVALID_VALUE) }
    }

    /// Forgets an object that nobody holds and that is mapped nowhere; whether that is so.
    fn forget_unused(&mut self, number: u64) -> bool {
        let unused = |object: &Object| object.references == 0 && object.mappings == 0;
        self.objects.get(&number).is_some_and(unused) && self.objects.remove(&number).is_some()
    }
}

impl Session {
    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.allocating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `cuMemAddressReserve`: at `hint` if that is free. An alignment of 0 is the least there is.
    pub fn reserve_addresses(&self, bytes: u64, align: u64, hint: u64) -> CuResult<u64> {
        self.check()?;
        let align = align.max(1);
        if bytes == 0 || !bytes.is_multiple_of(CHUNK_BYTES) || !align.is_power_of_two() {
            return Err(CuError::INVALID_VALUE);
        }
        let _one = self.one_at_a_time();
        self.state().window.reserve(bytes, align, hint).map_err(|_| CuError::OUT_OF_MEMORY)
    }

    /// `cuMemAddressFree`: a whole reservation in which nothing is mapped any more.
    pub fn unreserve_addresses(&self, address: u64, bytes: u64) -> CuResult<()> {
        self.check()?;
        let _one = self.one_at_a_time();
        let mut state = self.state();
        if state.virtual_memory.overlaps(address, bytes) || !state.window.unreserve(address, bytes) {
            return Err(CuError::INVALID_VALUE);
        }
        Ok(())
    }

    /// `cuMemCreate`: physical memory, held once, by its number.
    pub fn create_physical(&self, bytes: u64) -> CuResult<u64> {
        self.check()?;
        if bytes == 0 || !bytes.is_multiple_of(CHUNK_BYTES) {
            return Err(CuError::INVALID_VALUE);
        }
        let number = self.new_name();
        match self.vgpuMemCreate(number, bytes) {
            Err(CuError::OUT_OF_MEMORY) => {
                // Chunks that hold no allocation any more may be enough.
                self.cuMemGetInfo_v2()?;
                self.unmap_empty_chunks()?;
                self.vgpuMemCreate(number, bytes)?;
            }
            made => made?,
        }
        self.state().virtual_memory.objects.insert(number, Object { bytes, references: 1, mappings: 0 });
        Ok(number)
    }

    /// `cuMemRelease`: one who held it does no more. Answers whether the memory is gone.
    pub fn release_physical(&self, number: u64) -> CuResult<bool> {
        let _one = self.one_at_a_time();
        let is_gone = {
            let mut state = self.state();
            let object = state.virtual_memory.objects.get_mut(&number);
            let object = object.filter(|object| object.references > 0).ok_or(CuError::INVALID_VALUE)?;
            object.references -= 1;
            state.virtual_memory.forget_unused(number)
        };
        if is_gone {
            self.vgpuMemRelease(number)?;
        }
        Ok(is_gone)
    }

    /// `cuMemRetainAllocationHandle`: one more holds the memory that is mapped at an address.
    pub fn retain_physical(&self, address: u64) -> CuResult<u64> {
        self.check()?;
        let mut state = self.state();
        let (_, mapping) = state.virtual_memory.find(address).ok_or(CuError::INVALID_VALUE)?;
        if let Some(object) = state.virtual_memory.objects.get_mut(&mapping.object) {
            object.references += 1;
        }
        Ok(mapping.object)
    }

    /// The number of the memory that is mapped at an address.
    pub fn physical_at(&self, address: CUdeviceptr) -> Option<u64> {
        self.state().virtual_memory.find(address.0).map(|(_, mapping)| mapping.object)
    }

    /// `cuMemMap`: a part of physical memory at a part of a reservation. It cannot be accessed yet.
    pub fn map_physical(&self, address: u64, bytes: u64, offset: u64, number: u64) -> CuResult<()> {
        self.check()?;
        let _one = self.one_at_a_time();
        {
            let mut state = self.state();
            let is_whole = [address, bytes, offset].iter().all(|value| value.is_multiple_of(CHUNK_BYTES));
            if bytes == 0 || !is_whole || !state.window.is_reserved(address, bytes) {
                return Err(CuError::INVALID_VALUE);
            }
            if state.virtual_memory.overlaps(address, bytes) {
                return Err(CuError::INVALID_VALUE);
            }
            let object = state.virtual_memory.objects.get_mut(&number);
            let object = object.filter(|object| object.references > 0).ok_or(CuError::INVALID_VALUE)?;
            if offset > object.bytes || bytes > object.bytes - offset {
                return Err(CuError::INVALID_VALUE);
            }
            object.mappings += 1;
            let mapping = Mapping { bytes, object: number, access: Access::None };
            state.virtual_memory.mappings.insert(address, mapping);
        }
        self.vgpuMemMapPhysical(address, bytes, offset, number)
    }

    /// `cuMemUnmap`: whole mappings. The device waits for its work first. Answers the numbers of memory that is gone.
    pub fn unmap_physical(&self, address: u64, bytes: u64) -> CuResult<Vec<u64>> {
        self.check()?;
        let _one = self.one_at_a_time();
        let gone: Vec<u64> = {
            let mut state = self.state();
            let memory = &mut state.virtual_memory;
            let mut ended = Vec::new();
            for start in memory.within(address, bytes)? {
                if let Some(mapping) = memory.mappings.remove(&start) {
                    memory.objects.entry(mapping.object).and_modify(|object| object.mappings -= 1);
                    ended.push(mapping.object);
                }
            }
            ended.into_iter().filter(|number| memory.forget_unused(*number)).collect()
        };
        self.vgpuMemUnmapPhysical(address, bytes)?;
        gone.iter().try_for_each(|number| self.vgpuMemRelease(*number))?;
        Ok(gone)
    }

    /// `cuMemSetAccess`: for whole mappings.
    pub fn set_access(&self, address: u64, bytes: u64, access: Access) -> CuResult<()> {
        self.check()?;
        let _one = self.one_at_a_time();
        {
            let mut state = self.state();
            let memory = &mut state.virtual_memory;
            for start in memory.within(address, bytes)? {
                memory.mappings.entry(start).and_modify(|mapping| mapping.access = access);
            }
        }
        self.vgpuMemSetAccess(address, bytes, access as u32)
    }

    /// `cuMemGetAccess`: of what is mapped at an address.
    pub fn access(&self, address: u64) -> Option<Access> {
        self.state().virtual_memory.find(address).map(|(_, mapping)| mapping.access)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x2000_0000_0000;
    const UNIT: u64 = CHUNK_BYTES;

    fn mapped(mappings: &[(u64, u64, Access)]) -> VirtualMemory {
        let mut memory = VirtualMemory::default();
        for (number, (start, bytes, access)) in (1..).zip(mappings) {
            memory.objects.insert(number, Object { bytes: *bytes, references: 0, mappings: 1 });
            memory.mappings.insert(AT + start, Mapping { bytes: *bytes, object: number, access: *access });
        }
        memory
    }

    #[test]
    fn a_range_across_mappings_has_the_least_of_their_access() {
        let memory = mapped(&[(0, UNIT, Access::ReadWrite), (UNIT, UNIT, Access::Read)]);
        assert!(memory.allows(Access::Read, AT + 1, 2 * UNIT - 1));
        assert!(!memory.allows(Access::Read, AT + 1, 2 * UNIT));
        assert!(memory.allows(Access::ReadWrite, AT, UNIT));
        assert!(!memory.allows(Access::ReadWrite, AT + UNIT - 1, 2));
        assert!(!memory.allows(Access::Read, AT - 1, 2));
        assert_eq!(memory.containing(AT + UNIT + 5), Some((AT + UNIT, UNIT)));
    }

    #[test]
    fn only_whole_mappings_make_up_a_range() {
        let memory = mapped(&[(0, UNIT, Access::None), (UNIT, 2 * UNIT, Access::None)]);
        assert_eq!(memory.within(AT, 3 * UNIT), Ok(vec![AT, AT + UNIT]));
        assert_eq!(memory.within(AT + UNIT, 2 * UNIT), Ok(vec![AT + UNIT]));
        for (start, bytes) in [(0, 2 * UNIT), (UNIT, UNIT), (2 * UNIT, UNIT), (0, 4 * UNIT), (0, 0)] {
            assert_eq!(
                memory.within(AT + start, bytes),
                Err(CuError::INVALID_VALUE),
                "{start:#x} {bytes:#x}"
            );
        }
    }

    #[test]
    fn memory_is_gone_when_nobody_holds_or_maps_it() {
        let mut memory = mapped(&[(0, UNIT, Access::None)]);
        assert!(!memory.forget_unused(1));
        memory.objects.entry(1).and_modify(|object| object.mappings = 0);
        assert!(memory.forget_unused(1));
        assert!(!memory.forget_unused(1));
    }
}
