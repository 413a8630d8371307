//! Barriers and warp operations: the thread tells what it waits for and is resumed with the answer.

use std::mem::offset_of;

use cranelift_codegen::ir::{InstBuilder, Value, types};
use ptx::{Operand, ScalarType};

use super::regions::Phase;
use super::translator::{Done, Op, Translator, clif_type};
use crate::jit::context::{Record, Reduce, ThreadContext, WarpOp};
use crate::jit::helpers;

impl<'a> Translator<'a, '_> {
    /// `bar`, `barrier`: all forms.
    pub(super) fn barrier(&mut self, op: &Op<'a>) -> Done {
        if op.has("cluster") {
            return self.cluster_barrier(op);
        }
        self.fence_fiber();
        if op.has("warp") {
            let mask = self.read_at(op, 0, types::I32)?;
            let zero = self.constant(types::I64, 0);
            self.warp(WarpOp::Sync, mask, zero, None, None);
            self.fence_fiber();
            return Ok(());
        }
        let reduce = op.has("red");
        let first = usize::from(reduce);
        let id = self.read_at(op, first, types::I32)?;
        let rest = op.operands.len() - first - 1;
        let has_count = if reduce { rest == 2 } else { rest == 1 };
        let count =
            if has_count { self.read_at(op, first + 1, types::I32)? } else { self.constant(types::I32, 0) };
        if let (Some(_), [Operand::Int(_)], false) = (&self.part, op.operands, reduce) {
            // Its name says it all.
            return Ok(());
        }
        if op.has("arrive") && self.part.is_some() {
            self.ask(&[(offset_of!(Record, mask), id), (offset_of!(Record, b), count)]);
            return Ok(());
        }
        if op.has("arrive") {
            self.helper(helpers::arrive as *const () as usize, &[self.ctx, id, count], None);
            return Ok(());
        }
        let (operation, value) = if reduce {
            let predicate = self.read_at(op, op.operands.len() - 1, types::I8)?;
            let operation = if op.has("popc") {
                Reduce::Popc
            } else if op.has("and") {
                Reduce::And
            } else {
                Reduce::Or
            };
            (operation as u64 + 1, self.b.ins().uextend(types::I32, predicate))
        } else {
            (0, self.constant(types::I32, 0))
        };
        let operation = self.constant(types::I32, operation);
        let answer = if self.part.is_some() {
            let wide = self.b.ins().uextend(types::I64, value);
            self.ask(&[
                (offset_of!(Record, mask), id),
                (offset_of!(Record, b), count),
                (offset_of!(Record, c), operation),
                (offset_of!(Record, value), wide),
            ])
        } else {
            let arguments = [self.ctx, id, count, operation, value];
            self.helper(helpers::barrier as *const () as usize, &arguments, Some(types::I64))
                .expect("it has a result")
        };
        self.fence_fiber();
        if !reduce {
            return Ok(());
        }
        let ty = if op.has("popc") { types::I32 } else { types::I8 };
        let answer = self.coerce(answer, ty, false);
        self.write(op, answer)
    }

    pub(super) fn warp(
        &mut self,
        op: WarpOp,
        mask: Value,
        value: Value,
        b: Option<Value>,
        c: Option<Value>,
    ) -> Value {
        let code = self.constant(types::I32, op as u64);
        let zero = self.constant(types::I32, 0);
        if self.part.is_some() {
            return self.ask(&[
                (offset_of!(Record, op), code),
                (offset_of!(Record, mask), mask),
                (offset_of!(Record, value), value),
                (offset_of!(Record, b), b.unwrap_or(zero)),
                (offset_of!(Record, c), c.unwrap_or(zero)),
            ]);
        }
        let arguments = [self.ctx, code, mask, value, b.unwrap_or(zero), c.unwrap_or(zero)];
        self.helper(helpers::warp as *const () as usize, &arguments, Some(types::I64))
            .expect("it has a result")
    }

    /// What a thread of a region does with an operation that waits: before the point it leaves its request in its
    /// record, behind it the answer is there.
    fn ask(&mut self, request: &[(usize, Value)]) -> Value {
        match self.part.as_ref().map(|part| part.phase) {
            Some(Phase::Answer) => self.record(types::I64, offset_of!(Record, result)),
            _ => {
                for &(offset, value) in request {
                    self.set_record(offset, value);
                }
                self.constant(types::I64, 0)
            }
        }
    }

    /// Threads of regions wait on the CPU thread that they all run on.
    fn fence_fiber(&mut self) {
        if self.part.is_none() {
            self.b.ins().fence();
        }
    }

    fn warp_predicate(&mut self) -> Value {
        if self.part.is_some() {
            let bits = self.record(types::I32, offset_of!(Record, predicate));
            return self.b.ins().ireduce(types::I8, bits);
        }
        let bits = self.field_now(types::I64, offset_of!(ThreadContext, result_predicate));
        self.b.ins().ireduce(types::I8, bits)
    }

    /// The member mask: an operand of the `.sync` forms; the older forms mean every lane that is there.
    fn mask(&mut self, op: &Op<'a>, at: usize) -> Result<Value, String> {
        if op.has("sync") {
            self.read_at(op, at, types::I32)
        } else {
            Ok(self.constant(types::I32, 0xffff_ffff))
        }
    }

    /// `shfl.sync.mode.b32 d|p, a, b, c, mask`
    pub(super) fn shuffle(&mut self, op: &Op<'a>) -> Done {
        let mode = if op.has("up") {
            WarpOp::ShflUp
        } else if op.has("down") {
            WarpOp::ShflDown
        } else if op.has("bfly") {
            WarpOp::ShflBfly
        } else {
            WarpOp::ShflIdx
        };
        let value = self.read_at(op, 1, types::I32)?;
        let value = self.b.ins().uextend(types::I64, value);
        let (b, c) = (self.read_at(op, 2, types::I32)?, self.read_at(op, 3, types::I32)?);
        let mask = self.mask(op, 4)?;
        let answer = self.warp(mode, mask, value, Some(b), Some(c));
        let answer = self.b.ins().ireduce(types::I32, answer);
        self.write_pair(op, answer)
    }

    /// Writes `d`, or `d|p` with the predicate that came with the answer.
    fn write_pair(&mut self, op: &Op<'a>, value: Value) -> Done {
        match op.operand(0)? {
            Operand::Pair(target, predicate) => {
                let flag = self.warp_predicate();
                self.write_as(target, value, false)?;
                self.write_as(predicate, flag, false)
            }
            target => self.write_as(target, value, false),
        }
    }

    /// `vote.sync.mode.type d, {!}p, mask`
    pub(super) fn vote(&mut self, op: &Op<'a>) -> Done {
        let mode = if op.has("all") {
            WarpOp::VoteAll
        } else if op.has("any") {
            WarpOp::VoteAny
        } else if op.has("uni") {
            WarpOp::VoteUni
        } else {
            WarpOp::VoteBallot
        };
        let predicate = self.read_at(op, 1, types::I8)?;
        let value = self.b.ins().uextend(types::I64, predicate);
        let mask = self.mask(op, 2)?;
        let answer = self.warp(mode, mask, value, None, None);
        let ty = if mode == WarpOp::VoteBallot { types::I32 } else { types::I8 };
        let answer = self.coerce(answer, ty, false);
        self.write(op, answer)
    }

    /// `match.any.sync.b32 d, a, mask`, `match.all.sync.b32 d|p, a, mask`
    pub(super) fn match_lanes(&mut self, op: &Op<'a>) -> Done {
        let mode = if op.has("any") { WarpOp::MatchAny } else { WarpOp::MatchAll };
        let value = self.read_at(op, 1, clif_type(op.ty()?))?;
        let value = self.coerce(value, types::I64, false);
        let mask = self.mask(op, 2)?;
        let answer = self.warp(mode, mask, value, None, None);
        let answer = self.b.ins().ireduce(types::I32, answer);
        self.write_pair(op, answer)
    }

    /// `redux.sync.op.type d, a, mask`
    pub(super) fn redux(&mut self, op: &Op<'a>) -> Done {
        let ty = op.ty()?;
        let signed = ty == ScalarType::S32;
        let mode = if ty == ScalarType::F32 {
            match (op.has("min"), op.has("NaN")) {
                (true, false) => WarpOp::MinF32,
                (true, true) => WarpOp::MinNanF32,
                (false, false) => WarpOp::MaxF32,
                (false, true) => WarpOp::MaxNanF32,
            }
        } else if op.has("add") {
            WarpOp::ReduxAdd
        } else if op.has("and") {
            WarpOp::ReduxAnd
        } else if op.has("or") {
            WarpOp::ReduxOr
        } else if op.has("xor") {
            WarpOp::ReduxXor
        } else if op.has("min") {
            if signed { WarpOp::ReduxMinS } else { WarpOp::ReduxMinU }
        } else if op.has("max") {
            if signed { WarpOp::ReduxMaxS } else { WarpOp::ReduxMaxU }
        } else {
            return Err("this reduction is not known".into());
        };
        let value = self.read_at(op, 1, types::I32)?;
        let value = if op.has("abs") { self.b.ins().band_imm_u(value, 0x7fff_ffff) } else { value };
        let value = self.b.ins().uextend(types::I64, value);
        let mask = self.mask(op, 2)?;
        let answer = self.warp(mode, mask, value, None, None);
        let answer = self.b.ins().ireduce(types::I32, answer);
        self.write(op, answer)
    }

    pub(super) fn activemask(&mut self, op: &Op<'a>) -> Done {
        let place = self.constant(types::I32, self.statement as u64);
        let answer = if self.part.is_some() {
            self.ask(&[(offset_of!(Record, mask), place)])
        } else {
            self.helper(helpers::activemask as *const () as usize, &[self.ctx, place], Some(types::I64))
                .expect("it has a result")
        };
        let answer = self.b.ins().ireduce(types::I32, answer);
        self.write(op, answer)
    }

    /// `elect.sync d|p, mask`: the lowest lane of the mask.
    pub(super) fn elect(&mut self, op: &Op<'a>) -> Done {
        let mask = self.read_at(op, 1, types::I32)?;
        let zero = self.constant(types::I64, 0);
        let answer = self.warp(WarpOp::Elect, mask, zero, None, None);
        let answer = self.b.ins().ireduce(types::I32, answer);
        self.write_pair(op, answer)
    }
}
