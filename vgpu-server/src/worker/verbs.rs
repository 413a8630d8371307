//! The worker's part of the change from TCP to verbs, and what it lends the client then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cuda_types::{CuError, HostSpan};
use proto::Malformed;
use proto::frame::Header;
use proto::frames::FrameReader;
use proto::handshake::{Chosen, GREETING_LIMIT, Lend, Lent, Place, VerbsOffer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use transport::direct::{DirectAccess, LocalRange, Registered, RemoteAddress};
use transport::verbs::{Dialed, Host, VerbsOptions};
use transport::{Link, LinkError};

use super::SessionEnd;
use super::gpudirect::GpuDirect;

/// How long a client may take between `Began` and `Chosen`.
const CHOICE_TIME: Duration = Duration::from_secs(30);

/// Opens a listener for the client, if it wants verbs and this machine has them.
pub(super) fn offer(wanted: bool, options: Option<&VerbsOptions>) -> (VerbsOffer, Option<Host>) {
    let Some(options) = options.filter(|_| wanted) else {
        let reason = "the server was started with --verbs off".to_owned();
        return (if wanted { VerbsOffer::Unavailable(reason) } else { VerbsOffer::NotAsked }, None);
    };
    match Host::open(options.clone()) {
        Ok(host) => {
            let offer = host.offer();
            (VerbsOffer::Listening { port: offer.port, token: offer.token }, Some(host))
        }
        Err(error) => {
            tracing::debug!("no verbs for this client: {error}");
            (VerbsOffer::Unavailable(error.to_string()), None)
        }
    }
}

/// Waits for the client's choice; answers the link that calls will come over.
pub(super) fn settle(
    host: Option<Host>,
    link: Arc<dyn Link>,
    frames: &mut FrameReader,
) -> Result<Arc<dyn Link>, SessionEnd> {
    let Some(mut host) = host else { return Ok(link) };
    let (mut dialed, mut chosen) = (None::<Dialed>, None::<Chosen>);
    let end = Instant::now() + CHOICE_TIME;
    while !(chosen.as_ref().is_some_and(|chosen| !chosen.verbs || dialed.is_some())) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SessionEnd::Link(LinkError::NoAnswer {
                peer: link.peer().to_owned(),
                timeout: CHOICE_TIME,
            }));
        }
        let (said, knocked) = wait(&*link, &host, left.min(Duration::from_millis(200)), chosen.is_none());
        if knocked && dialed.is_none() {
            // A failure is the client's too: it sees that its connection is not accepted, and says what it will be.
            dialed = host.next_client().unwrap_or_else(|error| {
                tracing::warn!("a client's connection over verbs failed: {error}");
                None
            });
        }
        if said {
            let bytes = greeting(&*link, frames, Chosen::OPCODE)?;
            chosen = Some(Chosen::read(&bytes).map_err(SessionEnd::Malformed)?);
        }
    }
    let reason = chosen.map(|chosen| chosen.reason).unwrap_or_default();
    match dialed.filter(|_| reason.is_empty()) {
        Some(dialed) => {
            let device = dialed.device();
            let over = dialed.over(link).map_err(SessionEnd::Link)?;
            tracing::info!("the client is connected over verbs, device {device}");
            Ok(Arc::new(over))
        }
        None => {
            tracing::info!("the client goes on over TCP: {reason}");
            Ok(link)
        }
    }
}

/// Which of the two has something.
fn wait(link: &dyn Link, host: &Host, time: Duration, listen_to_link: bool) -> (bool, bool) {
    let mut descriptors = vec![PollFd::from_borrowed_fd(host.descriptor(), PollFlags::IN)];
    if listen_to_link {
        descriptors.push(PollFd::from_borrowed_fd(link.descriptor(), PollFlags::IN));
    }
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    // Interrupted: the caller looks again.
    let _ = poll(&mut descriptors, Some(&time));
    let said = descriptors.get(1).is_some_and(|entry| !entry.revents().is_empty());
    (said, !descriptors[0].revents().is_empty())
}

/// Reads one greeting of the client's.
pub(super) fn greeting(
    link: &dyn Link,
    frames: &mut FrameReader,
    opcode: u16,
) -> Result<Vec<u8>, SessionEnd> {
    let mut read = |into: &mut [u8]| link.receive(into);
    let header: Header = frames.header(&mut read)?;
    if header.opcode != opcode || header.length > GREETING_LIMIT || header.bulk != 0 {
        return Err(SessionEnd::Malformed(Malformed::new(
            "greeting",
            format_args!("{header:?} where {opcode:#06x} belongs"),
        )));
    }
    let mut arguments = Vec::new();
    frames.arguments(header.length, &mut arguments, &mut read)?;
    Ok(arguments)
}

/// What a worker has with direct access: both stagings registered, the client's landing memory.
pub(super) struct DirectLink {
    link: Arc<dyn Link>,
    download: (HostSpan, Registered),
    // Held for the client, which writes there.
    _upload: Registered,
    landing: Place,
    pub(super) gpudirect: Option<GpuDirect>,
}

impl DirectLink {
    /// Exchanges with the client where memory lies. `None` if the link has no direct access.
    pub(super) fn exchange(
        link: &Arc<dyn Link>,
        frames: &mut FrameReader,
        upload: HostSpan,
        download: HostSpan,
        gpudirect: impl FnOnce(Place) -> Result<Option<GpuDirect>, CuError>,
    ) -> Result<Option<DirectLink>, SessionEnd> {
        let Some(direct) = link.direct() else { return Ok(None) };
        let lend = Lend::read(&greeting(&**link, frames, Lend::OPCODE)?).map_err(SessionEnd::Malformed)?;
        let fits = lend.landing.bytes == download.len() as u64
            && lend.landing.address.checked_add(lend.landing.bytes).is_some();
        if !fits {
            let malformed = Malformed::new("landing memory", format_args!("{:?}", lend.landing));
            return Err(SessionEnd::Malformed(malformed));
        }
        let upload_registered = direct.register(upload).map_err(SessionEnd::Link)?;
        let download_registered = direct.register(download).map_err(SessionEnd::Link)?;
        let staging = upload_registered
            .remote(upload.address() as u64, upload.len() as u64)
            .expect("all of what was registered");
        let gpudirect = gpudirect(lend.landing).map_err(|error| {
            super::refuse(&**link, format!("--gpudirect on: device memory is not reached: {error}"));
            SessionEnd::Device(error)
        })?;
        let lent = Lent {
            staging: Place { address: staging.address, key: staging.key, bytes: upload.len() as u64 },
            gpudirect: gpudirect.is_some(),
        };
        link.send(&[&lent.frame()]).map_err(SessionEnd::Link)?;
        Ok(Some(DirectLink {
            link: Arc::clone(link),
            download: (download, download_registered),
            _upload: upload_registered,
            landing: lend.landing,
            gpudirect,
        }))
    }

    pub(super) fn access(&self) -> &dyn DirectAccess {
        self.link.direct().expect("made only of a link that has it")
    }

    /// The first `bytes` of a slot of the download staging, as a source, and the slot's place in the landing memory.
    pub(super) fn slot(&self, slot: HostSpan, bytes: usize) -> (LocalRange, u64) {
        let (whole, registered) = &self.download;
        let local = registered.local(slot.address() as u64, bytes as u64);
        (local.expect("a slot lies in the staging"), (slot.address() - whole.address()) as u64)
    }

    /// Where place `at` of the landing memory is.
    pub(super) fn landing(&self, at: u64) -> RemoteAddress {
        let start = RemoteAddress { address: self.landing.address, key: self.landing.key };
        start.offset(at).expect("a slot's place lies in the landing memory")
    }

    /// The slot at `at`, as [`slot`](DirectLink::slot) named it.
    pub(super) fn slot_at(&self, at: u64, slot_bytes: usize) -> Option<HostSpan> {
        let at = usize::try_from(at).ok().filter(|at| at.is_multiple_of(slot_bytes))?;
        self.download.0.slice(at, slot_bytes)
    }
}
