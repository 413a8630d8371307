//! Special registers.

use std::mem::offset_of;

use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::translator::Translator;
use crate::jit::context::ThreadContext;
use crate::jit::helpers;

impl Translator<'_, '_> {
    /// The value of `%name`, 32 or 64 bits wide.
    pub(super) fn special(&mut self, name: &str) -> Result<Value, String> {
        let (base, component) = name.split_once('.').unwrap_or((name, ""));
        let axis = ["x", "y", "z"].iter().position(|&axis| axis == component);
        let vector = match base {
            "tid" => Some(offset_of!(ThreadContext, tid)),
            "ntid" => Some(offset_of!(ThreadContext, ntid)),
            // A cluster of one block: cluster indices are block indices.
            "ctaid" | "clusterid" => Some(offset_of!(ThreadContext, ctaid)),
            "nctaid" | "nclusterid" => Some(offset_of!(ThreadContext, nctaid)),
            _ => None,
        };
        if let Some(offset) = vector {
            let Some(axis) = axis else {
                return if component == "w" {
                    Ok(self.constant(types::I32, 0))
                } else {
                    Err(format!("%{name} cannot be read as a whole"))
                };
            };
            if let (Some(part), "tid") = (&self.part, base) {
                let tid = part.tid[axis];
                return Ok(self.b.use_var(tid));
            }
            return Ok(self.field(types::I32, offset + 4 * axis));
        }
        Ok(match base {
            "laneid" => {
                let linear = self.linear_tid();
                self.b.ins().band_imm_u(linear, 31)
            }
            "warpid" => {
                let linear = self.linear_tid();
                self.b.ins().ushr_imm_u(linear, 5)
            }
            "nwarpid" => self.constant(types::I32, 32),
            "smid" => self.field(types::I32, offset_of!(ThreadContext, smid)),
            "nsmid" => self.constant(types::I32, u64::from(self.limits.multiprocessors)),
            "gridid" | "envreg0" => self.constant(types::I64, 0),
            "lanemask_eq" => self.lane_mask(1, 0),
            "lanemask_lt" => self.lane_mask(1, -1),
            "lanemask_le" => self.lane_mask(2, -1),
            "lanemask_gt" => {
                let mask = self.lane_mask(2, -1);
                self.b.ins().bnot(mask)
            }
            "lanemask_ge" => {
                let mask = self.lane_mask(1, -1);
                self.b.ins().bnot(mask)
            }
            "clock" | "clock64" => self.helper_value(helpers::clock as *const () as usize),
            "clock_hi" => {
                let clock = self.helper_value(helpers::clock as *const () as usize);
                self.b.ins().ushr_imm_u(clock, 32)
            }
            "globaltimer" | "globaltimer_lo" => self.helper_value(helpers::globaltimer as *const () as usize),
            "globaltimer_hi" => {
                let timer = self.helper_value(helpers::globaltimer as *const () as usize);
                self.b.ins().ushr_imm_u(timer, 32)
            }
            "dynamic_smem_size" => self.field(types::I32, offset_of!(ThreadContext, dynamic_shared_bytes)),
            "total_smem_size" | "aggr_smem_size" => {
                self.field(types::I32, offset_of!(ThreadContext, shared_bytes))
            }
            "reserved_smem_offset_begin" | "reserved_smem_offset_end" | "reserved_smem_offset_cap" => {
                self.constant(types::I32, 0)
            }
            // The workspace of a cooperative grid, high word first.
            "envreg1" | "envreg2" => {
                let workspace = self
                    .helper(helpers::grid_workspace as *const () as usize, &[self.ctx], Some(types::I64))
                    .expect("it has a result");
                if base == "envreg1" { self.b.ins().ushr_imm_u(workspace, 32) } else { workspace }
            }
            "cluster_ctaid" | "cluster_ctarank" | "is_explicit_cluster" => self.constant(types::I32, 0),
            "cluster_nctaid" | "cluster_nctarank" => self.constant(types::I32, 1),
            _ if base.starts_with("pm") || base.starts_with("envreg") => self.constant(types::I64, 0),
            _ => return Err(format!("the software GPU has no register %{name}")),
        })
    }

    fn helper_value(&mut self, address: usize) -> Value {
        self.helper(address, &[self.ctx], Some(types::I64)).expect("it has a result")
    }

    /// `((1 << lane) * factor) + add`, that is, a mask below or at the lane.
    fn lane_mask(&mut self, factor: u64, add: i64) -> Value {
        let linear = self.linear_tid();
        let lane = self.b.ins().band_imm_u(linear, 31);
        let one = self.constant(types::I64, factor);
        let bit = self.b.ins().ishl(one, lane);
        let mask = self.b.ins().iadd_imm_s(bit, add);
        self.b.ins().ireduce(types::I32, mask)
    }

    /// The thread's place in its block.
    pub(super) fn linear_tid(&mut self) -> Value {
        if let Some(thread) = self.loop_thread() {
            return thread;
        }
        let axes = ["tid.x", "tid.y", "tid.z"].map(|name| self.special(name).expect("a known register"));
        let width = self.field(types::I32, offset_of!(ThreadContext, ntid));
        let height = self.field(types::I32, offset_of!(ThreadContext, ntid) + 4);
        let plane = self.b.ins().imul(axes[2], height);
        let row = self.b.ins().iadd(plane, axes[1]);
        let row = self.b.ins().imul(row, width);
        self.b.ins().iadd(row, axes[0])
    }
}
