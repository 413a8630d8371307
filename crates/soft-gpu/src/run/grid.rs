//! A launch: its blocks, the CPU threads that run them, and how it ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cuda_types::{CuError, Dim3};

use crate::jit::compiler::{CompiledKernel, Limits, Lowering};
use crate::jit::context::{Job, Request, ThreadContext};
use crate::jit::texture::TextureWords;
use crate::texture::object::Objects;

use super::arena::Arena;
use super::block::{Block, Turn};
use super::trap;

/// Blocks that one CPU thread keeps at once when they wait for each other.
const RESIDENT_BLOCKS: usize = 64;
/// Stacks that a grid has at once, unless all of it must be resident: each takes two of the process's memory maps, of
/// which Linux allows 65,530.
const RESIDENT_STACKS: usize = 16 * 1024;
/// Grids with fewer threads than this are not worth a second CPU thread.
const WORTH_SHARING: u128 = 16 * 1024;
/// A thread's stack: half for the frames of its kernel, where they fit, and half for what the code calls.
const STACK_BYTES: usize = 64 * 1024;
/// How long the watchdog waits before it interrupts again.
const AGAIN: Duration = Duration::from_millis(10);

/// What a running grid's threads share.
pub(crate) struct Grid {
    pub(crate) limits: Limits,
    pub(crate) arena: Arc<Arena>,
    kernel: Arc<CompiledKernel>,
    grid: Dim3,
    block: Dim3,
    shared_bytes: u32,
    dynamic_shared_bytes: u32,
    local_bytes: u64,
    stack_bytes: usize,
    heap_bytes: u64,
    /// Parameters as the code reads them, in words for their alignment.
    params: Vec<u128>,
    params_bytes: u64,
    workspace: u64,
    /// CPU threads that run it.
    workers: usize,
    next: AtomicU64,
    fault: AtomicU32,
    /// Which thread brought the fault, as far as it is known.
    culprit: Mutex<Option<Culprit>>,
    print: Print,
    exact: Exact,
    abort: Abort,
    objects: Arc<Objects>,
    /// The CPU threads at work, for the watchdog.
    at_work: Mutex<Vec<trap::Interruptible>>,
}

/// How a grid failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) error: CuError,
    pub(crate) culprit: Option<Culprit>,
}

impl Fault {
    fn of(error: CuError) -> Fault {
        Fault { error, culprit: None }
    }
}

/// The thread that brought a grid down, or at least its block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Culprit {
    block: [u64; 3],
    thread: Option<[u64; 3]>,
    /// Of the PTX; 0 if it is not known.
    line: u32,
}

impl std::fmt::Display for Culprit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {:?}", self.block)?;
        self.thread.map_or(Ok(()), |thread| write!(f, ", thread {thread:?}"))?;
        if self.line == 0 { Ok(()) } else { write!(f, ", line {} of the PTX", self.line) }
    }
}

/// Where kernels print to, for as long as `Grid::run` has not returned.
struct Print(*const (dyn Fn(&[u8]) + Sync));
/// Whether bytes belong to something, likewise.
struct Exact(*const (dyn Fn(u64, u64) -> bool + Sync));
/// The flag that ends the grid, likewise.
struct Abort(*const AtomicBool);

// SAFETY: both point to things that any thread may use, and that outlive the grid: `Grid::run` borrows them.
unsafe impl Send for Print {}
// SAFETY: as above.
unsafe impl Sync for Print {}
// SAFETY: as above.
unsafe impl Send for Exact {}
// SAFETY: as above.
unsafe impl Sync for Exact {}
// SAFETY: as above.
unsafe impl Send for Abort {}
// SAFETY: as above.
unsafe impl Sync for Abort {}

/// Everything that a launch says.
pub(crate) struct LaunchRequest<'a> {
    pub(crate) kernel: Arc<CompiledKernel>,
    pub(crate) limits: Limits,
    pub(crate) arena: Arc<Arena>,
    pub(crate) grid: Dim3,
    pub(crate) block: Dim3,
    pub(crate) dynamic_shared_bytes: u32,
    pub(crate) cooperative: bool,
    /// Packed as the kernel's parameter layout says.
    pub(crate) params: &'a [u8],
    pub(crate) print: &'a (dyn Fn(&[u8]) + Sync),
    pub(crate) exact: &'a (dyn Fn(u64, u64) -> bool + Sync),
    pub(crate) abort: &'a AtomicBool,
    /// See [`RunContext`](crate::device::engine::RunContext).
    pub(crate) timeout: Option<Duration>,
    pub(crate) threads: usize,
    pub(crate) stack_limit: u64,
    pub(crate) heap_bytes: u64,
    pub(crate) objects: Arc<Objects>,
}

/// Shared and local memory of one block.
pub(super) struct BlockMemory {
    shared: Vec<u128>,
    local: Vec<u128>,
    /// What threads that run in regions keep between two points.
    records: Vec<u128>,
}

impl BlockMemory {
    /// As a new block finds it.
    pub(super) fn clear(&mut self) {
        self.shared.fill(0);
    }
}

fn words(bytes: u64) -> Vec<u128> {
    vec![0; usize::try_from(bytes.div_ceil(16)).unwrap_or(0)]
}

impl Grid {
    /// Runs a grid to its end, on this thread and others.
    ///
    /// A grid that ends with a fault also says where it happened.
    pub(crate) fn run(request: LaunchRequest<'_>) -> Result<(), Fault> {
        let kernel = &request.kernel;
        let shared_bytes = kernel.static_shared_bytes.saturating_add(request.dynamic_shared_bytes);
        // Each frame of a recursion takes some of the host's stack and of the local arena.
        let depth = if kernel.recursive { (request.stack_limit / 64).clamp(64, 16 * 1024) } else { 1 };
        let spare = if kernel.recursive {
            usize::try_from(depth * 512).unwrap_or(STACK_BYTES).max(4 * STACK_BYTES)
        } else {
            STACK_BYTES
        };
        // Long straight code keeps many values at once: unrolled tensor kernels have frames beyond 64 KiB.
        let stack_bytes = spare
            .saturating_add(kernel.frame_bytes.saturating_sub(STACK_BYTES / 2).next_multiple_of(STACK_BYTES));
        let mut params = words(request.params.len() as u64);
        for (word, bytes) in params.iter_mut().zip(request.params.chunks(16)) {
            let mut whole = [0; 16];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u128::from_le_bytes(whole);
        }
        let workspace = match request.cooperative {
            true => request.arena.allocate(256).ok_or(Fault::of(CuError::LAUNCH_OUT_OF_RESOURCES))?,
            false => 0,
        };
        let blocks = request.grid.count();
        let worth = if blocks * request.block.count() < WORTH_SHARING { 1 } else { request.threads };
        let threads = usize::try_from(blocks).unwrap_or(usize::MAX).min(worth).max(1);
        // SAFETY: only the lifetime changes; `run` returns after every thread that uses the reference is done.
        let print: &'static (dyn Fn(&[u8]) + Sync) = unsafe { std::mem::transmute(request.print) };
        // SAFETY: likewise.
        let exact: &'static (dyn Fn(u64, u64) -> bool + Sync) = unsafe { std::mem::transmute(request.exact) };
        let grid = Grid {
            limits: request.limits,
            arena: Arc::clone(&request.arena),
            local_bytes: kernel.local_bytes * depth,
            kernel: Arc::clone(kernel),
            grid: request.grid,
            block: request.block,
            shared_bytes,
            dynamic_shared_bytes: request.dynamic_shared_bytes,
            stack_bytes,
            heap_bytes: request.heap_bytes,
            params,
            params_bytes: request.params.len() as u64,
            workspace,
            workers: threads,
            next: AtomicU64::new(0),
            fault: AtomicU32::new(0),
            culprit: Mutex::default(),
            print: Print(std::ptr::from_ref(print)),
            exact: Exact(std::ptr::from_ref(exact)),
            abort: Abort(std::ptr::from_ref(request.abort)),
            objects: request.objects,
            at_work: Mutex::default(),
        };
        let (done, ended) = channel::<()>();
        std::thread::scope(|scope| {
            if let Some(timeout) = request.timeout {
                let watchdog = std::thread::Builder::new().name("vgpu-watchdog".into());
                let grid = &grid;
                // Without it the kernel may run as long as it wants, as without a limit.
                let _ = watchdog.spawn_scoped(scope, move || grid.watch(timeout, &ended));
            }
            let mut helpers = Vec::new();
            for _ in 1..threads {
                let helper = std::thread::Builder::new().name("vgpu-grid".into());
                // Without it the others do its blocks.
                helpers.extend(helper.spawn_scoped(scope, || grid.work(request.cooperative)));
            }
            grid.work(request.cooperative);
            for helper in helpers {
                // Nothing in it panics; if something did, its blocks are missing.
                if helper.join().is_err() {
                    grid.fail(CuError::LAUNCH_FAILED.0);
                }
            }
            // Ends the watchdog, now that nobody is left to interrupt.
            drop(done);
        });
        if workspace != 0 {
            grid.arena.free(workspace);
        }
        match grid.fault.load(Ordering::Acquire) {
            0 => Ok(()),
            code => {
                let culprit = grid.culprit.into_inner().unwrap_or_else(PoisonError::into_inner);
                Err(Fault { error: CuError(code), culprit })
            }
        }
    }

    /// Ends the grid if it takes longer than `timeout`: what waits sees it by the fault, what computes is interrupted.
    fn watch(&self, timeout: Duration, ended: &Receiver<()>) {
        if !matches!(ended.recv_timeout(timeout), Err(RecvTimeoutError::Timeout)) {
            return;
        }
        self.fail(CuError::LAUNCH_TIMEOUT.0);
        // A thread that is in one of our functions when it is interrupted goes on; it will be in the kernel's code again.
        while matches!(ended.recv_timeout(AGAIN), Err(RecvTimeoutError::Timeout)) {
            let at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
            at_work.iter().for_each(trap::Interruptible::interrupt);
        }
    }

    fn over(&self) -> bool {
        // SAFETY: the flag outlives the grid, see `Abort`.
        let aborted = unsafe { (*self.abort.0).load(Ordering::Relaxed) };
        if aborted {
            self.fail(CuError::LAUNCH_FAILED.0);
        }
        self.fault.load(Ordering::Relaxed) != 0
    }

    /// The first fault is the grid's.
    fn fail(&self, code: u32) {
        let _ = self.fault.compare_exchange(0, code, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// A thread ended with a fault. In regions it is not always known which of the block it was.
    pub(super) fn fail_in(&self, code: u32, block: u64, thread: Option<(usize, u32)>) {
        let (grid, shape) = (self.grid, self.block);
        let place = |linear: u64, x: u32, y: u32| {
            let (x, y) = (u64::from(x.max(1)), u64::from(y.max(1)));
            [linear % x, linear / x % y, linear / x / y]
        };
        let culprit = Culprit {
            block: place(block, grid.x, grid.y),
            thread: thread.map(|(thread, _)| place(thread as u64, shape.x, shape.y)),
            line: thread.map_or(0, |(_, line)| line),
        };
        self.culprit.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(culprit);
        self.fail(code);
    }

    fn next_block(&self) -> Option<u64> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (u128::from(index) < self.grid.count()).then_some(index)
    }

    /// One CPU thread's part.
    fn work(&self, cooperative: bool) {
        trap::prepare_thread();
        let own = trap::Interruptible::this_thread();
        let at_work = || self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        at_work().push(own);
        match self.kernel.lowering {
            Lowering::Regions => self.work_in_regions(),
            Lowering::Fibers => self.work_in_fibers(cooperative),
        }
        // Before the thread ends: an identifier of one that is gone must not be interrupted.
        at_work().retain(|thread| *thread != own);
    }

    fn work_in_regions(&self) {
        let mut block = match Block::in_regions(self) {
            Ok(block) => block,
            Err(error) => return self.fail(error.0),
        };
        // Nothing in a region waits for another block, so several can be taken at once.
        let blocks = u64::try_from(self.grid.count()).unwrap_or(u64::MAX);
        let several = (blocks / self.workers as u64 / 64).clamp(1, 16);
        loop {
            let first = self.next.fetch_add(several, Ordering::Relaxed);
            for index in first..first.saturating_add(several).min(blocks) {
                if self.over() {
                    return;
                }
                match block.run(self, index) {
                    Turn::Finished => {}
                    Turn::Fault(code) => return self.fail_in(code, index, block.place().1),
                    // Regions do not spin.
                    Turn::Spinning => return self.fail(CuError::LAUNCH_FAILED.0),
                }
            }
            if first >= blocks {
                return;
            }
        }
    }

    /// Keeps more than one block only while those it has do nothing but wait.
    fn work_in_fibers(&self, cooperative: bool) {
        let mut resident: VecDeque<Block> = VecDeque::new();
        let mut limit = 1;
        loop {
            if self.over() {
                return;
            }
            while resident.len() < limit {
                let Some(index) = self.next_block() else { break };
                match Block::new(self, index, self.block_memory()) {
                    Ok(block) => resident.push_back(block),
                    Err(error) => return self.fail(error.0),
                }
            }
            let Some(mut block) = resident.pop_front() else { return };
            match block.turn() {
                Turn::Finished => limit = limit.saturating_sub(1).max(1).max(resident.len()),
                Turn::Fault(code) => {
                    let (block, thread) = block.place();
                    return self.fail_in(code, block, thread);
                }
                Turn::Spinning => {
                    resident.push_back(block);
                    // Blocks are taken in order, so a block that is waited for is never left behind.
                    let stacks = RESIDENT_STACKS / self.workers / self.threads().max(1);
                    let most = if cooperative { usize::MAX } else { stacks.clamp(2, RESIDENT_BLOCKS) };
                    limit = (resident.len() + 1).min(most);
                    std::thread::yield_now();
                }
            }
        }
    }

    pub(super) fn threads(&self) -> usize {
        usize::try_from(self.block.count()).unwrap_or(0)
    }

    pub(super) fn entry(&self) -> usize {
        self.kernel.entry()
    }

    pub(super) fn stack_bytes(&self) -> usize {
        self.stack_bytes
    }

    pub(super) fn block_memory(&self) -> BlockMemory {
        let regions = &self.kernel.regions;
        // Threads that never wait are alive one after the other.
        let alone = self.kernel.lowering == Lowering::Regions && regions.entries.len() == 1;
        let (threads, alive) = (self.threads() as u64, if alone { 1 } else { self.threads() as u64 });
        BlockMemory {
            shared: words(u64::from(self.shared_bytes)),
            local: words(self.local_bytes.next_multiple_of(16) * alive),
            records: words(u64::from(regions.record_bytes) * threads),
        }
    }

    /// Where block `index` lies in the grid, and on which multiprocessor.
    pub(super) fn place(&self, index: u64) -> ([u32; 3], u32) {
        let (gx, gy) = (u64::from(self.grid.x), u64::from(self.grid.y));
        let coordinate = |value: u64| u32::try_from(value).unwrap_or(0);
        let place = [coordinate(index % gx), coordinate(index / gx % gy), coordinate(index / gx / gy)];
        (place, coordinate(index % u64::from(self.limits.multiprocessors.max(1))))
    }

    /// The context of a thread of block `index`.
    pub(super) fn context(&self, index: u64, thread: usize, memory: &BlockMemory) -> ThreadContext {
        let (ctaid, smid) = self.place(index);
        let linear = u32::try_from(thread).unwrap_or(0);
        let (bx, by) = (self.block.x, self.block.y);
        let local_bytes = self.local_bytes.next_multiple_of(16);
        let address = |words: &[u128]| words.as_ptr().expose_provenance() as u64;
        ThreadContext {
            tid: [linear % bx, linear / bx % by, linear / bx / by],
            ntid: [self.block.x, self.block.y, self.block.z],
            ctaid,
            nctaid: [self.grid.x, self.grid.y, self.grid.z],
            lane: linear % 32,
            warp: linear / 32,
            shared_base: address(&memory.shared),
            shared_bytes: self.shared_bytes,
            dynamic_shared_bytes: self.dynamic_shared_bytes,
            params: address(&self.params),
            params_bytes: self.params_bytes,
            local_base: address(&memory.local) + local_bytes * thread as u64,
            local_bytes,
            local_top: 0,
            local_arena: address(&memory.local),
            records: address(&memory.records),
            job: Job::default(),
            at: 0,
            culprit: 0,
            regions: std::ptr::from_ref(&self.kernel.regions),
            stack_limit: 0,
            stack_base: 0,
            spins: 0,
            line: 0,
            smid,
            yielder: std::ptr::null(),
            grid: std::ptr::from_ref(self),
            request: Request::None,
            result: 0,
            result_predicate: 0,
            texture: TextureWords::default(),
        }
    }

    /// Where the blocks of a cooperative grid meet; 0 for an ordinary one.
    pub(crate) fn workspace(&self) -> u64 {
        self.workspace
    }

    /// The textures and surfaces that there were when the launch began.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn print(&self, text: &[u8]) {
        // SAFETY: the function outlives the grid, see `Print`.
        unsafe { (*self.print.0)(text) };
    }

    /// Whether bytes in the window belong to an allocation; addresses elsewhere have been judged before.
    pub(crate) fn is_allocated(&self, address: u64, bytes: u64) -> bool {
        let in_window = address.wrapping_sub(self.limits.window_base) < self.limits.window_bytes;
        // SAFETY: the function outlives the grid, see `Exact`.
        !in_window || unsafe { (*self.exact.0)(address, bytes) }
    }

    pub(crate) fn malloc(&self, bytes: u64) -> u64 {
        self.arena.allocate_heap(bytes.max(1), self.heap_bytes).unwrap_or(0)
    }
}
