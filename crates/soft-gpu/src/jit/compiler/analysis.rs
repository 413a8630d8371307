//! What a kernel reaches and needs, before any code is made: callees, shared and local memory, and the lowering.

use std::collections::{BTreeMap, HashMap, HashSet};

use ptx::ast::{LabelId, Name};
use ptx::{Body, Instruction, Module, Opcode, Operand, Space, Statement};

use super::flow::Flow;
use super::steps::is_volatile;

use crate::image::{FunctionId, Image, Symbol, VariableId};

/// How the threads of a block run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lowering {
    /// One after the other, in loops that are part of the code, from one point where they wait to the next.
    Regions,
    /// A coroutine each: always right.
    Fibers,
}

/// A shared variable of a kernel: at module level, or of one of its functions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum SharedId {
    Module(usize, usize),
    Function(FunctionId, usize),
}

/// A kernel with all that it can call.
pub(crate) struct Unit<'a> {
    pub(crate) image: &'a Image,
    pub(crate) kernel: FunctionId,
    /// Functions to compile, the kernel first; the position is the slot in the table of addresses.
    pub(crate) functions: Vec<FunctionId>,
    pub(crate) slots: HashMap<FunctionId, usize>,
    pub(crate) lowering: Lowering,
    pub(crate) shared: HashMap<SharedId, u32>,
    pub(crate) static_shared_bytes: u32,
    pub(crate) local_bytes: u64,
    pub(crate) recursive: bool,
    /// Whether volatile accesses to shared memory keep the warp in step.
    pub(crate) lock_step: bool,
    pub(crate) calls_indirectly: bool,
}

impl<'a> Unit<'a> {
    pub(crate) fn new(image: &'a Image, kernel: FunctionId) -> Self {
        let mut unit = Self {
            image,
            kernel,
            functions: vec![kernel],
            slots: HashMap::from([(kernel, 0)]),
            lowering: Lowering::Regions,
            shared: HashMap::new(),
            static_shared_bytes: 0,
            local_bytes: 0,
            recursive: false,
            lock_step: false,
            calls_indirectly: false,
        };
        let callees = unit.reach();
        unit.place_shared();
        unit.measure_local(&callees);
        let functions = unit.functions.clone();
        if functions.into_iter().filter(|&id| unit.must_wait(id)).count() > 0 {
            unit.lowering = Lowering::Fibers;
        }
        unit
    }

    pub(crate) fn body(&self, id: FunctionId) -> &'a Body {
        self.image.function(id).body.as_ref().expect("only functions with a body are in a unit")
    }

    fn add(&mut self, id: FunctionId) {
        if !self.slots.contains_key(&id) {
            self.slots.insert(id, self.functions.len());
            self.functions.push(id);
        }
    }

    fn reach(&mut self) -> HashMap<FunctionId, Vec<FunctionId>> {
        let mut callees = HashMap::new();
        let mut next = 0;
        while next < self.functions.len() {
            let id = self.functions[next];
            next += 1;
            let module = &self.image.texts[id.text];
            let mut found = Vec::new();
            for instruction in instructions(self.body(id)) {
                if module.opcode(instruction).name() != "call" {
                    continue;
                }
                match callee(self.image, id.text, self.body(id), instruction) {
                    Some(Symbol::Function(callee)) => found.push(callee),
                    Some(_) => {}
                    None => {
                        self.calls_indirectly = true;
                        found.extend(self.image.functions().filter(|&f| !self.image.function(f).is_kernel));
                    }
                }
            }
            for &callee in &found {
                self.add(callee);
            }
            callees.insert(id, found);
        }
        callees
    }

    fn place_shared(&mut self) {
        let mut wanted: BTreeMap<SharedId, (u32, u64, bool)> = BTreeMap::new();
        for &id in &self.functions {
            let body = self.body(id);
            for (index, variable) in body.variables.iter().enumerate() {
                if variable.space == Space::Shared {
                    wanted.insert(SharedId::Function(id, index), (variable.align, variable.bytes, false));
                }
            }
            for name in &body.names {
                let Name::Symbol(name) = name else { continue };
                if let Some(Symbol::Shared(VariableId { text, variable })) = self.image.symbol(id.text, name)
                {
                    let declared = self.image.variable(VariableId { text, variable });
                    let dynamic = declared.unsized_array && declared.bytes == 0;
                    wanted
                        .insert(SharedId::Module(text, variable), (declared.align, declared.bytes, dynamic));
                }
            }
        }
        let mut end = 0_u64;
        for (&id, &(align, bytes, dynamic)) in &wanted {
            if !dynamic {
                let offset = end.next_multiple_of(u64::from(align));
                end = offset + bytes;
                self.shared.insert(id, u32::try_from(offset).unwrap_or(u32::MAX));
            }
        }
        // Dynamic shared memory follows; all its names are the same place.
        let align = wanted.values().filter(|w| w.2).map(|w| w.0).max().unwrap_or(1).max(16);
        self.static_shared_bytes = u32::try_from(end).unwrap_or(u32::MAX);
        let dynamic = u32::try_from(end.next_multiple_of(u64::from(align))).unwrap_or(u32::MAX);
        for (&id, _) in wanted.iter().filter(|(_, w)| w.2) {
            self.shared.insert(id, dynamic);
            self.static_shared_bytes = dynamic;
        }
    }

    /// Local memory of the deepest chain of calls; a chain that comes back to itself has no end.
    fn measure_local(&mut self, callees: &HashMap<FunctionId, Vec<FunctionId>>) {
        let mut done = HashMap::new();
        let mut path = HashSet::new();
        self.local_bytes = self.deepest(self.kernel, callees, &mut done, &mut path);
    }

    fn deepest(
        &mut self,
        id: FunctionId,
        callees: &HashMap<FunctionId, Vec<FunctionId>>,
        done: &mut HashMap<FunctionId, u64>,
        path: &mut HashSet<FunctionId>,
    ) -> u64 {
        if let Some(&bytes) = done.get(&id) {
            return bytes;
        }
        if !path.insert(id) {
            self.recursive = true;
            return 0;
        }
        let deepest = callees[&id].iter().map(|&callee| self.deepest(callee, callees, done, path)).max();
        path.remove(&id);
        let module = &self.image.texts[id.text];
        let allocates = allocates(module, self.body(id));
        let more = if allocates { ALLOCA_BYTES } else { 0 };
        let bytes = frame_bytes(self.body(id)) + more + deepest.unwrap_or(0);
        done.insert(id, bytes);
        bytes
    }

    /// Whether a thread in this function may have to wait for another where the kernel cannot be cut.
    fn must_wait(&mut self, id: FunctionId) -> bool {
        let module = &self.image.texts[id.text];
        let body = self.body(id);
        let mut waits = self.recursive;
        for instruction in instructions(body) {
            let opcode = module.opcode(instruction);
            waits |= match opcode.name() {
                "bar" | "barrier" if opcode.has("cluster") => true,
                "nanosleep" | "mbarrier" | "mma" | "wmma" | "ldmatrix" | "stmatrix" | "movmatrix"
                | "alloca" => true,
                "exit" => id != self.kernel,
                "ld" | "st" if is_volatile(opcode) => {
                    self.lock_step = true;
                    id != self.kernel
                }
                _ if is_point(opcode) => id != self.kernel,
                _ => false,
            };
        }
        waits || self.must_spin(id)
    }

    /// Whether a thread in this function may spin. A loop of the kernel that passes a barrier of the whole block in every
    /// turn, and looks only at shared memory, lets those run who can change what it looks at.
    fn must_spin(&self, id: FunctionId) -> bool {
        let module = &self.image.texts[id.text];
        let body = self.body(id);
        let spins = spinning_branches(module, body, |_| true);
        if spins.is_empty() || id != self.kernel {
            return !spins.is_empty();
        }
        let elsewhere = |opcode: &Opcode| !opcode.has("shared");
        if !spinning_branches(module, body, elsewhere).is_empty() {
            return true;
        }
        let flow = Flow::new(module, body, &HashSet::new(), |instruction| {
            let opcode = module.opcode(instruction);
            let whole = matches!(instruction.operands.as_slice(), [Operand::Int(_)]);
            matches!(opcode.name(), "bar" | "barrier")
                && opcode.has("sync")
                && !["warp", "cluster", "red"].iter().any(|other| opcode.has(other))
                && whole
                && instruction.guard.is_none()
        });
        let block_of =
            |at: usize| flow.blocks.iter().position(|block| (block.first..block.end).contains(&at));
        spins.into_iter().any(|branch| {
            let Some(from) = block_of(branch) else { return true };
            flow.blocks[from].next.iter().any(|&next| flow.region_from(next).blocks.contains(&from))
        })
    }
}

/// Instructions at which a thread meets others.
pub(super) fn is_point(opcode: &Opcode) -> bool {
    matches!(opcode.name(), "bar" | "barrier" | "vote" | "shfl" | "match" | "redux" | "activemask" | "elect")
}

/// Bytes of the `.local` variables of a function, each aligned.
pub(crate) fn frame_bytes(body: &Body) -> u64 {
    let locals = body.variables.iter().filter(|v| v.space == Space::Local);
    locals
        .fold(0, |end: u64, v| end.next_multiple_of(u64::from(v.align).max(16)) + v.bytes)
        .next_multiple_of(16)
}

/// Bytes that a function with `alloca` may use beyond its variables.
const ALLOCA_BYTES: u64 = 16 * 1024;

/// Whether a function takes local memory as it runs.
pub(crate) fn allocates(module: &Module, body: &Body) -> bool {
    instructions(body).any(|i| matches!(module.opcode(i).name(), "alloca" | "stacksave"))
}

pub(crate) fn instructions(body: &Body) -> impl Iterator<Item = &Instruction> {
    body.statements.iter().filter_map(|statement| match statement {
        Statement::Instruction(instruction) => Some(instruction),
        Statement::Label(_) => None,
    })
}

/// The function that a `call` names; `None` when it goes through a register.
pub(crate) fn callee(image: &Image, text: usize, body: &Body, call: &Instruction) -> Option<Symbol> {
    let target = call.operands.iter().find(|operand| !matches!(operand, Operand::List(_)))?;
    match target {
        Operand::Name(name, _) => match &body.names[*name as usize] {
            Name::Symbol(symbol) => image.symbol(text, symbol),
            _ => None,
        },
        _ => None,
    }
}

/// Indices of the statements that branch back around an access which another thread may answer.
///
/// A loop whose only such access is an atomic without a used result (a histogram) cannot wait for anything.
///
/// Only accesses whose opcode `counts` are looked at.
pub(crate) fn spinning_branches(
    module: &Module,
    body: &Body,
    counts: impl Fn(&Opcode) -> bool,
) -> HashSet<usize> {
    let mut labels: HashMap<LabelId, usize> = HashMap::new();
    let mut branches = Vec::new();
    // How many statements before this one hold an access that can be waited on.
    let mut waits_before = Vec::with_capacity(body.statements.len() + 1);
    let mut waits = 0_usize;
    let reads = register_reads(module, body);
    for (at, statement) in body.statements.iter().enumerate() {
        waits_before.push(waits);
        match statement {
            Statement::Label(label) => {
                labels.insert(*label, at);
            }
            Statement::Instruction(instruction) => {
                if counts(module.opcode(instruction)) && may_wait(module, instruction, &reads) {
                    waits += 1;
                }
                for operand in &instruction.operands {
                    if let Operand::Name(name, _) = operand
                        && let Name::Label(label) = body.names[*name as usize]
                        && let Some(&target) = labels.get(&label)
                    {
                        branches.push((target, at));
                    }
                }
            }
        }
    }
    waits_before.push(waits);
    let spins = branches.into_iter().filter(|&(from, to)| waits_before[to + 1] > waits_before[from]);
    spins.map(|(_, branch)| branch).collect()
}

/// How often each register stands where it is read.
fn register_reads(module: &Module, body: &Body) -> Vec<u32> {
    let mut reads = vec![0; body.registers.len()];
    for instruction in instructions(body) {
        if let Some((guard, _)) = instruction.guard {
            reads[guard as usize] += 1;
        }
        let stores = matches!(module.opcode(instruction).name(), "st" | "red" | "call" | "bra");
        let skip = usize::from(!stores);
        for operand in instruction.operands.iter().skip(skip) {
            count_reads(operand, &mut reads);
        }
        if let (false, Some(Operand::Address(..))) = (stores, instruction.operands.first()) {
            count_reads(&instruction.operands[0], &mut reads);
        }
    }
    reads
}

fn count_reads(operand: &Operand, reads: &mut [u32]) {
    match operand {
        Operand::Register(register) | Operand::Not(register) | Operand::Part(register, ..) => {
            reads[*register as usize] += 1
        }
        Operand::Address(items, _) | Operand::Vector(items) | Operand::List(items) => {
            items.iter().for_each(|item| count_reads(item, reads));
        }
        Operand::Pair(a, b) => {
            count_reads(a, reads);
            count_reads(b, reads);
        }
        _ => {}
    }
}

fn may_wait(module: &Module, instruction: &Instruction, reads: &[u32]) -> bool {
    let opcode = module.opcode(instruction);
    match opcode.name() {
        "atom" => match instruction.operands.first() {
            Some(Operand::Register(result)) => reads[*result as usize] > 0,
            Some(Operand::Sink) => false,
            _ => true,
        },
        "ld" => ["volatile", "relaxed", "acquire"].iter().any(|weak| opcode.has(weak)),
        "call" => false, // a callee's own loops are looked at where it is compiled
        "mbarrier" | "nanosleep" => true,
        _ => false,
    }
}
