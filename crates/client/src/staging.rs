//! The upload staging of the worker, as the client allocates it: the client alone decides what lies where.
//!
//! A part is kept for pulled copies alone. A pulled copy holds up its stream until its bytes are there, and copies
//! behind it in the stream may hold staging meanwhile: if they could hold all of it, the pull would never end.

use std::collections::BTreeMap;

/// Who takes a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// A copy whose bytes are sent with its call, and wait for its stream.
    Call,
    /// A copy that its stream has arrived at.
    Pull,
}

/// The staging, in two regions.
pub(crate) struct Staging {
    calls: Region,
    pulls: Region,
}

/// Free ranges, by offset. First fit: ranges live for one copy each.
struct Region {
    start: u64,
    end: u64,
    free: BTreeMap<u64, u64>,
}

impl Staging {
    pub(crate) fn new(capacity: u64) -> Staging {
        let kept = capacity / 4;
        Staging { calls: Region::new(0, capacity - kept), pulls: Region::new(capacity - kept, capacity) }
    }

    /// The most bytes that one part of a copy may have: half of what is kept for pulls, so that two of its parts are
    /// under way, at most 1 MiB.
    pub(crate) fn part_bytes(&self) -> u64 {
        ((self.pulls.end - self.pulls.start) / 2).clamp(1, 1024 * 1024)
    }

    /// A range of `bytes` bytes, if one is free for this use.
    pub(crate) fn take(&mut self, bytes: u64, purpose: Use) -> Option<u64> {
        match purpose {
            Use::Call => self.calls.take(bytes),
            Use::Pull => self.pulls.take(bytes).or_else(|| self.calls.take(bytes)),
        }
    }

    /// Takes a range back; `false` if it is not one that was given out.
    pub(crate) fn give(&mut self, at: u64, bytes: u64) -> bool {
        let region = if at < self.calls.end { &mut self.calls } else { &mut self.pulls };
        region.give(at, bytes)
    }
}

impl Region {
    fn new(start: u64, end: u64) -> Region {
        Region { start, end, free: BTreeMap::from([(start, end - start)]) }
    }

    fn take(&mut self, bytes: u64) -> Option<u64> {
        let (at, room) = self.free.iter().find(|(_, room)| **room >= bytes).map(|(at, room)| (*at, *room))?;
        self.free.remove(&at);
        if room > bytes {
            self.free.insert(at + bytes, room - bytes);
        }
        Some(at)
    }

    fn give(&mut self, at: u64, bytes: u64) -> bool {
        let end = match at.checked_add(bytes) {
            Some(end) if at >= self.start && end <= self.end => end,
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
        let mut staging = Staging::new(400);
        let parts: Vec<u64> = (0..4).map(|_| staging.take(75, Use::Call).expect("room")).collect();
        assert_eq!(staging.take(1, Use::Call), None);
        for part in [2, 0, 3, 1] {
            assert!(staging.give(parts[part], 75));
        }
        assert_eq!(staging.take(300, Use::Call), Some(0));
    }

    #[test]
    fn calls_leave_room_for_pulls() {
        let mut staging = Staging::new(400);
        assert_eq!(staging.take(300, Use::Call), Some(0));
        assert_eq!(staging.take(1, Use::Call), None);
        let part = staging.part_bytes();
        let first = staging.take(part, Use::Pull).expect("kept for it");
        assert!(staging.take(part, Use::Pull).is_some(), "two parts are under way");
        assert_eq!(staging.take(part, Use::Pull), None);
        assert!(staging.give(first, part));
        assert_eq!(staging.take(part, Use::Pull), Some(first));
    }

    #[test]
    fn what_was_not_given_out_is_not_taken_back() {
        let mut staging = Staging::new(400);
        assert!(!staging.give(0, 10), "free already");
        assert_eq!(staging.take(50, Use::Call), Some(0));
        assert!(!staging.give(40, 20), "half of it is free");
        assert!(!staging.give(u64::MAX, 2));
        assert!(!staging.give(290, 20), "across the regions");
        assert!(staging.give(0, 50));
    }
}
