//! Integer arithmetic.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use ptx::{Operand, ScalarType};

use super::translator::{Done, Op, Translator, clif_type};
use crate::jit::helpers;

impl<'a> Translator<'a, '_> {
    pub(super) fn integer(&mut self, op: &Op<'a>) -> Done {
        let scalar = op.ty()?;
        if matches!(scalar, ScalarType::U16x2 | ScalarType::S16x2) {
            return self.packed_integer(op, scalar);
        }
        let (ty, signed) = (clif_type(scalar), scalar.is_signed());
        let value = match op.opcode.name() {
            "add" | "sub" => {
                let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
                let add = op.opcode.name() == "add";
                if op.has("sat") {
                    self.saturating(a, b, add)
                } else if add {
                    self.b.ins().iadd(a, b)
                } else {
                    self.b.ins().isub(a, b)
                }
            }
            "mul" | "mad" => return self.multiply(op, ty, signed),
            "mul24" | "mad24" => {
                let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
                let (a, b) = (self.low24(a, signed), self.low24(b, signed));
                let product = self.b.ins().imul(a, b);
                let product = if op.has("hi") { self.shift_right(product, 16, signed) } else { product };
                if op.opcode.name() == "mad24" {
                    let c = self.read_at(op, 3, types::I64)?;
                    self.b.ins().iadd(product, c)
                } else {
                    product
                }
            }
            "div" | "rem" => {
                let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
                let constant = match op.operand(2)? {
                    Operand::Int(bits) => Some(*bits),
                    _ => None,
                };
                self.divide(a, b, op.opcode.name() == "div", signed, constant)
            }
            "neg" => {
                let a = self.read_at(op, 1, ty)?;
                self.b.ins().ineg(a)
            }
            "abs" => {
                let a = self.read_at(op, 1, ty)?;
                self.b.ins().iabs(a)
            }
            "min" | "max" => {
                let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
                let value = self.min_max(a, b, op.opcode.name() == "min", signed);
                if op.has("relu") {
                    let zero = self.constant(ty, 0);
                    self.b.ins().smax(value, zero)
                } else {
                    value
                }
            }
            "sad" => {
                let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
                let (low, high) = (self.min_max(a, b, true, signed), self.min_max(a, b, false, signed));
                let difference = self.b.ins().isub(high, low);
                let c = self.read_at(op, 3, ty)?;
                self.b.ins().iadd(difference, c)
            }
            "dp4a" | "dp2a" => self.dot_product(op)?,
            _ => return Err("the software GPU does not know this integer instruction".into()),
        };
        let target = op.operand(0)?;
        self.write_as(target, value, signed)
    }

    pub(super) fn min_max(&mut self, a: Value, b: Value, min: bool, signed: bool) -> Value {
        match (min, signed) {
            (true, true) => self.b.ins().smin(a, b),
            (true, false) => self.b.ins().umin(a, b),
            (false, true) => self.b.ins().smax(a, b),
            (false, false) => self.b.ins().umax(a, b),
        }
    }

    fn shift_right(&mut self, value: Value, by: i64, signed: bool) -> Value {
        if signed { self.b.ins().sshr_imm_u(value, by) } else { self.b.ins().ushr_imm_u(value, by) }
    }

    /// The low 24 bits of a 32-bit value, as 64 bits.
    fn low24(&mut self, value: Value, signed: bool) -> Value {
        let value = self.coerce(value, types::I64, false);
        let high = self.b.ins().ishl_imm_u(value, 40);
        self.shift_right(high, 40, signed)
    }

    /// `add.sat.s32`: clamped to the range of 32 bits.
    fn saturating(&mut self, a: Value, b: Value, add: bool) -> Value {
        let (a, b) = (self.coerce(a, types::I64, true), self.coerce(b, types::I64, true));
        let wide = if add { self.b.ins().iadd(a, b) } else { self.b.ins().isub(a, b) };
        self.clamp_s32(wide)
    }

    fn clamp_s32(&mut self, wide: Value) -> Value {
        let (low, high) = (
            self.b.ins().iconst(types::I64, i64::from(i32::MIN)),
            self.b.ins().iconst(types::I64, i64::from(i32::MAX)),
        );
        let value = self.b.ins().smax(wide, low);
        let value = self.b.ins().smin(value, high);
        self.b.ins().ireduce(types::I32, value)
    }

    fn multiply(&mut self, op: &Op<'a>, ty: Type, signed: bool) -> Done {
        let (a, b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
        let mut value = if op.has("wide") {
            let wide = ty.double_width().ok_or("too wide")?;
            let (a, b) = (self.coerce(a, wide, signed), self.coerce(b, wide, signed));
            self.b.ins().imul(a, b)
        } else if op.has("hi") {
            self.multiply_high(a, b, signed)
        } else {
            self.b.ins().imul(a, b)
        };
        if op.opcode.name() == "mad" {
            let ty = self.b.func.dfg.value_type(value);
            let c = self.read_at(op, 3, ty)?;
            value = if op.has("sat") { self.saturating(value, c, true) } else { self.b.ins().iadd(value, c) };
        }
        let target = op.operand(0)?;
        self.write_as(target, value, signed)
    }

    pub(super) fn multiply_high(&mut self, a: Value, b: Value, signed: bool) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        match (ty, signed) {
            (types::I64, true) => self.b.ins().smulhi(a, b),
            (types::I64, false) => self.b.ins().umulhi(a, b),
            _ => {
                let (a, b) = (self.coerce(a, types::I64, signed), self.coerce(b, types::I64, signed));
                let product = self.b.ins().imul(a, b);
                let high = self.shift_right(product, i64::from(ty.bits()), signed);
                self.b.ins().ireduce(ty, high)
            }
        }
    }

    /// Division never traps: by zero it gives all ones (the remainder: the dividend), the least by -1 itself.
    fn divide(&mut self, a: Value, b: Value, quotient: bool, signed: bool, constant: Option<u64>) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        if ty.bits() < 32 {
            let (a, b) = (self.coerce(a, types::I32, signed), self.coerce(b, types::I32, signed));
            let value = self.divide(a, b, quotient, signed, constant);
            return self.b.ins().ireduce(ty, value);
        }
        let plain = |this: &mut Self, a, b| match (quotient, signed) {
            (true, true) => this.b.ins().sdiv(a, b),
            (true, false) => this.b.ins().udiv(a, b),
            (false, true) => this.b.ins().srem(a, b),
            (false, false) => this.b.ins().urem(a, b),
        };
        let minus_one = if ty == types::I32 { u64::from(u32::MAX) } else { u64::MAX };
        if let Some(bits) = constant
            && bits & minus_one != 0
            && bits & minus_one != minus_one
        {
            return plain(self, a, b);
        }
        let zero = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
        let one = self.constant(ty, 1);
        let mut unsafe_divisor = zero;
        let negative_one = signed.then(|| {
            let ones = self.constant(ty, minus_one);
            self.b.ins().icmp(IntCC::Equal, b, ones)
        });
        if let Some(negative_one) = negative_one {
            unsafe_divisor = self.b.ins().bor(zero, negative_one);
        }
        let divisor = self.b.ins().select(unsafe_divisor, one, b);
        let mut value = plain(self, a, divisor);
        if let (Some(negative_one), true) = (negative_one, quotient) {
            let negated = self.b.ins().ineg(a);
            value = self.b.ins().select(negative_one, negated, value);
        }
        let by_zero = if quotient { self.constant(ty, minus_one) } else { a };
        self.b.ins().select(zero, by_zero, value)
    }

    /// `dp4a`, `dp2a`: bytes of `a` (halves for `dp2a`) times bytes of `b`, summed onto `c`.
    fn dot_product(&mut self, op: &Op<'a>) -> Result<Value, String> {
        let [a_ty, b_ty] = op.types[..] else { return Err("two types are expected".into()) };
        let four = op.opcode.name() == "dp4a";
        let (a, b) = (self.read_at(op, 1, types::I32)?, self.read_at(op, 2, types::I32)?);
        let mut sum = self.read_at(op, 3, types::I32)?;
        let offset = if !four && op.has("hi") { 16 } else { 0 };
        let lanes = if four { 4 } else { 2 };
        let width = if four { types::I8 } else { types::I16 };
        for lane in 0..lanes {
            let shift = i64::from(lane) * i64::from(width.bits());
            let x = self.lane(a, shift, width, a_ty.is_signed());
            let y = self.lane(b, offset + i64::from(lane) * 8, types::I8, b_ty.is_signed());
            let product = self.b.ins().imul(x, y);
            sum = self.b.ins().iadd(sum, product);
        }
        Ok(sum)
    }

    fn lane(&mut self, value: Value, shift: i64, ty: Type, signed: bool) -> Value {
        let shifted = self.b.ins().ushr_imm_u(value, shift);
        let lane = self.b.ins().ireduce(ty, shifted);
        self.coerce(lane, types::I32, signed)
    }

    fn packed_integer(&mut self, op: &Op<'a>, scalar: ScalarType) -> Done {
        let signed = scalar == ScalarType::S16x2;
        let (a, b) = (self.read_at(op, 1, types::I32)?, self.read_at(op, 2, types::I32)?);
        let mut result = self.constant(types::I32, 0);
        for shift in [0, 16] {
            let (x, y) = (self.lane(a, shift, types::I16, signed), self.lane(b, shift, types::I16, signed));
            let value = match op.opcode.name() {
                "add" => self.b.ins().iadd(x, y),
                "min" => self.min_max(x, y, true, signed),
                "max" => self.min_max(x, y, false, signed),
                _ => return Err("this packed instruction is not supported".into()),
            };
            let value = if op.has("relu") {
                let zero = self.constant(types::I32, 0);
                self.b.ins().smax(value, zero)
            } else {
                value
            };
            let low = self.b.ins().band_imm_u(value, 0xffff);
            let place = self.b.ins().ishl_imm_u(low, shift);
            result = self.b.ins().bor(result, place);
        }
        self.write(op, result)
    }

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`: the carry is a variable of its own.
    pub(super) fn carry_chain(&mut self, op: &Op<'a>) -> Done {
        let scalar = op.ty()?;
        let (ty, signed) = (clif_type(scalar), scalar.is_signed());
        let name = op.opcode.name();
        let (mut a, mut b) = (self.read_at(op, 1, ty)?, self.read_at(op, 2, ty)?);
        if name.starts_with("mad") {
            a = if op.has("hi") { self.multiply_high(a, b, signed) } else { self.b.ins().imul(a, b) };
            b = self.read_at(op, 3, ty)?;
        }
        // A difference is `a + !b + 1`: its carry is the opposite of a borrow. The PTX ISA calls it a borrow, which
        // differs only where `addc` follows `sub.cc`, as in nvcc's own division of 128 bits: that relies on this.
        if name.starts_with("sub") {
            b = self.b.ins().bnot(b);
        }
        let carry_in = if name.ends_with('c') {
            let carry = self.b.use_var(self.carry);
            self.coerce(carry, ty, false)
        } else {
            self.constant(ty, u64::from(name == "sub"))
        };
        let first = self.b.ins().iadd(a, b);
        let carry_a = self.b.ins().icmp(IntCC::UnsignedLessThan, first, a);
        let value = self.b.ins().iadd(first, carry_in);
        let carry_b = self.b.ins().icmp(IntCC::UnsignedLessThan, value, carry_in);
        let carry = self.b.ins().bor(carry_a, carry_b);
        if op.has("cc") {
            let carry = self.b.ins().uextend(types::I64, carry);
            self.b.def_var(self.carry, carry);
        }
        self.write(op, value)
    }

    /// A helper of three words and a mode, for what is too long to write inline.
    pub(super) fn permute(&mut self, a: Value, b: Value, selector: Value, mode: u64) -> Value {
        let mode = self.constant(types::I32, mode);
        self.helper(helpers::permute as *const () as usize, &[a, b, selector, mode], Some(types::I32))
            .expect("it has a result")
    }
}
