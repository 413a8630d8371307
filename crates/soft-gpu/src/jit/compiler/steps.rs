//! Where code for lock-step warps needs its lanes to wait for each other.
//!
//! Lanes that run in step do each volatile access to shared memory together. Between two barriers of the block that
//! matters only where one of two accesses writes: a lane that goes ahead then reads what the others have not yet written, or
//! writes what they have not yet read. So the lanes meet before the second of such two.

use std::collections::HashSet;

use ptx::{Body, Instruction, Module, Opcode, Operand, Statement};

use super::flow::Flow;

/// What a lane has done with shared memory since the lanes were last together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Pending {
    #[default]
    Nothing,
    Read,
    Written,
}

/// The statements before which the lanes of a warp meet. `flow` is cut at barriers and warp operations.
pub(super) fn steps(module: &Module, body: &Body, flow: &Flow) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut entering = vec![Pending::Nothing; flow.blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (index, block) in flow.blocks.iter().enumerate() {
            let mut pending = entering[index];
            for at in block.first..block.end {
                let Statement::Instruction(instruction) = &body.statements[at] else { continue };
                let opcode = module.opcode(instruction);
                if joins_block(opcode, instruction) {
                    pending = Pending::Nothing;
                    continue;
                }
                let Some(writes) = touches_shared(opcode) else { continue };
                let meets = pending == Pending::Written || writes && pending == Pending::Read;
                if meets && found.insert(at) {
                    changed = true;
                }
                if found.contains(&at) {
                    pending = Pending::Nothing;
                }
                if is_volatile(opcode) {
                    pending = pending.max(if writes { Pending::Written } else { Pending::Read });
                }
            }
            let behind = block.point.map(|_| index + 1);
            for next in block.next.iter().copied().chain(behind) {
                let joined = entering[next].max(pending);
                changed |= joined != entering[next];
                entering[next] = joined;
            }
        }
    }
    found
}

/// Whether an access keeps the warp in step.
pub(super) fn is_volatile(opcode: &Opcode) -> bool {
    matches!(opcode.name(), "ld" | "st") && opcode.has("volatile") && opcode.has("shared")
}

/// A barrier at which all threads of the block meet, whoever waits.
fn joins_block(opcode: &Opcode, instruction: &Instruction) -> bool {
    matches!(opcode.name(), "bar" | "barrier")
        && opcode.has("sync")
        && !["warp", "cluster", "red"].iter().any(|other| opcode.has(other))
        && instruction.guard.is_none()
        && matches!(instruction.operands.as_slice(), [Operand::Int(_)])
}

/// Whether an instruction may write to shared memory; `None` if it does not touch it at all.
fn touches_shared(opcode: &Opcode) -> Option<bool> {
    let elsewhere = ["global", "const", "local", "param", "param::entry", "param::func"];
    if elsewhere.iter().any(|space| opcode.has(space)) && !opcode.has("shared") {
        return None;
    }
    match opcode.name() {
        "ld" => Some(false),
        "st" | "atom" | "red" | "call" | "cp" => Some(true),
        _ => None,
    }
}
