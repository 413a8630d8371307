//! Loops over the threads that have something to do: the others only pass to the next point.

use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};
use ptx::ast::RegId;
use ptx::{Instruction, Operand, ScalarType, Statement};

use super::flow::{Region, Roles};
use super::translator::Translator;
use crate::jit::context::Wait;

impl Translator<'_, '_> {
    /// The x of the threads that do anything between a block and the point to which all come, as bounds from below and
    /// above. `None` stands for all of them.
    ///
    /// It looks for `setp.lt %p, %tid.x, %n; @!%p bra point`: who does not pass has nothing to do or to keep.
    pub(super) fn range_of(
        &mut self,
        entry: usize,
        region: &Region,
    ) -> Option<(Option<Value>, Option<Value>)> {
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
                    .any(|register| live(register) && plan.uniform.is_uniform_at(register)),
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
                    return this.point == Some(point)
                        && matches!(self.part().plan.waits[point], Wait::Whole(_));
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
}
