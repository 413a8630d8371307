//! The send buffer of a session, and when the progress thread writes it.

use std::collections::VecDeque;

use proto::frame::CallId;

use crate::thread_number::ThreadNumber;

/// The sending side.
pub(crate) struct Outgoing {
    pub(crate) buffer: Vec<u8>,
    pub(crate) next_call: CallId,
    /// Where in the buffer the call that was appended last begins.
    pub(crate) last_call: usize,
    /// The thread that posted last.
    pub(crate) poster: Option<ThreadNumber>,
    /// Bytes of call frames sent so far, and how far they reached after some of the calls.
    pub(crate) bytes: u64,
    pub(crate) marks: VecDeque<(CallId, u64)>,
    /// How far `bytes` reaches at the next mark.
    pub(crate) next_mark: u64,
    /// Bytes of `bytes` that are known to be issued.
    pub(crate) issued_bytes: u64,
    /// The progress thread has been told that the buffer is not empty, or looks by itself.
    pub(crate) announced: bool,
    pub(crate) watch: Watch,
    /// A poster has written a full buffer since the progress thread last looked, or goes on doing so.
    pub(crate) was_full: bool,
}

/// What the progress thread makes of the send buffer.
///
/// What is posted after a quiet time is sent at once. A program that goes on posting fills whole buffers and sends them
/// itself, so the progress thread, looking by itself now, lets it: each of its own sends would hold up the poster, and
/// wake the worker for little. It sends when nothing was added between two looks, or what has lain for
/// [`PATIENCE`] looks. While whole buffers are sent, it looks less often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watch {
    Quiet,
    /// It looks by itself: calls that were there at the last look, looks since something was left lying.
    Busy {
        calls: CallId,
        left: u32,
    },
}

/// When the progress thread looks at a send buffer by itself; the soonest is the greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Look {
    Never,
    Later,
    Soon,
}

/// How many times what a poster adds to is left lying.
const PATIENCE: u32 = 4;

/// The send buffer is written when it holds this much.
pub(crate) const FLUSH_BYTES: usize = 128 * 1024;
/// How finely `Outgoing::marks` follows the calls.
const MARK_BYTES: u64 = 4 * 1024;

impl Outgoing {
    pub(crate) fn new() -> Outgoing {
        Outgoing {
            buffer: Vec::with_capacity(2 * FLUSH_BYTES),
            next_call: CallId(1),
            last_call: 0,
            poster: None,
            bytes: 0,
            marks: VecDeque::new(),
            next_mark: 0,
            issued_bytes: 0,
            announced: false,
            watch: Watch::Quiet,
            was_full: false,
        }
    }

    /// The progress thread looks; whether it shall send now, and when it looks again.
    pub(crate) fn look(&mut self, is_urgent: bool) -> (bool, Look) {
        let (send, watch) = self.looked(is_urgent);
        let are_sending = std::mem::take(&mut self.was_full);
        self.watch = watch;
        self.announced = watch != Watch::Quiet;
        let look = match watch {
            Watch::Quiet => Look::Never,
            Watch::Busy { .. } if are_sending && !is_urgent => Look::Later,
            Watch::Busy { .. } => Look::Soon,
        };
        (send, look)
    }

    /// What a look comes to: whether the progress thread sends, and how it goes on.
    fn looked(&self, is_urgent: bool) -> (bool, Watch) {
        let calls = self.next_call;
        let is_empty = self.buffer.is_empty();
        match self.watch {
            // What lies there is younger than the last look.
            Watch::Busy { .. } if self.was_full => (is_urgent, Watch::Busy { calls, left: 0 }),
            Watch::Quiet if is_empty => (false, Watch::Quiet),
            Watch::Quiet => (true, Watch::Busy { calls, left: 0 }),
            Watch::Busy { calls: before, .. } if before == calls => (true, Watch::Quiet),
            Watch::Busy { left, .. } if is_empty || is_urgent || left == PATIENCE => {
                (true, Watch::Busy { calls, left: 0 })
            }
            Watch::Busy { left, .. } => (false, Watch::Busy { calls, left: left + 1 }),
        }
    }

    /// A poster goes on that had to wait for the worker: it is about to fill whole buffers again. Whether the progress
    /// thread must be told that there is something to look at.
    pub(crate) fn resume(&mut self) -> bool {
        if self.watch == Watch::Quiet {
            self.watch = Watch::Busy { calls: self.next_call, left: 0 };
        }
        self.was_full = true;
        !std::mem::replace(&mut self.announced, true)
    }

    #[cold]
    pub(crate) fn mark(&mut self, call: CallId) {
        self.next_mark = self.bytes + MARK_BYTES;
        self.marks.push_back((call, self.bytes));
    }

    pub(crate) fn note_issued(&mut self, issued: CallId) {
        while let Some((call, bytes)) = self.marks.front().copied() {
            if !call.is_covered_by(issued) {
                break;
            }
            self.issued_bytes = bytes;
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
