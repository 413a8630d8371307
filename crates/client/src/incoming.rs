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
                let call = CallId(reply.call);
                Ok(self.state().replied(call, state::Reply { error: reply.error, value })?)
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
                self.ahead.told(u64::from(issued.ahead));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use cuda_types::CUstream;
    use proto::MemoryCalls;
    use proto::frame::Header;
    use proto::handshake::{Began, Begin, Hello, VerbsOffer, Welcome};
    use proto::{DeviceFacts, codec};
    use transport::memory::MemoryLink;
    use transport::{Address, Link};

    use super::*;
    use crate::connect::Greeted;
    use crate::environment::Environment;
    use crate::remote::Remote;
    use crate::server_list::Transport;

    static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    /// The far end of a session that has begun.
    struct Server {
        link: MemoryLink,
        frames: FrameReader,
    }

    impl Server {
        fn begin() -> (Server, Arc<Session>) {
            let (near, link) = transport::memory::pair().expect("a pair");
            let facts = DeviceFacts {
                name: "none".into(),
                uuid: [0; 16],
                total_memory: 1 << 30,
                driver_version: 12_000,
                attributes: Vec::new(),
                stream_priorities: (0, 0),
            };
            let began = Began {
                staging_bytes: 1 << 20,
                landing_bytes: 1 << 20,
                control_bytes: 1 << 20,
                mapped_bytes: 2 << 20,
                verbs: VerbsOffer::NotAsked,
            };
            let version = Hello::new(String::new()).agree().expect("our own version");
            link.send(&[&Welcome { version, facts }.frame(), &began.frame()]).expect("room");
            let log = |_, line: &str| LOGGED.lock().expect("no panic").push(line.into());
            let environment = Arc::new(Environment { log, ..Environment::default() });
            let greeted = Greeted::new(Box::new(near), Duration::from_secs(5)).expect("a greeting");
            let address = Address::Tcp { host: "localhost".into(), port: 9 };
            let remote = Remote::greeted(greeted, address, Transport::Tcp, 0, environment, |_, _| true);
            let session = remote.session().expect("a worker");
            let mut server = Server { link, frames: FrameReader::default() };
            assert_eq!(server.receive().opcode, Hello::OPCODE);
            assert_eq!(server.receive().opcode, Begin::OPCODE);
            (server, session)
        }

        fn receive(&mut self) -> Header {
            let mut read = |into: &mut [u8]| self.link.receive(into);
            let header = self.frames.header(&mut read).expect("a frame");
            self.frames.arguments(header.length, &mut Vec::new(), &mut read).expect("its arguments");
            header
        }

        /// Answers a `cuMemGetInfo` with 1 of 2 bytes.
        fn reply(&self, call: CallId) {
            let (mut frame, mut value) = (Vec::new(), Vec::new());
            codec::put(&mut value, (1_u64, 2_u64));
            Reply { call: call.0, error: 0 }.append(&mut frame, u32::try_from(value.len()).expect("few"));
            self.link.send(&[&frame, &value]).expect("room");
        }
    }

    fn is_lost_over(session: &Session, call: CallId) {
        let end = Instant::now() + Duration::from_secs(20);
        while !session.is_lost() {
            assert!(Instant::now() < end, "the reply to call {} was taken", call.0);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(session.cuMemGetInfo_v2(), Err(CuError::DEVICE_UNAVAILABLE));
        let reason = format!("malformed reply: one to call {}, for which nobody waits", call.0);
        while !LOGGED.lock().expect("no panic").iter().any(|line| line.contains(&reason)) {
            assert!(Instant::now() < end, "nothing was said about call {}", call.0);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_reply_to_a_call_that_nobody_has_made_is_the_end_of_the_link() {
        let (mut server, session) = Server::begin();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| session.cuMemGetInfo_v2());
            let call = server.receive().call;
            server.reply(call.next());
            assert_eq!(waiting.join().expect("no panic"), Err(CuError::DEVICE_UNAVAILABLE));
            is_lost_over(&session, call.next());
        });
    }

    #[test]
    fn a_second_reply_to_a_call_is_the_end_of_the_link() {
        let (mut server, session) = Server::begin();
        let call = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| session.cuMemGetInfo_v2());
            let call = server.receive().call;
            server.reply(call);
            assert_eq!(waiting.join().expect("no panic"), Ok((1, 2)));
            call
        });
        server.reply(call);
        is_lost_over(&session, call);
    }

    #[test]
    fn a_reply_to_a_posted_call_is_the_end_of_the_link() {
        let (mut server, session) = Server::begin();
        session.cuMemAlloc(4).expect("posted");
        let call = server.receive().call;
        server.reply(call);
        is_lost_over(&session, call);
    }

    #[test]
    fn what_comes_behind_a_long_wait_is_read_although_nobody_waits_any_more() {
        let (mut server, session) = Server::begin();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| session.cuMemGetInfo_v2());
            let call = server.receive().call;
            // The progress thread looks, and goes to sleep until the waiting thread is done.
            session.progress.wake();
            while !session.is_left.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            server.reply(call);
            assert_eq!(waiting.join().expect("no panic"), Ok((1, 2)));
            server.reply(call);
            is_lost_over(&session, call);
        });
    }

    #[test]
    fn a_link_is_read_again_when_a_program_that_only_posted_has_stopped() {
        // Two full send buffers and more, and less than may be under way.
        const CALLS: u32 = 10_000;
        let (mut server, session) = Server::begin();
        let memory = session.cuMemAlloc(4).expect("posted");
        std::thread::scope(|scope| {
            let heard = scope.spawn(|| {
                let mut last = server.receive().call;
                while last.0 < CALLS {
                    last = server.receive().call;
                }
                server.reply(last);
                last
            });
            for _ in 0..CALLS {
                session.cuMemsetD8Async(memory, 1, 4, CUstream::NULL).expect("posted");
            }
            // Nobody waits for anything.
            is_lost_over(&session, heard.join().expect("no panic"));
        });
    }
}
