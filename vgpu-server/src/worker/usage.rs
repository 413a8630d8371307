//! What a worker uses of its device: memory it has taken, and the share of the last second in which it made calls.
//!
//! Posted calls that follow one another cost nothing here: time counts from the first that is queued to the last. The daemon
//! asks over a socket, which a thread of its own answers; nobody who makes calls waits for it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module's text.
#[derive(Debug)]
pub struct Usage {
    start: Instant,
    history: Mutex<History>,
    memory: Mutex<Memory>,
    /// Kernels were launched for which no call has waited yet: nobody here knows whether they run.
    unwaited: AtomicBool,
}

/// What is used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub used_bytes: u64,
    pub busy_percent: Option<u8>,
}

impl Default for Usage {
    fn default() -> Self {
        Usage {
            start: Instant::now(),
            history: Mutex::default(),
            memory: Mutex::default(),
            unwaited: AtomicBool::new(false),
        }
    }
}

impl Usage {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody begins to make calls.
    pub(crate) fn enter(&self) {
        let mut history = self.history();
        history.enter(self.start.elapsed());
    }

    /// And has made them.
    pub(crate) fn leave(&self) {
        let mut history = self.history();
        history.leave(self.start.elapsed());
    }

    /// Memory was mapped before any call.
    pub(crate) fn mapped(&self, bytes: u64) {
        self.memory().mapped_bytes += bytes;
    }

    /// A call has been made.
    pub(crate) fn made(&self, opcode: u16, arguments: &[u8]) {
        match opcode {
            // Begins and ends memory: the calls between are of the same chapter, and rare.
            MEM_MAP | MEM_UNMAP | MEM_CREATE..=MEM_UNMAP_PHYSICAL => self.memory().follow(opcode, arguments),
            _ if opcode >> 8 == LAUNCH_CHAPTER => self.unwaited.store(true, Ordering::Relaxed),
            _ if super::calls::may_wait(opcode) => self.unwaited.store(false, Ordering::Relaxed),
            _ => {}
        }
    }

    /// What is used now.
    pub fn report(&self) -> Report {
        let history = self.history();
        // While a call waits for the device, it is busy.
        let is_known = history.active > 0 || !self.unwaited.load(Ordering::Relaxed);
        Report {
            used_bytes: self.memory().mapped_bytes,
            busy_percent: is_known.then(|| history.share(self.start.elapsed())),
        }
    }

    /// Answers the daemon's questions until it is gone: a byte that tells them apart, and the report behind it.
    pub fn answer(&self, mut daemon: UnixStream) {
        let mut question = [0];
        while daemon.read_exact(&mut question).is_ok() {
            if daemon.write_all(&self.report().encode(question[0])).is_err() {
                return;
            }
        }
    }
}

impl Report {
    /// Bytes of an answer.
    pub const SIZE: usize = 10;

    /// The answer to a question.
    pub fn encode(&self, question: u8) -> [u8; Report::SIZE] {
        let mut bytes = [0; Report::SIZE];
        bytes[0] = question;
        bytes[1] = self.busy_percent.unwrap_or(u8::MAX);
        bytes[2..].copy_from_slice(&self.used_bytes.to_le_bytes());
        bytes
    }

    /// The question, and the report.
    pub fn decode(bytes: &[u8; Report::SIZE]) -> (u8, Report) {
        let [question, percent, used @ ..] = *bytes;
        let busy_percent = (percent <= 100).then_some(percent);
        (question, Report { used_bytes: u64::from_le_bytes(used), busy_percent })
    }
}

/// Memory that was taken from the device.
#[derive(Debug, Default)]
struct Memory {
    /// Of chunks and of physical memory together.
    mapped_bytes: u64,
    physical: BTreeMap<u64, Physical>,
    /// The physical memory of each mapping, by its address.
    mappings: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct Physical {
    bytes: u64,
    mappings: usize,
    is_released: bool,
}

impl Memory {
    /// Follows a call that was made: what cannot be read it has refused.
    fn follow(&mut self, opcode: u16, arguments: &[u8]) {
        let word = |at: usize| {
            arguments.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u64::from_le_bytes(*b))
        };
        let (first, second) = (word(0).unwrap_or(0), word(8).unwrap_or(0));
        match opcode {
            MEM_MAP => self.mapped_bytes += second,
            MEM_UNMAP => self.mapped_bytes = self.mapped_bytes.saturating_sub(second),
            MEM_CREATE => {
                self.mapped_bytes += second;
                self.physical.insert(first, Physical { bytes: second, ..Physical::default() });
            }
            MEM_RELEASE => self.change(first, |physical| physical.is_released = true),
            MEM_MAP_PHYSICAL => {
                let physical = word(24).unwrap_or(0);
                self.mappings.insert(first, physical);
                self.change(physical, |physical| physical.mappings += 1);
            }
            MEM_UNMAP_PHYSICAL => {
                let inside = first..first.saturating_add(second);
                let ended: Vec<(u64, u64)> =
                    self.mappings.range(inside).map(|(address, physical)| (*address, *physical)).collect();
                for (address, physical) in ended {
                    self.mappings.remove(&address);
                    self.change(physical, |physical| physical.mappings = physical.mappings.saturating_sub(1));
                }
            }
            _ => {}
        }
    }

    /// Changes what is known of physical memory. It is given back when it is released and mapped nowhere.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Physical)) {
        let Some(physical) = self.physical.get_mut(&number) else { return };
        change(physical);
        if physical.is_released && physical.mappings == 0 {
            self.mapped_bytes = self.mapped_bytes.saturating_sub(physical.bytes);
            self.physical.remove(&number);
        }
    }
}

/// Busy time of the last second, in slots. Times are since the start of the worker.
#[derive(Clone, Debug, Default)]
struct History {
    /// Who makes calls now, and since when somebody does.
    active: u32,
    since: Duration,
    /// Number of the slot, and its busy time.
    slots: [(u128, Duration); SLOTS],
}

impl History {
    fn enter(&mut self, now: Duration) {
        if self.active == 0 {
            self.since = now;
        }
        self.active += 1;
    }

    fn leave(&mut self, now: Duration) {
        self.active -= 1;
        if self.active == 0 {
            self.add(self.since, now);
        }
    }

    fn add(&mut self, from: Duration, to: Duration) {
        let mut at = from.max(to.saturating_sub(SLOT * SLOT_COUNT));
        while at < to {
            let number = at.as_nanos() / SLOT.as_nanos();
            let left = SLOT.as_nanos() - at.as_nanos() % SLOT.as_nanos();
            let end = to.min(at + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX)));
            let place = usize::try_from(number % SLOTS as u128).expect("less than the slots");
            let slot = &mut self.slots[place];
            if slot.0 != number {
                *slot = (number, Duration::ZERO);
            }
            slot.1 += end - at;
            at = end;
        }
    }

    /// Percent of the last second, or of the time since the start if that is less.
    fn share(&self, now: Duration) -> u8 {
        let mut history = self.clone();
        if self.active > 0 {
            history.add(self.since, now);
        }
        let last = now.as_nanos() / SLOT.as_nanos();
        let first = (last + 1).saturating_sub(SLOTS as u128);
        let window = now.as_nanos() - first * SLOT.as_nanos();
        let busy: u128 = history
            .slots
            .iter()
            .filter(|(number, _)| (first..=last).contains(number))
            .map(|(_, busy)| busy.as_nanos())
            .sum();
        u8::try_from((busy * 100).checked_div(window).unwrap_or(0)).unwrap_or(100).min(100)
    }
}

/// The last second, in slots.
const SLOT: Duration = Duration::from_millis(50);
const SLOTS: usize = 20;
const SLOT_COUNT: u32 = 20;

const MEM_MAP: u16 = 0x0301;
const MEM_UNMAP: u16 = 0x0302;
const MEM_CREATE: u16 = 0x0306;
const MEM_RELEASE: u16 = 0x0307;
const MEM_MAP_PHYSICAL: u16 = 0x0308;
const MEM_UNMAP_PHYSICAL: u16 = 0x0309;
const LAUNCH_CHAPTER: u16 = 0x07;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_share_is_that_of_the_last_second() {
        let mut history = History::default();
        assert_eq!(history.share(at(0)), 0);
        history.enter(at(1000));
        // Two at once are no more than one.
        history.enter(at(1100));
        history.leave(at(1200));
        assert_eq!(history.share(at(1250)), 26, "it goes on: 250 of 950 ms");
        history.leave(at(1500));
        assert_eq!(history.share(at(1999)), 50);
        assert_eq!(history.share(at(2250)), 21, "of the first 500 ms the last 200 count");
        assert_eq!(history.share(at(9000)), 0);
        history.enter(at(10_000));
        assert_eq!(history.share(at(20_000)), 100);
        history.leave(at(20_000));
        assert_eq!(history.share(at(20_475)), 51);
    }

    #[test]
    fn a_young_worker_is_measured_since_its_start() {
        let mut history = History::default();
        history.enter(at(0));
        history.leave(at(10));
        assert_eq!(history.share(at(40)), 25);
    }

    #[test]
    fn memory_is_what_was_mapped_and_launches_are_unknown_until_somebody_waits() {
        let usage = Usage::default();
        let arguments = |bytes: u64| [(1_u64 << 45).to_le_bytes(), bytes.to_le_bytes()].concat();
        usage.made(MEM_MAP, &arguments(6 << 20));
        usage.made(MEM_MAP, &arguments(2 << 20));
        usage.made(MEM_UNMAP, &arguments(6 << 20));
        assert_eq!(usage.report().used_bytes, 2 << 20);
        assert!(usage.report().busy_percent.is_some());
        usage.made(0x0701, &[]);
        assert_eq!(usage.report().busy_percent, None);
        usage.enter();
        assert!(usage.report().busy_percent.is_some(), "somebody waits now");
        usage.made(0x0503, &[]);
        usage.leave();
        assert!(usage.report().busy_percent.is_some());
    }

    #[test]
    fn physical_memory_is_held_until_it_is_released_and_mapped_nowhere() {
        let usage = Usage::default();
        let made = |opcode, words: &[u64]| {
            usage.made(opcode, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
            usage.report().used_bytes >> 20
        };
        let mib = 1 << 20;
        usage.mapped(2 * mib);
        assert_eq!(made(MEM_CREATE, &[1, 4 * mib]), 6);
        assert_eq!(made(MEM_CREATE, &[2, 8 * mib]), 14);
        assert_eq!(made(MEM_MAP_PHYSICAL, &[0x1000 * mib, 2 * mib, 0, 1]), 14);
        assert_eq!(made(MEM_MAP_PHYSICAL, &[0x1002 * mib, 2 * mib, 2 * mib, 1]), 14);
        assert_eq!(made(MEM_RELEASE, &[2]), 6, "mapped nowhere");
        assert_eq!(made(MEM_RELEASE, &[1]), 6, "mapped twice");
        assert_eq!(made(MEM_UNMAP_PHYSICAL, &[0x1002 * mib, 2 * mib]), 6);
        assert_eq!(made(MEM_UNMAP_PHYSICAL, &[0x1000 * mib, 2 * mib]), 2);
    }

    #[test]
    fn reports_cross_the_socket() {
        for busy_percent in [None, Some(0), Some(100)] {
            let report = Report { used_bytes: 0x1122_3344_5566, busy_percent };
            assert_eq!(Report::decode(&report.encode(7)), (7, report));
        }
        let (mut near, far) = UnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || Usage::default().answer(far));
        near.write_all(&[9]).unwrap();
        let mut answer = [0; Report::SIZE];
        near.read_exact(&mut answer).unwrap();
        assert_eq!(Report::decode(&answer).0, 9);
        drop(near);
        answering.join().unwrap();
    }
}
