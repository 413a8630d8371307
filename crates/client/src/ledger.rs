//! Where a device's time went: calls, waits and bytes, counted if the embedding program asks for it.
//!
//! A ledger belongs to a device of the list and outlives the sessions of a device that is reset. It is locked last, for
//! a few additions; a session without one pays a branch.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::calls::{Class, Row};

/// See the module's text.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Account>);

/// What a ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Calls that were sent while the program went on, and the bytes of their frames.
    pub posted: u64,
    pub posted_bytes: u64,
    /// Calls that waited for a reply, by the name that the call table has for them.
    pub round_trips: BTreeMap<&'static str, Tally>,
    /// Those of `cuMemcpyDtoH_v2` that brought at most [`SMALL_COPY_BYTES`].
    pub small_copies: Tally,
    /// Copies to the host that waited until their bytes had landed beside the calls.
    pub landings: Tally,
    /// Copies to the device that waited for room in the staging.
    pub room: Tally,
    /// Calls that waited because too many were under way.
    pub backlog: Tally,
    /// Bytes that were sent beside the calls, and that landed.
    pub staged_bytes: u64,
    pub landed_bytes: u64,
    /// Times that bytes were given to the link, and how many.
    pub sends: u64,
    pub bytes_sent: u64,
}

/// Waits of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    /// Of all threads together.
    pub waited: Duration,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// The most bytes that one of them received.
    pub largest_received: u64,
}

/// Up to here a copy to the host is a value, and not worth a round trip.
pub const SMALL_COPY_BYTES: u64 = 1024;

impl Ledger {
    pub(crate) fn account(&self) -> Account {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Account {
    /// All calls.
    pub fn calls(&self) -> u64 {
        self.posted + self.all_round_trips().count
    }

    /// The round trips of all calls together.
    pub fn all_round_trips(&self) -> Tally {
        self.round_trips.values().fold(Tally::default(), |sum, tally| sum.and(tally))
    }

    /// The time in which threads of the program waited, of all threads together.
    pub fn waited(&self) -> Duration {
        self.all_round_trips().and(&self.landings).and(&self.room).and(&self.backlog).waited
    }

    /// Bytes to the device inside calls.
    pub fn bytes_inside_calls(&self) -> u64 {
        self.posted_bytes + self.all_round_trips().sent_bytes
    }

    /// A call's frame was appended to the send buffer.
    pub(crate) fn appended(&mut self, row: &Row, bytes: u64) {
        match row.class {
            Class::Post => {
                self.posted += 1;
                self.posted_bytes += bytes;
            }
            Class::Wait => self.round_trips.entry(row.name).or_default().sent_bytes += bytes,
        }
    }

    /// A call was sent whose reply is awaited.
    pub(crate) fn asked(&mut self, row: &Row) {
        self.round_trips.entry(row.name).or_default().count += 1;
    }

    /// The reply is there.
    pub(crate) fn answered(&mut self, row: &Row, waited: Duration, bytes: u64) {
        self.round_trips.entry(row.name).or_default().took(waited, bytes);
        // The answer is the length, and the bytes.
        let copied = bytes.saturating_sub(LENGTH_BYTES);
        if row.opcode == MEMCPY_D_TO_H && (1..=SMALL_COPY_BYTES).contains(&copied) {
            self.small_copies.add(waited, copied);
        }
    }
}

impl Tally {
    /// One more wait.
    pub(crate) fn add(&mut self, waited: Duration, received_bytes: u64) {
        self.count += 1;
        self.took(waited, received_bytes);
    }

    fn took(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.received_bytes += bytes;
        self.largest_received = self.largest_received.max(bytes);
    }

    fn and(self, other: &Tally) -> Tally {
        Tally {
            count: self.count + other.count,
            waited: self.waited + other.waited,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            received_bytes: self.received_bytes + other.received_bytes,
            largest_received: self.largest_received.max(other.largest_received),
        }
    }

    /// The mean time of a wait.
    pub fn mean(&self) -> Duration {
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        self.waited.checked_div(count).unwrap_or_default()
    }
}

const MEMCPY_D_TO_H: u16 = 0x0311;
/// What the codec writes before bytes.
const LENGTH_BYTES: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> &'static Row {
        proto::calls::rows().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn sums_are_those_of_their_parts() {
        let mut account = Account::default();
        let (copy, query) = (row("cuMemcpyDtoH_v2"), row("cuStreamQuery"));
        account.appended(row("cuMemsetD8Async"), 40);
        for (bytes, milliseconds) in [(4, 2), (1024, 3), (1025, 10)] {
            account.appended(copy, 32);
            account.asked(copy);
            account.answered(copy, Duration::from_millis(milliseconds), 8 + bytes);
        }
        account.appended(query, 24);
        account.asked(query);
        account.landings.add(Duration::from_millis(7), 1 << 20);
        let small = account.small_copies;
        assert_eq!((small.count, small.received_bytes, small.largest_received), (2, 1028, 1024));
        assert_eq!(small.mean(), Duration::from_micros(2500));
        assert_eq!(account.round_trips["cuMemcpyDtoH_v2"].mean(), Duration::from_millis(5));
        // A question that is not answered yet counts already.
        assert_eq!((account.calls(), account.all_round_trips().count), (5, 4));
        assert_eq!(account.waited(), Duration::from_millis(22));
        assert_eq!(account.bytes_inside_calls(), 40 + 3 * 32 + 24);
        assert_eq!(Tally::default().mean(), Duration::ZERO);
    }
}
