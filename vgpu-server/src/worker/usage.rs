//! What a worker uses of its device: memory it has taken, and the share of the last second in which it made calls.
//!
//! Posted calls that follow one another cost nothing here: time counts from the first that is queued to the last. The daemon
//! asks over a socket, which a thread of its own answers; nobody who makes calls waits for it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module's text.
#[derive(Debug)]
pub struct Usage {
    start: Instant,
    history: Mutex<History>,
    mapped_bytes: AtomicU64,
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
            mapped_bytes: AtomicU64::new(0),
            unwaited: AtomicBool::new(false),
        }
    }
}

impl Usage {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A call has been made.
    pub(crate) fn made(&self, opcode: u16, arguments: &[u8]) {
        // What cannot be read was refused by the call itself.
        let bytes =
            || arguments.get(8..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        match opcode {
            MEM_MAP => {
                self.mapped_bytes.fetch_add(bytes(), Ordering::Relaxed);
            }
            MEM_UNMAP => {
                self.mapped_bytes.fetch_sub(bytes(), Ordering::Relaxed);
            }
            _ if opcode >> 8 == LAUNCH_CHAPTER => self.unwaited.store(true, Ordering::Relaxed),
            _ if super::may_wait(opcode) => self.unwaited.store(false, Ordering::Relaxed),
            _ => {}
        }
    }

    /// What is used now.
    pub fn report(&self) -> Report {
        let history = self.history();
        // While a call waits for the device, it is busy.
        let is_known = history.active > 0 || !self.unwaited.load(Ordering::Relaxed);
        Report {
            used_bytes: self.mapped_bytes.load(Ordering::Relaxed),
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
