//! How far posts may run ahead of the device.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// As far as keeps the device busy, which the worker tells, and as a round trip reaches, lest the device wait for calls
/// while the client waits to hear that earlier ones are issued. No further, because whatever another thread asks stands
/// behind them, and the worker keeps them.
///
/// The round trip is the least that was seen: a greeting takes as long as its server needs to start a process.
pub(crate) struct Ahead {
    /// For the device.
    near: AtomicU64,
    /// For the round trip.
    far: AtomicU64,
    /// Both, or what the worker grants if that is less.
    bytes: AtomicU64,
    granted: u64,
}

/// Until the worker has told, and the least: a worker tells after half of it.
const NEAR_BYTES: u64 = 512 * 1024;
/// What is added for each millisecond of the round trip: twenty million launches a second, for a round trip that becomes
/// longer where the network or the worker is busy.
const BYTES_PER_MS: u64 = 2 * 1024 * 1024;

impl Ahead {
    pub(crate) fn new(greeting: Duration, control_bytes: u64) -> Ahead {
        let ahead = Ahead {
            near: AtomicU64::new(NEAR_BYTES),
            far: AtomicU64::new(reach(greeting)),
            bytes: AtomicU64::new(0),
            // One call may cross the edge of the window: half of it is left for that.
            granted: control_bytes / 2,
        };
        ahead.settle();
        ahead
    }

    fn settle(&self) {
        let [near, far] = [&self.near, &self.far].map(|bytes| bytes.load(Ordering::Relaxed));
        self.bytes.store(near.saturating_add(far).min(self.granted), Ordering::Relaxed);
    }

    /// Bytes of calls that may be under way without being issued.
    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a shorter round trip would be news.
    #[inline]
    pub(crate) fn is_far(&self) -> bool {
        self.far.load(Ordering::Relaxed) > 0
    }

    /// A question was answered in this time.
    #[cold]
    pub(crate) fn answered(&self, within: Duration) {
        self.far.fetch_min(reach(within), Ordering::Relaxed);
        self.settle();
    }

    /// The worker has told how much keeps the device busy.
    pub(crate) fn told(&self, bytes: u64) {
        self.near.store(bytes.max(NEAR_BYTES), Ordering::Relaxed);
        self.settle();
    }
}

/// What is under way in this time.
fn reach(round_trip: Duration) -> u64 {
    u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX).saturating_mul(BYTES_PER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: u64 = 16 * 1024 * 1024;

    fn bytes(round_trip: Duration, control_bytes: u64) -> u64 {
        Ahead::new(round_trip, control_bytes).bytes()
    }

    #[test]
    fn posts_run_ahead_as_far_as_the_round_trip_reaches() {
        assert_eq!(bytes(Duration::from_micros(100), GRANTED), NEAR_BYTES);
        // 10 ms at two million launches of 90 bytes a second, thrice.
        assert!(bytes(Duration::from_millis(10), 4 * GRANTED) > 3 * 1_800_000);
        assert_eq!(bytes(Duration::from_secs(1), GRANTED), GRANTED / 2);
        assert_eq!(bytes(Duration::MAX, 256 * 1024), 128 * 1024);
    }

    #[test]
    fn posts_run_ahead_as_far_as_the_worker_is_fast() {
        let ahead = Ahead::new(Duration::from_millis(2), GRANTED);
        ahead.told(3 << 20);
        assert_eq!(ahead.bytes(), (3 << 20) + 2 * BYTES_PER_MS);
        ahead.told(1 << 20);
        assert_eq!(ahead.bytes(), (1 << 20) + 2 * BYTES_PER_MS);
        ahead.told(0);
        assert_eq!(ahead.bytes(), NEAR_BYTES + 2 * BYTES_PER_MS, "some way is needed to hear of it");
        ahead.told(u64::MAX);
        assert_eq!(ahead.bytes(), GRANTED / 2, "and no further than it has memory");
    }

    #[test]
    fn a_server_that_was_slow_to_greet_is_near_once_it_answers_quickly() {
        let ahead = Ahead::new(Duration::from_millis(3), GRANTED);
        assert_eq!(ahead.bytes(), NEAR_BYTES + 3 * BYTES_PER_MS);
        ahead.answered(Duration::from_millis(2));
        assert!(ahead.is_far());
        ahead.answered(Duration::from_micros(50));
        assert!(!ahead.is_far());
        ahead.answered(Duration::from_millis(20));
        assert_eq!(ahead.bytes(), NEAR_BYTES, "an answer that waited for the device says nothing");
    }
}
