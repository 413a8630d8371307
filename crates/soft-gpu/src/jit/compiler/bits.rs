//! Logic, shifts and bit fields.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use ptx::{Operand, ScalarType};

use super::translator::{Done, Op, Translator, clif_type};
use crate::jit::helpers;

impl<'a> Translator<'a, '_> {
    pub(super) fn logic(&mut self, op: &Op<'a>) -> Done {
        let scalar = op.ty()?;
        let ty = clif_type(scalar);
        let value = match op.opcode.name() {
            "and" | "or" | "xor" => {
                let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
                match op.opcode.name() {
                    "and" => self.b.ins().band(a, b),
                    "or" => self.b.ins().bor(a, b),
                    _ => self.b.ins().bxor(a, b),
                }
            }
            "not" => {
                let a = self.read_at(op, 1, ty)?;
                if scalar == ScalarType::Pred { self.b.ins().bxor_imm_u(a, 1) } else { self.b.ins().bnot(a) }
            }
            "cnot" => {
                let a = self.read_at(op, 1, ty)?;
                let zero = self.b.ins().icmp_imm_s(IntCC::Equal, a, 0);
                self.coerce(zero, ty, false)
            }
            "shl" | "shr" => {
                let a = self.read_at(op, 1, ty)?;
                self.shift(op, a, ty, scalar.is_signed())?
            }
            "shf" => self.funnel(op)?,
            "lop3" => {
                let Operand::Int(table) = *op.operand(4)? else {
                    return Err("the table is no constant".into());
                };
                let inputs = [self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?, self.read_at(op, 3, ty)?];
                let value = self.lookup3(inputs, table);
                let Operand::Pair(target, predicate) = op.operand(0)? else {
                    return self.write(op, value);
                };
                let some = self.b.ins().icmp_imm_s(IntCC::NotEqual, value, 0);
                let other = self.read_at(op, 5, types::I8)?;
                let flag = if op.has("and") {
                    self.b.ins().band(some, other)
                } else {
                    self.b.ins().bor(some, other)
                };
                self.write_as(target, value, false)?;
                return self.write_as(predicate, flag, false);
            }
            _ => return Err("the software GPU does not know this logic instruction".into()),
        };
        self.write(op, value)
    }

    /// PTX ISA, "shl", "shr": amounts beyond the width are clamped to it.
    fn shift(&mut self, op: &Op<'a>, a: Value, ty: Type, signed: bool) -> Result<Value, String> {
        let left = op.opcode.name() == "shl";
        let bits = ty.bits();
        if let Operand::Int(amount) = op.operand(2)? {
            let amount = (*amount & 0xffff_ffff).min(u64::from(bits));
            if amount == u64::from(bits) {
                let value = if left || !signed {
                    self.constant(ty, 0)
                } else {
                    self.b.ins().sshr_imm_u(a, i64::from(bits) - 1)
                };
                return Ok(value);
            }
            let amount = amount.cast_signed();
            return Ok(match (left, signed) {
                (true, _) => self.b.ins().ishl_imm_u(a, amount),
                (false, true) => self.b.ins().sshr_imm_u(a, amount),
                (false, false) => self.b.ins().ushr_imm_u(a, amount),
            });
        }
        let amount = self.read_at(op, 2, types::I32)?;
        Ok(self.clamped_shift(a, amount, left, signed))
    }

    fn clamped_shift(&mut self, a: Value, amount: Value, left: bool, signed: bool) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let bits = i64::from(ty.bits());
        if !left && signed {
            let last = self.constant(types::I32, (bits - 1).cast_unsigned());
            let amount = self.b.ins().umin(amount, last);
            return self.b.ins().sshr(a, amount);
        }
        let value = if left { self.b.ins().ishl(a, amount) } else { self.b.ins().ushr(a, amount) };
        let beyond = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, amount, bits);
        let zero = self.constant(ty, 0);
        self.b.ins().select(beyond, zero, value)
    }

    /// `shf.l`, `shf.r`: a window of 32 bits over the pair `b:a`.
    fn funnel(&mut self, op: &Op<'a>) -> Result<Value, String> {
        let (a, b) = (self.read_at(op, 1, types::I32)?, self.read_at(op, 2, types::I32)?);
        let amount = self.read_at(op, 3, types::I32)?;
        let amount = if op.has("wrap") {
            self.b.ins().band_imm_u(amount, 31)
        } else {
            let limit = self.constant(types::I32, 32);
            self.b.ins().umin(amount, limit)
        };
        let (low, high) = (self.coerce(a, types::I64, false), self.coerce(b, types::I64, false));
        let high = self.b.ins().ishl_imm_u(high, 32);
        let pair = self.b.ins().bor(high, low);
        let value = if op.has("l") {
            let shifted = self.b.ins().ishl(pair, amount);
            self.b.ins().ushr_imm_u(shifted, 32)
        } else {
            self.b.ins().ushr(pair, amount)
        };
        Ok(self.b.ins().ireduce(types::I32, value))
    }

    /// `lop3`: the table is split at `c` into two functions of `a` and `b`.
    fn lookup3(&mut self, [a, b, c]: [Value; 3], table: u64) -> Value {
        // Bit index of the table: a*4 + b*2 + c.
        let part = |c_bit: u64| (0..4).fold(0, |bits, ab| bits | ((table >> (ab * 2 + c_bit)) & 1) << ab);
        let (without, with) = (part(0), part(1));
        if without == with {
            return self.lookup2(a, b, with);
        }
        let (without, with) = (self.lookup2(a, b, without), self.lookup2(a, b, with));
        self.b.ins().bitselect(c, with, without)
    }

    /// A function of two bits by its table, index `a*2 + b`.
    fn lookup2(&mut self, a: Value, b: Value, table: u64) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let (negated, table) = if table & 1 == 1 { (true, !table & 15) } else { (false, table) };
        let value = match table {
            0 => self.constant(ty, 0),
            2 => self.b.ins().band_not(b, a),
            4 => self.b.ins().band_not(a, b),
            6 => self.b.ins().bxor(a, b),
            8 => self.b.ins().band(a, b),
            10 => b,
            12 => a,
            _ => self.b.ins().bor(a, b),
        };
        if negated { self.b.ins().bnot(value) } else { value }
    }

    pub(super) fn bit_field(&mut self, op: &Op<'a>) -> Done {
        let scalar = op.ty()?;
        let (ty, signed) = (clif_type(scalar), scalar.is_signed());
        let value = match op.opcode.name() {
            "popc" => {
                let a = self.read_at(op, 1, ty)?;
                let count = self.b.ins().popcnt(a);
                self.coerce(count, types::I32, false)
            }
            "clz" => {
                let a = self.read_at(op, 1, ty)?;
                let count = self.b.ins().clz(a);
                self.coerce(count, types::I32, false)
            }
            "brev" => {
                let a = self.read_at(op, 1, ty)?;
                self.b.ins().bitrev(a)
            }
            "bfind" => self.find_bit(op, ty, signed)?,
            "bfe" => self.extract(op, ty, signed)?,
            "bfi" => self.insert(op, ty)?,
            "bmsk" => self.bit_mask(op)?,
            "szext" => self.extend_field(op, signed)?,
            "prmt" => self.prmt(op)?,
            "fns" => {
                let inputs = [1, 2, 3].map(|at| self.read_at(op, at, types::I32));
                let [mask, base, offset] = inputs;
                let address = helpers::nth_set as *const () as usize;
                self.helper(address, &[mask?, base?, offset?], Some(types::I32)).expect("it has a result")
            }
            _ => return Err("the software GPU does not know this bit instruction".into()),
        };
        self.write(op, value)
    }

    /// `bfind`: place of the highest bit that differs from the sign; none: all ones.
    fn find_bit(&mut self, op: &Op<'a>, ty: Type, signed: bool) -> Result<Value, String> {
        let a = self.read_at(op, 1, ty)?;
        let a = if signed {
            let sign = self.b.ins().sshr_imm_u(a, i64::from(ty.bits()) - 1);
            self.b.ins().bxor(a, sign)
        } else {
            a
        };
        let zeros = self.b.ins().clz(a);
        let zeros = self.coerce(zeros, types::I32, false);
        let place = if op.has("shiftamt") {
            zeros
        } else {
            let top = self.constant(types::I32, u64::from(ty.bits()) - 1);
            self.b.ins().isub(top, zeros)
        };
        let none = self.b.ins().icmp_imm_s(IntCC::Equal, a, 0);
        let all = self.constant(types::I32, u64::MAX);
        Ok(self.b.ins().select(none, all, place))
    }

    fn low_byte(&mut self, op: &Op<'a>, at: usize) -> Result<Value, String> {
        let value = self.read_at(op, at, types::I32)?;
        Ok(self.b.ins().band_imm_u(value, 255))
    }

    /// `bfe`: position and length are bytes; beyond the top, signed fields repeat the sign bit.
    fn extract(&mut self, op: &Op<'a>, ty: Type, signed: bool) -> Result<Value, String> {
        let a = self.read_at(op, 1, ty)?;
        let (at, length) = (self.low_byte(op, 2)?, self.low_byte(op, 3)?);
        let shifted = self.clamped_shift(a, at, false, signed);
        // Move the field to the top and back; a length of the whole width or more moves nothing.
        let width = self.constant(types::I32, u64::from(ty.bits()));
        let length = self.b.ins().umin(length, width);
        let up = self.b.ins().isub(width, length);
        let empty = self.b.ins().icmp_imm_s(IntCC::Equal, length, 0);
        let top = self.b.ins().ishl(shifted, up);
        let field = if signed { self.b.ins().sshr(top, up) } else { self.b.ins().ushr(top, up) };
        let zero = self.constant(ty, 0);
        Ok(self.b.ins().select(empty, zero, field))
    }

    /// `bfi`: the low bits of `a` into `b`.
    fn insert(&mut self, op: &Op<'a>, ty: Type) -> Result<Value, String> {
        let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
        let (at, length) = (self.low_byte(op, 3)?, self.low_byte(op, 4)?);
        let one = self.constant(ty, 1);
        let above = self.clamped_shift(one, length, true, false);
        let mask = self.b.ins().iadd_imm_s(above, -1);
        let mask = self.clamped_shift(mask, at, true, false);
        let field = self.clamped_shift(a, at, true, false);
        Ok(self.b.ins().bitselect(mask, field, b))
    }

    /// `bmsk`: `b` ones from bit `a` on.
    fn bit_mask(&mut self, op: &Op<'a>) -> Result<Value, String> {
        let (a, b) = (self.read_at(op, 1, types::I32)?, self.read_at(op, 2, types::I32)?);
        let (a, b) = if op.has("wrap") {
            (self.b.ins().band_imm_u(a, 31), self.b.ins().band_imm_u(b, 31))
        } else {
            (a, b)
        };
        let one = self.constant(types::I32, 1);
        let above = self.clamped_shift(one, b, true, false);
        let mask = self.b.ins().iadd_imm_s(above, -1);
        Ok(self.clamped_shift(mask, a, true, false))
    }

    fn extend_field(&mut self, op: &Op<'a>, signed: bool) -> Result<Value, String> {
        let (a, b) = (self.read_at(op, 1, types::I32)?, self.read_at(op, 2, types::I32)?);
        let width = self.constant(types::I32, 32);
        let b = if op.has("wrap") { self.b.ins().band_imm_u(b, 31) } else { self.b.ins().umin(b, width) };
        let up = self.b.ins().isub(width, b);
        let empty = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
        let top = self.b.ins().ishl(a, up);
        let field = if signed { self.b.ins().sshr(top, up) } else { self.b.ins().ushr(top, up) };
        let zero = self.constant(types::I32, 0);
        Ok(self.b.ins().select(empty, zero, field))
    }

    /// `prmt`: inline when the selector is a constant without sign replication.
    fn prmt(&mut self, op: &Op<'a>) -> Result<Value, String> {
        let (a, b) = (self.read_at(op, 1, types::I32)?, self.read_at(op, 2, types::I32)?);
        let mode = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"].iter().position(|mode| op.has(mode));
        if let (None, Operand::Int(selector)) = (mode, op.operand(3)?)
            && selector & 0x8888 == 0
        {
            let (low, high) = (self.coerce(a, types::I64, false), self.coerce(b, types::I64, false));
            let high = self.b.ins().ishl_imm_u(high, 32);
            let pair = self.b.ins().bor(high, low);
            let mut result = self.constant(types::I64, 0);
            let selector = *selector;
            for byte in 0..4_i64 {
                let from = ((selector >> (4 * byte)) & 7).cast_signed();
                let piece = self.b.ins().ushr_imm_u(pair, from * 8);
                let piece = self.b.ins().band_imm_u(piece, 255);
                let piece = self.b.ins().ishl_imm_u(piece, byte * 8);
                result = self.b.ins().bor(result, piece);
            }
            return Ok(self.b.ins().ireduce(types::I32, result));
        }
        let selector = self.read_at(op, 3, types::I32)?;
        let mode = mode.map_or(0, |mode| mode as u64 + 1);
        Ok(self.permute(a, b, selector, mode))
    }
}
