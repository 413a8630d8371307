//! Halves and bfloat16: computed as f32 and rounded once.
//!
//! A sum, product or quotient of two halves is exact enough in f32 that rounding twice gives what rounding once
//! gives (f32 has more than twice the digits plus two). A fused product is exact in f64.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use ptx::ScalarType;

use super::translator::{Done, Op, Translator};
use crate::jit::numeric;

impl<'a> Translator<'a, '_> {
    pub(super) fn half_to_float(&mut self, value: Value, scalar: ScalarType) -> Value {
        let wide = self.coerce(value, types::I32, false);
        if scalar == ScalarType::Bf16 {
            let bits = self.b.ins().ishl_imm_u(wide, 16);
            return self.coerce(bits, types::F32, false);
        }
        let address = numeric::f16_to_f32 as *const () as usize;
        self.helper(address, &[wide], Some(types::F32)).expect("it has a result")
    }

    /// Rounds a float to a half; `mode` as in [`numeric::Rounding`], 0 the nearest even.
    pub(super) fn float_to_half(&mut self, value: Value, scalar: ScalarType, mode: u64) -> Value {
        let ty = self.b.func.dfg.value_type(value);
        let value = if ty == types::F32 { self.b.ins().fpromote(types::F64, value) } else { value };
        let address = if scalar == ScalarType::Bf16 {
            numeric::f64_to_bf16 as *const () as usize
        } else {
            numeric::f64_to_f16 as *const () as usize
        };
        let mode = self.constant(types::I32, mode);
        let bits = self.helper(address, &[value, mode], Some(types::I32)).expect("it has a result");
        self.b.ins().ireduce(types::I16, bits)
    }

    /// The two halves of a packed pair as floats, low first.
    pub(super) fn unpack_halves(&mut self, pair: Value, scalar: ScalarType) -> [Value; 2] {
        let low = self.b.ins().ireduce(types::I16, pair);
        let high = self.b.ins().ushr_imm_u(pair, 16);
        let high = self.b.ins().ireduce(types::I16, high);
        [self.half_to_float(low, scalar), self.half_to_float(high, scalar)]
    }

    pub(super) fn pack_halves(&mut self, low: Value, high: Value) -> Value {
        let low = self.b.ins().uextend(types::I32, low);
        let high = self.b.ins().uextend(types::I32, high);
        let high = self.b.ins().ishl_imm_u(high, 16);
        self.b.ins().bor(low, high)
    }

    /// Arithmetic on `.f16`, `.bf16` and their packed pairs.
    pub(super) fn half(&mut self, op: &Op<'a>, scalar: ScalarType) -> Done {
        let (element, packed) = match scalar {
            ScalarType::F16x2 => (ScalarType::F16, true),
            ScalarType::Bf16x2 => (ScalarType::Bf16, true),
            other => (other, false),
        };
        let count = op.operands.len().saturating_sub(1);
        if !packed {
            let mut inputs = Vec::with_capacity(count);
            for at in 1..=count {
                inputs.push(self.read_at(op, at, types::I16)?);
            }
            let value = self.half_op(op, element, &inputs)?;
            return self.write(op, value);
        }
        let (mut low, mut high) = (Vec::new(), Vec::new());
        for at in 1..=count {
            let pair = self.read_at(op, at, types::I32)?;
            low.push(self.b.ins().ireduce(types::I16, pair));
            let top = self.b.ins().ushr_imm_u(pair, 16);
            high.push(self.b.ins().ireduce(types::I16, top));
        }
        let (low, high) = (self.half_op(op, element, &low)?, self.half_op(op, element, &high)?);
        let pair = self.pack_halves(low, high);
        self.write(op, pair)
    }

    fn half_op(&mut self, op: &Op<'a>, element: ScalarType, inputs: &[Value]) -> Result<Value, String> {
        if op.has("oob") {
            return Err("out-of-bounds NaNs are not supported".into());
        }
        // A sign is one bit, and NaN keeps its payload.
        match op.opcode.name() {
            "neg" => return Ok(self.b.ins().bxor_imm_u(inputs[0], 0x8000)),
            "abs" => return Ok(self.b.ins().band_imm_u(inputs[0], 0x7fff)),
            _ => {}
        }
        let ftz = op.has("ftz");
        let mut wide = Vec::with_capacity(inputs.len());
        for &input in inputs {
            let input = if ftz { self.flush_half(input, element) } else { input };
            wide.push(self.half_to_float(input, element));
        }
        let mut ty = types::F32;
        if matches!(op.opcode.name(), "fma" | "mad") {
            ty = types::F64;
            wide = wide.into_iter().map(|value| self.b.ins().fpromote(types::F64, value)).collect();
        }
        // Exponents of bfloat16 are so wide that even f64 loses what would decide a tie.
        let value = if let ([a, b, c], ScalarType::Bf16, types::F64) = (&wide[..], element, ty) {
            let address = numeric::fused_odd as *const () as usize;
            self.helper(address, &[*a, *b, *c], Some(ty)).expect("it has a result")
        } else {
            self.float_op(op, ty, &wide)?
        };
        let value = if op.has("sat") { self.saturate(value) } else { value };
        let value = if op.has("relu") {
            let zero = self.float_constant(ty, 0.0);
            self.b.ins().fmax(value, zero)
        } else {
            value
        };
        let half = self.float_to_half(value, element, 0);
        Ok(if ftz { self.flush_half(half, element) } else { half })
    }

    /// `.ftz` of a half: a subnormal becomes a zero of its sign.
    pub(super) fn flush_half(&mut self, half: Value, element: ScalarType) -> Value {
        let exponent = if element == ScalarType::F16 { 0x7c00 } else { 0x7f80 };
        let bits = self.b.ins().band_imm_u(half, exponent);
        let zero = self.b.ins().band_imm_u(half, 0x8000);
        self.b.ins().select(bits, half, zero)
    }

    /// `add.f32.f16 d, a, c`, `fma.rn.f32.bf16 d, a, b, c`: the last operand is f32, the others are halves.
    pub(super) fn float_of_halves(&mut self, op: &Op<'a>, half: ScalarType) -> Done {
        let last = op.operands.len() - 1;
        let mut inputs = Vec::with_capacity(3);
        for at in 1..last {
            let value = self.read_at(op, at, types::I16)?;
            inputs.push(self.half_to_float(value, half));
        }
        inputs.push(self.read_at(op, last, types::F32)?);
        let value = self.float_op(op, types::F32, &inputs)?;
        let value = if op.has("sat") { self.saturate(value) } else { value };
        self.write(op, value)
    }
}
