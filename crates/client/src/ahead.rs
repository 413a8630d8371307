//! How far posts may run ahead of the device.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// As far as a round trip reaches, lest the device wait for calls while the client waits to hear that earlier ones are
/// issued. No further, because whatever another thread asks stands behind them, and the worker keeps them.
///
/// The round trip is the least that was seen: a greeting takes as long as its server needs to start a process.
pub(crate) struct Ahead {
    bytes: AtomicU64,
    /// What the worker grants for frames of calls.
    control_bytes: u64,
}

/// Where the server is near: two million bytes are 23,000 launches. With half of it one client of the null device has a
/// tenth fewer of them, with a quarter of it a fourth, and many clients lose more to the wake-ups.
const NEAR_BYTES: u64 = 2 * 1024 * 1024;
/// What is added for each millisecond of the round trip: twenty million launches a second, for a round trip that becomes
/// longer where the network or the worker is busy.
const BYTES_PER_MS: u64 = 2 * 1024 * 1024;

impl Ahead {
    pub(crate) fn new(greeting: Duration, control_bytes: u64) -> Ahead {
        Ahead { bytes: AtomicU64::new(ahead_bytes(greeting, control_bytes)), control_bytes }
    }

    /// Bytes of calls that may be under way without being issued.
    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a shorter round trip would be news.
    #[inline]
    pub(crate) fn is_far(&self) -> bool {
        self.bytes() > NEAR_BYTES
    }

    /// A question was answered in this time.
    #[cold]
    pub(crate) fn answered(&self, within: Duration) {
        self.bytes.fetch_min(ahead_bytes(within, self.control_bytes), Ordering::Relaxed);
    }
}

fn ahead_bytes(round_trip: Duration, control_bytes: u64) -> u64 {
    let milliseconds = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
    // One call may cross the edge of the window: half of it is left for that.
    NEAR_BYTES.saturating_add(milliseconds.saturating_mul(BYTES_PER_MS)).min(control_bytes / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: u64 = 16 * 1024 * 1024;

    #[test]
    fn posts_run_ahead_as_far_as_the_round_trip_reaches() {
        assert_eq!(ahead_bytes(Duration::from_micros(100), GRANTED), 2 * 1024 * 1024);
        // 10 ms at two million launches of 90 bytes a second, thrice.
        assert!(ahead_bytes(Duration::from_millis(10), GRANTED) > 3 * 1_800_000);
        assert_eq!(ahead_bytes(Duration::from_secs(1), GRANTED), 8 * 1024 * 1024);
        assert_eq!(ahead_bytes(Duration::MAX, 256 * 1024), 128 * 1024);
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
