//! What the worker sends: replies, landing bytes, credit, requests. The reading thread hands it out.

use cuda_types::{CuError, HostSpan};
use proto::codec::Malformed;
use proto::control::{
    Credit, Emptied, Failed, Issued, Landed, LandedAt, Landing, Notice, Printed, Pull, PullDone, Reply,
    RunHostFunction,
};
use proto::frame::CallId;
use proto::frames::{FrameError, FrameReader};
use transport::LinkError;

use crate::session::Session;
use crate::state;

type Received = Result<(), FrameError<LinkError>>;

impl Session {
    /// Reads one frame and does what it says. Never sends, and never waits for anything but the link.
    pub(crate) fn receive_frame(&self, frames: &mut FrameReader) -> Received {
        let mut read = |into: &mut [u8]| self.link.receive(into);
        let header = frames.header(&mut read)?;
        let length = header.length as usize;
        if length > FrameReader::SHORT_BYTES {
            return Err(Malformed::new("message", format_args!("{header:?}")).into());
        }
        let arguments = frames.short_arguments(length, &mut read)?;
        match header.opcode {
            Reply::OPCODE => {
                let reply = Reply::read(arguments)?;
                let mut value = vec![0; header.bulk as usize];
                if !value.is_empty() {
                    frames.bulk(&mut value, &mut read)?;
                }
                let mut state = self.state();
                state.mark_issued(CallId(reply.call));
                state.replies.push((CallId(reply.call), state::Reply { error: reply.error, value }));
                Ok(())
            }
            Landing::OPCODE => {
                let landing = Landing::read(arguments)?;
                let mut into = self.landing_span(&landing, u64::from(header.bulk))?;
                frames.bulk(into.write(), &mut read)?;
                self.landed(&landing, into.len() as u64);
                Ok(())
            }
            Printed::OPCODE => {
                let mut printed = vec![0; header.bulk as usize];
                frames.bulk(&mut printed, &mut read)?;
                (self.environment.print)(&printed);
                Ok(())
            }
            _ if header.bulk != 0 => Err(Malformed::new("message", format_args!("{header:?}")).into()),
            Credit::OPCODE => self.credited(Credit::read(arguments)?),
            Issued::OPCODE => {
                let issued = Issued::read(arguments)?;
                self.state().mark_issued(CallId(issued.upto));
                Ok(())
            }
            Failed::OPCODE => {
                let failed = Failed::read(arguments)?;
                let error = CuError(failed.error);
                self.state().failed(CallId(failed.call), error);
                self.note(error);
                Ok(())
            }
            Pull::OPCODE => {
                let pull = Pull::read(arguments)?;
                let mut state = self.state();
                if state.pulls.contains_key(&pull.copy) {
                    state.pull_queue.push_back(pull.copy);
                    self.progress.wake();
                }
                Ok(())
            }
            LandedAt::OPCODE => self.empty_landing(LandedAt::read(arguments)?),
            Landed::OPCODE => {
                let Landed { copy, bytes, last } = Landed::read(arguments)?;
                self.landed(&Landing { copy, offset: 0, last }, bytes);
                Ok(())
            }
            PullDone::OPCODE => {
                let done = PullDone::read(arguments)?;
                let pulled = self.state().pulls.remove(&done.copy);
                let bytes = pulled.map_or(0, |pull| pull.span.len() as u64);
                self.account(|account| account.staged_bytes += bytes);
                Ok(())
            }
            Notice::OPCODE => {
                let notice = Notice::read(arguments)?;
                let action = self.state().notices.remove(&notice.notice);
                if let Some(action) = action {
                    crate::event::act(self, action, notice.error);
                }
                Ok(())
            }
            RunHostFunction::OPCODE => {
                let message = RunHostFunction::read(arguments)?;
                self.progress.run_host_function(self, message);
                Ok(())
            }
            _ => Err(Malformed::new("message", format_args!("{header:?}")).into()),
        }
    }

    /// Where landing bytes belong. A message for a copy that is no longer awaited is an error: its memory may be gone.
    fn landing_span(&self, landing: &Landing, bytes: u64) -> Result<HostSpan, Malformed> {
        let state = self.state();
        let found = state.landings.get(&landing.copy).and_then(|entry| {
            let offset = usize::try_from(landing.offset).ok()?;
            entry.span.slice(offset, usize::try_from(bytes).ok()?)
        });
        found.ok_or_else(|| Malformed::new("landing", format_args!("{landing:?} with {bytes} bytes")))
    }

    /// Copies bytes out of the landing memory and says that their place is empty.
    fn empty_landing(&self, landed: LandedAt) -> Received {
        let LandedAt { copy, offset, bytes, at, last } = landed;
        let landing = Landing { copy, offset, last };
        let malformed = || Malformed::new("landing", format_args!("{landed:?}"));
        let (_, bulk) = self.direct().ok_or_else(malformed)?;
        let from = bulk.landed(&landed).ok_or_else(malformed)?;
        let mut into = self.landing_span(&landing, bytes)?;
        into.write().copy_from_slice(from.read());
        self.landed(&landing, bytes);
        Emptied { at }.append(&mut self.state().controls, 0);
        self.progress.wake();
        Ok(())
    }

    fn landed(&self, landing: &Landing, bytes: u64) {
        self.account(|account| account.landed_bytes += bytes);
        let mut state = self.state();
        let Some(entry) = state.landings.get_mut(&landing.copy) else { return };
        entry.received += bytes;
        if landing.last {
            let complete = entry.received == entry.span.len() as u64;
            let awaited = entry.awaited;
            state.landings.remove(&landing.copy);
            if awaited {
                state.landed.insert(landing.copy, complete);
            }
        }
    }

    fn credited(&self, credit: Credit) -> Received {
        let mut state = self.state();
        if !state.staging.give(credit.staging, credit.bytes) {
            return Err(Malformed::new("credit", format_args!("{credit:?} was not taken")).into());
        }
        if !state.pull_queue.is_empty() {
            self.progress.wake();
        }
        Ok(())
    }
}
