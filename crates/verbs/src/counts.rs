//! What is alive in this process, and how often memory was registered.

use std::sync::atomic::{AtomicU64, Ordering};

use verbs_abi::Counts;

/// One of the counters.
pub(crate) struct Counter(AtomicU64);

pub(crate) static ENDPOINTS: Counter = Counter(AtomicU64::new(0));
pub(crate) static LISTENERS: Counter = Counter(AtomicU64::new(0));
pub(crate) static REGIONS: Counter = Counter(AtomicU64::new(0));
pub(crate) static REGISTRATIONS: Counter = Counter(AtomicU64::new(0));

/// Something is counted as long as this lives.
pub(crate) struct Counted(&'static Counter);

impl Counter {
    /// Counts one more until the answer is dropped.
    pub(crate) fn enter(&'static self) -> Counted {
        self.add();
        Counted(self)
    }

    /// Counts one more for good.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All counters.
pub(crate) fn all() -> Counts {
    Counts {
        endpoints: ENDPOINTS.read(),
        listeners: LISTENERS.read(),
        regions: REGIONS.read(),
        registrations: REGISTRATIONS.read(),
    }
}
