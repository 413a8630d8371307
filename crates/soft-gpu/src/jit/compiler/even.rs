//! Accesses that are checked once for a row of threads.
//!
//! An address is even where it grows by the same constant from each thread of a row to the next. If it is good for the
//! first and the last thread, it is good for those between. A loop with even accesses is there twice: without their
//! checks, for rows of which both ends are good, and with all of them.

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use ptx::ast::RegId;
use ptx::{Instruction, Operand, Statement};
use std::mem::offset_of;

use super::flow::{Region, Roles};
use super::memory::Target;
use super::translator::{Op, Translator};
use crate::jit::context::ThreadContext;

/// The even accesses of a loop.
pub(super) struct Even {
    pub(super) accesses: Vec<Access>,
    /// Registers that the loop writes.
    written: Vec<bool>,
}

/// One access, by its statement.
pub(super) struct Access {
    pub(super) statement: usize,
    shared: bool,
    register: RegId,
    offset: i64,
    bytes: u32,
    stride: i64,
}

/// How a value grows along a row, and how many of its parts that grow are widened on the way: each of those may wrap
/// once, which the difference of the ends tells for one of them.
#[derive(Clone, Copy, PartialEq)]
struct Growth {
    stride: i64,
    widened: u32,
}

const STILL: Growth = Growth { stride: 0, widened: 0 };

impl<'a> Translator<'a, '_> {
    /// The even accesses of a region.
    pub(super) fn even_accesses(&self, region: &Region) -> Even {
        let plan = self.part().plan;
        let statements = region.blocks.iter().map(|&block| &plan.flow.blocks[block]);
        if self.limits.check || statements.clone().map(|block| block.end - block.first).sum::<usize>() > LARGE
        {
            return Even { accesses: Vec::new(), written: Vec::new() };
        }
        let inside: HashSet<usize> = statements.flat_map(|block| block.first..block.end).collect();
        let mut written = vec![false; self.body.registers.len()];
        for &at in &inside {
            if let Statement::Instruction(instruction) = &self.body.statements[at] {
                Roles::may_write(self.module, instruction).for_each(|register| written[register] = true);
            }
        }
        let mut rows = Rows { translator: self, inside: &inside, written, known: HashMap::new() };
        let mut ordered: Vec<usize> = inside.iter().copied().collect();
        ordered.sort_unstable();
        let mut accesses: Vec<Access> =
            ordered.into_iter().filter_map(|statement| rows.access(statement)).collect();
        accesses.truncate(MOST_ACCESSES);
        Even { written: rows.written, accesses }
    }

    /// Whether all accesses are good for the threads from x to the end of the row.
    pub(super) fn all_good(&mut self, even: &Even, x: Value, end: Value) -> Result<Value, String> {
        let tid = self.part().tid[0];
        let last = self.b.ins().iadd_imm_s(end, -1);
        let count = self.b.ins().isub(last, x);
        let long = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, count, SHORT);
        let count = self.b.ins().uextend(types::I64, count);
        let mut ends = Vec::new();
        for at in [x, last] {
            self.b.def_var(tid, at);
            let mut done = HashSet::new();
            let mut addresses = Vec::new();
            for access in &even.accesses {
                self.evaluate(access.register, even, &mut done).map_err(|(_, what)| what)?;
                let base = self.register(access.register, types::I64);
                addresses.push(self.b.ins().iadd_imm_s(base, access.offset));
            }
            ends.push(addresses);
        }
        self.b.def_var(tid, x);
        let mut good = long;
        let mut seen = HashSet::new();
        for (index, access) in even.accesses.iter().enumerate() {
            if !seen.insert((access.register, access.offset, access.bytes, access.shared)) {
                continue;
            }
            let (low, high) = (ends[0][index], ends[1][index]);
            let way = self.b.ins().isub(high, low);
            let wanted = self.b.ins().imul_imm_s(count, access.stride);
            let same = self.b.ins().icmp(IntCC::Equal, way, wanted);
            good = self.b.ins().band(good, same);
            for address in [low, high] {
                let inside = self.is_inside(address, access);
                good = self.b.ins().band(good, inside);
            }
        }
        Ok(good)
    }

    /// Whether an access at an address is aligned, and in the block's shared memory or the window.
    fn is_inside(&mut self, address: Value, access: &Access) -> Value {
        let shift = i64::from(access.bytes.trailing_zeros());
        let (base, extent) = if access.shared {
            let extent = self.field(types::I32, offset_of!(ThreadContext, shared_bytes));
            (None, self.b.ins().uextend(types::I64, extent))
        } else {
            let window = self.constant(types::I64, self.limits.window_base);
            (Some(window), self.constant(types::I64, self.limits.window_bytes))
        };
        let inside = base.map_or(address, |base| self.b.ins().isub(address, base));
        let turned = self.b.ins().rotr_imm_u(inside, shift);
        let bound = self.b.ins().ushr_imm_u(extent, shift);
        self.b.ins().icmp(IntCC::UnsignedLessThan, turned, bound)
    }

    /// Computes a register for the x that there is, with all that it is made of.
    fn evaluate(
        &mut self,
        register: RegId,
        even: &Even,
        done: &mut HashSet<RegId>,
    ) -> Result<(), (usize, String)> {
        let uniform = &self.part().plan.uniform;
        let Some(at) = uniform.only_write(register).filter(|_| done.insert(register)) else { return Ok(()) };
        let changes = even.written[register as usize];
        if uniform.is_uniform(register) && uniform.fixed(register).is_none() && !changes {
            // It holds its value.
            return Ok(());
        }
        if let Statement::Instruction(instruction) = &self.body.statements[at] {
            for source in Roles::of(self.module, instruction).reads {
                self.evaluate(source, even, done)?;
            }
        }
        self.again(at)
    }
}

/// How the registers of a region grow along a row.
struct Rows<'t, 'a, 'b> {
    translator: &'t Translator<'a, 'b>,
    inside: &'t HashSet<usize>,
    written: Vec<bool>,
    known: HashMap<RegId, Option<Growth>>,
}

impl Rows<'_, '_, '_> {
    fn access(&mut self, statement: usize) -> Option<Access> {
        let Statement::Instruction(instruction) = &self.translator.body.statements[statement] else {
            return None;
        };
        let opcode = self.translator.module.opcode(instruction);
        let place = match opcode.name() {
            "ld" => instruction.operands.get(1),
            "st" => instruction.operands.first(),
            _ => None,
        };
        let Some(Operand::Address(items, offset)) = place else { return None };
        let &[Operand::Register(register)] = items.as_slice() else { return None };
        let op = Op { opcode, types: opcode.types(), operands: &instruction.operands };
        let shared = match Target::of(&op) {
            Target::Global => false,
            Target::Shared => true,
            _ => return None,
        };
        let count = [("v2", 2), ("v4", 4), ("v8", 8)].into_iter().find(|(vector, _)| op.has(vector));
        let bytes = op.ty().ok()?.bytes() * count.map_or(1, |(_, count)| count);
        let growth = self.growth(register, 0)?;
        let even = growth.stride % i64::from(bytes) == 0 && growth.widened <= 1 && bytes.is_power_of_two();
        let (offset, stride) = (*offset, growth.stride);
        even.then_some(Access { statement, shared, register, offset, bytes, stride })
    }

    fn growth(&mut self, register: RegId, depth: u32) -> Option<Growth> {
        if let Some(known) = self.known.get(&register) {
            return *known;
        }
        let found =
            self.find(register, depth).filter(|growth| growth.stride.unsigned_abs() <= STEEP.unsigned_abs());
        self.known.insert(register, found);
        found
    }

    fn find(&mut self, register: RegId, depth: u32) -> Option<Growth> {
        let part = self.translator.part();
        let uniform = &part.plan.uniform;
        if uniform.is_uniform(register)
            && uniform.fixed(register).is_none()
            && !self.written[register as usize]
        {
            // As it is where the loop begins.
            return Some(STILL);
        }
        let at = uniform.only_write(register)?;
        // Either its value is the same in all regions, or it was computed in this one.
        let here = self.inside.contains(&at) && !part.plan.flow.live[part.index].contains(&register);
        if depth > DEEP || uniform.fixed(register).is_none() && !here {
            return None;
        }
        let Statement::Instruction(instruction) = &self.translator.body.statements[at] else { return None };
        self.of_instruction(instruction, depth)
    }

    fn of_instruction(&mut self, instruction: &Instruction, depth: u32) -> Option<Growth> {
        let translator = self.translator;
        let opcode = translator.module.opcode(instruction);
        let op = Op { opcode, types: opcode.types(), operands: &instruction.operands };
        if op.opcode.name() == "ld" {
            return translator.text().is_pure(instruction, &mut |_| true).then_some(STILL);
        }
        if !translator.text().is_pure(instruction, &mut |_| true) {
            return None;
        }
        let sources: Vec<Growth> =
            op.operands[1..].iter().map(|operand| self.of_operand(operand, depth)).collect::<Option<_>>()?;
        if sources.iter().all(|growth| *growth == STILL) {
            return Some(STILL);
        }
        let ty = op.ty().ok()?;
        if ty.is_float() || ty.bytes() < 4 || !matches!(op.operands[0], Operand::Register(_)) {
            return None;
        }
        let widened: u32 = sources.iter().map(|growth| growth.widened).sum();
        let literal = |at: usize| match op.operands.get(at + 1) {
            Some(Operand::Int(value)) => {
                Some(value.cast_signed()).filter(|value| value.unsigned_abs() <= STEEP.unsigned_abs())
            }
            _ => None,
        };
        let product = |a: usize, b: usize| {
            let (one, other) = (sources.get(a)?.stride, sources.get(b)?.stride);
            match (one, other) {
                (0, 0) => Some(0),
                (_, 0) => one.checked_mul(literal(b)?),
                (0, _) => other.checked_mul(literal(a)?),
                _ => None,
            }
        };
        let factors_grow = |last: usize| sources[..last].iter().any(|growth| *growth != STILL);
        let stride = |at: usize| sources.get(at).map(|growth| growth.stride);
        let growth = |stride: i64, more: bool| Some(Growth { stride, widened: widened + u32::from(more) });
        match (opcode.name(), sources.len()) {
            ("mov" | "cvta", 1) => growth(stride(0)?, false),
            ("add", 2) if opcode.parts.len() == 2 => growth(stride(0)?.checked_add(stride(1)?)?, false),
            ("sub", 2) if opcode.parts.len() == 2 => growth(stride(0)?.checked_sub(stride(1)?)?, false),
            ("shl", 2) => match literal(1)? {
                shift @ 0..=16 => growth(stride(0)?.checked_mul(1 << shift)?, false),
                _ => None,
            },
            ("mul", 2) if opcode.has("lo") => growth(product(0, 1)?, false),
            ("mul", 2) if opcode.has("wide") => growth(product(0, 1)?, true),
            ("mad", 3) if opcode.has("lo") && opcode.parts.len() == 3 => {
                growth(product(0, 1)?.checked_add(stride(2)?)?, false)
            }
            ("mad", 3) if opcode.has("wide") => {
                growth(product(0, 1)?.checked_add(stride(2)?)?, factors_grow(2))
            }
            ("cvt", 1) if opcode.parts.len() == 3 => {
                let [to, from] = op.types.as_slice() else { return None };
                let whole = !from.is_float() && from.bytes() >= 4 && to.bytes() >= from.bytes();
                whole.then_some(())?;
                growth(stride(0)?, to.bytes() > from.bytes())
            }
            _ => None,
        }
    }

    fn of_operand(&mut self, operand: &Operand, depth: u32) -> Option<Growth> {
        match operand {
            Operand::Register(register) => self.growth(*register, depth + 1),
            Operand::Special(name) if &**name == "tid.x" => Some(Growth { stride: 1, widened: 0 }),
            Operand::Special(name) if matches!(&**name, "tid.y" | "tid.z") => Some(STILL),
            Operand::Special(name) => super::uniform::is_same_special(name).then_some(STILL),
            other => self.translator.text().is_fixed(other).then_some(STILL),
        }
    }
}

/// Loops of more statements than this are there only once.
const LARGE: usize = 400;
/// At most as many accesses are checked for a row; the others one by one.
const MOST_ACCESSES: usize = 24;
/// Rows of which the last thread is less than this behind the first are not worth the tests.
const SHORT: i64 = 7;
/// Above this many bytes from thread to thread a wrap might hide behind another: a row has at most 1,024 threads.
const STEEP: i64 = 1 << 16;
const DEEP: u32 = 24;
