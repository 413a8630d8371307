//! What is the same for all threads of a block, and what can be computed anew instead of being kept.
//!
//! The threads of a kernel are *in step* if every one that is not over comes to the same points in the same order: no
//! point lies between a branch on which threads differ and the place where its ways meet again. Then a register whose
//! every value comes from equal values, and not from a way that only some threads take, is equal in all threads that stand at a point.
//! Ways on which a thread cannot come to another point do not matter: who takes one is as good as over.

use std::collections::HashMap;

use ptx::ast::RegId;
use ptx::{Body, Instruction, Module, Operand, Space, Statement};

use super::flow::{Flow, Roles};

/// The findings on a kernel.
pub(super) struct Uniform {
    /// All threads come to the same points in the same order.
    pub(super) in_step: bool,
    /// By register: equal in all threads at a point. All false if the threads are not in step.
    registers: Vec<bool>,
    /// Registers that can be computed anew anywhere: the statement, and how many instructions it takes.
    fixed: HashMap<RegId, (usize, usize)>,
    /// By register: the statement of its only write, if that always happens.
    only_writes: Vec<Option<usize>>,
}

impl Uniform {
    pub(super) fn new(module: &Module, body: &Body, parameters: usize, flow: &Flow) -> Uniform {
        let text = Text { module, body, parameters };
        let mut uniform = Uniform {
            in_step: flow.blocks.len() <= MOST_BLOCKS,
            registers: vec![true; body.registers.len()],
            fixed: text.fixed(),
            only_writes: text.only_writes(),
        };
        if uniform.in_step {
            uniform.settle(&text, flow);
        }
        if !uniform.in_step {
            uniform.forget();
        }
        uniform
    }

    pub(super) fn is_uniform(&self, register: RegId) -> bool {
        self.is_uniform_at(register as usize)
    }

    pub(super) fn is_uniform_at(&self, register: usize) -> bool {
        self.registers[register]
    }

    /// Takes nothing for equal.
    pub(super) fn forget(&mut self) {
        self.in_step = false;
        self.registers.fill(false);
    }

    /// Whether an instruction may be done once for all threads that stand at it.
    pub(super) fn is_common(&self, text: &Text<'_>, instruction: &Instruction) -> bool {
        text.is_pure(instruction, &mut |operand| self.same_everywhere(text, operand))
            && Roles::may_write(text.module, instruction).all(|register| self.registers[register])
    }

    /// The statement that gives a register its value, if it is done again rather than the register kept.
    pub(super) fn anew(&self, register: RegId) -> Option<usize> {
        self.fixed.get(&register).filter(|(_, cost)| *cost <= CHEAP).map(|(at, _)| *at)
    }

    /// The same whatever it takes.
    pub(super) fn fixed(&self, register: RegId) -> Option<usize> {
        self.fixed.get(&register).map(|(at, _)| *at)
    }

    /// The statement of the only write of a register.
    pub(super) fn only_write(&self, register: RegId) -> Option<usize> {
        self.only_writes[register as usize]
    }

    /// Takes back what does not hold until the rest does.
    fn settle(&mut self, text: &Text<'_>, flow: &Flow) {
        let paths = Paths::new(flow);
        self.in_step &= paths.all_end(flow);
        let mut apart = vec![false; flow.blocks.len()];
        let mut changed = true;
        while changed && self.in_step {
            changed = false;
            for (index, block) in flow.blocks.iter().enumerate() {
                for statement in &text.body.statements[block.first..block.end] {
                    let Statement::Instruction(instruction) = statement else { continue };
                    let same = !apart[index]
                        && text.is_pure(instruction, &mut |operand| self.same_everywhere(text, operand))
                        && instruction.guard.is_none_or(|(guard, _)| self.registers[guard as usize]);
                    for register in Roles::may_write(text.module, instruction).filter(|_| !same) {
                        changed |= std::mem::take(&mut self.registers[register]);
                    }
                }
                let Some(Statement::Instruction(last)) = text.body.statements[block.first..block.end].last()
                else {
                    continue;
                };
                let differs = |register: &RegId| !self.registers[*register as usize];
                let splits = Roles::of(text.module, last).reads.iter().any(differs);
                if block.point.is_some_and(|point| flow.points[point].asks().is_some())
                    && last.guard.is_some_and(|(guard, _)| differs(&guard))
                {
                    self.in_step = false;
                }
                if splits && block.point.is_none() {
                    paths.between(flow, index, &mut |inside| {
                        changed |= !std::mem::replace(&mut apart[inside], true);
                    });
                }
            }
            self.in_step &=
                !flow.blocks.iter().zip(&apart).any(|(block, apart)| *apart && block.point.is_some());
        }
    }

    fn same_everywhere(&self, text: &Text<'_>, operand: &Operand) -> bool {
        match operand {
            Operand::Register(register) | Operand::Not(register) | Operand::Part(register, ..) => {
                self.registers[*register as usize]
            }
            Operand::Special(name) => is_same_special(name),
            _ => text.is_fixed(operand),
        }
    }
}

/// A kernel's text.
pub(super) struct Text<'a> {
    pub(super) module: &'a Module,
    pub(super) body: &'a Body,
    pub(super) parameters: usize,
}

impl Text<'_> {
    /// Whether an instruction gives the same for the same operands, all of which are `good`, and does nothing else.
    pub(super) fn is_pure(&self, instruction: &Instruction, good: &mut dyn FnMut(&Operand) -> bool) -> bool {
        let opcode = self.module.opcode(instruction);
        if opcode.name() == "ld" && opcode.has("param") {
            // A parameter of the kernel by its name.
            return matches!(instruction.operands.get(1), Some(Operand::Address(items, _))
                if matches!(items.as_slice(), [Operand::Variable(variable, _)] if (*variable as usize) < self.parameters));
        }
        let whole = |operand: &Operand| match operand {
            Operand::Register(_) | Operand::Sink => true,
            Operand::Vector(items) => {
                items.iter().all(|item| matches!(item, Operand::Register(_) | Operand::Sink))
            }
            Operand::Pair(a, b) => {
                [a, b].iter().all(|item| matches!(&***item, Operand::Register(_) | Operand::Sink))
            }
            _ => false,
        };
        PURE.contains(&opcode.name())
            && !opcode.has("cc")
            && instruction.operands.first().is_some_and(whole)
            && instruction.operands[1..].iter().all(|operand| match operand {
                Operand::Vector(items) => items.iter().all(&mut *good),
                single => good(single),
            })
    }

    /// Whether an operand without registers means the same wherever it stands.
    pub(super) fn is_fixed(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Int(_) | Operand::F32(_) | Operand::F64(_) | Operand::Name(..) => true,
            Operand::Variable(variable, _) => self.body.variables[*variable as usize].space == Space::Shared,
            _ => false,
        }
    }

    /// By register: the statement of its only write, if that always happens.
    fn only_writes(&self) -> Vec<Option<usize>> {
        let mut writes = vec![0_u32; self.body.registers.len()];
        let mut found = vec![None; self.body.registers.len()];
        for (at, statement) in self.body.statements.iter().enumerate() {
            let Statement::Instruction(instruction) = statement else { continue };
            Roles::may_write(self.module, instruction).for_each(|register| writes[register] += 1);
            if let (Some(Operand::Register(register)), None) =
                (instruction.operands.first(), instruction.guard)
            {
                found[*register as usize] = Some(at);
            }
        }
        found.into_iter().zip(writes).map(|(at, writes)| at.filter(|_| writes == 1)).collect()
    }

    /// Registers that are written once, from what never changes.
    fn fixed(&self) -> HashMap<RegId, (usize, usize)> {
        let mut writes: Vec<(usize, usize)> =
            (0..).zip(self.only_writes()).filter_map(|(r, at)| Some((at?, r))).collect();
        writes.sort_unstable();
        let mut found: HashMap<RegId, (usize, usize)> = HashMap::new();
        let mut changed = true;
        while changed {
            changed = false;
            for &(at, register) in &writes {
                let register = RegId::try_from(register).unwrap_or(RegId::MAX);
                let Statement::Instruction(instruction) = &self.body.statements[at] else { continue };
                if found.contains_key(&register) {
                    continue;
                }
                let name = self.module.opcode(instruction).name();
                let mut cost = if SLOW.contains(&name) { CHEAP + 1 } else { 1 };
                let pure = self.is_pure(instruction, &mut |operand| match operand {
                    Operand::Register(other) => match found.get(other) {
                        Some((_, more)) => {
                            cost += more;
                            true
                        }
                        None => false,
                    },
                    Operand::Special(name) => is_same_special(name) || name.starts_with("tid."),
                    _ => self.is_fixed(operand),
                });
                if pure && cost <= MOST_COST {
                    found.insert(register, (at, cost));
                    changed = true;
                }
            }
        }
        found
    }
}

/// Which blocks come to points, and where ways meet again.
struct Paths {
    /// By block: a point can still come.
    live: Vec<bool>,
    /// By block: the blocks that every way from it to the last point passes, as bits.
    passes: Vec<Vec<u64>>,
}

impl Paths {
    fn new(flow: &Flow) -> Paths {
        let count = flow.blocks.len();
        let mut live: Vec<bool> = flow.blocks.iter().map(|block| block.point.is_some()).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for (index, block) in flow.blocks.iter().enumerate().rev() {
                if !live[index] && block.next.iter().any(|&next| live[next]) {
                    live[index] = true;
                    changed = true;
                }
            }
        }
        let words = count.div_ceil(64);
        let mut passes = vec![vec![u64::MAX; words]; count];
        let mut changed = true;
        while changed {
            changed = false;
            for index in (0..count).rev().filter(|&index| live[index]) {
                let mut meets = vec![u64::MAX; words];
                for next in onward(flow, index) {
                    let beyond = if live[next] { passes[next].clone() } else { vec![0; words] };
                    meets.iter_mut().zip(beyond).for_each(|(word, other)| *word &= other);
                }
                if flow.blocks[index].exits || onward(flow, index).next().is_none() {
                    meets.fill(0);
                }
                meets[index / 64] |= 1 << (index % 64);
                changed |= meets != passes[index];
                passes[index] = meets;
            }
        }
        Paths { live, passes }
    }

    /// Whether no part of the kernel goes on for ever; of what passes the rest of such a part nothing is known.
    fn all_end(&self, flow: &Flow) -> bool {
        let mut ends: Vec<bool> = self.live.iter().map(|live| !live).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for index in (0..ends.len()).rev().filter(|&index| self.live[index]) {
                let leaves = flow.blocks[index].exits || onward(flow, index).next().is_none();
                if !ends[index] && (leaves || onward(flow, index).any(|next| ends[next])) {
                    ends[index] = true;
                    changed = true;
                }
            }
        }
        ends.into_iter().all(|ends| ends)
    }

    /// Visits the blocks that only some of the threads which part at the end of a block may pass.
    fn between(&self, flow: &Flow, branch: usize, visit: &mut dyn FnMut(usize)) {
        let live: Vec<usize> =
            flow.blocks[branch].next.iter().copied().filter(|&next| self.live[next]).collect();
        // Threads that come to no other point are as good as over.
        if live.len() < 2 {
            return;
        }
        let meets =
            |block: usize| block != branch && self.passes[branch][block / 64] >> (block % 64) & 1 == 1;
        let mut seen = vec![false; flow.blocks.len()];
        let mut stack = live;
        while let Some(block) = stack.pop() {
            if meets(block) || !self.live[block] || std::mem::replace(&mut seen[block], true) {
                continue;
            }
            visit(block);
            stack.extend(onward(flow, block));
        }
    }
}

/// Where a thread goes from the end of a block, if need be after waiting.
fn onward(flow: &Flow, block: usize) -> impl Iterator<Item = usize> + '_ {
    let behind = flow.blocks[block].point.map(|_| block + 1);
    flow.blocks[block].next.iter().copied().chain(behind)
}

/// Special registers that are the same for all threads of a block, at any time.
pub(super) fn is_same_special(name: &str) -> bool {
    let base = name.split('.').next().unwrap_or(name);
    matches!(
        base,
        "ntid" | "ctaid" | "nctaid" | "WARP_SZ" | "nsmid" | "dynamic_smem_size" | "total_smem_size"
    )
}

/// Instructions that compute and do nothing else.
const PURE: [&str; 49] = [
    "mov", "cvta", "setp", "set", "selp", "slct", "cvt", "and", "or", "xor", "not", "cnot", "lop3", "shl",
    "shr", "shf", "popc", "clz", "bfind", "brev", "bfe", "bfi", "bmsk", "szext", "prmt", "add", "sub", "mul",
    "mad", "mul24", "mad24", "fma", "div", "rem", "sad", "neg", "abs", "min", "max", "testp", "copysign",
    "rcp", "sqrt", "rsqrt", "sin", "cos", "ex2", "lg2", "tanh",
];
/// Those of them that take longer than to read a word of memory.
const SLOW: [&str; 10] = ["div", "rem", "rcp", "sqrt", "rsqrt", "sin", "cos", "ex2", "lg2", "tanh"];
/// Above this many blocks a kernel is not looked at.
const MOST_BLOCKS: usize = 2000;
/// As many instructions are done again rather than a register kept.
const CHEAP: usize = 8;
/// What takes more than this is not looked through.
const MOST_COST: usize = 200;
