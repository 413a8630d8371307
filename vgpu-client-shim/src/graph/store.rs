//! All graphs of the process: nodes and edges, under one lock.
//!
//! Handles are numbers that grow, so the nodes of a graph in order of their handles are in order of creation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_types::{CuError, CuResult};

use super::capture::Captures;
use super::condition::{Choice, Condition, Kind};
use super::user_object::UserObject;
use super::work::Work;

/// Graphs, their nodes, and the captures that add to them.
#[derive(Default)]
pub(crate) struct Store {
    graphs: HashMap<u64, Graph>,
    /// Node -> its graph.
    nodes: HashMap<u64, u64>,
    pub(crate) captures: Captures,
}

/// One graph.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) nodes: BTreeMap<u64, Node>,
    /// The child graph node or conditional node that owns it.
    owner: Option<u64>,
    /// What it is a clone of.
    original: Option<u64>,
    /// What the program has tied to it, and with how many references.
    pub(crate) objects: Vec<(Arc<UserObject>, u32)>,
    /// Values of conditional nodes, here or in graphs inside.
    pub(crate) conditions: Vec<Arc<Condition>>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) work: Work,
    /// The nodes that come before it, in the order in which they were named.
    pub(crate) after: Vec<u64>,
    /// What it is a clone of.
    original: Option<u64>,
}

static STORE: Mutex<Option<Store>> = Mutex::new(None);

/// Looks at the graphs or changes them. No call to a session and none to the program in `look`.
pub(crate) fn with<T>(look: impl FnOnce(&mut Store) -> T) -> T {
    let mut store: MutexGuard<'_, Option<Store>> = STORE.lock().unwrap_or_else(PoisonError::into_inner);
    look(store.get_or_insert_default())
}

/// A handle that no graph, node or object has had.
pub(crate) fn new_handle() -> u64 {
    // Beside the handles of `handles::Table`, and as unmapped as those.
    static NEXT: AtomicU64 = AtomicU64::new(0x101_0000_0000);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// What tools call a graph, an executable graph or a node: a number that no other one has had.
pub(crate) fn id(handle: u64) -> u32 {
    // Handles grow by 16.
    u32::try_from(handle >> 4 & 0xffff_ffff).unwrap_or(0)
}

impl Store {
    /// Makes an empty graph.
    pub(crate) fn create(&mut self) -> u64 {
        let handle = new_handle();
        self.graphs.insert(handle, Graph::default());
        handle
    }

    /// The graph behind a handle.
    pub(crate) fn graph(&self, graph: u64) -> CuResult<&Graph> {
        self.graphs.get(&graph).ok_or(CuError::INVALID_VALUE)
    }

    /// The same, to be changed.
    pub(crate) fn graph_mut(&mut self, graph: u64) -> CuResult<&mut Graph> {
        self.graphs.get_mut(&graph).ok_or(CuError::INVALID_VALUE)
    }

    /// The graph of a node.
    pub(crate) fn graph_of(&self, node: u64) -> CuResult<u64> {
        self.nodes.get(&node).copied().ok_or(CuError::INVALID_VALUE)
    }

    /// The node behind a handle.
    pub(crate) fn node(&self, node: u64) -> CuResult<&Node> {
        self.graph(self.graph_of(node)?)?.nodes.get(&node).ok_or(CuError::INVALID_VALUE)
    }

    /// The same, to be changed.
    pub(crate) fn node_mut(&mut self, node: u64) -> CuResult<&mut Node> {
        let graph = self.graph_of(node)?;
        self.graph_mut(graph)?.nodes.get_mut(&node).ok_or(CuError::INVALID_VALUE)
    }

    /// Ends a graph that the program owns; the answer is dropped outside the lock, with what is tied to it.
    pub(crate) fn destroy(&mut self, graph: u64) -> CuResult<Vec<Graph>> {
        if self.graph(graph)?.owner.is_some() || self.captures.uses(graph) {
            return Err(CuError::INVALID_VALUE);
        }
        let mut gone = Vec::new();
        self.remove(graph, &mut gone);
        Ok(gone)
    }

    /// Removes a graph and those of its child graph nodes.
    pub(crate) fn remove(&mut self, graph: u64, gone: &mut Vec<Graph>) {
        let Some(removed) = self.graphs.remove(&graph) else { return };
        for (node, Node { work, .. }) in &removed.nodes {
            self.nodes.remove(node);
            for inside in work.owned() {
                self.remove(*inside, gone);
            }
        }
        gone.push(removed);
    }

    /// Adds a node behind `after`, which are different nodes of the same graph.
    pub(crate) fn add(&mut self, graph: u64, after: &[u64], work: Work) -> CuResult<u64> {
        let nodes = &self.graph(graph)?.nodes;
        let mut seen = HashSet::new();
        if !after.iter().all(|node| nodes.contains_key(node) && seen.insert(*node)) {
            return Err(CuError::INVALID_VALUE);
        }
        let handle = new_handle();
        let node = Node { work, after: after.to_vec(), original: None };
        self.graph_mut(graph)?.nodes.insert(handle, node);
        self.nodes.insert(handle, graph);
        Ok(handle)
    }

    /// Adds a node that owns a clone of `child`.
    pub(crate) fn add_child(&mut self, graph: u64, after: &[u64], child: u64) -> CuResult<u64> {
        self.graph(graph)?;
        let clone = self.clone_graph(child)?;
        self.add_owned(graph, after, clone)
    }

    /// Adds a node that takes `child` over from the program.
    pub(crate) fn add_moved(&mut self, graph: u64, after: &[u64], child: u64) -> CuResult<u64> {
        if self.graph(child)?.owner.is_some() || self.captures.uses(child) || graph == child {
            return Err(CuError::INVALID_VALUE);
        }
        if self.graph(child)?.has_choices() {
            return Err(CuError::NOT_SUPPORTED);
        }
        let node = self.add(graph, after, Work::Child(child))?;
        self.graph_mut(child)?.owner = Some(node);
        Ok(node)
    }

    /// Adds a node that owns `child`, which was made for it.
    pub(crate) fn add_owned(&mut self, graph: u64, after: &[u64], child: u64) -> CuResult<u64> {
        match self.add(graph, after, Work::Child(child)) {
            Ok(node) => {
                self.graph_mut(child)?.owner = Some(node);
                Ok(node)
            }
            Err(error) => {
                self.remove(child, &mut Vec::new());
                Err(error)
            }
        }
    }

    /// Adds a conditional node with so many new, empty graphs. Its value was made for this graph or one around it.
    pub(crate) fn add_choice(
        &mut self,
        graph: u64,
        after: &[u64],
        handle: u64,
        kind: Kind,
        bodies: u32,
    ) -> CuResult<(u64, Arc<[u64]>)> {
        let mut around = Some(graph);
        let mut condition = None;
        while let (Some(place), None) = (around, &condition) {
            let found = self.graph(place)?;
            condition = found.conditions.iter().find(|condition| condition.handle == handle).cloned();
            around = found.owner.map(|owner| self.graph_of(owner)).transpose()?;
        }
        let condition = condition.filter(|condition| !condition.is_used()).ok_or(CuError::INVALID_VALUE)?;
        let bodies: Arc<[u64]> = (0..bodies).map(|_| self.create()).collect();
        let choice = Choice { condition: Arc::clone(&condition), kind, bodies: Arc::clone(&bodies) };
        let added = self.add(graph, after, Work::Choose(choice));
        for body in &*bodies {
            match added {
                Ok(node) => self.graph_mut(*body)?.owner = Some(node),
                Err(_) => self.remove(*body, &mut Vec::new()),
            }
        }
        let node = added?;
        condition.take();
        Ok((node, bodies))
    }

    /// Takes a node and its edges out of its graph.
    pub(crate) fn destroy_node(&mut self, node: u64) -> CuResult<Vec<Graph>> {
        let graph = self.graph_of(node)?;
        if self.graph(graph)?.has_memory() {
            // CUDA Runtime API, cudaGraphDestroyNode: not from graphs with allocation or free nodes.
            return Err(CuError::INVALID_VALUE);
        }
        self.nodes.remove(&node);
        let nodes = &mut self.graph_mut(graph)?.nodes;
        let removed = nodes.remove(&node);
        for other in nodes.values_mut() {
            other.after.retain(|before| *before != node);
        }
        let mut gone = Vec::new();
        for inside in removed.iter().flat_map(|removed| removed.work.owned()) {
            self.remove(*inside, &mut gone);
        }
        Ok(gone)
    }

    /// Adds edges; none of them may exist. Cycles are found when the graph is instantiated, as CUDA has it.
    pub(crate) fn connect(&mut self, graph: u64, edges: &[(u64, u64)]) -> CuResult<()> {
        let nodes = &mut self.graph_mut(graph)?.nodes;
        let mut seen = HashSet::new();
        for (from, to) in edges {
            let known = nodes.get(to).is_some_and(|node| !node.after.contains(from));
            if from == to || !known || !nodes.contains_key(from) || !seen.insert((from, to)) {
                return Err(CuError::INVALID_VALUE);
            }
        }
        for (from, to) in edges {
            nodes.entry(*to).and_modify(|node| node.after.push(*from));
        }
        Ok(())
    }

    /// Removes edges, which all exist.
    pub(crate) fn disconnect(&mut self, graph: u64, edges: &[(u64, u64)]) -> CuResult<()> {
        let graph = self.graph_mut(graph)?;
        let exist =
            edges.iter().all(|(from, to)| graph.nodes.get(to).is_some_and(|node| node.after.contains(from)));
        if !exist || (graph.has_memory() && !edges.is_empty()) {
            return Err(CuError::INVALID_VALUE);
        }
        for (from, to) in edges {
            graph.nodes.entry(*to).and_modify(|node| node.after.retain(|before| before != from));
        }
        Ok(())
    }

    /// Clones a graph with its child graphs.
    pub(crate) fn clone_graph(&mut self, graph: u64) -> CuResult<u64> {
        let source = self.graph(graph)?;
        if source.has_memory() || source.has_choices() {
            // CUDA Programming Guide, "Graph Memory Nodes" and "Conditional Graph Nodes": such graphs cannot be cloned.
            return Err(CuError::NOT_SUPPORTED);
        }
        let nodes: Vec<_> = source
            .nodes
            .iter()
            .map(|(node, entry)| (*node, entry.work.clone(), entry.after.clone()))
            .collect();
        let objects = source.objects.clone();
        let clone = self.create();
        let made = self.graph_mut(clone)?;
        made.original = Some(graph);
        made.objects = objects;
        let mut copies = HashMap::new();
        for (node, ..) in &nodes {
            copies.insert(*node, new_handle());
        }
        for (node, work, after) in nodes {
            let copy = copies[&node];
            let work = match work {
                Work::Child(child) => {
                    let child = match self.clone_graph(child) {
                        Ok(child) => child,
                        Err(error) => {
                            self.remove(clone, &mut Vec::new());
                            return Err(error);
                        }
                    };
                    self.graph_mut(child)?.owner = Some(copy);
                    Work::Child(child)
                }
                other => other,
            };
            let after = after.iter().map(|before| copies[before]).collect();
            self.graph_mut(clone)?.nodes.insert(copy, Node { work, after, original: Some(node) });
            self.nodes.insert(copy, clone);
        }
        Ok(clone)
    }

    /// The node of a clone that stands for a node of its original.
    pub(crate) fn find_in_clone(&self, node: u64, clone: u64) -> CuResult<u64> {
        self.graph_of(node)?;
        let clone = self.graph(clone)?;
        clone.original.ok_or(CuError::INVALID_VALUE)?;
        let found = clone.nodes.iter().find(|(_, copy)| copy.original == Some(node));
        found.map(|(handle, _)| *handle).ok_or(CuError::INVALID_VALUE)
    }
}

impl Graph {
    /// Whether it allocates or frees memory.
    pub(crate) fn has_memory(&self) -> bool {
        self.nodes.values().any(|node| node.work.memory().is_some())
    }

    /// Whether it has conditional nodes.
    pub(crate) fn has_choices(&self) -> bool {
        self.nodes.values().any(|node| matches!(node.work, Work::Choose(_)))
    }

    /// The nodes that come after nothing.
    pub(crate) fn roots(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.after.is_empty()).map(|(handle, _)| *handle).collect()
    }

    /// All edges, from and to.
    pub(crate) fn edges(&self) -> Vec<(u64, u64)> {
        let edges =
            |(to, node): (&u64, &Node)| node.after.iter().map(|from| (*from, *to)).collect::<Vec<_>>();
        self.nodes.iter().flat_map(edges).collect()
    }

    /// The nodes that come after `node`.
    pub(crate) fn dependents(&self, node: u64) -> Vec<u64> {
        let after = self.nodes.iter().filter(|(_, entry)| entry.after.contains(&node));
        after.map(|(handle, _)| *handle).collect()
    }

    /// `nodes` and everything that comes before them.
    pub(crate) fn ancestry(&self, nodes: &[u64]) -> HashSet<u64> {
        let mut found: HashSet<u64> = nodes.iter().copied().collect();
        let mut open = nodes.to_vec();
        while let Some(node) = open.pop() {
            let before = self.nodes.get(&node).map_or(&[][..], |node| &node.after);
            open.extend(before.iter().copied().filter(|before| found.insert(*before)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_exist_once_between_nodes_of_one_graph() {
        let mut store = Store::default();
        let (graph, other) = (store.create(), store.create());
        let a = store.add(graph, &[], Work::Empty).unwrap();
        let b = store.add(graph, &[a], Work::Empty).unwrap();
        let foreign = store.add(other, &[], Work::Empty).unwrap();
        assert!(store.add(graph, &[foreign], Work::Empty).is_err());
        assert!(store.add(graph, &[a, a], Work::Empty).is_err());
        assert!(store.connect(graph, &[(a, b)]).is_err(), "it is there already");
        assert!(store.connect(graph, &[(a, a)]).is_err());
        assert!(store.connect(graph, &[(a, foreign)]).is_err());
        let c = store.add(graph, &[], Work::Empty).unwrap();
        store.connect(graph, &[(a, c), (b, c)]).unwrap();
        let graph_now = store.graph(graph).unwrap();
        assert_eq!(graph_now.edges(), [(a, b), (a, c), (b, c)]);
        assert_eq!((graph_now.roots(), graph_now.dependents(a)), (vec![a], vec![b, c]));
        store.disconnect(graph, &[(a, c)]).unwrap();
        assert!(store.disconnect(graph, &[(a, c)]).is_err());
        store.destroy_node(b).unwrap();
        assert_eq!(store.graph(graph).unwrap().edges(), []);
        assert!(store.destroy(graph).is_ok() && store.destroy(graph).is_err() && store.node(a).is_err());
    }

    #[test]
    fn a_conditional_node_owns_its_graphs_and_takes_a_value_from_around() {
        let mut store = Store::default();
        let (graph, other) = (store.create(), store.create());
        for handle in [7, 8] {
            store.graph_mut(graph).unwrap().conditions.push(Condition::of_no_device(handle));
        }
        let loops = |store: &mut Store, graph, handle| store.add_choice(graph, &[], handle, Kind::While, 1);
        assert!(loops(&mut store, other, 7).is_err(), "the value of another graph");
        assert!(store.add_choice(graph, &[9], 7, Kind::While, 1).is_err(), "behind no node");
        let (node, bodies) = loops(&mut store, graph, 7).unwrap();
        assert!(loops(&mut store, graph, 7).is_err(), "it has its node");
        let (inner, of_inner) = store.add_choice(bodies[0], &[], 8, Kind::If, 2).unwrap();
        assert_eq!((of_inner.len(), store.graph_of(inner)), (2, Ok(bodies[0])));
        assert!(store.destroy(bodies[0]).is_err() && store.clone_graph(graph).is_err());
        assert!(store.add_child(other, &[], graph).is_err() && store.add_moved(other, &[], graph).is_err());
        assert_eq!(store.destroy_node(node).unwrap().len(), 3, "with everything inside");
        assert!(store.graph(of_inner[1]).is_err() && store.node(inner).is_err());
        assert_eq!(store.destroy(graph).unwrap().len(), 1);
    }

    #[test]
    fn a_clone_is_its_own_graph_and_knows_what_its_nodes_stand_for() {
        let mut store = Store::default();
        let (graph, child) = (store.create(), store.create());
        let inner = store.add(child, &[], Work::Empty).unwrap();
        let a = store.add(graph, &[], Work::WaitEvent(7)).unwrap();
        let b = store.add_child(graph, &[a], child).unwrap();
        let clone = store.clone_graph(graph).unwrap();
        let (a2, b2) = (store.find_in_clone(a, clone).unwrap(), store.find_in_clone(b, clone).unwrap());
        assert_eq!(store.graph(clone).unwrap().edges(), [(a2, b2)]);
        assert!(store.find_in_clone(a, graph).is_err(), "no clone");
        assert!(store.find_in_clone(inner, clone).is_err(), "not of that graph");
        let owned = |store: &Store, node| match store.node(node).unwrap().work {
            Work::Child(child) => child,
            _ => panic!("a child graph node"),
        };
        let (first, second) = (owned(&store, b), owned(&store, b2));
        assert!(first != second && first != child);
        assert!(store.destroy(first).is_err(), "its node owns it");
        assert_eq!(store.destroy(graph).unwrap().len(), 2);
        assert!(store.graph(first).is_err() && store.graph(second).is_ok());
        assert!(store.node(a2).is_ok());
    }
}
