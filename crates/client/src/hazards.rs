//! Host memory that something pending can still write, on any device of this process.
//!
//! An upload from registered host memory may be captured when it is called only if nothing pending can still change
//! the bytes: a landing that has not arrived, or a host function, which may write anything. Otherwise the worker
//! pulls the bytes in stream order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_types::HostSpan;

static PENDING: Mutex<Pending> =
    Mutex::new(Pending { landings: BTreeMap::new(), host_functions: 0, next: 0 });
static REGISTERED: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

struct Pending {
    /// Number of the landing -> first address, end.
    landings: BTreeMap<u64, (usize, usize)>,
    host_functions: usize,
    next: u64,
}

fn pending() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn registered() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that can still write host memory; over when dropped.
pub(crate) struct PendingWrite(Option<u64>);

impl PendingWrite {
    /// Bytes will land in `span`.
    pub(crate) fn landing(span: HostSpan) -> PendingWrite {
        let mut pending = pending();
        pending.next += 1;
        let number = pending.next;
        pending.landings.insert(number, (span.address(), span.address() + span.len()));
        PendingWrite(Some(number))
    }

    /// A host function will run.
    pub(crate) fn host_function() -> PendingWrite {
        pending().host_functions += 1;
        PendingWrite(None)
    }
}

impl Drop for PendingWrite {
    fn drop(&mut self) {
        match self.0 {
            Some(number) => drop(pending().landings.remove(&number)),
            None => pending().host_functions -= 1,
        }
    }
}

/// Whether something pending can still write `span`.
pub(crate) fn can_change(span: HostSpan) -> bool {
    let (from, to) = (span.address(), span.address() + span.len());
    let pending = pending();
    pending.host_functions > 0 || pending.landings.values().any(|(start, end)| *start < to && from < *end)
}

/// Whether a host function is pending anywhere.
pub(crate) fn host_function_pending() -> bool {
    pending().host_functions > 0
}

/// Host memory that the program has page-locked (`cudaMallocHost`, `cudaHostRegister`) starts or ends to be so.
///
/// Registering is `false` if a part of the range is registered already, unregistering if nothing starts there.
pub fn register(address: usize, bytes: usize) -> bool {
    let mut ranges = registered();
    let end = address.saturating_add(bytes);
    if ranges.range(..end).next_back().is_some_and(|(start, length)| start + length > address) {
        return false;
    }
    ranges.insert(address, bytes);
    true
}

/// See [`register`]; answers the length of the range.
pub fn unregister(address: usize) -> Option<usize> {
    registered().remove(&address)
}

/// The registered range that holds `address`: its start and length.
pub fn registered_range(address: usize) -> Option<(usize, usize)> {
    let ranges = registered();
    let (start, bytes) = ranges.range(..=address).next_back()?;
    (address < start + bytes).then_some((*start, *bytes))
}

/// Whether all of `span` is registered.
pub(crate) fn is_registered(span: HostSpan) -> bool {
    registered_range(span.address())
        .is_some_and(|(start, bytes)| span.address() + span.len() <= start + bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_registrations_are_refused() {
        assert!(register(0x10_0000, 0x1000));
        assert!(!register(0x10_0fff, 1));
        assert!(!register(0xf_ffff, 2));
        assert!(register(0x10_1000, 1));
        assert_eq!(registered_range(0x10_0800), Some((0x10_0000, 0x1000)));
        assert_eq!(unregister(0x10_0000), Some(0x1000));
        assert_eq!(unregister(0x10_0000), None);
        assert_eq!(unregister(0x10_1000), Some(1));
    }

    #[test]
    fn a_landing_is_a_hazard_until_it_is_dropped() {
        let span = HostSpan::leak(vec![0; 64]);
        let before = span.slice(0, 32).expect("inside");
        let pending = PendingWrite::landing(span.slice(31, 10).expect("inside"));
        assert!(can_change(before));
        drop(pending);
        assert!(!can_change(before));
    }
}
