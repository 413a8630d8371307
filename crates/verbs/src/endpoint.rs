//! A connection, from resolving or a request to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdma_sys::rdma_cm_event_type as kind;
use verbs_abi::{Info, QueueSizes, step};

use crate::address::to_abi;
use crate::counts::{Counted, ENDPOINTS};
use crate::device::{self, Wanted};
use crate::event::Event;
use crate::failure::{Failure, Outcome};
use crate::id::{CmId, Reads};
use crate::optional::make_fork_safe;
use crate::queue_pair::QueuePair;

/// One side of a connection. Dropping it ends the connection and frees everything but regions that still live.
pub(crate) struct Endpoint {
    queue_pair: QueuePair,
    /// What this side offers, and for a request no more than the peer wants.
    reads: Reads,
    connected: AtomicBool,
    /// `disconnect` was called, perhaps before the connection stood.
    ended: AtomicBool,
    _counted: Counted,
}

impl Endpoint {
    /// Resolves the way to a peer and makes the queues.
    pub(crate) fn resolve(
        peer: SocketAddr,
        device: Option<&str>,
        sizes: &QueueSizes,
        timeout: Duration,
    ) -> Outcome<Endpoint> {
        let deadline = Instant::now() + timeout;
        device::required_names()?;
        make_fork_safe();
        let wanted = device.map(Wanted::parse).transpose()?;
        let source = wanted.as_ref().map(|wanted| wanted.source(peer.ip())).transpose()?;
        let id = CmId::new()?;
        id.resolve_address(source, peer, deadline)?;
        if let Some(wanted) = &wanted {
            wanted.verify(&id.device(), id.port(), peer.ip())?;
        }
        id.resolve_route(peer, deadline)?;
        id.limit_silence(sizes.timeout_ms);
        let reads = id.reads();
        Endpoint::new(Arc::new(id), reads, sizes)
    }

    /// Makes the queues for a request; if that fails, the peer is told why.
    pub(crate) fn from_request(id: CmId, request: &Event, sizes: &QueueSizes) -> Outcome<Endpoint> {
        make_fork_safe();
        id.limit_silence(sizes.timeout_ms);
        let id = Arc::new(id);
        if id.context().is_null() {
            return Err(Failure::new(step::CONNECT, "a connection request came without a device"));
        }
        let able = id.reads();
        let reads = Reads {
            served: able.served.min(request.responder_resources),
            issued: able.issued.min(request.initiator_depth),
        };
        Endpoint::new(Arc::clone(&id), reads, sizes).inspect_err(|failure| id.reject(failure.text.as_bytes()))
    }

    /// Connects; answers what the peer sent back.
    pub(crate) fn connect(&self, data: &[u8], timeout: Duration) -> Outcome<Vec<u8>> {
        let answer = self.id().connect(data, self.reads, Instant::now() + timeout)?;
        self.established();
        Ok(answer)
    }

    /// Accepts a request.
    pub(crate) fn accept(&self, data: &[u8], timeout: Duration) -> Outcome<()> {
        self.id().accept(data, self.reads, Instant::now() + timeout)?;
        self.established();
        Ok(())
    }

    /// Refuses a request.
    pub(crate) fn reject(self, reason: &[u8]) {
        self.id().reject(reason);
    }

    /// Handles rdma_cm's events; answers whether the connection still stands.
    ///
    /// Before it stands the events belong to `connect` and `accept`, and are left alone.
    pub(crate) fn is_connected(&self) -> bool {
        while self.connected.load(Ordering::Acquire) {
            match self.id().channel().next(step::CONNECT) {
                Ok(None) => return true,
                // Neither ends anything: the second tells of an address that moved to another port of a bond.
                Ok(Some(event))
                    if event.kind == kind::RDMA_CM_EVENT_ESTABLISHED
                        || event.kind == kind::RDMA_CM_EVENT_ADDR_CHANGE => {}
                // The peer has disconnected, or the device is gone: nothing that is posted can still happen.
                Ok(Some(_)) | Err(_) => self.disconnect(),
            }
        }
        false
    }

    /// Ends the connection and flushes all work.
    pub(crate) fn disconnect(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.connected.store(false, Ordering::SeqCst);
        self.id().disconnect();
        self.queue_pair.fail();
    }

    /// Facts about the connection.
    pub(crate) fn info(&self) -> Info {
        let path = self.queue_pair.path();
        let mut device = [0; 64];
        let name = self.id().device();
        // The last byte stays 0.
        let used = name.len().min(device.len() - 1);
        device[..used].copy_from_slice(&name.as_bytes()[..used]);
        Info {
            device,
            port: u32::from(self.id().port()),
            mtu_bytes: path.mtu_bytes,
            inline_bytes: self.queue_pair.inline_bytes(),
            reads: if path.reads == 0 { u32::from(self.reads.issued) } else { path.reads },
            local: to_abi(self.id().local()),
            peer: to_abi(self.id().peer()),
        }
    }

    /// The queues.
    pub(crate) fn queue_pair(&self) -> &QueuePair {
        &self.queue_pair
    }

    /// The rdma_cm id.
    pub(crate) fn id(&self) -> &CmId {
        self.queue_pair.id()
    }

    fn new(id: Arc<CmId>, reads: Reads, sizes: &QueueSizes) -> Outcome<Endpoint> {
        let queue_pair = QueuePair::new(id, sizes)?;
        let connected = AtomicBool::new(false);
        let ended = AtomicBool::new(false);
        Ok(Endpoint { queue_pair, reads, connected, ended, _counted: ENDPOINTS.enter() })
    }

    fn established(&self) {
        self.queue_pair.shorten_receiver_pause();
        self.connected.store(true, Ordering::SeqCst);
        // Another thread wanted the end while this one was still connecting.
        if self.ended.load(Ordering::SeqCst) {
            self.disconnect();
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.connected.load(Ordering::Acquire) {
            self.disconnect();
        }
    }
}
