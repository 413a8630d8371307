//! Streams that wait for a word of host memory (`cuStreamWaitValue32`).
//!
//! The device knows gates; somebody must open them when the caller writes the word. That is one thread per device,
//! which looks at the words of all closed gates while there are any, and sleeps otherwise.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cuda_types::wait_value::WaitCondition;
use cuda_types::{CUstream, CuError, CuResult};
use proto::Device;

/// The words that streams of one device wait for.
pub(crate) struct Gates {
    device: Arc<dyn Device>,
    shared: Arc<Shared>,
    watcher: OnceLock<()>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Vec<Waiting>>,
    added: Condvar,
}

struct Waiting {
    /// The address of a word of pinned memory.
    word: usize,
    condition: WaitCondition,
    value: u32,
    gate: u64,
}

impl Gates {
    pub(crate) fn new(device: Arc<dyn Device>) -> Self {
        Self { device, shared: Arc::default(), watcher: OnceLock::new() }
    }

    /// Makes later work of the stream wait until the pinned word at `word` has the value. The caller has made sure that
    /// the word is pinned, and pinned memory is never unmapped.
    pub(crate) fn wait(&self, stream: CUstream, word: usize, value: u32, flags: u32) -> CuResult<()> {
        let condition = WaitCondition::of_flags(flags)?;
        if !word.is_multiple_of(align_of::<AtomicU32>()) {
            return Err(CuError::INVALID_VALUE);
        }
        let gate = self.device.gate_create()?;
        self.device.gate_wait(gate, stream)?;
        self.watcher.get_or_init(|| {
            let (device, shared) = (Arc::clone(&self.device), Arc::clone(&self.shared));
            std::thread::spawn(move || watch(&*device, &shared));
        });
        self.shared.lock().push(Waiting { word, condition, value, gate });
        self.shared.added.notify_one();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_over(&self) -> bool {
        // SAFETY: `Gates::wait` was given an aligned word of pinned memory, which is never unmapped; the caller writes
        // it as a device would read it, in one piece.
        let word = unsafe { AtomicU32::from_ptr(std::ptr::with_exposed_provenance_mut(self.word)) };
        let now = word.load(Ordering::Acquire);
        self.condition.is_met_32(now, self.value)
    }
}

fn watch(device: &dyn Device, shared: &Shared) {
    loop {
        let mut waiting = shared.lock();
        while waiting.is_empty() {
            waiting = shared.added.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let (over, closed) = std::mem::take(&mut *waiting).into_iter().partition(Waiting::is_over);
        *waiting = closed;
        drop(waiting);
        for gate in over {
            // The stream of a context that broke waits for nothing any more.
            let _ = device.gate_open(gate.gate);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Short against a copy of a staging chunk, long against looking.
const LOOK_EVERY: Duration = Duration::from_micros(50);
