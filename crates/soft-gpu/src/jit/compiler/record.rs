//! What a thread takes over a point: registers in its record, and those that are computed anew.

use std::collections::HashSet;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};
use ptx::Statement;
use ptx::ast::RegId;

use super::flow::Roles;
use super::translator::{Op, Translator};

impl Translator<'_, '_> {
    /// Gives registers the values that they had at the point: from the record, or anew.
    pub(super) fn restore(&mut self, registers: &[RegId]) -> Result<(), (usize, String)> {
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
    pub(super) fn again(&mut self, at: usize) -> Result<(), (usize, String)> {
        let Statement::Instruction(instruction) = &self.body.statements[at] else { return Ok(()) };
        self.statement = at;
        let opcode = self.module.opcode(instruction);
        let op = Op { opcode, types: opcode.types(), operands: &instruction.operands };
        self.dispatch(&op).map_err(|what| (at, what))
    }

    /// Writes what the thread needs behind a point to its record, as far as this region changes it.
    pub(super) fn keep(&mut self, point: usize) {
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
    pub(super) fn keep_shared(&mut self, point: usize) {
        let plan = self.part().plan;
        let kept = self.live_where(point, |plan, register| {
            plan.uniform.is_uniform(register) && plan.places.contains_key(&register)
        });
        if kept.is_empty() {
            return;
        }
        // The first thread of the range, and of each further warp, since warps may go on alone.
        let (first, last, record) = (self.part().first, self.part().last, self.part().leader);
        let (head, out) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(head, types::I32);
        self.b.append_block_param(head, types::I64);
        self.b.ins().jump(head, &[first.into(), record.into()]);
        self.b.switch_to_block(head);
        let &[thread, record] = self.b.block_params(head) else { return };
        for register in kept {
            let value = self.b.use_var(self.registers[register as usize].0);
            let offset = i32::try_from(plan.places[&register]).expect("records are small");
            self.b.ins().store(MemFlagsData::trusted(), value, record, offset);
        }
        if plan.steps() {
            let lane = self.b.ins().band_imm_u(thread, 31);
            let warp = self.constant(types::I32, 32);
            let rest = self.b.ins().isub(warp, lane);
            let next = self.b.ins().iadd(thread, rest);
            let rest = self.b.ins().uextend(types::I64, rest);
            let bytes = self.b.ins().imul_imm_u(rest, i64::from(plan.record_bytes));
            let record = self.b.ins().iadd(record, bytes);
            let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, last);
            self.b.ins().brif(more, head, &[next.into(), record.into()], out, &[]);
        } else {
            self.b.ins().jump(out, &[]);
        }
        self.b.switch_to_block(out);
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
}
