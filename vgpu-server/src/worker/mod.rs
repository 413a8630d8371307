//! One client on one device: reads its calls, issues them in order, sends back what comes of them.
//!
//! Threads of a worker:
//! * the [reader] takes frames off the link, puts bulk bytes where they belong and handles control messages; it never
//!   waits for anything but the link
//! * the *issuers* take turns at the queue of calls; one at a time issues, and hands on before it waits
//! * the *writer* sends what device callbacks leave behind; the *lander* moves large downloads
//! * over verbs, one more that follows what the network has moved

mod busy;
mod calls;
pub mod gpudirect;
mod outbox;
mod pace;
mod reader;
mod staging;
mod transfers;
pub mod usage;
mod verbs;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cuda_types::CuError;
use proto::calls::{self as table, Class, Row};
use proto::control::{Failed, Issued, Printed, Reply};
use proto::frame::Header;
use proto::frames::{FrameError, FrameReader};
use proto::handshake::{Began, Begin, Refusal};
use proto::{Device, Malformed, Names};
use transport::verbs::VerbsOptions;
use transport::{Link, LinkError};

use busy::{Busy, add_alone, light_bytes};
use calls::{Call, CallQueue, Group, may_wait};
use gpudirect::GpuDirect;
use outbox::{Message, Outbox};
use pace::Pace;
use transfers::{Lender, Transfers};
use usage::Usage;
use verbs::DirectLink;

/// Sizes that bound what one client can make its worker hold.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Pinned bytes that the client may fill ahead of the device.
    pub upload_bytes: usize,
    /// Pinned bytes for downloads, and into how many slots they are cut.
    pub download_bytes: usize,
    pub download_slots: usize,
    /// Bytes of call frames that may be under way without being issued.
    pub control_bytes: u64,
    /// How long the thread that issues calls looks for more before it sleeps.
    pub look: Duration,
    /// Whether and how verbs are offered.
    pub verbs: Option<VerbsOptions>,
    /// Whether the network shall reach device memory itself.
    pub gpudirect: gpudirect::Policy,
    /// Where the worker notes what it uses of the device.
    pub usage: Arc<Usage>,
}

impl WorkerOptions {
    /// About what it takes to be woken up.
    pub const LOOK: Duration = Duration::from_micros(20);
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            upload_bytes: 16 * 1024 * 1024,
            download_bytes: 8 * 1024 * 1024,
            download_slots: 8,
            // Only a client that is far away goes to half of it: it is under way at 16 ms.
            control_bytes: 64 * 1024 * 1024,
            look: WorkerOptions::LOOK,
            verbs: None,
            gpudirect: gpudirect::Policy::Auto,
            usage: Arc::default(),
        }
    }
}

/// How a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The client said farewell, and all it had posted is done.
    Farewell,
    /// The link ended first.
    Link(LinkError),
    /// The client sent bytes that are no calls.
    Malformed(Malformed),
    /// The device could not be set up for a client.
    Device(CuError),
}

impl std::fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SessionEnd::Farewell => f.write_str("the client left"),
            SessionEnd::Link(error) => write!(f, "{error}"),
            SessionEnd::Malformed(malformed) => write!(f, "session ended: {malformed}"),
            SessionEnd::Device(error) => write!(f, "the device cannot serve a client: {error}"),
        }
    }
}

impl From<FrameError<LinkError>> for SessionEnd {
    fn from(error: FrameError<LinkError>) -> Self {
        match error {
            FrameError::Link(error) => SessionEnd::Link(error),
            FrameError::Malformed(malformed) => SessionEnd::Malformed(malformed),
        }
    }
}

/// What a session did, by call.
#[derive(Debug, Default)]
pub struct CallCounts(BTreeMap<&'static str, u64>);

impl CallCounts {
    fn of(by_opcode: &[AtomicU64]) -> CallCounts {
        let count = |row: &table::Row| {
            let count = by_opcode.get(usize::from(row.opcode))?.load(Ordering::Relaxed);
            (count > 0).then_some((row.name, count))
        };
        CallCounts(table::rows().filter_map(count).collect())
    }
}

impl std::fmt::Display for CallCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let total: u64 = self.0.values().sum();
        write!(f, "{total} calls")?;
        self.0.iter().try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
}

/// After how many bytes of issued calls the client is told.
const ISSUED_BYTES: u64 = 256 * 1024;

/// The most places for the window that a client may propose.
const WINDOW_PROPOSALS: usize = 8;

/// Serves one client until it leaves. `begin` is its first proposal for the window.
///
/// Returns how the session ended and what was called. The device is left with whatever the client did not free: the
/// process that called this is expected to end.
pub fn serve(
    link: Arc<dyn Link>,
    device: Arc<dyn Device>,
    begin: Begin,
    options: &WorkerOptions,
) -> (SessionEnd, CallCounts) {
    let mut frames = FrameReader::default();
    let (link, outbox, transfers, lander) = match begin_session(&link, &device, begin, &mut frames, options) {
        Ok(parts) => parts,
        Err(end) => {
            link.shutdown();
            return (end, CallCounts::default());
        }
    };
    let transfers = Arc::new(transfers);
    if transfers.direct().is_some() {
        let transfers = Arc::clone(&transfers);
        std::thread::spawn(move || transfers.direct().map(|direct| direct.access().run_completions()));
    }

    let worker = Arc::new(Worker {
        device,
        transfers,
        names: Names::default(),
        queue: CallQueue::new(options.control_bytes, options.look, Arc::clone(&options.usage)),
        usage: Arc::clone(&options.usage),
        busy: Busy::default(),
        outbox: Arc::clone(&outbox),
        counts: (0..table::OPCODE_END).map(|_| AtomicU64::new(0)).collect(),
        unacknowledged: AtomicU64::new(0),
        pace: Pace::default(),
        // However large the window: a client that is near uses little of it.
        issued_quantum: (options.control_bytes / 4).min(ISSUED_BYTES),
        malformed: Mutex::default(),
        gone: AtomicBool::new(false),
    });
    let helpers = [
        std::thread::spawn(move || lander.run()),
        std::thread::spawn({
            let outbox = Arc::clone(&outbox);
            move || outbox.write_until_closed()
        }),
    ];
    worker.queue.join();
    let issuer = std::thread::spawn({
        let (worker, link) = (Arc::clone(&worker), Arc::clone(&link));
        move || worker.issue(&link)
    });
    let end = worker.read(&*link, &mut frames);
    worker.gone.store(!matches!(end, SessionEnd::Farewell), Ordering::Release);
    worker.queue.end(!matches!(end, SessionEnd::Farewell));
    if matches!(end, SessionEnd::Farewell) {
        worker.finish(issuer, &link);
        outbox.close();
    }
    link.shutdown();
    let malformed = worker.malformed.lock().unwrap_or_else(PoisonError::into_inner).take();
    let end = malformed.map_or(end, SessionEnd::Malformed);
    let counts = CallCounts::of(&worker.counts);
    // The lander and the writer may wait for a device or a peer that is gone; the process ends without them.
    drop(helpers);
    (end, counts)
}

fn refuse(link: &dyn Link, reason: String) {
    // If the refusal does not arrive, the client sees the end of the link instead.
    let _ = link.send(&[&Refusal { reason }.frame()]);
}

/// What is mapped before the client asks: one unit of the device's memory management.
const FIRST_CHUNK_BYTES: u64 = 2 << 20;

/// What a session needs once calls may flow.
type Parts = (Arc<dyn Link>, Arc<Outbox>, Transfers, transfers::Lander);

/// From the client's first proposal to the link over which calls come.
fn begin_session(
    link: &Arc<dyn Link>,
    device: &Arc<dyn Device>,
    first: Begin,
    frames: &mut FrameReader,
    options: &WorkerOptions,
) -> Result<Parts, SessionEnd> {
    let begin = reserve_window(&**link, &**device, first, frames)?;
    let lender = Lender::new(&**device, options).map_err(|error| {
        refuse(&**link, format!("no staging memory: {error}"));
        SessionEnd::Device(error)
    })?;
    // A device that has no memory left says so when the client asks for some.
    let mapped = device.vgpuMemMap(begin.window_base, FIRST_CHUNK_BYTES);
    if mapped.is_ok() {
        options.usage.mapped(FIRST_CHUNK_BYTES);
    }
    let (offer, host) = verbs::offer(begin.verbs, options.verbs.as_ref());
    let began = Began {
        staging_bytes: options.upload_bytes as u64,
        landing_bytes: options.download_bytes as u64,
        control_bytes: options.control_bytes,
        mapped_bytes: if mapped.is_ok() { FIRST_CHUNK_BYTES } else { 0 },
        verbs: offer,
    };
    link.send(&[&began.frame()]).map_err(SessionEnd::Link)?;
    let link = verbs::settle(host, Arc::clone(link), frames)?;
    let gpudirect = |landing| {
        let direct = GpuDirect::start(options.gpudirect, device, &link, &begin, landing)?;
        if let (Some(direct), Ok(())) = (&direct, &mapped) {
            direct.mapped(begin.window_base, FIRST_CHUNK_BYTES);
        }
        Ok(direct)
    };
    let direct = DirectLink::exchange(&link, frames, lender.upload, lender.download, gpudirect)?;
    let outbox = Arc::new(Outbox::new(Arc::clone(&link)));
    let (transfers, lander) =
        Transfers::new(Arc::clone(device), Arc::clone(&outbox), lender, options, direct);
    Ok((link, outbox, transfers, lander))
}

/// Reserves the window where the client wants it, or where it proposes next; answers the proposal that was taken.
fn reserve_window(
    link: &dyn Link,
    device: &dyn Device,
    first: Begin,
    frames: &mut FrameReader,
) -> Result<Begin, SessionEnd> {
    let mut begin = first;
    for _ in 1..WINDOW_PROPOSALS {
        match device.reserve_window(begin.window_base, begin.window_bytes) {
            Ok(()) => return Ok(begin),
            Err(CuError::MAP_FAILED) => refuse(link, "window".into()),
            Err(error) => {
                refuse(link, format!("the device cannot be opened: {error}"));
                return Err(SessionEnd::Device(error));
            }
        }
        let arguments = verbs::greeting(link, frames, Begin::OPCODE)?;
        begin = Begin::read(&arguments).map_err(SessionEnd::Malformed)?;
    }
    Err(SessionEnd::Device(CuError::MAP_FAILED))
}

struct Worker {
    device: Arc<dyn Device>,
    transfers: Arc<Transfers>,
    names: Names,
    queue: CallQueue,
    usage: Arc<Usage>,
    busy: Busy,
    outbox: Arc<Outbox>,
    /// Calls begun, by opcode.
    counts: Box<[AtomicU64]>,
    /// Bytes of calls issued since the client was last told.
    unacknowledged: AtomicU64,
    issued_quantum: u64,
    pace: Pace,
    /// Why the issuer ended the session.
    malformed: Mutex<Option<Malformed>>,
    /// The client is gone and nobody wants the answers.
    gone: AtomicBool,
}

/// A call of the table that has been noted and is to be made.
struct Begun {
    row: &'static Row,
    /// For [`Busy::end`].
    before: u64,
}

impl Worker {
    /// Waits until all that the client has posted is done and printed, or until the client waits no more: what a stream
    /// waits for may never come.
    fn finish(self: &Arc<Self>, issuer: JoinHandle<()>, link: &Arc<dyn Link>) {
        let (over, heard) = channel();
        let worker = Arc::clone(self);
        let done = over.clone();
        std::thread::spawn(move || {
            // A panic of the issuer has been printed; the session is over either way.
            let _ = issuer.join();
            let _ = worker.device.cuCtxSynchronize();
            worker.print(Outbox::send);
            // Whoever is told may go on without the device.
            drop(worker);
            // Nobody listens any more if the client has gone first.
            let _ = done.send(());
        });
        let link = Arc::clone(link);
        std::thread::spawn(move || {
            // Nothing comes behind a farewell but the end.
            let _ = link.receive(&mut [0]);
            let _ = over.send(());
        });
        // Both threads send, so it cannot fail.
        let _ = heard.recv();
    }

    /// An issuer thread: takes turns at the queue until nothing more comes.
    fn issue(self: &Arc<Self>, link: &Arc<dyn Link>) {
        let (mut holding, mut group) = (false, Group::default());
        while self.queue.next(holding, &mut group) {
            holding = true;
            // The clock costs little beside many calls.
            let start = group.is_posted_and_long().then(Instant::now);
            for call in group.calls() {
                // As with those that are queued yet.
                if self.gone.load(Ordering::Acquire) {
                    break;
                }
                let made = self.begin(&call).and_then(|begun| {
                    // Only the last of them may wait.
                    holding = !may_wait(call.opcode) || !self.hand_on(link);
                    // Who has handed on is no longer known to the queue.
                    if !holding {
                        self.usage.enter();
                    }
                    let made = self.make(&call, begun, Outbox::send);
                    if !holding {
                        self.usage.leave();
                    }
                    made
                });
                if let Err(malformed) = made {
                    *self.malformed.lock().unwrap_or_else(PoisonError::into_inner) = Some(malformed);
                    // The reader wakes up at the end of the link and ends the session.
                    link.shutdown();
                    self.queue.leave();
                    return;
                }
            }
            if let Some(start) = start {
                self.pace.issued(group.frame_bytes(), start);
            }
        }
        self.queue.leave();
    }

    /// Gives the issuing role to another thread; whether that was possible.
    fn hand_on(self: &Arc<Self>, link: &Arc<dyn Link>) -> bool {
        match self.queue.hand_on() {
            None => false,
            Some(false) => true,
            Some(true) => {
                self.queue.join();
                let (worker, link) = (Arc::clone(self), Arc::clone(link));
                std::thread::spawn(move || worker.issue(&link));
                true
            }
        }
    }

    /// Notes a call that the thread with the issuing role will make next.
    #[inline(always)]
    fn begin(&self, call: &Call<'_>) -> Result<Begun, Malformed> {
        let row = table::row(call.opcode)
            .ok_or_else(|| Malformed::new("opcode", format_args!("{:#06x} is no call", call.opcode)))?;
        let before = self.busy.begin(row, light_bytes(call));
        if let Some(count) = self.counts.get(usize::from(call.opcode)) {
            add_alone(count, 1);
        }
        Ok(Begun { row, before })
    }

    /// Makes one call and answers it. A posted one is made by the thread with the issuing role.
    #[inline]
    fn make(&self, call: &Call<'_>, begun: Begun, send: fn(&Outbox, Message)) -> Result<(), Malformed> {
        self.follow_memory(call, false);
        let mut value = Vec::new();
        let result = table::dispatch(
            call.opcode,
            call.arguments,
            &*self.device,
            &*self.transfers,
            &self.names,
            &mut value,
        )?;
        if result.is_ok() {
            self.follow_memory(call, true);
            self.busy.end(call.opcode, begun.before);
            self.usage.made(call.opcode, call.arguments);
        }
        let error = result.err().map_or(0, |error| error.0);
        let mut frame = Vec::new();
        match begun.row.class {
            Class::Wait => {
                self.print(send);
                let length = if error == 0 { value.len() } else { 0 };
                let length = u32::try_from(length).expect("no answer of the table is near 4 GiB");
                Reply { call: call.id.0, error }.append(&mut frame, length);
                frame.extend_from_slice(&value[..length as usize]);
            }
            Class::Post => {
                if error != 0 {
                    Failed { call: call.id.0, error }.append(&mut frame, 0);
                }
                let bytes = (Header::SIZE + call.arguments.len()) as u64;
                if add_alone(&self.unacknowledged, bytes) + bytes >= self.issued_quantum {
                    self.unacknowledged.store(0, Ordering::Relaxed);
                    Issued { upto: call.id.0, ahead: self.pace.ahead() }.append(&mut frame, 0);
                }
            }
        }
        if !frame.is_empty() && !self.gone.load(Ordering::Acquire) {
            send(&self.outbox, Message::frame(frame));
        }
        Ok(())
    }

    /// Keeps the network's registrations of device memory in step with what is there.
    fn follow_memory(&self, call: &Call<'_>, done: bool) {
        let direct = self.transfers.direct();
        if let Some(gpudirect) = direct.and_then(|direct| direct.gpudirect.as_ref()) {
            gpudirect.follow(call.opcode, call.arguments, done);
        }
    }

    /// Sends what kernels have printed.
    fn print(&self, send: fn(&Outbox, Message)) {
        let printed = self.device.take_printed();
        // One frame holds at most the bulk limit.
        for part in printed.chunks(Header::BULK_LIMIT as usize) {
            let mut frame = Vec::new();
            Printed {}
                .append(&mut frame, u32::try_from(part.len()).expect("a chunk of at most the bulk limit"));
            frame.extend_from_slice(part);
            send(&self.outbox, Message::frame(frame));
        }
    }
}
