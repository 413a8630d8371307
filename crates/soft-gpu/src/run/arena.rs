//! Memory of the device outside its window: variables of modules, the heap of device `malloc`, grid workspaces.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::jit::mapping::Mapping;

/// See the module's text. Pages cost nothing until they are touched.
pub(crate) struct Arena {
    mapping: Mapping,
    books: Mutex<Books>,
}

struct Books {
    /// Offset -> bytes.
    free: BTreeMap<u64, u64>,
    used: BTreeMap<u64, u64>,
    /// Bytes of `used` that are device heap.
    heap: BTreeMap<u64, u64>,
}

/// Address space of an arena.
const BYTES: usize = 4 << 30;
const ALIGN: u64 = 256;

impl Arena {
    pub(crate) fn new() -> io::Result<Arena> {
        let books =
            Books { free: BTreeMap::from([(0, BYTES as u64)]), used: BTreeMap::new(), heap: BTreeMap::new() };
        Ok(Arena { mapping: Mapping::new(BYTES)?, books: Mutex::new(books) })
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn base(&self) -> u64 {
        self.mapping.address() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.mapping.bytes() as u64
    }

    /// Zeroed memory at a multiple of 256.
    pub(crate) fn allocate(&self, bytes: u64) -> Option<u64> {
        let address = self.take(&mut self.lock(), bytes)?;
        Some(address)
    }

    fn take(&self, books: &mut Books, bytes: u64) -> Option<u64> {
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGN)?;
        let (offset, room) =
            books.free.iter().find(|(_, room)| **room >= bytes).map(|(at, room)| (*at, *room))?;
        books.free.remove(&offset);
        if room > bytes {
            books.free.insert(offset + bytes, room - bytes);
        }
        books.used.insert(offset, bytes);
        Some(self.base() + offset)
    }

    /// Device `malloc`: at most `limit` bytes in all.
    pub(crate) fn allocate_heap(&self, bytes: u64, limit: u64) -> Option<u64> {
        let mut books = self.lock();
        let in_use: u64 = books.heap.values().sum();
        if in_use.checked_add(bytes)? > limit {
            return None;
        }
        let address = self.take(&mut books, bytes)?;
        books.heap.insert(address, bytes);
        Some(address)
    }

    /// Gives memory back; an address that was not given out is ignored, as a wrong device `free` is.
    pub(crate) fn free(&self, address: u64) {
        let mut books = self.lock();
        let Some(offset) = address.checked_sub(self.base()) else { return };
        let Some(bytes) = books.used.remove(&offset) else { return };
        books.heap.remove(&address);
        let (mut start, mut room) = (offset, bytes);
        if let Some((before, length)) = books.free.range(..offset).next_back().map(|(at, room)| (*at, *room))
            && before + length == offset
        {
            books.free.remove(&before);
            (start, room) = (before, length + bytes);
        }
        if let Some(after) = books.free.remove(&(offset + bytes)) {
            room += after;
        }
        books.free.insert(start, room);
        self.clear(offset, bytes);
    }

    /// The next owner finds zeros.
    fn clear(&self, offset: u64, bytes: u64) {
        let address = usize::try_from(self.base() + offset).unwrap_or(0);
        let Ok(bytes) = usize::try_from(bytes) else { return };
        // SAFETY: the range lies in our own mapping, was given out and has just been taken back.
        unsafe { std::ptr::write_bytes(std::ptr::with_exposed_provenance_mut::<u8>(address), 0, bytes) };
    }

    /// Writes bytes into memory that was allocated here.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        let inside = address
            .checked_sub(self.base())
            .is_some_and(|offset| offset + bytes.len() as u64 <= self.bytes());
        assert!(inside, "callers write what they allocated");
        let target = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap_or(0));
        // SAFETY: inside our own mapping, as asserted; the caller allocated it and nothing else knows it yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_merges_and_is_zero_again() {
        let arena = Arena::new().expect("address space");
        let all: Vec<u64> = (0..3).map(|_| arena.allocate(1000).expect("room")).collect();
        arena.write(all[1], &[7; 1000]);
        for index in [1, 0, 2] {
            arena.free(all[index]);
        }
        assert_eq!(arena.allocate(arena.bytes()), Some(arena.base()), "one free range again");
    }

    #[test]
    fn the_heap_has_a_limit() {
        let arena = Arena::new().expect("address space");
        let first = arena.allocate_heap(600, 1000).expect("room");
        assert_eq!(arena.allocate_heap(600, 1000), None);
        arena.free(first);
        assert!(arena.allocate_heap(600, 1000).is_some());
    }
}
