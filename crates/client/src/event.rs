//! Streams and events: what can be answered without asking, and what crosses from one device to another.

use std::sync::{Arc, Weak};

use cuda_types::{CUevent, CUstream, CuError, CuResult};
use proto::control::GateOpen;
use proto::{Caller, ContextCalls, EventCalls, StreamCalls, TransferCalls};

use crate::session::Session;
use crate::state::{EventState, NoticeAction};

impl Session {
    /// `cuCtxSynchronize`, and the error of earlier posted calls.
    pub fn cuCtxSynchronize(&self) -> CuResult<()> {
        let upto = self.state().recordings;
        ContextCalls::cuCtxSynchronize(self)?;
        let mut state = self.state();
        state.covered = state.covered.max(upto);
        drop(state);
        self.deliver_deferred()
    }

    /// `cuStreamSynchronize`, and the error of earlier posted calls.
    pub fn cuStreamSynchronize(&self, stream: CUstream) -> CuResult<()> {
        let upto = self.state().recordings;
        StreamCalls::cuStreamSynchronize(self, stream)?;
        self.state().stream_covered.insert(stream.0, upto);
        self.deliver_deferred()
    }

    /// `cuStreamDestroy`: what the program can no longer ask about is forgotten.
    pub fn cuStreamDestroy(&self, stream: CUstream) -> CuResult<()> {
        self.state().stream_covered.remove(&stream.0);
        self.cuStreamDestroy_v2(stream)
    }

    /// `cuEventCreate`.
    pub fn cuEventCreate(&self, flags: u32) -> CuResult<CUevent> {
        let event = EventCalls::cuEventCreate(self, flags)?;
        self.state().events.insert(event.0, EventState::default());
        Ok(event)
    }

    /// `cuEventDestroy`.
    pub fn cuEventDestroy(&self, event: CUevent) -> CuResult<()> {
        self.state().events.remove(&event.0).ok_or(CuError::INVALID_HANDLE)?;
        self.cuEventDestroy_v2(event)
    }

    /// `cuEventRecord`.
    pub fn cuEventRecord(&self, event: CUevent, stream: CUstream) -> CuResult<()> {
        let mut state = self.state();
        state.recordings += 1;
        let recorded = state.recordings;
        let entry = state.events.get_mut(&event.0).ok_or(CuError::INVALID_HANDLE)?;
        *entry = EventState { recorded, stream: stream.0, done: false, armed: false };
        drop(state);
        EventCalls::cuEventRecord(self, event, stream)
    }

    /// Whether the last recording is known to be complete; `Err` for an event that does not exist.
    fn event_done(&self, event: CUevent) -> CuResult<(bool, EventState)> {
        let state = self.state();
        let entry = *state.events.get(&event.0).ok_or(CuError::INVALID_HANDLE)?;
        let covered = state.stream_covered.get(&entry.stream).copied().unwrap_or(0).max(state.covered);
        Ok((entry.done || entry.recorded <= covered, entry))
    }

    /// `cuEventQuery`: asks at most once per recording; then a notice tells.
    pub fn cuEventQuery(&self, event: CUevent) -> CuResult<()> {
        self.check()?;
        let (done, entry) = self.event_done(event)?;
        if done {
            return Ok(());
        }
        if entry.armed {
            self.read_available();
            self.check()?;
            return if self.event_done(event)?.0 { Ok(()) } else { Err(CuError::NOT_READY) };
        }
        self.announce(event, NoticeAction::EventDone { event: event.0, recording: entry.recorded })?;
        if let Some(entry) = self.state().events.get_mut(&event.0) {
            entry.armed = true;
        }
        EventCalls::cuEventQuery(self, event)?;
        self.mark_done(event.0, entry.recorded);
        Ok(())
    }

    /// Has the worker say when the event's last recording is complete.
    fn announce(&self, event: CUevent, action: NoticeAction) -> CuResult<()> {
        let notice = self.new_name();
        self.state().notices.insert(notice, action);
        let posted = self.vgpuAnnounceEvent(notice, event);
        if posted.is_err() {
            self.state().notices.remove(&notice);
        }
        posted
    }

    fn mark_done(&self, event: u64, recording: u64) {
        if let Some(entry) = self.state().events.get_mut(&event).filter(|entry| entry.recorded == recording) {
            entry.done = true;
        }
    }

    /// `cuEventSynchronize`, and the error of earlier posted calls.
    pub fn cuEventSynchronize(&self, event: CUevent) -> CuResult<()> {
        self.check()?;
        let (done, entry) = self.event_done(event)?;
        if !done {
            EventCalls::cuEventSynchronize(self, event)?;
            self.mark_done(event.0, entry.recorded);
        }
        self.deliver_deferred()
    }

    /// `cuStreamWaitEvent` with an event of another device: the stream waits at a gate, which is opened when the
    /// other device says that the recording is complete. Nobody waits on the host.
    pub fn wait_for_other_device(
        self: &Arc<Self>,
        stream: CUstream,
        other: &Session,
        event: CUevent,
    ) -> CuResult<()> {
        let (done, _) = other.event_done(event)?;
        if done {
            return self.check();
        }
        let gate = self.new_name();
        self.vgpuGateWait(gate, stream)?;
        let action = NoticeAction::OpenGate { session: Arc::downgrade(self), gate };
        if let Err(error) = other.announce(event, action) {
            // The stream must not wait for a device that is gone.
            self.open_gate_later(gate);
            return Err(error);
        }
        other.flush()
    }

    /// Has the stream wait until the gate that is answered is opened, from here.
    pub fn gate(self: &Arc<Self>, stream: CUstream) -> CuResult<Gate> {
        let name = self.new_name();
        self.vgpuGateWait(name, stream)?;
        Ok(Gate { session: Arc::downgrade(self), name })
    }

    /// Leaves the opening of a gate to the progress thread.
    fn open_gate_later(&self, gate: u64) {
        GateOpen { gate }.append(&mut self.state().controls, 0);
        self.progress.wake();
    }
}

/// Something on this side that a stream waits for.
pub struct Gate {
    session: Weak<Session>,
    name: u64,
}

impl Gate {
    /// Lets the stream go on.
    pub fn open(self) {
        if let Some(session) = self.session.upgrade() {
            session.open_gate_later(self.name);
        }
    }

    /// Whether the stream waits no more, because its context is gone or broken.
    pub fn is_over(&self) -> bool {
        self.session.upgrade().is_none_or(|session| session.check().is_err())
    }
}

/// Does what a notice on `session` was asked for.
pub(crate) fn act(session: &Session, action: NoticeAction, error: u32) {
    if error != 0 {
        session.note(CuError(error));
    }
    match action {
        NoticeAction::EventDone { event, recording } => session.mark_done(event, recording),
        NoticeAction::OpenGate { session, gate } => {
            if let Some(session) = session.upgrade() {
                session.open_gate_later(gate);
            }
        }
    }
}
