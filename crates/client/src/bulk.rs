//! Bulk bytes over a link with direct access to the worker's memory.
//!
//! | copy | how |
//! | --- | --- |
//! | to the device, pageable | copied into the *mirror*, memory of ours at the same place as the granted range of the worker's upload staging, and written from there |
//! | to the device, registered | written straight from the program's memory |
//! | to the host, pageable | the worker writes into the *landing memory*, which is copied out and said to be empty again |
//! | to the host, registered | the worker writes straight into the program's memory |
//!
//! Registered memory of the program (`cudaMallocHost`, `cudaHostRegister`) is registered with the network at its first
//! copy and stays so until the program ends its registration.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_types::HostSpan;
use proto::control::{HostMemory, LandedAt};
use proto::handshake::{Lend, Lent, Place};
use transport::LinkError;
use transport::direct::{DirectAccess, Registered, RemoteAddress, Ticket};
use transport::verbs::Pinned;

use crate::hazards;

/// See the module's text.
pub(crate) struct Bulk {
    staging: Place,
    mirror: Pinned,
    landing: Pinned,
    /// The worker reads and writes device memory without staging.
    pub(crate) gpudirect: bool,
    /// By the start of the program's registered range; `None` where the network does not take it.
    registered: Mutex<BTreeMap<usize, Option<Arc<Registered>>>>,
}

impl Bulk {
    /// Takes memory for both directions; `lend` is what the worker is to be told of it.
    pub(crate) fn prepare(
        direct: &dyn DirectAccess,
        staging_bytes: u64,
        landing_bytes: u64,
    ) -> Result<Prepared, LinkError> {
        let bytes = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Prepared {
            mirror: direct.pinned(bytes(staging_bytes))?,
            landing: direct.pinned(bytes(landing_bytes))?,
        })
    }

    fn registrations(&self) -> MutexGuard<'_, BTreeMap<usize, Option<Arc<Registered>>>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network registration of the program's registered memory around `span`, made now if there is none.
    pub(crate) fn registration(&self, direct: &dyn DirectAccess, span: HostSpan) -> Option<Arc<Registered>> {
        let range = hazards::registered_span(span)?;
        let mut known = self.registrations();
        // A range that the network does not take (memlock, file-backed memory) goes through the mirror.
        known.entry(range.address()).or_insert_with(|| direct.register(range).ok().map(Arc::new)).clone()
    }

    /// The program has ended the registration that starts at `address`.
    pub(crate) fn forget(&self, direct: &dyn DirectAccess, address: usize) {
        let Some(Some(registered)) = self.registrations().remove(&address) else { return };
        // What still reads it must be over; on a lost link nothing does.
        let _ = direct.wait_for(direct.last_ticket());
        drop(registered);
    }

    /// Writes `part` to the granted range at `staging` of the worker's upload staging. With an answer, `part` must stay as
    /// it is until that transfer is complete; without one it may be overwritten.
    pub(crate) fn upload(
        &self,
        direct: &dyn DirectAccess,
        part: HostSpan,
        staging: u64,
    ) -> Result<Option<Ticket>, LinkError> {
        let bytes = part.len() as u64;
        let inside = staging.checked_add(bytes).is_some_and(|end| end <= self.staging.bytes);
        assert!(inside, "a granted range lies in the staging");
        let to = RemoteAddress { address: self.staging.address + staging, key: self.staging.key };
        let registered = self.registration(direct, part);
        if let Some(from) = registered.and_then(|registered| registered.local(part.address() as u64, bytes)) {
            return direct.write(from, to, None).map(Some);
        }
        let place = usize::try_from(staging).ok().and_then(|at| self.mirror.span().slice(at, part.len()));
        let mut place = place.expect("the mirror is as long as the staging");
        place.write().copy_from_slice(part.read());
        let from = self.mirror.local(staging, bytes).expect("the mirror is as long as the staging");
        direct.write(from, to, None).map(|_| None)
    }

    /// What to tell the worker of `span`, if the network reaches it.
    pub(crate) fn host_memory(
        &self,
        direct: &dyn DirectAccess,
        copy: u64,
        span: HostSpan,
    ) -> Option<HostMemory> {
        let registered = self.registration(direct, span)?;
        let place = registered.remote(span.address() as u64, span.len() as u64)?;
        Some(HostMemory { copy, address: place.address, key: place.key })
    }

    /// Bytes that lie in the landing memory; `None` if they do not lie inside.
    pub(crate) fn landed(&self, landed: &LandedAt) -> Option<HostSpan> {
        self.landing.span().slice(usize::try_from(landed.at).ok()?, usize::try_from(landed.bytes).ok()?)
    }
}

/// Memory that the worker has not been told of.
pub(crate) struct Prepared {
    mirror: Pinned,
    landing: Pinned,
}

impl Prepared {
    pub(crate) fn lend(&self) -> Lend {
        let place = self.landing.remote();
        let bytes = self.landing.span().len() as u64;
        Lend { landing: Place { address: place.address, key: place.key, bytes } }
    }

    /// `None` if the worker's staging is not as long as it said.
    pub(crate) fn with(self, lent: Lent) -> Option<Bulk> {
        let same = lent.staging.bytes == self.mirror.span().len() as u64;
        let sane = lent.staging.address.checked_add(lent.staging.bytes).is_some();
        (same && sane).then(|| Bulk {
            staging: lent.staging,
            mirror: self.mirror,
            landing: self.landing,
            gpudirect: lent.gpudirect,
            registered: Mutex::default(),
        })
    }
}
