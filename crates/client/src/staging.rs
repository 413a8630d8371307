//! The upload staging of the worker, as the client allocates it: the client alone decides what lies where.

use std::collections::BTreeMap;

/// Free ranges of the staging, by offset. First fit: ranges live for one copy each.
pub(crate) struct Staging {
    free: BTreeMap<u64, u64>,
    capacity: u64,
}

impl Staging {
    pub(crate) fn new(capacity: u64) -> Staging {
        Staging { free: BTreeMap::from([(0, capacity)]), capacity }
    }

    /// The most bytes that one part of a copy may have: a quarter, so that four are under way, at most 1 MiB.
    pub(crate) fn part_bytes(&self) -> u64 {
        (self.capacity / 4).clamp(1, 1024 * 1024)
    }

    /// A range of `bytes` bytes, if one is free.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let (at, room) = self.free.iter().find(|(_, room)| **room >= bytes).map(|(at, room)| (*at, *room))?;
        self.free.remove(&at);
        if room > bytes {
            self.free.insert(at + bytes, room - bytes);
        }
        Some(at)
    }

    /// Takes a range back; `false` if it is not one that was given out.
    pub(crate) fn give(&mut self, at: u64, bytes: u64) -> bool {
        let end = match at.checked_add(bytes) {
            Some(end) if end <= self.capacity => end,
            _ => return false,
        };
        let before = self.free.range(..end).next_back().map(|(at, room)| (*at, *room));
        if before.is_some_and(|(start, room)| start + room > at) {
            return false;
        }
        let mut merged = (at, bytes);
        if let Some((start, room)) = before.filter(|(start, room)| start + room == at) {
            self.free.remove(&start);
            merged = (start, room + bytes);
        }
        if let Some(room) = self.free.remove(&end) {
            merged.1 += room;
        }
        self.free.insert(merged.0, merged.1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_when_they_come_back_in_any_order() {
        let mut staging = Staging::new(100);
        let parts: Vec<u64> = (0..4).map(|_| staging.take(25).expect("room")).collect();
        assert_eq!(staging.take(1), None);
        for part in [2, 0, 3, 1] {
            assert!(staging.give(parts[part], 25));
        }
        assert_eq!(staging.take(100), Some(0));
    }

    #[test]
    fn what_was_not_given_out_is_not_taken_back() {
        let mut staging = Staging::new(100);
        assert!(!staging.give(0, 10), "free already");
        assert_eq!(staging.take(50), Some(0));
        assert!(!staging.give(40, 20), "half of it is free");
        assert!(!staging.give(u64::MAX, 2));
        assert!(staging.give(0, 50));
    }
}
