//! `cvt`: between all integer and floating types, with every rounding and saturation.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use ptx::ScalarType;

use super::translator::{Done, Op, Translator, clif_type};
use crate::jit::numeric::{self, Rounding};

impl<'a> Translator<'a, '_> {
    pub(super) fn cvt(&mut self, op: &Op<'a>) -> Done {
        if op.has("pack") {
            return self.cvt_pack(op);
        }
        if let Some(small) = Self::small_format(op) {
            return self.cvt_small(op, small);
        }
        if op.has("rs")
            || op.opcode.parts.iter().any(|part| part.starts_with("ue8m0") || part.ends_with("x4"))
        {
            return Err("this conversion is not supported".into());
        }
        let [to, from] = op.types[..] else { return Err("two types are expected".into()) };
        if matches!(to, ScalarType::F16x2 | ScalarType::Bf16x2) {
            return self.cvt_pair(op, to);
        }
        if from == ScalarType::Bf16x2 || from == ScalarType::F16x2 {
            return Err("this conversion is not supported".into());
        }
        let value = match (is_float(to), is_float(from)) {
            (false, false) => self.int_to_int(op, to, from)?,
            (true, false) => self.int_to_float(op, to, from)?,
            (false, true) => self.float_to_int(op, to, from)?,
            (true, true) => self.float_to_float(op, to, from)?,
        };
        let target = op.operand(0)?;
        self.write_as(target, value, to.is_signed())
    }

    /// `cvt.rn.f16x2.f32 d, a, b`: `a` becomes the upper half.
    fn cvt_pair(&mut self, op: &Op<'a>, to: ScalarType) -> Done {
        let element = if to == ScalarType::F16x2 { ScalarType::F16 } else { ScalarType::Bf16 };
        let (mut high, mut low) = (self.read_at(op, 1, types::F32)?, self.read_at(op, 2, types::F32)?);
        if op.has("relu") {
            let zero = self.float_constant(types::F32, 0.0);
            (high, low) = (self.b.ins().fmax(high, zero), self.b.ins().fmax(low, zero));
        }
        let mode = Rounding::of(|modifier| op.has(modifier)).map_or(0, |rounding| rounding as u64);
        let high = self.keep_finite(op, high, element);
        let low = self.keep_finite(op, low, element);
        let (high, low) = (self.float_to_half(high, element, mode), self.float_to_half(low, element, mode));
        let pair = self.pack_halves(low, high);
        self.write(op, pair)
    }

    /// `.satfinite`: what is too large for the type becomes its greatest value.
    fn keep_finite(&mut self, op: &Op<'a>, value: Value, to: ScalarType) -> Value {
        if !op.has("satfinite") {
            return value;
        }
        let greatest = match to {
            ScalarType::F16 => 65504.0,
            ScalarType::Bf16 => f64::from(f32::from_bits(0x7f7f_0000)),
            _ => f64::from(f32::from_bits(0x7f7f_e000)),
        };
        let ty = self.b.func.dfg.value_type(value);
        let (low, high) = (self.float_constant(ty, -greatest), self.float_constant(ty, greatest));
        let value = self.b.ins().fmax(value, low);
        self.b.ins().fmin(value, high)
    }

    fn int_to_int(&mut self, op: &Op<'a>, to: ScalarType, from: ScalarType) -> Result<Value, String> {
        let value = self.read_at(op, 1, clif_type(from))?;
        let (signed, target) = (from.is_signed(), clif_type(to));
        if !op.has("sat") {
            return Ok(self.coerce(value, target, signed));
        }
        // Clamp in 64 bits; only u64 to signed and signed to u64 need more care.
        let wide = self.coerce(value, types::I64, signed);
        let bits = target.bits();
        let wide = if signed && !to.is_signed() {
            let zero = self.constant(types::I64, 0);
            self.b.ins().smax(wide, zero)
        } else {
            wide
        };
        let high = if to.is_signed() { (1_u64 << (bits - 1)) - 1 } else { u64::MAX >> (64 - bits) };
        let high = self.constant(types::I64, high);
        let clamped = if signed && to.is_signed() {
            let low = self.constant(types::I64, u64::MAX << (bits - 1));
            let value = self.b.ins().smax(wide, low);
            self.b.ins().smin(value, high)
        } else {
            self.b.ins().umin(wide, high)
        };
        Ok(self.coerce(clamped, target, false))
    }

    fn int_to_float(&mut self, op: &Op<'a>, to: ScalarType, from: ScalarType) -> Result<Value, String> {
        let value = self.read_at(op, 1, clif_type(from))?;
        let signed = from.is_signed();
        let narrow = self.b.func.dfg.value_type(value).bits() < 32;
        let value = if narrow { self.coerce(value, types::I32, signed) } else { value };
        let rounding = Rounding::of(|modifier| op.has(modifier));
        let ty = if to == ScalarType::F64 { types::F64 } else { types::F32 };
        let half = matches!(to, ScalarType::F16 | ScalarType::Bf16);
        if let Some(rounding) = rounding
            && !half
        {
            let wide = self.coerce(value, types::I64, signed);
            let address = numeric::int_to_float(rounding, signed, ty == types::F64);
            return Ok(self.helper(address, &[wide], Some(ty)).expect("it has a result"));
        }
        // A half gets its integer exactly or hopelessly too large, by way of f64.
        let ty = if half { types::F64 } else { ty };
        let value = if signed {
            self.b.ins().fcvt_from_sint(ty, value)
        } else {
            self.b.ins().fcvt_from_uint(ty, value)
        };
        if half {
            let mode = rounding.map_or(0, |rounding| rounding as u64);
            return Ok(self.float_to_half(value, to, mode));
        }
        Ok(if op.has("sat") { self.saturate(value) } else { value })
    }

    fn read_float(&mut self, op: &Op<'a>, at: usize, from: ScalarType) -> Result<Value, String> {
        if matches!(from, ScalarType::F16 | ScalarType::Bf16) {
            let half = self.read_at(op, at, types::I16)?;
            return Ok(self.half_to_float(half, from));
        }
        let value = self.read_at(op, at, clif_type(from))?;
        Ok(if op.has("ftz") { self.flush(value) } else { value })
    }

    /// `rni`, `rzi`, `rmi`, `rpi`: to an integral value in the same type.
    fn integral(&mut self, op: &Op<'a>, value: Value) -> Value {
        if op.has("rni") {
            self.b.ins().nearest(value)
        } else if op.has("rmi") {
            self.b.ins().floor(value)
        } else if op.has("rpi") {
            self.b.ins().ceil(value)
        } else if op.has("rzi") {
            self.b.ins().trunc(value)
        } else {
            value
        }
    }

    /// PTX ISA, "cvt": NaN becomes 0, or the top bit where a side has 64 bits.
    fn float_to_int(&mut self, op: &Op<'a>, to: ScalarType, from: ScalarType) -> Result<Value, String> {
        let value = self.read_float(op, 1, from)?;
        let clamped = self.clamp_to_int(op, value, to);
        if from != ScalarType::F64 && to.bytes() < 8 {
            return Ok(clamped);
        }
        let target = clif_type(to);
        let top = self.constant(target, 1 << (target.bits() - 1));
        let nan = self.b.ins().fcmp(FloatCC::Unordered, value, value);
        Ok(self.b.ins().select(nan, top, clamped))
    }

    /// An integer clamped to the type's range; 0 for NaN.
    fn clamp_to_int(&mut self, op: &Op<'a>, value: Value, to: ScalarType) -> Value {
        // Conversion cuts towards zero by itself.
        let value = if op.has("rzi") { value } else { self.integral(op, value) };
        let (target, signed) = (clif_type(to), to.is_signed());
        let wide = if target.bits() < 32 { types::I32 } else { target };
        let converted = if signed {
            self.b.ins().fcvt_to_sint_sat(wide, value)
        } else {
            self.b.ins().fcvt_to_uint_sat(wide, value)
        };
        if wide == target {
            return converted;
        }
        let bits = target.bits();
        let clamped = if signed {
            let (low, high) =
                (self.constant(wide, u64::MAX << (bits - 1)), self.constant(wide, (1 << (bits - 1)) - 1));
            let value = self.b.ins().smax(converted, low);
            self.b.ins().smin(value, high)
        } else {
            let high = self.constant(wide, (1 << bits) - 1);
            self.b.ins().umin(converted, high)
        };
        self.b.ins().ireduce(target, clamped)
    }

    fn float_to_float(&mut self, op: &Op<'a>, to: ScalarType, from: ScalarType) -> Result<Value, String> {
        let value = self.read_float(op, 1, from)?;
        let value = self.integral(op, value);
        let rounding = Rounding::of(|modifier| op.has(modifier));
        let value = if op.has("relu") {
            let zero = self.float_constant(self.b.func.dfg.value_type(value), 0.0);
            self.b.ins().fmax(value, zero)
        } else {
            value
        };
        let value = if op.has("sat") { self.saturate(value) } else { value };
        let wide = self.b.func.dfg.value_type(value);
        let value = match to {
            ScalarType::F16 | ScalarType::Bf16 => {
                let mode = rounding.map_or(0, |rounding| rounding as u64);
                let value = self.keep_finite(op, value, to);
                return Ok(self.float_to_half(value, to, mode));
            }
            ScalarType::F64 if wide == types::F32 => self.b.ins().fpromote(types::F64, value),
            ScalarType::F32 if wide == types::F64 => match rounding {
                None => self.b.ins().fdemote(types::F32, value),
                Some(rounding) => {
                    let address = numeric::narrow(rounding);
                    self.helper(address, &[value], Some(types::F32)).expect("it has a result")
                }
            },
            ScalarType::Tf32 => {
                let value = self.keep_finite(op, value, to);
                self.tf32(op, value)
            }
            _ => value,
        };
        Ok(if op.has("ftz") { self.flush(value) } else { value })
    }

    /// TF32 keeps ten bits of the fraction: `rna` rounds halves away from zero, `rn` to even.
    fn tf32(&mut self, op: &Op<'a>, value: Value) -> Value {
        let bits = self.coerce(value, types::I32, false);
        let rounded = if op.has("rz") {
            bits
        } else if op.has("rn") {
            let odd = self.b.ins().ushr_imm_u(bits, 13);
            let odd = self.b.ins().band_imm_u(odd, 1);
            let sum = self.b.ins().iadd(bits, odd);
            self.b.ins().iadd_imm_s(sum, 0xfff)
        } else {
            self.b.ins().iadd_imm_s(bits, 0x1000)
        };
        let mask = self.constant(types::I32, 0xffff_e000);
        let cut = self.b.ins().band(rounded, mask);
        let cut = self.coerce(cut, types::F32, false);
        let magnitude = self.b.ins().fabs(value);
        let infinity = self.float_constant(types::F32, f64::INFINITY);
        let finite = self.b.ins().fcmp(FloatCC::LessThan, magnitude, infinity);
        self.b.ins().select(finite, cut, value)
    }
}

fn is_float(ty: ScalarType) -> bool {
    ty.is_float() || ty == ScalarType::Tf32
}
