//! The protection domain and the queue pair.

use std::mem::zeroed;
use std::sync::Arc;

use rdma_sys::{
    ___ibv_query_port, ibv_alloc_pd, ibv_dealloc_pd, ibv_modify_qp, ibv_mtu, ibv_pd, ibv_port_attr, ibv_qp,
    ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_query_qp, rdma_create_qp,
    rdma_destroy_qp,
};
use verbs_abi::{QueueSizes, queue, step};

use crate::completion::CompletionQueue;
use crate::failure::{Failure, Outcome};
use crate::id::CmId;

/// What queue pair and regions of an endpoint belong to. It lives as long as any of them.
pub(crate) struct ProtectionDomain(*mut ibv_pd);

/// A reliable connection's queue pair, with all it needs.
pub(crate) struct QueuePair {
    raw: *mut ibv_qp,
    inline_bytes: u32,
    sends: CompletionQueue,
    receives: CompletionQueue,
    domain: Arc<ProtectionDomain>,
    id: Arc<CmId>,
}

/// What only the queue pair knows about the connection.
pub(crate) struct Path {
    pub(crate) mtu_bytes: u32,
    /// RDMA reads that may be under way at once; 0 before the connection stands.
    pub(crate) reads: u32,
}

// SAFETY: libibverbs is thread-safe; only one thread at a time posts to each side (the rules of the table).
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}
// SAFETY: libibverbs is thread-safe.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    fn new(id: &CmId) -> Outcome<ProtectionDomain> {
        // SAFETY: librdmacm keeps the context open.
        let raw = unsafe { ibv_alloc_pd(id.context()) };
        if raw.is_null() {
            return Err(Failure::last(step::QUEUES, "make a protection domain"));
        }
        Ok(ProtectionDomain(raw))
    }

    /// For registrations; valid as long as `self`.
    pub(crate) fn raw(&self) -> *mut ibv_pd {
        self.0
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: made by `new`; queue pair and regions are gone, because they share this.
        unsafe { ibv_dealloc_pd(self.0) };
    }
}

impl QueuePair {
    /// Makes the queues of an id whose device is known.
    pub(crate) fn new(id: Arc<CmId>, sizes: &QueueSizes) -> Outcome<QueuePair> {
        if id.context().is_null() {
            return Err(Failure::new(step::QUEUES, "the connection has no RDMA device yet"));
        }
        let domain = Arc::new(ProtectionDomain::new(&id)?);
        // SAFETY: librdmacm keeps the context open.
        let sends = unsafe { CompletionQueue::new(id.context(), sizes.sends) }?;
        // SAFETY: as above.
        let receives = unsafe { CompletionQueue::new(id.context(), sizes.receives) }?;
        let mut inline_bytes = sizes.inline_bytes;
        loop {
            // SAFETY: all zeros is a valid structure of numbers and null pointers.
            let mut wanted: ibv_qp_init_attr = unsafe { zeroed() };
            wanted.send_cq = sends.raw();
            wanted.recv_cq = receives.raw();
            wanted.qp_type = ibv_qp_type::IBV_QPT_RC;
            wanted.cap.max_send_wr = sizes.sends.max(1);
            wanted.cap.max_recv_wr = sizes.receives.max(1);
            wanted.cap.max_send_sge = 1;
            wanted.cap.max_recv_sge = 1;
            wanted.cap.max_inline_data = inline_bytes;
            // SAFETY: id, domain and completion queues are alive, and stay so as long as the queue pair.
            if unsafe { rdma_create_qp(id.raw(), domain.raw(), &raw mut wanted) } == 0 {
                // SAFETY: the id is alive; `rdma_create_qp` has set its queue pair.
                let raw = unsafe { (*id.raw()).qp };
                let inline_bytes = wanted.cap.max_inline_data;
                return Ok(QueuePair { raw, inline_bytes, sends, receives, domain, id });
            }
            if inline_bytes == 0 {
                let doing =
                    format!("make a queue pair of {} sends and {} receives", sizes.sends, sizes.receives);
                return Err(Failure::last(step::QUEUES, &doing));
            }
            // Devices do not say how much they take inline; it must be found by trying.
            inline_bytes /= 2;
        }
    }

    /// For work requests; valid as long as `self`.
    pub(crate) fn raw(&self) -> *mut ibv_qp {
        self.raw
    }

    /// The connection's id.
    pub(crate) fn id(&self) -> &CmId {
        &self.id
    }

    /// The domain that regions share.
    pub(crate) fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    /// Bytes that a send may carry inline.
    pub(crate) fn inline_bytes(&self) -> u32 {
        self.inline_bytes
    }

    /// One of the completion queues, by [`verbs_abi::queue`].
    pub(crate) fn queue(&self, number: u32) -> Option<&CompletionQueue> {
        match number {
            queue::SENDS => Some(&self.sends),
            queue::RECEIVES => Some(&self.receives),
            _ => None,
        }
    }

    /// Flushes all work, and all that is still posted, with errors.
    pub(crate) fn fail(&self) {
        // SAFETY: all zeros is a valid structure of numbers.
        let mut change: ibv_qp_attr = unsafe { zeroed() };
        change.qp_state = ibv_qp_state::IBV_QPS_ERR;
        self.modify(change, ibv_qp_attr_mask::IBV_QP_STATE);
    }

    /// Asks a peer that found no receive posted to try again soon: rdma_cm leaves the pause at its longest, 655 ms.
    pub(crate) fn shorten_receiver_pause(&self) {
        // SAFETY: all zeros is a valid structure of numbers.
        let mut change: ibv_qp_attr = unsafe { zeroed() };
        change.min_rnr_timer = PAUSE_640_US;
        self.modify(change, ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER);
    }

    /// The path's facts: the port's before the connection stands, then the connection's.
    pub(crate) fn path(&self) -> Path {
        // SAFETY: all zeros is a valid structure of numbers.
        let mut found: ibv_qp_attr = unsafe { zeroed() };
        // SAFETY: all zeros is a valid structure of numbers and null pointers.
        let mut made: ibv_qp_init_attr = unsafe { zeroed() };
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_PATH_MTU.0
            | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC.0;
        // SAFETY: the queue pair is alive and the outputs are writable.
        let status = unsafe { ibv_query_qp(self.raw, &raw mut found, mask.cast_signed(), &raw mut made) };
        let stands = [ibv_qp_state::IBV_QPS_RTR, ibv_qp_state::IBV_QPS_RTS].contains(&found.qp_state);
        if status == 0 && stands {
            return Path { mtu_bytes: mtu_bytes(found.path_mtu), reads: u32::from(found.max_rd_atomic) };
        }
        // SAFETY: all zeros is a valid structure of numbers.
        let mut port: ibv_port_attr = unsafe { zeroed() };
        // SAFETY: the context is open and `port` is writable.
        let status = unsafe { ___ibv_query_port(self.id.context(), self.id.port(), &raw mut port) };
        Path { mtu_bytes: if status == 0 { mtu_bytes(port.active_mtu) } else { 0 }, reads: 0 }
    }

    /// Changes the queue pair. That it fails means that its state does not allow the change any more.
    fn modify(&self, mut change: ibv_qp_attr, mask: ibv_qp_attr_mask) {
        // SAFETY: the queue pair is alive, and the mask names the one field that is set.
        unsafe { ibv_modify_qp(self.raw, &raw mut change, mask.0.cast_signed()) };
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this id; the fields, which it needs, are dropped afterwards.
        unsafe { rdma_destroy_qp(self.id.raw()) };
    }
}

fn mtu_bytes(mtu: ibv_mtu::Type) -> u32 {
    // The enumeration counts from 1, for 256 bytes, in powers of two.
    if (1..=5).contains(&mtu) { 128 << mtu } else { 0 }
}

/// InfiniBand architecture, "Encoding for RNR NAK Timer Field".
const PAUSE_640_US: u8 = 12;
