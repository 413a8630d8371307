//! A kernel as regions: each a function that runs a range of threads, one after the other, from one point to the next.
//!
//! Between two points a thread is its record: what it asks for, what it is answered, and the registers that the code
//! behind the point needs. A register keeps its place in the record, so a region writes back only what it changes.

use std::collections::{HashMap, HashSet};
use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, InstBuilder, Value, types};
use cranelift_frontend::Variable;
use ptx::Statement;
use ptx::ast::RegId;

use super::analysis;
use super::flow::{Region, Roles};
use super::plan::Plan;
use super::translator::{Done, Op, Translator};
use super::uniform::Text;
use crate::jit::context::{EXITED, MIXED, Record, ThreadContext, Wait};

/// The region that is being translated.
pub(super) struct Part<'a> {
    pub(super) plan: &'a Plan,
    pub(super) index: usize,
    pub(super) first: Value,
    pub(super) last: Value,
    /// The record of the first thread of the range.
    pub(super) leader: Value,
    /// The axes of the first thread.
    start: [Value; 3],
    /// The thread that a loop is at: its axes, the first thread of its row, its record and its local memory.
    pub(super) tid: [Variable; 3],
    pub(super) row: Variable,
    pub(super) record: Variable,
    pub(super) local: Variable,
    /// All outcomes so far, joined by `and` and by `or`.
    joined: [Variable; 2],
    /// Where a thread of the loop ends its turn; its parameter is the outcome.
    latch: Block,
    pub(super) phase: Phase,
    /// Registers that the region may write.
    pub(super) written: Vec<bool>,
    /// All threads of the loop come to the same point, so what is equal in all of them is kept once.
    pub(super) together: bool,
    pub(super) in_loop: bool,
    /// Statements whose accesses have been checked for all threads of the row.
    pub(super) unchecked: HashSet<usize>,
}

/// What a loop over the threads of a row is made of.
struct Threads {
    entry: usize,
    region: Region,
    together: bool,
    /// Registers that are equal in all threads where the loop begins, with their values.
    shared: Vec<(Variable, Value)>,
    /// Behind the last x, and where to go then.
    end: Value,
    row_end: Block,
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
        for at in statements.chain(plan.flow.points[index].asks()) {
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
            unchecked: HashSet::new(),
        });
    }

    pub(super) fn part(&self) -> &Part<'a> {
        self.part.as_ref().expect("a region was opened")
    }

    pub(super) fn part_mut(&mut self) -> &mut Part<'a> {
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
    pub(super) fn live_where(&self, index: usize, kind: impl Fn(&Plan, RegId) -> bool) -> Vec<RegId> {
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
        if block.point.is_some_and(|point| !matches!(plan.waits[point], Wait::Whole(_))) {
            return false;
        }
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

    pub(super) fn text(&self) -> Text<'a> {
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
        match block.point {
            Some(point) if self.part().plan.waits[point] == Wait::Step && !self.terminated => {
                self.end_turn(point);
            }
            _ => {}
        }
        Ok(())
    }

    /// A loop over the threads of the range, from a block on; the current block is its own.
    fn thread_loop(&mut self, entry: usize) -> Result<(), (usize, String)> {
        let plan = self.part().plan;
        let region = plan.flow.region_from(entry);
        let together = plan.uniform.in_step && region.outcomes.len() <= 1;
        let (tid, row, start) = (self.part().tid, self.part().row, self.part().start);
        let (record, local) = (self.part().record, self.part().local);
        // What is equal in all threads when the loop begins is so for each of them.
        let shared: Vec<(Variable, Value)> = (0..self.registers.len())
            .filter(|&register| plan.uniform.is_uniform_at(register))
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
        let [row_head, some, row_end, out] = [(); 4].map(|()| self.b.create_block());
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
        self.b.ins().brif(any, some, &[], row_end, &[]);
        self.b.switch_to_block(some);
        let even = self.even_accesses(&region);
        let threads = Threads { entry, region, together, shared, end, row_end };
        let head = self.b.create_block();
        if even.accesses.is_empty() {
            self.b.ins().jump(head, &[]);
        } else {
            let free = self.b.create_block();
            let good = self.all_good(&even, x, end).map_err(|what| (self.statement, what))?;
            self.b.ins().brif(good, free, &[], head, &[]);
            self.b.switch_to_block(free);
            self.part_mut().unchecked = even.accesses.iter().map(|access| access.statement).collect();
            self.threads(&threads)?;
            self.part_mut().unchecked.clear();
        }
        self.b.switch_to_block(head);
        self.threads(&threads)?;
        self.b.switch_to_block(row_end);
        self.next_row(row_head, out, width);
        // The end of the range.
        self.b.switch_to_block(out);
        let outcomes = &threads.region.outcomes;
        let only = outcomes.first().copied().unwrap_or(0);
        if together && only > 0 {
            self.keep_shared(only);
        }
        let result = if outcomes.len() > 1 {
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

    /// The threads of a row from x on; the current block comes before the first of them.
    fn threads(&mut self, threads: &Threads) -> Result<(), (usize, String)> {
        let (plan, index) = (self.part().plan, self.part().index);
        let Threads { entry, region, together, shared, end, row_end } = threads;
        let (tid, record, local) = (self.part().tid, self.part().record, self.part().local);
        let (head, latch) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(latch, types::I32);
        self.b.ins().jump(head, &[]);
        // A thread.
        self.b.switch_to_block(head);
        self.leave = self.b.create_block();
        self.terminated = false;
        self.checked.clear();
        let part = self.part_mut();
        (part.latch, part.together, part.in_loop, part.phase) = (latch, *together, true, Phase::Answer);
        self.place_locals();
        if self.calls() {
            self.publish_tid(tid);
        }
        for &(variable, value) in shared {
            self.b.def_var(variable, value);
        }
        let own = self.live_where(index, |plan, register| !plan.uniform.is_uniform(register));
        self.restore(&own)?;
        if let (Some(place), 1..) = (plan.carry, index) {
            let value = self.record(types::I64, place as usize);
            self.b.def_var(self.carry, value);
        }
        if let Some(at) = plan.flow.points[index].asks() {
            self.again(at)?;
        }
        self.part_mut().phase = Phase::Ask;
        let targets: HashMap<usize, Block> =
            region.blocks.iter().map(|&block| (block, self.b.create_block())).collect();
        self.set_labels(&targets);
        self.b.ins().jump(targets[entry], &[]);
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
        if region.outcomes.len() > 1 {
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
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, *end);
        self.b.ins().brif(more, head, &[], *row_end, &[]);
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

    fn calls(&self) -> bool {
        analysis::instructions(self.body).any(|i| self.module.opcode(i).name() == "call")
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
        self.end_turn(point);
        Ok(())
    }

    /// The thread has come to a point.
    fn end_turn(&mut self, point: usize) {
        self.keep(point);
        let outcome = self.constant(types::I32, point as u64);
        let latch = self.part().latch;
        self.b.ins().jump(latch, &[outcome.into()]);
        self.terminated = true;
    }

    /// The place of the thread in its block, where that is known without computing it.
    pub(super) fn loop_thread(&mut self) -> Option<Value> {
        let part = self.part.as_ref()?;
        let (row, x) = (part.row, part.tid[0]);
        let (row, x) = (self.b.use_var(row), self.b.use_var(x));
        Some(self.b.ins().iadd(row, x))
    }
}
