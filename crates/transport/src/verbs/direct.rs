//! Transfers between registered memory of both sides.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cuda_types::HostSpan;
use verbs_abi::{Send as Request, access, opcode};

use super::error::VerbsError;
use super::link::VerbsLink;
use super::pinned::{self, Pinned};
use super::plugin::Region;
use crate::direct::{
    DeviceMemory, DirectAccess, DirectStatistics, Done, LocalRange, Registered, RemoteAddress, Ticket,
};
use crate::link::LinkError;

/// The longest single request: adapters take 1 GiB and more, but small ones interleave with other traffic.
const REQUEST_BYTES: u64 = 1024 * 1024;

impl VerbsLink {
    /// An error that leaves the link as it is.
    fn unregistered(&self, error: &VerbsError) -> LinkError {
        LinkError::Unreachable { peer: self.peer.clone(), source: std::io::Error::other(error.to_string()) }
    }

    fn transfer(
        &self,
        opcode: u32,
        local: LocalRange,
        remote: RemoteAddress,
        done: Option<Done>,
    ) -> Result<Ticket, LinkError> {
        let outcome = self.post_transfer(opcode, local, remote, done.is_some());
        match outcome {
            Ok(id) => {
                if let Some(done) = done {
                    let mut sends = self.lock_sends();
                    if sends.completed >= id || self.check().is_err() {
                        let succeeded = sends.completed >= id;
                        drop(sends);
                        done(succeeded);
                    } else {
                        // In order but for transfers of other threads that were posted meanwhile.
                        let place = sends.actions.partition_point(|(other, _)| *other < id);
                        sends.actions.insert(place, (id, done));
                        drop(sends);
                        self.sends_changed.notify_all();
                    }
                }
                Ok(Ticket(id))
            }
            Err(error) => {
                if let Some(done) = done {
                    done(false);
                }
                Err(error)
            }
        }
    }

    fn post_transfer(
        &self,
        opcode: u32,
        local: LocalRange,
        remote: RemoteAddress,
        wanted: bool,
    ) -> Result<u64, LinkError> {
        self.counters.transfers.fetch_add(1, Ordering::Relaxed);
        self.counters.transfer_bytes.fetch_add(local.bytes, Ordering::Relaxed);
        let (mut offset, mut id) = (0, 0);
        loop {
            self.check()?;
            let bytes = (local.bytes - offset).min(REQUEST_BYTES);
            let last = offset + bytes == local.bytes;
            let request = Request {
                id: 0,
                opcode,
                flags: 0,
                local_address: local.address + offset,
                local_key: local.key,
                bytes: u32::try_from(bytes).expect("at most 1 MiB"),
                remote_address: remote.address + offset,
                remote_key: remote.key,
                immediate: 0,
            };
            let mut sends = self.wait_for_place(self.lock_sends())?;
            id = self.post(&mut sends, request, wanted && last)?.max(id);
            offset += bytes;
            if last {
                return Ok(id);
            }
        }
    }
}

impl DirectAccess for VerbsLink {
    fn register(&self, span: HostSpan) -> Result<Registered, LinkError> {
        pinned::register(&self.endpoint, span).map_err(|error| self.unregistered(&error))
    }

    fn register_device(&self, memory: &DeviceMemory<'_>) -> Result<Registered, LinkError> {
        match *memory {
            DeviceMemory::Mapped { span } => self.register(span),
            DeviceMemory::DmaBuf { descriptor, offset, bytes, address } => {
                let rights = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ;
                let region = Region::of_dmabuf(&self.endpoint, descriptor, offset, bytes, address, rights)
                    .map_err(|error| self.unregistered(&error))?;
                let keys = (region.local_key(), region.remote_key());
                Ok(Registered::device(address, bytes, keys, Box::new(region)))
            }
        }
    }

    fn pinned(&self, bytes: usize) -> Result<Pinned, LinkError> {
        Pinned::new(&self.endpoint, bytes).map_err(|error| self.unregistered(&error))
    }

    fn write(&self, from: LocalRange, to: RemoteAddress, done: Option<Done>) -> Result<Ticket, LinkError> {
        self.transfer(opcode::WRITE, from, to, done)
    }

    fn read(&self, into: LocalRange, from: RemoteAddress, done: Option<Done>) -> Result<Ticket, LinkError> {
        self.transfer(opcode::READ, into, from, done)
    }

    fn wait_for(&self, ticket: Ticket) -> Result<(), LinkError> {
        self.wait_for_request(ticket.0, None)
    }

    fn last_ticket(&self) -> Ticket {
        self.newest()
    }

    fn run_completions(&self) {
        loop {
            let mut sends = self.lock_sends();
            while sends.actions.is_empty() && self.check().is_ok() {
                // Not forever: the end of the link is told without the lock.
                let again = Duration::from_millis(500);
                sends =
                    self.sends_changed.wait_timeout(sends, again).unwrap_or_else(PoisonError::into_inner).0;
            }
            if self.wait_sends(sends, Duration::ZERO, None, |sends| sends.actions.is_empty()).is_err()
                || self.check().is_err()
            {
                let undone = std::mem::take(&mut self.lock_sends().actions);
                undone.into_iter().for_each(|(_, done)| done(false));
                return;
            }
        }
    }

    fn device(&self) -> &str {
        &self.device
    }

    fn statistics(&self) -> DirectStatistics {
        let counters = &self.counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        DirectStatistics {
            registrations: self.endpoint.plugin.counts().registrations,
            messages: read(&counters.messages),
            message_bytes: read(&counters.message_bytes),
            transfers: read(&counters.transfers),
            transfer_bytes: read(&counters.transfer_bytes),
            ring_waits: read(&counters.ring_waits),
            queue_waits: read(&counters.queue_waits),
            sleeps: read(&counters.sleeps),
        }
    }
}
