//! Barriers in shared memory, and the copies that arrive at them: `mbarrier`, `cp.async`.
//!
//! A copy is done at once, so that waiting for it is nothing and whatever arrives after it may arrive now.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use cuda_types::CuError;
use ptx::{Operand, ScalarType};

use super::memory::Target;
use super::translator::{Done, Op, Translator};
use crate::jit::context::ThreadContext;
use crate::jit::helpers;
use crate::jit::mbarrier::{self, Act};

impl<'a> Translator<'a, '_> {
    /// `mbarrier`: all forms.
    pub(super) fn mbarrier(&mut self, op: &Op<'a>) -> Done {
        let form = op.opcode.parts.get(1).map_or("", |part| &**part);
        let one = |this: &mut Self| this.constant(types::I32, 1);
        self.b.ins().fence();
        match form {
            "init" => {
                let count = self.read_at(op, 1, types::I32)?;
                self.act(op, 0, Act::Init, count)?;
            }
            "inval" => {
                let one = one(self);
                self.act(op, 0, Act::Invalidate, one)?;
            }
            "expect_tx" | "complete_tx" => {
                let bytes = self.read_at(op, 1, types::I32)?;
                let act = if form == "expect_tx" { Act::Expect } else { Act::Complete };
                self.act(op, 0, act, bytes)?;
            }
            "arrive" | "arrive_drop" => {
                let act = match (form, op.has("expect_tx")) {
                    ("arrive", false) => Act::Arrive,
                    ("arrive", true) => Act::ExpectArrive,
                    (_, false) => Act::Drop,
                    (_, true) => Act::ExpectDrop,
                };
                let count = match op.operands.get(2) {
                    Some(count) => self.read(count, types::I32)?,
                    None => one(self),
                };
                let state = self.act(op, 1, act, count)?;
                self.write(op, state)?;
            }
            "test_wait" | "try_wait" => self.test_wait(op, form == "try_wait")?,
            "pending_count" => {
                let state = self.read_at(op, 1, types::I64)?;
                let address = mbarrier::pending_count as *const () as usize;
                let count = self.helper(address, &[state], Some(types::I32)).expect("it has a result");
                self.write(op, count)?;
            }
            _ => return Err("the software GPU does not know this operation on a barrier".into()),
        }
        self.b.ins().fence();
        Ok(())
    }

    /// The host address of the barrier that operand `at` names.
    fn barrier_address(&mut self, op: &Op<'a>, at: usize) -> Result<Value, String> {
        let (base, offset) = self.address(op.operand(at)?)?;
        if Target::of(op) == Target::Shared {
            return Ok(self.checked(Target::Shared, base, offset, 8));
        }
        let arena = self.field(types::I64, offset_of!(ThreadContext, shared_base));
        let inside = self.b.ins().isub(base, arena);
        let far = self.b.ins().iadd_imm_s(inside, offset);
        let far = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, far, 0xffff_ffff);
        self.fault_if(far, CuError::ILLEGAL_ADDRESS);
        Ok(self.checked(Target::Shared, inside, offset, 8))
    }

    fn act(&mut self, op: &Op<'a>, at: usize, act: Act, value: Value) -> Result<Value, String> {
        let address = self.barrier_address(op, at)?;
        let act = self.constant(types::I32, act as u64);
        let helper = mbarrier::mbarrier as *const () as usize;
        let arguments = [self.ctx, address, act, value];
        Ok(self.helper(helper, &arguments, Some(types::I64)).expect("it has a result"))
    }

    /// Tells the barrier that operand `at` names of bytes that have come.
    pub(super) fn complete(&mut self, op: &Op<'a>, at: usize, bytes: u32) -> Done {
        let bytes = self.constant(types::I32, u64::from(bytes));
        self.act(op, at, Act::Complete, bytes).map(|_| ())
    }

    /// A phase is over when the barrier's own is another one. What may suspend lets the others run once.
    fn test_wait(&mut self, op: &Op<'a>, may_suspend: bool) -> Done {
        let address = self.barrier_address(op, 1)?;
        // The parity of the phase that is waited for, in the top bit of both.
        let waited = if op.has("parity") {
            let parity = self.read_at(op, 2, types::I32)?;
            let parity = self.b.ins().uextend(types::I64, parity);
            self.b.ins().ishl_imm_u(parity, 63)
        } else {
            self.read_at(op, 2, types::I64)?
        };
        let is_over = |this: &mut Self| {
            let now = this.b.ins().atomic_load(types::I64, MemFlagsData::new(), address);
            let difference = this.b.ins().bxor(now, waited);
            this.b.ins().icmp_imm_s(IntCC::SignedLessThan, difference, 0)
        };
        let over = is_over(self);
        if !may_suspend {
            return self.write(op, over);
        }
        let (wait, done) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(done, types::I8);
        self.b.ins().brif(over, done, &[over.into()], wait, &[]);
        self.b.switch_to_block(wait);
        self.b.seal_block(wait);
        self.helper(helpers::spin as *const () as usize, &[self.ctx], None);
        let over = is_over(self);
        self.b.ins().jump(done, &[over.into()]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        let over = self.b.block_params(done)[0];
        self.write(op, over)
    }

    /// `cp.async`: copies at once, so that waiting for it is nothing.
    pub(super) fn copy_async(&mut self, op: &Op<'a>) -> Done {
        if !op.has("async") || op.has("reduce") || op.has("tensor") {
            return Err("the software GPU does not know this copy".into());
        }
        if ["commit_group", "wait_group", "wait_all", "prefetch"].iter().any(|form| op.has(form)) {
            return Ok(());
        }
        if op.has("mbarrier") {
            // Without `.noinc` the arrival is counted first, which undoes it.
            if op.has("noinc") {
                let one = self.constant(types::I32, 1);
                self.act(op, 0, Act::Arrive, one)?;
            } else {
                self.barrier_address(op, 0)?;
            }
            return Ok(());
        }
        if op.has("bulk") {
            return self.copy_bulk(op);
        }
        let Operand::Int(bytes) = *op.operand(2)? else { return Err("the size is no constant".into()) };
        let bytes = u32::try_from(bytes)
            .ok()
            .filter(|bytes| [4, 8, 16].contains(bytes))
            .ok_or("a size of 4, 8 or 16 is expected")?;
        let (to, to_offset) = self.address(op.operand(0)?)?;
        let (from, from_offset) = self.address(op.operand(1)?)?;
        let to = self.checked(Target::Shared, to, to_offset, bytes);
        let mut rest = op.operands.get(3..).unwrap_or_default();
        if op.has("L2::cache_hint") {
            rest = &rest[..rest.len().saturating_sub(1)];
        }
        let Some(limit) = rest.first() else {
            let from = self.checked(Target::Global, from, from_offset, bytes);
            self.copy_words(from, to, bytes);
            return Ok(());
        };
        // What lies beyond the source's size, or is to be ignored, is zero and is not read.
        let limit = if self.is_predicate(limit) {
            let ignored = self.read(limit, types::I8)?;
            let (none, all) = (self.constant(types::I32, 0), self.constant(types::I32, u64::from(bytes)));
            self.b.ins().select(ignored, none, all)
        } else {
            self.read(limit, types::I32)?
        };
        self.copy_some((from, from_offset), to, bytes, limit);
        Ok(())
    }

    /// `cp.async.bulk.to.from.completion [to], [from], bytes{, [barrier]}`, in steps of 16 bytes.
    fn copy_bulk(&mut self, op: &Op<'a>) -> Done {
        let space = |at: usize| match op.opcode.parts.get(at).map_or("", |part| &**part) {
            "global" => Ok(Target::Global),
            "shared::cta" | "shared::cluster" => Ok(Target::Shared),
            _ => Err(String::from("the software GPU does not know this bulk copy")),
        };
        let (to_space, from_space) = (space(3)?, space(4)?);
        if op.has("multicast::cluster") || op.has("cp_mask") {
            return Err("this bulk copy is not supported".into());
        }
        let (to, to_offset) = self.address(op.operand(0)?)?;
        let (from, from_offset) = self.address(op.operand(1)?)?;
        let bytes = self.read_at(op, 2, types::I32)?;
        let odd = self.b.ins().band_imm_u(bytes, 15);
        self.fault_if(odd, CuError::MISALIGNED_ADDRESS);
        let wide = self.b.ins().uextend(types::I64, bytes);
        let (head, body, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.append_block_param(head, types::I64);
        let zero = self.constant(types::I64, 0);
        self.b.ins().jump(head, &[zero.into()]);
        self.b.switch_to_block(head);
        let at = self.b.block_params(head)[0];
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, at, wide);
        self.b.ins().brif(more, body, &[], done, &[]);
        self.b.switch_to_block(body);
        self.b.seal_block(body);
        let (source, target) = (self.b.ins().iadd(from, at), self.b.ins().iadd(to, at));
        let source = self.checked(from_space, source, from_offset, 16);
        let target = self.checked(to_space, target, to_offset, 16);
        self.copy_words(source, target, 16);
        let next = self.b.ins().iadd_imm_s(at, 16);
        self.b.ins().jump(head, &[next.into()]);
        self.b.seal_block(head);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        self.checked.clear();
        if op.opcode.text.contains("complete_tx") {
            self.act(op, 3, Act::Complete, bytes)?;
        }
        Ok(())
    }

    fn is_predicate(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Not(_) => true,
            Operand::Register(register) => self.body.registers[*register as usize] == ScalarType::Pred,
            _ => false,
        }
    }

    fn copy_words(&mut self, from: Value, to: Value, bytes: u32) {
        let ty = if bytes == 4 { types::I32 } else { types::I64 };
        for at in (0..bytes).step_by(ty.bytes() as usize) {
            let at = i32::try_from(at).expect("at most 16");
            let value = self.b.ins().load(ty, MemFlagsData::new(), from, at);
            self.b.ins().store(MemFlagsData::new(), value, to, at);
        }
    }

    /// The first `limit` bytes, byte by byte where they are not all; zeros behind them.
    fn copy_some(&mut self, (from, offset): (Value, i64), to: Value, bytes: u32, limit: Value) {
        let ty = if bytes == 4 { types::I32 } else { types::I64 };
        let zero = self.constant(ty, 0);
        for at in (0..bytes).step_by(ty.bytes() as usize) {
            self.b.ins().store(MemFlagsData::new(), zero, to, i32::try_from(at).expect("at most 16"));
        }
        let (some, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(limit, some, &[], done, &[]);
        self.b.switch_to_block(some);
        self.b.seal_block(some);
        let checks = self.checked.clone();
        // The alignment is that of the whole, but only what is read must be there.
        let from = self.checked(Target::Global, from, offset, 4);
        for at in 0..bytes {
            let (copy, next) = (self.b.create_block(), self.b.create_block());
            let more = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, limit, i64::from(at));
            self.b.ins().brif(more, copy, &[], next, &[]);
            self.b.switch_to_block(copy);
            self.b.seal_block(copy);
            let at = i32::try_from(at).expect("at most 16");
            let value = self.b.ins().load(types::I8, MemFlagsData::new(), from, at);
            self.b.ins().store(MemFlagsData::new(), value, to, at);
            self.b.ins().jump(next, &[]);
            self.b.switch_to_block(next);
            self.b.seal_block(next);
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        self.checked = checks;
    }
}
