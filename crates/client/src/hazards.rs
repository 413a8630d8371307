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
static REGISTERED: Mutex<BTreeMap<usize, HostSpan>> = Mutex::new(BTreeMap::new());

struct Pending {
    /// Number of the landing -> first address, end.
    landings: BTreeMap<u64, (usize, usize)>,
    host_functions: usize,
    next: u64,
}

fn pending() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn registered() -> MutexGuard<'static, BTreeMap<usize, HostSpan>> {
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
/// It stays mapped until it is unregistered. Registering is `false` if a part of the range is registered already, unregistering if nothing starts there.
pub fn register(span: HostSpan) -> bool {
    let mut ranges = registered();
    let end = span.address().saturating_add(span.len());
    if ranges.range(..end).next_back().is_some_and(|(start, other)| start + other.len() > span.address()) {
        return false;
    }
    ranges.insert(span.address(), span);
    true
}

/// See [`register`]; answers the length of the range.
pub fn unregister(address: usize) -> Option<usize> {
    // The network's registrations first: the memory may be unmapped as soon as this returns.
    crate::progress::Progress::each_session(|session| session.forget_registered(address));
    registered().remove(&address).map(HostSpan::len)
}

/// The registered range that holds `address`: its start and length.
pub fn registered_range(address: usize) -> Option<(usize, usize)> {
    let ranges = registered();
    let (start, span) = ranges.range(..=address).next_back()?;
    (address < start + span.len()).then_some((*start, span.len()))
}

/// The registered range that holds all of `span`.
pub(crate) fn registered_span(span: HostSpan) -> Option<HostSpan> {
    let ranges = registered();
    let (start, whole) = ranges.range(..=span.address()).next_back()?;
    (span.address() + span.len() <= start + whole.len()).then_some(*whole)
}

/// Whether all of `span` is registered.
pub(crate) fn is_registered(span: HostSpan) -> bool {
    registered_span(span).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_registrations_are_refused() {
        let all = HostSpan::leak(vec![0; 0x1100]);
        let (at, part) = (all.address(), |from, bytes| all.slice(from, bytes).expect("inside"));
        assert!(register(part(0x10, 0x1000)));
        assert!(!register(part(0x100f, 1)));
        assert!(!register(part(0xf, 2)));
        assert!(register(part(0x1010, 1)));
        assert_eq!(registered_range(at + 0x810), Some((at + 0x10, 0x1000)));
        assert_eq!(registered_span(part(0x800, 0x10)), Some(part(0x10, 0x1000)));
        assert_eq!(registered_span(part(0x1000, 0x11)), None);
        assert_eq!(unregister(at + 0x10), Some(0x1000));
        assert_eq!(unregister(at + 0x10), None);
        assert_eq!(unregister(at + 0x1010), Some(1));
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
