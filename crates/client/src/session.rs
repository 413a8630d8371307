//! One context on one remote device: posts, waits, and the role of the thread that reads.
//!
//! Calls are appended to one send buffer, so what any thread posted before another thread's call is issued before it.
//! The buffer is written when a call waits, when it is half full, or by the progress thread, which is told when the
//! buffer stops being empty.
//!
//! At most one thread reads the link at a time (`session/reading.rs`): the one that waits for a reply, else the
//! progress thread. It hands out what arrives and never sends: what a message asks to be sent is left to the progress
//! thread. The worker's reader never waits either, so two full links cannot wait for each other.
//!
//! Locks, in the order in which they may be taken: `outgoing`, then `state`. Neither is held while reading.

mod reading;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cuda_types::{CuError, CuResult};
use proto::calls::Row;
use proto::codec::Malformed;
use proto::control::Farewell;
use proto::frame::{CallId, append};
use proto::frames::FrameReader;
use proto::handshake::Began;
use proto::{Caller, DeviceFacts};
use transport::direct::DirectAccess;
use transport::{Link, LinkError};
use window::Window;

use crate::ahead::Ahead;
use crate::bulk::Bulk;
use crate::environment::{self, Environment, Severity};
use crate::launch::LaunchLimits;
use crate::ledger::{Account, Ledger};
use crate::outgoing::{FLUSH_BYTES, Look, Outgoing, Watch};
use crate::progress::Progress;
use crate::state::State;
use crate::thread_number::ThreadNumber;
use crate::verbs::{self, Ready};

/// See the module's text.
pub struct Session {
    /// Given to no other session of the process.
    pub(crate) number: u64,
    pub(crate) link: Box<dyn Link>,
    /// Where the link has direct access to the worker's memory.
    pub(crate) bulk: Option<Bulk>,
    pub(crate) environment: Arc<Environment>,
    pub(crate) facts: Arc<DeviceFacts>,
    pub(crate) launch_limits: LaunchLimits,
    outgoing: Mutex<Outgoing>,
    /// Taken only by the thread whose `state.reading` it is.
    frames: Mutex<FrameReader>,
    state: Mutex<State>,
    changed: Condvar,
    /// Threads of the program that wait for something from this link.
    waiting: AtomicUsize,
    names: AtomicU64,
    /// The sticky or link error, where it can be seen without a lock; 0 for none.
    broken: AtomicU32,
    pub(crate) progress: Arc<Progress>,
    /// Whole buffers of calls are sent: the progress thread reads the link when it looks, not at each message that says how
    /// many of them are issued.
    pub(crate) streams: AtomicBool,
    /// The progress thread sleeps until nobody waits for this link any more.
    pub(crate) is_left: AtomicBool,
    pub(crate) ahead: Ahead,
    farewell: AtomicBool,
    /// Held while an allocation is placed and its chunk is mapped.
    pub(crate) allocating: Mutex<()>,
    counters: Counters,
    ledger: Option<Arc<Ledger>>,
}

/// What a session has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Calls that waited for a reply.
    pub round_trips: u64,
    /// Times that bytes were given to the link, and how many.
    pub sends: u64,
    pub bytes_sent: u64,
}

#[derive(Default)]
struct Counters {
    round_trips: AtomicU64,
    sends: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Session {
    pub(crate) fn new(
        ready: Ready,
        facts: Arc<DeviceFacts>,
        began: &Began,
        window: Window,
        environment: Arc<Environment>,
        ledger: Option<Arc<Ledger>>,
    ) -> std::io::Result<Arc<Session>> {
        let Ready { greeted, bulk } = ready;
        let progress = Progress::shared(&environment)?;
        descriptors(&*greeted.link).for_each(environment::remember_descriptor);
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let session = Arc::new(Session {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            link: greeted.link,
            bulk,
            environment,
            launch_limits: LaunchLimits::of(&facts),
            facts,
            outgoing: Mutex::new(Outgoing::new()),
            frames: Mutex::new(greeted.frames),
            state: Mutex::new(State::new(began.staging_bytes, window)),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            names: AtomicU64::new(0x100),
            broken: AtomicU32::new(0),
            progress: Arc::clone(&progress),
            streams: AtomicBool::new(false),
            is_left: AtomicBool::new(false),
            ahead: Ahead::new(greeted.round_trip, began.control_bytes),
            farewell: AtomicBool::new(false),
            allocating: Mutex::new(()),
            counters: Counters::default(),
            ledger,
        });
        progress.watch(&session);
        Ok(session)
    }

    /// What the server said about the device.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error that every call answers now, if there is one.
    pub fn check(&self) -> CuResult<()> {
        if environment::is_forked() {
            return Err(CuError::NOT_INITIALIZED);
        }
        match self.broken.load(Ordering::Acquire) {
            0 => Ok(()),
            error => Err(CuError(error)),
        }
    }

    /// Remembers an error that a reply or a message brought, if it is one that stays.
    pub(crate) fn note(&self, error: CuError) {
        if error.is_sticky() {
            self.state().sticky.get_or_insert(error);
            // The first error stays.
            let _ = self.broken.compare_exchange(0, error.0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// What this session has cost so far, the greeting not counted.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            round_trips: self.counters.round_trips.load(Ordering::Relaxed),
            sends: self.counters.sends.load(Ordering::Relaxed),
            bytes_sent: self.counters.bytes_sent.load(Ordering::Relaxed),
        }
    }

    /// Notes something where calls are counted.
    #[inline(always)]
    pub(crate) fn account(&self, change: impl FnOnce(&mut Account)) {
        if let Some(ledger) = &self.ledger {
            ledger.change(change);
        }
    }

    /// Where calls are counted, the start of a wait.
    pub(crate) fn clock(&self) -> Option<Instant> {
        self.ledger.as_ref().map(|_| Instant::now())
    }

    /// Notes a wait that began at `start`.
    pub(crate) fn account_since(&self, start: Option<Instant>, change: impl FnOnce(&mut Account, Duration)) {
        if let Some(start) = start {
            let waited = start.elapsed();
            self.account(|account| change(account, waited));
        }
    }

    /// The error of an earlier posted call, once.
    pub fn take_deferred(&self) -> Option<CuError> {
        self.state().take_deferred()
    }

    /// Appends a call and says its number. Inlined: every posted call passes here. Waits if too much is under way that the
    /// worker has not issued.
    #[inline(always)]
    fn append<'a>(
        &'a self,
        row: &Row,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> CuResult<(MutexGuard<'a, Outgoing>, CallId)> {
        self.check()?;
        let mut out = self.outgoing();
        if out.bytes - out.issued_bytes > self.ahead.bytes() {
            out = self.wait_for_backlog(out)?;
        }
        let call = out.next_call;
        out.next_call = call.next();
        let thread = ThreadNumber::own();
        if out.poster != Some(thread) {
            self.change_poster(&mut out, thread, call);
        }
        out.last_call = out.buffer.len();
        append(&mut out.buffer, row.opcode, call, 0, write);
        let bytes = (out.buffer.len() - out.last_call) as u64;
        out.bytes += bytes;
        self.account(|account| account.appended(row, bytes));
        if out.bytes >= out.next_mark {
            out.mark(call);
        }
        Ok((out, call))
    }

    /// Waits until little enough is under way that the worker has not issued.
    #[cold]
    fn wait_for_backlog<'a>(
        &'a self,
        mut out: MutexGuard<'a, Outgoing>,
    ) -> CuResult<MutexGuard<'a, Outgoing>> {
        // While whole buffers are sent, nobody may have read what has come.
        drop(out);
        self.read_available();
        out = self.outgoing();
        let mut has_waited = false;
        loop {
            let issued = self.state().issued;
            out.note_issued(issued);
            if out.bytes - out.issued_bytes <= self.ahead.bytes() {
                if has_waited && out.resume() {
                    self.progress.wake();
                }
                return Ok(out);
            }
            has_waited = true;
            self.flush_locked(&mut out)?;
            drop(out);
            let start = self.clock();
            self.wait_until(|state| (state.issued != issued).then_some(()))?;
            self.account_since(start, |account, waited| account.backlog.add(waited, 0));
            out = self.outgoing();
        }
    }

    #[cold]
    fn change_poster(&self, out: &mut Outgoing, thread: ThreadNumber, call: CallId) {
        out.poster = Some(thread);
        self.state().posters.push_back((call, thread));
    }

    /// Writes the send buffer, then `parts`.
    pub(crate) fn flush_with(&self, out: &mut Outgoing, parts: &[&[u8]]) -> CuResult<()> {
        let end = out.buffer.len();
        self.flush_around(out, end, parts)
    }

    /// Writes the send buffer, with `parts` at a place of it.
    fn flush_around(&self, out: &mut Outgoing, place: usize, parts: &[&[u8]]) -> CuResult<()> {
        self.counters.sends.fetch_add(1, Ordering::Relaxed);
        let bytes = out.buffer.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        self.counters.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.account(|account| {
            account.sends += 1;
            account.bytes_sent += bytes as u64;
        });
        let sent = if parts.is_empty() {
            self.link.send(&[&out.buffer])
        } else {
            let (before, behind) = out.buffer.split_at(place);
            let all: Vec<&[u8]> = [before].iter().chain(parts).chain(&[behind]).copied().collect();
            self.link.send(&all)
        };
        out.buffer.clear();
        out.announced = out.watch != Watch::Quiet;
        sent.map_err(|error| self.lose(&error))
    }

    fn flush_locked(&self, out: &mut Outgoing) -> CuResult<()> {
        if out.buffer.is_empty() {
            return Ok(());
        }
        self.flush_with(out, &[])
    }

    /// Writes what has been posted.
    pub fn flush(&self) -> CuResult<()> {
        self.check()?;
        self.flush_locked(&mut self.outgoing())
    }

    /// Posts a call and tells its number.
    #[inline]
    pub(crate) fn post_call(&self, row: &Row, write: impl FnOnce(&mut Vec<u8>)) -> CuResult<CallId> {
        let (mut out, call) = self.append(row, write)?;
        self.leave(&mut out)?;
        Ok(call)
    }

    /// Sends `parts`, which are frames of their own, and a posted call that refers to them, at once.
    pub(crate) fn post_behind(
        &self,
        parts: &[&[u8]],
        row: &Row,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> CuResult<()> {
        let (mut out, _) = self.append(row, write)?;
        let place = out.last_call;
        self.flush_around(&mut out, place, parts)
    }

    /// Leaves a control frame in front of the calls that follow.
    pub(crate) fn post_control(&self, write: impl FnOnce(&mut Vec<u8>)) -> CuResult<()> {
        self.check()?;
        write(&mut self.outgoing().buffer);
        Ok(())
    }

    /// What the link is and has carried, for people.
    pub fn link_summary(&self) -> String {
        verbs::summary(&*self.link).unwrap_or_else(|| format!("link to {}", self.link.peer()))
    }

    /// Whether bulk bytes go by RDMA.
    pub fn is_over_verbs(&self) -> bool {
        self.bulk.is_some()
    }

    /// Whether the network reaches the device's memory without the worker's staging.
    pub fn uses_gpudirect(&self) -> bool {
        self.bulk.as_ref().is_some_and(|bulk| bulk.gpudirect)
    }

    /// Memory registrations with network adapters in this process so far.
    pub fn registrations(&self) -> u64 {
        self.link.direct().map_or(0, |direct| direct.statistics().registrations)
    }

    /// Direct access to the worker's memory, and what bulk bytes go through with it.
    pub(crate) fn direct(&self) -> Option<(&dyn DirectAccess, &Bulk)> {
        Some((self.link.direct()?, self.bulk.as_ref()?))
    }

    /// The program has ended the registration of memory that starts at `address`.
    pub(crate) fn forget_registered(&self, address: usize) {
        if let Some((direct, bulk)) = self.direct() {
            bulk.forget(direct, address);
        }
    }

    /// Leaves what is in the buffer to be written soon.
    #[inline]
    fn leave(&self, out: &mut Outgoing) -> CuResult<()> {
        if out.buffer.len() >= FLUSH_BYTES {
            out.was_full = true;
            return self.flush_locked(out);
        }
        if !out.announced {
            out.announced = true;
            self.progress.wake();
        }
        Ok(())
    }

    /// Sends control frames from a thread that may block.
    pub(crate) fn send_control(&self, write: impl FnOnce(&mut Vec<u8>)) -> CuResult<()> {
        self.check_link()?;
        let mut out = self.outgoing();
        write(&mut out.buffer);
        self.flush_locked(&mut out)
    }

    /// Sends frames with bulk bytes from the progress thread.
    pub(crate) fn send_parts(&self, parts: &[&[u8]]) -> CuResult<()> {
        self.check_link()?;
        self.flush_with(&mut self.outgoing(), parts)
    }

    fn check_link(&self) -> CuResult<()> {
        if environment::is_forked() {
            return Err(CuError::NOT_INITIALIZED);
        }
        self.state().lost.map_or(Ok(()), Err)
    }

    /// The progress thread writes what others left behind; when it shall look again by itself.
    pub(crate) fn write_leftovers(&self) -> Look {
        let controls = std::mem::take(&mut self.state().controls);
        if self.check_link().is_err() {
            return Look::Never;
        }
        let is_urgent = !controls.is_empty();
        let mut out = self.outgoing();
        out.buffer.extend_from_slice(&controls);
        let (send, look) = out.look(is_urgent);
        if send {
            // A lost link is remembered and told by the next call.
            let _ = self.flush_locked(&mut out);
        }
        look
    }

    /// The link is gone: says so once, and lets every waiting thread know.
    pub(crate) fn lose(&self, error: &LinkError) -> CuError {
        self.lose_with(&error.to_string())
    }

    fn lose_with(&self, reason: &str) -> CuError {
        // What the program still has posted is lost with the worker: its memory and modules are gone as well.
        let code = CuError::DEVICE_UNAVAILABLE;
        let (first, host_functions, notices) = {
            let mut state = self.state();
            let first = state.lost.is_none();
            state.lost.get_or_insert(code);
            state.landings.clear();
            state.pulls.clear();
            let notices: Vec<_> = state.notices.drain().collect();
            (first, state.host_functions.drain().collect::<Vec<_>>(), notices)
        };
        let _ = self.broken.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Acquire);
        self.changed.notify_all();
        for (_, action) in notices {
            // Another device's stream must not wait for this one forever.
            crate::event::act(self, action, code.0);
        }
        drop(host_functions);
        self.link.shutdown();
        if first && !self.farewell.load(Ordering::Acquire) {
            (self.environment.log)(
                Severity::Error,
                &format!(
                    "{}: {reason}. The device's memory and modules went with it; this program's calls to it fail with {code}",
                    self.link.peer()
                ),
            );
        }
        code
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.state().lost.is_some()
    }

    /// Sends what is posted and a farewell, and waits up to `patience` until the worker has finished.
    pub fn close(&self, patience: Duration) {
        if environment::is_forked() || self.is_lost() || self.farewell.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.send_control(|out| Farewell {}.append(out, 0)).is_err() {
            return;
        }
        let end = Instant::now() + patience;
        // The worker ends the link when it is done; the progress thread or this one sees it.
        while !self.is_lost() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.link.wait_readable(left.min(Duration::from_millis(20))).is_err() {
                break;
            }
            self.read_available();
        }
        if let Some(summary) = verbs::summary(&*self.link) {
            (self.environment.log)(Severity::Info, &summary);
        }
        self.link.shutdown();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        descriptors(&*self.link).for_each(environment::forget_descriptor);
    }
}

/// What a forked child must close, so that this process's end is the link's end.
fn descriptors(link: &dyn Link) -> impl Iterator<Item = i32> {
    use std::os::fd::AsRawFd;
    let all = [Some(link.descriptor()), link.lifeline()];
    all.into_iter().flatten().map(|descriptor| descriptor.as_raw_fd())
}

impl Caller for Session {
    #[inline]
    fn post(&self, row: &'static Row, write: impl FnMut(&mut Vec<u8>)) -> CuResult<()> {
        self.post_call(row, write).map(drop)
    }

    fn wait(
        &self,
        row: &'static Row,
        write: &mut dyn FnMut(&mut Vec<u8>),
        read: &mut dyn FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> CuResult<()> {
        let asked = self.ahead.is_far().then(Instant::now);
        let (call, start) = {
            let (mut out, call) = self.append(row, write)?;
            let start = self.clock();
            self.state().expect_reply(call);
            self.flush_locked(&mut out)?;
            (call, start)
        };
        self.counters.round_trips.fetch_add(1, Ordering::Relaxed);
        self.account(|account| account.asked(row));
        let reply = self.wait_until(|state| state.take_reply(call))?;
        if let Some(asked) = asked {
            self.ahead.answered(asked.elapsed());
        }
        self.account_since(start, |account, waited| account.answered(row, waited, reply.value.len() as u64));
        if reply.error != 0 {
            let error = CuError(reply.error);
            self.note(error);
            return Err(error);
        }
        read(&reply.value).map_err(|malformed| self.lose_with(&malformed.to_string()))
    }

    fn new_name(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }
}
