//! Modules and launches: what CUDA reports at once is answered here, from the facts that came with the module.

use std::ffi::CStr;
use std::sync::Arc;

use cuda_types::attribute::{DeviceAttribute, FunctionAttribute};
use cuda_types::{CUfunction, CUmodule, CUstream, CuError, CuResult, Dim3};
use proto::{FunctionFacts, LaunchCalls, ModuleCalls, ModuleFacts};

use crate::environment::Severity;
use crate::session::Session;
use crate::state::FunctionState;

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

impl Session {
    /// Loads a module from its images; see `cuModuleLoadData` of the table.
    pub fn load_module(&self, images: Vec<&[u8]>) -> CuResult<(CUmodule, ModuleFacts)> {
        self.cuModuleLoadData(images)
    }

    /// A kernel of a module whose facts the caller kept.
    pub fn function(&self, module: CUmodule, facts: Arc<FunctionFacts>) -> CuResult<CUfunction> {
        if let Some(reason) = &facts.unsupported {
            (self.environment.log)(Severity::Error, &format!("kernel {}: {reason}", facts.name));
            return Err(CuError::NOT_SUPPORTED);
        }
        let mut name = facts.name.clone().into_bytes();
        name.push(0);
        let name = CStr::from_bytes_with_nul(&name).map_err(|_| CuError::NOT_FOUND)?;
        let function = self.cuModuleGetFunction(module, name)?;
        let attributes = facts.attributes.clone();
        self.state().functions.insert(function.0, FunctionState { module, facts, attributes });
        Ok(function)
    }

    /// Ends a module; its functions go with it.
    pub fn unload_module(&self, module: CUmodule) -> CuResult<()> {
        self.state().functions.retain(|_, function| function.module != module);
        self.cuModuleUnload(module)
    }

    /// The facts of a function.
    pub fn function_facts(&self, function: CUfunction) -> CuResult<Arc<FunctionFacts>> {
        let state = self.state();
        state
            .functions
            .get(&function.0)
            .map(|function| Arc::clone(&function.facts))
            .ok_or(CuError::INVALID_HANDLE)
    }

    /// `cuFuncGetAttribute`, with what the program has set.
    pub fn function_attribute(&self, function: CUfunction, attribute: FunctionAttribute) -> CuResult<i32> {
        self.check()?;
        let state = self.state();
        let function = state.functions.get(&function.0).ok_or(CuError::INVALID_HANDLE)?;
        usize::try_from(attribute.0)
            .ok()
            .and_then(|index| function.attributes.get(index).copied())
            .ok_or(CuError::INVALID_VALUE)
    }

    /// `cuFuncSetAttribute`, judged by the device's limits.
    pub fn set_function_attribute(
        &self,
        function: CUfunction,
        attribute: FunctionAttribute,
        value: i32,
    ) -> CuResult<()> {
        self.check()?;
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
        self.cuFuncSetAttribute(function, attribute.0, value)?;
        if let Some(function) = self.state().functions.get_mut(&function.0)
            && let Some(slot) =
                usize::try_from(attribute.0).ok().and_then(|index| function.attributes.get_mut(index))
        {
            *slot = value;
        }
        Ok(())
    }

    fn limit(&self, attribute: DeviceAttribute) -> i64 {
        i64::from(self.facts.attribute(attribute.0).unwrap_or(0))
    }

    /// Starts a grid. `arguments` are the parameter values by ordinal, one behind the other without padding.
    pub fn launch(
        &self,
        function: CUfunction,
        config: &LaunchConfig,
        arguments: &[u8],
    ) -> Result<(), LaunchRefusal> {
        self.check().map_err(LaunchRefusal::Broken)?;
        let threads = self.judge(function, config, arguments)?;
        if config.cooperative {
            self.judge_cooperative(function, config, threads)?;
        }
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
        function: CUfunction,
        config: &LaunchConfig,
        arguments: &[u8],
    ) -> Result<i64, LaunchRefusal> {
        let state = self.state();
        let function = state.functions.get(&function.0).ok_or(LaunchRefusal::Handle)?;
        let attribute = |attribute: FunctionAttribute| {
            let value = usize::try_from(attribute.0).ok().and_then(|index| function.attributes.get(index));
            i64::from(value.copied().unwrap_or(0))
        };
        let within =
            |extent: u32, limit: DeviceAttribute| extent > 0 && i64::from(extent) <= self.limit(limit);
        let Dim3 { x, y, z } = config.grid;
        let grid = within(x, DeviceAttribute::MAX_GRID_DIM_X)
            && within(y, DeviceAttribute::MAX_GRID_DIM_Y)
            && within(z, DeviceAttribute::MAX_GRID_DIM_Z);
        let Dim3 { x, y, z } = config.block;
        let block = within(x, DeviceAttribute::MAX_BLOCK_DIM_X)
            && within(y, DeviceAttribute::MAX_BLOCK_DIM_Y)
            && within(z, DeviceAttribute::MAX_BLOCK_DIM_Z);
        let threads = i64::try_from(config.block.count()).unwrap_or(i64::MAX);
        if !grid || !block || threads > self.limit(DeviceAttribute::MAX_THREADS_PER_BLOCK) {
            return Err(LaunchRefusal::Configuration);
        }
        if threads > attribute(FunctionAttribute::MAX_THREADS_PER_BLOCK) {
            return Err(LaunchRefusal::Resources);
        }
        let allowed = attribute(FunctionAttribute::MAX_DYNAMIC_SHARED_SIZE_BYTES).max(
            self.limit(DeviceAttribute::MAX_SHARED_MEMORY_PER_BLOCK)
                - attribute(FunctionAttribute::SHARED_SIZE_BYTES),
        );
        if i64::from(config.shared_bytes) > allowed {
            return Err(LaunchRefusal::SharedMemory);
        }
        let expected: u64 = function.facts.parameters.iter().map(|bytes| u64::from(*bytes)).sum();
        if arguments.len() as u64 != expected {
            return Err(LaunchRefusal::Arguments);
        }
        Ok(threads)
    }

    /// A cooperative grid must fit on the device as a whole.
    fn judge_cooperative(
        &self,
        function: CUfunction,
        config: &LaunchConfig,
        threads: i64,
    ) -> Result<(), LaunchRefusal> {
        let block = i32::try_from(threads).map_err(|_| LaunchRefusal::Configuration)?;
        let resident = self
            .cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                function,
                block,
                u64::from(config.shared_bytes),
                0,
            )
            .map_err(LaunchRefusal::Broken)?;
        let room = i128::from(resident) * i128::from(self.limit(DeviceAttribute::MULTIPROCESSOR_COUNT));
        if i128::try_from(config.grid.count()).unwrap_or(i128::MAX) > room {
            return Err(LaunchRefusal::Cooperative);
        }
        Ok(())
    }
}
