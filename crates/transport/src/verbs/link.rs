//! A connection over verbs as a [`Link`].
//!
//! ```text
//!   this side                                     the other side
//!   mirror  ──── RDMA WRITE with immediate ────►  inbox      (a ring; the immediate is the number of bytes)
//!   words   ◄─── RDMA WRITE, inline ────────────  consumed   (room in the ring, receives posted again)
//!   lifeline ◄══════════ TCP ══════════════════►             (carries nothing; its end is the link's end)
//! ```
//!
//! A message is written into the mirror of the peer's ring and from there into the ring itself; up to the device's
//! inline limit the request carries the bytes. Requests are unsignalled but for one in [`SIGNAL_EVERY`]. The writer
//! knows the room from words that the reader writes: no message of the peer's has to be read for it, so two full links
//! cannot wait for each other, and a receive is always posted, so the adapter never has to ask again (RNR).
//!
//! Locks: `sends` covers posting to and polling of the send queue, `receives` the receive queue; `sends` may be taken
//! with `receives` held, never the other way. Neither is held while sleeping.

#![allow(unsafe_code, reason = "posting requests on memory that this link owns (docs/adr/0008)")]

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, epoll, poll};
use verbs_abi::{Completion, Receive, Send as Request, flag, opcode, queue};

use super::connect::Terms;
use super::error::{VerbsError, explain};
use super::patience::Patience;
use super::pinned::Pinned;
use super::plugin::Endpoint;
use super::ring::{Consumed, Reader, Slot, Writer};
use crate::direct::{Done, Ticket};
use crate::link::{Link, LinkError};
use crate::socket::{readable, timespec};

/// See the module's text.
pub struct VerbsLink {
    pub(super) endpoint: Arc<Endpoint>,
    lifeline: Arc<dyn Link>,
    pub(super) peer: String,
    pub(super) device: String,
    /// Written by the peer.
    inbox: Pinned,
    /// What this side has written into the peer's inbox.
    mirror: Pinned,
    /// Word 0: bytes, word 1: messages that the peer has consumed.
    words: Pinned,
    terms: Terms,
    inline_bytes: u64,
    pub(super) sends: Mutex<Sends>,
    pub(super) sends_changed: Condvar,
    receives: Mutex<Receives>,
    /// Readable when the armed receive queue has had a completion, or the lifeline has something.
    events: OwnedFd,
    patience: Patience,
    lost: Mutex<Option<Lost>>,
    /// Whether `lost` says something.
    is_lost: AtomicBool,
    pub(super) counters: Counters,
}

/// The send queue: requests are numbered from 1 in the order of posting, which is the order of completion.
pub(super) struct Sends {
    ring: Writer,
    pub(super) posted: u64,
    pub(super) completed: u64,
    /// The newest request that will say when it is complete.
    signalled: u64,
    /// What to run when a request is complete, in order.
    pub(super) actions: VecDeque<(u64, Done)>,
    /// A thread sleeps until something completes; others wait for it to say so.
    sleeping: bool,
}

struct Receives {
    ring: Reader,
    /// Receives that were used up and are to be posted again.
    spent: u32,
}

enum Lost {
    Closed,
    Broken(String),
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) messages: AtomicU64,
    pub(super) message_bytes: AtomicU64,
    pub(super) transfers: AtomicU64,
    pub(super) transfer_bytes: AtomicU64,
    pub(super) ring_waits: AtomicU64,
    pub(super) queue_waits: AtomicU64,
    pub(super) sleeps: AtomicU64,
}

/// Length of a ring. A launch of four arguments takes 100 bytes.
pub(super) const RING_BYTES: u64 = 512 * 1024;
/// Messages that may be under way.
pub(super) const RING_MESSAGES: u32 = 512;
/// Requests that the send queue holds.
pub(super) const SEND_REQUESTS: u32 = 256;
/// Of them kept for telling the peer of room, which must never wait for bulk.
const KEPT_REQUESTS: u64 = 16;
/// One request in so many says when it is complete, which frees the places of all before it.
const SIGNAL_EVERY: u64 = 32;
/// The longest message, so that the reader begins while the writer goes on.
const MESSAGE_BYTES: u64 = 128 * 1024;
/// Looks between two questions for the time.
const LOOKS: u32 = 32;
/// How long an orderly end waits for the peer's adapter to have taken everything.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

impl VerbsLink {
    /// A link over a connected endpoint; `terms` is what the peer offered.
    pub(super) fn new(
        parts: super::connect::Rings,
        terms: Terms,
        lifeline: Arc<dyn Link>,
        patience: Patience,
    ) -> Result<VerbsLink, LinkError> {
        let info = parts.endpoint.info();
        let device = super::connect::name_of(&info.device);
        let peer = format!("{} over {device}", lifeline.peer());
        let events = watch(&parts.endpoint, &*lifeline)
            .map_err(|source| LinkError::Lost { peer: peer.clone(), source })?;
        Ok(VerbsLink {
            inline_bytes: u64::from(info.inline_bytes),
            endpoint: parts.endpoint,
            inbox: parts.inbox,
            mirror: parts.mirror,
            words: parts.words,
            sends: Mutex::new(Sends {
                ring: Writer::new(u64::from(terms.ring_bytes), u64::from(terms.messages)),
                posted: 0,
                completed: 0,
                signalled: 0,
                actions: VecDeque::new(),
                sleeping: false,
            }),
            sends_changed: Condvar::new(),
            receives: Mutex::new(Receives {
                ring: Reader::new(RING_BYTES, u64::from(RING_MESSAGES)),
                spent: 0,
            }),
            terms,
            lifeline,
            peer,
            device,
            events,
            patience,
            lost: Mutex::new(None),
            is_lost: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    pub(super) fn lock_sends(&self) -> MutexGuard<'_, Sends> {
        self.sends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_receives(&self) -> MutexGuard<'_, Receives> {
        self.receives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of every call once the link is gone.
    pub(super) fn check(&self) -> Result<(), LinkError> {
        if !self.is_lost.load(Ordering::Acquire) {
            return Ok(());
        }
        let peer = || self.peer.clone();
        match &*self.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(Lost::Closed) => Err(LinkError::Closed { peer: peer() }),
            Some(Lost::Broken(text)) => {
                Err(LinkError::Lost { peer: peer(), source: std::io::Error::other(text.clone()) })
            }
        }
    }

    /// Ends the link with a cause, if it has none yet; answers the error.
    fn lose(&self, cause: Lost) -> LinkError {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        self.is_lost.store(true, Ordering::Release);
        self.endpoint.disconnect();
        self.lifeline.shutdown();
        self.sends_changed.notify_all();
        self.check().err().unwrap_or_else(|| LinkError::Closed { peer: self.peer.clone() })
    }

    pub(super) fn broken(&self, error: &VerbsError) -> LinkError {
        self.lose(Lost::Broken(error.to_string()))
    }

    /// A request failed. A flushed one only follows from what ended the connection: the lifeline knows more.
    fn failed(&self, completion: &Completion) -> LinkError {
        const FLUSHED: u32 = 5;
        if completion.status == FLUSHED {
            return match self.lifeline_state() {
                Err(error) => error,
                Ok(()) => self.lose(Lost::Closed),
            };
        }
        let text = self.endpoint.plugin.status_text(completion.status);
        self.lose(Lost::Broken(explain(completion.status, &text)))
    }

    /// Whether the lifeline is as it should be: alive and silent.
    fn lifeline_state(&self) -> Result<(), LinkError> {
        self.check()?;
        let cause = match self.lifeline.wait_readable(Duration::ZERO) {
            Ok(false) => return Ok(()),
            Err(error) => Lost::Broken(error.to_string()),
            Ok(true) => match self.lifeline.receive(&mut [0]) {
                Err(LinkError::Closed { .. }) => Lost::Closed,
                Err(error) => Lost::Broken(error.to_string()),
                Ok(_) => Lost::Broken("the peer sent bytes over TCP after the change to verbs".into()),
            },
        };
        Err(self.lose(cause))
    }

    /// Takes what has completed; the actions that are due are for the caller to run without the lock.
    fn reap(&self, sends: &mut Sends) -> Result<Vec<(Done, bool)>, LinkError> {
        let mut completions = [Completion::default(); 16];
        let mut due = Vec::new();
        loop {
            let found =
                self.endpoint.poll(queue::SENDS, &mut completions).map_err(|error| self.broken(&error))?;
            for completion in &completions[..found] {
                if completion.status != 0 {
                    let error = self.failed(completion);
                    due.extend(sends.actions.drain(..).map(|(_, done)| (done, false)));
                    // They learn it now; the caller learns it from the error.
                    due.into_iter().for_each(|(done, succeeded)| done(succeeded));
                    return Err(error);
                }
                sends.completed = sends.completed.max(completion.id);
            }
            while sends.actions.front().is_some_and(|(id, _)| *id <= sends.completed) {
                due.extend(sends.actions.pop_front().map(|(_, done)| (done, true)));
            }
            if found < completions.len() {
                return Ok(due);
            }
        }
    }

    /// Waits until `enough`, running what completes meanwhile: polls for `spin`, then sleeps.
    pub(super) fn wait_sends<'a>(
        &'a self,
        mut sends: MutexGuard<'a, Sends>,
        spin: Duration,
        limit: Option<Duration>,
        enough: impl Fn(&Sends) -> bool,
    ) -> Result<MutexGuard<'a, Sends>, LinkError> {
        let start = Instant::now();
        loop {
            let due = self.reap(&mut sends)?;
            if !due.is_empty() {
                drop(sends);
                due.into_iter().for_each(|(done, succeeded)| done(succeeded));
                self.sends_changed.notify_all();
                sends = self.lock_sends();
            }
            if enough(&sends) {
                return Ok(sends);
            }
            self.check()?;
            let waited = start.elapsed();
            if limit.is_some_and(|limit| waited >= limit) {
                return Err(LinkError::NoAnswer { peer: self.peer.clone(), timeout: waited });
            }
            if waited < spin {
                drop(sends);
                std::hint::spin_loop();
                sends = self.lock_sends();
            } else if sends.sleeping {
                let again = Duration::from_millis(5);
                sends =
                    self.sends_changed.wait_timeout(sends, again).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                sends = self.sleep_for_sends(sends)?;
            }
        }
    }

    fn sleep_for_sends<'a>(
        &'a self,
        mut sends: MutexGuard<'a, Sends>,
    ) -> Result<MutexGuard<'a, Sends>, LinkError> {
        self.endpoint.arm(queue::SENDS).map_err(|error| self.broken(&error))?;
        // What completed before is found by the caller's next look, so look once more before sleeping.
        let before = sends.completed;
        let due = self.reap(&mut sends)?;
        if sends.completed != before || !due.is_empty() {
            drop(sends);
            due.into_iter().for_each(|(done, succeeded)| done(succeeded));
            return Ok(self.lock_sends());
        }
        sends.sleeping = true;
        drop(sends);
        self.counters.sleeps.fetch_add(1, Ordering::Relaxed);
        let mut descriptors = [
            PollFd::from_borrowed_fd(self.endpoint.descriptor(queue::SENDS), PollFlags::IN),
            PollFd::from_borrowed_fd(self.lifeline.descriptor(), PollFlags::IN),
        ];
        // Interrupted: looks again.
        let _ = poll(&mut descriptors, Some(&timespec(Duration::from_millis(100))));
        let alive = if descriptors[1].revents().is_empty() { Ok(()) } else { self.lifeline_state() };
        self.endpoint.take_events(queue::SENDS);
        let mut sends = self.lock_sends();
        sends.sleeping = false;
        self.sends_changed.notify_all();
        alive.map(|()| sends)
    }

    /// Posts a request and answers its number. `wanted`: it must say when it is complete.
    pub(super) fn post(
        &self,
        sends: &mut Sends,
        mut request: Request,
        wanted: bool,
    ) -> Result<u64, LinkError> {
        let id = sends.posted + 1;
        request.id = id;
        if wanted || id - sends.signalled >= SIGNAL_EVERY {
            request.flags |= flag::SIGNALED;
        }
        // SAFETY: inline bytes lie in the mirror or on the caller's stack; registered ones stay mapped, because their
        // registration is held until the request is complete (`DirectAccess`, `Pinned`).
        unsafe { self.endpoint.post_sends(&[request]) }.map_err(|error| self.broken(&error))?;
        sends.posted = id;
        if request.flags & flag::SIGNALED != 0 {
            sends.signalled = id;
        }
        Ok(id)
    }

    /// Whether the send queue has a place for one more request beside those that are kept.
    pub(super) fn has_place(sends: &Sends) -> bool {
        sends.posted - sends.completed < u64::from(SEND_REQUESTS) - KEPT_REQUESTS
    }

    /// Waits for a place in the send queue.
    pub(super) fn wait_for_place<'a>(
        &'a self,
        sends: MutexGuard<'a, Sends>,
    ) -> Result<MutexGuard<'a, Sends>, LinkError> {
        if VerbsLink::has_place(&sends) {
            return Ok(sends);
        }
        self.counters.queue_waits.fetch_add(1, Ordering::Relaxed);
        self.wait_sends(sends, self.patience.budget(), None, VerbsLink::has_place)
    }

    /// Waits until request `id` is complete.
    pub(super) fn wait_for_request(&self, id: u64, limit: Option<Duration>) -> Result<(), LinkError> {
        let mut sends = self.lock_sends();
        if sends.completed >= id {
            return Ok(());
        }
        if sends.signalled < id {
            sends = self.wait_for_place(sends)?;
            // Nothing that was posted will say when it is complete: an empty write behind it does.
            let nothing = self.request(opcode::WRITE, Slot { offset: 0, bytes: 0 });
            self.post(&mut sends, nothing, true)?;
        }
        self.wait_sends(sends, self.patience.budget(), limit, |sends| sends.completed >= id).map(drop)
    }

    /// A request from the mirror to the same place of the peer's ring.
    fn request(&self, opcode: u32, slot: Slot) -> Request {
        let inline = if slot.bytes <= self.inline_bytes { flag::INLINE } else { 0 };
        let local = self.mirror.local(slot.offset, slot.bytes).expect("a slot lies in the ring");
        Request {
            id: 0,
            opcode,
            flags: inline,
            local_address: local.address,
            local_key: local.key,
            bytes: u32::try_from(slot.bytes).expect("a ring is far below 4 GiB"),
            remote_address: self.terms.ring.address + slot.offset,
            remote_key: self.terms.ring.key,
            immediate: u32::try_from(slot.bytes).expect("a ring is far below 4 GiB"),
        }
    }

    fn consumed(&self) -> Consumed {
        // Messages first: whoever consumed a message has not yet told of more bytes than it tells afterwards.
        let messages = self.words.word(1);
        Consumed { bytes: self.words.word(0), messages }
    }

    /// Sends as much of `parts` from `done` on as there is room for now; answers the new `done`.
    fn send_some(&self, parts: &[&[u8]], mut done: u64, total: u64, wait: bool) -> Result<u64, LinkError> {
        while done < total {
            self.check()?;
            let mut sends = self.lock_sends();
            if wait {
                sends = self.wait_for_place(sends)?;
            } else if !VerbsLink::has_place(&sends) {
                let due = self.reap(&mut sends)?;
                let place = VerbsLink::has_place(&sends);
                drop(sends);
                due.into_iter().for_each(|(done, succeeded)| done(succeeded));
                if !place {
                    return Ok(done);
                }
                continue;
            }
            let Some(slot) = sends.ring.room((total - done).min(MESSAGE_BYTES), self.consumed()) else {
                return Ok(done);
            };
            self.fill_mirror(parts, done, slot);
            sends.ring.advance(slot);
            self.post(&mut sends, self.request(opcode::WRITE_WITH_IMMEDIATE, slot), false)?;
            done += slot.bytes;
            self.counters.messages.fetch_add(1, Ordering::Relaxed);
            self.counters.message_bytes.fetch_add(slot.bytes, Ordering::Relaxed);
        }
        Ok(done)
    }

    /// Copies bytes `from..` of the parts, laid end to end, into a slot of the mirror.
    fn fill_mirror(&self, parts: &[&[u8]], mut from: u64, slot: Slot) {
        let offset = usize::try_from(slot.offset).expect("inside a ring");
        let bytes = usize::try_from(slot.bytes).expect("inside a ring");
        let mut place = self.mirror.span().slice(offset, bytes).expect("a slot lies in the ring");
        let mut into = place.write();
        for part in parts {
            let length = part.len() as u64;
            if from >= length {
                from -= length;
                continue;
            }
            let rest = &part[usize::try_from(from).expect("below the part's length")..];
            from = 0;
            let now = rest.len().min(into.len());
            into[..now].copy_from_slice(&rest[..now]);
            into = &mut into[now..];
            if into.is_empty() {
                return;
            }
        }
    }

    /// Waits until the peer has made room in its ring: it tells by writing memory, so this looks again and again, less
    /// often as time passes.
    fn wait_for_room(&self, round: u32) -> Result<(), LinkError> {
        if round < 50 {
            std::thread::yield_now();
            return self.check();
        }
        let pause = Duration::from_micros(20) * (round - 49).min(50);
        if readable(self.lifeline.descriptor(), pause).unwrap_or(true) {
            return self.lifeline_state();
        }
        let mut sends = self.lock_sends();
        let due = self.reap(&mut sends)?;
        drop(sends);
        due.into_iter().for_each(|(done, succeeded)| done(succeeded));
        self.check()
    }

    /// Takes what has arrived and keeps receives posted. The caller tells the peer of news.
    fn poll_receives(&self, receives: &mut Receives) -> Result<(), LinkError> {
        let mut completions = [Completion::default(); 32];
        loop {
            let found =
                self.endpoint.poll(queue::RECEIVES, &mut completions).map_err(|error| self.broken(&error))?;
            for completion in &completions[..found] {
                if completion.status != 0 {
                    return Err(self.failed(completion));
                }
                if completion.has_immediate == 0 || !receives.ring.arrived(u64::from(completion.immediate)) {
                    return Err(self.lose(Lost::Broken("the peer wrote beyond its room in the ring".into())));
                }
            }
            receives.spent += u32::try_from(found).expect("at most 32");
            if found < completions.len() {
                break;
            }
        }
        if receives.spent >= RING_MESSAGES / 8 {
            post_receives(&self.endpoint, receives.spent).map_err(|error| self.broken(&error))?;
            receives.ring.replenished(u64::from(receives.spent));
            receives.spent = 0;
        }
        Ok(())
    }

    /// Tells the peer how much of its messages is consumed.
    fn tell(&self, news: Consumed) -> Result<(), LinkError> {
        let mut sends = self.lock_sends();
        while sends.posted - sends.completed >= u64::from(SEND_REQUESTS) - 1 {
            // The adapter alone makes room here, no program of the peer's.
            let due = self.reap(&mut sends)?;
            drop(sends);
            due.into_iter().for_each(|(done, succeeded)| done(succeeded));
            std::thread::yield_now();
            self.check()?;
            sends = self.lock_sends();
        }
        let words = [news.bytes, news.messages];
        let request = Request {
            id: 0,
            opcode: opcode::WRITE,
            flags: flag::INLINE,
            local_address: words.as_ptr().expose_provenance() as u64,
            local_key: 0,
            bytes: 16,
            remote_address: self.terms.words.address,
            remote_key: self.terms.words.key,
            immediate: 0,
        };
        self.post(&mut sends, request, false).map(drop)
    }

    /// Moves bytes from the ring; how many.
    fn take(&self, into: &mut [u8]) -> Result<usize, LinkError> {
        let mut receives = self.lock_receives();
        if !receives.ring.has_bytes() {
            self.poll_receives(&mut receives)?;
        }
        let mut filled = 0;
        while filled < into.len() && receives.ring.has_bytes() {
            let slot = receives.ring.next((into.len() - filled) as u64);
            let (offset, bytes) =
                (usize::try_from(slot.offset).unwrap_or(0), usize::try_from(slot.bytes).unwrap_or(0));
            let place = self.inbox.span().slice(offset, bytes).expect("a slot lies in the ring");
            into[filled..filled + bytes].copy_from_slice(place.read());
            receives.ring.consume(slot.bytes);
            filled += bytes;
        }
        let news = receives.ring.news();
        drop(receives);
        news.map_or(Ok(()), |news| self.tell(news))?;
        Ok(filled)
    }

    fn has_bytes(&self) -> Result<bool, LinkError> {
        let mut receives = self.lock_receives();
        if !receives.ring.has_bytes() {
            self.poll_receives(&mut receives)?;
        }
        Ok(receives.ring.has_bytes())
    }

    /// Waits until bytes are there: polls for the budget, then sleeps, at most `limit`.
    fn wait_for_bytes(&self, limit: Option<Duration>) -> Result<bool, LinkError> {
        if self.has_bytes()? {
            return Ok(true);
        }
        let start = Instant::now();
        let budget = limit.map_or(self.patience.budget(), |limit| limit.min(self.patience.budget()));
        for look in 1_u32.. {
            if self.has_bytes()? {
                self.patience.learn(start);
                return Ok(true);
            }
            // Asking for the time costs more than a look, on some machines far more.
            if (look.is_multiple_of(LOOKS) || budget.is_zero()) && start.elapsed() >= budget {
                break;
            }
            // Not `yield_now`: a system call for each look costs more than the whole budget saves.
            std::hint::spin_loop();
        }
        loop {
            if self.prepare_sleep()? {
                self.patience.learn(start);
                return Ok(true);
            }
            let left = limit.map(|limit| limit.saturating_sub(start.elapsed()));
            self.counters.sleeps.fetch_add(1, Ordering::Relaxed);
            let woken =
                readable(std::os::fd::AsFd::as_fd(&self.events), left.unwrap_or(Duration::from_secs(3600)))
                    .map_err(|source| LinkError::Lost { peer: self.peer.clone(), source })?;
            self.endpoint.take_events(queue::RECEIVES);
            if self.has_bytes()? {
                self.patience.learn(start);
                return Ok(true);
            }
            if woken {
                self.lifeline_state()?;
            }
            if limit.is_some_and(|limit| start.elapsed() >= limit) {
                return Ok(false);
            }
        }
    }

    /// The ticket of what was posted last.
    pub(super) fn newest(&self) -> Ticket {
        Ticket(self.lock_sends().posted)
    }
}

impl Link for VerbsLink {
    fn send(&self, parts: &[&[u8]]) -> Result<(), LinkError> {
        let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let (mut done, mut round) = (0, 0);
        loop {
            let now = self.send_some(parts, done, total, true)?;
            if now == total {
                return Ok(());
            }
            if round == 0 {
                self.counters.ring_waits.fetch_add(1, Ordering::Relaxed);
            }
            round = if now > done { 0 } else { round + 1 };
            done = now;
            self.wait_for_room(round)?;
        }
    }

    fn try_send(&self, parts: &[&[u8]]) -> Result<usize, LinkError> {
        let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let sent = self.send_some(parts, 0, total, false)?;
        Ok(usize::try_from(sent).expect("at most the length of slices"))
    }

    fn receive(&self, into: &mut [u8]) -> Result<usize, LinkError> {
        loop {
            let taken = self.take(into)?;
            if taken > 0 {
                return Ok(taken);
            }
            self.check()?;
            self.wait_for_bytes(None)?;
        }
    }

    fn wait_readable(&self, timeout: Duration) -> Result<bool, LinkError> {
        match self.wait_for_bytes(Some(timeout)) {
            // Receiving tells what is wrong.
            Err(_) => Ok(true),
            found => found,
        }
    }

    fn prepare_sleep(&self) -> Result<bool, LinkError> {
        self.endpoint.arm(queue::RECEIVES).map_err(|error| self.broken(&error))?;
        self.has_bytes()
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.events)
    }

    fn shutdown(&self) {
        if self.check().is_ok() {
            // What was sent shall arrive; a peer that does not take it is gone, or will see the end anyway.
            let newest = self.newest();
            let _ = self.wait_for_request(newest.0, Some(DRAIN_LIMIT));
        }
        self.lose(Lost::Closed);
    }

    fn peer(&self) -> &str {
        &self.peer
    }

    fn peer_address(&self) -> Option<std::net::SocketAddr> {
        self.lifeline.peer_address()
    }

    fn socket_bytes(&self) -> Option<u64> {
        self.lifeline.socket_bytes()
    }

    fn direct(&self) -> Option<&dyn crate::direct::DirectAccess> {
        Some(self)
    }
}

impl Drop for VerbsLink {
    fn drop(&mut self) {
        self.endpoint.disconnect();
        let actions = std::mem::take(&mut self.lock_sends().actions);
        actions.into_iter().for_each(|(_, done)| done(false));
    }
}

/// Posts receives that take no memory: they are for the immediates.
pub(super) fn post_receives(endpoint: &Endpoint, mut count: u32) -> Result<(), VerbsError> {
    let receives = [Receive { id: 0, local_address: 0, local_key: 0, bytes: 0 }; 64];
    while count > 0 {
        let now = count.min(64);
        // SAFETY: they name no memory.
        unsafe { endpoint.post_receives(&receives[..now as usize]) }?;
        count -= now;
    }
    Ok(())
}

fn watch(endpoint: &Endpoint, lifeline: &dyn Link) -> std::io::Result<OwnedFd> {
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
    epoll::add(&events, endpoint.descriptor(queue::RECEIVES), epoll::EventData::new_u64(0), flags)?;
    epoll::add(&events, lifeline.descriptor(), epoll::EventData::new_u64(1), flags)?;
    Ok(events)
}
