//! rdma_cm's ids: resolving, connecting, accepting, refusing.

use std::ffi::{CStr, c_void};
use std::mem::zeroed;
use std::net::SocketAddr;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use libc::c_int;
use rdma_sys::rdma_cm_event_type as kind;
use rdma_sys::{
    ibv_context, ibv_device_attr, ibv_query_device, rdma_accept, rdma_bind_addr, rdma_cm_id, rdma_conn_param,
    rdma_connect, rdma_create_id, rdma_destroy_id, rdma_disconnect, rdma_event_str, rdma_get_src_port,
    rdma_listen, rdma_migrate_id, rdma_port_space, rdma_reject, rdma_resolve_addr, rdma_resolve_route,
    rdma_set_option,
};
use verbs_abi::step;

use crate::address::{self, RawAddress};
use crate::device;
use crate::event::{Event, EventChannel};
use crate::failure::{Failure, Outcome};

/// An rdma_cm id with an event channel of its own.
pub(crate) struct CmId {
    raw: *mut rdma_cm_id,
    channel: EventChannel,
}

/// How many RDMA reads may be under way at once.
#[derive(Clone, Copy)]
pub(crate) struct Reads {
    /// Served for the peer.
    pub(crate) served: u8,
    /// Issued by this side.
    pub(crate) issued: u8,
}

// SAFETY: librdmacm locks what its functions share. Fields are read only after the event that announced them.
unsafe impl Send for CmId {}
// SAFETY: as above.
unsafe impl Sync for CmId {}

impl CmId {
    /// A fresh id for a reliable connection.
    pub(crate) fn new() -> Outcome<CmId> {
        let channel = EventChannel::new()?;
        let mut raw = null_mut();
        // SAFETY: the channel is alive and `raw` is writable.
        let status =
            unsafe { rdma_create_id(channel.raw(), &raw mut raw, null_mut(), rdma_port_space::RDMA_PS_TCP) };
        if status != 0 {
            return Err(Failure::last(step::DEVICE, "make an rdma_cm id"));
        }
        Ok(CmId { raw, channel })
    }

    /// The id of an incoming request, moved to a channel of its own.
    ///
    /// # Safety
    /// `raw` is the id of a connection request, whose event is acknowledged, and nobody else destroys it.
    pub(crate) unsafe fn adopt(raw: *mut rdma_cm_id) -> Outcome<CmId> {
        let channel = match EventChannel::new() {
            Ok(channel) => channel,
            Err(failure) => {
                // SAFETY: the caller's promise; this tells the peer no.
                unsafe { rdma_destroy_id(raw) };
                return Err(failure);
            }
        };
        let id = CmId { raw, channel };
        // SAFETY: both live in `id`.
        if unsafe { rdma_migrate_id(id.raw, id.channel.raw()) } != 0 {
            return Err(Failure::last(step::CONNECT, "move a connection request to its own event channel"));
        }
        Ok(id)
    }

    /// For functions of rdma_cm; valid as long as `self`.
    pub(crate) fn raw(&self) -> *mut rdma_cm_id {
        self.raw
    }

    /// Where this id's events arrive.
    pub(crate) fn channel(&self) -> &EventChannel {
        &self.channel
    }

    /// The device's context; null until an address is resolved. librdmacm keeps it open.
    pub(crate) fn context(&self) -> *mut ibv_context {
        // SAFETY: the id lives as long as `self`.
        unsafe { (*self.raw).verbs }
    }

    /// The device's name; empty until an address is resolved.
    pub(crate) fn device(&self) -> String {
        // SAFETY: null, or a context that librdmacm keeps open.
        match unsafe { self.context().as_ref() } {
            None => String::new(),
            // SAFETY: the device of an open context.
            Some(context) => unsafe { device::name(context.device) },
        }
    }

    /// The device's port; 0 until an address is resolved.
    pub(crate) fn port(&self) -> u8 {
        // SAFETY: the id lives as long as `self`.
        unsafe { (*self.raw).port_num }
    }

    /// This side's address.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        // SAFETY: the id lives as long as `self`; this only computes an address.
        let raw = unsafe { &raw const (*self.raw).route.addr.src_addr_union };
        // SAFETY: the union has room for every family.
        unsafe { address::read(raw.cast()) }
    }

    /// The other side's address.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        // SAFETY: the id lives as long as `self`; this only computes an address.
        let raw = unsafe { &raw const (*self.raw).route.addr.dst_addr_union };
        // SAFETY: the union has room for every family.
        unsafe { address::read(raw.cast()) }
    }

    /// Listens at an address and answers the port.
    pub(crate) fn listen(&self, at: SocketAddr) -> Outcome<u16> {
        let mut raw = RawAddress::from(at);
        // SAFETY: id and address are valid for the call.
        if unsafe { rdma_bind_addr(self.raw, raw.pointer()) } != 0 {
            let failure = Failure::last(step::LISTEN, &format!("listen at {at} for RDMA"));
            return Err(match failure.errno {
                libc::ENODEV | libc::EADDRNOTAVAIL => Failure { step: step::ADDRESS, ..failure }
                    .with(" (the address belongs to no RDMA device here)"),
                _ => failure,
            });
        }
        // SAFETY: the id is bound.
        if unsafe { rdma_listen(self.raw, BACKLOG) } != 0 {
            return Err(Failure::last(step::LISTEN, &format!("listen at {at} for RDMA")));
        }
        // SAFETY: the id is alive.
        Ok(u16::from_be(unsafe { rdma_get_src_port(self.raw) }))
    }

    /// Finds the device for a peer's address, and with it the context.
    pub(crate) fn resolve_address(
        &self,
        source: Option<SocketAddr>,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Outcome<()> {
        let mut source = source.map(RawAddress::from);
        let source = source.as_mut().map_or(null_mut(), RawAddress::pointer);
        let mut target = RawAddress::from(peer);
        let doing = format!("resolve {peer} for RDMA");
        // SAFETY: the addresses are valid for the call; a null source lets rdma_cm choose.
        if unsafe { rdma_resolve_addr(self.raw, source, target.pointer(), millis_until(deadline)) } != 0 {
            return Err(Failure::last(step::ADDRESS, &doing));
        }
        self.expect(kind::RDMA_CM_EVENT_ADDR_RESOLVED, deadline, step::ADDRESS, &doing).map(drop)
    }

    /// Finds the route to the resolved address.
    pub(crate) fn resolve_route(&self, peer: SocketAddr, deadline: Instant) -> Outcome<()> {
        let doing = format!("find the RDMA route to {peer}");
        // SAFETY: the id's address is resolved.
        if unsafe { rdma_resolve_route(self.raw, millis_until(deadline)) } != 0 {
            return Err(Failure::last(step::ROUTE, &doing));
        }
        self.expect(kind::RDMA_CM_EVENT_ROUTE_RESOLVED, deadline, step::ROUTE, &doing).map(drop)
    }

    /// Lets a connection break after `timeout_ms` without an acknowledgement, all [`TRIES`] included.
    ///
    /// Kernels before 5.1 cannot; the timeout that the subnet manager or the driver suggests then stays.
    pub(crate) fn limit_silence(&self, timeout_ms: u32) {
        let mut exponent = ack_timeout_exponent(timeout_ms);
        // SAFETY: the option's value is one byte, copied by the call.
        unsafe {
            rdma_set_option(self.raw, RDMA_OPTION_ID, ACK_TIMEOUT, (&raw mut exponent).cast::<c_void>(), 1)
        };
    }

    /// How many reads at once the device can do, at most [`MOST_READS`].
    pub(crate) fn reads(&self) -> Reads {
        // SAFETY: all zeros is a valid structure of numbers.
        let mut limits: ibv_device_attr = unsafe { zeroed() };
        // SAFETY: the context is open, since queues are made only after resolving; `limits` is writable.
        if unsafe { ibv_query_device(self.context(), &raw mut limits) } != 0 {
            return Reads { served: 1, issued: 1 };
        }
        let at_most =
            |limit: c_int| u8::try_from(limit.clamp(0, c_int::from(MOST_READS))).unwrap_or(MOST_READS);
        Reads { served: at_most(limits.max_qp_rd_atom), issued: at_most(limits.max_qp_init_rd_atom) }
    }

    /// Connects to the resolved peer; answers what it sent back.
    pub(crate) fn connect(&self, data: &[u8], reads: Reads, deadline: Instant) -> Outcome<Vec<u8>> {
        let doing = format!("connect to {} by RDMA", self.peer_text());
        let mut parameters = parameters(data, reads);
        // SAFETY: the id has a route and a queue pair; the data are copied by the call.
        if unsafe { rdma_connect(self.raw, &raw mut parameters) } != 0 {
            return Err(Failure::last(step::CONNECT, &doing));
        }
        let event = self.expect(kind::RDMA_CM_EVENT_ESTABLISHED, deadline, step::CONNECT, &doing)?;
        Ok(event.private_data)
    }

    /// Accepts a request and waits until the connection stands.
    pub(crate) fn accept(&self, data: &[u8], reads: Reads, deadline: Instant) -> Outcome<()> {
        let doing = format!("accept {} by RDMA", self.peer_text());
        let mut parameters = parameters(data, reads);
        // SAFETY: the id is a request's and has a queue pair; the data are copied by the call.
        if unsafe { rdma_accept(self.raw, &raw mut parameters) } != 0 {
            return Err(Failure::last(step::CONNECT, &doing));
        }
        self.expect(kind::RDMA_CM_EVENT_ESTABLISHED, deadline, step::CONNECT, &doing).map(drop)
    }

    /// Refuses a request. That it fails means that the peer is gone.
    pub(crate) fn reject(&self, reason: &[u8]) {
        let reason = &reason[..reason.len().min(MOST_REASON)];
        let bytes = u8::try_from(reason.len()).unwrap_or(0);
        // SAFETY: the id is a request's; the reason is copied by the call.
        unsafe { rdma_reject(self.raw, reason.as_ptr().cast(), bytes) };
    }

    /// Tells the peer that it is over. That it fails means that it is over already.
    pub(crate) fn disconnect(&self) {
        // SAFETY: the id is alive.
        unsafe { rdma_disconnect(self.raw) };
    }

    fn expect(&self, wanted: kind::Type, deadline: Instant, at: u32, doing: &str) -> Outcome<Event> {
        match self.channel.wait(deadline, at)? {
            None => Err(Failure::new(step::TIMEOUT, format!("{doing}: no answer within the time allowed"))),
            Some(event) if event.kind == wanted => Ok(event),
            Some(event) => Err(refusal(&event, doing)),
        }
    }

    fn peer_text(&self) -> String {
        self.peer().map_or_else(|| "an unknown peer".to_owned(), |peer| peer.to_string())
    }
}

impl Drop for CmId {
    fn drop(&mut self) {
        // SAFETY: made or adopted by this type; its queue pair is gone, because it shares this id; its events are
        // acknowledged as soon as they are read.
        unsafe { rdma_destroy_id(self.raw) };
    }
}

/// What an event means that is not the one waited for.
fn refusal(event: &Event, doing: &str) -> Failure {
    let errno = if event.status < 0 { -event.status } else { 0 };
    // SAFETY: answers a text for any number, which is never freed.
    let name = unsafe { CStr::from_ptr(rdma_event_str(event.kind)) }.to_string_lossy();
    let text = format!("{doing}: {name}, status {}", event.status);
    let plain = |step| Failure { step, errno, text: text.clone() };
    match event.kind {
        kind::RDMA_CM_EVENT_ADDR_ERROR => plain(step::ADDRESS),
        kind::RDMA_CM_EVENT_ROUTE_ERROR => plain(step::ROUTE),
        kind::RDMA_CM_EVENT_UNREACHABLE => plain(step::TIMEOUT),
        kind::RDMA_CM_EVENT_REJECTED if event.status == REJECTED_BY_CONSUMER => {
            // Providers pad the reason with zeros.
            let said = String::from_utf8_lossy(&event.private_data);
            match said.trim_end_matches('\0') {
                "" => Failure::new(step::REJECTED, format!("{doing}: the peer said no, without a reason")),
                said => Failure::new(step::REJECTED, said),
            }
        }
        kind::RDMA_CM_EVENT_REJECTED => {
            plain(step::REFUSED).with(" (nobody listens at this port, or it is not reachable by RDMA)")
        }
        _ => plain(step::CONNECT),
    }
}

fn parameters(data: &[u8], reads: Reads) -> rdma_conn_param {
    rdma_conn_param {
        private_data: data.as_ptr().cast(),
        private_data_len: u8::try_from(data.len()).unwrap_or(u8::MAX),
        responder_resources: reads.served,
        initiator_depth: reads.issued,
        flow_control: 1,
        retry_count: TRIES - 1,
        rnr_retry_count: RETRY_FOR_EVER,
        // Taken from the id's queue pair.
        srq: 0,
        qp_num: 0,
    }
}

fn millis_until(deadline: Instant) -> c_int {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    c_int::try_from(left.as_millis()).unwrap_or(c_int::MAX)
}

/// The largest `n` of 8 to 20 for which all tries, of 4.096 us * 2^n each, fit.
fn ack_timeout_exponent(timeout_ms: u32) -> u8 {
    let fits = |n: &u8| (4_096 * u64::from(TRIES)) << n <= u64::from(timeout_ms) * 1_000_000;
    (8..=20).rev().find(fits).unwrap_or(8)
}

/// How often a packet is sent before the connection breaks: once, and 7 retries, the most there are.
const TRIES: u8 = 8;
/// InfiniBand: 7 stands for ever, when the peer has no receive posted.
const RETRY_FOR_EVER: u8 = 7;
/// More reads at once than this are no faster, and some devices pay for each in memory.
const MOST_READS: u8 = 16;
/// Connections that wait for `next_request`.
const BACKLOG: c_int = 128;
/// Bytes that a rejection carries.
const MOST_REASON: usize = 148;
/// `IB_CM_REJ_CONSUMER_DEFINED`: the listening program said no, and not its kernel.
const REJECTED_BY_CONSUMER: i32 = 28;
/// `RDMA_OPTION_ID` of rdma/rdma_cma.h.
const RDMA_OPTION_ID: c_int = 0;
/// `RDMA_OPTION_ID_ACK_TIMEOUT` of rdma/rdma_cma.h.
const ACK_TIMEOUT: c_int = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tries_fit_in_the_time() {
        assert_eq!(ack_timeout_exponent(0), 8);
        assert_eq!(ack_timeout_exponent(1_000), 14);
        assert_eq!(ack_timeout_exponent(10_000), 18);
        assert_eq!(ack_timeout_exponent(u32::MAX), 20);
    }
}
