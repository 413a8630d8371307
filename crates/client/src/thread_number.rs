//! Which thread of the process made a call.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of the thread's own, never given twice. `std::thread::current` would cost every call a reference count, and
/// fails while a thread ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ThreadNumber(u64);

impl ThreadNumber {
    /// That of the calling thread.
    pub(crate) fn own() -> ThreadNumber {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        thread_local! {
            // A plain cell without a destructor: usable while the thread ends.
            static OWN: Cell<u64> = const { Cell::new(0) };
        }
        if OWN.get() == 0 {
            OWN.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        ThreadNumber(OWN.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_number_and_shares_it_with_none() {
        let own = ThreadNumber::own();
        assert_eq!(ThreadNumber::own(), own);
        let other = std::thread::spawn(ThreadNumber::own).join().unwrap();
        assert_ne!(other, own);
    }
}
