//! How fast calls are issued, and so how far a client need run ahead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::busy::add_alone;

/// Measures groups of calls while they are issued; only the thread with the issuing role does so.
///
/// What runs ahead keeps the device busy while the client's process is not running, but whatever another thread of the
/// client asks stands behind it. So it shall last [`AHEAD`] at the device's own pace: a launch on a GPU takes
/// microseconds, one on the null device 40 nanoseconds.
#[derive(Default)]
pub(super) struct Pace {
    /// Since the client was last told.
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    /// Bytes that are issued in [`AHEAD`] when nobody else needs the processor.
    ahead: AtomicU64,
}

/// Longer than a process mostly waits for its turn on a processor.
const AHEAD: Duration = Duration::from_millis(3);
const LEAST_BYTES: u64 = 512 * 1024;
const MOST_BYTES: u64 = 4 * 1024 * 1024;

impl Pace {
    /// A group of so many bytes has been issued since `start`, and none of its calls waited for the device.
    pub(super) fn issued(&self, bytes: u64, start: Instant) {
        self.took(bytes, start.elapsed());
    }

    fn took(&self, bytes: u64, time: Duration) {
        add_alone(&self.bytes, bytes);
        add_alone(&self.nanoseconds, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX >> 1));
    }

    /// How many bytes the client may run ahead, with what has been issued since this was asked last.
    pub(super) fn ahead(&self) -> u32 {
        let [bytes, nanoseconds, before] =
            [&self.bytes, &self.nanoseconds, &self.ahead].map(|value| value.load(Ordering::Relaxed));
        let mut ahead = before;
        if nanoseconds > 0 {
            let now = u128::from(bytes) * AHEAD.as_nanos() / u128::from(nanoseconds);
            // Other processes make it slower than it is, and nothing faster.
            ahead = u64::try_from(now).unwrap_or(u64::MAX).min(MOST_BYTES).max(before - before / 8);
            self.ahead.store(ahead, Ordering::Relaxed);
            self.bytes.store(0, Ordering::Relaxed);
            self.nanoseconds.store(0, Ordering::Relaxed);
        }
        u32::try_from(ahead.max(LEAST_BYTES)).expect("at most the most")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_runs_ahead_as_far_as_the_device_is_fast() {
        let pace = Pace::default();
        assert_eq!(u64::from(pace.ahead()), LEAST_BYTES, "nothing is known");
        // A megabyte a millisecond.
        for _ in 0..4 {
            pace.took(256 * 1024, Duration::from_micros(250));
        }
        assert_eq!(pace.ahead(), 3 * 1024 * 1024);
        assert_eq!(pace.ahead(), 3 * 1024 * 1024, "nothing new");
        pace.took(256 * 1024, Duration::from_nanos(1));
        assert_eq!(u64::from(pace.ahead()), MOST_BYTES);
        pace.took(256 * 1024, Duration::MAX);
        assert_eq!(u64::from(pace.ahead()), MOST_BYTES / 8 * 7, "once may be by chance");
        for _ in 0..20 {
            // Ninety bytes in three microseconds.
            pace.took(256 * 1024, Duration::from_millis(9));
            pace.ahead();
        }
        assert_eq!(u64::from(pace.ahead()), LEAST_BYTES);
    }
}
