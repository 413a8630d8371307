//! Conversions of pairs: `cvt.pack`, the formats of eight bits and fewer, and arithmetic on pairs of f32.

use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use ptx::ScalarType;

use super::translator::{Done, Op, Translator};
use crate::jit::float8::{self, Format};

impl<'a> Translator<'a, '_> {
    /// `cvt.pack.sat.to.s32{.b32} d, a, b{, c}`: `b` lowest, then `a`, then the low bits of `c`.
    pub(super) fn cvt_pack(&mut self, op: &Op<'a>) -> Done {
        let to = op.opcode.parts.iter().skip(2).find(|part| &***part != "sat").ok_or("a type is expected")?;
        let (sign, bits) = to.split_at(1);
        let bits: u32 = bits.parse().map_err(|_| "the type is not known")?;
        if !["s", "u"].contains(&sign) || ![2, 4, 8, 16].contains(&bits) {
            return Err("the type is not known".into());
        }
        let (low, high) =
            if sign == "s" { (-(1_i64 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
        let mut packed = match op.operands.get(3) {
            Some(c) => {
                let c = self.read(c, types::I32)?;
                self.b.ins().ishl_imm_u(c, i64::from(2 * bits) % 32)
            }
            None => self.constant(types::I32, 0),
        };
        let unsigned_source = op.types.contains(&ScalarType::U32);
        for (at, shift) in [(1, bits), (2, 0)] {
            let value = self.read_at(op, at, types::I32)?;
            let value = self.coerce(value, types::I64, !unsigned_source);
            let (low, high) = (self.b.ins().iconst(types::I64, low), self.b.ins().iconst(types::I64, high));
            let value = self.b.ins().smax(value, low);
            let value = self.b.ins().smin(value, high);
            let value = self.b.ins().ireduce(types::I32, value);
            let value = self.b.ins().band_imm_u(value, (1 << bits) - 1);
            let value = self.b.ins().ishl_imm_u(value, i64::from(shift));
            packed = self.b.ins().bor(packed, value);
        }
        self.write(op, packed)
    }

    /// Whether a conversion is from or to a pair of one of the small formats, and which.
    pub(super) fn small_format(op: &Op<'a>) -> Option<(usize, Format)> {
        let parts = op.opcode.parts.iter().enumerate();
        parts.filter_map(|(at, part)| Format::of_pair(part).map(|format| (at, format))).next()
    }

    /// `cvt.rn.satfinite.e4m3x2.f32 d, a, b`, `cvt.rn.satfinite.e4m3x2.f16x2 d, a`, `cvt.rn.f16x2.e4m3x2 d, a`
    pub(super) fn cvt_small(&mut self, op: &Op<'a>, (at, format): (usize, Format)) -> Done {
        let code = self.constant(types::I32, format as u64);
        let relu = self.constant(types::I32, u64::from(op.has("relu")));
        let bits = i64::from(format.bits());
        if at + 1 == op.opcode.parts.len() {
            if !op.types.contains(&ScalarType::F16x2) {
                return Err("this conversion is not supported".into());
            }
            let pair = self.read_at(op, 1, types::I32)?;
            let mut halves = Vec::with_capacity(2);
            for shift in [0, bits] {
                let one = self.b.ins().ushr_imm_u(pair, shift);
                let one = self.b.ins().band_imm_u(one, (1 << bits) - 1);
                let wide = self.small_helper(float8::widen as *const () as usize, &[one, code], types::F32);
                let wide = if op.has("relu") {
                    let zero = self.float_constant(types::F32, 0.0);
                    self.b.ins().fmax(wide, zero)
                } else {
                    wide
                };
                halves.push(self.float_to_half(wide, ScalarType::F16, 0));
            }
            let pair = self.pack_halves(halves[0], halves[1]);
            return self.write(op, pair);
        }
        let (high, low) = match op.types.first() {
            Some(ScalarType::F32) => (self.read_at(op, 1, types::F32)?, self.read_at(op, 2, types::F32)?),
            Some(pair @ (ScalarType::F16x2 | ScalarType::Bf16x2)) => {
                let element = if *pair == ScalarType::F16x2 { ScalarType::F16 } else { ScalarType::Bf16 };
                let pair = self.read_at(op, 1, types::I32)?;
                let [low, high] = self.unpack_halves(pair, element);
                (high, low)
            }
            _ => return Err("this conversion is not supported".into()),
        };
        let address = float8::narrow as *const () as usize;
        let high = self.small_helper(address, &[high, code, relu], types::I32);
        let low = self.small_helper(address, &[low, code, relu], types::I32);
        let high = self.b.ins().ishl_imm_u(high, bits);
        let pair = self.b.ins().bor(high, low);
        let ty = if bits == 4 { types::I8 } else { types::I16 };
        let pair = self.b.ins().ireduce(ty, pair);
        self.write(op, pair)
    }

    fn small_helper(&mut self, address: usize, arguments: &[Value], result: Type) -> Value {
        self.helper(address, arguments, Some(result)).expect("it has a result")
    }

    /// `add`, `sub`, `mul`, `fma` of `.f32x2`: each half of 64 bits for itself.
    pub(super) fn float_pair(&mut self, op: &Op<'a>) -> Done {
        let ftz = op.has("ftz");
        let mut halves = [Vec::new(), Vec::new()];
        for at in 1..op.operands.len() {
            let pair = self.read_at(op, at, types::I64)?;
            for (half, inputs) in halves.iter_mut().enumerate() {
                let bits = self.b.ins().ushr_imm_u(pair, if half == 0 { 0 } else { 32 });
                let value = self.coerce(bits, types::F32, false);
                inputs.push(if ftz { self.flush(value) } else { value });
            }
        }
        let mut results = Vec::with_capacity(2);
        for inputs in &halves {
            let value = self.float_op(op, types::F32, inputs)?;
            let value = if ftz { self.flush(value) } else { value };
            results.push(self.coerce(value, types::I64, false));
        }
        let high = self.b.ins().ishl_imm_u(results[1], 32);
        let pair = self.b.ins().bor(results[0], high);
        self.write(op, pair)
    }
}
