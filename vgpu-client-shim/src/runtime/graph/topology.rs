//! Graphs, nodes and edges.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cuda_types::{CuError, CuResult};

use super::{Edge, check_edges, list};
use crate::edge::{Out, Required, entries};
use crate::graph::{dot, store};

entries! {
    /// Makes an empty graph.
    fn cudaGraphCreate(graph: Out<'_, u64>, flags: u32) {
        let graph = graph.required()?;
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        graph.write(store::with(store::Store::create));
        Ok(())
    }

    /// Ends a graph; what was instantiated from it lives on.
    fn cudaGraphDestroy(graph: u64) {
        let gone = store::with(|store| store.destroy(graph))?;
        // Destructors of user objects run here, outside the lock.
        drop(gone);
        Ok(())
    }

    /// Clones a graph.
    fn cudaGraphClone(clone: Out<'_, u64>, graph: u64) {
        let clone = clone.required()?;
        clone.write(store::with(|store| store.clone_graph(graph))?);
        Ok(())
    }

    /// The node of a clone that stands for a node of the original.
    fn cudaGraphNodeFindInClone(found: Out<'_, u64>, node: u64, clone: u64) {
        let found = found.required()?;
        found.write(store::with(|store| store.find_in_clone(node, clone))?);
        Ok(())
    }

    /// What a node does: `cudaGraphNodeType`.
    fn cudaGraphNodeGetType(node: u64, kind: Out<'_, u32>) {
        let kind = kind.required()?;
        kind.write(store::with(|store| store.node(node).map(|node| node.work.kind()))?);
        Ok(())
    }

    /// The graph that a node is in.
    fn cudaGraphNodeGetContainingGraph(node: u64, graph: Out<'_, u64>) {
        let graph = graph.required()?;
        graph.write(store::with(|store| store.graph_of(node))?);
        Ok(())
    }

    /// The number by which `cudaGraphDebugDotPrint` calls a graph.
    fn cudaGraphGetId(graph: u64, number: Out<'_, u32>) {
        let number = number.required()?;
        store::with(|store| store.graph(graph).map(drop))?;
        number.write(store::id(graph));
        Ok(())
    }

    /// The number by which `cudaGraphDebugDotPrint` calls a node.
    fn cudaGraphNodeGetLocalId(node: u64, number: Out<'_, u32>) {
        let number = number.required()?;
        store::with(|store| store.graph_of(node))?;
        number.write(store::id(node));
        Ok(())
    }

    /// A number for tools: the graph's and the node's.
    fn cudaGraphNodeGetToolsId(node: u64, number: Out<'_, u64>) {
        let number = number.required()?;
        let graph = store::with(|store| store.graph_of(node))?;
        number.write(u64::from(store::id(graph)) << 32 | u64::from(store::id(node)));
        Ok(())
    }

    /// Takes a node out of its graph, with its edges.
    fn cudaGraphDestroyNode(node: u64) {
        let gone = store::with(|store| store.destroy_node(node))?;
        drop(gone);
        Ok(())
    }

    /// The nodes of a graph.
    fn cudaGraphGetNodes(graph: u64, nodes: *mut u64, count: Option<&mut usize>) {
        let found = store::with(|store| store.graph(graph).map(|graph| graph.nodes.keys().copied().collect::<Vec<_>>()))?;
        // SAFETY: the caller's array of `count` entries (module doc of `edge`).
        unsafe { answer(&found, nodes, count.required()?) }
    }

    /// The nodes that come after nothing.
    fn cudaGraphGetRootNodes(graph: u64, nodes: *mut u64, count: Option<&mut usize>) {
        let found = store::with(|store| store.graph(graph).map(store::Graph::roots))?;
        // SAFETY: the caller's array of `count` entries (module doc of `edge`).
        unsafe { answer(&found, nodes, count.required()?) }
    }

    /// The edges of a graph, for major 12.
    fn edges_12(graph: u64, from: *mut u64, to: *mut u64, count: Option<&mut usize>) {
        edges(graph, from, to, std::ptr::null_mut(), count)
    }

    /// The edges of a graph with their data.
    fn edges_13(graph: u64, from: *mut u64, to: *mut u64, data: *mut Edge, count: Option<&mut usize>) {
        edges(graph, from, to, data, count)
    }

    /// The nodes before a node, for major 12.
    fn dependencies_12(node: u64, nodes: *mut u64, count: Option<&mut usize>) {
        neighbours(node, false, nodes, std::ptr::null_mut(), count)
    }

    /// The nodes before a node, with the edges from them.
    fn dependencies_13(node: u64, nodes: *mut u64, data: *mut Edge, count: Option<&mut usize>) {
        neighbours(node, false, nodes, data, count)
    }

    /// The nodes after a node, for major 12.
    fn dependents_12(node: u64, nodes: *mut u64, count: Option<&mut usize>) {
        neighbours(node, true, nodes, std::ptr::null_mut(), count)
    }

    /// The nodes after a node, with the edges to them.
    fn dependents_13(node: u64, nodes: *mut u64, data: *mut Edge, count: Option<&mut usize>) {
        neighbours(node, true, nodes, data, count)
    }

    /// Adds edges, for major 12.
    fn add_dependencies_12(graph: u64, from: *const u64, to: *const u64, count: usize) {
        connect(graph, from, to, std::ptr::null(), count, true)
    }

    /// Adds edges with their data.
    fn add_dependencies_13(graph: u64, from: *const u64, to: *const u64, data: *const Edge, count: usize) {
        connect(graph, from, to, data, count, true)
    }

    /// Removes edges, for major 12.
    fn remove_dependencies_12(graph: u64, from: *const u64, to: *const u64, count: usize) {
        connect(graph, from, to, std::ptr::null(), count, false)
    }

    /// Removes edges with their data.
    fn remove_dependencies_13(graph: u64, from: *const u64, to: *const u64, data: *const Edge, count: usize) {
        connect(graph, from, to, data, count, false)
    }

    /// Writes a graph to a file for Graphviz; any flag adds what nodes work on.
    fn cudaGraphDebugDotPrint(graph: u64, path: *const c_char, flags: u32) {
        if path.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the caller's string (module doc of `edge`).
        let path = unsafe { CStr::from_ptr(path) };
        let text = store::with(|store| dot::text(store, graph, flags != 0))?;
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        std::fs::write(path, text).map_err(|_| CuError::OPERATING_SYSTEM)
    }
}

/// Writes a list as CUDA does: only the count into a NULL array; rest of a longer array is NULL.
///
/// # Safety
/// `room` is NULL or has `count` entries.
unsafe fn answer<T: Copy + Default>(found: &[T], room: *mut T, count: &mut usize) -> CuResult<()> {
    if !room.is_null() {
        for place in 0..*count {
            // SAFETY: the caller's promise.
            unsafe { room.add(place).write(found.get(place).copied().unwrap_or_default()) };
        }
        *count = found.len().min(*count);
        return Ok(());
    }
    *count = found.len();
    Ok(())
}

fn edges(
    graph: u64,
    from: *mut u64,
    to: *mut u64,
    data: *mut Edge,
    count: Option<&mut usize>,
) -> CuResult<()> {
    let count = count.required()?;
    // CUDA Runtime API, cudaGraphGetEdges: both arrays or none.
    if from.is_null() != to.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    let found = store::with(|store| store.graph(graph).map(store::Graph::edges))?;
    let (starts, ends): (Vec<u64>, Vec<u64>) = found.into_iter().unzip();
    let (mut of_starts, mut of_data) = (*count, *count);
    // SAFETY: the caller's arrays of `count` entries (module doc of `edge`).
    unsafe {
        answer(&starts, from, &mut of_starts)?;
        answer(&vec![Edge::default(); starts.len()], data, &mut of_data)?;
        answer(&ends, to, count)
    }
}

fn neighbours(
    node: u64,
    behind: bool,
    nodes: *mut u64,
    data: *mut Edge,
    count: Option<&mut usize>,
) -> CuResult<()> {
    let count = count.required()?;
    let found = store::with(|store| {
        if behind {
            CuResult::Ok(store.graph(store.graph_of(node)?)?.dependents(node))
        } else {
            Ok(store.node(node)?.after.clone())
        }
    })?;
    let mut of_data = *count;
    // SAFETY: the caller's arrays of `count` entries (module doc of `edge`).
    unsafe {
        answer(&vec![Edge::default(); found.len()], data, &mut of_data)?;
        answer(&found, nodes, count)
    }
}

fn connect(
    graph: u64,
    from: *const u64,
    to: *const u64,
    data: *const Edge,
    count: usize,
    add: bool,
) -> CuResult<()> {
    // SAFETY: the caller's arrays of `count` entries (module doc of `edge`).
    let (from, to) = unsafe {
        check_edges(data, count)?;
        (list(from, count)?, list(to, count)?)
    };
    let edges: Vec<(u64, u64)> = from.into_iter().zip(to).collect();
    store::with(|store| if add { store.connect(graph, &edges) } else { store.disconnect(graph, &edges) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_or_filled_up_and_counted() {
        let found = [5_u64, 6];
        let (mut room, mut count) = ([9_u64; 3], 0);
        // SAFETY: NULL, and arrays of the counts given.
        unsafe {
            answer(&found, std::ptr::null_mut(), &mut count).unwrap();
            assert_eq!(count, 2);
            count = 1;
            answer(&found, room.as_mut_ptr(), &mut count).unwrap();
            assert_eq!((room, count), ([5, 9, 9], 1));
            count = 3;
            answer(&found, room.as_mut_ptr(), &mut count).unwrap();
            assert_eq!((room, count), ([5, 6, 0], 2));
        }
    }
}
