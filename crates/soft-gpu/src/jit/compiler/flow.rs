//! The flow of a kernel between the points where its threads wait for each other.
//!
//! A kernel is cut at its *points* (barriers and warp operations) into *regions*: region 0 begins at the top, region
//! `p` behind point `p`. A region is all that can be reached from there without passing a point, so code that several
//! regions share is compiled several times. Registers that are live at a point travel in the thread's record.

use std::collections::{HashMap, HashSet, VecDeque};

use ptx::ast::{LabelId, Name, RegId};
use ptx::{Body, Instruction, Module, Operand, Space, Statement};

/// A run of statements that is entered only at its top.
#[derive(Default)]
pub(super) struct FlowBlock {
    /// Its statements, by index.
    pub(super) first: usize,
    pub(super) end: usize,
    /// Where it goes on to without waiting.
    pub(super) next: Vec<usize>,
    /// A thread can end here.
    pub(super) exits: bool,
    /// The point that it ends with, if it does; the code behind it is the next block.
    pub(super) point: Option<usize>,
}

/// Where threads wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// Nowhere: it stands for the top of the kernel, and comes first.
    Top,
    /// At the instruction of a statement: it is what they wait for.
    At(usize),
    /// Before a statement.
    Before(usize),
}

impl Point {
    /// The statement of the instruction that is waited for.
    pub(super) fn asks(self) -> Option<usize> {
        match self {
            Self::At(at) => Some(at),
            Self::Top | Self::Before(_) => None,
        }
    }
}

/// The blocks and points of a kernel.
pub(super) struct Flow {
    pub(super) blocks: Vec<FlowBlock>,
    pub(super) points: Vec<Point>,
    /// Block with which each region begins.
    starts: Vec<usize>,
    /// Registers that each region needs of the thread's past.
    pub(super) live: Vec<Vec<RegId>>,
}

/// What one region is made of.
pub(super) struct Region {
    pub(super) start: usize,
    /// Its blocks, in the order of the text.
    pub(super) blocks: Vec<usize>,
    /// Points at which it can end, 0 for the end of the thread.
    pub(super) outcomes: Vec<usize>,
}

impl Flow {
    /// Cuts a kernel at the instructions that `waits` tells, and before the statements of `steps`.
    pub(super) fn new(
        module: &Module,
        body: &Body,
        steps: &HashSet<usize>,
        waits: impl Fn(&Instruction) -> bool,
    ) -> Flow {
        let mut flow =
            Flow { blocks: Vec::new(), points: vec![Point::Top], starts: vec![0], live: Vec::new() };
        let mut labels: HashMap<LabelId, usize> = HashMap::new();
        let mut block = FlowBlock::default();
        // Branches, by block; their targets are known when all labels are.
        let mut branches: Vec<(usize, LabelId)> = Vec::new();
        for (at, statement) in body.statements.iter().enumerate() {
            match statement {
                Statement::Label(label) => {
                    if block.first < at {
                        block.next.push(flow.blocks.len() + 1);
                        flow.close(&mut block, at);
                    }
                    labels.insert(*label, flow.blocks.len());
                }
                Statement::Instruction(instruction) => {
                    if steps.contains(&at) {
                        block.point = Some(flow.points.len());
                        flow.points.push(Point::Before(at));
                        flow.starts.push(flow.blocks.len() + 1);
                        flow.close(&mut block, at);
                    }
                    let here = flow.blocks.len();
                    let ends = match module.opcode(instruction).name() {
                        "bra" | "brx" => {
                            let targets = branch_targets(body, instruction);
                            branches.extend(targets.into_iter().map(|label| (here, label)));
                            true
                        }
                        "ret" | "exit" => {
                            block.exits = true;
                            true
                        }
                        "trap" => true,
                        _ if waits(instruction) => {
                            block.point = Some(flow.points.len());
                            flow.points.push(Point::At(at));
                            flow.starts.push(here + 1);
                            true
                        }
                        _ => false,
                    };
                    if ends {
                        if instruction.guard.is_some() {
                            block.next.push(here + 1);
                        }
                        flow.close(&mut block, at + 1);
                    }
                }
            }
        }
        // Who comes to the brace leaves.
        block.exits = true;
        flow.close(&mut block, body.statements.len());
        for (from, label) in branches {
            if let Some(&target) = labels.get(&label) {
                flow.blocks[from].next.push(target);
            }
        }
        flow.find_live(module, body);
        flow
    }

    fn close(&mut self, block: &mut FlowBlock, end: usize) {
        block.end = end;
        self.blocks.push(std::mem::replace(block, FlowBlock { first: end, ..FlowBlock::default() }));
    }

    /// The number of the point at a statement.
    pub(super) fn point_at(&self, statement: usize) -> Option<usize> {
        let place = |point: &Point| match point {
            Point::Top => 0,
            Point::Before(at) => 2 * at + 1,
            Point::At(at) => 2 * at + 2,
        };
        self.points.binary_search_by_key(&(2 * statement + 2), place).ok()
    }

    /// Region `index`.
    pub(super) fn region(&self, index: usize) -> Region {
        self.region_from(self.starts[index])
    }

    /// What can be reached from a block without passing a point.
    pub(super) fn region_from(&self, start: usize) -> Region {
        let mut seen = vec![false; self.blocks.len()];
        seen[start] = true;
        let mut queue = VecDeque::from([start]);
        let mut outcomes = Vec::new();
        while let Some(at) = queue.pop_front() {
            let block = &self.blocks[at];
            outcomes.extend(block.point);
            outcomes.extend(block.exits.then_some(0));
            for &next in &block.next {
                if !std::mem::replace(&mut seen[next], true) {
                    queue.push_back(next);
                }
            }
        }
        outcomes.sort_unstable();
        outcomes.dedup();
        let blocks = (0..self.blocks.len()).filter(|block| seen[*block]).collect();
        Region { start, blocks, outcomes }
    }

    /// Statements of all regions together.
    pub(super) fn size(&self) -> usize {
        let bytes = |block: &usize| self.blocks[*block].end - self.blocks[*block].first;
        (0..self.starts.len()).map(|index| self.region(index).blocks.iter().map(bytes).sum::<usize>()).sum()
    }

    /// Whether a parameter of a call is written before a point and read behind it.
    pub(super) fn parts_a_call(&self, body: &Body, parameters: usize) -> bool {
        let mut mentions: HashMap<u32, (usize, usize)> = HashMap::new();
        for (at, statement) in body.statements.iter().enumerate() {
            let Statement::Instruction(instruction) = statement else { continue };
            let mut note = |operand: &Operand| {
                if let Operand::Variable(variable, _) = operand {
                    mentions.entry(*variable).or_insert((at, at)).1 = at;
                }
            };
            instruction.operands.iter().for_each(|operand| walk(operand, &mut note));
        }
        mentions.into_iter().any(|(variable, (first, last))| {
            let declared = &body.variables[variable as usize];
            let travels = matches!(declared.space, Space::Shared | Space::Local);
            variable as usize >= parameters
                && !travels
                && self.points.iter().any(|point| match point {
                    Point::Top => false,
                    Point::At(at) | Point::Before(at) => (first..=last).contains(at),
                })
        })
    }

    /// Registers that each region may read before it writes them.
    fn find_live(&mut self, module: &Module, body: &Body) {
        let words = body.registers.len().div_ceil(64);
        let mut reads = vec![vec![0_u64; words]; self.blocks.len()];
        let mut writes = reads.clone();
        for (index, block) in self.blocks.iter().enumerate() {
            let (reads, writes) = (&mut reads[index], &mut writes[index]);
            for statement in &body.statements[block.first..block.end] {
                let Statement::Instruction(instruction) = statement else { continue };
                let roles = Roles::of(module, instruction);
                for register in roles.reads {
                    let (word, bit) = (register as usize / 64, 1 << (register % 64));
                    reads[word] |= bit & !writes[word];
                }
                for register in roles.writes {
                    writes[register as usize / 64] |= 1 << (register % 64);
                }
            }
        }
        // Backwards until nothing changes; waiting keeps what the code behind it needs.
        let mut live = reads;
        let mut changed = true;
        while changed {
            changed = false;
            for index in (0..self.blocks.len()).rev() {
                let behind = self.blocks[index].point.map(|_| index + 1);
                let next: Vec<usize> = self.blocks[index].next.iter().copied().chain(behind).collect();
                for word in 0..words {
                    let wanted = next.iter().fold(0, |wanted, &other| wanted | live[other][word]);
                    let now = live[index][word] | wanted & !writes[index][word];
                    changed |= now != live[index][word];
                    live[index][word] = now;
                }
            }
        }
        for (index, &start) in self.starts.iter().enumerate() {
            let result = self.points[index].asks().map(|at| match &body.statements[at] {
                Statement::Instruction(instruction) => Roles::of(module, instruction).results,
                Statement::Label(_) => Vec::new(),
            });
            let result = result.unwrap_or_default();
            let bit = |register: &RegId| live[start][*register as usize / 64] >> (register % 64) & 1 == 1;
            let registers = 0..u32::try_from(body.registers.len()).unwrap_or(u32::MAX);
            // The thread brings nothing to the top of the kernel, and the answer is not of its past.
            let needed =
                registers.filter(|register| index > 0 && bit(register) && !result.contains(register));
            self.live.push(needed.collect());
        }
    }
}

/// Which registers an instruction reads, and which hold nothing of their past behind it.
pub(super) struct Roles {
    pub(super) reads: Vec<RegId>,
    pub(super) writes: Vec<RegId>,
    /// What it writes where it is done at all, whatever its guard.
    pub(super) results: Vec<RegId>,
}

impl Roles {
    pub(super) fn of(module: &Module, instruction: &Instruction) -> Roles {
        let mut roles = Roles { reads: Vec::new(), writes: Vec::new(), results: Vec::new() };
        roles.reads.extend(instruction.guard.map(|(register, _)| register));
        let opcode = module.opcode(instruction);
        let gives = match opcode.name() {
            "st" | "red" | "bra" | "brx" | "call" | "nanosleep" | "stackrestore" | "stmatrix" | "sust"
            | "sured" | "cp" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "setmaxnreg"
            | "pmevent" | "createpolicy" | "griddepcontrol" | "mbarrier" | "wmma" => false,
            "bar" | "barrier" => opcode.has("red"),
            _ => true,
        };
        for (at, operand) in instruction.operands.iter().enumerate() {
            if at == 0 && gives && roles.take_results(operand) {
                continue;
            }
            let mut note = |operand: &Operand| match operand {
                Operand::Register(register) | Operand::Not(register) | Operand::Part(register, ..) => {
                    roles.reads.push(*register);
                }
                _ => {}
            };
            walk(operand, &mut note);
        }
        if instruction.guard.is_none() {
            roles.writes.clone_from(&roles.results);
        }
        roles
    }

    /// Every register that an instruction can write, and perhaps some that it only reads.
    pub(super) fn may_write(
        module: &Module,
        instruction: &Instruction,
    ) -> impl Iterator<Item = usize> + use<> {
        let all = module.opcode(instruction).name() == "call";
        let mut registers = Vec::new();
        // What stands in brackets is read.
        let written = instruction.operands.iter().take(if all { usize::MAX } else { 1 });
        for operand in written.filter(|operand| !matches!(operand, Operand::Address(..))) {
            walk(operand, &mut |operand: &Operand| {
                if let Operand::Register(register) | Operand::Part(register, ..) = operand {
                    registers.push(*register as usize);
                }
            });
        }
        registers.into_iter()
    }

    /// Takes a destination of whole registers; anything else is left to be taken for read.
    fn take_results(&mut self, operand: &Operand) -> bool {
        let whole = |operand: &Operand| match operand {
            Operand::Register(register) => Some(Some(*register)),
            Operand::Sink => Some(None),
            _ => None,
        };
        let parts: Option<Vec<Option<RegId>>> = match operand {
            Operand::Vector(items) => items.iter().map(whole).collect(),
            Operand::Pair(a, b) => [&**a, &**b].into_iter().map(whole).collect(),
            single => whole(single).map(|register| vec![register]),
        };
        let Some(parts) = parts else { return false };
        self.results.extend(parts.into_iter().flatten());
        true
    }
}

/// Visits an operand and what it is made of.
fn walk(operand: &Operand, visit: &mut impl FnMut(&Operand)) {
    visit(operand);
    match operand {
        Operand::Address(items, _) | Operand::Vector(items) | Operand::List(items) => {
            items.iter().for_each(|item| walk(item, visit));
        }
        Operand::Pair(a, b) => {
            walk(a, visit);
            walk(b, visit);
        }
        _ => {}
    }
}

fn branch_targets(body: &Body, instruction: &Instruction) -> Vec<LabelId> {
    let mut targets = Vec::new();
    let mut note = |name: u32| match &body.names[name as usize] {
        Name::Label(label) => targets.push(*label),
        Name::Targets(list) => {
            for target in &body.branch_targets[*list as usize] {
                if let Name::Label(label) = body.names[*target as usize] {
                    targets.push(label);
                }
            }
        }
        _ => {}
    };
    for operand in &instruction.operands {
        if let Operand::Name(name, _) = operand {
            note(*name);
        }
    }
    targets
}
