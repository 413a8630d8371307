//! A listening id and the requests that come to it.

use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};

use rdma_sys::rdma_cm_event_type as kind;
use verbs_abi::{QueueSizes, step};

use crate::counts::{Counted, LISTENERS};
use crate::device;
use crate::endpoint::Endpoint;
use crate::failure::Outcome;
use crate::id::CmId;

/// Listens until it is dropped. Endpoints made from it live on, because each is moved to its own event channel.
pub(crate) struct Listener {
    id: CmId,
    port: u16,
    /// Held while an event is taken and its id is moved away: nobody else may read that id's events meanwhile.
    taking: Mutex<()>,
    _counted: Counted,
}

/// A request to connect.
pub(crate) struct Request {
    pub(crate) endpoint: Endpoint,
    /// What the peer sent; providers pad it with zeros.
    pub(crate) private_data: Vec<u8>,
}

impl Listener {
    /// Listens at an address.
    pub(crate) fn new(address: std::net::SocketAddr) -> Outcome<Listener> {
        device::required_names()?;
        let id = CmId::new()?;
        let port = id.listen(address)?;
        Ok(Listener { id, port, taking: Mutex::new(()), _counted: LISTENERS.enter() })
    }

    /// The port it listens at.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Polls readable when a request may have come.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.id.channel().descriptor()
    }

    /// The next request if there is one.
    pub(crate) fn next_request(&self, sizes: &QueueSizes) -> Outcome<Option<Request>> {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(event) = self.id.channel().next(step::CONNECT)? {
            // Others tell of a peer that gave up before we looked, or of a device that came or went.
            if event.kind != kind::RDMA_CM_EVENT_CONNECT_REQUEST {
                continue;
            }
            // SAFETY: a request's id is new and its event is acknowledged; only this place sees it.
            let id = unsafe { CmId::adopt(event.id) }?;
            let endpoint = Endpoint::from_request(id, &event, sizes)?;
            return Ok(Some(Request { endpoint, private_data: event.private_data }));
        }
        Ok(None)
    }
}
