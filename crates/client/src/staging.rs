//! The upload staging of the worker, as the client allocates it: the client alone decides what lies where.
//!
//! A part of it is for pulled copies alone. Bytes that ride ahead of their stream hold their range until the stream
//! arrives, and a stream may wait for a pulled copy: if the former could take everything, neither would ever move. A
//! pulled copy has reached the head of its stream when its bytes are sent, so its ranges always come back.

use std::collections::BTreeMap;

/// Free ranges of the staging, by offset. First fit: ranges live for one copy each.
pub(crate) struct Staging {
    free: BTreeMap<u64, u64>,
    capacity: u64,
    /// From here on for pulled copies only.
    reserved: u64,
}

impl Staging {
    pub(crate) fn new(capacity: u64) -> Staging {
        let mut staging = Staging { free: BTreeMap::from([(0, capacity)]), capacity, reserved: capacity };
        staging.reserved = capacity - (capacity / 4).max(staging.part_bytes()).min(capacity);
        staging
    }

    /// The most bytes that one part of a copy may have: a quarter, so that four are under way, at most 1 MiB.
    pub(crate) fn part_bytes(&self) -> u64 {
        (self.capacity / 4).clamp(1, 1024 * 1024)
    }

    /// A range of `bytes` bytes for a copy that rides ahead of its stream, if one is free.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        self.take_between(0, self.reserved, bytes)
    }

    /// A range of `bytes` bytes for a pulled copy, if one is free.
    pub(crate) fn take_for_pulled(&mut self, bytes: u64) -> Option<u64> {
        self.take_between(self.reserved, self.capacity, bytes).or_else(|| self.take(bytes))
    }

    fn take_between(&mut self, from: u64, to: u64, bytes: u64) -> Option<u64> {
        let fits = |(start, room): (&u64, &u64)| {
            let at = (*start).max(from);
            (at + bytes <= (start + room).min(to)).then_some((*start, *room, at))
        };
        let (start, room, at) = self.free.iter().find_map(fits)?;
        self.free.remove(&start);
        let (end, used) = (start + room, at + bytes);
        if start < at {
            self.free.insert(start, at - start);
        }
        if used < end {
            self.free.insert(used, end - used);
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
        let mut parts: Vec<u64> = (0..3).map(|_| staging.take(25).expect("room")).collect();
        assert_eq!(staging.take(1), None, "the rest is for pulled copies");
        parts.push(staging.take_for_pulled(25).expect("room"));
        assert_eq!(staging.take_for_pulled(1), None);
        for part in [2, 0, 3, 1] {
            assert!(staging.give(parts[part], 25));
        }
        assert_eq!(staging.take(75), Some(0));
    }

    #[test]
    fn pulled_copies_find_room_whatever_rides_ahead() {
        for capacity in [1, 2, 3, 5, 100, 16 << 20, 1 << 30] {
            let mut staging = Staging::new(capacity);
            let part = staging.part_bytes();
            while staging.take(part).is_some() {}
            while staging.take(1).is_some() {}
            let pulled = staging.take_for_pulled(part);
            assert!(pulled.is_some(), "capacity {capacity}");
            assert!(staging.give(pulled.expect("just seen"), part));
        }
    }

    #[test]
    fn pulled_copies_use_the_rest_as_well() {
        let mut staging = Staging::new(100);
        let parts: Vec<u64> = (0..4).map(|_| staging.take_for_pulled(25).expect("room")).collect();
        assert_eq!(parts, [75, 0, 25, 50]);
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
