//! Completion queues, each with a channel that wakes whoever waits for it.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr::null_mut;

use libc::c_int;
use rdma_sys::{
    ibv_ack_cq_events, ibv_comp_channel, ibv_context, ibv_cq, ibv_create_comp_channel, ibv_create_cq,
    ibv_destroy_comp_channel, ibv_destroy_cq, ibv_get_cq_event, ibv_poll_cq, ibv_req_notify_cq, ibv_wc,
    ibv_wc_flags,
};
use verbs_abi::{Completion, step};

use crate::event::set_nonblocking;
use crate::failure::{Failure, Outcome};

/// Where the events of a completion queue arrive. It never blocks.
struct CompletionChannel(*mut ibv_comp_channel);

/// A completion queue with a channel of its own.
pub(crate) struct CompletionQueue {
    raw: *mut ibv_cq,
    channel: CompletionChannel,
}

// SAFETY: libibverbs is thread-safe; only one thread at a time polls (the rules of the table).
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue with room for `entries`.
    ///
    /// # Safety
    /// `context` is open, and stays so as long as the queue lives.
    pub(crate) unsafe fn new(context: *mut ibv_context, entries: u32) -> Outcome<CompletionQueue> {
        // SAFETY: the caller's promise. The kernel makes the descriptor with O_CLOEXEC.
        let channel = unsafe { ibv_create_comp_channel(context) };
        if channel.is_null() {
            return Err(Failure::last(step::QUEUES, "make a completion channel"));
        }
        let channel = CompletionChannel(channel);
        set_nonblocking(channel.descriptor(), step::QUEUES)?;
        let room = c_int::try_from(entries.max(1)).unwrap_or(c_int::MAX);
        // SAFETY: context and channel are alive.
        let raw = unsafe { ibv_create_cq(context, room, null_mut(), channel.0, 0) };
        if raw.is_null() {
            return Err(Failure::last(
                step::QUEUES,
                &format!("make a completion queue of {entries} entries"),
            ));
        }
        Ok(CompletionQueue { raw, channel })
    }

    /// For the queue pair; valid as long as `self`.
    pub(crate) fn raw(&self) -> *mut ibv_cq {
        self.raw
    }

    /// Polls readable when the armed queue has had a completion.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.channel.descriptor()
    }

    /// Hands at most `capacity` completions to `sink`; answers how many.
    pub(crate) fn poll(&self, capacity: usize, mut sink: impl FnMut(Completion)) -> Outcome<usize> {
        let mut batch = [const { MaybeUninit::<ibv_wc>::uninit() }; BATCH];
        let mut taken = 0;
        while taken < capacity {
            let room = BATCH.min(capacity - taken);
            let wanted = c_int::try_from(room).unwrap_or(0);
            // SAFETY: the queue is alive and the array has room for what is wanted.
            let found = unsafe { ibv_poll_cq(self.raw, wanted, batch.as_mut_ptr().cast()) };
            let Ok(found) = usize::try_from(found) else {
                return Err(Failure::last(step::POLL, "poll a completion queue"));
            };
            for entry in &batch[..found.min(room)] {
                // SAFETY: the first `found` entries are written.
                sink(completion(unsafe { entry.assume_init_ref() }));
            }
            taken += found;
            if found < room {
                break;
            }
        }
        Ok(taken)
    }

    /// Asks for an event with the next completion.
    pub(crate) fn arm(&self) -> Outcome<()> {
        // SAFETY: the queue is alive.
        match unsafe { ibv_req_notify_cq(self.raw, 0) } {
            0 => Ok(()),
            errno => Err(Failure::numbered(step::POLL, errno, "arm a completion queue")),
        }
    }

    /// Takes all events, and acknowledges them together: each acknowledgement locks a mutex.
    pub(crate) fn take_events(&self) {
        let mut taken = 0;
        let mut queue = null_mut();
        let mut context = null_mut();
        // SAFETY: the channel is alive and the outputs are writable; it answers -1 when nothing is left.
        while unsafe { ibv_get_cq_event(self.channel.0, &raw mut queue, &raw mut context) } == 0 {
            taken += 1;
        }
        if taken > 0 {
            // SAFETY: the channel serves only this queue, so all of the events were its own.
            unsafe { ibv_ack_cq_events(self.raw, taken) };
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: made by `new`; the queue pair that used it is gone, because it owns this; no event is
        // unacknowledged, since `take_events` acknowledges what it takes.
        unsafe { ibv_destroy_cq(self.raw) };
    }
}

impl CompletionChannel {
    fn descriptor(&self) -> RawFd {
        // SAFETY: the channel lives as long as `self`.
        unsafe { (*self.0).fd }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: made by `CompletionQueue::new`; its queue is gone, because it owns the channel.
        unsafe { ibv_destroy_comp_channel(self.0) };
    }
}

fn completion(entry: &ibv_wc) -> Completion {
    let has_immediate = entry.wc_flags & ibv_wc_flags::IBV_WC_WITH_IMM.0 != 0 && entry.status == 0;
    // SAFETY: both views of the union are 32-bit numbers.
    let immediate = unsafe { entry.imm_data_invalidated_rkey_union.imm_data };
    Completion {
        id: entry.wr_id,
        status: entry.status,
        vendor_error: entry.vendor_err,
        bytes: entry.byte_len,
        immediate: if has_immediate { u32::from_be(immediate) } else { 0 },
        has_immediate: u32::from(has_immediate),
    }
}

/// How many completions are taken with one call.
const BATCH: usize = 16;
