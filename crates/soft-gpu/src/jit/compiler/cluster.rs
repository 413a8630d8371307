//! Clusters of one block: every address in shared memory is the block's own, every rank is 0.

use cranelift_codegen::ir::{InstBuilder, types};

use super::translator::{Done, Op, Translator};
use crate::jit::context::CLUSTER_BARRIER;
use crate::jit::helpers;

impl<'a> Translator<'a, '_> {
    /// `barrier.cluster.arrive`, `barrier.cluster.wait`: the block's threads meet where they wait.
    pub(super) fn cluster_barrier(&mut self, op: &Op<'a>) -> Done {
        self.b.ins().fence();
        if op.has("wait") {
            let id = self.constant(types::I32, u64::from(CLUSTER_BARRIER));
            let zero = self.constant(types::I32, 0);
            let arguments = [self.ctx, id, zero, zero, zero];
            self.helper(helpers::barrier as *const () as usize, &arguments, Some(types::I64));
            self.b.ins().fence();
        }
        Ok(())
    }

    /// `mapa d, a, rank`: the same address in another block of the cluster; there is no other.
    pub(super) fn map_to_block(&mut self, op: &Op<'a>) -> Done {
        let address = self.read_at(op, 1, types::I64)?;
        self.write(op, address)
    }

    /// `getctarank d, a`
    pub(super) fn block_rank(&mut self, op: &Op<'a>) -> Done {
        let rank = self.constant(types::I32, 0);
        self.write(op, rank)
    }

    /// Whether the kernel asks for clusters of more than one block, which there are none of.
    pub(super) fn refuse_clusters(&self) -> Done {
        match self.function.limits.cluster {
            Some(extents) if extents.iter().product::<u32>() > 1 => {
                Err("clusters of more than one block are not supported".into())
            }
            _ => Ok(()),
        }
    }
}
