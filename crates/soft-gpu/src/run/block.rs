//! The threads of a block, and what they wait for.
//!
//! A turn runs every lane of every warp that can run, until all wait or are over; warp operations are answered as soon
//! as their members have met, barriers when the warps have had their turn. Exited threads count as arrived. A thread
//! that spins gives way, and when a block does nothing but spin the CPU thread goes on to other blocks.

use cuda_types::CuError;

use crate::jit::Exit;
use crate::jit::context::{EXITED, MIXED, Reduce, Request, WarpOp};

use super::crew::Crew;
use super::fiber::{self, Fiber, Paused};
use super::grid::{BlockMemory, Grid};
use super::warp::{self, Lane};

/// How a turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// All threads are over.
    Finished,
    /// Threads wait for something outside the block, as far as anyone can tell.
    Spinning,
    /// The grid is over, with this `CUresult`.
    Fault(u32),
}

#[derive(Clone, Copy, PartialEq)]
enum Status {
    Ready,
    /// Ready again when the others have had their turn.
    Spun,
    AtBarrier(u32),
    AtWarp {
        mask: u32,
        op: WarpOp,
    },
    AtActiveMask(u32),
    Over,
}

/// Barriers that a block has (PTX ISA, "bar"), and the one of its cluster.
const BARRIERS: usize = 17;

#[derive(Clone, Copy, Default)]
struct Barrier {
    arrived: u32,
    /// Threads that shall meet; 0: all of the block.
    count: u32,
    reduce: Option<Reduce>,
    any: u32,
    all: bool,
    sum: u32,
}

/// Who runs the threads.
enum Runner {
    /// A coroutine for each.
    Fibers(Vec<Fiber>),
    /// One for all, which runs them from point to point; and the point at which each of them is.
    Crew(Crew, Vec<u32>),
}

/// A block that is running.
pub(super) struct Block {
    runner: Runner,
    status: Vec<Status>,
    lanes: Vec<Lane>,
    barriers: [Barrier; BARRIERS],
    live: u32,
    /// Its number in the grid, and the thread that faulted.
    index: u64,
    faulted: Option<(usize, u32)>,
    stack_bytes: usize,
    /// Kept as long as the threads that use it.
    memory: BlockMemory,
}

impl Block {
    /// Block `index` of the grid, ready to run.
    pub(super) fn new(grid: &Grid, index: u64, memory: BlockMemory) -> Result<Block, CuError> {
        let stack_bytes = grid.stack_bytes();
        let contexts = (0..grid.threads()).map(|thread| grid.context(index, thread, &memory));
        let fibers = Fiber::start(contexts, grid.entry(), stack_bytes)
            .map_err(|_| CuError::LAUNCH_OUT_OF_RESOURCES)?;
        Ok(Block::with(Runner::Fibers(fibers), index, stack_bytes, memory, grid.threads()))
    }

    /// A place for the blocks of a grid that runs in regions, one after the other.
    pub(super) fn in_regions(grid: &Grid) -> Result<Block, CuError> {
        let memory = grid.block_memory();
        let runner = Runner::Crew(Crew::new(grid, &memory)?, vec![0; grid.threads()]);
        Ok(Block::with(runner, 0, grid.stack_bytes(), memory, grid.threads()))
    }

    fn with(runner: Runner, index: u64, stack_bytes: usize, memory: BlockMemory, threads: usize) -> Block {
        Block {
            runner,
            status: vec![Status::Ready; threads],
            lanes: vec![Lane::default(); threads.next_multiple_of(32)],
            barriers: [Barrier::default(); BARRIERS],
            live: u32::try_from(threads).unwrap_or(u32::MAX),
            index,
            faulted: None,
            stack_bytes,
            memory,
        }
    }

    /// Runs block `index` of a grid that runs in regions, from its first thread's start to its last one's end.
    pub(super) fn run(&mut self, grid: &Grid, index: u64) -> Turn {
        let threads = self.status.len();
        let Runner::Crew(crew, points) = &mut self.runner else {
            return Turn::Fault(CuError::LAUNCH_FAILED.0);
        };
        crew.begin(grid, index);
        self.memory.clear();
        self.index = index;
        // Most blocks are done when all threads have run from the top.
        match crew.run(0, 0, threads) {
            Ok(EXITED) => return Turn::Finished,
            Err(code) => {
                self.accuse();
                return Turn::Fault(code);
            }
            Ok(outcome) => {
                points.fill(0);
                self.barriers = [Barrier::default(); BARRIERS];
                self.live = u32::try_from(threads).unwrap_or(u32::MAX);
                self.arrive(0..threads, outcome);
            }
        }
        self.turn()
    }

    /// The block's number in the grid; the thread that faulted, if one did, and its line.
    pub(super) fn place(&self) -> (u64, Option<(usize, u32)>) {
        (self.index, self.faulted)
    }

    /// Gives every thread that can run its turn.
    pub(super) fn turn(&mut self) -> Turn {
        loop {
            let mut moved = match self.run_together() {
                Ok(ran) => ran,
                Err(code) => {
                    self.accuse();
                    return Turn::Fault(code);
                }
            };
            for warp in 0..self.status.len().div_ceil(32) {
                match self.run_warp(warp) {
                    Ok(ran) => moved |= ran,
                    Err(code) => {
                        self.accuse();
                        return Turn::Fault(code);
                    }
                }
            }
            if self.live == 0 {
                return Turn::Finished;
            }
            if self.release_barriers() {
                continue;
            }
            let spun = self.status.iter().filter(|status| **status == Status::Spun).count();
            for status in self.status.iter_mut().filter(|status| **status == Status::Spun) {
                *status = Status::Ready;
            }
            if spun > 0 {
                return Turn::Spinning;
            }
            // Nobody can run: lanes that meet at the same operation with different masks, or code that waits for
            // threads which never come.
            if !moved && !self.answer_whoever_is_there() {
                return Turn::Fault(CuError::LAUNCH_TIMEOUT.0);
            }
        }
    }

    /// Notes which thread of regions brought a fault.
    fn accuse(&mut self) {
        if let Runner::Crew(crew, _) = &mut self.runner {
            self.faulted = crew.culprit().map(|thread| (thread, 0));
        }
    }

    /// Runs the lanes of a warp until none can run; whether any did.
    fn run_warp(&mut self, warp: usize) -> Result<bool, u32> {
        let lanes = warp * 32..self.status.len().min(warp * 32 + 32);
        let mut moved = false;
        loop {
            let mut ran = false;
            let mut thread = lanes.start;
            while thread < lanes.end {
                if self.status[thread] == Status::Ready {
                    ran = true;
                    thread = self.run_thread(thread, lanes.end)?;
                } else {
                    thread += 1;
                }
            }
            moved |= ran;
            let met = self.answer_warp(lanes.clone());
            if !ran && !met && !self.answer_active_mask(lanes.clone()) {
                return Ok(moved);
            }
        }
    }

    /// Runs the whole block if all its threads are at the same point.
    fn run_together(&mut self) -> Result<bool, u32> {
        let Runner::Crew(crew, points) = &mut self.runner else { return Ok(false) };
        let together = self.status.iter().all(|status| *status == Status::Ready)
            && points.iter().all(|point| *point == points[0]);
        if together {
            let outcome = crew.run(points[0], 0, points.len())?;
            self.arrive(0..self.status.len(), outcome);
        }
        Ok(together)
    }

    /// Writes down where a range of threads has come to.
    fn arrive(&mut self, range: std::ops::Range<usize>, outcome: u32) {
        for thread in range {
            let Runner::Crew(crew, points) = &mut self.runner else { return };
            let point = if outcome == MIXED { crew.outcome(thread) } else { outcome };
            points[thread] = point;
            if point == EXITED {
                self.status[thread] = Status::Over;
                self.live -= 1;
            } else {
                let request = crew.request(thread, point);
                self.status[thread] = self.take(thread, request);
            }
        }
    }

    /// Runs a thread; in regions also those after it, up to `end`, that are at the same point. Answers the next one.
    fn run_thread(&mut self, thread: usize, end: usize) -> Result<usize, u32> {
        let fiber = match &mut self.runner {
            Runner::Fibers(fibers) => &mut fibers[thread],
            Runner::Crew(crew, points) => {
                let same =
                    |other: &usize| self.status[*other] == Status::Ready && points[*other] == points[thread];
                let end = (thread..end).find(|other| !same(other)).unwrap_or(end);
                let outcome = crew.run(points[thread], thread, end)?;
                self.arrive(thread..end, outcome);
                return Ok(end);
            }
        };
        match fiber.resume() {
            Paused::Ended(Exit::Finished) => {
                self.status[thread] = Status::Over;
                self.live -= 1;
            }
            Paused::Ended(Exit::Fault(code)) => {
                self.faulted = Some((thread, fiber.line()));
                return Err(code);
            }
            Paused::Asks(request) => self.status[thread] = self.take(thread, request),
        }
        Ok(thread + 1)
    }

    /// Writes down what a thread asks for.
    fn take(&mut self, thread: usize, request: Request) -> Status {
        match request {
            Request::Spin => Status::Spun,
            Request::Barrier { id, count, reduce } => {
                let barrier = &mut self.barriers[id as usize % BARRIERS];
                if barrier.arrived == 0 {
                    *barrier = Barrier { all: true, ..Barrier::default() };
                }
                barrier.arrived += 1;
                barrier.count = count;
                if let Some((operation, value)) = reduce {
                    barrier.reduce = Some(operation);
                    barrier.any |= value;
                    barrier.all &= value != 0;
                    barrier.sum += value;
                }
                Status::AtBarrier(u32::try_from(id as usize % BARRIERS).unwrap_or(0))
            }
            Request::Arrive { id, count } => {
                let barrier = &mut self.barriers[id as usize % BARRIERS];
                if barrier.arrived == 0 {
                    *barrier = Barrier { all: true, ..Barrier::default() };
                }
                barrier.arrived += 1;
                barrier.count = count;
                Status::Ready
            }
            Request::Warp { mask, op, value, b, c } => {
                self.lanes[thread] = Lane { value, b, c };
                Status::AtWarp { mask, op }
            }
            Request::ActiveMask { place } => Status::AtActiveMask(place),
            Request::None | Request::Done | Request::Step | Request::Leave(_) => Status::Ready,
        }
    }

    /// Answers the operations whose members have all met; whether there was one.
    fn answer_warp(&mut self, lanes: std::ops::Range<usize>) -> bool {
        let mut answered = false;
        for thread in lanes.clone() {
            let Status::AtWarp { mask, op } = self.status[thread] else { continue };
            let (mut present, mut complete) = (0_u32, true);
            for (lane, other) in lanes.clone().enumerate() {
                if mask >> lane & 1 == 0 {
                    continue;
                }
                match self.status[other] {
                    Status::AtWarp { mask: theirs, op: doing } if theirs == mask && doing == op => {
                        present |= 1 << lane
                    }
                    Status::Over => {}
                    _ => complete = false,
                }
            }
            if complete && present != 0 {
                self.answer_lanes(lanes.clone(), op, present);
                answered = true;
            }
        }
        answered
    }

    /// Lets a thread that waits go on with an answer.
    fn answer(&mut self, thread: usize, result: u64, predicate: bool) {
        match &mut self.runner {
            Runner::Fibers(fibers) => fibers[thread].answer(result, predicate),
            Runner::Crew(crew, _) => crew.answer(thread, result, predicate),
        }
        self.status[thread] = Status::Ready;
    }

    fn answer_lanes(&mut self, lanes: std::ops::Range<usize>, op: WarpOp, present: u32) {
        let mut brought = [Lane::default(); 32];
        brought[..lanes.len()].copy_from_slice(&self.lanes[lanes.clone()]);
        if op == WarpOp::Matrix {
            warp::exchange(present, &brought);
        }
        for (lane, thread) in (0_u32..).zip(lanes) {
            if present >> lane & 1 == 1 {
                let (result, predicate) = warp::answer(op, lane, present, &brought);
                self.answer(thread, result, predicate);
            }
        }
    }

    /// When no other lane can run: tells the lanes at the same place of each other.
    fn answer_active_mask(&mut self, lanes: std::ops::Range<usize>) -> bool {
        let place = lanes.clone().find_map(|thread| match self.status[thread] {
            Status::AtActiveMask(place) => Some(place),
            _ => None,
        });
        let Some(place) = place else { return false };
        let here = |status: Status| status == Status::AtActiveMask(place);
        let mask = (0_u32..).zip(lanes.clone()).filter(|(_, thread)| here(self.status[*thread]));
        let mask = mask.fold(0, |mask, (lane, _)| mask | 1_u64 << lane);
        for thread in lanes {
            if here(self.status[thread]) {
                self.answer(thread, mask, true);
            }
        }
        true
    }

    /// Lets the threads of full barriers go on; whether there was one.
    fn release_barriers(&mut self) -> bool {
        let mut released = false;
        for id in 0..BARRIERS {
            let barrier = self.barriers[id];
            if barrier.arrived == 0 {
                continue;
            }
            let whole = barrier.count == 0 || barrier.count as usize >= self.status.len();
            let full = if whole {
                barrier.arrived >= self.live
            } else {
                barrier.arrived >= barrier.count.min(self.live)
            };
            if !full {
                continue;
            }
            let result = match barrier.reduce {
                Some(Reduce::And) => u64::from(barrier.all),
                Some(Reduce::Popc) => u64::from(barrier.sum),
                Some(_) => u64::from(barrier.any != 0),
                None => 0,
            };
            for thread in 0..self.status.len() {
                if self.status[thread] == Status::AtBarrier(u32::try_from(id).unwrap_or(0)) {
                    self.answer(thread, result, true);
                    released = true;
                }
            }
            self.barriers[id] = Barrier::default();
        }
        released
    }

    /// The last resort: the lanes that wait for the same operation are answered as they are.
    fn answer_whoever_is_there(&mut self) -> bool {
        for warp in 0..self.status.len().div_ceil(32) {
            let lanes = warp * 32..self.status.len().min(warp * 32 + 32);
            let first = lanes.clone().find_map(|thread| match self.status[thread] {
                Status::AtWarp { mask, op } => Some((mask, op)),
                _ => None,
            });
            if let Some((mask, op)) = first {
                let same = |status: Status| status == Status::AtWarp { mask, op };
                let present = (0_u32..).zip(lanes.clone()).filter(|(_, thread)| same(self.status[*thread]));
                let present = present.fold(0, |mask, (lane, _)| mask | 1 << lane);
                self.answer_lanes(lanes, op, present);
                return true;
            }
        }
        false
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Runner::Fibers(fibers) = &mut self.runner {
            fibers.iter_mut().for_each(Fiber::abandon);
            fiber::recycle(fibers, self.stack_bytes);
        }
    }
}
