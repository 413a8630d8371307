//! The software GPU as a device: streams, memory and modules around the grid runner.
//!
//! Layout:
//! * [`engine`]: what it asks of the compiler and the grid runner
//! * `queue`: streams, events, gates
//! * `memory`: the window and the allocations
//! * `array`: arrays, textures, surfaces
//! * `bytes`: the copies themselves
//! * `value`: words of memory that streams write and wait for
//! * `facts`: what it says of itself
//! * `calls`: the chapters of the call table

pub mod array;
mod bytes;
mod calls;
pub mod engine;
mod facts;
mod memory;
mod queue;
mod value;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cuda_types::{CUfunction, CUmodule, CuError, CuResult};

use crate::engine::JitEngine;
use crate::texture::object::ObjectTable;
use engine::{Engine, Kernel, Program};
use memory::Memory;
use queue::Queues;

/// What can be chosen about a software GPU.
#[derive(Clone, Debug)]
pub struct SoftOptions {
    /// Compute capability: 90 stands for 9.0.
    pub capability: u32,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// CPU threads that a grid may use; also the number of multiprocessors, at least 2.
    pub threads: usize,
    /// Every access of a kernel is compared with the allocations to the byte, and a fault says in which line of the PTX it
    /// happened. Kernels run many times slower.
    pub check: bool,
    /// How long a kernel may run: one that takes longer ends with `CUDA_ERROR_LAUNCH_TIMEOUT`, as a GPU with a watchdog
    /// has it. `None`: as long as it wants.
    pub timeout: Option<Duration>,
}

impl Default for SoftOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        SoftOptions { capability: 90, memory_bytes: 4 << 30, threads, check: false, timeout: None }
    }
}

/// A device. Dropping it ends its threads once their present operation is over.
pub struct SoftGpu {
    engine: Arc<dyn Engine>,
    options: SoftOptions,
    ordinal: u32,
    memory: Arc<Memory>,
    queues: Arc<Queues>,
    objects: Mutex<Objects>,
    shared: Arc<Shared>,
    arrays: Mutex<array::Arrays>,
}

/// What running grids refer to.
struct Shared {
    printed: Mutex<Vec<u8>>,
    abort: AtomicBool,
    timeout: Option<Duration>,
    threads: usize,
    stack_bytes: AtomicU64,
    heap_bytes: AtomicU64,
    printf_bytes: AtomicU64,
    /// Textures and surfaces.
    objects: ObjectTable,
}

#[derive(Default)]
struct Objects {
    next: u64,
    modules: HashMap<u64, Arc<dyn Program>>,
    functions: HashMap<u64, Arc<dyn Kernel>>,
}

impl SoftGpu {
    /// Device `ordinal` of its server, which compiles PTX for this machine.
    pub fn open(ordinal: u32, options: SoftOptions) -> CuResult<SoftGpu> {
        let engine = JitEngine::new(options.threads, options.check).map_err(|_| CuError::OUT_OF_MEMORY)?;
        Ok(SoftGpu::new(Arc::new(engine), ordinal, options))
    }

    /// Device `ordinal` of its server, with this engine.
    pub fn new(engine: Arc<dyn Engine>, ordinal: u32, options: SoftOptions) -> SoftGpu {
        SoftGpu {
            engine,
            ordinal,
            memory: Arc::new(Memory::new(options.memory_bytes)),
            queues: Queues::new(),
            objects: Mutex::default(),
            shared: Arc::new(Shared {
                printed: Mutex::default(),
                abort: AtomicBool::new(false),
                timeout: options.timeout,
                threads: options.threads,
                stack_bytes: AtomicU64::new(1024),
                heap_bytes: AtomicU64::new(8 << 20),
                printf_bytes: AtomicU64::new(1 << 20),
                objects: ObjectTable::default(),
            }),
            arrays: Mutex::default(),
            options,
        }
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn module(&self, module: CUmodule) -> CuResult<Arc<dyn Program>> {
        self.objects().modules.get(&module.0).cloned().ok_or(CuError::INVALID_HANDLE)
    }

    fn kernel(&self, function: CUfunction) -> CuResult<Arc<dyn Kernel>> {
        self.objects().functions.get(&function.0).cloned().ok_or(CuError::INVALID_HANDLE)
    }
}

impl Drop for SoftGpu {
    fn drop(&mut self) {
        self.shared.abort.store(true, Ordering::Relaxed);
        self.queues.close();
    }
}

impl Objects {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next + 0x1000
    }
}
