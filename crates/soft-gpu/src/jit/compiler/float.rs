//! Floating-point arithmetic of 32 and 64 bits.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use ptx::ScalarType;

use super::translator::{Done, Op, Translator, clif_type};
use crate::jit::numeric::{self, Rounding};

impl<'a> Translator<'a, '_> {
    pub(super) fn float(&mut self, op: &Op<'a>) -> Done {
        let scalar = op.ty()?;
        if op.opcode.name() == "testp" {
            return self.test_property(op, clif_type(scalar));
        }
        if let [ScalarType::F32, half @ (ScalarType::F16 | ScalarType::Bf16)] = op.types[..] {
            return self.float_of_halves(op, half);
        }
        if matches!(scalar, ScalarType::F16 | ScalarType::Bf16 | ScalarType::F16x2 | ScalarType::Bf16x2) {
            return self.half(op, scalar);
        }
        let ty = clif_type(scalar);
        let ftz = op.has("ftz");
        let mut inputs = Vec::with_capacity(3);
        for at in 1..op.operands.len() {
            let value = self.read_at(op, at, ty)?;
            inputs.push(if ftz { self.flush(value) } else { value });
        }
        let value = self.float_op(op, ty, &inputs)?;
        let value = if ftz { self.flush(value) } else { value };
        let value = if op.has("sat") { self.saturate(value) } else { value };
        self.write(op, value)
    }

    pub(super) fn float_op(&mut self, op: &Op<'a>, ty: Type, inputs: &[Value]) -> Result<Value, String> {
        let rounding = Rounding::of(|modifier| op.has(modifier));
        let name = op.opcode.name();
        let (&a, second) = (inputs.first().ok_or("an operand is missing")?, inputs.get(1));
        if let Some(rounding) = rounding
            && matches!(name, "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt")
        {
            return self.rounded(name, rounding, ty, inputs);
        }
        if let Some(address) = numeric::approximation(name, ty == types::F64) {
            return Ok(self.helper(address, &[a], Some(ty)).expect("it has a result"));
        }
        let b = || second.copied().ok_or_else(|| String::from("an operand is missing"));
        Ok(match name {
            "add" => {
                let b = b()?;
                self.b.ins().fadd(a, b)
            }
            "sub" => {
                let b = b()?;
                self.b.ins().fsub(a, b)
            }
            "mul" => {
                let b = b()?;
                self.b.ins().fmul(a, b)
            }
            "div" => {
                let b = b()?;
                self.b.ins().fdiv(a, b)
            }
            "fma" | "mad" => {
                let (b, c) = (b()?, *inputs.get(2).ok_or("an operand is missing")?);
                self.fused(ty, a, b, c)
            }
            "neg" => self.b.ins().fneg(a),
            "abs" => self.b.ins().fabs(a),
            "sqrt" => self.b.ins().sqrt(a),
            "rcp" => {
                let one = self.float_constant(ty, 1.0);
                self.b.ins().fdiv(one, a)
            }
            "rsqrt" => {
                let one = self.float_constant(ty, 1.0);
                let root = self.b.ins().sqrt(a);
                self.b.ins().fdiv(one, root)
            }
            // PTX ISA, "copysign": the sign comes from the first operand.
            "copysign" => {
                let b = b()?;
                self.b.ins().fcopysign(b, a)
            }
            "min" | "max" => {
                let b = b()?;
                let mut value = self.float_min_max(op, a, b, name == "min");
                if let Some(&c) = inputs.get(2) {
                    value = self.float_min_max(op, value, c, name == "min");
                }
                value
            }
            _ => return Err("the software GPU does not know this floating instruction".into()),
        })
    }

    fn fused(&mut self, ty: Type, a: Value, b: Value, c: Value) -> Value {
        if std::arch::is_x86_feature_detected!("fma") {
            return self.b.ins().fma(a, b, c);
        }
        let address = numeric::fused(ty == types::F64);
        self.helper(address, &[a, b, c], Some(ty)).expect("it has a result")
    }

    /// An operation in a rounding mode other than the nearest even.
    fn rounded(
        &mut self,
        name: &str,
        rounding: Rounding,
        ty: Type,
        inputs: &[Value],
    ) -> Result<Value, String> {
        let mut inputs = inputs.to_vec();
        let name = match name {
            "rcp" => {
                let one = self.float_constant(ty, 1.0);
                inputs.insert(0, one);
                "div"
            }
            "mad" => "fma",
            other => other,
        };
        let address = numeric::rounded(name, rounding, ty == types::F64).ok_or("no such rounding")?;
        Ok(self.helper(address, &inputs, Some(ty)).expect("it has a result"))
    }

    /// PTX ISA, "min", "max": one NaN loses, unless `.NaN`; -0 is below +0.
    pub(super) fn float_min_max(&mut self, op: &Op<'a>, a: Value, b: Value, min: bool) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let (x, y) = if op.has("abs") { (self.b.ins().fabs(a), self.b.ins().fabs(b)) } else { (a, b) };
        let mut value = if min { self.b.ins().fmin(x, y) } else { self.b.ins().fmax(x, y) };
        if !op.has("NaN") {
            let a_nan = self.b.ins().fcmp(FloatCC::Unordered, x, x);
            value = self.b.ins().select(a_nan, y, value);
            let b_nan = self.b.ins().fcmp(FloatCC::Unordered, y, y);
            value = self.b.ins().select(b_nan, x, value);
        }
        if op.has("xorsign") {
            let (a, b) = (self.coerce(a, ty.as_int(), false), self.coerce(b, ty.as_int(), false));
            let signs = self.b.ins().bxor(a, b);
            let signs = self.coerce(signs, ty, false);
            value = self.b.ins().fcopysign(value, signs);
        }
        value
    }

    /// `.ftz`: a subnormal becomes a zero of its sign.
    pub(super) fn flush(&mut self, value: Value) -> Value {
        let ty = self.b.func.dfg.value_type(value);
        if ty != types::F32 {
            return value;
        }
        let magnitude = self.b.ins().fabs(value);
        let least = self.b.ins().f32const(f32::MIN_POSITIVE);
        let subnormal = self.b.ins().fcmp(FloatCC::LessThan, magnitude, least);
        let zero = self.b.ins().f32const(0.0_f32);
        let zero = self.b.ins().fcopysign(zero, value);
        self.b.ins().select(subnormal, zero, value)
    }

    /// `.sat`: into [0, 1], NaN to +0.
    pub(super) fn saturate(&mut self, value: Value) -> Value {
        let ty = self.b.func.dfg.value_type(value);
        let (zero, one) = (self.float_constant(ty, 0.0), self.float_constant(ty, 1.0));
        let positive = self.b.ins().fcmp(FloatCC::GreaterThan, value, zero);
        let value = self.b.ins().select(positive, value, zero);
        let above = self.b.ins().fcmp(FloatCC::GreaterThan, value, one);
        self.b.ins().select(above, one, value)
    }

    fn test_property(&mut self, op: &Op<'a>, ty: Type) -> Done {
        let a = self.read_at(op, 1, ty)?;
        let magnitude = self.b.ins().fabs(a);
        let infinity = self.float_constant(ty, f64::INFINITY);
        let least = if ty == types::F32 { f64::from(f32::MIN_POSITIVE) } else { f64::MIN_POSITIVE };
        let least = self.float_constant(ty, least);
        let zero = self.float_constant(ty, 0.0);
        let value = if op.has("finite") {
            self.b.ins().fcmp(FloatCC::LessThan, magnitude, infinity)
        } else if op.has("infinite") {
            self.b.ins().fcmp(FloatCC::Equal, magnitude, infinity)
        } else if op.has("number") {
            self.b.ins().fcmp(FloatCC::Ordered, a, a)
        } else if op.has("notanumber") {
            self.b.ins().fcmp(FloatCC::Unordered, a, a)
        } else if op.has("normal") {
            let finite = self.b.ins().fcmp(FloatCC::LessThan, magnitude, infinity);
            let large = self.b.ins().fcmp(FloatCC::GreaterThanOrEqual, magnitude, least);
            self.b.ins().band(finite, large)
        } else {
            let small = self.b.ins().fcmp(FloatCC::LessThan, magnitude, least);
            let nonzero = self.b.ins().fcmp(FloatCC::GreaterThan, magnitude, zero);
            self.b.ins().band(small, nonzero)
        };
        self.write(op, value)
    }
}
