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

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::epoll;
use verbs_abi::{Completion, queue};

use super::connect::Terms;
use super::error::{VerbsError, explain};
use super::pinned::Pinned;
use super::plugin::Endpoint;
use super::receives::Receives;
use super::ring::{Reader, Writer};
use super::sends::Sends;
use crate::link::{Link, LinkError};
use crate::patience::Patience;

/// See the module's text.
pub struct VerbsLink {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) lifeline: Arc<dyn Link>,
    pub(super) peer: String,
    pub(super) device: String,
    /// Written by the peer.
    pub(super) inbox: Pinned,
    /// What this side has written into the peer's inbox.
    pub(super) mirror: Pinned,
    /// Word 0: bytes, word 1: messages that the peer has consumed.
    pub(super) words: Pinned,
    pub(super) terms: Terms,
    pub(super) inline_bytes: u64,
    pub(super) sends: Mutex<Sends>,
    pub(super) sends_changed: Condvar,
    pub(super) receives: Mutex<Receives>,
    /// Readable when the armed receive queue has had a completion, or the lifeline has something.
    pub(super) events: OwnedFd,
    pub(super) patience: Patience,
    lost: Mutex<Option<Lost>>,
    /// Whether `lost` says something.
    is_lost: AtomicBool,
    pub(super) counters: Counters,
}

pub(super) enum Lost {
    Closed,
    Broken(String),
}

impl Lost {
    /// What became of the lifeline. Its own words name the peer already, as ours will.
    fn of(error: LinkError) -> Lost {
        match error {
            LinkError::Lost { source, .. } => Lost::Broken(source.to_string()),
            other => Lost::Broken(other.to_string()),
        }
    }
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
            sends: Mutex::new(Sends::new(Writer::new(
                u64::from(terms.ring_bytes),
                u64::from(terms.messages),
            ))),
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
    pub(super) fn lose(&self, cause: Lost) -> LinkError {
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
    pub(super) fn failed(&self, completion: &Completion) -> LinkError {
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
    pub(super) fn lifeline_state(&self) -> Result<(), LinkError> {
        self.check()?;
        let cause = match self.lifeline.wait_readable(Duration::ZERO) {
            Ok(false) => return Ok(()),
            Err(error) => Lost::of(error),
            Ok(true) => match self.lifeline.receive(&mut [0]) {
                Err(LinkError::Closed { .. }) => Lost::Closed,
                Err(error) => Lost::of(error),
                Ok(_) => Lost::Broken("the peer sent bytes over TCP after the change to verbs".into()),
            },
        };
        Err(self.lose(cause))
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

    fn lifeline(&self) -> Option<BorrowedFd<'_>> {
        Some(self.lifeline.descriptor())
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

fn watch(endpoint: &Endpoint, lifeline: &dyn Link) -> std::io::Result<OwnedFd> {
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
    epoll::add(&events, endpoint.descriptor(queue::RECEIVES), epoll::EventData::new_u64(0), flags)?;
    epoll::add(&events, lifeline.descriptor(), epoll::EventData::new_u64(1), flags)?;
    Ok(events)
}
