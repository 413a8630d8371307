//! Reading and writing operands; constants; `mov`.

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, Type, Value, types};
use ptx::ast::{Name, RegId};
use ptx::{Operand, ScalarType, Space};

use super::analysis::SharedId;
use super::translator::{Done, Op, Place, Translator, clif_type};
use crate::image::{Symbol, VariableId};
use crate::jit::context::ThreadContext;

impl<'a> Translator<'a, '_> {
    /// A field of the thread context that does not change while the code runs.
    pub(super) fn field(&mut self, ty: Type, offset: usize) -> Value {
        let flags = MemFlagsData::trusted().with_readonly().with_can_move();
        let offset = i32::try_from(offset).expect("the context is small");
        self.b.ins().load(ty, flags, self.ctx, offset)
    }

    /// A field of the thread context that changes.
    pub(super) fn field_now(&mut self, ty: Type, offset: usize) -> Value {
        let offset = i32::try_from(offset).expect("the context is small");
        self.b.ins().load(ty, MemFlagsData::trusted(), self.ctx, offset)
    }

    pub(super) fn set_field(&mut self, offset: usize, value: Value) {
        let offset = i32::try_from(offset).expect("the context is small");
        self.b.ins().store(MemFlagsData::trusted(), value, self.ctx, offset);
    }

    /// A constant of an integer or floating type, from its low bits.
    pub(super) fn constant(&mut self, ty: Type, bits: u64) -> Value {
        match ty {
            types::F32 => self.b.ins().f32const(f32::from_bits(low32(bits))),
            types::F64 => self.b.ins().f64const(f64::from_bits(bits)),
            types::I64 => self.b.ins().iconst(types::I64, bits.cast_signed()),
            types::I128 => {
                let (low, high) =
                    (self.constant(types::I64, bits), self.constant(types::I64, sign_word(bits)));
                self.b.ins().iconcat(low, high)
            }
            _ => {
                let mask = (1_u64 << ty.bits()) - 1;
                self.b.ins().iconst(ty, (bits & mask).cast_signed())
            }
        }
    }

    /// The same bits as another type; integers are cut, or widened with zeros (with the sign if `signed`).
    pub(super) fn coerce(&mut self, value: Value, to: Type, signed: bool) -> Value {
        let from = self.b.func.dfg.value_type(value);
        if from == to {
            return value;
        }
        if from.is_float() {
            let bits = self.b.ins().bitcast(from.as_int(), MemFlagsData::new(), value);
            return self.coerce(bits, to, signed);
        }
        if to.is_float() {
            let bits = self.coerce(value, to.as_int(), signed);
            return self.b.ins().bitcast(to, MemFlagsData::new(), bits);
        }
        if from.bits() > to.bits() {
            self.b.ins().ireduce(to, value)
        } else if signed {
            self.b.ins().sextend(to, value)
        } else {
            self.b.ins().uextend(to, value)
        }
    }

    pub(super) fn register(&mut self, register: RegId, ty: Type) -> Value {
        let value = self.b.use_var(self.registers[register as usize].0);
        self.coerce(value, ty, false)
    }

    /// Where a parameter of `.func f(.reg .b32 %x)` is kept, and its type.
    pub(super) fn register_parameter(&self, variable: u32) -> Option<(Value, Type)> {
        let declared = &self.body.variables[variable as usize];
        match self.places[variable as usize] {
            Place::Address(address) if declared.space == Space::Reg => {
                Some((address, clif_type(declared.ty)))
            }
            _ => None,
        }
    }

    /// Reads an operand as a value of a type of Cranelift.
    pub(super) fn read(&mut self, operand: &Operand, ty: Type) -> Result<Value, String> {
        Ok(match operand {
            Operand::Register(register) => self.register(*register, ty),
            Operand::Not(register) => {
                let value = self.register(*register, types::I8);
                let value = self.b.ins().bxor_imm_u(value, 1);
                self.coerce(value, ty, false)
            }
            Operand::Int(bits) if ty.is_float() && *bits != 0 => {
                // An integer literal where a float is wanted keeps its value, not its bits.
                #[allow(clippy::cast_precision_loss, reason = "what the literal means, rounded")]
                let value = bits.cast_signed() as f64;
                self.float_constant(ty, value)
            }
            Operand::Int(bits) => self.constant(ty, *bits),
            Operand::F32(bits) if ty == types::F64 => {
                let value = f64::from(f32::from_bits(*bits));
                self.float_constant(ty, value)
            }
            Operand::F32(bits) => self.constant(ty, u64::from(*bits)),
            Operand::F64(bits) if ty == types::F32 => self.float_constant(ty, f64::from_bits(*bits)),
            Operand::F64(bits) => self.constant(ty, *bits),
            Operand::Special(name) => {
                let value = self.special(name)?;
                self.coerce(value, ty, false)
            }
            Operand::Variable(variable, offset) => {
                if let Some((address, own)) = self.register_parameter(*variable) {
                    let value = self.b.ins().load(own, MemFlagsData::trusted(), address, 0);
                    return Ok(self.coerce(value, ty, false));
                }
                let value = match self.places[*variable as usize] {
                    Place::Address(address) => self.b.ins().iadd_imm_s(address, *offset),
                    Place::Shared(base) => {
                        self.constant(types::I64, u64::from(base).wrapping_add_signed(*offset))
                    }
                };
                self.coerce(value, ty, false)
            }
            Operand::Name(name, offset) => {
                let bits = self.symbol_value(*name)?.wrapping_add_signed(*offset);
                self.constant(ty, bits)
            }
            // `%r+4` outside brackets.
            Operand::Address(items, offset) => {
                let [item] = items.as_slice() else { return Err("an operand has a strange form".into()) };
                let value = self.read(item, ty)?;
                self.b.ins().iadd_imm_s(value, *offset)
            }
            Operand::Vector(_) | Operand::List(_) | Operand::Pair(..) | Operand::Part(..) | Operand::Sink => {
                return Err("an operand has a form that is not supported here".into());
            }
        })
    }

    pub(super) fn read_at(&mut self, op: &Op<'a>, at: usize, ty: Type) -> Result<Value, String> {
        let operand = op.operand(at)?;
        self.read(operand, ty)
    }

    pub(super) fn float_constant(&mut self, ty: Type, value: f64) -> Value {
        #[allow(clippy::cast_possible_truncation, reason = "rounded to the type asked for")]
        if ty == types::F32 { self.b.ins().f32const(value as f32) } else { self.b.ins().f64const(value) }
    }

    /// The address or token that a name at module level stands for.
    pub(super) fn symbol_value(&self, name: u32) -> Result<u64, String> {
        match &self.body.names[name as usize] {
            Name::Symbol(text) => match self.unit.image.symbol(self.id.text, text) {
                Some(Symbol::Memory { address, .. }) => Ok(address),
                Some(Symbol::Shared(VariableId { text, variable })) => {
                    Ok(u64::from(self.unit.shared[&SharedId::Module(text, variable)]))
                }
                Some(Symbol::Function(function)) => Ok(function.token()),
                Some(Symbol::Builtin(_)) => Err(format!("the address of {text} cannot be taken")),
                None => Err(format!("nothing defines {text}")),
            },
            _ => Err("a label is no value".into()),
        }
    }

    /// Writes a value to a register; narrower integers are widened with zeros, or with the sign if `signed`.
    pub(super) fn write_as(&mut self, operand: &Operand, value: Value, signed: bool) -> Done {
        match operand {
            Operand::Register(register) => {
                let (variable, ty) = self.registers[*register as usize];
                let value = self.coerce(value, ty, signed);
                self.b.def_var(variable, value);
                Ok(())
            }
            Operand::Variable(variable, 0) => {
                let parameter = self.register_parameter(*variable);
                let (address, ty) = parameter.ok_or("the destination is not a register")?;
                let value = self.coerce(value, ty, signed);
                self.b.ins().store(MemFlagsData::trusted(), value, address, 0);
                Ok(())
            }
            Operand::Sink => Ok(()),
            _ => Err("the destination is not a register".into()),
        }
    }

    pub(super) fn write(&mut self, op: &Op<'a>, value: Value) -> Done {
        let operand = op.operand(0)?;
        self.write_as(operand, value, false)
    }

    /// A place on the stack, zero-aligned to what parameters of calls need.
    pub(super) fn stack_slot(&mut self, bytes: u64, align: u32) -> Value {
        let bytes = u32::try_from(bytes.max(8)).unwrap_or(u32::MAX).next_multiple_of(8);
        let shift = u8::try_from(align.clamp(8, 16).trailing_zeros()).expect("at most 4");
        let slot =
            self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, shift));
        self.b.ins().stack_addr(types::I64, slot, 0)
    }

    /// `mov`: a copy, or taking a vector apart or together.
    pub(super) fn mov(&mut self, op: &Op<'a>) -> Done {
        let ty = op.ty()?;
        match (op.operand(0)?, op.operand(1)?) {
            (Operand::Vector(parts), source) => {
                let bits = u32::try_from(parts.len()).map_err(|e| e.to_string())?;
                let part = part_type(ty, bits)?;
                let source = self.read(source, clif_type(ty).as_int())?;
                for (index, target) in parts.iter().enumerate() {
                    let piece = if ty == ScalarType::B128 {
                        let (low, high) = self.b.ins().isplit(source);
                        if index == 0 { low } else { high }
                    } else {
                        let shift = i64::from(part.bits()) * i64::try_from(index).unwrap_or(0);
                        let shifted = self.b.ins().ushr_imm_u(source, shift);
                        self.coerce(shifted, part, false)
                    };
                    self.write_as(target, piece, false)?;
                }
                Ok(())
            }
            (target, Operand::Vector(parts)) => {
                let count = u32::try_from(parts.len()).map_err(|e| e.to_string())?;
                let part = part_type(ty, count)?;
                let whole = clif_type(ty).as_int();
                let mut value = None;
                for (index, source) in parts.iter().enumerate() {
                    let piece = self.read(source, part)?;
                    if ty == ScalarType::B128 {
                        value = Some(match value {
                            None => piece,
                            Some(low) => self.b.ins().iconcat(low, piece),
                        });
                        continue;
                    }
                    let piece = self.coerce(piece, whole, false);
                    let shift = i64::from(part.bits()) * i64::try_from(index).unwrap_or(0);
                    let piece = self.b.ins().ishl_imm_u(piece, shift);
                    value = Some(value.map_or(piece, |value| self.b.ins().bor(value, piece)));
                }
                self.write_as(target, value.ok_or("an empty vector")?, false)
            }
            (target, source) => {
                let mut wanted = clif_type(ty);
                // A copy between registers keeps their own form, so that no bits are cast forth and back.
                if let (Operand::Register(to), Operand::Register(_)) = (target, source) {
                    let own = self.registers[*to as usize].1;
                    if own.bits() == wanted.bits() {
                        wanted = own;
                    }
                }
                let value = self.read(source, wanted)?;
                self.write_as(target, value, false)
            }
        }
    }

    /// Tells the context which thread the loop is at, for callees and helpers.
    pub(super) fn publish_tid(&mut self, tid: [cranelift_frontend::Variable; 3]) {
        for (axis, variable) in tid.into_iter().enumerate() {
            let value = self.b.use_var(variable);
            self.set_field(std::mem::offset_of!(ThreadContext, tid) + 4 * axis, value);
        }
        let linear = self.linear_tid();
        self.set_field(std::mem::offset_of!(ThreadContext, at), linear);
        let lane = self.b.ins().band_imm_u(linear, 31);
        self.set_field(std::mem::offset_of!(ThreadContext, lane), lane);
        let warp = self.b.ins().ushr_imm_u(linear, 5);
        self.set_field(std::mem::offset_of!(ThreadContext, warp), warp);
    }
}

fn part_type(ty: ScalarType, count: u32) -> Result<Type, String> {
    match ty.bytes() * 8 / count {
        8 => Ok(types::I8),
        16 => Ok(types::I16),
        32 => Ok(types::I32),
        64 => Ok(types::I64),
        _ => Err("the vector does not divide the type".into()),
    }
}

pub(super) fn low32(bits: u64) -> u32 {
    u32::try_from(bits & 0xffff_ffff).expect("masked")
}

fn sign_word(bits: u64) -> u64 {
    if bits.cast_signed() < 0 { u64::MAX } else { 0 }
}
