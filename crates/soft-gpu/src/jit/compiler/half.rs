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
        // A sign is one bit, and NaN keeps its payload.
        match op.opcode.name() {
            "neg" => return Ok(self.b.ins().bxor_imm_u(inputs[0], 0x8000)),
            "abs" => return Ok(self.b.ins().band_imm_u(inputs[0], 0x7fff)),
            _ => {}
        }
        let mut wide: Vec<Value> = inputs.iter().map(|&input| self.half_to_float(input, element)).collect();
        let mut ty = types::F32;
        if matches!(op.opcode.name(), "fma" | "mad") {
            ty = types::F64;
            wide = wide.into_iter().map(|value| self.b.ins().fpromote(types::F64, value)).collect();
        }
        let value = self.float_op(op, ty, &wide)?;
        let value = if op.has("sat") { self.saturate(value) } else { value };
        let value = if op.has("relu") {
            let zero = self.float_constant(ty, 0.0);
            self.b.ins().fmax(value, zero)
        } else {
            value
        };
        Ok(self.float_to_half(value, element, 0))
    }
}
