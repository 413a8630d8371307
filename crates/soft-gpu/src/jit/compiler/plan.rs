//! How a kernel is cut into regions, and what a thread's record holds between them.

use std::collections::{HashMap, HashSet};

use ptx::ast::RegId;
use ptx::{Instruction, Operand, Statement};

use super::analysis::{self, Unit};
use super::flow::{Flow, Point};
use super::steps::steps;
use super::translator::register_types;
use super::uniform::Uniform;
use crate::jit::context::{Record, Wait};

/// How a kernel is cut, and what a thread's record holds.
pub(super) struct Plan {
    pub(super) flow: Flow,
    pub(super) uniform: Uniform,
    /// What threads wait for at each point; of the first, the top of the kernel, nothing is asked.
    pub(super) waits: Vec<Wait>,
    /// Offsets in the record of the registers that are live at a point.
    pub(super) places: HashMap<RegId, u32>,
    /// Where the carry flag is kept, if the kernel has one.
    pub(super) carry: Option<u32>,
    /// 0 if the kernel has no points: there are no records then.
    pub(super) record_bytes: u32,
}

impl Plan {
    /// Cuts the unit's kernel; `None` if that cannot be done or would make too much code of it.
    pub(super) fn new(unit: &Unit<'_>) -> Option<Plan> {
        let module = &unit.image.texts[unit.kernel.text];
        let function = unit.image.function(unit.kernel);
        let body = unit.body(unit.kernel);
        let waits = |instruction: &Instruction| analysis::is_point(module.opcode(instruction));
        let mut flow = Flow::new(module, body, &HashSet::new(), waits);
        if unit.lock_step {
            flow = Flow::new(module, body, &steps(module, body, &flow), waits);
        }
        if flow.points.len() > 1
            && (flow.size() > MOST_GROWTH * body.statements.len() + SMALL
                || flow.parts_a_call(body, function.params.len()))
        {
            return None;
        }
        let waits = flow.points.iter().map(|point| match point.asks().map(|at| &body.statements[at]) {
            Some(Statement::Instruction(instruction)) => {
                let opcode = module.opcode(instruction);
                match (opcode.name(), instruction.operands.as_slice()) {
                    ("activemask", _) => Wait::ActiveMask,
                    ("bar" | "barrier", _) if opcode.has("warp") => Wait::Warp,
                    ("bar" | "barrier", _) if opcode.has("arrive") => Wait::Arrive,
                    ("bar" | "barrier", [Operand::Int(id)]) if !opcode.has("red") => {
                        Wait::Whole(u32::try_from(*id).unwrap_or(u32::MAX))
                    }
                    ("bar" | "barrier", _) => Wait::Barrier,
                    _ => Wait::Warp,
                }
            }
            _ if *point == Point::Top => Wait::Barrier,
            _ => Wait::Step,
        });
        let waits: Vec<Wait> = waits.collect();
        let mut uniform = Uniform::new(module, body, function.params.len(), &flow);
        // What is kept once for all threads is found by the first of a range that goes on, or of a warp; other waits part
        // ranges elsewhere.
        if !waits[1..].iter().all(|wait| matches!(wait, Wait::Whole(_) | Wait::Step)) {
            uniform.forget();
        }
        let types = register_types(module, body);
        let mut end = u32::try_from(size_of::<Record>()).unwrap_or(u32::MAX);
        let mut place = |bytes: u32| {
            let offset = end.next_multiple_of(bytes);
            end = offset + bytes;
            offset
        };
        let mut places = HashMap::new();
        for &register in flow.live.iter().flatten().filter(|&&register| uniform.anew(register).is_none()) {
            places.entry(register).or_insert_with(|| place(types[register as usize].bytes()));
        }
        let carries = analysis::instructions(body).any(|instruction| {
            let opcode = module.opcode(instruction);
            opcode.has("cc") || matches!(opcode.name(), "addc" | "subc" | "madc")
        });
        let carry = carries.then(|| place(8));
        let record_bytes = if flow.points.len() > 1 { end.next_multiple_of(16) } else { 0 };
        Some(Plan { flow, uniform, waits, places, carry, record_bytes })
    }

    pub(super) fn regions(&self) -> usize {
        self.flow.points.len()
    }

    /// Whether warps keep in step somewhere.
    pub(super) fn steps(&self) -> bool {
        self.waits.contains(&Wait::Step)
    }

    /// Whether the threads that start at a point must be kept in warps: they come to an operation of the warp.
    pub(super) fn by_warp(&self, region: usize) -> bool {
        let outcomes = self.flow.region(region).outcomes;
        outcomes.iter().any(|&point| {
            point > 0 && matches!(self.waits[point], Wait::Warp | Wait::ActiveMask | Wait::Step)
        })
    }
}

/// Regions may hold this many times the statements of their kernel, and this many more.
const MOST_GROWTH: usize = 6;
const SMALL: usize = 2000;

#[cfg(test)]
mod tests {
    use ptx::Module;

    use super::*;
    use crate::image::{Image, LinkFailure, link};
    use crate::jit::compiler::analysis::Lowering;

    fn image(text: &str) -> Image {
        let module = Module::parse(text).expect("it parses");
        link(vec![module], |_| Ok::<_, ()>(0)).map_err(|_: LinkFailure<()>| ()).expect("it links").0
    }

    /// Whether a kernel's threads keep fibers, or are cut apart, or come to their barriers in step.
    fn way(image: &Image, name: &str) -> &'static str {
        let mut kernels = image.functions().filter(|id| *image.function(*id).name == *name);
        let unit = Unit::new(image, kernels.next().expect("the kernel is there"));
        match Plan::new(&unit).filter(|_| unit.lowering == Lowering::Regions) {
            None => "fibers",
            Some(plan) if plan.uniform.in_step => "in step",
            Some(_) => "apart",
        }
    }

    #[test]
    fn threads_are_in_step_where_nothing_parts_them_before_a_barrier() {
        let compiled = image(include_str!("../../../tests/kernels/regions.ptx"));
        for kernel in [
            "tree",
            "bounds",
            "early_exit",
            "uniform_branch",
            "races",
            "counts_apart",
            "own_memory",
            "data_count",
        ] {
            assert_eq!(way(&compiled, kernel), "in step", "{kernel}");
        }
        assert_eq!(way(&compiled, "lock_step_scan"), "in step");
        for kernel in ["divergent", "halves", "answers", "warp_sums", "scan", "lock_step_tree"] {
            assert_eq!(way(&compiled, kernel), "apart", "{kernel}");
        }
        let written = image(include_str!("../../../tests/kernels/registers.ptx"));
        assert_eq!(way(&written, "passing"), "in step");
        assert_eq!(way(&written, "guarded_barrier"), "apart");
    }

    #[test]
    fn threads_that_may_wait_without_a_barrier_keep_their_fibers() {
        let spin = |access: &str, between: &str| {
            format!(
                ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry spin(.param .u64 a)\n{{\n\
                 .reg .pred %p; .reg .b32 %r<4>; .reg .b64 %rd<2>; .shared .align 4 .b32 s;\n\
                 ld.param.u64 %rd0, [a]; mov.u32 %r2, s;\nagain: {access};\n{between}\n\
                 setp.eq.u32 %p, %r0, 0;\n@%p bra again;\nret;\n}}\n"
            )
        };
        for (access, between, wanted) in [
            ("ld.volatile.global.u32 %r0, [%rd0]", "", "fibers"),
            ("ld.volatile.global.u32 %r0, [%rd0]", "bar.sync 0;", "fibers"),
            ("ld.acquire.gpu.global.u32 %r0, [%rd0]", "bar.sync 0;", "fibers"),
            ("atom.global.cas.b32 %r0, [%rd0], 0, 1", "", "fibers"),
            ("atom.shared.cas.b32 %r0, [%r2], 0, 1", "bar.warp.sync 0xffffffff;", "fibers"),
            ("ld.volatile.shared.u32 %r0, [%r2]", "", "fibers"),
            ("ld.volatile.shared.u32 %r0, [%r2]", "@%p bar.sync 0;", "fibers"),
            ("ld.volatile.shared.u32 %r0, [%r2]", "bar.sync 0;", "in step"),
            ("ld.global.u32 %r0, [%rd0]", "nanosleep.u32 20;", "fibers"),
            ("ld.global.u32 %r0, [%rd0]", "", "in step"),
        ] {
            assert_eq!(way(&image(&spin(access, between)), "spin"), wanted, "{access} {between}");
        }
    }
}
