//! Comparison and selection.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};
use ptx::{Operand, ScalarType};

use super::translator::{Done, Op, Translator, clif_type};

impl<'a> Translator<'a, '_> {
    /// `setp.lt.and.f32 p|q, a, b, c`
    pub(super) fn setp(&mut self, op: &Op<'a>) -> Done {
        let scalar = op.ty()?;
        if matches!(scalar, ScalarType::F16x2 | ScalarType::Bf16x2) {
            return self.setp_packed(op, scalar);
        }
        let compared = self.compare(op, scalar)?;
        match op.operand(0)? {
            Operand::Pair(p, q) => {
                let opposite = self.b.ins().bxor_imm_u(compared, 1);
                let first = self.combine(op, compared)?;
                let second = self.combine(op, opposite)?;
                self.write_as(p, first, false)?;
                self.write_as(q, second, false)
            }
            target => {
                let value = self.combine(op, compared)?;
                self.write_as(target, value, false)
            }
        }
    }

    /// Two halves compared one by one, a predicate each.
    fn setp_packed(&mut self, op: &Op<'a>, scalar: ScalarType) -> Done {
        let element = if scalar == ScalarType::F16x2 { ScalarType::F16 } else { ScalarType::Bf16 };
        let (a, b) = (self.read_at(op, 1, types::I32)?, self.read_at(op, 2, types::I32)?);
        let (a, b) = (self.unpack_compared(op, a, element), self.unpack_compared(op, b, element));
        let Operand::Pair(p, q) = op.operand(0)? else {
            return Err("two predicates are expected".into());
        };
        for (target, (a, b)) in [p, q].into_iter().zip(a.into_iter().zip(b)) {
            let value = self.compare_values(op, ScalarType::F32, a, b)?;
            let value = self.combine(op, value)?;
            self.write_as(target, value, false)?;
        }
        Ok(())
    }

    /// `set.lt.u32.f32 d, a, b`: all ones or 1.0, or zero.
    pub(super) fn set(&mut self, op: &Op<'a>) -> Done {
        let [to, from] = op.types[..] else { return Err("two types are expected".into()) };
        if matches!(from, ScalarType::F16x2 | ScalarType::Bf16x2) {
            return self.set_packed(op, to, from);
        }
        let compared = self.compare(op, from)?;
        let condition = self.combine(op, compared)?;
        let value = match to {
            ScalarType::F32 => {
                let (one, zero) =
                    (self.float_constant(types::F32, 1.0), self.float_constant(types::F32, 0.0));
                self.b.ins().select(condition, one, zero)
            }
            ScalarType::F16 | ScalarType::Bf16 => {
                let one = if to == ScalarType::F16 { 0x3c00 } else { 0x3f80 };
                let (one, zero) = (self.constant(types::I16, one), self.constant(types::I16, 0));
                self.b.ins().select(condition, one, zero)
            }
            _ => {
                let ty = clif_type(to);
                let (ones, zero) = (self.constant(ty, u64::MAX), self.constant(ty, 0));
                self.b.ins().select(condition, ones, zero)
            }
        };
        self.write(op, value)
    }

    /// `set.lt.f16x2.f16x2 d, a, b`: 1.0 in each half, or for an integer destination all its ones.
    fn set_packed(&mut self, op: &Op<'a>, to: ScalarType, from: ScalarType) -> Done {
        let element = if from == ScalarType::F16x2 { ScalarType::F16 } else { ScalarType::Bf16 };
        let one = match to {
            ScalarType::F16x2 => 0x3c00,
            ScalarType::Bf16x2 => 0x3f80,
            _ => 0xffff,
        };
        let (a, b) = (self.read_at(op, 1, types::I32)?, self.read_at(op, 2, types::I32)?);
        let (a, b) = (self.unpack_compared(op, a, element), self.unpack_compared(op, b, element));
        let mut halves = Vec::with_capacity(2);
        for (a, b) in a.into_iter().zip(b) {
            let value = self.compare_values(op, ScalarType::F32, a, b)?;
            let value = self.combine(op, value)?;
            let (one, zero) = (self.constant(types::I16, one), self.constant(types::I16, 0));
            halves.push(self.b.ins().select(value, one, zero));
        }
        let pair = self.pack_halves(halves[0], halves[1]);
        self.write(op, pair)
    }

    fn unpack_compared(&mut self, op: &Op<'a>, pair: Value, element: ScalarType) -> [Value; 2] {
        let low = self.b.ins().ireduce(types::I16, pair);
        let high = self.b.ins().ushr_imm_u(pair, 16);
        let high = self.b.ins().ireduce(types::I16, high);
        [low, high].map(|half| self.compared_half(op, half, element))
    }

    fn compared_half(&mut self, op: &Op<'a>, half: Value, element: ScalarType) -> Value {
        let half = if op.has("ftz") { self.flush_half(half, element) } else { half };
        self.half_to_float(half, element)
    }

    /// The comparison with the boolean operand that follows it, if any.
    fn combine(&mut self, op: &Op<'a>, compared: Value) -> Result<Value, String> {
        let Some(third) = op.operands.get(3) else { return Ok(compared) };
        let third = self.read(third, types::I8)?;
        Ok(if op.has("and") {
            self.b.ins().band(compared, third)
        } else if op.has("or") {
            self.b.ins().bor(compared, third)
        } else {
            self.b.ins().bxor(compared, third)
        })
    }

    fn compare(&mut self, op: &Op<'a>, scalar: ScalarType) -> Result<Value, String> {
        let (a, b) = if scalar == ScalarType::F16 || scalar == ScalarType::Bf16 {
            let (a, b) = (self.read_at(op, 1, types::I16)?, self.read_at(op, 2, types::I16)?);
            (self.compared_half(op, a, scalar), self.compared_half(op, b, scalar))
        } else {
            let ty = clif_type(scalar);
            (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?)
        };
        self.compare_values(op, scalar, a, b)
    }

    fn compare_values(
        &mut self,
        op: &Op<'a>,
        scalar: ScalarType,
        a: Value,
        b: Value,
    ) -> Result<Value, String> {
        if scalar.is_float() {
            let (a, b) = if op.has("ftz") { (self.flush(a), self.flush(b)) } else { (a, b) };
            let condition = op.opcode.parts[1..].iter().find_map(|part| float_condition(part));
            let condition = condition.ok_or("the comparison is not known")?;
            return Ok(self.b.ins().fcmp(condition, a, b));
        }
        let signed = scalar.is_signed();
        let condition = op.opcode.parts[1..].iter().find_map(|part| int_condition(part, signed));
        let condition = condition.ok_or("the comparison is not known")?;
        Ok(self.b.ins().icmp(condition, a, b))
    }

    pub(super) fn selp(&mut self, op: &Op<'a>) -> Done {
        let mut ty = clif_type(op.ty()?);
        // Select in the destination's own form, so that no bits are cast forth and back.
        if let Operand::Register(target) = op.operand(0)? {
            let own = self.registers[*target as usize].1;
            if own.bits() == ty.bits() {
                ty = own;
            }
        }
        let as_bits = |operand: &Operand| matches!(operand, Operand::Int(_));
        if as_bits(op.operand(1)?) || as_bits(op.operand(2)?) {
            ty = ty.as_int();
        }
        let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
        let condition = self.read_at(op, 3, types::I8)?;
        let value = self.b.ins().select(condition, a, b);
        self.write(op, value)
    }

    /// `slct.f32.s32 d, a, b, c`: `a` where `c` is not negative.
    pub(super) fn slct(&mut self, op: &Op<'a>) -> Done {
        let [ty, by] = op.types[..] else { return Err("two types are expected".into()) };
        let ty = clif_type(ty);
        let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
        let condition = if by == ScalarType::F32 {
            let c = self.read_at(op, 3, types::F32)?;
            let c = if op.has("ftz") { self.flush(c) } else { c };
            let zero = self.float_constant(types::F32, 0.0);
            self.b.ins().fcmp(FloatCC::GreaterThanOrEqual, c, zero)
        } else {
            let c = self.read_at(op, 3, types::I32)?;
            self.b.ins().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, c, 0)
        };
        let value = self.b.ins().select(condition, a, b);
        self.write(op, value)
    }
}

fn float_condition(part: &str) -> Option<FloatCC> {
    Some(match part {
        "eq" => FloatCC::Equal,
        "ne" => FloatCC::OrderedNotEqual,
        "lt" => FloatCC::LessThan,
        "le" => FloatCC::LessThanOrEqual,
        "gt" => FloatCC::GreaterThan,
        "ge" => FloatCC::GreaterThanOrEqual,
        "equ" => FloatCC::UnorderedOrEqual,
        "neu" => FloatCC::NotEqual,
        "ltu" => FloatCC::UnorderedOrLessThan,
        "leu" => FloatCC::UnorderedOrLessThanOrEqual,
        "gtu" => FloatCC::UnorderedOrGreaterThan,
        "geu" => FloatCC::UnorderedOrGreaterThanOrEqual,
        "num" => FloatCC::Ordered,
        "nan" => FloatCC::Unordered,
        _ => return None,
    })
}

fn int_condition(part: &str, signed: bool) -> Option<IntCC> {
    Some(match (part, signed) {
        ("eq", _) => IntCC::Equal,
        ("ne", _) => IntCC::NotEqual,
        ("lt", true) => IntCC::SignedLessThan,
        ("le", true) => IntCC::SignedLessThanOrEqual,
        ("gt", true) => IntCC::SignedGreaterThan,
        ("ge", true) => IntCC::SignedGreaterThanOrEqual,
        ("lt", false) | ("lo", _) => IntCC::UnsignedLessThan,
        ("le", false) | ("ls", _) => IntCC::UnsignedLessThanOrEqual,
        ("gt", false) | ("hi", _) => IntCC::UnsignedGreaterThan,
        ("ge", false) | ("hs", _) => IntCC::UnsignedGreaterThanOrEqual,
        _ => return None,
    })
}
