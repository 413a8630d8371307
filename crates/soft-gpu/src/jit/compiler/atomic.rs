//! Atomic operations.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AtomicRmwOp, InstBuilder, MemFlagsData, Value, types};
use ptx::{Operand, ScalarType};

use super::memory::Target;
use super::translator::{Done, Op, Translator, clif_type};
use crate::jit::helpers::{self, Exchange};

impl<'a> Translator<'a, '_> {
    /// `atom.space.op.type d, [a], b{, c}` and `red`, which has no `d`. All are sequentially consistent.
    pub(super) fn atomic(&mut self, op: &Op<'a>) -> Done {
        let ty = op.ty()?;
        let returns = op.opcode.name() == "atom";
        let first = usize::from(returns);
        if op.has("async") {
            return Err("asynchronous reductions are not supported".into());
        }
        if let Some(count) = [("v2", 2), ("v4", 4), ("v8", 8)].into_iter().find(|(vector, _)| op.has(vector))
        {
            return self.atomic_vector(op, ty, count.1);
        }
        let (base, offset) = self.address(op.operand(first)?)?;
        let address = self.checked(Target::of(op), base, offset, ty.bytes());
        let word = Self::word(ty);
        let old = if op.has("cas") {
            let (expected, new) = (self.read_at(op, first + 1, word)?, self.read_at(op, first + 2, word)?);
            self.b.ins().atomic_cas(MemFlagsData::new(), address, expected, new)
        } else if ty == ScalarType::B128 {
            self.exchange_wide(op, address, first + 1)?
        } else if let Some(exchange) = exchange(op, ty) {
            let value = self.read_at(op, first + 1, clif_type(ty))?;
            let bits = self.coerce(value, types::I64, false);
            self.exchange(address, bits, exchange, ty)
        } else {
            let operation = plain(op, ty).ok_or("the software GPU does not know this atomic operation")?;
            let value = self.read_at(op, first + 1, word)?;
            self.b.ins().atomic_rmw(word, MemFlagsData::new(), operation, address, value)
        };
        match op.operand(0)? {
            target if returns && *target != Operand::Sink => self.write_as(target, old, ty.is_signed()),
            _ => Ok(()),
        }
    }

    /// `atom.exch.b128`: Cranelift's own exchange of 128 bits leaves memory as it was, so compare and swap until it holds.
    fn exchange_wide(&mut self, op: &Op<'a>, address: Value, at: usize) -> Result<Value, String> {
        if !op.has("exch") {
            return Err("the software GPU does not know this atomic operation".into());
        }
        let new = self.read_at(op, at, types::I128)?;
        let (again, done) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(again, types::I128);
        let guess = self.constant(types::I128, 0);
        self.b.ins().jump(again, &[guess.into()]);
        self.b.switch_to_block(again);
        let expected = self.b.block_params(again)[0];
        let found = self.b.ins().atomic_cas(MemFlagsData::new(), address, expected, new);
        let same = self.b.ins().icmp(IntCC::Equal, found, expected);
        self.b.ins().brif(same, done, &[], again, &[found.into()]);
        self.b.seal_block(again);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        Ok(found)
    }

    /// `atom.global.v4.f32.add {d}, [a], {b}`: an operation for each element.
    fn atomic_vector(&mut self, op: &Op<'a>, ty: ScalarType, count: u32) -> Done {
        let returns = op.opcode.name() == "atom";
        let first = usize::from(returns);
        let exchange = exchange(op, ty).ok_or("the software GPU does not know this atomic operation")?;
        let Operand::Vector(items) = op.operand(first + 1)? else {
            return Err("a vector is expected".into());
        };
        if items.len() != count as usize {
            return Err("the vector has another length than the opcode says".into());
        }
        let (base, offset) = self.address(op.operand(first)?)?;
        let address = self.checked(Target::of(op), base, offset, ty.bytes() * count);
        let mut old = Vec::with_capacity(items.len());
        for (index, item) in (0..).zip(items) {
            let value = self.read(item, clif_type(ty))?;
            let bits = self.coerce(value, types::I64, false);
            let place = self.b.ins().iadd_imm_s(address, index * i64::from(ty.bytes()));
            old.push(self.exchange(place, bits, exchange, ty));
        }
        if let (true, Operand::Vector(targets)) = (returns, op.operand(0)?) {
            for (target, value) in targets.iter().zip(old) {
                self.write_as(target, value, false)?;
            }
        }
        Ok(())
    }

    fn exchange(&mut self, address: Value, bits: Value, exchange: Exchange, ty: ScalarType) -> Value {
        let code = self.constant(types::I32, exchange as u64);
        let old = self
            .helper(helpers::exchange as *const () as usize, &[address, bits, code], Some(types::I64))
            .expect("it has a result");
        self.coerce(old, Self::word(ty), false)
    }
}

fn exchange(op: &Op<'_>, ty: ScalarType) -> Option<Exchange> {
    Some(match ty {
        ScalarType::F32 if op.has("add") => Exchange::AddF32,
        ScalarType::F32 if op.has("min") => Exchange::MinF32,
        ScalarType::F32 if op.has("max") => Exchange::MaxF32,
        ScalarType::F64 if op.has("add") => Exchange::AddF64,
        ScalarType::F16 if op.has("min") => Exchange::MinF16,
        ScalarType::F16 if op.has("max") => Exchange::MaxF16,
        ScalarType::Bf16 if op.has("min") => Exchange::MinBf16,
        ScalarType::Bf16 if op.has("max") => Exchange::MaxBf16,
        ScalarType::F16x2 if op.has("min") => Exchange::MinF16x2,
        ScalarType::F16x2 if op.has("max") => Exchange::MaxF16x2,
        ScalarType::Bf16x2 if op.has("min") => Exchange::MinBf16x2,
        ScalarType::Bf16x2 if op.has("max") => Exchange::MaxBf16x2,
        ScalarType::F16 if op.has("add") => Exchange::AddF16,
        ScalarType::Bf16 if op.has("add") => Exchange::AddBf16,
        ScalarType::F16x2 if op.has("add") => Exchange::AddF16x2,
        ScalarType::Bf16x2 if op.has("add") => Exchange::AddBf16x2,
        _ if op.has("inc") && ty.bytes() == 4 => Exchange::Inc,
        _ if op.has("dec") && ty.bytes() == 4 => Exchange::Dec,
        _ => return None,
    })
}

fn plain(op: &Op<'_>, ty: ScalarType) -> Option<AtomicRmwOp> {
    if ty.is_float() && !op.has("exch") {
        return None;
    }
    Some(if op.has("add") {
        AtomicRmwOp::Add
    } else if op.has("exch") {
        AtomicRmwOp::Xchg
    } else if op.has("and") {
        AtomicRmwOp::And
    } else if op.has("or") {
        AtomicRmwOp::Or
    } else if op.has("xor") {
        AtomicRmwOp::Xor
    } else if op.has("min") {
        if ty.is_signed() { AtomicRmwOp::Smin } else { AtomicRmwOp::Umin }
    } else if op.has("max") {
        if ty.is_signed() { AtomicRmwOp::Smax } else { AtomicRmwOp::Umax }
    } else {
        return None;
    })
}
