//! Bytes and signals between the device's streams and the client (chapter 0x08 of the call table).
//!
//! Nothing here blocks the thread that issues calls or the thread that reads the link. What a stream must wait for
//! outside its device becomes a *gate*: the stream is made to wait at it, and it is opened from here.
//!
//! * Upload: the client fills granted ranges of the upload staging; a range is granted again when its copy is done.
//! * Pull: a copy without credit. When its stream arrives, the client is asked for the bytes; they are copied on a
//!   helper stream as they come, and the last one opens the gate.
//! * Landing: device bytes go through a slot of the download staging. A copy that finds a slot free goes straight
//!   through it in its own stream; others wait at a gate while the lander thread moves them slot by slot.
//!
//! With direct access to the client's memory (verbs), bytes are written to or read from it where they belong, and with
//! GPUDirect RDMA straight from or to device memory, at a gate as well.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_types::{CUdeviceptr, CUevent, CUstream, CuError, CuResult, HostSpan};
use proto::control::{
    Credit, Emptied, GateOpen, HostMemory, Landed, LandedAt, Landing, Notice, Pull, PullDone, Pulled,
    RunHostFunction,
};
use proto::{Device, Malformed, TransferCalls};
use transport::direct::RemoteAddress;

use super::WorkerOptions;
use super::gpudirect::DeviceRange;
use super::outbox::{Message, Outbox};
use super::staging::Slots;
use super::verbs::DirectLink;

/// The moving parts beside the device.
pub(crate) struct Transfers {
    shared: Arc<Shared>,
    landings: Sender<Job>,
}

struct Shared {
    device: Arc<dyn Device>,
    outbox: Arc<Outbox>,
    upload: HostSpan,
    download: Arc<Slots>,
    /// Uploads of pulled copies, in the order in which they come.
    pull_stream: CUstream,
    /// Downloads of large copies.
    land_stream: CUstream,
    direct: Option<DirectLink>,
    books: Mutex<Books>,
}

/// What transfers take from the device.
pub(crate) struct Lender {
    pub(crate) upload: HostSpan,
    pub(crate) download: HostSpan,
    pull_stream: CUstream,
    land_stream: CUstream,
}

impl Lender {
    pub(crate) fn new(device: &dyn Device, options: &WorkerOptions) -> CuResult<Lender> {
        Ok(Lender {
            upload: device.staging(options.upload_bytes)?,
            download: device.staging(options.download_bytes)?,
            pull_stream: device.helper_stream()?,
            land_stream: device.helper_stream()?,
        })
    }
}

#[derive(Default)]
struct Books {
    pulls: HashMap<u64, PullState>,
    gates: HashMap<u64, GateState>,
    /// Streams that wait for an announced event and are free again.
    notice_streams: Vec<CUstream>,
    /// Gates that their stream has passed.
    passed_gates: Vec<u64>,
    /// Client memory of copies that are to come, by copy.
    host_memory: HashMap<u64, RemoteAddress>,
    /// Places of the landing memory that the client has not emptied yet.
    lent_slots: HashSet<u64>,
}

struct PullState {
    dst: CUdeviceptr,
    bytes: u64,
    /// Bytes whose copy has been given to the device.
    submitted: u64,
    gate: u64,
}

enum GateState {
    /// The client opened it before its stream was made to wait.
    OpenedEarly,
    /// The device's gate.
    Closed(u64),
}

/// A copy that its stream has arrived at.
enum Job {
    /// Device bytes go to the client through slots.
    Land { copy: u64, src: CUdeviceptr, bytes: u64, gate: u64, host: Option<RemoteAddress> },
    /// Device bytes are written to the client's memory.
    Write { copy: u64, from: DeviceRange, to: RemoteAddress, gate: u64 },
    /// The client's memory is read into the device's.
    Read { copy: u64, into: DeviceRange, from: RemoteAddress, gate: u64 },
}

fn send(outbox: &Outbox, write: impl FnOnce(&mut Vec<u8>)) {
    let mut frame = Vec::new();
    write(&mut frame);
    outbox.push(Message::frame(frame));
}

fn code(result: CuResult<()>) -> u32 {
    result.err().map_or(0, |error| error.0)
}

impl Transfers {
    /// Takes staging from the device. The receiver belongs to the lander thread.
    pub(crate) fn new(
        device: Arc<dyn Device>,
        outbox: Arc<Outbox>,
        lender: Lender,
        options: &WorkerOptions,
        direct: Option<DirectLink>,
    ) -> (Transfers, Lander) {
        let slots = Arc::new(Slots::new(lender.download, options.download_slots));
        let (landings, jobs) = channel();
        let shared = Arc::new(Shared {
            device,
            outbox,
            upload: lender.upload,
            download: slots,
            pull_stream: lender.pull_stream,
            land_stream: lender.land_stream,
            direct,
            books: Mutex::default(),
        });
        (Transfers { shared: Arc::clone(&shared), landings }, Lander { shared, jobs })
    }

    /// Direct access to the client's memory, where the link has it.
    pub(crate) fn direct(&self) -> Option<&DirectLink> {
        self.shared.direct.as_ref()
    }

    /// The client says where the memory of a copy lies.
    pub(crate) fn host_memory(&self, memory: HostMemory) -> Result<(), Malformed> {
        let mut books = self.shared.lock();
        if self.shared.direct.is_none() || books.host_memory.len() >= GATE_LIMIT {
            return Err(Malformed::new("host memory", format_args!("{memory:?}")));
        }
        let place = RemoteAddress { address: memory.address, key: memory.key };
        books.host_memory.insert(memory.copy, place);
        Ok(())
    }

    /// The client has taken what was landed at a place.
    pub(crate) fn emptied(&self, emptied: Emptied) -> Result<(), Malformed> {
        let shared = &self.shared;
        let lent = shared.lock().lent_slots.remove(&emptied.at);
        let direct = shared.direct.as_ref().filter(|_| lent);
        let slot = direct.and_then(|direct| direct.slot_at(emptied.at, shared.download.slot_bytes()));
        let slot = slot.ok_or_else(|| Malformed::new("emptied place", format_args!("{:#x}", emptied.at)))?;
        shared.download.give(slot);
        Ok(())
    }

    /// Device memory that the network reaches itself, and where in the client's memory the copy goes.
    fn direct_ends(
        &self,
        copy: u64,
        address: CUdeviceptr,
        bytes: u64,
    ) -> (Option<RemoteAddress>, Option<DeviceRange>) {
        let host = self.shared.lock().host_memory.remove(&copy);
        let gpudirect = self.direct().and_then(|direct| direct.gpudirect.as_ref());
        let range = host.and(gpudirect).and_then(|gpudirect| gpudirect.range(address.0, bytes));
        (host, range)
    }

    /// Where the bulk bytes of an upload frame belong.
    pub(crate) fn upload_range(&self, staging: u64, bytes: u64) -> Result<HostSpan, Malformed> {
        self.shared.upload_range(staging, bytes)
    }

    /// The client says that a part of a pulled copy lies in the upload staging.
    pub(crate) fn pulled(&self, part: Pulled) -> Result<(), Malformed> {
        let shared = &self.shared;
        let span = shared.upload_range(part.staging, part.bytes)?;
        let (dst, gate) = {
            let mut books = shared.lock();
            let unknown = || Malformed::new("pulled bytes", format_args!("no copy {} was pulled", part.copy));
            let state = books.pulls.get_mut(&part.copy).ok_or_else(unknown)?;
            // In order and inside the copy: its end is known by the count alone.
            if part.offset != state.submitted || part.bytes > state.bytes - state.submitted {
                return Err(Malformed::new(
                    "pulled bytes",
                    format_args!("{part:?} after {}", state.submitted),
                ));
            }
            state.submitted += part.bytes;
            let found = (
                CUdeviceptr(state.dst.0 + part.offset),
                (state.submitted == state.bytes).then_some(state.gate),
            );
            if state.submitted == state.bytes {
                books.pulls.remove(&part.copy);
            }
            found
        };
        let (device, outbox) = (Arc::clone(&shared.device), Arc::clone(&shared.outbox));
        let copied = shared.device.cuMemcpyHtoDAsync_v2(dst, span, shared.pull_stream);
        shared.when_reached(shared.pull_stream, move |_| {
            send(&outbox, |out| Credit { staging: part.staging, bytes: part.bytes }.append(out, 0));
            if let Some(gate) = gate {
                // A gate that cannot be opened belongs to a context that is gone.
                let _ = device.gate_open(gate);
            }
        });
        // The copy's own failure breaks the context and is reported by the next call.
        let _ = copied;
        Ok(())
    }

    /// The client opens a gate.
    pub(crate) fn open_gate(&self, message: GateOpen) -> Result<(), Malformed> {
        let mut books = self.shared.lock();
        match books.gates.remove(&message.gate) {
            Some(GateState::Closed(gate)) => {
                drop(books);
                let _ = self.shared.device.gate_open(gate);
                Ok(())
            }
            Some(GateState::OpenedEarly) => {
                Err(Malformed::new("gate", format_args!("{} is opened a second time", message.gate)))
            }
            None if books.gates.len() >= GATE_LIMIT => Err(Malformed::new("gate", "too many gates")),
            None => {
                books.gates.insert(message.gate, GateState::OpenedEarly);
                Ok(())
            }
        }
    }

    /// Makes the stream wait for the client's gate, unless it is open already.
    fn wait_at(&self, name: u64, stream: CUstream) -> CuResult<()> {
        let gate = self.shared.new_gate()?;
        let mut books = self.shared.lock();
        if let Some(GateState::OpenedEarly) = books.gates.remove(&name) {
            drop(books);
            self.shared.device.gate_destroy(gate);
            return Ok(());
        }
        if books.gates.len() >= GATE_LIMIT {
            return Err(CuError::OUT_OF_MEMORY);
        }
        books.gates.insert(name, GateState::Closed(gate));
        drop(books);
        self.shared.wait_at_gate(gate, stream)
    }
}

/// The most gates that a client may hold closed at once.
const GATE_LIMIT: usize = 1 << 20;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upload_range(&self, staging: u64, bytes: u64) -> Result<HostSpan, Malformed> {
        usize::try_from(staging)
            .ok()
            .zip(usize::try_from(bytes).ok())
            .and_then(|(staging, bytes)| self.upload.slice(staging, bytes))
            .ok_or_else(|| {
                Malformed::new("upload", format_args!("{bytes} bytes at {staging:#x} of the staging"))
            })
    }

    /// A closed gate. Those that have been passed meanwhile end here, where the device may be called.
    fn new_gate(&self) -> CuResult<u64> {
        let passed = std::mem::take(&mut self.lock().passed_gates);
        passed.into_iter().for_each(|gate| self.device.gate_destroy(gate));
        self.device.gate_create()
    }

    /// Makes the stream wait until the gate is open; the gate ends when it has passed.
    fn wait_at_gate(self: &Arc<Self>, gate: u64, stream: CUstream) -> CuResult<()> {
        self.device.gate_wait(gate, stream)?;
        let own = Arc::clone(self);
        self.when_reached(stream, move |_| own.lock().passed_gates.push(gate));
        Ok(())
    }

    /// Runs `action` when the stream arrives here, at once if the context is broken and the stream cannot.
    fn when_reached(&self, stream: CUstream, action: impl FnOnce(CuResult<()>) + Send + 'static) {
        let action = Arc::new(Mutex::new(Some(action)));
        let run = {
            let action = Arc::clone(&action);
            move |result| {
                let taken = action.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(action) = taken {
                    action(result);
                }
            }
        };
        let later = run.clone();
        if let Err(error) = self.device.cuStreamAddCallback(stream, Box::new(later)) {
            run(Err(error));
        }
    }
}

impl TransferCalls for Transfers {
    fn vgpuStagedHtoD(&self, dst: CUdeviceptr, staging: u64, bytes: u64, stream: CUstream) -> CuResult<()> {
        let shared = &self.shared;
        let span = shared.upload_range(staging, bytes).map_err(|_| CuError::INVALID_VALUE)?;
        let copied = shared.device.cuMemcpyHtoDAsync_v2(dst, span, stream);
        let outbox = Arc::clone(&shared.outbox);
        shared.when_reached(stream, move |_| {
            // The program waits for its copy, most likely, and not for the place: both can go together.
            let mut frame = Vec::new();
            Credit { staging, bytes }.append(&mut frame, 0);
            outbox.push_lazily(Message::frame(frame));
        });
        copied
    }

    fn vgpuPullHtoD(&self, copy: u64, dst: CUdeviceptr, bytes: u64, stream: CUstream) -> CuResult<()> {
        let shared = &self.shared;
        if bytes == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let gate = shared.new_gate()?;
        if let (Some(from), Some(into)) = self.direct_ends(copy, dst, bytes) {
            let landings = self.landings.clone();
            let outbox = Arc::clone(&shared.outbox);
            shared.when_reached(stream, move |result| {
                if result.is_err() || landings.send(Job::Read { copy, into, from, gate }).is_err() {
                    send(&outbox, |out| PullDone { copy }.append(out, 0));
                }
            });
            return shared.wait_at_gate(gate, stream);
        }
        shared.lock().pulls.insert(copy, PullState { dst, bytes, submitted: 0, gate });
        let outbox = Arc::clone(&shared.outbox);
        // Asked for also when the context is broken: the client then gets rid of what it holds for this copy.
        shared.when_reached(stream, move |_| send(&outbox, |out| Pull { copy }.append(out, 0)));
        shared.wait_at_gate(gate, stream)
    }

    fn vgpuLandDtoH(&self, copy: u64, src: CUdeviceptr, bytes: u64, stream: CUstream) -> CuResult<()> {
        let shared = &self.shared;
        let (host, range) = self.direct_ends(copy, src, bytes);
        if let (Some(to), Some(from)) = (host, range) {
            let gate = shared.new_gate()?;
            let (landings, outbox) = (self.landings.clone(), Arc::clone(&shared.outbox));
            shared.when_reached(stream, move |result| {
                if result.is_err() || landings.send(Job::Write { copy, from, to, gate }).is_err() {
                    send(&outbox, |out| Landed { copy, bytes: 0, last: true }.append(out, 0));
                }
            });
            return shared.wait_at_gate(gate, stream);
        }
        let slot = usize::try_from(bytes).ok().filter(|bytes| *bytes <= shared.download.slot_bytes());
        if let Some((bytes, slot)) = slot.and_then(|bytes| Some((bytes, shared.download.try_take()?))) {
            let part = Part { copy, offset: 0, last: true, host };
            return shared.land_through(slot, bytes, part, src, stream);
        }
        let gate = shared.new_gate()?;
        let landings = self.landings.clone();
        shared.when_reached(stream, move |_| {
            // Fails only when the lander has ended with the session.
            let _ = landings.send(Job::Land { copy, src, bytes, gate, host });
        });
        shared.wait_at_gate(gate, stream)
    }

    fn vgpuHostFunction(&self, gate: u64, stream: CUstream) -> CuResult<()> {
        let outbox = Arc::clone(&self.shared.outbox);
        self.shared.when_reached(stream, move |result| {
            send(&outbox, |out| RunHostFunction { gate, error: code(result) }.append(out, 0));
        });
        self.wait_at(gate, stream)
    }

    fn vgpuGateWait(&self, gate: u64, stream: CUstream) -> CuResult<()> {
        self.wait_at(gate, stream)
    }

    fn vgpuAnnounceEvent(&self, notice: u64, event: CUevent) -> CuResult<()> {
        let shared = &self.shared;
        let pooled = shared.lock().notice_streams.pop();
        let stream = match pooled {
            Some(stream) => stream,
            None => shared.device.helper_stream()?,
        };
        let waited = shared.device.cuStreamWaitEvent(stream, event, 0);
        let own = Arc::clone(shared);
        shared.when_reached(stream, move |result| {
            own.lock().notice_streams.push(stream);
            let error = code(waited.and(result));
            send(&own.outbox, |out| Notice { notice, error }.append(out, 0));
        });
        Ok(())
    }

    fn vgpuAnnounceStream(&self, notice: u64, stream: CUstream) -> CuResult<()> {
        let outbox = Arc::clone(&self.shared.outbox);
        self.shared.when_reached(stream, move |result| {
            send(&outbox, |out| Notice { notice, error: code(result) }.append(out, 0));
        });
        Ok(())
    }
}

impl Shared {
    /// Copies `bytes` into a slot in stream order and sends them on when they are there.
    fn land_through(
        self: &Arc<Self>,
        slot: HostSpan,
        bytes: usize,
        part: Part,
        src: CUdeviceptr,
        stream: CUstream,
    ) -> CuResult<()> {
        let span = slot.slice(0, bytes).expect("callers pass at most a slot's length");
        let copied = self.device.cuMemcpyDtoHAsync_v2(span, src, stream);
        let own = Arc::clone(self);
        self.when_reached(stream, move |result| {
            // After an error no bytes are sent: those on the client stay as they were, the error tells why.
            let bulk = if copied.and(result).is_ok() { span } else { span.slice(0, 0).expect("empty") };
            own.outbox.push(own.landing_message(slot, bulk, part));
        });
        copied
    }

    /// The message that brings the bytes of a slot to the client; the slot is free when it has.
    fn landing_message(&self, slot: HostSpan, bulk: HostSpan, part: Part) -> Message {
        let Part { copy, offset, last, host } = part;
        let slots = Arc::clone(&self.download);
        let free = Box::new(move || slots.give(slot));
        let mut frame = Vec::new();
        let bytes = bulk.len() as u64;
        match (&self.direct, host.and_then(|host| host.offset(offset))) {
            (None, _) => {
                let length = u32::try_from(bulk.len()).expect("slots are far below the bulk limit");
                Landing { copy, offset, last }.append(&mut frame, length);
                Message::with_bulk(frame, bulk, free)
            }
            (Some(direct), Some(to)) => {
                Landed { copy, bytes, last }.append(&mut frame, 0);
                Message::behind_write(frame, direct.slot(slot, bulk.len()).0, to, Some(free))
            }
            (Some(direct), None) => {
                let (from, at) = direct.slot(slot, bulk.len());
                LandedAt { copy, offset, bytes, at, last }.append(&mut frame, 0);
                self.lock().lent_slots.insert(at);
                // The client says when it has emptied its place, and then ours is free as well.
                Message::behind_write(frame, from, direct.landing(at), None)
            }
        }
    }
}

/// Moves large device-to-host copies slot by slot, on a thread of its own.
pub(crate) struct Lander {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
}

impl Lander {
    /// Runs until the session's `Transfers` is gone.
    pub(crate) fn run(self) {
        for job in self.jobs {
            self.shared.work_off(job);
        }
    }
}

impl Shared {
    fn work_off(self: &Arc<Self>, job: Job) {
        match job {
            Job::Land { copy, src, bytes, gate, host } => self.land(copy, src, bytes, gate, host),
            Job::Write { copy, from, to, gate } => {
                let local = from.local;
                let landed = move |succeeded| Landed {
                    copy,
                    bytes: if succeeded { local.len() } else { 0 },
                    last: true,
                };
                let done =
                    self.when_moved(from, gate, move |succeeded, out| landed(succeeded).append(out, 0));
                self.direct.as_ref().map(|direct| direct.access().write(local, to, Some(done)));
            }
            Job::Read { copy, into, from, gate } => {
                let local = into.local;
                let done = self.when_moved(into, gate, move |_, out| PullDone { copy }.append(out, 0));
                self.direct.as_ref().map(|direct| direct.access().read(local, from, Some(done)));
            }
        }
    }

    /// What to do when the network has moved bytes: tell the client, let the stream go on. A transfer that fails has lost
    /// the link, and the session ends.
    fn when_moved(
        &self,
        held: DeviceRange,
        gate: u64,
        message: impl FnOnce(bool, &mut Vec<u8>) + Send + 'static,
    ) -> transport::direct::Done {
        let (device, outbox) = (Arc::clone(&self.device), Arc::clone(&self.outbox));
        Box::new(move |succeeded| {
            send(&outbox, |out| message(succeeded, out));
            // A gate that cannot be opened belongs to a context that is gone.
            let _ = device.gate_open(gate);
            drop(held);
        })
    }

    fn land(
        self: &Arc<Self>,
        copy: u64,
        src: CUdeviceptr,
        bytes: u64,
        gate: u64,
        host: Option<RemoteAddress>,
    ) {
        let mut offset = 0;
        while offset < bytes {
            let now = (bytes - offset).min(self.download.slot_bytes() as u64);
            let slot = self.download.take();
            let length = usize::try_from(now).expect("at most a slot");
            let part = Part { copy, offset, last: offset + now == bytes, host };
            let src = CUdeviceptr(src.0 + offset);
            // A failure has broken the context; the messages go out all the same, so that the client is not left waiting.
            let _ = self.land_through(slot, length, part, src, self.land_stream);
            offset += now;
        }
        let device = Arc::clone(&self.device);
        self.when_reached(self.land_stream, move |_| {
            let _ = device.gate_open(gate);
        });
    }
}

/// Which part of which copy a slot holds, and the client memory that the copy goes to, if the network reaches it.
#[derive(Clone, Copy)]
struct Part {
    copy: u64,
    offset: u64,
    last: bool,
    host: Option<RemoteAddress>,
}
