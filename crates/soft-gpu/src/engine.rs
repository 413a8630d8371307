//! PTX programs as the device loads and runs them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cuda_types::{CuError, CuResult};
use proto::{FunctionFacts, GlobalFacts};
use ptx::ast::Linkage;
use ptx::{Module, ParamLayout, Space};

use crate::device::engine::{Engine, Kernel, Launch, Program, RunContext};
use crate::error::{CompileError, LoadError};
use crate::image::{self, FunctionId, Image, LinkFailure, Symbol};
use crate::jit::compiler::{CompiledKernel, Compiler, Limits, shape};
use crate::run::arena::Arena;
use crate::run::grid::{Grid, LaunchRequest};

/// Texts up to this many bytes are compiled when they are loaded, so that what cannot run is known at once. Larger
/// ones (libraries with thousands of kernels) are compiled kernel by kernel at first use.
const EAGER_BYTES: usize = 256 * 1024;

/// The compiler and the memory of one device.
pub struct JitEngine {
    arena: Arc<Arena>,
    multiprocessors: u32,
    check: bool,
}

impl JitEngine {
    /// An engine for a device that reports this many multiprocessors.
    /// With `check`, kernels compare every access with the allocations.
    pub fn new(multiprocessors: usize, check: bool) -> std::io::Result<JitEngine> {
        let multiprocessors = u32::try_from(multiprocessors.max(2)).unwrap_or(u32::MAX);
        Ok(JitEngine { arena: Arc::new(Arena::new()?), multiprocessors, check })
    }
}

impl Engine for JitEngine {
    fn load(&self, texts: &[&str], window: (u64, u64)) -> CuResult<Arc<dyn Program>> {
        let limits = Limits {
            window_base: window.0,
            window_bytes: window.1,
            arena_base: self.arena.base(),
            arena_bytes: self.arena.bytes(),
            multiprocessors: self.multiprocessors,
            check: self.check,
        };
        let program = JitProgram::load(texts, limits, &self.arena).map_err(|error| {
            tracing(&error.to_string());
            CuError::from(error)
        })?;
        if texts.iter().map(|text| text.len()).sum::<usize>() <= EAGER_BYTES {
            for id in program.kernels() {
                // What cannot be compiled is told by the kernel's facts.
                let _ = program.compiled(id);
            }
        }
        Ok(Arc::new(program))
    }
}

/// One line for whoever runs the server.
fn tracing(line: &str) {
    eprintln!("vgpu software GPU: {line}");
}

/// A loaded module.
struct JitProgram {
    image: Image,
    compiler: Compiler,
    arena: Arc<Arena>,
    /// Where the variables begin.
    variables: u64,
    globals: Vec<GlobalFacts>,
    compiled: Mutex<HashMap<FunctionId, Result<Arc<CompiledKernel>, CompileError>>>,
}

impl JitProgram {
    fn load(texts: &[&str], limits: Limits, arena: &Arc<Arena>) -> Result<JitProgram, LoadError> {
        let modules = texts.iter().map(|text| Module::parse(text)).collect::<Result<Vec<_>, _>>();
        let mut modules = modules.map_err(LoadError::Syntax)?;
        if image::needs_conditions(&modules) {
            modules.push(Module::parse(image::CONDITIONS).map_err(LoadError::Syntax)?);
        }
        let linked = image::link(modules, |bytes| arena.allocate(bytes).ok_or(()));
        let (image, placements, variables) = linked.map_err(|failure| match failure {
            LinkFailure::Twice(name) => LoadError::Duplicate(name.into()),
            LinkFailure::Memory(()) => LoadError::Memory,
        })?;
        let compiler = Compiler::new(limits).map_err(|error| LoadError::Unresolved(error.to_string()))?;
        let mut globals = Vec::new();
        for placement in &placements {
            let variable = image.variable(placement.id);
            let address = variables + placement.offset;
            let mut bytes = variable.init.clone();
            for relocation in &variable.relocations {
                let value = match image.symbol(placement.id.text, &relocation.symbol) {
                    Some(Symbol::Memory { address, .. }) => address,
                    Some(Symbol::Function(function)) => function.token(),
                    _ => return Err(LoadError::Unresolved(relocation.symbol.to_string())),
                };
                let value = value.wrapping_add_signed(relocation.addend).to_le_bytes();
                let width = (relocation.width as usize).min(8);
                let at = usize::try_from(relocation.offset).unwrap_or(usize::MAX);
                if bytes.len() < at.saturating_add(width) {
                    bytes.resize(at.saturating_add(width), 0);
                }
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            arena.write(address, &bytes);
            if variable.linkage != Linkage::Private || !variable.name.is_empty() {
                globals.push(GlobalFacts { name: variable.name.to_string(), address, bytes: variable.bytes });
            }
        }
        Ok(JitProgram {
            image,
            compiler,
            arena: Arc::clone(arena),
            variables,
            globals,
            compiled: Mutex::default(),
        })
    }

    fn kernels(&self) -> impl Iterator<Item = FunctionId> + '_ {
        self.image.functions().filter(|id| self.image.function(*id).is_kernel)
    }

    fn compiled(&self, id: FunctionId) -> Result<Arc<CompiledKernel>, CompileError> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled
            .entry(id)
            .or_insert_with(|| {
                let made = self.compiler.compile(&self.image, id);
                if let Err(error) = &made {
                    tracing(&error.to_string());
                }
                made.map(Arc::new)
            })
            .clone()
    }

    fn facts(&self, id: FunctionId) -> FunctionFacts {
        let function = self.image.function(id);
        let module = &self.image.texts[id.text];
        let shape = shape(&self.image, id);
        let product = |extent: [u32; 3]| extent.iter().map(|axis| u64::from(*axis)).product::<u64>();
        let limit =
            function.limits.max_threads.or(function.limits.required_threads).map_or(1024, product).min(1024);
        let threads = i32::try_from(limit).unwrap_or(1024);
        let bytes = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
        let constants = module.variables.iter().filter(|variable| variable.space == Space::Const);
        let target = bytes(u64::from(module.target));
        let shared = bytes(u64::from(shape.static_shared_bytes));
        let mut attributes = vec![
            threads,
            shared,
            bytes(constants.map(|variable| variable.bytes).sum()),
            bytes(shape.local_bytes),
            // As many as a block of that size can have, at most what a compiler would use.
            (65536 / threads.max(1)).min(32),
            target,
            target,
            0,
            (48 * 1024 - shared).max(0),
            -1,
        ];
        attributes.resize(16, 0);
        let compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let unsupported = match compiled.get(&id) {
            Some(Err(error)) => Some(error.to_string()),
            _ => None,
        };
        FunctionFacts {
            name: function.name.to_string(),
            parameters: function.param_layout().iter().map(|parameter| parameter.size).collect(),
            offsets: function.param_layout().iter().map(|parameter| parameter.offset).collect(),
            attributes,
            resident: Vec::new(),
            unsupported,
        }
    }
}

impl Drop for JitProgram {
    fn drop(&mut self) {
        self.arena.free(self.variables);
    }
}

impl Program for JitProgram {
    fn functions(&self) -> Vec<FunctionFacts> {
        self.kernels().map(|id| self.facts(id)).collect()
    }

    fn globals(&self) -> Vec<GlobalFacts> {
        self.globals.clone()
    }

    fn kernel(&self, name: &str) -> CuResult<Arc<dyn Kernel>> {
        let id =
            self.kernels().find(|id| &*self.image.function(*id).name == name).ok_or(CuError::NOT_FOUND)?;
        let compiled = self.compiled(id)?;
        Ok(Arc::new(JitKernel {
            facts: self.facts(id),
            layout: self.image.function(id).param_layout(),
            compiled,
            limits: self.compiler.limits,
            arena: Arc::clone(&self.arena),
        }))
    }
}

/// A compiled kernel. It keeps its code; the module's variables must outlive its launches, as CUDA has it.
struct JitKernel {
    facts: FunctionFacts,
    layout: Vec<ParamLayout>,
    compiled: Arc<CompiledKernel>,
    limits: Limits,
    arena: Arc<Arena>,
}

impl Kernel for JitKernel {
    fn facts(&self) -> &FunctionFacts {
        &self.facts
    }

    fn run(&self, launch: &Launch, arguments: &[u8], context: &RunContext<'_>) -> CuResult<()> {
        let end = self.layout.last().map_or(0, |last| last.offset as usize + last.size as usize);
        let mut params = vec![0; end];
        let mut rest = arguments;
        for parameter in &self.layout {
            let (value, after) =
                rest.split_at_checked(parameter.size as usize).ok_or(CuError::INVALID_VALUE)?;
            params[parameter.offset as usize..][..value.len()].copy_from_slice(value);
            rest = after;
        }
        Grid::run(LaunchRequest {
            kernel: Arc::clone(&self.compiled),
            limits: self.limits,
            arena: Arc::clone(&self.arena),
            grid: launch.grid,
            block: launch.block,
            dynamic_shared_bytes: launch.shared_bytes,
            cooperative: launch.cooperative,
            params: &params,
            print: context.print,
            exact: context.exact,
            abort: context.abort,
            timeout: context.timeout,
            threads: context.threads,
            stack_limit: context.stack_bytes,
            heap_bytes: context.heap_bytes,
            objects: Arc::clone(context.objects.objects()),
        })
        .map_err(|fault| {
            let place = fault.culprit.map_or(String::new(), |culprit| format!(" in {culprit}"));
            tracing(&format!("kernel {} ends with {}{place}", self.facts.name, fault.error));
            fault.error
        })
    }
}
