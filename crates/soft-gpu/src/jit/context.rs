//! What generated code knows of its thread: one structure at a fixed address for as long as the thread lives.
//!
//! Generated code reads the fields by offset (`offset_of!`), helpers by name. Every helper gets a pointer to it
//! first. A thread that must wait writes a [`Request`] here and suspends its coroutine; who resumes it has put the
//! answer into `result`.

use corosensei::Yielder;

use crate::jit::Exit;
use crate::jit::texture::TextureWords;
use crate::run::grid::Grid;

/// The barrier of `barrier.cluster`, behind those that programs number.
pub(crate) const CLUSTER_BARRIER: u32 = 16;

/// The yielder of a coroutine that runs device code.
pub(crate) type DeviceYielder = Yielder<(), ()>;

/// State of one device thread; in loop mode of the thread that the loop is at.
#[repr(C)]
pub(crate) struct ThreadContext {
    pub(crate) tid: [u32; 3],
    pub(crate) ntid: [u32; 3],
    pub(crate) ctaid: [u32; 3],
    pub(crate) nctaid: [u32; 3],
    pub(crate) lane: u32,
    pub(crate) warp: u32,
    /// Host address of the block's shared memory; a shared address is an offset to it.
    pub(crate) shared_base: u64,
    pub(crate) shared_bytes: u32,
    pub(crate) dynamic_shared_bytes: u32,
    /// Host address of the packed kernel parameters.
    pub(crate) params: u64,
    pub(crate) params_bytes: u64,
    /// The thread's arena for `.local` variables: its extent, and how far it is used.
    pub(crate) local_base: u64,
    pub(crate) local_bytes: u64,
    pub(crate) local_top: u64,
    /// In regions: the local memory and the record of the block's first thread.
    pub(crate) local_arena: u64,
    pub(crate) records: u64,
    pub(crate) job: Job,
    /// In regions: the place in its block of a thread that is about to be judged, and of the one that faulted plus 1.
    pub(crate) at: u32,
    pub(crate) culprit: u32,
    pub(crate) regions: *const Regions,
    /// The coroutine's stack, where parameters of calls lie.
    pub(crate) stack_limit: u64,
    pub(crate) stack_base: u64,
    /// Counts turns of spinning loops.
    pub(crate) spins: u32,
    pub(crate) smid: u32,
    /// The line of the instruction that runs, in kernels that are checked.
    pub(crate) line: u32,
    pub(crate) yielder: *const DeviceYielder,
    pub(crate) grid: *const Grid,
    pub(crate) request: Request,
    pub(crate) result: u64,
    pub(crate) result_predicate: u64,
    /// What textures are asked and answer.
    pub(crate) texture: TextureWords,
}

/// What the coroutine of a block that runs in regions is to do next, and what came of it.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub(crate) struct Job {
    /// The region, and the threads.
    pub(crate) region: u32,
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// The point that all of them have come to, or [`MIXED`].
    pub(crate) outcome: u32,
}

/// Outcome of a thread that is over.
pub(crate) const EXITED: u32 = 0;
/// The threads have come to different points; each record tells.
pub(crate) const MIXED: u32 = u32::MAX;

/// A kernel as regions, see `compiler::regions`.
#[derive(Default, Debug)]
pub(crate) struct Regions {
    /// `extern "C" fn(*mut ThreadContext, first: u32, last: u32) -> u32`: runs threads from a point to the next.
    pub(crate) entries: Vec<usize>,
    /// What is waited for at each point.
    pub(crate) waits: Vec<Wait>,
    /// Regions that come to operations of a warp, and so run warp by warp.
    pub(crate) by_warp: Vec<bool>,
    pub(crate) record_bytes: u32,
}

/// What a thread waits for at a point; the rest is in its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// All threads of the block, at the barrier of this number.
    Whole(u32),
    /// `bar` of any form.
    Barrier,
    /// `bar.arrive`
    Arrive,
    /// A warp operation.
    Warp,
    ActiveMask,
    /// An access to volatile shared memory, which is done: the warp keeps in step.
    Step,
}

/// A thread of a region between two points; registers follow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Record {
    /// The point that it has come to.
    pub(crate) outcome: u32,
    /// The answer.
    pub(crate) predicate: u32,
    pub(crate) result: u64,
    /// The request: a warp operation with its mask, or the number, count and reduction of a barrier.
    pub(crate) value: u64,
    pub(crate) mask: u32,
    pub(crate) b: u32,
    pub(crate) c: u32,
    pub(crate) op: u32,
}

/// What a suspended thread waits for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Request {
    /// Nothing: it was not suspended by a request.
    None,
    /// The coroutine of a block has done its job.
    Done,
    /// It spins: let others run.
    Spin,
    /// It accessed volatile shared memory: keep the warp in step.
    Step,
    /// `bar`: waits for `count` threads of the block (0: all) at barrier `id`.
    Barrier { id: u32, count: u32, reduce: Option<(Reduce, u32)> },
    /// `bar.arrive`: is counted, does not wait.
    Arrive { id: u32, count: u32 },
    /// A warp operation among the lanes of `mask`.
    Warp { mask: u32, op: WarpOp, value: u64, b: u32, c: u32 },
    /// `activemask` at this place of the code.
    ActiveMask { place: u32 },
    /// The thread is over: `exit`, or a fault.
    Leave(Exit),
}

/// Reductions of `bar.red`, `vote` and `redux`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Reduce {
    And,
    Or,
    Xor,
    Popc,
    Add,
    MinS,
    MaxS,
    MinU,
    MaxU,
}

impl Reduce {
    pub(crate) const ALL: [Self; 9] = [
        Self::And,
        Self::Or,
        Self::Xor,
        Self::Popc,
        Self::Add,
        Self::MinS,
        Self::MaxS,
        Self::MinU,
        Self::MaxU,
    ];
}

/// Operations of a warp; the discriminants are constants in generated code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum WarpOp {
    Sync,
    ShflUp,
    ShflDown,
    ShflBfly,
    ShflIdx,
    VoteAll,
    VoteAny,
    VoteUni,
    VoteBallot,
    MatchAny,
    MatchAll,
    ReduxAdd,
    ReduxAnd,
    ReduxOr,
    ReduxXor,
    ReduxMinS,
    ReduxMaxS,
    ReduxMinU,
    ReduxMaxU,
    Elect,
    MinF32,
    MaxF32,
    MinNanF32,
    MaxNanF32,
    /// A [`crate::jit::matrix::Exchange`]: `value` is the address of the lane's packet, `b` and `c` its code.
    Matrix,
}

impl WarpOp {
    pub(crate) const ALL: [Self; 25] = [
        Self::Sync,
        Self::ShflUp,
        Self::ShflDown,
        Self::ShflBfly,
        Self::ShflIdx,
        Self::VoteAll,
        Self::VoteAny,
        Self::VoteUni,
        Self::VoteBallot,
        Self::MatchAny,
        Self::MatchAll,
        Self::ReduxAdd,
        Self::ReduxAnd,
        Self::ReduxOr,
        Self::ReduxXor,
        Self::ReduxMinS,
        Self::ReduxMaxS,
        Self::ReduxMinU,
        Self::ReduxMaxU,
        Self::Elect,
        Self::MinF32,
        Self::MaxF32,
        Self::MinNanF32,
        Self::MaxNanF32,
        Self::Matrix,
    ];
}
