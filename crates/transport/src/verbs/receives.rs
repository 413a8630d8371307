//! The receiving side of a link: what lies in the ring, receives that are posted again, how to wait.

#![allow(unsafe_code, reason = "posting receives, which take no memory (docs/adr/0008)")]

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use verbs_abi::{Completion, Receive, queue};

use super::error::VerbsError;
use super::link::{Lost, RING_MESSAGES, VerbsLink};
use super::plugin::Endpoint;
use super::ring::Reader;
use crate::link::{Link, LinkError};
use crate::socket::readable;

pub(super) struct Receives {
    pub(super) ring: Reader,
    /// Receives that were used up and are to be posted again.
    pub(super) spent: u32,
}

/// Looks between two questions for the time.
const LOOKS: u32 = 32;

impl VerbsLink {
    fn lock_receives(&self) -> MutexGuard<'_, Receives> {
        self.receives.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Moves bytes from the ring; how many.
    pub(super) fn take(&self, into: &mut [u8]) -> Result<usize, LinkError> {
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

    pub(super) fn has_bytes(&self) -> Result<bool, LinkError> {
        let mut receives = self.lock_receives();
        if !receives.ring.has_bytes() {
            self.poll_receives(&mut receives)?;
        }
        Ok(receives.ring.has_bytes())
    }

    /// Waits until bytes are there: polls for the budget, then sleeps, at most `limit`.
    pub(super) fn wait_for_bytes(&self, limit: Option<Duration>) -> Result<bool, LinkError> {
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
            let woken = readable(self.events.as_fd(), left.unwrap_or(Duration::from_secs(3600)))
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
