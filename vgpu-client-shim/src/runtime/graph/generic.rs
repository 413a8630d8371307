//! Nodes of any kind by `cudaGraphNodeParams`: a kind and a union of what the other calls take.

use std::ffi::c_int;

use cuda_types::{CuError, CuResult};

use super::nodes::{add_child, change, kernel_parameters};
use super::parameters::{AllocationParameters, HostParameters, KernelParameters, free};
use super::{Edge, check_edges, list};
use crate::edge::{Out, Required, entries};
use crate::graph::condition::{Condition, Kind};
use crate::graph::exec::{Exec, lock};
use crate::graph::store;
use crate::graph::values;
use crate::graph::work::{Fill, Work};
use crate::handles::EVENTS;
use crate::runtime::copy::Box3D;
use crate::state::devices;

entries! {
    /// Adds a node of any kind, for major 12.
    fn add_node_12(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: *mut NodeParameters) {
        add_any(node, graph, after, std::ptr::null(), count, parameters)
    }

    /// Adds a node of any kind with the data of its edges.
    fn add_node_13(node: Out<'_, u64>, graph: u64, after: *const u64, edges: *const Edge, count: usize, parameters: *mut NodeParameters) {
        add_any(node, graph, after, edges, count, parameters)
    }

    /// Makes the value of a conditional node; flag 1 assigns the default with every launch.
    fn cudaGraphConditionalHandleCreate(handle: Out<'_, u64>, graph: u64, default: u32, flags: u32) {
        condition(handle, graph, default, flags)
    }

    /// The same for an execution context, of which there is only the device's own.
    fn cudaGraphConditionalHandleCreate_v2(handle: Out<'_, u64>, graph: u64, context: u64, default: u32, flags: u32) {
        if context != 0 {
            crate::log::warn(format_args!("cudaGraphConditionalHandleCreate_v2: execution contexts are not supported"));
            return Err(CuError::NOT_SUPPORTED);
        }
        condition(handle, graph, default, flags)
    }

    /// The parameters of a node of any kind. What they point to stays until the node changes or goes.
    fn cudaGraphNodeGetParams(node: u64, parameters: Out<'_, NodeParameters>) {
        let parameters = parameters.required()?;
        parameters.write(NodeParameters::of(node)?);
        Ok(())
    }

    /// Changes a node of any kind.
    fn cudaGraphNodeSetParams(node: u64, parameters: *mut NodeParameters) {
        // SAFETY: the caller's structure (module doc of `edge`).
        match unsafe { asked(parameters) }? {
            Asked::Work(work) => change(node, work),
            Asked::Child(_) | Asked::Choice => Err(CuError::INVALID_VALUE),
        }
    }

    /// Changes a node of any kind in an executable graph.
    fn cudaGraphExecNodeSetParams(exec: u64, node: u64, parameters: *mut NodeParameters) {
        let exec = Exec::find(exec)?;
        // SAFETY: the caller's structure (module doc of `edge`).
        match unsafe { asked(parameters) }? {
            Asked::Work(work) => lock(&exec).set_work(node, work),
            Asked::Child(child) => super::exec::set_child(&exec, node, child.graph),
            Asked::Choice => Err(CuError::INVALID_VALUE),
        }
    }
}

/// `cudaGraphNodeParams`.
#[repr(C)]
pub(crate) struct NodeParameters {
    kind: c_int,
    reserved: [c_int; 3],
    of_kind: Union,
    reserved_end: u64,
}

#[repr(C)]
union Union {
    padding: [u64; 29],
    kernel: KernelParameters,
    later_kernel: LaterKernelParameters,
    copy: CopyParameters,
    set: Fill,
    host: HostParameters,
    child: ChildParameters,
    /// An event, or an address.
    handle: u64,
    allocation: AllocationParameters,
    choice: ChoiceParameters,
    /// Of the driver alone.
    values: values::NodeParameters,
}

/// `cudaKernelNodeParamsV2` of major 13.
#[repr(C)]
#[derive(Clone, Copy)]
struct LaterKernelParameters {
    kernel: KernelParameters,
    context: u64,
    /// What the kernel is named by: 0 = to be found out.
    kind: c_int,
}

/// `cudaMemcpyNodeParams`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CopyParameters {
    flags: c_int,
    reserved: [c_int; 3],
    copy: Box3D,
}

/// `cudaChildGraphNodeParams`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ChildParameters {
    graph: u64,
    /// 0 = the node gets a clone, 1 = the node gets the graph itself.
    ownership: c_int,
}

/// `cudaConditionalNodeParams`; that of major 13 ends with an execution context.
#[repr(C)]
#[derive(Clone, Copy)]
struct ChoiceParameters {
    handle: u64,
    kind: c_int,
    count: u32,
    /// Answered: the graphs that the node owns.
    bodies: *const u64,
}

/// What a structure asks for.
enum Asked {
    Work(Work),
    Child(ChildParameters),
    Choice,
}

/// Reads a structure; the address of an allocation is written into it.
///
/// # Safety
/// `parameters` is NULL or points to a structure whose union is that of its kind.
unsafe fn asked(parameters: *mut NodeParameters) -> CuResult<Asked> {
    if parameters.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: the caller's promise. Every part of the union is plain numbers, in memory that the caller has zeroed, as
    // the header demands ("unused bytes must be zero").
    let kind = unsafe { (*parameters).kind };
    // SAFETY: as above.
    let of_kind = unsafe { &mut (*parameters).of_kind };
    let work = match kind {
        // SAFETY: the kind says which part it is.
        0 => unsafe { of_kind.kernel }.work(),
        // SAFETY: the kind says which part it is.
        1 => Work::copy(unsafe { of_kind.copy }.copy),
        // SAFETY: the kind says which part it is.
        2 => Work::set(unsafe { of_kind.set }),
        // SAFETY: the kind says which part it is.
        3 => unsafe { of_kind.host }.work(),
        // SAFETY: the kind says which part it is.
        4 => return Ok(Asked::Child(unsafe { of_kind.child })),
        5 => Ok(Work::Empty),
        // SAFETY: the kind says which part it is.
        6 => known_event(unsafe { of_kind.handle }).map(Work::WaitEvent),
        // SAFETY: the kind says which part it is.
        7 => known_event(unsafe { of_kind.handle }).map(Work::RecordEvent),
        // SAFETY: the kind says which part it is.
        10 => unsafe { &mut of_kind.allocation }.work(),
        // SAFETY: the kind says which part it is.
        11 => free(unsafe { of_kind.handle }),
        // SAFETY: the kind says which part it is.
        12 => unsafe { of_kind.values }.work(),
        13 => return Ok(Asked::Choice),
        8 | 9 | 14 => {
            let name = if kind == 14 { "batch copy" } else { "external semaphore" };
            crate::log::warn(format_args!("cudaGraphAddNode: {name} nodes are not supported"));
            Err(CuError::NOT_SUPPORTED)
        }
        _ => Err(CuError::INVALID_VALUE),
    };
    work.map(Asked::Work)
}

impl NodeParameters {
    /// What a node was made with.
    fn of(node: u64) -> CuResult<NodeParameters> {
        // Outside the lock: a kernel's parameters ask its module.
        let work = store::with(|store| store.node(node).map(|node| node.work.clone()))?;
        let kind = c_int::try_from(work.kind()).map_err(|_| CuError::UNKNOWN)?;
        let mut of_kind = Union { padding: [0; 29] };
        match work {
            Work::Kernel(_) => {
                let kernel = kernel_parameters(node)?;
                of_kind.later_kernel = LaterKernelParameters { kernel, context: 0, kind: 0 };
            }
            Work::Copy(copy) => of_kind.copy = CopyParameters { flags: 0, reserved: [0; 3], copy },
            Work::Set(fill) => of_kind.set = fill,
            Work::Host(call) => {
                of_kind.host = HostParameters { function: Some(call.function), data: call.data };
            }
            // cudaGraphChildGraphOwnershipInvalid: the graph is the node's own.
            Work::Child(graph) => of_kind.child = ChildParameters { graph, ownership: -1 },
            Work::Empty => {}
            Work::WaitEvent(event) | Work::RecordEvent(event) => of_kind.handle = event,
            Work::Allocate(memory) => of_kind.allocation = AllocationParameters::of(&memory),
            Work::Free(memory) => of_kind.handle = memory.address,
            Work::Values(values) => of_kind.values = values.parameters(),
            Work::Choose(choice) => {
                let count = u32::try_from(choice.bodies.len()).map_err(|_| CuError::UNKNOWN)?;
                let (handle, kind) = (choice.condition.handle, choice.kind.number());
                of_kind.choice = ChoiceParameters { handle, kind, count, bodies: choice.bodies.as_ptr() };
            }
        }
        Ok(NodeParameters { kind, reserved: [0; 3], of_kind, reserved_end: 0 })
    }
}

fn condition(handle: Out<'_, u64>, graph: u64, default: u32, flags: u32) -> CuResult<()> {
    let handle = handle.required()?;
    // cudaGraphCondAssignDefault.
    if flags > 1 {
        return Err(CuError::INVALID_VALUE);
    }
    store::with(|store| store.graph(graph).map(drop))?;
    let made = Condition::new(devices().current()?, default, flags == 1)?;
    handle.write(made.handle);
    store::with(|store| {
        store.graph_mut(graph)?.conditions.push(made);
        Ok(())
    })
}

fn known_event(event: u64) -> CuResult<u64> {
    EVENTS.get(event).map(|_| event)
}

fn add_any(
    node: Out<'_, u64>,
    graph: u64,
    after: *const u64,
    edges: *const Edge,
    count: usize,
    parameters: *mut NodeParameters,
) -> CuResult<()> {
    // SAFETY: the caller's array of `count` edges (module doc of `edge`).
    unsafe { check_edges(edges, count) }?;
    // SAFETY: the caller's structure (module doc of `edge`).
    let work = match unsafe { asked(parameters) }? {
        Asked::Work(work) => work,
        Asked::Child(child) if child.ownership == 0 => {
            return add_child(node, graph, after, count, child.graph);
        }
        Asked::Child(child) => Work::Child(child.graph),
        Asked::Choice => {
            // SAFETY: the caller's structure, which was read above, and array.
            let (choice, after) = unsafe { (&mut (*parameters).of_kind.choice, list(after, count)?) };
            let node = node.required()?;
            let kind = Kind::of(choice.kind, choice.count)?;
            let (handle, count) = (choice.handle, choice.count);
            let (added, bodies) = store::with(|store| store.add_choice(graph, &after, handle, kind, count))?;
            choice.bodies = bodies.as_ptr();
            node.write(added);
            return Ok(());
        }
    };
    let node = node.required()?;
    // SAFETY: the caller's array of `count` nodes (module doc of `edge`).
    let after = unsafe { list(after, count) }?;
    node.write(store::with(|store| match work {
        Work::Child(child) => store.add_moved(graph, &after, child),
        other => store.add(graph, &after, other),
    })?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<NodeParameters>(), 256);
        assert_eq!(std::mem::offset_of!(NodeParameters, of_kind), 16);
        assert_eq!(std::mem::offset_of!(NodeParameters, reserved_end), 248);
        assert_eq!(size_of::<CopyParameters>(), 176);
        assert_eq!(size_of::<ChoiceParameters>(), 24);
        assert_eq!(std::mem::offset_of!(ChoiceParameters, bodies), 16);
        assert_eq!(std::mem::offset_of!(LaterKernelParameters, kind), 64);
    }
}
