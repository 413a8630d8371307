//! A kernel as regions: each a function that runs a range of threads, one after the other, from one point to the next.
//!
//! Between two points a thread is its record: what it asks for, what it is answered, and the registers that the code
//! behind the point needs. A register keeps its place in the record, so a region writes back only what it changes.

use std::collections::{HashMap, HashSet};
use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::Variable;
use ptx::ast::RegId;
use ptx::{Instruction, Operand, ScalarType, Statement};

use super::analysis::{self, Unit};
use super::flow::{Flow, Region, Roles};
use super::translator::{Done, Op, Translator, register_types};
use super::uniform::{Text, Uniform};
use crate::jit::context::{EXITED, MIXED, Record, ThreadContext, Wait};

/// How a kernel is cut, and what a thread's record holds.
pub(super) struct Plan {
    pub(super) flow: Flow,
    uniform: Uniform,
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
        let flow = Flow::new(module, body, |instruction| analysis::is_point(module.opcode(instruction)));
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
                    ("ld" | "st", _) => Wait::Step,
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
        let waits: Vec<Wait> = waits.collect();
        let mut uniform = Uniform::new(module, body, function.params.len(), &flow);
        // What is kept once for all threads is found by the first of a range that goes on; other waits part ranges.
        if !waits[1..].iter().all(|wait| matches!(wait, Wait::Whole(_))) {
            uniform.forget();
        }
        let types = register_types(module, body);
        let mut end = u32::try_from(size_of::<Record>()).unwrap_or(u32::MAX);
        let mut place = |bytes: u32| {
            let offset = end.next_multiple_of(bytes);
            end = offset + bytes;
            offset
        };
        let mut places = HashMap::new();
        for &register in flow.live.iter().flatten().filter(|&&register| uniform.anew(register).is_none()) {
            places.entry(register).or_insert_with(|| place(types[register as usize].bytes()));
        }
        let carries = analysis::instructions(body).any(|instruction| {
            let opcode = module.opcode(instruction);
            opcode.has("cc") || matches!(opcode.name(), "addc" | "subc" | "madc")
        });
        let carry = carries.then(|| place(8));
        let record_bytes = if flow.points.len() > 1 { end.next_multiple_of(16) } else { 0 };
        Some(Plan { flow, uniform, waits, places, carry, record_bytes })
    }

    pub(super) fn regions(&self) -> usize {
        self.flow.points.len()
    }

    /// Whether the threads that start at a point must be kept in warps: they come to an operation of the warp.
    pub(super) fn by_warp(&self, region: usize) -> bool {
        let outcomes = self.flow.region(region).outcomes;
        outcomes.iter().any(|&point| {
            point > 0 && matches!(self.waits[point], Wait::Warp | Wait::ActiveMask | Wait::Step)
        })
    }
}

/// The region that is being translated.
pub(super) struct Part<'a> {
    plan: &'a Plan,
    index: usize,
    first: Value,
    last: Value,
    /// The record of the first thread of the range.
    leader: Value,
    /// The axes of the first thread.
    start: [Value; 3],
    /// The thread that a loop is at: its axes, the first thread of its row, its record and its local memory.
    pub(super) tid: [Variable; 3],
    row: Variable,
    record: Variable,
    pub(super) local: Variable,
    /// All outcomes so far, joined by `and` and by `or`.
    joined: [Variable; 2],
    /// Where a thread of the loop ends its turn; its parameter is the outcome.
    latch: Block,
    pub(super) phase: Phase,
    /// Registers that the region may write.
    written: Vec<bool>,
    /// All threads of the loop come to the same point, so what is equal in all of them is kept once.
    together: bool,
    in_loop: bool,
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
    /// From the top of the function to where its statements begin.
    pub(super) fn open_region(&mut self, plan: &'a Plan, index: usize, entry: Block) {
        let [first, last] = [1, 2].map(|at| self.b.block_params(entry)[at]);
        let start =
            [0, 1, 2].map(|axis| self.field_now(types::I32, offset_of!(ThreadContext, tid) + 4 * axis));
        let tid = start.map(|_| self.b.declare_var(types::I32));
        let [row, ..] = start.map(|_| self.b.declare_var(types::I32));
        let [record, local] = [0, 1].map(|_| self.b.declare_var(types::I64));
        let joined = [u64::MAX, 0].map(|start| {
            let variable = self.b.declare_var(types::I32);
            let value = self.constant(types::I32, start);
            self.b.def_var(variable, value);
            variable
        });
        let mut written = vec![false; self.body.registers.len()];
        let region = plan.flow.region(index);
        let statements = region.blocks.iter().flat_map(|&block| {
            let block = &plan.flow.blocks[block];
            block.first..block.end
        });
        for at in statements.chain(plan.flow.points[index]) {
            if let Statement::Instruction(instruction) = &self.body.statements[at] {
                Roles::may_write(self.module, instruction).for_each(|register| written[register] = true);
            }
        }
        let leader = self.record_of(plan, first);
        self.part = Some(Part {
            plan,
            index,
            first,
            last,
            leader,
            start,
            tid,
            row,
            record,
            local,
            joined,
            latch: entry,
            phase: Phase::Ask,
            written,
            together: false,
            in_loop: false,
        });
    }

    fn part(&self) -> &Part<'a> {
        self.part.as_ref().expect("a region was opened")
    }

    fn part_mut(&mut self) -> &mut Part<'a> {
        self.part.as_mut().expect("a region was opened")
    }

    /// Where the record of a thread is.
    fn record_of(&mut self, plan: &Plan, thread: Value) -> Value {
        let base = self.field(types::I64, offset_of!(ThreadContext, records));
        let wide = self.b.ins().uextend(types::I64, thread);
        let offset = self.b.ins().imul_imm_u(wide, i64::from(plan.record_bytes));
        self.b.ins().iadd(base, offset)
    }

    /// The region: first what is done once for all threads, then a loop over the threads for each block at which
    /// they begin to differ.
    pub(super) fn region_body(&mut self) -> Result<(), (usize, String)> {
        let (plan, index) = (self.part().plan, self.part().index);
        let start = plan.flow.region(index).start;
        let shared: Vec<RegId> = self.live_where(index, |plan, register| plan.uniform.is_uniform(register));
        self.restore(&shared)?;
        let common = self.common_blocks(start);
        let mut entries: Vec<usize> = Vec::new();
        for &block in common.iter().filter(|&&block| plan.flow.blocks[block].point.is_none()) {
            entries.extend(plan.flow.blocks[block].next.iter().filter(|next| !common.contains(next)));
        }
        entries.extend((!common.contains(&start)).then_some(start));
        entries.sort_unstable();
        entries.dedup();
        let targets: HashMap<usize, Block> =
            common.iter().chain(&entries).map(|&block| (block, self.b.create_block())).collect();
        self.set_labels(&targets);
        self.leave = self.b.create_block();
        self.b.ins().jump(targets[&start], &[]);
        self.terminated = true;
        for &block in &common {
            self.start_block(targets[&block]);
            self.statements(block)?;
            let next = block + 1;
            if !self.terminated {
                match targets.get(&next) {
                    Some(&target) if plan.flow.blocks[block].next.contains(&next) => {
                        self.b.ins().jump(target, &[])
                    }
                    _ => self.b.ins().jump(self.leave, &[]),
                };
                self.terminated = true;
            }
        }
        self.b.switch_to_block(self.leave);
        let exited = self.constant(types::I32, EXITED.into());
        self.b.ins().return_(&[exited]);
        for entry in entries {
            self.b.switch_to_block(targets[&entry]);
            self.thread_loop(entry)?;
        }
        Ok(())
    }

    /// Registers that live at a point, as far as they are of a kind.
    fn live_where(&self, index: usize, kind: impl Fn(&Plan, RegId) -> bool) -> Vec<RegId> {
        let plan = self.part().plan;
        plan.flow.live[index].iter().copied().filter(|&register| kind(plan, register)).collect()
    }

    /// Blocks from the start on in which nothing differs between threads, in the order of the text.
    fn common_blocks(&self, start: usize) -> Vec<usize> {
        let (plan, index) = (self.part().plan, self.part().index);
        let answered = !matches!(plan.waits[index], Wait::Whole(_)) && index > 0;
        let mut common = Vec::new();
        let mut stack = vec![start];
        while let Some(block) = stack.pop() {
            if !plan.uniform.in_step || answered || common.contains(&block) || !self.is_common(block) {
                continue;
            }
            common.push(block);
            if plan.flow.blocks[block].point.is_none() {
                stack.extend(&plan.flow.blocks[block].next);
            }
        }
        common.sort_unstable();
        common
    }

    fn is_common(&self, block: usize) -> bool {
        let plan = self.part().plan;
        let (text, block) = (self.text(), &plan.flow.blocks[block]);
        self.body.statements[block.first..block.end].iter().all(|statement| {
            let Statement::Instruction(instruction) = statement else { return true };
            let opcode = self.module.opcode(instruction);
            let (name, guarded) = (opcode.name(), instruction.guard);
            if block.point.is_some() && analysis::is_point(opcode) {
                return guarded.is_none();
            }
            guarded.is_none_or(|(guard, _)| plan.uniform.is_uniform(guard))
                && (matches!(name, "bra" | "ret" | "exit") || plan.uniform.is_common(&text, instruction))
        })
    }

    fn text(&self) -> Text<'a> {
        Text { module: self.module, body: self.body, parameters: self.function.params.len() }
    }

    fn set_labels(&mut self, targets: &HashMap<usize, Block>) {
        for (&block, &target) in targets {
            for statement in &self.body.statements[self.part().plan.flow.blocks[block].first..] {
                let Statement::Label(label) = statement else { break };
                self.labels[*label as usize] = target;
            }
        }
    }

    /// The instructions of a block.
    fn statements(&mut self, block: usize) -> Result<(), (usize, String)> {
        let block = &self.part().plan.flow.blocks[block];
        for at in block.first..block.end {
            let Statement::Instruction(instruction) = &self.body.statements[at] else { continue };
            if self.terminated {
                break;
            }
            self.statement = at;
            self.instruction(instruction).map_err(|what| (at, what))?;
        }
        Ok(())
    }

    /// A loop over the threads of the range, from a block on; the current block is its own.
    fn thread_loop(&mut self, entry: usize) -> Result<(), (usize, String)> {
        let (plan, index) = (self.part().plan, self.part().index);
        let region = plan.flow.region_from(entry);
        let together = plan.uniform.in_step && region.outcomes.len() <= 1;
        let (tid, row, start) = (self.part().tid, self.part().row, self.part().start);
        let (record, local) = (self.part().record, self.part().local);
        // What is equal in all threads when the loop begins is so for each of them.
        let shared: Vec<(Variable, Value)> = (0..self.registers.len())
            .filter(|&register| {
                RegId::try_from(register).is_ok_and(|register| plan.uniform.is_uniform(register))
            })
            .map(|register| {
                let variable = self.registers[register].0;
                (variable, self.b.use_var(variable))
            })
            .collect();
        let range = if together { self.range_of(entry, &region) } else { None };
        for (variable, value) in tid.into_iter().zip(start) {
            self.b.def_var(variable, value);
        }
        let (first, last) = (self.part().first, self.part().last);
        let begin = self.b.ins().isub(first, start[0]);
        self.b.def_var(row, begin);
        let (row_head, head) = (self.b.create_block(), self.b.create_block());
        let (latch, row_end, out) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.append_block_param(latch, types::I32);
        self.b.ins().jump(row_head, &[]);
        // A row: x from here to the end of the range or of the row.
        self.b.switch_to_block(row_head);
        let width = self.field(types::I32, offset_of!(ThreadContext, ntid));
        let now = self.b.use_var(row);
        let left = self.b.ins().isub(last, now);
        let mut end = self.b.ins().umin(width, left);
        let mut x = self.b.use_var(tid[0]);
        if let Some((low, high)) = range {
            x = low.map_or(x, |low| self.b.ins().umax(x, low));
            end = high.map_or(end, |high| self.b.ins().umin(end, high));
            self.b.def_var(tid[0], x);
        }
        let thread = self.b.ins().iadd(now, x);
        let place = self.record_of(plan, thread);
        self.b.def_var(record, place);
        let place = self.local_of(plan, thread);
        self.b.def_var(local, place);
        let any = self.b.ins().icmp(IntCC::UnsignedLessThan, x, end);
        self.b.ins().brif(any, head, &[], row_end, &[]);
        // A thread.
        self.b.switch_to_block(head);
        self.leave = self.b.create_block();
        self.terminated = false;
        self.checked.clear();
        let part = self.part_mut();
        (part.latch, part.together, part.in_loop, part.phase) = (latch, together, true, Phase::Answer);
        self.place_locals();
        if self.calls() {
            self.publish_tid(tid);
        }
        for (variable, value) in shared {
            self.b.def_var(variable, value);
        }
        let own = self.live_where(index, |plan, register| !plan.uniform.is_uniform(register));
        self.restore(&own)?;
        if let (Some(place), 1..) = (plan.carry, index) {
            let value = self.record(types::I64, place as usize);
            self.b.def_var(self.carry, value);
        }
        if let Some(at) = plan.flow.points[index].filter(|_| plan.waits[index] != Wait::Step) {
            self.again(at)?;
        }
        self.part_mut().phase = Phase::Ask;
        let targets: HashMap<usize, Block> =
            region.blocks.iter().map(|&block| (block, self.b.create_block())).collect();
        self.set_labels(&targets);
        self.b.ins().jump(targets[&entry], &[]);
        self.terminated = true;
        for &block in &region.blocks {
            self.start_block(targets[&block]);
            self.statements(block)?;
            let block = &plan.flow.blocks[block];
            if block.exits && block.next.is_empty() && !self.terminated {
                self.b.ins().jump(self.leave, &[]);
                self.terminated = true;
            }
        }
        if !self.terminated {
            self.b.ins().jump(self.leave, &[]);
        }
        self.b.switch_to_block(self.leave);
        let exited = self.constant(types::I32, EXITED.into());
        self.b.ins().jump(latch, &[exited.into()]);
        // The next thread.
        self.b.switch_to_block(latch);
        let mixed = region.outcomes.len() > 1;
        if mixed {
            self.join(latch);
        }
        if plan.record_bytes > 0 {
            let now = self.b.use_var(record);
            let next = self.b.ins().iadd_imm_s(now, i64::from(plan.record_bytes));
            self.b.def_var(record, next);
        }
        if plan.regions() > 1 && self.unit.local_bytes > 0 {
            let now = self.b.use_var(local);
            let stride = self.field(types::I64, offset_of!(ThreadContext, local_bytes));
            let next = self.b.ins().iadd(now, stride);
            self.b.def_var(local, next);
        }
        let now = self.b.use_var(tid[0]);
        let next = self.b.ins().iadd_imm_s(now, 1);
        self.b.def_var(tid[0], next);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, end);
        self.b.ins().brif(more, head, &[], row_end, &[]);
        self.b.switch_to_block(row_end);
        self.next_row(row_head, out, width);
        // The end of the range.
        self.b.switch_to_block(out);
        let only = region.outcomes.first().copied().unwrap_or(0);
        if together && only > 0 {
            self.keep_shared(only);
        }
        let result = if mixed {
            let [all, any] = self.part().joined.map(|variable| self.b.use_var(variable));
            let same = self.b.ins().icmp(IntCC::Equal, all, any);
            let mixed = self.constant(types::I32, MIXED.into());
            self.b.ins().select(same, all, mixed)
        } else {
            self.constant(types::I32, only as u64)
        };
        self.b.ins().return_(&[result]);
        self.part_mut().in_loop = false;
        Ok(())
    }

    /// Notes where a thread has come to.
    fn join(&mut self, latch: Block) {
        let outcome = self.b.block_params(latch)[0];
        if self.part().plan.record_bytes > 0 {
            self.set_record(offset_of!(Record, outcome), outcome);
        }
        let joined = self.part().joined;
        let [all, any] = joined.map(|variable| self.b.use_var(variable));
        let all = self.b.ins().band(all, outcome);
        let any = self.b.ins().bor(any, outcome);
        self.b.def_var(joined[0], all);
        self.b.def_var(joined[1], any);
    }

    /// Behind the last thread of a row: the first one of the next. x runs fastest, as in the linear index of a thread.
    fn next_row(&mut self, row_head: Block, out: Block, width: Value) {
        let ([x, y, z], row) = (self.part().tid, self.part().row);
        let now = self.b.use_var(row);
        let next = self.b.ins().iadd(now, width);
        self.b.def_var(row, next);
        let last = self.part().last;
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, last);
        let (forth, plane) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(more, forth, &[], out, &[]);
        self.b.switch_to_block(forth);
        let zero = self.constant(types::I32, 0);
        self.b.def_var(x, zero);
        let now = self.b.use_var(y);
        let next = self.b.ins().iadd_imm_s(now, 1);
        self.b.def_var(y, next);
        let height = self.field(types::I32, offset_of!(ThreadContext, ntid) + 4);
        let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, next, height);
        self.b.ins().brif(inside, row_head, &[], plane, &[]);
        self.b.switch_to_block(plane);
        self.b.def_var(y, zero);
        let now = self.b.use_var(z);
        let next = self.b.ins().iadd_imm_s(now, 1);
        self.b.def_var(z, next);
        self.b.ins().jump(row_head, &[]);
    }

    /// Where the local memory of a thread is: all share one if only one of them is alive at a time.
    fn local_of(&mut self, plan: &Plan, thread: Value) -> Value {
        let base = self.field(types::I64, offset_of!(ThreadContext, local_arena));
        if plan.regions() == 1 {
            return base;
        }
        let wide = self.b.ins().uextend(types::I64, thread);
        let stride = self.field(types::I64, offset_of!(ThreadContext, local_bytes));
        let offset = self.b.ins().imul(wide, stride);
        self.b.ins().iadd(base, offset)
    }

    /// The x of the threads that do anything between a block and the point to which all come, as bounds from below and
    /// above. `None` stands for all of them.
    ///
    /// It looks for `setp.lt %p, %tid.x, %n; @!%p bra point`: who does not pass has nothing to do or to keep.
    fn range_of(&mut self, entry: usize, region: &Region) -> Option<(Option<Value>, Option<Value>)> {
        let plan = self.part().plan;
        let block = &plan.flow.blocks[entry];
        let point = region.outcomes.first().copied().unwrap_or(0);
        let instructions: Vec<&Instruction> = self.body.statements[block.first..block.end]
            .iter()
            .filter_map(|statement| match statement {
                Statement::Instruction(instruction) => Some(instruction),
                Statement::Label(_) => None,
            })
            .collect();
        let (last, before) = instructions.split_last()?;
        let (guard, negated) = last.guard.filter(|_| self.module.opcode(last).name() == "bra")?;
        let &[through, taken] = block.next.as_slice() else { return None };
        // Which way leads to the point without anything on it?
        let passes_if_taken = match (self.leads_to(taken, point), self.leads_to(through, point)) {
            (true, false) => true,
            (false, true) => false,
            _ => return None,
        };
        let (compare, others) = before.split_last()?;
        let text = self.text();
        let live = |register: usize| {
            RegId::try_from(register).is_ok_and(|register| plan.flow.live[point].contains(&register))
        };
        let is_harmless = |instruction: &&&Instruction| {
            instruction.guard.is_none()
                && text.is_pure(instruction, &mut |_| true)
                && !Roles::may_write(self.module, instruction).any(live)
        };
        if !before.iter().all(|instruction| is_harmless(&instruction)) {
            return None;
        }
        // What is equal in all threads must not change on the way: somebody has to keep it, even if nobody passes.
        let shared_changes = region.blocks.iter().any(|&block| {
            let block = &plan.flow.blocks[block];
            self.body.statements[block.first..block.end].iter().any(|statement| match statement {
                Statement::Instruction(instruction) => Roles::may_write(self.module, instruction)
                    .any(|register| live(register) && plan.uniform.is_uniform(register as RegId)),
                Statement::Label(_) => false,
            })
        });
        let opcode = self.module.opcode(compare);
        let [Operand::Register(predicate), left, right] = compare.operands.as_slice() else { return None };
        let ty = opcode.types().last().copied()?;
        let known = opcode.parts.len() == 3 && matches!(ty, ScalarType::U32 | ScalarType::S32);
        if shared_changes
            || opcode.name() != "setp"
            || !known
            || *predicate != guard
            || compare.guard.is_some()
        {
            return None;
        }
        let written = |operand: &Operand| match operand {
            Operand::Register(register) => others
                .iter()
                .any(|other| Roles::may_write(self.module, other).any(|w| w == *register as usize)),
            _ => false,
        };
        let (bound, swapped) = match (self.is_x(left), self.is_x(right)) {
            (true, false) => (right, false),
            (false, true) => (left, true),
            _ => return None,
        };
        let equal = match bound {
            Operand::Register(register) => plan.uniform.is_uniform(*register),
            Operand::Int(_) => true,
            _ => false,
        };
        if !equal || written(bound) {
            return None;
        }
        let order = match &*opcode.parts[1] {
            "lt" | "lo" => IntCC::UnsignedLessThan,
            "le" | "ls" => IntCC::UnsignedLessThanOrEqual,
            "gt" | "hi" => IntCC::UnsignedGreaterThan,
            "ge" | "hs" => IntCC::UnsignedGreaterThanOrEqual,
            "eq" => IntCC::Equal,
            "ne" => IntCC::NotEqual,
            _ => return None,
        };
        let order = if swapped { order.swap_args() } else { order };
        // Those who do not take the way to the point are the ones that do something.
        let order = if passes_if_taken ^ negated { order.complement() } else { order };
        let bound = self.read(bound, types::I32).ok()?;
        let zero = self.constant(types::I32, 0);
        // x is never negative: below a negative bound there is nobody, above it is everybody.
        let negative = match ty {
            ScalarType::S32 => Some(self.b.ins().icmp(IntCC::SignedLessThan, bound, zero)),
            _ => None,
        };
        let most = self.constant(types::I32, u64::from(u32::MAX));
        let next = self.b.ins().iadd_imm_s(bound, 1);
        let is_most = self.b.ins().icmp(IntCC::Equal, bound, most);
        let beyond = self.b.ins().select(is_most, most, next);
        let mut clamp = |value: Value| match negative {
            Some(negative) => self.b.ins().select(negative, zero, value),
            None => value,
        };
        Some(match order {
            IntCC::UnsignedLessThan => (None, Some(clamp(bound))),
            IntCC::UnsignedLessThanOrEqual => (None, Some(clamp(beyond))),
            IntCC::UnsignedGreaterThan => (Some(clamp(beyond)), None),
            IntCC::UnsignedGreaterThanOrEqual => (Some(clamp(bound)), None),
            IntCC::Equal if negative.is_none() => (Some(bound), Some(beyond)),
            IntCC::Equal => {
                let (low, high) = (clamp(bound), clamp(beyond));
                (Some(low), Some(high))
            }
            _ => return None,
        })
    }

    /// Whether a block leads to a point, or for 0 to the end, with nothing on the way.
    fn leads_to(&self, mut block: usize, point: usize) -> bool {
        let flow = &self.part().plan.flow;
        for _ in 0..8 {
            let this = &flow.blocks[block];
            let mut instructions =
                self.body.statements[this.first..this.end].iter().filter_map(|statement| match statement {
                    Statement::Instruction(instruction) => Some(instruction),
                    Statement::Label(_) => None,
                });
            match (instructions.next(), instructions.next()) {
                (Some(only), None) if only.guard.is_some() => return false,
                (Some(_), None) if this.point.is_some() => {
                    let whole =
                        this.point.map(|at| matches!(flow_wait(self.part().plan, at), Wait::Whole(_)));
                    return this.point == Some(point) && whole == Some(true);
                }
                (Some(only), None) if matches!(self.module.opcode(only).name(), "ret" | "exit") => {
                    return point == 0;
                }
                (Some(only), None) if self.module.opcode(only).name() != "bra" => return false,
                (Some(_), Some(_)) => return false,
                (None, _) if this.exits => return point == 0,
                _ => {}
            }
            let [next] = this.next.as_slice() else { return false };
            block = *next;
        }
        false
    }

    /// Whether an operand is `%tid.x`, by name or in a register that holds nothing else.
    fn is_x(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Special(name) => &**name == "tid.x",
            Operand::Register(register) => {
                let Some(at) = self.part().plan.uniform.anew(*register) else { return false };
                let Statement::Instruction(only) = &self.body.statements[at] else { return false };
                self.module.opcode(only).name() == "mov"
                    && matches!(&only.operands[1..], [Operand::Special(name)] if &**name == "tid.x")
            }
            _ => false,
        }
    }

    fn calls(&self) -> bool {
        analysis::instructions(self.body).any(|i| self.module.opcode(i).name() == "call")
    }

    /// Gives registers the values that they had at the point: from the record, or anew.
    fn restore(&mut self, registers: &[RegId]) -> Result<(), (usize, String)> {
        let plan = self.part().plan;
        let mut done = HashSet::new();
        for &register in registers {
            match plan.places.get(&register) {
                Some(&place) => {
                    let (variable, ty) = self.registers[register as usize];
                    let value = self.record(ty, place as usize);
                    self.b.def_var(variable, value);
                }
                None => self.compute(register, &mut done)?,
            }
        }
        Ok(())
    }

    /// Computes a register anew, with all that it is made of.
    fn compute(&mut self, register: RegId, done: &mut HashSet<RegId>) -> Result<(), (usize, String)> {
        let Some(at) = self.part().plan.uniform.anew(register) else { return Ok(()) };
        if !done.insert(register) {
            return Ok(());
        }
        if let Statement::Instruction(instruction) = &self.body.statements[at] {
            for source in Roles::of(self.module, instruction).reads {
                self.compute(source, done)?;
            }
        }
        self.again(at)
    }

    /// Translates the instruction at a statement, wherever the translation is.
    fn again(&mut self, at: usize) -> Result<(), (usize, String)> {
        let Statement::Instruction(instruction) = &self.body.statements[at] else { return Ok(()) };
        self.statement = at;
        let opcode = self.module.opcode(instruction);
        let op = Op { opcode, types: opcode.types(), operands: &instruction.operands };
        self.dispatch(&op).map_err(|what| (at, what))
    }

    /// Translates an instruction at a point: what it asks for, then the end of the thread's turn.
    pub(super) fn ask_at(&mut self, op: &Op<'a>, point: usize) -> Done {
        self.terminated = true;
        if !self.part().in_loop {
            // All threads are there.
            self.keep_shared(point);
            let outcome = self.constant(types::I32, point as u64);
            self.b.ins().return_(&[outcome]);
            return Ok(());
        }
        self.dispatch(op)?;
        self.keep(point);
        let outcome = self.constant(types::I32, point as u64);
        let latch = self.part().latch;
        self.b.ins().jump(latch, &[outcome.into()]);
        self.terminated = true;
        Ok(())
    }

    /// Writes what the thread needs behind a point to its record, as far as this region changes it.
    fn keep(&mut self, point: usize) {
        let (plan, together) = (self.part().plan, self.part().together);
        let kept = self.live_where(point, |plan, register| {
            let shared = plan.uniform.is_uniform(register);
            let changed = self.part().written[register as usize];
            // When threads part, each needs what was kept once for all.
            plan.places.contains_key(&register) && if shared { !together } else { changed }
        });
        for register in kept {
            let value = self.b.use_var(self.registers[register as usize].0);
            self.set_record(plan.places[&register] as usize, value);
        }
        if let Some(place) = plan.carry {
            let value = self.b.use_var(self.carry);
            self.set_record(place as usize, value);
        }
    }

    /// Writes what is equal in all threads behind a point to the record of the first.
    fn keep_shared(&mut self, point: usize) {
        let plan = self.part().plan;
        let kept = self.live_where(point, |plan, register| {
            plan.uniform.is_uniform(register) && plan.places.contains_key(&register)
        });
        let leader = self.part().leader;
        for register in kept {
            let value = self.b.use_var(self.registers[register as usize].0);
            let offset = i32::try_from(plan.places[&register]).expect("records are small");
            self.b.ins().store(MemFlagsData::trusted(), value, leader, offset);
        }
    }

    /// A word of the thread's record; outside the loop of the first one's.
    pub(super) fn record(&mut self, ty: Type, offset: usize) -> Value {
        let record = self.record_now();
        let offset = i32::try_from(offset).expect("records are small");
        self.b.ins().load(ty, MemFlagsData::trusted(), record, offset)
    }

    pub(super) fn set_record(&mut self, offset: usize, value: Value) {
        let record = self.record_now();
        let offset = i32::try_from(offset).expect("records are small");
        self.b.ins().store(MemFlagsData::trusted(), value, record, offset);
    }

    fn record_now(&mut self) -> Value {
        let record = self.part().record;
        if self.part().in_loop { self.b.use_var(record) } else { self.part().leader }
    }

    /// The place of the thread in its block, where that is known without computing it.
    pub(super) fn loop_thread(&mut self) -> Option<Value> {
        let part = self.part.as_ref()?;
        let (row, x) = (part.row, part.tid[0]);
        let (row, x) = (self.b.use_var(row), self.b.use_var(x));
        Some(self.b.ins().iadd(row, x))
    }
}

fn flow_wait(plan: &Plan, point: usize) -> Wait {
    plan.waits[point]
}

/// Regions may hold this many times the statements of their kernel, and this many more.
const MOST_GROWTH: usize = 6;
const SMALL: usize = 2000;
