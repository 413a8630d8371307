//! Who reads a session's link: a thread of the program that waits for something from it, else the progress thread.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cuda_types::{CuError, CuResult};
use proto::frames::FrameError;

use super::Session;
use crate::state::State;

impl Session {
    /// Waits until `done` finds what it looks for in the state, reading the link if nobody else does.
    pub(crate) fn wait_until<T>(&self, mut done: impl FnMut(&mut State) -> Option<T>) -> CuResult<T> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let outcome = self.wait_inner(&mut done);
        let is_last = self.waiting.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && self.is_left.load(Ordering::SeqCst) && self.is_left.swap(false, Ordering::SeqCst) {
            self.progress.wake();
        }
        outcome
    }

    fn wait_inner<T>(&self, done: &mut impl FnMut(&mut State) -> Option<T>) -> CuResult<T> {
        let mut state = self.state();
        loop {
            if let Some(found) = done(&mut state) {
                return Ok(found);
            }
            if let Some(error) = state.lost {
                return Err(error);
            }
            if state.reading {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.reading = true;
            drop(state);
            let read = self.read_frames();
            state = self.state();
            state.reading = false;
            self.notify_others(&state, 1);
            if read.is_err() {
                state.lost.get_or_insert(CuError::DEVICE_UNAVAILABLE);
            }
        }
    }

    /// Reads one frame and hands it out, and those that came with it: what lies in the buffer is announced by no
    /// descriptor. The caller has the reading role.
    fn read_frames(&self) -> Result<(), CuError> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let read = loop {
            let read = self.receive_frame(&mut frames);
            if read.is_err() || !frames.has_frame() {
                break read;
            }
        };
        drop(frames);
        read.map_err(|error| match error {
            FrameError::Link(error) => self.lose(&error),
            FrameError::Malformed(malformed) => self.lose_with(&malformed.to_string()),
        })
    }

    /// Reads what has arrived, without waiting, unless another thread is reading.
    pub(crate) fn read_available(&self) {
        {
            let mut state = self.state();
            if state.reading || state.lost.is_some() {
                return;
            }
            state.reading = true;
        }
        loop {
            let ready = {
                let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
                frames.has_frame() || self.link.wait_readable(Duration::ZERO).unwrap_or(true)
            };
            if !ready || self.read_frames().is_err() {
                break;
            }
        }
        let mut state = self.state();
        state.reading = false;
        self.notify_others(&state, 0);
    }

    /// Has whoever waits look again; `own` of those who wait is the caller. Mostly nobody else does, and a notice costs a
    /// system call. Whoever begins to wait is counted before it looks at the state, which is locked here.
    fn notify_others(&self, _locked: &State, own: usize) {
        if self.waiting.load(Ordering::Acquire) > own {
            self.changed.notify_all();
        }
    }

    /// Whether threads of the program wait for this link, and so read it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Has the last thread that waits for this link tell the progress thread; whether there is one, so that the progress
    /// thread need not look by itself.
    pub(crate) fn leave_to_waiter(&self) -> bool {
        self.is_left.store(true, Ordering::SeqCst);
        // Who has gone before it was stored tells nobody.
        self.is_awaited() || !self.is_left.swap(false, Ordering::SeqCst)
    }
}
