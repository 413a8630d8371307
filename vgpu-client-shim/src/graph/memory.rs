//! Memory of graphs: what allocation nodes allocate.
//!
//! An allocation node has its address from the moment it is added, in every launch the same. Here the memory is there
//! from that moment too, and goes when neither a graph nor an executable graph refers to it: what a launch "allocates"
//! and a free node, `cudaFree` or `cudaFreeAsync` "frees" is the program's right to use it. That costs memory between
//! launches and no call at all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use client::Session;
use cuda_types::{CUdeviceptr, CuError, CuResult};

use crate::runtime::memory::allocate_on;
use crate::state::Device;

/// The memory of an allocation node.
pub(crate) struct GraphMemory {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    pub(crate) ordinal: usize,
    /// Whose memory it is: a device that was reset gives the same addresses out again.
    session: Weak<Session>,
    /// Allocated by a launch and not freed since.
    live: AtomicBool,
}

/// By address. Memory that outlives its graphs is ordinary memory, and not in here.
static ALL: Mutex<BTreeMap<u64, Weak<GraphMemory>>> = Mutex::new(BTreeMap::new());

impl GraphMemory {
    /// Memory for a node on `device`.
    pub(crate) fn new(device: &Device, bytes: usize) -> CuResult<Arc<GraphMemory>> {
        if bytes == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let address = allocate_on(device, bytes)?;
        let session = Arc::downgrade(&device.session()?);
        let live = AtomicBool::new(false);
        let memory = Arc::new(GraphMemory { address, bytes, ordinal: device.ordinal, session, live });
        all(|all| all.insert(address, Arc::downgrade(&memory)));
        Ok(memory)
    }

    /// The memory that starts at an address.
    pub(crate) fn find(address: u64) -> Option<Arc<GraphMemory>> {
        all(|all| all.get(&address).and_then(Weak::upgrade))
    }

    /// The program may use it from here on.
    pub(crate) fn allocate(&self) {
        self.live.store(true, Ordering::Release);
    }

    /// The program is done with it; `INVALID_VALUE` if it is not allocated.
    pub(crate) fn free(&self) -> CuResult<()> {
        if self.live.swap(false, Ordering::AcqRel) { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }

    /// Whether a launch has allocated it and nothing has freed it since.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        // An entry that still leads somewhere is another's: this one leads nowhere by now.
        all(|all| {
            if all.get(&self.address).is_some_and(|known| known.strong_count() == 0) {
                all.remove(&self.address);
            }
        });
        // CUDA Programming Guide, "Graph Memory Nodes": what a launch has allocated outlives the graph until it is freed.
        if let Some(session) = self.session.upgrade().filter(|_| !self.is_live()) {
            // With its session the memory is gone as well.
            let _ = session.cuMemFree(CUdeviceptr(self.address));
        }
    }
}

/// The device was reset: its memory is gone, whoever still refers to it.
pub(crate) fn forget_device(ordinal: usize) {
    // Dropped outside the lock, which dropping takes.
    let mut seen = Vec::new();
    all(|all| {
        all.retain(|_, memory| {
            let Some(memory) = memory.upgrade() else { return false };
            let keep = memory.ordinal != ordinal;
            seen.push(memory);
            keep
        });
    });
    drop(seen);
}

/// `cudaFree` and `cudaFreeAsync`: `None` if the address is not memory of a graph.
pub(crate) fn free(address: u64) -> Option<CuResult<()>> {
    GraphMemory::find(address).map(|memory| memory.free())
}

/// Bytes of a device that launches have allocated, and bytes that are held for that.
pub(crate) fn usage(ordinal: usize) -> (u64, u64) {
    let memory: Vec<_> = all(|all| all.values().filter_map(Weak::upgrade).collect());
    memory.iter().filter(|memory| memory.ordinal == ordinal).fold((0, 0), |(used, reserved), memory| {
        let bytes = memory.bytes as u64;
        (used + if memory.is_live() { bytes } else { 0 }, reserved + bytes)
    })
}

fn all<T>(look: impl FnOnce(&mut BTreeMap<u64, Weak<GraphMemory>>) -> T) -> T {
    look(&mut ALL.lock().unwrap_or_else(PoisonError::into_inner))
}
