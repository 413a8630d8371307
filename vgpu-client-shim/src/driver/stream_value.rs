//! Values that streams write to memory and wait for there; alone, in batches, and as nodes of graphs.

use std::ffi::c_void;
use std::sync::Arc;

use cuda_types::{CuError, CuResult};

use super::{context, entries, twins};
use crate::edge::{DefaultStream, Out, Required};
use crate::graph::capture;
use crate::graph::values::{NodeParameters, Operation, Values};
use crate::graph::work::Work;
use crate::handles::resolve;
use crate::runtime::graph::{exec, nodes};

twins! {
    /// Writes 32 bits in stream order.
    fn cuStreamWriteValue32, cuStreamWriteValue32_ptsz(default; stream: u64, address: u64, value: u32, flags: u32) {
        one(default, stream, Operation::write(address, value.into(), false, flags))
    }

    /// Writes 32 bits in stream order.
    fn cuStreamWriteValue32_v2, cuStreamWriteValue32_v2_ptsz(default; stream: u64, address: u64, value: u32, flags: u32) {
        one(default, stream, Operation::write(address, value.into(), false, flags))
    }

    /// Writes 64 bits in stream order.
    fn cuStreamWriteValue64, cuStreamWriteValue64_ptsz(default; stream: u64, address: u64, value: u64, flags: u32) {
        one(default, stream, Operation::write(address, value, true, flags))
    }

    /// Writes 64 bits in stream order.
    fn cuStreamWriteValue64_v2, cuStreamWriteValue64_v2_ptsz(default; stream: u64, address: u64, value: u64, flags: u32) {
        one(default, stream, Operation::write(address, value, true, flags))
    }

    /// Has later work of the stream wait for 32 bits.
    fn cuStreamWaitValue32, cuStreamWaitValue32_ptsz(default; stream: u64, address: u64, value: u32, flags: u32) {
        one(default, stream, Operation::wait(address, value.into(), false, flags))
    }

    /// Has later work of the stream wait for 32 bits.
    fn cuStreamWaitValue32_v2, cuStreamWaitValue32_v2_ptsz(default; stream: u64, address: u64, value: u32, flags: u32) {
        one(default, stream, Operation::wait(address, value.into(), false, flags))
    }

    /// Has later work of the stream wait for 64 bits.
    fn cuStreamWaitValue64, cuStreamWaitValue64_ptsz(default; stream: u64, address: u64, value: u64, flags: u32) {
        one(default, stream, Operation::wait(address, value, true, flags))
    }

    /// Has later work of the stream wait for 64 bits.
    fn cuStreamWaitValue64_v2, cuStreamWaitValue64_v2_ptsz(default; stream: u64, address: u64, value: u64, flags: u32) {
        one(default, stream, Operation::wait(address, value, true, flags))
    }

    /// Several writes and waits, in the order given.
    fn cuStreamBatchMemOp, cuStreamBatchMemOp_ptsz(default; stream: u64, count: u32, operations: *const c_void, flags: u32) {
        // SAFETY: the caller's array of `count` operations (module doc of `edge`).
        unsafe { batch(default, stream, count, operations, flags) }
    }

    /// Several writes and waits, in the order given.
    fn cuStreamBatchMemOp_v2, cuStreamBatchMemOp_v2_ptsz(default; stream: u64, count: u32, operations: *const c_void, flags: u32) {
        // SAFETY: the caller's array of `count` operations (module doc of `edge`).
        unsafe { batch(default, stream, count, operations, flags) }
    }
}

entries! {
    /// Adds writes and waits as a node.
    fn cuGraphAddBatchMemOpNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&NodeParameters>) {
        nodes::add(node, graph, after, count, parameters.required()?.work())
    }

    /// What such a node does.
    fn cuGraphBatchMemOpNodeGetParams(node: u64, parameters: Out<'_, NodeParameters>) {
        let parameters = parameters.required()?;
        let values = nodes::look(node, |work| match work { Work::Values(values) => Some(values.clone()), _ => None })?;
        let context = context::handle_of_device(crate::handles::device(values.ordinal())?)?;
        parameters.write(NodeParameters { context, ..values.parameters() });
        Ok(())
    }

    /// Changes what such a node does.
    fn cuGraphBatchMemOpNodeSetParams(node: u64, parameters: Option<&NodeParameters>) {
        nodes::change(node, parameters.required()?.work()?)
    }

    /// Changes what such a node of an executable graph does.
    fn cuGraphExecBatchMemOpNodeSetParams(graph: u64, node: u64, parameters: Option<&NodeParameters>) {
        exec::change(graph, node, parameters.required()?.work())
    }
}

impl NodeParameters {
    /// As the work of a node.
    pub(crate) fn work(&self) -> CuResult<Work> {
        if self.flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let device = if self.context == 0 { context::current()? } else { context::find(self.context)? };
        // SAFETY: the caller's array of `count` operations (module doc of `edge`).
        let values = unsafe { Values::read(device.ordinal, self.operations.cast(), self.count) }?;
        Ok(Work::Values(Arc::new(values)))
    }
}

fn one(default: DefaultStream, stream: u64, operation: Operation) -> CuResult<()> {
    context::current()?;
    let target = resolve(default, stream)?;
    run(default, stream, Values::new(target.device.ordinal, vec![operation])?)
}

/// # Safety
/// `operations` is NULL or has `count` entries.
unsafe fn batch(
    default: DefaultStream,
    stream: u64,
    count: u32,
    operations: *const c_void,
    flags: u32,
) -> CuResult<()> {
    context::current()?;
    if flags != 0 {
        return Err(CuError::INVALID_VALUE);
    }
    let target = resolve(default, stream)?;
    // SAFETY: the caller's promise.
    run(default, stream, unsafe { Values::read(target.device.ordinal, operations, count) }?)
}

fn run(default: DefaultStream, stream: u64, values: Values) -> CuResult<()> {
    let target = resolve(default, stream)?;
    let values = Arc::new(values);
    if capture::record(&target, || Ok(Work::Values(values.clone())))? {
        return Ok(());
    }
    values.run(&target)
}
