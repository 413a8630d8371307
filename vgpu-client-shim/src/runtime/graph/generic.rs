//! Nodes of any kind by `cudaGraphNodeParams`: a kind and a union of what the other calls take.

use std::ffi::c_int;

use cuda_types::{CuError, CuResult};

use super::nodes::{add_child, change};
use super::parameters::{AllocationParameters, HostParameters, KernelParameters, free};
use super::{Edge, check_edges, list};
use crate::edge::{Out, Required, entries};
use crate::graph::exec::{Exec, lock};
use crate::graph::store;
use crate::graph::work::{Fill, Work};
use crate::handles::EVENTS;
use crate::runtime::copy::Box3D;

entries! {
    /// Adds a node of any kind, for major 12.
    fn add_node_12(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: *mut NodeParameters) {
        add_any(node, graph, after, std::ptr::null(), count, parameters)
    }

    /// Adds a node of any kind with the data of its edges.
    fn add_node_13(node: Out<'_, u64>, graph: u64, after: *const u64, edges: *const Edge, count: usize, parameters: *mut NodeParameters) {
        add_any(node, graph, after, edges, count, parameters)
    }

    /// Changes a node of any kind.
    fn cudaGraphNodeSetParams(node: u64, parameters: *mut NodeParameters) {
        // SAFETY: the caller's structure (module doc of `edge`).
        match unsafe { asked(parameters) }? {
            Asked::Work(work) => change(node, work),
            Asked::Child(_) => Err(CuError::INVALID_VALUE),
        }
    }

    /// Changes a node of any kind in an executable graph.
    fn cudaGraphExecNodeSetParams(exec: u64, node: u64, parameters: *mut NodeParameters) {
        let exec = Exec::find(exec)?;
        // SAFETY: the caller's structure (module doc of `edge`).
        match unsafe { asked(parameters) }? {
            Asked::Work(work) => lock(&exec).set_work(node, work),
            Asked::Child(child) => super::exec::set_child(&exec, node, child.graph),
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
    copy: CopyParameters,
    set: Fill,
    host: HostParameters,
    child: ChildParameters,
    /// An event, or an address.
    handle: u64,
    allocation: AllocationParameters,
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

/// What a structure asks for.
enum Asked {
    Work(Work),
    Child(ChildParameters),
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
        8 | 9 | 13 => {
            let name = if kind == 13 { "conditional" } else { "external semaphore" };
            crate::log::warn(format_args!("cudaGraphAddNode: {name} nodes are not supported"));
            Err(CuError::NOT_SUPPORTED)
        }
        _ => Err(CuError::INVALID_VALUE),
    };
    work.map(Asked::Work)
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
    }
}
