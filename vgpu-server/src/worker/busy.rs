//! What the device may still have to do, so that the reader knows what it may wait for.

use std::sync::atomic::{AtomicU64, Ordering};

use proto::calls::{Class, Row};

use super::calls::Call;

const CTX_SYNCHRONIZE: u16 = 0x0101;
pub(crate) const STAGED_H_TO_D: u16 = 0x0801;

/// What the device may still have to do, as far as the calls tell.
#[derive(Default)]
pub(crate) struct Busy {
    /// Calls that may have left work behind.
    begun: AtomicU64,
    /// The last of them that is no light copy.
    last_heavy: AtomicU64,
    /// How many of them are known to be over.
    over: AtomicU64,
    /// Bytes of light copies since the context was last synchronized.
    light_bytes: AtomicU64,
}

/// A copy from staging of so few bytes that it is over in the time of a wake-up: how many.
pub(crate) fn light_bytes(call: &Call<'_>) -> Option<u64> {
    // Destination, place in the staging, bytes, stream.
    let bytes = call.arguments.get(16..24).filter(|_| call.opcode == STAGED_H_TO_D)?;
    Some(u64::from_le_bytes(*bytes.first_chunk()?)).filter(|bytes| *bytes <= LIGHT_BYTES)
}

/// At most this much of light copies may be under way when the reader waits for them.
const LIGHT_BYTES: u64 = 512 * 1024;

/// Adds to a counter that only the thread with the issuing role changes, and answers what it was: less work than an atomic
/// addition, of which each call would need several.
pub(crate) fn add_alone(counter: &AtomicU64, more: u64) -> u64 {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before + more, Ordering::Relaxed);
    before
}

impl Busy {
    /// A call is about to be made by the thread that has the issuing role; answers what to tell [`end`](Busy::end).
    pub(crate) fn begin(&self, row: &Row, light: Option<u64>) -> u64 {
        // A driver may load a module lazily.
        let leaves_work = row.class == Class::Post || row.opcode >> 8 == 0x04;
        let before = add_alone(&self.begun, u64::from(leaves_work));
        match light {
            Some(bytes) => drop(self.light_bytes.fetch_add(bytes, Ordering::AcqRel)),
            None if leaves_work => self.last_heavy.store(before + 1, Ordering::Release),
            None => {}
        }
        before
    }

    /// A call has been made. A synchronized context is done with all that was begun before.
    pub(crate) fn end(&self, opcode: u16, before: u64) {
        if opcode == CTX_SYNCHRONIZE {
            self.light_bytes.store(0, Ordering::Release);
            self.over.fetch_max(before, Ordering::AcqRel);
        }
    }

    /// Whether all that may be under way is light copies, with `more` bytes few enough.
    pub(crate) fn is_nearly_idle(&self, more: u64) -> bool {
        self.over.load(Ordering::Acquire) >= self.last_heavy.load(Ordering::Acquire)
            && self.light_bytes.load(Ordering::Acquire).saturating_add(more) <= LIGHT_BYTES
    }
}
