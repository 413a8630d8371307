//! A device that computes nothing: it keeps order, counts and checks, so that everything around a device can be
//! measured and tested by itself.
//!
//! In *copy* mode it has real memory, and copies cost what a copy costs. In *dma-free* mode copies to the device only
//! sample the staging and copies from the device send whatever lies there, as a copy engine would cost the CPU
//! nothing. Kernels never run: a program that checks its results must fail here.

mod array;
mod memory;
mod module;
mod stream;
mod tally;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cuda_types::attribute::DeviceAttribute;
use cuda_types::{CUdeviceptr, CUfunction, CUstream, CuError, CuResult, Dim3, HostSpan};
use proto::device::Callback;
use proto::{ContextCalls, Device, DeviceFacts, LaunchCalls};

use memory::Physical;
pub use tally::{TALLY, Tally, sample, word_sum};

/// See the module's text.
pub struct NullGpu {
    state: Mutex<State>,
    changed: Condvar,
    dma_free: bool,
}

#[derive(Default)]
struct State {
    next_handle: u64,
    chunks: BTreeMap<u64, Vec<u8>>,
    used: u64,
    /// Physical memory by number; what is mapped has a chunk besides.
    physical: HashMap<u64, Physical>,
    /// Mappings: address -> number.
    mapped: BTreeMap<u64, u64>,
    streams: HashMap<u64, Stream>,
    /// Event -> stream position that its last recording stands for, and when it was recorded.
    events: HashMap<u64, (u64, u64, Instant)>,
    open_gates: HashMap<u64, bool>,
    /// Threads that wait for work to be done.
    waiting: usize,
    tally: Tally,
}

/// Work that waits behind a closed gate.
#[derive(Default)]
struct Stream {
    pending: VecDeque<Work>,
    done: u64,
    given: u64,
    /// Whether a thread is running the stream's work.
    running: bool,
}

enum Work {
    Copy { to: Place, from: Place, bytes: usize },
    Gate(u64),
    Event { stream: u64, position: u64 },
    Callback(Callback),
}

#[derive(Clone, Copy)]
enum Place {
    Device(u64),
    Host(HostSpan),
}

impl NullGpu {
    /// A device with `dma_free` copies or real ones.
    pub fn new(dma_free: bool) -> NullGpu {
        let state = State { next_handle: 0x1000, ..State::default() };
        NullGpu { state: Mutex::new(state), changed: Condvar::new(), dma_free }
    }

    /// What has arrived so far.
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self) -> u64 {
        let mut state = self.lock();
        state.next_handle += 1;
        state.next_handle
    }

    /// Adds work to a stream and runs what can run.
    fn submit(&self, stream: CUstream, work: Work) {
        let stream = stream.0.max(1);
        let mut state = self.lock();
        let queue = state.streams.entry(stream).or_default();
        queue.given += 1;
        queue.pending.push_back(work);
        drop(self.run(state));
    }

    /// Runs work until every stream is empty or waits. Callbacks run without the lock.
    fn run<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while let Some(id) = state.runnable() {
            let queue = state.streams.get_mut(&id).expect("found just now");
            let work = queue.pending.pop_front().expect("runnable");
            match work {
                Work::Callback(callback) => {
                    queue.running = true;
                    drop(state);
                    callback(Ok(()));
                    state = self.lock();
                    state.streams.get_mut(&id).expect("streams in use stay").running = false;
                }
                Work::Copy { to, from, bytes } => state.copy(to, from, bytes, self.dma_free),
                Work::Gate(_) | Work::Event { .. } => {}
            }
            state.streams.get_mut(&id).expect("streams in use stay").done += 1;
            if state.waiting > 0 {
                self.changed.notify_all();
            }
        }
        state
    }

    fn wait_until(&self, done: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        state.waiting += 1;
        while !done(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }
}

impl State {
    /// A stream whose next work can run.
    fn runnable(&self) -> Option<u64> {
        let ready = |stream: &Stream| {
            !stream.running
                && match stream.pending.front() {
                    None => false,
                    Some(Work::Gate(gate)) => self.open_gates.get(gate).copied().unwrap_or(true),
                    Some(Work::Event { stream, position }) => self.reached(*stream, *position),
                    Some(_) => true,
                }
        };
        self.streams.iter().find(|(_, stream)| ready(stream)).map(|(id, _)| *id)
    }

    fn reached(&self, stream: u64, position: u64) -> bool {
        self.streams.get(&stream).is_none_or(|stream| stream.done >= position)
    }

    fn idle(&self) -> bool {
        self.streams.values().all(|stream| stream.done == stream.given)
    }

    fn bytes(&mut self, address: u64, bytes: usize) -> Option<&mut [u8]> {
        let (base, chunk) = self.chunks.range_mut(..=address).next_back()?;
        let from = usize::try_from(address - base).ok()?;
        chunk.get_mut(from..from.checked_add(bytes)?)
    }

    fn copy(&mut self, to: Place, from: Place, bytes: usize, dma_free: bool) {
        match (to, from) {
            (Place::Device(to), Place::Host(from)) => {
                self.tally.bytes_up += bytes as u64;
                if dma_free {
                    self.tally.sampled_sum = self.tally.sampled_sum.wrapping_add(sample(from.read()));
                } else if let Some(target) = self.bytes(to, bytes) {
                    target.copy_from_slice(&from.read()[..bytes]);
                }
            }
            (Place::Host(mut to), Place::Device(from)) => {
                self.tally.bytes_down += bytes as u64;
                if let Some(source) = self.bytes(from, bytes).filter(|_| !dma_free) {
                    to.write()[..bytes].copy_from_slice(source);
                }
            }
            (Place::Device(to), Place::Device(from)) => {
                let source = self.bytes(from, bytes).map(|bytes| bytes.to_vec());
                if let (Some(source), Some(target)) = (source, self.bytes(to, bytes)) {
                    target.copy_from_slice(&source);
                }
            }
            (Place::Host(_), Place::Host(_)) => {}
        }
    }
}

impl ContextCalls for NullGpu {
    fn cuCtxSynchronize(&self) -> CuResult<()> {
        self.wait_until(State::idle);
        Ok(())
    }
    /// No limits, but from [`TALLY`] on what has arrived, for a benchmark on the other side of the link.
    fn cuCtxGetLimit(&self, limit: u32) -> CuResult<u64> {
        let tally = self.tally();
        let fields = [
            tally.launches,
            tally.argument_sum,
            tally.grid_sum,
            tally.bytes_up,
            tally.bytes_down,
            tally.sampled_sum,
        ];
        let index = limit.checked_sub(TALLY).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| fields.get(index).copied()).ok_or(CuError::NOT_SUPPORTED)
    }
    fn cuCtxSetLimit(&self, _: u32, _: u64) -> CuResult<()> {
        Ok(())
    }
}

impl LaunchCalls for NullGpu {
    fn cuLaunchKernel(
        &self,
        _: CUfunction,
        grid: Dim3,
        _: Dim3,
        _: u32,
        _: CUstream,
        arguments: &[u8],
    ) -> CuResult<()> {
        let mut state = self.lock();
        state.tally.launches += 1;
        state.tally.grid_sum += u64::from(grid.x);
        state.tally.argument_sum = state.tally.argument_sum.wrapping_add(word_sum(arguments));
        Ok(())
    }
    fn cuLaunchCooperativeKernel(
        &self,
        func: CUfunction,
        grid: Dim3,
        block: Dim3,
        shared_bytes: u32,
        stream: CUstream,
        arguments: &[u8],
    ) -> CuResult<()> {
        self.cuLaunchKernel(func, grid, block, shared_bytes, stream, arguments)
    }
}

impl Device for NullGpu {
    fn facts(&self) -> CuResult<DeviceFacts> {
        let mut attributes = vec![Some(0); DeviceAttribute::COUNT as usize];
        for (attribute, value) in [
            (DeviceAttribute::MAX_THREADS_PER_BLOCK, 1024),
            (DeviceAttribute::MAX_BLOCK_DIM_X, 1024),
            (DeviceAttribute::MAX_BLOCK_DIM_Y, 1024),
            (DeviceAttribute::MAX_BLOCK_DIM_Z, 64),
            (DeviceAttribute::MAX_GRID_DIM_X, i32::MAX),
            (DeviceAttribute::MAX_GRID_DIM_Y, 65535),
            (DeviceAttribute::MAX_GRID_DIM_Z, 65535),
            (DeviceAttribute::MAX_SHARED_MEMORY_PER_BLOCK, 49152),
            (DeviceAttribute::WARP_SIZE, 32),
            (DeviceAttribute::MULTIPROCESSOR_COUNT, 1),
            (DeviceAttribute::UNIFIED_ADDRESSING, 1),
            (DeviceAttribute::COMPUTE_CAPABILITY_MAJOR, 9),
        ] {
            attributes[usize::try_from(attribute.0).expect("attribute numbers are small")] = Some(value);
        }
        Ok(DeviceFacts {
            name: format!("vgpu null device ({})", if self.dma_free { "dma-free" } else { "copy" }),
            uuid: *b"vgpu null device",
            total_memory: TOTAL_BYTES,
            driver_version: 13000,
            attributes,
            stream_priorities: (0, 0),
        })
    }
    fn reserve_window(&self, _: u64, _: u64) -> CuResult<()> {
        Ok(())
    }
    fn staging(&self, bytes: usize) -> CuResult<HostSpan> {
        Ok(HostSpan::leak(vec![0; bytes]))
    }
    fn cuMemcpyHtoDAsync_v2(&self, dst: CUdeviceptr, src: HostSpan, stream: CUstream) -> CuResult<()> {
        self.submit(
            stream,
            Work::Copy { to: Place::Device(dst.0), from: Place::Host(src), bytes: src.len() },
        );
        Ok(())
    }
    fn cuMemcpyDtoHAsync_v2(&self, dst: HostSpan, src: CUdeviceptr, stream: CUstream) -> CuResult<()> {
        self.submit(
            stream,
            Work::Copy { to: Place::Host(dst), from: Place::Device(src.0), bytes: dst.len() },
        );
        Ok(())
    }
    fn cuStreamAddCallback(&self, stream: CUstream, callback: Callback) -> CuResult<()> {
        self.submit(stream, Work::Callback(callback));
        Ok(())
    }
    fn gate_create(&self) -> CuResult<u64> {
        let gate = self.handle();
        self.lock().open_gates.insert(gate, false);
        Ok(gate)
    }
    fn gate_wait(&self, gate: u64, stream: CUstream) -> CuResult<()> {
        self.submit(stream, Work::Gate(gate));
        Ok(())
    }
    fn gate_open(&self, gate: u64) -> CuResult<()> {
        let mut state = self.lock();
        state.open_gates.insert(gate, true);
        drop(self.run(state));
        Ok(())
    }
    fn gate_destroy(&self, gate: u64) {
        self.lock().open_gates.remove(&gate);
    }
    fn helper_stream(&self) -> CuResult<CUstream> {
        Ok(CUstream(self.handle()))
    }
}

const TOTAL_BYTES: u64 = 4 << 30;
