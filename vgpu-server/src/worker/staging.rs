//! Download staging: pinned buffers that device bytes pass through on their way to the client.
//!
//! Some slots are for the lander alone. A copy that is given its slot when it is issued holds it until its stream
//! arrives, and a stream may wait for a copy of the lander: if the former could take every slot, neither would ever
//! move. The lander copies when the stream has arrived, so its slots always come back.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cuda_types::HostSpan;

/// A pool of equal slots cut from one pinned range.
pub(crate) struct Slots {
    free: Mutex<Vec<HostSpan>>,
    changed: Condvar,
    slot_bytes: usize,
}

impl Slots {
    /// Cuts `span` into `count` slots; `count` divides its length.
    pub(crate) fn new(span: HostSpan, count: usize) -> Slots {
        let slot_bytes = span.len() / count;
        let free = (0..count).filter_map(|index| span.slice(index * slot_bytes, slot_bytes)).collect();
        Slots { free: Mutex::new(free), changed: Condvar::new(), slot_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HostSpan>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Length of a slot in bytes.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// A slot for a copy whose stream has yet to arrive, if one can be spared.
    pub(crate) fn try_take(&self) -> Option<HostSpan> {
        let mut free = self.lock();
        if free.len() > LANDER_SLOTS { free.pop() } else { None }
    }

    /// Waits for a slot, in the lander.
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

/// Slots that only the lander takes: one fills while the other is sent.
const LANDER_SLOTS: usize = 2;
