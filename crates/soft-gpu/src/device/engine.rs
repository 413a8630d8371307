//! What the device asks of the compiler and the grid runner.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cuda_types::{CuResult, Dim3};
use proto::{FunctionFacts, GlobalFacts};

/// Makes programs from PTX.
pub trait Engine: Send + Sync {
    /// Checks and links PTX texts into one program for a device whose window has this base and length, and gives its
    /// variables memory.
    fn load(&self, texts: &[&str], window: (u64, u64)) -> CuResult<Arc<dyn Program>>;
}

/// A loaded module.
pub trait Program: Send + Sync {
    /// Its kernels, those that the engine cannot compile with the reason in `unsupported`.
    fn functions(&self) -> Vec<FunctionFacts>;
    /// Its variables, with their addresses.
    fn globals(&self) -> Vec<GlobalFacts>;
    /// A kernel by name: `NOT_FOUND`, or `NOT_SUPPORTED` if it cannot be compiled.
    fn kernel(&self, name: &str) -> CuResult<Arc<dyn Kernel>>;
}

/// A kernel, shared by all its launches.
pub trait Kernel: Send + Sync {
    /// Its description.
    fn facts(&self) -> &FunctionFacts;
    /// Runs a grid to its end, on the calling thread and others.
    ///
    /// `arguments` holds the values by ordinal without padding; their lengths have been checked. A fault in the grid
    /// is a sticky `CuError`; an aborted grid answers `LAUNCH_FAILED`.
    fn run(&self, launch: &Launch, arguments: &[u8], context: &RunContext<'_>) -> CuResult<()>;
}

/// The shape of a grid.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    pub grid: Dim3,
    pub block: Dim3,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// All blocks must be resident at once, so that they can wait for each other.
    pub cooperative: bool,
}

/// What a running grid may touch.
pub struct RunContext<'a> {
    /// Takes what kernels print.
    pub print: &'a (dyn Fn(&[u8]) + Sync),
    /// Set when the grid shall end early: the device is being closed.
    pub abort: &'a AtomicBool,
    /// How long the grid may run; ended after that, it answers `LAUNCH_TIMEOUT`.
    pub timeout: Option<Duration>,
    /// CPU threads that the grid may use, the calling one included.
    pub threads: usize,
    /// `CU_LIMIT_STACK_SIZE` and `CU_LIMIT_MALLOC_HEAP_SIZE`.
    pub stack_bytes: u64,
    pub heap_bytes: u64,
    /// Whether bytes at an address belong to something, for grids that are checked.
    pub exact: &'a (dyn Fn(u64, u64) -> bool + Sync),
    /// Textures and surfaces.
    pub objects: super::array::Reachable,
}
