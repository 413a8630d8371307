//! How long a waiting thread polls before it sleeps.
//!
//! Polling pays when the answer comes soon and costs a processor when it does not. The budget follows what waiting has
//! cost lately: twice the usual wait if that is short, next to nothing if it is long (a kernel is running, nobody
//! calls).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// See the module's text.
pub(crate) struct Patience {
    /// Set by the user: then nothing is measured.
    fixed: Option<Duration>,
    /// The usual wait in nanoseconds: an average that forgets by an eighth each time.
    usual: AtomicU64,
}

/// Polling longer than this never pays: a wake-up costs less.
const LONGEST: Duration = Duration::from_micros(100);
/// So that short waits are found again after long ones.
const SHORTEST: Duration = Duration::from_micros(5);

impl Patience {
    /// `fixed`: poll that long each time (`VGPU_SPIN_US`); else by measurement, beginning with `first`.
    pub(crate) fn new(fixed: Option<Duration>, first: Duration) -> Patience {
        Patience { fixed, usual: AtomicU64::new(nanoseconds(first)) }
    }

    /// How long to poll now.
    pub(crate) fn budget(&self) -> Duration {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        if usual * 2 <= LONGEST { (usual * 2).max(SHORTEST) } else { SHORTEST }
    }

    /// Something came now, after waiting since `start`.
    pub(crate) fn learn(&self, start: Instant) {
        if self.fixed.is_none() {
            self.average(start.elapsed());
        }
    }

    fn average(&self, waited: Duration) {
        let usual = self.usual.load(Ordering::Relaxed);
        // One long wait among short ones shall not end the polling, so it counts as little more than the longest.
        let waited = nanoseconds(waited.min(LONGEST * 4));
        self.usual.store(usual - usual / 8 + waited / 8, Ordering::Relaxed);
    }
}

/// Whether this process may use so few processors that whoever polls takes one from whom it waits for.
pub(crate) fn is_crowded() -> bool {
    std::thread::available_parallelism().is_ok_and(|processors| processors.get() < ROOMY)
}

/// Program, progress thread, and on one machine also the worker's reader and issuer.
const ROOMY: usize = 4;

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_the_waits_and_gives_up_when_they_are_long() {
        let patience = Patience::new(None, Duration::from_micros(10));
        assert_eq!(patience.budget(), Duration::from_micros(20));
        (0..50).for_each(|_| patience.average(Duration::from_micros(30)));
        let budget = patience.budget();
        assert!(budget > Duration::from_micros(50) && budget < Duration::from_micros(70), "{budget:?}");
        (0..50).for_each(|_| patience.average(Duration::from_secs(1)));
        assert_eq!(patience.budget(), SHORTEST);
        (0..80).for_each(|_| patience.average(Duration::from_micros(4)));
        assert!(patience.budget() < Duration::from_micros(20), "short waits are found again");
    }

    #[test]
    fn a_fixed_budget_stays() {
        let patience = Patience::new(Some(Duration::ZERO), Duration::from_micros(10));
        patience.learn(Instant::now());
        assert_eq!(patience.budget(), Duration::ZERO);
    }
}
