//! Free ranges, found by size (best fit) and merged with their neighbours.

use std::collections::{BTreeMap, BTreeSet};

/// Disjoint ranges, ordered both ways.
#[derive(Debug, Default)]
pub(crate) struct FreeRanges {
    by_address: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
}

impl FreeRanges {
    /// Adds a range that touches no other, or must not be merged with it.
    pub(crate) fn insert(&mut self, address: u64, bytes: u64) {
        if bytes > 0 {
            self.by_address.insert(address, bytes);
            self.by_size.insert((bytes, address));
        }
    }

    /// Adds a range and merges it with those that touch it inside `[low, high)`.
    pub(crate) fn insert_merged(&mut self, address: u64, bytes: u64, low: u64, high: u64) {
        let (mut start, mut end) = (address, address + bytes);
        let before = self.by_address.range(low..address).next_back().map(|(&at, &size)| (at, size));
        if let Some((at, _)) = before.filter(|(at, size)| at + size == address) {
            self.remove(at);
            start = at;
        }
        if end < high
            && let Some(size) = self.remove(end)
        {
            end += size;
        }
        self.insert(start, end - start);
    }

    /// Removes the range that starts at `address` and answers its size.
    pub(crate) fn remove(&mut self, address: u64) -> Option<u64> {
        let bytes = self.by_address.remove(&address)?;
        self.by_size.remove(&(bytes, address));
        Some(bytes)
    }

    /// Takes exactly this range; `false` if some of it is not free.
    pub(crate) fn take_at(&mut self, address: u64, bytes: u64) -> bool {
        let before = self.by_address.range(..=address).next_back().map(|(&start, &size)| (start, size));
        let Some((start, size)) =
            before.filter(|(start, size)| bytes <= *size && address - start <= size - bytes)
        else {
            return false;
        };
        self.remove(start);
        self.insert(start, address - start);
        self.insert(address + bytes, start + size - address - bytes);
        true
    }

    /// Takes `bytes` bytes at a multiple of `align` from the smallest range that holds them; lower addresses first.
    pub(crate) fn take(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let (size, start, address) = self.by_size.range((bytes, 0)..).find_map(|&(size, start)| {
            let address = start.checked_next_multiple_of(align)?;
            (address - start <= size - bytes).then_some((size, start, address))
        })?;
        self.remove(start);
        self.insert(start, address - start);
        self.insert(address + bytes, start + size - address - bytes);
        Some(address)
    }
}
