//! Modules and launches: what CUDA reports at once is answered here, from the facts that came with the module.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cuda_types::attribute::{DeviceAttribute, FunctionAttribute};
use cuda_types::{CUfunction, CUmodule, CUstream, CuError, CuResult, Dim3};
use proto::calls::module::load_bytes;
use proto::codec::MESSAGE_LIMIT;
use proto::{DeviceFacts, FunctionFacts, LaunchCalls, ModuleCalls, ModuleFacts};
use rustc_hash::FxHashMap;

use crate::environment::Severity;
use crate::session::Session;

/// Why a launch is refused before anything is sent. It leaves no trace: the next launch is judged by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaunchRefusal {
    /// Grid or block outside the device's limits (`cudaErrorInvalidConfiguration`).
    Configuration,
    /// More registers or threads than the kernel can have (`cudaErrorLaunchOutOfResources`).
    Resources,
    /// More shared memory than a block may use (`cudaErrorInvalidValue`).
    SharedMemory,
    /// The values given are not the kernel's parameters (`cudaErrorInvalidValue`).
    Arguments,
    /// More blocks than can be resident at once (`cudaErrorCooperativeLaunchTooLarge`).
    Cooperative,
    /// The device cannot run this kernel.
    Unsupported,
    /// No such function.
    Handle,
    /// What every call answers now.
    Broken(CuError),
}

impl From<LaunchRefusal> for CuError {
    fn from(refusal: LaunchRefusal) -> CuError {
        match refusal {
            LaunchRefusal::Configuration | LaunchRefusal::SharedMemory | LaunchRefusal::Arguments => {
                CuError::INVALID_VALUE
            }
            LaunchRefusal::Resources => CuError::LAUNCH_OUT_OF_RESOURCES,
            LaunchRefusal::Cooperative => CuError::COOPERATIVE_LAUNCH_TOO_LARGE,
            LaunchRefusal::Unsupported => CuError::NOT_SUPPORTED,
            LaunchRefusal::Handle => CuError::INVALID_HANDLE,
            LaunchRefusal::Broken(error) => error,
        }
    }
}

/// What a launch asks for.
#[derive(Clone, Copy, Debug)]
pub struct LaunchConfig {
    pub grid: Dim3,
    pub block: Dim3,
    pub shared_bytes: u32,
    pub stream: CUstream,
    pub cooperative: bool,
}

/// A kernel of a module in a session, with what its launches are judged by.
pub struct Function {
    pub handle: CUfunction,
    pub facts: Arc<FunctionFacts>,
    /// The number of its session.
    session: u64,
    /// Of all parameters together.
    argument_bytes: usize,
    /// The most that a block may have.
    threads: u64,
    /// The most that a launch may ask for, by the attributes.
    dynamic_shared_bytes: AtomicU32,
    /// By number, with what the program has set.
    attributes: Mutex<Vec<i32>>,
    /// Blocks that fit a multiprocessor, by what was asked: threads of a block, dynamic shared memory, flags.
    resident: Mutex<FxHashMap<(i32, u64, u32), i32>>,
    /// The program has changed what this depends on; before, the facts tell it for whole warps.
    is_changed: AtomicBool,
    /// Its module is gone.
    is_unloaded: AtomicBool,
}

impl Function {
    /// Bytes of all parameters together.
    pub fn argument_bytes(&self) -> usize {
        self.argument_bytes
    }

    fn resident(&self) -> MutexGuard<'_, FxHashMap<(i32, u64, u32), i32>> {
        self.resident.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came with the module.
    fn told_resident(&self, asked: (i32, u64, u32)) -> Option<i32> {
        let (block, 0, 0) = asked else { return None };
        let warps = usize::try_from(block).ok().filter(|threads| threads % WARP == 0)? / WARP;
        let told = self.facts.resident.get(warps.checked_sub(1)?)?;
        (!self.is_changed.load(Ordering::Acquire)).then_some(i32::from(*told))
    }

    /// The program has changed what residence depends on.
    fn forget_resident(&self) {
        self.is_changed.store(true, Ordering::Release);
        self.resident().clear();
    }

    fn attributes(&self) -> MutexGuard<'_, Vec<i32>> {
        self.attributes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a function of another session, or one that went with its module.
    fn check(&self, session: &Session) -> CuResult<()> {
        let is_here = self.session == session.number && !self.is_unloaded.load(Ordering::Acquire);
        if is_here { Ok(()) } else { Err(CuError::INVALID_HANDLE) }
    }
}

/// Threads of a warp.
const WARP: usize = 32;

/// The most answers about residence that a function keeps.
const RESIDENT_LIMIT: usize = 4096;

fn attribute(attributes: &[i32], attribute: FunctionAttribute) -> Option<i32> {
    usize::try_from(attribute.0).ok().and_then(|index| attributes.get(index).copied())
}

/// The device's limits of a launch, looked up once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchLimits {
    grid: Dim3,
    block: Dim3,
    /// Of a block.
    threads: u64,
}

impl LaunchLimits {
    pub(crate) fn of(facts: &DeviceFacts) -> LaunchLimits {
        let limit = |attribute: DeviceAttribute| {
            facts.attribute(attribute.0).and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
        };
        LaunchLimits {
            grid: Dim3 {
                x: limit(DeviceAttribute::MAX_GRID_DIM_X),
                y: limit(DeviceAttribute::MAX_GRID_DIM_Y),
                z: limit(DeviceAttribute::MAX_GRID_DIM_Z),
            },
            block: Dim3 {
                x: limit(DeviceAttribute::MAX_BLOCK_DIM_X),
                y: limit(DeviceAttribute::MAX_BLOCK_DIM_Y),
                z: limit(DeviceAttribute::MAX_BLOCK_DIM_Z),
            },
            threads: limit(DeviceAttribute::MAX_THREADS_PER_BLOCK).into(),
        }
    }
}

impl Session {
    /// Loads a module from its images; see `cuModuleLoadData` of the table. `OUT_OF_MEMORY` for more than a message may
    /// hold.
    pub fn load_module(&self, images: Vec<&[u8]>) -> CuResult<(CUmodule, ModuleFacts)> {
        self.check()?;
        let bytes = load_bytes(&images);
        if bytes > MESSAGE_LIMIT as u64 {
            (self.environment.log)(
                Severity::Error,
                &format!(
                    "cuModuleLoadData: a module of {bytes} bytes is not loaded, because a message holds at most {MESSAGE_LIMIT}"
                ),
            );
            return Err(CuError::OUT_OF_MEMORY);
        }
        self.cuModuleLoadData(images)
    }

    /// A kernel of a module whose facts the caller kept.
    pub fn function(&self, module: CUmodule, facts: Arc<FunctionFacts>) -> CuResult<Arc<Function>> {
        if let Some(reason) = &facts.unsupported {
            (self.environment.log)(Severity::Error, &format!("kernel {}: {reason}", facts.name));
            return Err(CuError::NOT_SUPPORTED);
        }
        let mut name = facts.name.clone().into_bytes();
        name.push(0);
        let name = CStr::from_bytes_with_nul(&name).map_err(|_| CuError::NOT_FOUND)?;
        let handle = self.cuModuleGetFunction(module, name)?;
        let threads = attribute(&facts.attributes, FunctionAttribute::MAX_THREADS_PER_BLOCK);
        let function = Arc::new(Function {
            handle,
            session: self.number,
            argument_bytes: facts.parameters.iter().map(|bytes| *bytes as usize).sum(),
            threads: threads.and_then(|threads| u64::try_from(threads).ok()).unwrap_or(0),
            dynamic_shared_bytes: AtomicU32::new(self.dynamic_shared_bytes(&facts.attributes)),
            attributes: Mutex::new(facts.attributes.clone()),
            resident: Mutex::default(),
            is_changed: AtomicBool::new(false),
            is_unloaded: AtomicBool::new(false),
            facts,
        });
        self.state().functions.entry(module.0).or_default().push(Arc::downgrade(&function));
        Ok(function)
    }

    /// Ends a module; its functions go with it.
    pub fn unload_module(&self, module: CUmodule) -> CuResult<()> {
        let functions = self.state().functions.remove(&module.0).unwrap_or_default();
        for function in functions.iter().filter_map(Weak::upgrade) {
            function.is_unloaded.store(true, Ordering::Release);
        }
        self.cuModuleUnload(module)
    }

    /// `cuFuncGetAttribute`, with what the program has set.
    pub fn function_attribute(&self, function: &Function, of: FunctionAttribute) -> CuResult<i32> {
        self.check()?;
        function.check(self)?;
        attribute(&function.attributes(), of).ok_or(CuError::INVALID_VALUE)
    }

    /// `cuFuncSetAttribute`, judged by the device's limits.
    pub fn set_function_attribute(
        &self,
        function: &Function,
        attribute: FunctionAttribute,
        value: i32,
    ) -> CuResult<()> {
        let shared = self.function_attribute(function, FunctionAttribute::SHARED_SIZE_BYTES)?;
        let optin = self.limit(DeviceAttribute::MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        match attribute {
            FunctionAttribute::MAX_DYNAMIC_SHARED_SIZE_BYTES
                if value < 0 || i64::from(value) + i64::from(shared) > optin =>
            {
                return Err(CuError::INVALID_VALUE);
            }
            FunctionAttribute::PREFERRED_SHARED_MEMORY_CARVEOUT if !(-1..=100).contains(&value) => {
                return Err(CuError::INVALID_VALUE);
            }
            FunctionAttribute::MAX_DYNAMIC_SHARED_SIZE_BYTES
            | FunctionAttribute::PREFERRED_SHARED_MEMORY_CARVEOUT => {}
            _ => return Err(CuError::INVALID_VALUE),
        }
        self.cuFuncSetAttribute(function.handle, attribute.0, value)?;
        let mut attributes = function.attributes();
        if let Some(slot) = usize::try_from(attribute.0).ok().and_then(|index| attributes.get_mut(index)) {
            *slot = value;
            function.dynamic_shared_bytes.store(self.dynamic_shared_bytes(&attributes), Ordering::Relaxed);
            function.forget_resident();
        }
        Ok(())
    }

    /// `cuFuncSetCacheConfig`.
    pub fn set_cache_config(&self, function: &Function, config: u32) -> CuResult<()> {
        function.check(self)?;
        self.cuFuncSetCacheConfig(function.handle, config)?;
        function.forget_resident();
        Ok(())
    }

    /// `cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags`. The module's facts tell it for whole warps without dynamic
    /// shared memory; else the device is asked, once: its answer depends on nothing but the kernel, its attributes and what
    /// is asked.
    pub fn resident_blocks(
        &self,
        function: &Function,
        block: i32,
        shared_bytes: u64,
        flags: u32,
    ) -> CuResult<i32> {
        self.check()?;
        function.check(self)?;
        let asked = (block, shared_bytes, flags);
        if let Some(blocks) = function.told_resident(asked) {
            return Ok(blocks);
        }
        if let Some(blocks) = function.resident().get(&asked) {
            return Ok(*blocks);
        }
        let blocks = self.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
            function.handle,
            block,
            shared_bytes,
            flags,
        )?;
        let mut known = function.resident();
        if known.len() >= RESIDENT_LIMIT {
            known.clear();
        }
        known.insert(asked, blocks);
        Ok(blocks)
    }

    /// The most dynamic shared memory that a launch of a function with these attributes may ask for.
    fn dynamic_shared_bytes(&self, attributes: &[i32]) -> u32 {
        let attribute = |of| i64::from(attribute(attributes, of).unwrap_or(0));
        let static_bytes = attribute(FunctionAttribute::SHARED_SIZE_BYTES);
        let most = attribute(FunctionAttribute::MAX_DYNAMIC_SHARED_SIZE_BYTES)
            .max(self.limit(DeviceAttribute::MAX_SHARED_MEMORY_PER_BLOCK) - static_bytes);
        u32::try_from(most.max(0)).unwrap_or(u32::MAX)
    }

    fn limit(&self, attribute: DeviceAttribute) -> i64 {
        i64::from(self.facts.attribute(attribute.0).unwrap_or(0))
    }

    /// Starts a grid. `arguments` are the parameter values by ordinal, one behind the other without padding.
    pub fn launch(
        &self,
        function: &Function,
        config: &LaunchConfig,
        arguments: &[u8],
    ) -> Result<(), LaunchRefusal> {
        self.check().map_err(LaunchRefusal::Broken)?;
        let threads = self.judge(function, config, arguments)?;
        if config.cooperative {
            self.judge_cooperative(function, config, threads)?;
        }
        let function = function.handle;
        let LaunchConfig { grid, block, shared_bytes, stream, cooperative } = *config;
        let posted = if cooperative {
            self.cuLaunchCooperativeKernel(function, grid, block, shared_bytes, stream, arguments)
        } else {
            self.cuLaunchKernel(function, grid, block, shared_bytes, stream, arguments)
        };
        posted.map_err(LaunchRefusal::Broken)
    }

    /// Judges everything but residence; answers the threads of a block.
    fn judge(
        &self,
        function: &Function,
        config: &LaunchConfig,
        arguments: &[u8],
    ) -> Result<u64, LaunchRefusal> {
        function.check(self).map_err(|_| LaunchRefusal::Handle)?;
        let limits = &self.launch_limits;
        let within = |extents: Dim3, most: Dim3| {
            // One less, so that 0 is beyond every limit.
            let fits = |extent: u32, most: u32| extent.wrapping_sub(1) < most;
            fits(extents.x, most.x) && fits(extents.y, most.y) && fits(extents.z, most.z)
        };
        if !within(config.grid, limits.grid) || !within(config.block, limits.block) {
            return Err(LaunchRefusal::Configuration);
        }
        // Each extent is within its limit, but those of a hostile server could be anything.
        let Dim3 { x, y, z } = config.block;
        let threads = (u64::from(x) * u64::from(y)).saturating_mul(u64::from(z));
        if threads > limits.threads {
            return Err(LaunchRefusal::Configuration);
        }
        if threads > function.threads {
            return Err(LaunchRefusal::Resources);
        }
        if config.shared_bytes > function.dynamic_shared_bytes.load(Ordering::Relaxed) {
            return Err(LaunchRefusal::SharedMemory);
        }
        if arguments.len() != function.argument_bytes {
            return Err(LaunchRefusal::Arguments);
        }
        Ok(threads)
    }

    /// A cooperative grid must fit on the device as a whole.
    fn judge_cooperative(
        &self,
        function: &Function,
        config: &LaunchConfig,
        threads: u64,
    ) -> Result<(), LaunchRefusal> {
        let block = i32::try_from(threads).map_err(|_| LaunchRefusal::Configuration)?;
        let resident = self
            .resident_blocks(function, block, u64::from(config.shared_bytes), 0)
            .map_err(LaunchRefusal::Broken)?;
        let room = i128::from(resident) * i128::from(self.limit(DeviceAttribute::MULTIPROCESSOR_COUNT));
        if i128::try_from(config.grid.count()).unwrap_or(i128::MAX) > room {
            return Err(LaunchRefusal::Cooperative);
        }
        Ok(())
    }
}
