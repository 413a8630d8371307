//! PTX functions to machine code, one kernel with its callees at a time.
//!
//! Every register becomes a variable of Cranelift's frontend, which makes SSA of it; labels become blocks. Only
//! memory, calls and waiting are more than one instruction for one.
//!
//! Layout:
//! * `analysis`: what a kernel reaches, and its lowering
//! * `flow`, `uniform`, `plan`, `regions`, `record`: a kernel cut where its threads wait for each other
//! * `steps`: where code for lock-step warps needs its lanes together
//! * `range`, `even`: loops over threads without those that do nothing, and without checks that all pass
//! * `translator`: one function from top to bottom, and the dispatch by opcode
//! * `operand`: reading and writing operands, constants, special registers
//! * `integer`, `bits`, `float`, `half`, `compare`, `convert`, `pack`, `video`: arithmetic
//! * `memory`, `atomic`, `cold`: accesses and their checks
//! * `texture`: textures and surfaces
//! * `control`, `sync`: branches, calls, barriers, warp operations
//! * `cluster`: clusters of one block
//! * `mbarrier`, `matrix`: barriers in shared memory, asynchronous copies, products of matrices

mod analysis;
mod atomic;
mod bits;
mod cluster;
mod cold;
mod compare;
mod control;
mod convert;
mod even;
mod float;
mod flow;
mod half;
mod integer;
mod matrix;
mod mbarrier;
mod memory;
mod operand;
mod pack;
mod plan;
mod range;
mod record;
mod regions;
mod special;
mod steps;
mod sync;
mod texture;
mod translator;
mod uniform;
mod video;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, isa};
use cranelift_frontend::FunctionBuilderContext;

pub(crate) use analysis::Lowering;
use analysis::Unit;
use cold::ColdCalls;
use plan::Plan;
use translator::Translator;

use crate::error::CompileError;
use crate::image::{FunctionId, Image};
use crate::jit::code::Code;
use crate::jit::context::Regions;

/// What code may take for constant on its device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The address window: a multiple of its own size, which is a power of two.
    pub(crate) window_base: u64,
    pub(crate) window_bytes: u64,
    /// Where module variables and the device heap live.
    pub(crate) arena_base: u64,
    pub(crate) arena_bytes: u64,
    pub(crate) multiprocessors: u32,
    /// Every access is compared with the allocations, and each instruction leaves its line.
    pub(crate) check: bool,
}

/// Machine code of a kernel and what it needs to run.
pub(crate) struct CompiledKernel {
    pub(crate) lowering: Lowering,
    pub(crate) static_shared_bytes: u32,
    /// Bytes of `.local` variables per thread, all callees included.
    pub(crate) local_bytes: u64,
    pub(crate) recursive: bool,
    /// Bytes of the host's stack for one frame of each of the functions: without recursion no thread needs more.
    pub(crate) frame_bytes: usize,
    entry: usize,
    /// For the lowering of that name.
    pub(crate) regions: Regions,
    /// Kept for the code that names them: function bodies and the table through which they call each other.
    _code: Vec<Code>,
    _table: Arc<FunctionTable>,
    _cold: Arc<ColdCalls>,
}

impl CompiledKernel {
    /// Address of the code: `extern "C" fn(*mut ThreadContext)`.
    pub(crate) fn entry(&self) -> usize {
        self.entry
    }
}

/// What a kernel needs, known before any code is made.
pub(crate) struct Shape {
    pub(crate) static_shared_bytes: u32,
    pub(crate) local_bytes: u64,
}

/// The shape of a kernel.
pub(crate) fn shape(image: &Image, kernel: FunctionId) -> Shape {
    let unit = Unit::new(image, kernel);
    Shape { static_shared_bytes: unit.static_shared_bytes, local_bytes: unit.local_bytes }
}

/// Addresses of a unit's functions, read by `call` when the code runs.
pub(crate) struct FunctionTable(Box<[AtomicUsize]>);

impl FunctionTable {
    pub(crate) fn slot_address(&self, slot: usize) -> usize {
        std::ptr::from_ref(&self.0[slot]).expose_provenance()
    }
}

/// The compiler for this machine's processor.
pub(crate) struct Compiler {
    isa: OwnedTargetIsa,
    pub(crate) limits: Limits,
    cold: Arc<ColdCalls>,
}

impl Compiler {
    pub(crate) fn new(limits: Limits) -> Result<Self, CompileError> {
        let mut flags = settings::builder();
        for (name, value) in [
            ("opt_level", "speed"),
            ("enable_probestack", "true"),
            ("probestack_strategy", "inline"),
            ("unwind_info", "false"),
            ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ] {
            flags.set(name, value).map_err(|error| CompileError::host(error.to_string()))?;
        }
        let builder = cranelift_native::builder().map_err(CompileError::host)?;
        let isa: Result<OwnedTargetIsa, isa::LookupError> =
            Ok(builder
                .finish(settings::Flags::new(flags))
                .map_err(|error| CompileError::host(error.to_string()))?);
        let isa = isa.map_err(|error| CompileError::host(error.to_string()))?;
        let cold = Arc::new(ColdCalls::new(&*isa)?);
        Ok(Self { isa, limits, cold })
    }

    /// Compiles a kernel and everything it can call.
    pub(crate) fn compile(&self, image: &Image, kernel: FunctionId) -> Result<CompiledKernel, CompileError> {
        let mut unit = Unit::new(image, kernel);
        if self.limits.check {
            // In a loop over threads it is not known which of them faults.
            unit.lowering = Lowering::Fibers;
        }
        let plan = match unit.lowering {
            Lowering::Regions => Plan::new(&unit),
            Lowering::Fibers => None,
        };
        if plan.is_none() {
            unit.lowering = Lowering::Fibers;
        }
        let table = Arc::new(FunctionTable((0..unit.functions.len()).map(|_| AtomicUsize::new(0)).collect()));
        let mut making = Making {
            compiler: self,
            unit: &unit,
            table: &table,
            context: Context::new(),
            builder_context: FunctionBuilderContext::new(),
            code: Vec::new(),
            frame_bytes: 0,
        };
        let mut regions = Regions::default();
        if let Some(plan) = &plan {
            for index in 0..plan.regions() {
                regions.entries.push(making.function(kernel, Some((plan, index)))?);
                regions.by_warp.push(plan.by_warp(index));
            }
            regions.waits.clone_from(&plan.waits);
            regions.record_bytes = plan.record_bytes;
        }
        for (slot, &id) in unit.functions.iter().enumerate() {
            if id != kernel || plan.is_none() {
                let address = making.function(id, None)?;
                table.0[slot].store(address, Ordering::Release);
            }
        }
        let (code, frame_bytes) = (making.code, making.frame_bytes);
        Ok(CompiledKernel {
            lowering: unit.lowering,
            static_shared_bytes: unit.static_shared_bytes,
            local_bytes: unit.local_bytes,
            recursive: unit.recursive,
            frame_bytes,
            entry: table.0[0].load(Ordering::Acquire),
            regions,
            _code: code,
            _table: table,
            _cold: Arc::clone(&self.cold),
        })
    }
}

/// The functions of a kernel on their way to machine code.
struct Making<'a> {
    compiler: &'a Compiler,
    unit: &'a Unit<'a>,
    table: &'a FunctionTable,
    context: Context,
    builder_context: FunctionBuilderContext,
    code: Vec<Code>,
    frame_bytes: usize,
}

impl<'a> Making<'a> {
    /// Makes a function, or a region of the kernel; answers the address.
    fn function(&mut self, id: FunctionId, part: Option<(&'a Plan, usize)>) -> Result<usize, CompileError> {
        let isa = &*self.compiler.isa;
        self.context.clear();
        Translator::translate(
            self.unit,
            id,
            part,
            self.table,
            (&self.compiler.limits, &self.compiler.cold, isa.frontend_config()),
            &mut self.context.func,
            &mut self.builder_context,
        )?;
        let dump = std::env::var_os("VGPU_SOFT_DUMP").is_some();
        if dump {
            eprintln!("{}", self.context.func.display());
            self.context.set_disasm(true);
        }
        let compiled = self
            .context
            .compile(isa, &mut ControlPlane::default())
            .map_err(|error| CompileError::host(format!("{:?}", error.inner)))?;
        if dump {
            eprintln!("{}", compiled.vcode.as_deref().unwrap_or_default());
        }
        if !compiled.buffer.relocs().is_empty() {
            return Err(CompileError::host("the code needs a relocation"));
        }
        let frame = compiled.buffer.frame_layout().map_or(0, |layout| layout.frame_to_fp_offset);
        self.frame_bytes = self.frame_bytes.saturating_add(frame as usize);
        let installed =
            Code::install(compiled.code_buffer()).map_err(|error| CompileError::host(error.to_string()))?;
        self.code.push(installed);
        Ok(self.code[self.code.len() - 1].address())
    }
}
