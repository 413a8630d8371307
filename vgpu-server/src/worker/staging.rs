//! Download staging: pinned buffers that device bytes pass through on their way to the client.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cuda_types::HostSpan;

/// A pool of equal slots cut from one pinned range.
pub(crate) struct Slots {
    free: Mutex<Vec<HostSpan>>,
    changed: Condvar,
    slot_bytes: usize,
    /// Slots that [`try_take`](Slots::try_take) leaves: copies that took theirs when they were called may stand behind
    /// one that needs a slot now.
    kept: usize,
}

impl Slots {
    /// Cuts `span` into `count` slots; `count` divides its length.
    pub(crate) fn new(span: HostSpan, count: usize) -> Slots {
        let slot_bytes = span.len() / count;
        let free = (0..count).filter_map(|index| span.slice(index * slot_bytes, slot_bytes)).collect();
        Slots { free: Mutex::new(free), changed: Condvar::new(), slot_bytes, kept: (count / 4).max(1) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HostSpan>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Length of a slot in bytes.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// A slot for a copy whose stream may not have arrived yet, if one is free beyond those that are kept.
    pub(crate) fn try_take(&self) -> Option<HostSpan> {
        let mut free = self.lock();
        if free.len() > self.kept { free.pop() } else { None }
    }

    /// Waits for a slot, for a copy that its stream has arrived at.
    pub(crate) fn take(&self) -> HostSpan {
        let mut free = self.lock();
        loop {
            if let Some(slot) = free.pop() {
                return slot;
            }
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a slot back.
    pub(crate) fn give(self: &Arc<Self>, slot: HostSpan) {
        self.lock().push(slot);
        self.changed.notify_one();
    }
}
