//! The queue between the thread that reads calls and the threads that issue them.
//!
//! Calls are taken out in the order in which they came. One thread at a time has the issuing role; before a call that
//! can wait for the device, it hands the role on, so that one client thread's synchronize does not hold up another
//! client thread's launches.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use proto::Malformed;
use proto::frame::CallId;

/// A call that has been read and not yet issued.
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) opcode: u16,
    pub(crate) arguments: Vec<u8>,
}

/// What a thread that asks for work is given.
pub(crate) enum Turn {
    /// The issuing role and the next call.
    Issue(Call),
    /// Nothing more will come, and the role with it: all calls before have been issued.
    End,
}

/// The queue and the issuing role.
pub(crate) struct CallQueue {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes of frames that a client may have under way without their being issued.
    limit: u64,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Call>,
    bytes: u64,
    ended: bool,
    issuing: bool,
    /// Threads that wait for the role.
    waiting: usize,
    /// Threads that hold or wait for the role or are inside a call that handed it on.
    threads: usize,
}

impl CallQueue {
    pub(crate) fn new(limit: u64) -> CallQueue {
        CallQueue { state: Mutex::default(), changed: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a call. A client that sends more than the window allows is at fault.
    pub(crate) fn push(&self, call: Call) -> Result<(), Malformed> {
        let mut state = self.lock();
        if state.bytes > self.limit {
            return Err(Malformed::new(
                "call",
                format_args!("{} bytes beyond the window", state.bytes - self.limit),
            ));
        }
        state.bytes += call.arguments.len() as u64;
        state.calls.push_back(call);
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

    /// Waits for the role and for the next call. `holding`: whether the caller has the role already.
    pub(crate) fn next(&self, holding: bool) -> Turn {
        let mut state = self.lock();
        if holding {
            state.issuing = false;
        }
        state.waiting += 1;
        while state.issuing || (state.calls.is_empty() && !state.ended) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        match state.calls.pop_front() {
            Some(call) => {
                state.issuing = true;
                state.bytes -= call.arguments.len() as u64;
                Turn::Issue(call)
            }
            None => Turn::End,
        }
    }

    /// Gives the role away before a call that can wait; whether a further thread is needed to take it. With as many
    /// threads as `THREAD_LIMIT` the caller keeps the role (`None`) and the others wait with it.
    pub(crate) fn hand_on(&self) -> Option<bool> {
        let mut state = self.lock();
        if state.waiting == 0 && state.threads >= CallQueue::THREAD_LIMIT {
            return None;
        }
        state.issuing = false;
        self.changed.notify_one();
        Some(state.waiting == 0)
    }

    const THREAD_LIMIT: usize = 256;
}
