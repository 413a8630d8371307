//! One function from top to bottom.

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::{
    AbiParam, Block, Function as ClifFunction, InstBuilder, SigRef, Signature, Type, UserFuncName, Value,
    types,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use ptx::{Body, Function, Instruction, Module, Opcode, Operand, ScalarType, Space, Statement};

use super::analysis::{self, Lowering, SharedId, Unit};
use super::cold::{self, ColdCalls};
use super::plan::Plan;
use super::regions::Part;
use super::{FunctionTable, Limits};
use crate::error::CompileError;
use crate::image::FunctionId;
use crate::jit::context::ThreadContext;
use crate::jit::helpers;

/// Why an instruction cannot be translated.
pub(super) type Done = Result<(), String>;

/// Where a variable of the function is.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// A host address.
    Address(Value),
    /// An offset to the block's shared memory.
    Shared(u32),
}

pub(super) struct Translator<'a, 'b> {
    pub(super) b: FunctionBuilder<'b>,
    pub(super) unit: &'a Unit<'a>,
    pub(super) id: FunctionId,
    pub(super) module: &'a Module,
    pub(super) function: &'a Function,
    pub(super) body: &'a Body,
    pub(super) table: &'a FunctionTable,
    pub(super) limits: &'a Limits,
    cold: &'a ColdCalls,
    pub(super) ctx: Value,
    pub(super) registers: Vec<(Variable, Type)>,
    pub(super) places: Vec<Place>,
    pub(super) labels: Vec<Block>,
    /// Where the thread goes when it returns.
    pub(super) leave: Block,
    /// The region, in kernels that are cut into regions.
    pub(super) part: Option<Part<'a>>,
    /// `.cc`: the carry flag, 0 or 1.
    pub(super) carry: Variable,
    /// Accesses of this block that were checked: base, alignment and place, so that the next one need not be.
    pub(super) checked: HashMap<(Value, u32), i64>,
    /// No way leads to the current point.
    pub(super) terminated: bool,
    pub(super) statement: usize,
    /// How far the local arena was used when the function began.
    pub(super) local_top: Option<Value>,
    spins: HashSet<usize>,
    signatures: HashMap<(Vec<Type>, Option<Type>), SigRef>,
}

/// An instruction taken apart.
pub(super) struct Op<'a> {
    pub(super) opcode: &'a Opcode,
    pub(super) types: Vec<ScalarType>,
    pub(super) operands: &'a [Operand],
}

impl Op<'_> {
    pub(super) fn has(&self, modifier: &str) -> bool {
        self.opcode.has(modifier)
    }

    /// The type it ends with.
    pub(super) fn ty(&self) -> Result<ScalarType, String> {
        self.types.last().copied().ok_or_else(|| "it names no type".into())
    }

    pub(super) fn operand(&self, at: usize) -> Result<&Operand, String> {
        self.operands.get(at).ok_or_else(|| "an operand is missing".into())
    }
}

impl<'a, 'b> Translator<'a, 'b> {
    /// Translates a function; of a kernel that is cut, the region that `part` names.
    pub(super) fn translate(
        unit: &'a Unit<'a>,
        id: FunctionId,
        part: Option<(&'a Plan, usize)>,
        table: &'a FunctionTable,
        (limits, cold, frontend): (&'a Limits, &'a ColdCalls, TargetFrontendConfig),
        clif: &'b mut ClifFunction,
        context: &'b mut FunctionBuilderContext,
    ) -> Result<(), CompileError> {
        let function = unit.image.function(id);
        let body = unit.body(id);
        let module = &unit.image.texts[id.text];
        clif.name = UserFuncName::user(0, u32::try_from(unit.slots[&id]).unwrap_or(0));
        clif.signature = Signature::new(CallConv::SystemV);
        clif.signature.params.push(AbiParam::new(types::I64));
        if part.is_some() {
            // The first thread, the end of the range, and the outcome.
            clif.signature.params.extend([AbiParam::new(types::I32); 2]);
            clif.signature.returns.push(AbiParam::new(types::I32));
        }
        if id != unit.kernel {
            let count = function.returns.len() + function.params.len();
            clif.signature.params.extend((0..count).map(|_| AbiParam::new(types::I64)));
        }
        let mut b = FunctionBuilder::new(clif, context);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let ctx = b.block_params(entry)[0];
        let storage = register_types(module, body);
        let registers = storage.into_iter().map(|ty| (b.declare_var(ty), ty)).collect();
        let labels = (0..body.labels).map(|_| b.create_block()).collect();
        let leave = b.create_block();
        let carry = b.declare_var(types::I64);
        let spins = match unit.lowering {
            Lowering::Fibers => analysis::spinning_branches(module, body, |_| true),
            Lowering::Regions => HashSet::new(),
        };
        let mut translator = Self {
            b,
            unit,
            id,
            module,
            function,
            body,
            table,
            limits,
            cold,
            ctx,
            registers,
            places: Vec::new(),
            labels,
            leave,
            part: None,
            carry,
            checked: HashMap::new(),
            terminated: false,
            statement: 0,
            local_top: None,
            spins,
            signatures: HashMap::new(),
        };
        let mut done = translator.refuse_clusters().map_err(|what| CompileError {
            function: function.name.to_string(),
            instruction: ".reqnctapercluster".into(),
            line: function.line,
            what,
        });
        translator.prologue(entry, part);
        if part.is_some() {
            if done.is_ok() {
                done = translator.region_body().map_err(|(at, what)| translator.error(at, what));
            }
            done?;
            translator.b.seal_all_blocks();
            translator.b.finalize(frontend);
            return Ok(());
        }
        for (at, statement) in body.statements.iter().enumerate() {
            translator.statement = at;
            if done.is_err() {
                break;
            }
            match statement {
                Statement::Label(label) => {
                    let block = translator.labels[*label as usize];
                    translator.start_block(block);
                }
                Statement::Instruction(_) if translator.terminated => {}
                Statement::Instruction(instruction) => {
                    if let Err(what) = translator.instruction(instruction) {
                        done = Err(translator.error(at, what));
                        break;
                    }
                }
            }
        }
        translator.epilogue();
        translator.b.seal_all_blocks();
        translator.b.finalize(frontend);
        done
    }

    /// What is wrong with the instruction at a statement.
    fn error(&self, at: usize, what: String) -> CompileError {
        let function = self.function.name.to_string();
        match &self.body.statements[at] {
            Statement::Instruction(instruction) => {
                let text = self.module.opcode(instruction).text.to_string();
                CompileError { function, instruction: text, line: instruction.line, what }
            }
            Statement::Label(_) => {
                CompileError { function, instruction: String::new(), line: self.function.line, what }
            }
        }
    }

    fn prologue(&mut self, entry: Block, part: Option<(&'a Plan, usize)>) {
        let is_kernel = self.id == self.unit.kernel;
        if let Some((plan, index)) = part {
            self.open_region(plan, index, entry);
        }
        let mut ends = 1;
        let mut local = None;
        let frame = analysis::frame_bytes(self.body);
        if part.is_none() && (frame > 0 || analysis::allocates(self.module, self.body)) {
            local = Some(self.open_frame(frame));
        }
        let layout = self.function.param_layout();
        let params = self.function.returns.len() + self.function.params.len();
        for (index, variable) in self.body.variables.iter().enumerate() {
            let place = match variable.space {
                _ if index < params && is_kernel => {
                    let base = self.field(types::I64, std::mem::offset_of!(ThreadContext, params));
                    let offset = i64::from(layout[index].offset);
                    Place::Address(self.b.ins().iadd_imm_s(base, offset))
                }
                _ if index < params => {
                    ends += 1;
                    Place::Address(self.b.block_params(entry)[ends - 1])
                }
                Space::Shared => Place::Shared(self.unit.shared[&SharedId::Function(self.id, index)]),
                // In regions each thread finds its own.
                Space::Local if self.part.is_some() => Place::Shared(0),
                Space::Local => {
                    let base = local.expect("a frame was opened for local variables");
                    let offset = self.local_offset(index);
                    let place = self.b.ins().iadd_imm_s(base, offset);
                    Place::Address(place)
                }
                _ => Place::Address(self.stack_slot(variable.bytes, variable.align)),
            };
            self.places.push(place);
        }
    }

    /// Where a `.local` variable lies in the function's frame.
    fn local_offset(&self, index: usize) -> i64 {
        let locals = self.body.variables[..=index].iter().filter(|variable| variable.space == Space::Local);
        let mut place = 0;
        let mut end = 0_u64;
        for variable in locals {
            place = end.next_multiple_of(u64::from(variable.align).max(16));
            end = place + variable.bytes;
        }
        place.cast_signed()
    }

    /// In regions, at the head of a loop over threads: where the thread's `.local` variables are.
    pub(super) fn place_locals(&mut self) {
        if self.unit.local_bytes == 0 {
            return;
        }
        let base = self.open_frame(analysis::frame_bytes(self.body));
        for index in 0..self.body.variables.len() {
            if self.body.variables[index].space == Space::Local {
                let offset = self.local_offset(index);
                let place = self.b.ins().iadd_imm_s(base, offset);
                self.places[index] = Place::Address(place);
            }
        }
    }

    fn epilogue(&mut self) {
        if !self.terminated {
            self.b.ins().jump(self.leave, &[]);
        }
        self.b.switch_to_block(self.leave);
        self.close_frame();
        self.b.ins().return_(&[]);
    }

    /// Ends the current block by going on to `block`.
    pub(super) fn start_block(&mut self, block: Block) {
        if !self.terminated {
            self.b.ins().jump(block, &[]);
        }
        self.b.switch_to_block(block);
        self.terminated = false;
        self.checked.clear();
    }

    /// Whether the branch at the current statement closes a loop in which the thread may wait for others.
    pub(super) fn closes_spin(&self) -> bool {
        self.spins.contains(&self.statement)
    }

    pub(super) fn instruction(&mut self, instruction: &'a Instruction) -> Done {
        let opcode = self.module.opcode(instruction);
        let op = Op { opcode, types: opcode.types(), operands: &instruction.operands };
        if self.limits.check {
            let line = self.constant(types::I32, u64::from(instruction.line));
            let offset =
                i32::try_from(std::mem::offset_of!(ThreadContext, line)).expect("the context is small");
            self.b.ins().store(cranelift_codegen::ir::MemFlagsData::trusted(), line, self.ctx, offset);
        }
        let Some((guard, negated)) = instruction.guard else {
            return self.perform(&op);
        };
        let condition = self.register(guard, types::I8);
        if opcode.name() == "bra" {
            return self.branch_if(&op, condition, negated);
        }
        let (then, after) = (self.b.create_block(), self.b.create_block());
        if negated {
            self.b.ins().brif(condition, after, &[], then, &[]);
        } else {
            self.b.ins().brif(condition, then, &[], after, &[]);
        }
        self.b.switch_to_block(then);
        self.b.seal_block(then);
        let checked = self.checked.clone();
        self.perform(&op)?;
        if !self.terminated {
            self.b.ins().jump(after, &[]);
        }
        self.b.switch_to_block(after);
        self.b.seal_block(after);
        self.terminated = false;
        self.checked = checked;
        Ok(())
    }

    /// Does an instruction, or at a point of a region asks for it.
    fn perform(&mut self, op: &Op<'a>) -> Done {
        match self.part.as_ref().and_then(|part| part.point_at(self.statement)) {
            Some(point) => self.ask_at(op, point),
            None => self.dispatch(op),
        }
    }

    pub(super) fn dispatch(&mut self, op: &Op<'a>) -> Done {
        match op.opcode.name() {
            "mov" => self.mov(op),
            "ld" | "ldu" => self.load(op),
            "st" => self.store(op),
            "cvta" => self.cvta(op),
            "isspacep" => self.isspacep(op),
            "atom" | "red" => self.atomic(op),
            "cp" => self.copy_async(op),
            "fence" | "membar" => {
                self.b.ins().fence();
                Ok(())
            }
            "prefetch" | "prefetchu" | "applypriority" | "discard" | "pmevent" | "setmaxnreg"
            | "griddepcontrol" | "createpolicy" => Ok(()),
            "bra" => self.branch(op),
            "brx" => self.branch_indexed(op),
            "call" => self.call(op),
            "ret" | "exit" => self.leave_function(op),
            "trap" | "brkpt" => self.trap(op),
            "nanosleep" => self.nanosleep(),
            "bar" | "barrier" => self.barrier(op),
            "shfl" => self.shuffle(op),
            "vote" => self.vote(op),
            "match" => self.match_lanes(op),
            "redux" => self.redux(op),
            "activemask" => self.activemask(op),
            "elect" => self.elect(op),
            "mapa" => self.map_to_block(op),
            "getctarank" => self.block_rank(op),
            "alloca" => self.allocate_local(op),
            "stacksave" => self.save_stack(op),
            "stackrestore" => self.restore_stack(op),
            "mbarrier" => self.mbarrier(op),
            "mma" => self.mma(op),
            "wmma" => self.wmma(op),
            "ldmatrix" => self.load_matrix(op),
            "stmatrix" => self.store_matrix(op),
            "movmatrix" => self.move_matrix(op),
            "setp" => self.setp(op),
            "set" => self.set(op),
            "selp" => self.selp(op),
            "slct" => self.slct(op),
            "cvt" => self.cvt(op),
            "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" => self.logic(op),
            "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi" | "bmsk" | "szext" | "prmt" | "fns" => {
                self.bit_field(op)
            }
            "addc" | "subc" | "madc" => self.carry_chain(op),
            "add" | "sub" | "mad" if op.has("cc") => self.carry_chain(op),
            "add" | "sub" | "mul" | "fma" if op.ty()? == ScalarType::F32x2 => self.float_pair(op),
            "testp" | "copysign" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "ex2" | "lg2" | "tanh"
            | "fma" => self.float(op),
            "add" | "sub" | "mul" | "div" | "mad" | "neg" | "abs" | "min" | "max" => {
                if op.ty()?.is_float() || matches!(op.ty()?, ScalarType::F16x2 | ScalarType::Bf16x2) {
                    self.float(op)
                } else {
                    self.integer(op)
                }
            }
            "tex" | "tld4" => self.texture(op),
            "txq" | "suq" => self.texture_query(op),
            "suld" | "sust" | "sured" => self.surface(op),
            "rem" | "mul24" | "mad24" | "sad" | "dp4a" | "dp2a" => self.integer(op),
            name if name.starts_with('v') => self.video(op),
            _ => Err("the software GPU does not know this instruction".into()),
        }
    }

    /// Calls a helper by its address.
    pub(super) fn helper(&mut self, address: usize, args: &[Value], result: Option<Type>) -> Option<Value> {
        let shape: Vec<Type> = args.iter().map(|&arg| self.b.func.dfg.value_type(arg)).collect();
        let key = (shape, result);
        let signature = match self.signatures.get(&key) {
            Some(&signature) => signature,
            None => {
                let mut signature = Signature::new(CallConv::SystemV);
                signature.params = key.0.iter().map(|&ty| AbiParam::new(ty)).collect();
                signature.returns = result.into_iter().map(AbiParam::new).collect();
                let signature = self.b.import_signature(signature);
                self.signatures.insert(key, signature);
                signature
            }
        };
        let address = self.b.ins().iconst(types::I64, address.cast_signed() as i64);
        let call = self.b.ins().call_indirect(signature, address, args);
        result.map(|_| self.b.inst_results(call)[0])
    }

    /// Calls [`helpers::judge`] from a cold block.
    pub(super) fn judge(&mut self, address: Value, shape: Value) {
        self.publish_place();
        let (judge, arguments) = self.cold.judge();
        self.call_cold(judge, arguments, &[self.ctx, address, shape]);
    }

    /// Calls [`helpers::fault`] from a cold block.
    pub(super) fn fault_cold(&mut self, code: u32) {
        self.publish_place();
        let code = self.constant(types::I32, u64::from(code));
        let (fault, arguments) = self.cold.fault();
        self.call_cold(fault, arguments, &[self.ctx, code]);
    }

    /// Tells the context which thread of its block this is, where one coroutine runs them all.
    fn publish_place(&mut self) {
        if let Some(thread) = self.loop_thread() {
            self.set_field(std::mem::offset_of!(ThreadContext, at), thread);
        }
    }

    fn call_cold(&mut self, address: usize, arguments: &[Type], values: &[Value]) {
        let key = (arguments.to_vec(), Some(types::INVALID));
        let signature = match self.signatures.get(&key) {
            Some(&signature) => signature,
            None => {
                let signature = cold::signature(CallConv::PreserveAll, arguments);
                let signature = self.b.import_signature(signature);
                self.signatures.insert(key, signature);
                signature
            }
        };
        let address = self.constant(types::I64, address as u64);
        self.b.ins().call_indirect(signature, address, values);
    }

    /// Calls a helper that ends the thread with a fault; the current block ends here.
    pub(super) fn fault(&mut self, code: u32) {
        self.publish_place();
        let code = self.b.ins().iconst(types::I32, i64::from(code));
        self.helper(helpers::fault as *const () as usize, &[self.ctx, code], None);
        self.b.ins().jump(self.leave, &[]);
        self.terminated = true;
    }
}

/// What each register is kept as: its declared type, but `.b32` registers that mostly hold floats as floats.
pub(super) fn register_types(module: &Module, body: &Body) -> Vec<Type> {
    let mut votes = vec![0_i32; body.registers.len()];
    for instruction in analysis::instructions(body) {
        let opcode = module.opcode(instruction);
        let Some(&ty) = opcode.types().last() else { continue };
        if matches!(opcode.name(), "mov" | "ld" | "st" | "selp" | "shfl") && !ty.is_float() {
            continue;
        }
        let first = *opcode.types().first().unwrap_or(&ty);
        for (at, operand) in instruction.operands.iter().enumerate() {
            let Operand::Register(register) = operand else { continue };
            let ty = if at == 0 { first } else { ty };
            let float = matches!(ty, ScalarType::F32 | ScalarType::F64);
            votes[*register as usize] += if float { 1 } else { -1 };
        }
    }
    let storage = body.registers.iter().zip(votes).map(|(&ty, vote)| match ty {
        ScalarType::B32 if vote > 0 => types::F32,
        ScalarType::B64 if vote > 0 => types::F64,
        _ => clif_type(ty),
    });
    storage.collect()
}

/// The type in which a value of a PTX type is computed or kept.
pub(super) fn clif_type(ty: ScalarType) -> Type {
    match ty {
        ScalarType::F32 | ScalarType::Tf32 => types::F32,
        ScalarType::F64 => types::F64,
        ScalarType::B128 => types::I128,
        _ => match ty.bytes() {
            1 => types::I8,
            2 => types::I16,
            4 => types::I32,
            _ => types::I64,
        },
    }
}
