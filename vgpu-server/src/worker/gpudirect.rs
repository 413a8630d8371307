//! GPUDirect RDMA: the network adapter reads and writes device memory itself.
//!
//! Memory is registered piece by piece (chunks of an NVIDIA GPU, allocations of the software GPU), when a copy first
//! touches the piece. Before any of it is trusted, a checked
//! transfer goes from the device to the client's landing memory and back: an adapter and a GPU that cannot reach each
//! other may also fail silently.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cuda_types::{CUdeviceptr, CUstream, CuError};
use proto::Device;
use proto::device::{NetworkMemory, NetworkUnit};
use proto::handshake::{Begin, Place};
use transport::Link;
use transport::direct::{DeviceMemory, DirectAccess, LocalRange, Registered, RemoteAddress};

/// What the user wants of GPUDirect RDMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Policy {
    /// Where a checked transfer succeeds.
    #[default]
    Auto,
    /// A client whose device memory cannot be reached is refused.
    On,
    /// Always through staging.
    Off,
}

/// The client's pieces of device memory and their registrations.
pub(super) struct GpuDirect {
    device: Arc<dyn Device>,
    link: Arc<dyn Link>,
    pieces: Mutex<BTreeMap<u64, Piece>>,
}

struct Piece {
    bytes: u64,
    /// Known after the first use; `None` in it if the adapter does not take the piece.
    registered: Option<Option<Arc<Registered>>>,
}

/// A registered range of device memory; the registration lasts as long as this value.
pub(super) struct DeviceRange {
    pub(super) local: LocalRange,
    _registered: Arc<Registered>,
}

/// Length of the checked transfer, and the unit of mapping.
const PROBE_BYTES: u64 = 64 * 1024;
const CHUNK_BYTES: u64 = 2 * 1024 * 1024;

impl GpuDirect {
    /// Checks that it works, by `policy`. `Err` if it must and does not.
    pub(super) fn start(
        policy: Policy,
        device: &Arc<dyn Device>,
        link: &Arc<dyn Link>,
        begin: &Begin,
        landing: Place,
    ) -> Result<Option<GpuDirect>, CuError> {
        if policy == Policy::Off {
            return Ok(None);
        }
        let direct =
            GpuDirect { device: Arc::clone(device), link: Arc::clone(link), pieces: Mutex::default() };
        match direct.probe(begin, landing) {
            Ok(()) => {
                tracing::info!("GPUDirect RDMA: device memory is reached by the network (checked)");
                Ok(Some(direct))
            }
            Err(reason) => {
                tracing::info!("GPUDirect RDMA is not used: {reason}");
                if policy == Policy::On { Err(CuError::NOT_SUPPORTED) } else { Ok(None) }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Piece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn access(&self) -> &dyn DirectAccess {
        self.link.direct().expect("made only of a link that has it")
    }

    /// A transfer to the client and back through the last chunk of the window, which nothing uses yet.
    fn probe(&self, begin: &Begin, landing: Place) -> Result<(), String> {
        let base = (begin.window_base + begin.window_bytes)
            .checked_sub(CHUNK_BYTES)
            .ok_or("the window is smaller than a chunk")?;
        let failed = |doing: &'static str| move |error: CuError| format!("{doing}: {error}");
        self.device.vgpuMemMap(base, CHUNK_BYTES).map_err(failed("mapping device memory"))?;
        let checked = self.check(base, landing);
        self.device.vgpuMemUnmap(base, CHUNK_BYTES).map_err(failed("unmapping device memory"))?;
        checked
    }

    fn check(&self, base: u64, landing: Place) -> Result<(), String> {
        let bytes = PROBE_BYTES.min(landing.bytes);
        let pattern: Vec<u8> = (0..bytes).map(|i| (i * 37 + i / 251 + 11).to_le_bytes()[0]).collect();
        let failed = |error: CuError| format!("copying on the device: {error}");
        let (there, back) = (CUdeviceptr(base), CUdeviceptr(base + CHUNK_BYTES / 2));
        self.device.cuMemAlloc_v2(there, CHUNK_BYTES).map_err(failed)?;
        self.begins(base, CHUNK_BYTES);
        let outcome = (|| {
            self.device.cuMemcpyHtoD_v2(there, &pattern, CUstream::NULL).map_err(failed)?;
            self.device.cuMemsetD8Async(back, 0, bytes, CUstream::NULL).map_err(failed)?;
            self.device.cuCtxSynchronize().map_err(failed)?;
            let peer = RemoteAddress { address: landing.address, key: landing.key };
            let range = |at| self.range(at, bytes).ok_or("the adapter does not take device memory");
            let (from, into) = (range(there.0)?, range(back.0)?);
            self.wait("writing from device memory", |done| {
                self.access().write(from.local, peer, Some(done)).map(drop)
            })?;
            self.wait("reading into device memory", |done| {
                self.access().read(into.local, peer, Some(done)).map(drop)
            })?;
            let found = self.device.cuMemcpyDtoH_v2(back, bytes, CUstream::NULL).map_err(failed)?;
            if found == pattern { Ok(()) } else { Err("other bytes came back than were sent".to_owned()) }
        })();
        self.ends(base);
        self.device.cuMemFree_v2(there).map_err(failed)?;
        outcome
    }

    /// Posts a transfer and waits until it is over.
    fn wait(
        &self,
        doing: &str,
        post: impl FnOnce(transport::direct::Done) -> Result<(), transport::LinkError>,
    ) -> Result<(), String> {
        let (sender, over) = channel();
        // Nobody listens any more only after the time below.
        let done = Box::new(move |succeeded| sender.send(succeeded).unwrap_or_default());
        post(done).map_err(|error| format!("{doing}: {error}"))?;
        self.access().wait_for(self.access().last_ticket()).map_err(|error| format!("{doing}: {error}"))?;
        match over.recv_timeout(Duration::from_secs(10)) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(format!("{doing} failed")),
        }
    }

    /// Follows a call that the client makes: before it is made (`done` is false) what it ends is forgotten, afterwards what
    /// it has begun is known. Transfers under way keep their registration until they are over.
    pub(super) fn follow(&self, opcode: u16, arguments: &[u8], done: bool) {
        /// `vgpuMemMap`, `vgpuMemUnmap`, `cuMemAlloc_v2`, `cuMemFree_v2`.
        const CALLS: [u16; 4] = [0x0301, 0x0302, 0x0303, 0x0304];
        let [map, unmap, alloc, free] = CALLS;
        let (begin, end) = match self.device.network_unit() {
            NetworkUnit::Chunk => (map, unmap),
            NetworkUnit::Allocation => (alloc, free),
        };
        // What cannot be read is refused by the call itself.
        let word = |at: usize| Some(u64::from_le_bytes(*arguments.get(at..)?.first_chunk()?));
        match (word(0), word(8)) {
            (Some(base), Some(bytes)) if opcode == begin && done => self.begins(base, bytes),
            (Some(base), _) if opcode == end && !done => self.ends(base),
            _ => {}
        }
    }

    /// Learns of memory that was mapped before any call.
    pub(super) fn mapped(&self, base: u64, bytes: u64) {
        if self.device.network_unit() == NetworkUnit::Chunk {
            self.begins(base, bytes);
        }
    }

    fn begins(&self, base: u64, bytes: u64) {
        self.lock().insert(base, Piece { bytes, registered: None });
    }

    fn ends(&self, base: u64) {
        self.lock().remove(&base);
    }

    /// Registered device memory, if the adapter takes it.
    pub(super) fn range(&self, address: u64, bytes: u64) -> Option<DeviceRange> {
        let mut pieces = self.lock();
        let (base, piece) = pieces.range_mut(..=address).next_back()?;
        let known = piece.registered.get_or_insert_with(|| self.register(*base, piece.bytes).map(Arc::new));
        let registered = known.clone()?;
        let local = registered.local(address, bytes)?;
        Some(DeviceRange { local, _registered: registered })
    }

    fn register(&self, base: u64, bytes: u64) -> Option<Registered> {
        let refused = |reason: String| {
            tracing::debug!("{bytes} bytes of device memory at {base:#x} are not registered: {reason}");
        };
        let memory =
            self.device.network_memory(base, bytes).map_err(|error| refused(error.to_string())).ok()?;
        let registered = match &memory {
            NetworkMemory::Mapped(span) => {
                self.access().register_device(&DeviceMemory::Mapped { span: *span })
            }
            NetworkMemory::DmaBuf { descriptor, offset } => {
                self.access().register_device(&DeviceMemory::DmaBuf {
                    descriptor: descriptor.as_fd(),
                    offset: *offset,
                    bytes,
                    address: base,
                })
            }
        };
        registered.map_err(|error| refused(error.to_string())).ok()
    }
}
