//! What a session knows, behind one lock that is never held while anything waits.

use std::collections::VecDeque;
use std::sync::Weak;

use cuda_types::{CuError, HostSpan};
use proto::codec::Malformed;
use proto::frame::CallId;
use rustc_hash::FxHashMap;
use window::Window;

use crate::hazards::PendingWrite;
use crate::launch::Function;
use crate::session::Session;
use crate::staging::Staging;
use crate::thread_number::ThreadNumber;
use crate::virtual_memory::VirtualMemory;

pub(crate) struct State {
    /// A thread is reading the link.
    pub(crate) reading: bool,
    /// The link is gone: what every later call answers.
    pub(crate) lost: Option<CuError>,
    /// The context is broken: what every later call answers.
    pub(crate) sticky: Option<CuError>,
    /// Posted calls that failed, and who posted them.
    pub(crate) deferred: VecDeque<(ThreadNumber, CuError)>,
    /// From which call on which thread posted; ends with the thread that posts now.
    pub(crate) posters: VecDeque<(CallId, ThreadNumber)>,
    /// Calls that threads wait for: few.
    pub(crate) awaited: Vec<Awaited>,
    /// The newest call known to be issued.
    pub(crate) issued: CallId,
    pub(crate) staging: Staging,
    pub(crate) landings: FxHashMap<u64, LandingState>,
    /// Landings that a thread waits for and that are over; whether all bytes came.
    pub(crate) landed: FxHashMap<u64, bool>,
    pub(crate) pulls: FxHashMap<u64, PullState>,
    /// Pulled copies whose bytes the progress thread shall send, in the order in which they were asked for.
    pub(crate) pull_queue: VecDeque<u64>,
    /// Control frames that the progress thread shall send.
    pub(crate) controls: Vec<u8>,
    pub(crate) notices: FxHashMap<u64, NoticeAction>,
    pub(crate) host_functions: FxHashMap<u64, HostFunction>,
    pub(crate) events: FxHashMap<u64, EventState>,
    /// Counts recordings.
    pub(crate) recordings: u64,
    /// All recordings up to this one are complete.
    pub(crate) covered: u64,
    /// Per stream: all recordings in it up to this one are complete.
    pub(crate) stream_covered: FxHashMap<u64, u64>,
    pub(crate) window: Window,
    pub(crate) virtual_memory: VirtualMemory,
    /// Freed ranges whose free has not been issued yet.
    pub(crate) quarantine: VecDeque<(CallId, window::Ticket, u64)>,
    /// By module.
    pub(crate) functions: FxHashMap<u64, Vec<Weak<Function>>>,
}

/// A call that a thread waits for.
pub(crate) struct Awaited {
    pub(crate) call: CallId,
    pub(crate) thread: ThreadNumber,
    pub(crate) reply: Option<Reply>,
}

/// What came back for a waiting call.
pub(crate) struct Reply {
    pub(crate) error: u32,
    pub(crate) value: Vec<u8>,
}

pub(crate) struct LandingState {
    pub(crate) span: HostSpan,
    pub(crate) received: u64,
    /// The call that asked for it: if that fails, nothing will land.
    pub(crate) call: CallId,
    /// Whether a thread waits for it.
    pub(crate) awaited: bool,
    pub(crate) _pending: PendingWrite,
}

pub(crate) struct PullState {
    pub(crate) span: HostSpan,
    pub(crate) sent: u64,
    pub(crate) call: CallId,
}

pub(crate) struct HostFunction {
    pub(crate) run: Box<dyn FnOnce(u32) + Send>,
    pub(crate) pending: PendingWrite,
}

/// What to do when something announced has happened.
pub(crate) enum NoticeAction {
    /// A recording of an event is complete.
    EventDone { event: u64, recording: u64 },
    /// A stream of another device may go on.
    OpenGate { session: Weak<Session>, gate: u64 },
}

#[derive(Clone, Copy, Default)]
pub(crate) struct EventState {
    /// Number of the last recording; 0 if there is none.
    pub(crate) recorded: u64,
    pub(crate) stream: u64,
    pub(crate) done: bool,
    /// A notice of this recording is on its way.
    pub(crate) armed: bool,
}

impl State {
    pub(crate) fn new(staging_bytes: u64, window: Window) -> State {
        State {
            reading: false,
            lost: None,
            sticky: None,
            deferred: VecDeque::new(),
            posters: VecDeque::new(),
            awaited: Vec::new(),
            issued: CallId(0),
            staging: Staging::new(staging_bytes),
            landings: FxHashMap::default(),
            landed: FxHashMap::default(),
            pulls: FxHashMap::default(),
            pull_queue: VecDeque::new(),
            controls: Vec::new(),
            notices: FxHashMap::default(),
            host_functions: FxHashMap::default(),
            events: FxHashMap::default(),
            recordings: 0,
            covered: 0,
            stream_covered: FxHashMap::default(),
            window,
            virtual_memory: VirtualMemory::default(),
            quarantine: VecDeque::new(),
            functions: FxHashMap::default(),
        }
    }

    /// Everything up to `call` is issued: freed ranges may be used again.
    pub(crate) fn mark_issued(&mut self, call: CallId) {
        if !self.issued.is_covered_by(call) {
            return;
        }
        self.issued = call;
        while let Some((free, _, _)) = self.quarantine.front() {
            if !free.is_covered_by(call) {
                break;
            }
            let (_, ticket, _) = self.quarantine.pop_front().expect("front was there");
            // The chunk stays mapped for later allocations.
            let _ = self.window.release(ticket);
        }
        while self.posters.get(1).is_some_and(|(first, _)| first.is_covered_by(call)) {
            self.posters.pop_front();
        }
    }

    /// This thread will wait for the reply to a call, which is not sent yet.
    pub(crate) fn expect_reply(&mut self, call: CallId) {
        self.awaited.push(Awaited { call, thread: ThreadNumber::own(), reply: None });
    }

    /// A reply has come. One that nobody waits for would pile up with others, and whoever it is meant for would hang: the
    /// server is broken.
    pub(crate) fn replied(&mut self, call: CallId, reply: Reply) -> Result<(), Malformed> {
        let awaited = self.awaited.iter_mut().find(|awaited| awaited.call == call && awaited.reply.is_none());
        let awaited = awaited.ok_or_else(|| {
            Malformed::new("reply", format_args!("one to call {}, for which nobody waits", call.0))
        })?;
        awaited.reply = Some(reply);
        self.mark_issued(call);
        Ok(())
    }

    /// The reply to a call, if it has come.
    pub(crate) fn take_reply(&mut self, call: CallId) -> Option<Reply> {
        let place =
            self.awaited.iter().position(|awaited| awaited.call == call && awaited.reply.is_some())?;
        self.awaited.swap_remove(place).reply
    }

    /// The thread that posted `call`.
    pub(crate) fn poster(&self, call: CallId) -> Option<ThreadNumber> {
        self.posters.iter().rev().find(|(first, _)| first.is_covered_by(call)).map(|(_, thread)| *thread)
    }

    /// A posted call failed.
    pub(crate) fn failed(&mut self, call: CallId, error: CuError) {
        if error.is_sticky() {
            self.sticky.get_or_insert(error);
        } else {
            let thread = self.poster(call).unwrap_or_else(ThreadNumber::own);
            self.deferred.push_back((thread, error));
        }
        // A copy that was refused asks for no bytes and lands none.
        self.pulls.retain(|_, pull| pull.call != call);
        let landed = &mut self.landed;
        self.landings.retain(|copy, landing| {
            if landing.call == call && landing.awaited {
                landed.insert(*copy, false);
            }
            landing.call != call
        });
    }

    /// The error of an earlier call that is due now: the calling thread's own, else that of a thread that waits for
    /// nothing, since one that waits is about to be told.
    pub(crate) fn take_deferred(&mut self) -> Option<CuError> {
        let own = ThreadNumber::own();
        let is_waiting = |thread| self.awaited.iter().any(|awaited| awaited.thread == thread);
        let others = || self.deferred.iter().position(|(thread, _)| !is_waiting(*thread));
        let index = self.deferred.iter().position(|(thread, _)| *thread == own).or_else(others)?;
        self.deferred.remove(index).map(|(_, error)| error)
    }
}
