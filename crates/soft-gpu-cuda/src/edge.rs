//! The devices, and what this library must remember beside them: contexts, module facts, mappings, allocations.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cuda_types::{CUfunction, CUmodule, CuError, CuResult};
use proto::{Device, DeviceFacts, FunctionFacts, ModuleFacts};
use window::Window;

use crate::gates::Gates;

/// Everything of one process.
#[derive(Default)]
pub(crate) struct Edge {
    devices: Vec<OnceLock<CuResult<Arc<Opened>>>>,
}

/// A device in use.
pub(crate) struct Opened {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) facts: DeviceFacts,
    pub(crate) books: Mutex<Books>,
    pub(crate) gates: Gates,
}

/// What a driver knows about what it handed out.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) modules: HashMap<u64, Module>,
    pub(crate) functions: HashMap<u64, Function>,
    /// Links under way: the images so far.
    pub(crate) links: HashMap<u64, Vec<Vec<u8>>>,
    /// Pinned host memory: start -> bytes.
    pub(crate) pinned: BTreeMap<usize, usize>,
    /// Pinned memory that was given back, to be handed out again: devices never free theirs.
    pub(crate) idle_pinned: Vec<(usize, usize)>,
    /// Where `cuMemAlloc` takes addresses from.
    pub(crate) window: Option<Window>,
    next: u64,
}

pub(crate) struct Module {
    pub(crate) facts: ModuleFacts,
    /// Functions that were asked for, by name.
    pub(crate) functions: HashMap<String, CUfunction>,
}

pub(crate) struct Function {
    pub(crate) facts: FunctionFacts,
    /// The name as C wants it, at an address that stays.
    pub(crate) name: &'static CString,
    pub(crate) module: CUmodule,
}

impl Books {
    /// A number that was not handed out yet.
    pub(crate) fn new_handle(&mut self) -> u64 {
        self.next += 1;
        HANDLE_BASE + self.next
    }

    /// Whether a whole range of host memory is pinned.
    pub(crate) fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        let before = self.pinned.range(..=address).next_back();
        before.is_some_and(|(start, length)| address - start + bytes <= *length)
    }
}

static EDGE: OnceLock<Edge> = OnceLock::new();

thread_local! {
    /// The context that is current in this thread: 0, or device + `CONTEXT_BASE`.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// The process's devices, after `cuInit`.
pub(crate) fn edge() -> CuResult<&'static Edge> {
    EDGE.get().ok_or(CuError::NOT_INITIALIZED)
}

/// The device of this thread's current context.
pub(crate) fn current() -> CuResult<Arc<Opened>> {
    edge()?.in_context(CURRENT.get())
}

/// The current context's handle.
pub(crate) fn current_context() -> u64 {
    CURRENT.get()
}

/// Makes a context current in this thread; 0 makes none.
pub(crate) fn set_current(context: u64) -> CuResult<()> {
    if context != 0 {
        edge()?.in_context(context)?;
    }
    CURRENT.set(context);
    Ok(())
}

/// The device behind a number of the caller, as its place.
pub(crate) fn ordinal(device: i32) -> CuResult<usize> {
    let ordinal = usize::try_from(device).map_err(|_| CuError::INVALID_DEVICE)?;
    if ordinal < edge()?.devices.len() { Ok(ordinal) } else { Err(CuError::INVALID_DEVICE) }
}

/// The handle of a device's only context.
pub(crate) fn context_of(ordinal: usize) -> u64 {
    CONTEXT_BASE + ordinal as u64
}

/// The ordinal of a context.
pub(crate) fn ordinal_of(context: u64) -> CuResult<usize> {
    let ordinal = context.checked_sub(CONTEXT_BASE).and_then(|ordinal| usize::try_from(ordinal).ok());
    ordinal
        .filter(|ordinal| edge().is_ok_and(|edge| *ordinal < edge.devices.len()))
        .ok_or(CuError::INVALID_CONTEXT)
}

impl Edge {
    /// Sets up the process; later calls change nothing.
    pub(crate) fn init() {
        EDGE.get_or_init(|| {
            let count = std::env::var("VGPU_SOFT_DEVICES").ok().and_then(|text| text.parse().ok());
            let count = count.unwrap_or(DEFAULT_DEVICES).clamp(1, MOST_DEVICES);
            Edge { devices: (0..count).map(|_| OnceLock::new()).collect() }
        });
    }

    pub(crate) fn count(&self) -> usize {
        self.devices.len()
    }

    /// A device, opened when it is first asked for.
    pub(crate) fn device(&self, ordinal: usize) -> CuResult<Arc<Opened>> {
        let place = self.devices.get(ordinal).ok_or(CuError::INVALID_DEVICE)?;
        place.get_or_init(|| Opened::new(ordinal).map(Arc::new)).clone()
    }

    fn in_context(&self, context: u64) -> CuResult<Arc<Opened>> {
        self.device(ordinal_of(context)?)
    }
}

impl Opened {
    fn new(ordinal: usize) -> CuResult<Self> {
        let device = crate::device::open(u32::try_from(ordinal).map_err(|_| CuError::INVALID_DEVICE)?)?;
        let facts = device.facts()?;
        let gates = Gates::new(Arc::clone(&device));
        Ok(Self { device, facts, books: Mutex::default(), gates })
    }

    /// Locks the books; a thread that died left whole entries.
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what kernels have printed to standard output. A synchronizing call ends with this.
    pub(crate) fn print(&self) {
        let printed = self.device.take_printed();
        if !printed.is_empty() {
            let mut output = std::io::stdout().lock();
            // Nobody can be told that standard output is closed.
            let _ = output.write_all(&printed).and_then(|()| output.flush());
        }
    }
}

const DEFAULT_DEVICES: usize = 2;
const MOST_DEVICES: usize = 64;
/// Handles are recognizable in a debugger, and never small.
const CONTEXT_BASE: u64 = 0xC0_0000;
const HANDLE_BASE: u64 = 0xA0_0000;
