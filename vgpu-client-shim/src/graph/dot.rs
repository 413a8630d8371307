//! A graph as text for Graphviz.

use std::fmt::Write as _;

use cuda_types::CuResult;

use super::store::{Store, id};
use super::work::Work;

/// Writes a graph and those inside it; `verbose` adds what nodes work on.
pub(crate) fn text(store: &Store, graph: u64, verbose: bool) -> CuResult<String> {
    let mut text = String::from("digraph dot {\n");
    cluster(store, graph, verbose, &mut text)?;
    text.push_str("}\n");
    Ok(text)
}

fn cluster(store: &Store, graph: u64, verbose: bool, text: &mut String) -> CuResult<()> {
    let found = store.graph(graph)?;
    // `let _`: writing to a String cannot fail.
    let own = id(graph);
    let _ = writeln!(text, "subgraph cluster_{own} {{\nlabel=\"graph_{own}\"");
    for (handle, node) in &found.nodes {
        let (id, label) = (id(*handle), label(&node.work, verbose));
        let _ = writeln!(text, "node_{id} [shape=\"record\" label=\"{label}\"];");
        for inside in node.work.owned() {
            cluster(store, *inside, verbose, text)?;
        }
    }
    for (from, to) in found.edges() {
        let _ = writeln!(text, "node_{} -> node_{};", id(from), id(to));
    }
    text.push_str("}\n");
    Ok(())
}

fn label(work: &Work, verbose: bool) -> String {
    let (name, details) = match work {
        Work::Kernel(node) => {
            let launch = &node.launch;
            let (grid, block) = (launch.grid, launch.block);
            (
                "KERNEL",
                format!(
                    "{}\\n({},{},{}) ({},{},{}) {}",
                    launch.kernel.name.to_string_lossy(),
                    grid.x,
                    grid.y,
                    grid.z,
                    block.x,
                    block.y,
                    block.z,
                    launch.shared_bytes
                ),
            )
        }
        Work::Copy(copy) => ("MEMCPY", format!("{:#x} to {:#x}", copy.src.address, copy.dst.address)),
        Work::Set(fill) => ("MEMSET", format!("{:#x}, {} x {}", fill.dst, fill.width, fill.height)),
        Work::Host(_) => ("HOST", String::new()),
        Work::Child(child) => ("GRAPH", format!("graph_{}", id(*child))),
        Work::Empty => ("EMPTY", String::new()),
        Work::WaitEvent(event) => ("EVENT_WAIT", format!("{event:#x}")),
        Work::RecordEvent(event) => ("EVENT_RECORD", format!("{event:#x}")),
        Work::Allocate(memory) => ("MEM_ALLOC", format!("{:#x}, {} bytes", memory.address, memory.bytes)),
        Work::Choose(choice) => (
            "CONDITIONAL",
            format!("{:?} of {} at {:#x}", choice.kind, choice.bodies.len(), choice.condition.handle),
        ),
        Work::Values(values) => ("BATCH_MEM_OP", format!("{} operations", values.parameters().count)),
        Work::Free(memory) => ("MEM_FREE", format!("{:#x}", memory.address)),
    };
    if verbose && !details.is_empty() { format!("{name}\\n{details}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_edges_and_graphs_inside_are_written() {
        let mut store = Store::default();
        let (graph, child) = (store.create(), store.create());
        store.add(child, &[], Work::WaitEvent(0x20)).unwrap();
        let a = store.add(graph, &[], Work::Empty).unwrap();
        let b = store.add_child(graph, &[a], child).unwrap();
        let text = text(&store, graph, true).unwrap();
        assert!(text.contains(&format!("node_{} -> node_{};", id(a), id(b))), "{text}");
        assert!(text.contains("EVENT_WAIT\\n0x20") && text.matches("subgraph").count() == 2, "{text}");
    }
}
