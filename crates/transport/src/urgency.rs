//! Whether a thread that wakes up takes the processor from one that runs.

#![allow(unsafe_code, reason = "sched_setscheduler has no safe wrapper (docs/adr/0008)")]

/// How the calling thread wakes up, which changes with what it has to do.
///
/// Linux runs a thread that wakes up at once, in the place of one that has run for longer. That is right where somebody
/// waits for what it does. In a stream of calls for which nobody waits yet, it makes threads that feed each other on one
/// processor change places for every piece. Under `SCHED_BATCH` (sched(7)) a thread has the same share, and an idle
/// processor at once, but interrupts nobody.
pub struct Urgency {
    is_urgent: bool,
    /// The thread has the policy that Linux gives by default, and may change it.
    is_adaptable: bool,
}

impl Urgency {
    /// The calling thread's. One that somebody has given another policy keeps it.
    pub fn of_this_thread() -> Urgency {
        Urgency { is_urgent: true, is_adaptable: policy() == libc::SCHED_OTHER }
    }

    /// Says whether the calling thread, which must be the one of [`of_this_thread`](Urgency::of_this_thread), is to run
    /// at once when it wakes up.
    #[inline]
    pub fn set(&mut self, is_urgent: bool) {
        if is_urgent != self.is_urgent && self.is_adaptable {
            self.is_urgent = is_urgent;
            // A sandbox may forbid it; nothing but speed depends on it.
            self.is_adaptable = adopt(if is_urgent { libc::SCHED_OTHER } else { libc::SCHED_BATCH });
        }
    }
}

fn policy() -> libc::c_int {
    // SAFETY: 0 is the calling thread; no memory is involved.
    unsafe { libc::sched_getscheduler(0) }
}

fn adopt(policy: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; the parameters are read during the call.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_changes_its_policy_and_changes_it_back() {
        let before = policy();
        let mut urgency = Urgency::of_this_thread();
        for (is_urgent, adopted) in [(false, libc::SCHED_BATCH), (true, libc::SCHED_OTHER)] {
            urgency.set(is_urgent);
            assert_eq!(policy(), if before == libc::SCHED_OTHER { adopted } else { before });
        }
    }

    #[test]
    fn a_policy_that_somebody_chose_is_kept() {
        assert!(adopt(libc::SCHED_IDLE), "every thread may become less important");
        let mut urgency = Urgency::of_this_thread();
        urgency.set(false);
        urgency.set(true);
        assert_eq!(policy(), libc::SCHED_IDLE);
    }
}
