//! A kernel as regions: each a function that runs a range of threads, one after the other, from one point to the next.
//!
//! Between two points a thread is its record: what it asks for, what it is answered, and the registers that the code
//! behind the point needs. A register keeps its place in the record, so a region writes back only what it changes.

use std::collections::HashMap;
use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::Variable;
use ptx::ast::RegId;
use ptx::{Operand, Statement};

use super::analysis::{self, Unit};
use super::flow::{Flow, Region, Roles};
use super::translator::{Done, Op, Translator, register_types};
use crate::jit::context::{EXITED, MIXED, Record, ThreadContext, Wait};

/// How a kernel is cut, and what a thread's record holds.
pub(super) struct Plan {
    pub(super) flow: Flow,
    /// What threads wait for at each point; of the first, the top of the kernel, nothing is asked.
    pub(super) waits: Vec<Wait>,
    /// Offsets in the record of the registers that are live at a point.
    places: HashMap<RegId, u32>,
    /// Where the carry flag is kept, if the kernel has one.
    carry: Option<u32>,
    /// 0 if the kernel has no points: there are no records then.
    pub(super) record_bytes: u32,
}

impl Plan {
    /// Cuts the unit's kernel; `None` if that cannot be done or would make too much code of it.
    pub(super) fn new(unit: &Unit<'_>) -> Option<Plan> {
        let module = &unit.image.texts[unit.kernel.text];
        let function = unit.image.function(unit.kernel);
        let body = unit.body(unit.kernel);
        let flow =
            Flow::new(module, body, |instruction| analysis::is_point(module.opcode(instruction).name()));
        if flow.points.len() > 1
            && (flow.size() > MOST_GROWTH * body.statements.len() + SMALL
                || flow.parts_a_call(body, function.params.len()))
        {
            return None;
        }
        let waits = flow.points.iter().map(|point| match point.map(|at| &body.statements[at]) {
            Some(Statement::Instruction(instruction)) => {
                let opcode = module.opcode(instruction);
                match (opcode.name(), instruction.operands.as_slice()) {
                    ("activemask", _) => Wait::ActiveMask,
                    ("bar" | "barrier", _) if opcode.has("warp") => Wait::Warp,
                    ("bar" | "barrier", _) if opcode.has("arrive") => Wait::Arrive,
                    ("bar" | "barrier", [Operand::Int(id)]) if !opcode.has("red") => {
                        Wait::Whole(u32::try_from(*id).unwrap_or(u32::MAX))
                    }
                    ("bar" | "barrier", _) => Wait::Barrier,
                    _ => Wait::Warp,
                }
            }
            _ => Wait::Barrier,
        });
        let waits = waits.collect();
        let types = register_types(module, body);
        let mut end = u32::try_from(size_of::<Record>()).unwrap_or(u32::MAX);
        let mut place = |bytes: u32| {
            let offset = end.next_multiple_of(bytes);
            end = offset + bytes;
            offset
        };
        let mut places = HashMap::new();
        for &register in flow.live.iter().flatten() {
            places.entry(register).or_insert_with(|| place(types[register as usize].bytes()));
        }
        let carries = analysis::instructions(body).any(|instruction| {
            let opcode = module.opcode(instruction);
            opcode.has("cc") || matches!(opcode.name(), "addc" | "subc" | "madc")
        });
        let carry = carries.then(|| place(8));
        let record_bytes = if flow.points.len() > 1 { end.next_multiple_of(16) } else { 0 };
        Some(Plan { flow, waits, places, carry, record_bytes })
    }

    pub(super) fn regions(&self) -> usize {
        self.flow.points.len()
    }

    /// Whether the threads that start at a point must be kept in warps: they come to an operation of the warp.
    pub(super) fn by_warp(&self, region: usize) -> bool {
        let outcomes = self.flow.region(region).outcomes;
        outcomes.iter().any(|&point| point > 0 && matches!(self.waits[point], Wait::Warp | Wait::ActiveMask))
    }
}

/// The region that is being translated.
pub(super) struct Part<'a> {
    plan: &'a Plan,
    index: usize,
    pub(super) region: Region,
    /// The thread, and where its record and its local memory are.
    thread: Variable,
    record: Variable,
    pub(super) local: Variable,
    pub(super) tid: [Variable; 3],
    last: Value,
    /// All outcomes so far, joined by `and` and by `or`.
    joined: [Variable; 2],
    head: Block,
    /// Where a thread ends its turn; its parameter is the outcome.
    latch: Block,
    pub(super) phase: Phase,
    /// Registers that the region may write.
    written: Vec<bool>,
}

impl Part<'_> {
    /// The point at a statement, if there is one.
    pub(super) fn point_at(&self, statement: usize) -> Option<usize> {
        self.plan.flow.point_at(statement)
    }
}

/// Which half of an operation that waits is being translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The thread leaves its request in its record, and ends its turn.
    Ask,
    /// The next region begins with the answer.
    Answer,
}

impl<'a> Translator<'a, '_> {
    /// From the top of the function to where each thread begins.
    pub(super) fn open_region(&mut self, plan: &'a Plan, index: usize, entry: Block) {
        let [first, last] = [1, 2].map(|at| self.b.block_params(entry)[at]);
        let tid = [0, 1, 2].map(|axis| {
            let variable = self.b.declare_var(types::I32);
            let value = self.field_now(types::I32, offset_of!(ThreadContext, tid) + 4 * axis);
            self.b.def_var(variable, value);
            variable
        });
        let thread = self.b.declare_var(types::I32);
        self.b.def_var(thread, first);
        let wide = self.b.ins().uextend(types::I64, first);
        let record = self.b.declare_var(types::I64);
        let local = self.b.declare_var(types::I64);
        let strides = [
            (record, offset_of!(ThreadContext, records), self.constant(types::I64, plan.record_bytes.into())),
            (local, offset_of!(ThreadContext, local_arena), self.local_stride(plan)),
        ];
        for (variable, base, stride) in strides {
            let base = self.field(types::I64, base);
            let offset = self.b.ins().imul(wide, stride);
            let value = self.b.ins().iadd(base, offset);
            self.b.def_var(variable, value);
        }
        let joined = [u64::MAX, 0].map(|start| {
            let variable = self.b.declare_var(types::I32);
            let value = self.constant(types::I32, start);
            self.b.def_var(variable, value);
            variable
        });
        let region = plan.flow.region(index);
        let mut written = vec![false; self.body.registers.len()];
        for statement in region.blocks.iter().flat_map(|&block| {
            let block = &plan.flow.blocks[block];
            &self.body.statements[block.first..block.end]
        }) {
            if let Statement::Instruction(instruction) = statement {
                Roles::may_write(self.module, instruction).for_each(|register| written[register] = true);
            }
        }
        if let Some(Statement::Instruction(asked)) =
            plan.flow.points[index].map(|at| &self.body.statements[at])
        {
            Roles::may_write(self.module, asked).for_each(|register| written[register] = true);
        }
        let (head, latch) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(latch, types::I32);
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        let phase = Phase::Answer;
        self.part = Some(Part {
            plan,
            index,
            region,
            thread,
            record,
            local,
            tid,
            last,
            joined,
            head,
            latch,
            phase,
            written,
        });
    }

    /// Bytes between the local memories of two threads: none if only one of them is alive at a time.
    fn local_stride(&mut self, plan: &Plan) -> Value {
        if plan.regions() == 1 {
            return self.constant(types::I64, 0);
        }
        self.field(types::I64, offset_of!(ThreadContext, local_bytes))
    }

    /// The statements of the region: what the thread was answered, then block by block.
    pub(super) fn region_body(&mut self) -> Result<(), (usize, String)> {
        let part = self.part.as_ref().expect("a region was opened");
        let (plan, index, start) = (part.plan, part.index, part.region.start);
        let blocks = part.region.blocks.clone();
        self.restore(plan, index);
        let asked = plan.flow.points[index];
        if let Some(at) = asked
            && let Statement::Instruction(instruction) = &self.body.statements[at]
        {
            self.statement = at;
            let opcode = self.module.opcode(instruction);
            let op = Op { opcode, types: opcode.types(), operands: &instruction.operands };
            self.dispatch(&op).map_err(|what| (at, what))?;
        }
        self.part.as_mut().expect("a region was opened").phase = Phase::Ask;
        let targets: HashMap<usize, Block> =
            blocks.iter().map(|&block| (block, self.b.create_block())).collect();
        for &block in &blocks {
            for statement in &self.body.statements[plan.flow.blocks[block].first..] {
                let Statement::Label(label) = statement else { break };
                self.labels[*label as usize] = targets[&block];
            }
        }
        self.b.ins().jump(targets[&start], &[]);
        self.terminated = true;
        for block in blocks {
            self.start_block(targets[&block]);
            let block = &plan.flow.blocks[block];
            for at in block.first..block.end {
                let Statement::Instruction(instruction) = &self.body.statements[at] else { continue };
                if self.terminated {
                    break;
                }
                self.statement = at;
                self.instruction(instruction).map_err(|what| (at, what))?;
            }
            if block.exits && block.next.is_empty() && !self.terminated {
                self.b.ins().jump(self.leave, &[]);
                self.terminated = true;
            }
        }
        Ok(())
    }

    /// The ends of all threads: to the next one, and after the last the outcome that they have in common.
    pub(super) fn close_region(&mut self) {
        if !self.terminated {
            self.b.ins().jump(self.leave, &[]);
        }
        self.b.switch_to_block(self.leave);
        let part = self.part.as_ref().expect("a region was opened");
        let (head, latch, last, tid) = (part.head, part.latch, part.last, part.tid);
        let (thread, record, local, joined) = (part.thread, part.record, part.local, part.joined);
        let (plan, outcomes) = (part.plan, part.region.outcomes.clone());
        let exited = self.constant(types::I32, EXITED.into());
        self.b.ins().jump(latch, &[exited.into()]);
        self.b.switch_to_block(latch);
        let outcome = self.b.block_params(latch)[0];
        if outcomes.len() > 1 {
            self.set_record(offset_of!(Record, outcome), outcome);
            let [all, any] = joined.map(|variable| self.b.use_var(variable));
            let all = self.b.ins().band(all, outcome);
            let any = self.b.ins().bor(any, outcome);
            self.b.def_var(joined[0], all);
            self.b.def_var(joined[1], any);
        }
        let now = self.b.use_var(record);
        let next = self.b.ins().iadd_imm_s(now, i64::from(plan.record_bytes));
        self.b.def_var(record, next);
        let now = self.b.use_var(local);
        let stride = self.local_stride(plan);
        let next = self.b.ins().iadd(now, stride);
        self.b.def_var(local, next);
        let (more, out) = (self.b.create_block(), self.b.create_block());
        let now = self.b.use_var(thread);
        let next = self.b.ins().iadd_imm_s(now, 1);
        self.b.def_var(thread, next);
        let goes_on = self.b.ins().icmp(IntCC::UnsignedLessThan, next, last);
        self.b.ins().brif(goes_on, more, &[], out, &[]);
        self.b.switch_to_block(more);
        // x runs fastest, as in the linear index of a thread.
        for (axis, variable) in tid.into_iter().enumerate() {
            let now = self.b.use_var(variable);
            let next = self.b.ins().iadd_imm_s(now, 1);
            self.b.def_var(variable, next);
            if axis == 2 {
                self.b.ins().jump(head, &[]);
                break;
            }
            let extent = self.field(types::I32, offset_of!(ThreadContext, ntid) + 4 * axis);
            let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, next, extent);
            let wrap = self.b.create_block();
            self.b.ins().brif(inside, head, &[], wrap, &[]);
            self.b.switch_to_block(wrap);
            let zero = self.constant(types::I32, 0);
            self.b.def_var(variable, zero);
        }
        self.b.switch_to_block(out);
        let result = match outcomes.as_slice() {
            [] => self.constant(types::I32, EXITED.into()),
            [only] => self.constant(types::I32, *only as u64),
            _ => {
                let [all, any] = joined.map(|variable| self.b.use_var(variable));
                let same = self.b.ins().icmp(IntCC::Equal, all, any);
                let mixed = self.constant(types::I32, MIXED.into());
                self.b.ins().select(same, all, mixed)
            }
        };
        self.b.ins().return_(&[result]);
    }

    /// Translates an instruction at a point: what it asks for, then the end of the thread's turn.
    pub(super) fn ask_at(&mut self, op: &Op<'a>, point: usize) -> Done {
        self.dispatch(op)?;
        let part = self.part.as_ref().expect("points are in regions");
        let latch = part.latch;
        self.keep(point);
        let outcome = self.constant(types::I32, point as u64);
        self.b.ins().jump(latch, &[outcome.into()]);
        self.terminated = true;
        Ok(())
    }

    /// Writes the registers that are live at a point to the record, as far as this region changes them.
    fn keep(&mut self, point: usize) {
        let part = self.part.as_ref().expect("points are in regions");
        let plan = part.plan;
        let changed = |register: &&RegId| part.written[**register as usize];
        let registers: Vec<RegId> = plan.flow.live[point].iter().filter(changed).copied().collect();
        for register in registers {
            let value = self.b.use_var(self.registers[register as usize].0);
            self.set_record(plan.places[&register] as usize, value);
        }
        if let Some(place) = plan.carry {
            let value = self.b.use_var(self.carry);
            self.set_record(place as usize, value);
        }
    }

    fn restore(&mut self, plan: &Plan, index: usize) {
        for &register in &plan.flow.live[index] {
            let (variable, ty) = self.registers[register as usize];
            let value = self.record(ty, plan.places[&register] as usize);
            self.b.def_var(variable, value);
        }
        if let (Some(place), 1..) = (plan.carry, index) {
            let value = self.record(types::I64, place as usize);
            self.b.def_var(self.carry, value);
        }
    }

    /// A word of the thread's record.
    pub(super) fn record(&mut self, ty: Type, offset: usize) -> Value {
        let record = self.b.use_var(self.part.as_ref().expect("records are of regions").record);
        let offset = i32::try_from(offset).expect("records are small");
        self.b.ins().load(ty, MemFlagsData::trusted(), record, offset)
    }

    pub(super) fn set_record(&mut self, offset: usize, value: Value) {
        let record = self.b.use_var(self.part.as_ref().expect("records are of regions").record);
        let offset = i32::try_from(offset).expect("records are small");
        self.b.ins().store(MemFlagsData::trusted(), value, record, offset);
    }

    /// The place of the thread in its block, where that is known without computing it.
    pub(super) fn loop_thread(&mut self) -> Option<Value> {
        let thread = self.part.as_ref()?.thread;
        Some(self.b.use_var(thread))
    }
}

/// Regions may hold this many times the statements of their kernel, and this many more.
const MOST_GROWTH: usize = 6;
const SMALL: usize = 2000;
