//! Graphs; how they live is told in [`crate::graph`].
//!
//! Layout: `topology` (graphs, nodes and edges), `nodes` (adding nodes, their parameters), `parameters` (the structures),
//! `generic` (nodes by `cudaGraphNodeParams`), `exec` (executable graphs), `object` (user objects, attributes).

pub(crate) mod exec;
pub(crate) mod generic;
pub(crate) mod nodes;
pub(crate) mod object;
pub(crate) mod parameters;
pub(crate) mod topology;

use cuda_types::{CuError, CuResult};

pub(crate) use exec::*;
pub(crate) use generic::*;
pub(crate) use nodes::*;
pub(crate) use object::*;
pub(crate) use topology::*;

/// `cudaGraphEdgeData`: ports, type, padding.
pub(crate) type Edge = [u8; 8];

/// A list of nodes from the caller.
///
/// # Safety
/// `nodes` is NULL or has `count` entries.
pub(crate) unsafe fn list(nodes: *const u64, count: usize) -> CuResult<Vec<u64>> {
    match (count, nodes.is_null()) {
        (0, _) => Ok(Vec::new()),
        (_, true) => Err(CuError::INVALID_VALUE),
        // SAFETY: the caller's promise.
        (_, false) => Ok(unsafe { std::slice::from_raw_parts(nodes, count) }.to_vec()),
    }
}

/// Refuses edges that are not known. A programmatic edge (type 1) lets the second kernel begin before the first one's
/// end; here it begins behind it, as an ordinary edge has it, which is one of the orders that it permits.
///
/// # Safety
/// `edges` is NULL or has `count` entries.
pub(crate) unsafe fn check_edges(edges: *const Edge, count: usize) -> CuResult<()> {
    if edges.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let edges = unsafe { std::slice::from_raw_parts(edges, count) };
    let known = |edge: &Edge| edge[2] <= 1 && edge[3..] == [0; 5] && (edge[2] == 1 || edge[..2] == [0, 0]);
    if edges.iter().all(known) { Ok(()) } else { Err(CuError::INVALID_VALUE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_edges_are_read_as_the_header_has_them() {
        let nodes = [1, 2, 3];
        // SAFETY: arrays of the lengths given, or NULL.
        unsafe {
            assert_eq!(list(nodes.as_ptr(), 2), Ok(vec![1, 2]));
            assert_eq!(list(std::ptr::null(), 0), Ok(vec![]));
            assert_eq!(list(std::ptr::null(), 1), Err(CuError::INVALID_VALUE));
            assert_eq!(check_edges(std::ptr::null(), 9), Ok(()));
            assert_eq!(check_edges([[0; 8], [1, 0, 1, 0, 0, 0, 0, 0]].as_ptr(), 2), Ok(()));
            assert!(check_edges([[0, 0, 2, 0, 0, 0, 0, 0]].as_ptr(), 1).is_err());
            assert!(check_edges([[0, 0, 0, 0, 0, 0, 0, 1]].as_ptr(), 1).is_err());
        }
    }
}
