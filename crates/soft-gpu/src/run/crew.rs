//! The threads of a block that run in regions: one coroutine for all of them.
//!
//! The coroutine calls the regions. Where all threads of the block, or all lanes of a warp, come to the same point, it
//! answers them itself and goes on; everything else it leaves to the block, which runs any range of threads from any point.

use cuda_types::CuError;

use crate::jit::Exit;
use crate::jit::context::{
    EXITED, Job, MIXED, Record, Reduce, Regions, Request, ThreadContext, Wait, WarpOp,
};

use super::fiber::{Fiber, Paused};
use super::grid::{BlockMemory, Grid};
use super::warp::{self, Lane};

/// One coroutine and the records of the threads that it runs.
pub(super) struct Crew {
    fibers: Vec<Fiber>,
    /// Owned by the kernel, which outlives the grid.
    regions: *const Regions,
    records: u64,
    stack_bytes: usize,
}

impl Crew {
    pub(super) fn new(grid: &Grid, memory: &BlockMemory) -> Result<Crew, CuError> {
        let stack_bytes = grid.stack_bytes();
        let context = grid.context(0, 0, memory);
        let (regions, records) = (context.regions, context.records);
        let fibers = Fiber::start(std::iter::once(context), work as *const () as usize, stack_bytes)
            .map_err(|_| CuError::LAUNCH_OUT_OF_RESOURCES)?;
        Ok(Crew { fibers, regions, records, stack_bytes })
    }

    /// Turns to block `index`; no thread of the last one may be alive.
    pub(super) fn begin(&mut self, grid: &Grid, index: u64) {
        let (ctaid, smid) = grid.place(index);
        self.fibers[0].with_context(|context| {
            context.ctaid = ctaid;
            context.smid = smid;
        });
    }

    /// Runs threads from a point on; the point that they have all come to, or [`MIXED`]. An error is the fault that has
    /// ended the coroutine.
    pub(super) fn run(&mut self, region: u32, first: usize, last: usize) -> Result<u32, u32> {
        let narrow = |thread: usize| u32::try_from(thread).unwrap_or(u32::MAX);
        let job = Job { region, first: narrow(first), last: narrow(last), outcome: MIXED };
        self.fibers[0].with_context(|context| context.job = job);
        match self.fibers[0].resume() {
            Paused::Asks(Request::Done) => Ok(self.fibers[0].with_context(|context| context.job.outcome)),
            Paused::Ended(Exit::Fault(code)) => Err(code),
            // A region has nothing else to wait for.
            Paused::Asks(_) | Paused::Ended(Exit::Finished) => Err(CuError::LAUNCH_FAILED.0),
        }
    }

    /// The thread that brought the fault, if it is known.
    pub(super) fn culprit(&mut self) -> Option<usize> {
        self.fibers[0].with_context(|context| (context.culprit as usize).checked_sub(1))
    }

    /// The point that a thread of a mixed range has come to.
    pub(super) fn outcome(&self, thread: usize) -> u32 {
        self.record(thread).outcome
    }

    /// What a thread asks for at a point.
    pub(super) fn request(&self, thread: usize, point: u32) -> Request {
        // SAFETY: see the field.
        let waits = unsafe { &(*self.regions).waits };
        let wait = waits.get(point as usize).copied().unwrap_or(Wait::Barrier);
        if let Wait::Whole(id) = wait {
            return Request::Barrier { id, count: 0, reduce: None };
        }
        let Record { value, mask, b, c, op, .. } = *self.record(thread);
        match wait {
            Wait::Step => Request::Step,
            Wait::Arrive => Request::Arrive { id: mask, count: b },
            Wait::ActiveMask => Request::ActiveMask { place: mask },
            Wait::Warp => {
                let op = WarpOp::ALL.get(op as usize).copied().unwrap_or(WarpOp::Sync);
                Request::Warp { mask, op, value, b, c }
            }
            Wait::Whole(_) | Wait::Barrier => {
                let reduce = c.checked_sub(1).and_then(|index| Reduce::ALL.get(index as usize));
                let value = u32::from(value != 0);
                Request::Barrier { id: mask, count: b, reduce: reduce.map(|reduce| (*reduce, value)) }
            }
        }
    }

    /// What a thread will find behind its point.
    pub(super) fn answer(&mut self, thread: usize, result: u64, predicate: bool) {
        if self.records == 0 {
            return;
        }
        // SAFETY: one of the block's records; the coroutine that shares them is suspended.
        let record = unsafe { &mut *record_at(self.regions, self.records, thread) };
        record.result = result;
        record.predicate = u32::from(predicate);
    }

    fn record(&self, thread: usize) -> &Record {
        // SAFETY: one of the block's records, which live as long as the crew; the coroutine that shares them is suspended.
        unsafe { &*record_at(self.regions, self.records, thread) }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // It waits for a job that does not come.
        self.fibers[0].abandon();
        super::fiber::recycle(&mut self.fibers, self.stack_bytes);
    }
}

fn record_at(regions: *const Regions, records: u64, thread: usize) -> *mut Record {
    // SAFETY: the kernel, which outlives the grid, keeps them.
    let bytes = unsafe { (*regions).record_bytes } as usize;
    std::ptr::with_exposed_provenance_mut(usize::try_from(records).unwrap_or(0) + bytes * thread)
}

/// What the coroutine does: job after job, until it is abandoned.
unsafe extern "C" fn work(ctx: *mut ThreadContext) {
    loop {
        // SAFETY: the coroutine's own context, whose kernel outlives it; nobody else looks while it runs.
        unsafe {
            let job = (*ctx).job;
            (*ctx).job.outcome = Turn { ctx, regions: &*(*ctx).regions }.run(job);
            (*ctx).request = Request::Done;
            (*(*ctx).yielder).suspend(());
        }
    }
}

/// A job in the coroutine. It holds nothing that needs dropping: a fault leaves from within.
#[derive(Clone, Copy)]
struct Turn<'a> {
    ctx: *mut ThreadContext,
    regions: &'a Regions,
}

impl Turn<'_> {
    fn run(self, job: Job) -> u32 {
        let Job { mut region, first, last, .. } = job;
        // SAFETY: the coroutine's own context.
        let threads = unsafe { (*self.ctx).ntid.iter().product::<u32>() };
        loop {
            let by_warp = self.regions.by_warp.get(region as usize).is_some_and(|by_warp| *by_warp);
            let outcome =
                if by_warp { self.warps(region, first, last) } else { self.call(region, first, last) };
            let whole = first == 0 && last == threads;
            if whole && outcome != EXITED && matches!(self.wait(outcome), Some(Wait::Whole(_))) {
                region = outcome;
                continue;
            }
            return outcome;
        }
    }

    fn wait(self, point: u32) -> Option<Wait> {
        self.regions.waits.get(point as usize).copied()
    }

    fn call(self, region: u32, first: u32, last: u32) -> u32 {
        // SAFETY: the coroutine's own context; the entries are regions, which take these arguments.
        unsafe {
            let [x, y, _] = (*self.ctx).ntid;
            (*self.ctx).tid = if first == 0 { [0; 3] } else { [first % x, first / x % y, first / x / y] };
            let entry = self.regions.entries.as_ptr().add(region as usize).read();
            let entry: extern "C" fn(*mut ThreadContext, u32, u32) -> u32 = std::mem::transmute(entry);
            entry(self.ctx, first, last)
        }
    }

    /// Runs a range warp by warp, each as far as its lanes stay together.
    fn warps(self, region: u32, first: u32, last: u32) -> u32 {
        let mut joined = None;
        let mut start = first;
        while start < last {
            let end = (start / 32 * 32 + 32).min(last);
            let mut outcome = self.call(region, start, end);
            while outcome != MIXED && outcome != EXITED && self.meet(outcome, start, end) {
                outcome = self.call(outcome, start, end);
            }
            if outcome != MIXED {
                for thread in start..end {
                    // SAFETY: a record of the block, which the coroutine's threads share one after the other.
                    unsafe { (*self.record(thread)).outcome = outcome };
                }
            }
            joined = match joined {
                None => Some(outcome),
                Some(other) if other == outcome => joined,
                Some(_) => Some(MIXED),
            };
            start = end;
        }
        joined.unwrap_or(MIXED)
    }

    fn record(self, thread: u32) -> *mut Record {
        // SAFETY: the coroutine's own context.
        record_at(self.regions, unsafe { (*self.ctx).records }, thread as usize)
    }

    /// Answers the lanes of a whole warp that have all come to one warp operation and mean each other; whether it did.
    fn meet(self, point: u32, first: u32, last: u32) -> bool {
        // SAFETY: the coroutine's own context.
        let threads = unsafe { (*self.ctx).ntid.iter().product::<u32>() };
        let whole = first.is_multiple_of(32) && last == (first + 32).min(threads);
        if !whole || !matches!(self.wait(point), Some(Wait::Warp | Wait::Step)) {
            return false;
        }
        if self.wait(point) == Some(Wait::Step) {
            return true;
        }
        let present = u32::MAX >> (32 - (last - first));
        let mut lanes = [Lane::default(); 32];
        // SAFETY: records of the block, as in `warps`.
        let leader = unsafe { self.record(first).read() };
        for (lane, thread) in lanes.iter_mut().zip(first..last) {
            // SAFETY: as above.
            let Record { value, mask, b, c, .. } = unsafe { self.record(thread).read() };
            if mask & present != present || mask != leader.mask {
                return false;
            }
            *lane = Lane { value, b, c };
        }
        let Some(&op) = WarpOp::ALL.get(leader.op as usize) else { return false };
        for (lane, thread) in (first..last).enumerate() {
            let lane = u32::try_from(lane).unwrap_or(0);
            let (result, predicate) = warp::answer(op, lane, present, &lanes);
            // SAFETY: as above.
            unsafe {
                let record = self.record(thread);
                (*record).result = result;
                (*record).predicate = u32::from(predicate);
            }
        }
        true
    }
}
