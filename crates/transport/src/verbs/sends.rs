//! The sending side of a link: the send queue's places, messages into the peer's ring, what completes.

#![allow(unsafe_code, reason = "posting requests on memory that the link owns (docs/adr/0008)")]

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use verbs_abi::{Completion, Send as Request, flag, opcode, queue};

use super::link::VerbsLink;
use super::ring::{Consumed, Slot, Writer};
use crate::direct::{Done, Ticket};
use crate::link::LinkError;
use crate::socket::{readable, timespec};

/// The send queue: requests are numbered from 1 in the order of posting, which is the order of completion.
pub(super) struct Sends {
    pub(super) ring: Writer,
    pub(super) posted: u64,
    pub(super) completed: u64,
    /// The newest request that will say when it is complete.
    pub(super) signalled: u64,
    /// What to run when a request is complete, in order.
    pub(super) actions: VecDeque<(u64, Done)>,
    /// A thread sleeps until something completes; others wait for it to say so.
    pub(super) sleeping: bool,
}

/// Requests that the send queue holds.
pub(super) const SEND_REQUESTS: u32 = 256;
/// Of them kept for telling the peer of room, which must never wait for bulk.
const KEPT_REQUESTS: u64 = 16;
/// One request in so many says when it is complete, which frees the places of all before it.
const SIGNAL_EVERY: u64 = 32;
/// The longest message, so that the reader begins while the writer goes on.
const MESSAGE_BYTES: u64 = 128 * 1024;

impl Sends {
    pub(super) fn new(ring: Writer) -> Sends {
        Sends { ring, posted: 0, completed: 0, signalled: 0, actions: VecDeque::new(), sleeping: false }
    }
}

impl VerbsLink {
    pub(super) fn lock_sends(&self) -> MutexGuard<'_, Sends> {
        self.sends.lock().unwrap_or_else(PoisonError::into_inner)
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
                    // The actions learn it when the link is let go (`run_completions`, `drop`), without the lock.
                    return Err(self.failed(completion));
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
    pub(super) fn send_some(
        &self,
        parts: &[&[u8]],
        mut done: u64,
        total: u64,
        wait: bool,
    ) -> Result<u64, LinkError> {
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
    pub(super) fn wait_for_room(&self, round: u32) -> Result<(), LinkError> {
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

    /// Tells the peer how much of its messages is consumed.
    pub(super) fn tell(&self, news: Consumed) -> Result<(), LinkError> {
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

    /// The ticket of what was posted last.
    pub(super) fn newest(&self) -> Ticket {
        Ticket(self.lock_sends().posted)
    }
}
