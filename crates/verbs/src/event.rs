//! rdma_cm's event channel and its events.
//!
//! An endpoint has a channel of its own, so nobody has to sort events by connection. The channel never blocks: whoever
//! waits does so with `poll` and a deadline. An event is copied and acknowledged at once, because destroying an id
//! waits for the acknowledgement of all its events.

use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use libc::{F_GETFL, F_SETFL, O_NONBLOCK, POLLIN, c_int, pollfd};
use rdma_sys::{
    rdma_ack_cm_event, rdma_cm_event, rdma_cm_event_type, rdma_cm_id, rdma_create_event_channel,
    rdma_destroy_event_channel, rdma_event_channel, rdma_get_cm_event,
};
use verbs_abi::step;

use crate::failure::{Failure, Outcome, last_errno};

/// Where the events of an id arrive.
pub(crate) struct EventChannel(*mut rdma_event_channel);

/// An event, copied out of rdma_cm's.
pub(crate) struct Event {
    pub(crate) kind: rdma_cm_event_type::Type,
    /// 0, a negative `errno`, or the reason of a rejection.
    pub(crate) status: i32,
    /// The id it concerns: for a request a new one, which whoever takes the event must destroy.
    pub(crate) id: *mut rdma_cm_id,
    /// What the peer sent along.
    pub(crate) private_data: Vec<u8>,
    /// How many RDMA reads the peer is ready to serve.
    pub(crate) responder_resources: u8,
    /// How many RDMA reads the peer wants to issue.
    pub(crate) initiator_depth: u8,
}

// SAFETY: librdmacm locks what the functions share; the descriptor may be read by any thread.
unsafe impl Send for EventChannel {}
// SAFETY: as above.
unsafe impl Sync for EventChannel {}

impl EventChannel {
    /// A channel that does not block.
    pub(crate) fn new() -> Outcome<EventChannel> {
        // SAFETY: no preconditions. librdmacm opens its descriptor with O_CLOEXEC.
        let raw = unsafe { rdma_create_event_channel() };
        if raw.is_null() {
            let advice = " (is the kernel module rdma_ucm loaded?)";
            return Err(Failure::last(step::DEVICE, "open rdma_cm's event channel").with(advice));
        }
        let channel = EventChannel(raw);
        set_nonblocking(channel.descriptor(), step::DEVICE)?;
        Ok(channel)
    }

    /// Polls readable when there is an event.
    pub(crate) fn descriptor(&self) -> RawFd {
        // SAFETY: the channel lives as long as `self`.
        unsafe { (*self.0).fd }
    }

    /// For the functions of rdma_cm; valid as long as `self`.
    pub(crate) fn raw(&self) -> *mut rdma_event_channel {
        self.0
    }

    /// The next event if there is one.
    pub(crate) fn next(&self, at: u32) -> Outcome<Option<Event>> {
        let mut raw: *mut rdma_cm_event = null_mut();
        // SAFETY: the channel is alive and `raw` is writable.
        if unsafe { rdma_get_cm_event(self.0, &raw mut raw) } == 0 {
            // SAFETY: rdma_cm has just handed out the event, and only we have it.
            return Ok(Some(unsafe { Event::take(raw) }));
        }
        match last_errno() {
            libc::EAGAIN | libc::EINTR => Ok(None),
            errno => Err(Failure::numbered(at, errno, "read rdma_cm's events")),
        }
    }

    /// Waits for the next event; `None` when the deadline has passed.
    pub(crate) fn wait(&self, deadline: Instant, at: u32) -> Outcome<Option<Event>> {
        loop {
            if let Some(event) = self.next(at)? {
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            wait_readable(self.descriptor(), left, at)?;
        }
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        // SAFETY: made by `new`; the id that used it is gone, because it owns the channel.
        unsafe { rdma_destroy_event_channel(self.0) };
    }
}

impl Event {
    /// Copies an event and acknowledges it.
    ///
    /// # Safety
    /// `raw` comes from `rdma_get_cm_event`, and is not used afterwards.
    unsafe fn take(raw: *mut rdma_cm_event) -> Event {
        // SAFETY: the event is valid until it is acknowledged below.
        let event = unsafe { &*raw };
        // SAFETY: ids of the port space RDMA_PS_TCP have the parameters of a connection; all bits are valid.
        let parameters = unsafe { event.param.conn };
        let bytes = usize::from(parameters.private_data_len);
        let private_data = if parameters.private_data.is_null() || bytes == 0 {
            Vec::new()
        } else {
            // SAFETY: rdma_cm says how long the data are; they live as long as the event.
            unsafe { std::slice::from_raw_parts(parameters.private_data.cast::<u8>(), bytes) }.to_vec()
        };
        let copy = Event {
            kind: event.event,
            status: event.status,
            id: event.id,
            private_data,
            responder_resources: parameters.responder_resources,
            initiator_depth: parameters.initiator_depth,
        };
        // SAFETY: taken once, acknowledged once; nothing refers to it any more.
        unsafe { rdma_ack_cm_event(raw) };
        copy
    }
}

/// Makes a descriptor answer EAGAIN where it would block.
pub(crate) fn set_nonblocking(descriptor: RawFd, at: u32) -> Outcome<()> {
    // SAFETY: asks about a descriptor; no memory is involved.
    let flags = unsafe { libc::fcntl(descriptor, F_GETFL) };
    // SAFETY: sets flags of a descriptor; no memory is involved.
    if flags < 0 || unsafe { libc::fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) } != 0 {
        return Err(Failure::last(at, "make a descriptor non-blocking"));
    }
    Ok(())
}

/// Waits until a descriptor is readable, a signal comes or the time is over.
fn wait_readable(descriptor: RawFd, time: Duration, at: u32) -> Outcome<()> {
    let mut entry = pollfd { fd: descriptor, events: POLLIN, revents: 0 };
    // Rounded up, so that the last millisecond is slept and not spun.
    let millis = c_int::try_from(time.as_millis().saturating_add(1)).unwrap_or(c_int::MAX);
    // SAFETY: one entry, valid for the call.
    if unsafe { libc::poll(&raw mut entry, 1, millis) } < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(Failure::last(at, "wait for rdma_cm"));
        }
    }
    Ok(())
}
