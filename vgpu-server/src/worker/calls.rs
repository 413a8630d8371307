//! The queue between the thread that reads calls and the threads that issue them.
//!
//! Calls are taken out in the order in which they came. One thread at a time has the issuing role; before a call that
//! can wait for the device, it hands the role on, so that one client thread's synchronize does not hold up another
//! client thread's launches.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use proto::Malformed;
use proto::frame::CallId;

use super::usage::Usage;

/// A call that has been read and not yet issued.
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) opcode: u16,
    pub(crate) arguments: Vec<u8>,
}

/// Whether a call can wait for the device, so that others must be able to go on meanwhile.
pub(crate) fn may_wait(opcode: u16) -> bool {
    // Synchronize context, stream, event; copy to the host.
    matches!(opcode, 0x0101 | 0x0503 | 0x0604 | 0x0311)
}

/// How many calls change hands together: a wake-up for each would cost more than the calls do.
pub(crate) const TOGETHER: usize = 64;

/// The queue and the issuing role.
pub(crate) struct CallQueue {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes of frames that a client may have under way without their being issued.
    limit: u64,
    usage: Arc<Usage>,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Call>,
    bytes: u64,
    ended: bool,
    issuing: bool,
    /// Something is queued or being issued, and [`Usage`] knows.
    busy: bool,
    /// Threads that wait for the role.
    waiting: usize,
    /// Threads that hold or wait for the role or are inside a call that handed it on.
    threads: usize,
}

impl CallQueue {
    pub(crate) fn new(limit: u64, usage: Arc<Usage>) -> CallQueue {
        CallQueue { state: Mutex::default(), changed: Condvar::new(), limit, usage }
    }

    /// Lets the usage know whether there is something to issue.
    fn settle(&self, state: &mut State) {
        let busy = state.issuing || !state.calls.is_empty();
        if busy == state.busy {
            return;
        }
        state.busy = busy;
        if busy { self.usage.enter() } else { self.usage.leave() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds calls. A client that sends more than the window allows is at fault.
    pub(crate) fn push(&self, calls: &mut Vec<Call>) -> Result<(), Malformed> {
        if calls.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        for call in calls.drain(..) {
            if state.bytes > self.limit {
                return Err(Malformed::new(
                    "call",
                    format_args!("{} bytes beyond the window", state.bytes - self.limit),
                ));
            }
            state.bytes += call.arguments.len() as u64;
            state.calls.push_back(call);
        }
        self.settle(&mut state);
        if !state.issuing {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Nothing more will come; with `drop_queued`, what is queued is not issued either.
    pub(crate) fn end(&self, drop_queued: bool) {
        let mut state = self.lock();
        state.ended = true;
        if drop_queued {
            state.calls.clear();
            self.settle(&mut state);
        }
        self.changed.notify_all();
    }

    /// Joins the threads that take turns. The first to join gets the role with its first [`next`](CallQueue::next).
    pub(crate) fn join(&self) {
        self.lock().threads += 1;
    }

    /// Leaves the threads that take turns.
    pub(crate) fn leave(&self) {
        self.lock().threads -= 1;
    }

    /// Waits for the role and moves the next calls to `calls`: at most one that can wait, as the last. `false` when nothing
    /// more will come: all calls before have been issued. `holding`: whether the caller has the role already.
    pub(crate) fn next(&self, holding: bool, calls: &mut VecDeque<Call>) -> bool {
        let mut state = self.lock();
        if holding {
            state.issuing = false;
            self.settle(&mut state);
        }
        state.waiting += 1;
        while state.issuing || (state.calls.is_empty() && !state.ended) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        while calls.len() < TOGETHER
            && calls.back().is_none_or(|call| !may_wait(call.opcode))
            && let Some(call) = state.calls.pop_front()
        {
            state.bytes -= call.arguments.len() as u64;
            calls.push_back(call);
        }
        if calls.is_empty() {
            // Those that waited for the role, which this thread may have held, are to see the end too.
            self.changed.notify_all();
        } else {
            state.issuing = true;
        }
        !calls.is_empty()
    }

    /// Takes the role at once if nothing is queued and nobody has it. The thread that reads may then issue a call itself;
    /// it gives the role back with [`issued_now`](CallQueue::issued_now).
    pub(crate) fn issue_now(&self) -> bool {
        let mut state = self.lock();
        let free = !state.issuing && state.calls.is_empty() && !state.ended;
        state.issuing |= free;
        self.settle(&mut state);
        free
    }

    /// See [`issue_now`](CallQueue::issue_now). Only the thread that reads adds calls, so none has come meanwhile.
    pub(crate) fn issued_now(&self) {
        let mut state = self.lock();
        state.issuing = false;
        self.settle(&mut state);
    }

    /// Gives the role away before a call that can wait; whether a further thread is needed to take it. With as many
    /// threads as `THREAD_LIMIT` the caller keeps the role (`None`) and the others wait with it.
    pub(crate) fn hand_on(&self) -> Option<bool> {
        let mut state = self.lock();
        if state.waiting == 0 && state.threads >= CallQueue::THREAD_LIMIT {
            return None;
        }
        state.issuing = false;
        self.settle(&mut state);
        self.changed.notify_one();
        Some(state.waiting == 0)
    }

    const THREAD_LIMIT: usize = 256;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: u32) -> Call {
        Call { id: CallId(id), opcode: 0x0101, arguments: vec![0; 10] }
    }

    fn take(queue: &CallQueue, holding: bool) -> Vec<u32> {
        let mut calls = VecDeque::new();
        assert_eq!(queue.next(holding, &mut calls), !calls.is_empty());
        calls.into_iter().map(|call| call.id.0).collect()
    }

    #[test]
    fn calls_are_issued_in_order_and_the_role_goes_round() {
        let queue = CallQueue::new(1000, Arc::default());
        queue.push(&mut (1..=3).map(call).collect()).expect("inside the window");
        assert_eq!(take(&queue, false), [1], "it can wait, so none is taken with it");
        queue.join();
        assert_eq!(queue.hand_on(), Some(true), "nobody waits for the role, so a thread is needed");
        assert_eq!(take(&queue, false), [2]);
        queue.end(false);
        assert_eq!(take(&queue, true), [3], "nothing queued is lost");
        assert_eq!(take(&queue, true), []);
    }

    #[test]
    fn calls_that_cannot_wait_change_hands_together() {
        let queue = CallQueue::new(1 << 20, Arc::default());
        let many = u32::try_from(TOGETHER).expect("few");
        let launch = |id| Call { opcode: 0x0701, ..call(id) };
        queue.push(&mut (1..=many + 2).map(launch).collect()).expect("inside the window");
        queue.push(&mut vec![call(many + 3), launch(many + 4)]).expect("inside the window");
        assert_eq!(take(&queue, false), (1..=many).collect::<Vec<_>>());
        assert_eq!(take(&queue, true), [many + 1, many + 2, many + 3], "up to one that can wait");
        assert_eq!(take(&queue, true), [many + 4]);
    }

    #[test]
    fn a_thread_that_waits_for_the_role_sees_the_end_when_its_holder_does() {
        let queue = CallQueue::new(1000, Arc::default());
        queue.push(&mut vec![call(1)]).expect("inside the window");
        assert_eq!(take(&queue, false), [1]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| take(&queue, false).is_empty());
            while queue.lock().waiting == 0 {
                std::thread::yield_now();
            }
            queue.end(false);
            // The other is told, and finds the role taken.
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(take(&queue, true), []);
            assert!(waiting.join().expect("no panic"));
        });
    }

    #[test]
    fn a_client_that_sends_more_than_its_window_is_at_fault() {
        let queue = CallQueue::new(15, Arc::default());
        queue.push(&mut vec![call(1)]).expect("inside the window");
        queue.push(&mut vec![call(2)]).expect("one call may cross its edge");
        assert!(queue.push(&mut vec![call(3)]).is_err());
    }
}
