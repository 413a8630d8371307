//! Adding nodes, asking for their parameters, and changing them.

use std::ffi::{c_int, c_void};

use cuda_types::{CuError, CuResult};

use super::list;
use super::parameters::{
    AllocationParameters, HostParameters, KernelParameters, copy_1d, free, from_symbol, set, to_symbol,
};
use crate::edge::{Out, Required, entries};
use crate::graph::store;
use crate::graph::work::{Fill, KernelNode, Work};
use crate::handles::{self, EVENTS};
use crate::runtime::copy::Box3D;

entries! {
    /// Adds a launch; the values of its parameters are read now.
    fn cudaGraphAddKernelNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&KernelParameters>) {
        add(node, graph, after, count, parameters.required()?.work())
    }

    /// Adds a copy of a box.
    fn cudaGraphAddMemcpyNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&Box3D>) {
        add(node, graph, after, count, Work::copy(*parameters.required()?))
    }

    /// Adds a copy of bytes in a row.
    fn cudaGraphAddMemcpyNode1D(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, dst: u64, src: u64, bytes: usize, kind: c_int) {
        add(node, graph, after, count, copy_1d(dst, src, bytes, kind))
    }

    /// Adds a copy to a variable.
    fn cudaGraphAddMemcpyNodeToSymbol(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, symbol: *const c_void, src: u64, bytes: usize, offset: usize, kind: c_int) {
        add(node, graph, after, count, to_symbol(symbol, src, bytes, offset, kind))
    }

    /// Adds a copy from a variable.
    fn cudaGraphAddMemcpyNodeFromSymbol(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, dst: u64, symbol: *const c_void, bytes: usize, offset: usize, kind: c_int) {
        add(node, graph, after, count, from_symbol(dst, symbol, bytes, offset, kind))
    }

    /// Adds a set of a rectangle.
    fn cudaGraphAddMemsetNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&Fill>) {
        add(node, graph, after, count, set(parameters.required()?))
    }

    /// Adds a function of the host.
    fn cudaGraphAddHostNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&HostParameters>) {
        add(node, graph, after, count, parameters.required()?.work())
    }

    /// Adds a node that is a clone of a graph.
    fn cudaGraphAddChildGraphNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, child: u64) {
        add_child(node, graph, after, count, child)
    }

    /// Adds a node that does nothing but order others.
    fn cudaGraphAddEmptyNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize) {
        add(node, graph, after, count, Ok(Work::Empty))
    }

    /// Adds the recording of an event.
    fn cudaGraphAddEventRecordNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, event: u64) {
        add(node, graph, after, count, EVENTS.get(event).map(|_| Work::RecordEvent(event)))
    }

    /// Adds a wait for an event.
    fn cudaGraphAddEventWaitNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, event: u64) {
        add(node, graph, after, count, EVENTS.get(event).map(|_| Work::WaitEvent(event)))
    }

    /// Adds an allocation; its address is known now and the same in every launch.
    fn cudaGraphAddMemAllocNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&mut AllocationParameters>) {
        add(node, graph, after, count, parameters.required()?.work())
    }

    /// Adds the end of an allocation.
    fn cudaGraphAddMemFreeNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, address: u64) {
        add(node, graph, after, count, free(address))
    }

    /// The parameters of a launch. Values are pointed to; they stay until the node changes or goes.
    fn cudaGraphKernelNodeGetParams(node: u64, parameters: Out<'_, KernelParameters>) {
        let parameters = parameters.required()?;
        parameters.write(kernel_parameters(node)?);
        Ok(())
    }

    /// Changes a launch.
    fn cudaGraphKernelNodeSetParams(node: u64, parameters: Option<&KernelParameters>) {
        change(node, parameters.required()?.work()?)
    }

    /// The parameters of a copy.
    fn cudaGraphMemcpyNodeGetParams(node: u64, parameters: Out<'_, Box3D>) {
        let found = look(node, |work| match work { Work::Copy(copy) => Some(*copy), _ => None })?;
        parameters.required()?.write(found);
        Ok(())
    }

    /// Changes a copy.
    fn cudaGraphMemcpyNodeSetParams(node: u64, parameters: Option<&Box3D>) {
        change(node, Work::copy(*parameters.required()?)?)
    }

    /// Changes a copy to one of bytes in a row.
    fn cudaGraphMemcpyNodeSetParams1D(node: u64, dst: u64, src: u64, bytes: usize, kind: c_int) {
        change(node, copy_1d(dst, src, bytes, kind)?)
    }

    /// Changes a copy to one to a variable.
    fn cudaGraphMemcpyNodeSetParamsToSymbol(node: u64, symbol: *const c_void, src: u64, bytes: usize, offset: usize, kind: c_int) {
        change(node, to_symbol(symbol, src, bytes, offset, kind)?)
    }

    /// Changes a copy to one from a variable.
    fn cudaGraphMemcpyNodeSetParamsFromSymbol(node: u64, dst: u64, symbol: *const c_void, bytes: usize, offset: usize, kind: c_int) {
        change(node, from_symbol(dst, symbol, bytes, offset, kind)?)
    }

    /// The parameters of a set.
    fn cudaGraphMemsetNodeGetParams(node: u64, parameters: Out<'_, Fill>) {
        let found = look(node, |work| match work { Work::Set(fill) => Some(*fill), _ => None })?;
        parameters.required()?.write(found);
        Ok(())
    }

    /// Changes a set.
    fn cudaGraphMemsetNodeSetParams(node: u64, parameters: Option<&Fill>) {
        change(node, set(parameters.required()?)?)
    }

    /// The parameters of a host function.
    fn cudaGraphHostNodeGetParams(node: u64, parameters: Out<'_, HostParameters>) {
        let found = look(node, |work| match work { Work::Host(call) => Some(*call), _ => None })?;
        parameters.required()?.write(HostParameters { function: Some(found.function), data: found.data });
        Ok(())
    }

    /// Changes a host function.
    fn cudaGraphHostNodeSetParams(node: u64, parameters: Option<&HostParameters>) {
        change(node, parameters.required()?.work()?)
    }

    /// The graph that a child graph node owns: changes to it are changes of the node.
    fn cudaGraphChildGraphNodeGetGraph(node: u64, graph: Out<'_, u64>) {
        let found = look(node, |work| match work { Work::Child(child) => Some(*child), _ => None })?;
        graph.required()?.write(found);
        Ok(())
    }

    /// The event that a node records.
    fn cudaGraphEventRecordNodeGetEvent(node: u64, event: Out<'_, u64>) {
        let found = look(node, |work| match work { Work::RecordEvent(event) => Some(*event), _ => None })?;
        event.required()?.write(found);
        Ok(())
    }

    /// Changes the event that a node records.
    fn cudaGraphEventRecordNodeSetEvent(node: u64, event: u64) {
        EVENTS.get(event)?;
        change(node, Work::RecordEvent(event))
    }

    /// The event that a node waits for.
    fn cudaGraphEventWaitNodeGetEvent(node: u64, event: Out<'_, u64>) {
        let found = look(node, |work| match work { Work::WaitEvent(event) => Some(*event), _ => None })?;
        event.required()?.write(found);
        Ok(())
    }

    /// Changes the event that a node waits for.
    fn cudaGraphEventWaitNodeSetEvent(node: u64, event: u64) {
        EVENTS.get(event)?;
        change(node, Work::WaitEvent(event))
    }

    /// What an allocation node was made with, and its address.
    fn cudaGraphMemAllocNodeGetParams(node: u64, parameters: Out<'_, AllocationParameters>) {
        let memory = look(node, |work| match work { Work::Allocate(memory) => Some(memory.clone()), _ => None })?;
        parameters.required()?.write(AllocationParameters::of(&memory));
        Ok(())
    }

    /// The address that a free node frees.
    fn cudaGraphMemFreeNodeGetParams(node: u64, address: Out<'_, u64>) {
        let found = look(node, |work| match work { Work::Free(memory) => Some(memory.address), _ => None })?;
        address.required()?.write(found);
        Ok(())
    }

    /// Sets an attribute of a launch; 2 = cooperative.
    fn cudaGraphKernelNodeSetAttribute(node: u64, attribute: u32, value: Option<&[u32; 16]>) {
        let value = *value.required()?;
        // Cooperative, priority, and what may only speed a launch up; not clusters.
        if !matches!(attribute, 1 | 2 | 3 | 8 | 9 | 10 | 14) {
            crate::log::warn(format_args!("kernel nodes: launch attribute {attribute} is not supported"));
            return Err(CuError::NOT_SUPPORTED);
        }
        kernel_node(node, |node| node.set_attribute(attribute, value))
    }

    /// An attribute of a launch, all zeros if it was never set.
    fn cudaGraphKernelNodeGetAttribute(node: u64, attribute: u32, value: Out<'_, [u32; 16]>) {
        let value = value.required()?;
        value.write(kernel_node(node, |node| node.attributes.get(&attribute).copied().unwrap_or_default())?);
        Ok(())
    }

    /// Copies the attributes of one launch to another, in the order of major 12.
    fn copy_attributes_12(src: u64, dst: u64) {
        copy_attributes(src, dst)
    }

    /// Copies the attributes of one launch to another, in the order of major 13.
    fn copy_attributes_13(dst: u64, src: u64) {
        copy_attributes(src, dst)
    }
}

/// Adds a node with work that may have been refused.
pub(crate) fn add(
    node: Out<'_, u64>,
    graph: u64,
    after: *const u64,
    count: usize,
    work: CuResult<Work>,
) -> CuResult<()> {
    let node = node.required()?;
    // SAFETY: the caller's array of `count` nodes (module doc of `edge`).
    let after = unsafe { list(after, count) }?;
    store::with(|store| store.graph(graph).map(drop))?;
    let work = work?;
    node.write(store::with(|store| store.add(graph, &after, work))?);
    Ok(())
}

/// Adds a node that is a clone of `child`.
pub(super) fn add_child(
    node: Out<'_, u64>,
    graph: u64,
    after: *const u64,
    count: usize,
    child: u64,
) -> CuResult<()> {
    let node = node.required()?;
    // SAFETY: the caller's array of `count` nodes (module doc of `edge`).
    let after = unsafe { list(after, count) }?;
    node.write(store::with(|store| store.add_child(graph, &after, child))?);
    Ok(())
}

/// Gives a node other work of the same kind. Executable graphs keep what they have.
pub(crate) fn change(node: u64, work: Work) -> CuResult<()> {
    store::with(|store| {
        let node = store.node_mut(node)?;
        // Allocations and child graphs belong to their nodes.
        if node.work.kind() != work.kind() || work.memory().is_some() || matches!(work, Work::Child(_)) {
            return Err(CuError::INVALID_VALUE);
        }
        node.work = work;
        Ok(())
    })
}

/// Looks at a node's work; `INVALID_VALUE` if it is not of the kind asked for.
pub(crate) fn look<T>(node: u64, pick: impl FnOnce(&Work) -> Option<T>) -> CuResult<T> {
    store::with(|store| pick(&store.node(node)?.work).ok_or(CuError::INVALID_VALUE))
}

/// The parameters of a launch, with pointers to the values that its node keeps.
pub(crate) fn kernel_parameters(node: u64) -> CuResult<KernelParameters> {
    let (kernel, ordinal) = kernel_node(node, |node| (node.launch.kernel, node.ordinal))?;
    let function = kernel.on(handles::device(ordinal)?)?;
    kernel_node(node, |node| KernelParameters::of(node, &function.facts.parameters))
}

fn kernel_node<T>(node: u64, look: impl FnOnce(&mut KernelNode) -> T) -> CuResult<T> {
    store::with(|store| match &mut store.node_mut(node)?.work {
        Work::Kernel(node) => Ok(look(node)),
        _ => Err(CuError::INVALID_VALUE),
    })
}

fn copy_attributes(src: u64, dst: u64) -> CuResult<()> {
    let attributes = kernel_node(src, |node| node.attributes.clone())?;
    kernel_node(dst, |node| attributes.iter().for_each(|(id, value)| node.set_attribute(*id, *value)))
}
