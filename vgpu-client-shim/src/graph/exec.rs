//! Executable graphs: a graph, checked and put in order, ready to be posted any number of times.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use client::Session;
use cuda_types::{CUstream, CuError, CuResult};
use proto::StreamCalls;

use super::condition::{Choice, Condition, Kind};
use super::memory::GraphMemory;
use super::store::Store;
use super::user_object::UserObject;
use super::work::Work;
use crate::handles::{Resolved, STREAMS, Table};

/// The executable graphs of the process.
static EXECS: Table<Mutex<Exec>> = Table::new();

/// `cudaGraphInstantiateFlagAutoFreeOnLaunch`.
const AUTO_FREE: u64 = 1;

/// An executable graph.
pub(crate) struct Exec {
    pub(crate) flags: u64,
    pub(crate) plan: Plan,
    objects: Vec<Arc<UserObject>>,
    /// Holds the values of its conditional nodes.
    _token: Arc<()>,
    /// Where it was launched last: the next launch comes after that one, on whatever stream.
    last: Option<Launched>,
}

/// Where a graph was launched.
struct Launched {
    session: Weak<Session>,
    ordinal: usize,
    stream: CUstream,
}

/// A graph in order of creation, and an order to run it in.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    order: Vec<usize>,
    /// Values of conditional nodes that may be set when it begins to run.
    conditions: Vec<Arc<Condition>>,
}

/// A node of a plan.
#[derive(Clone)]
pub(crate) struct Step {
    /// The node of the graph that was instantiated: what the program names it by.
    pub(crate) node: u64,
    /// Places of the steps before it, sorted.
    pub(crate) after: Vec<usize>,
    pub(crate) work: Work,
    /// What a child graph node runs.
    pub(crate) child: Option<Plan>,
    /// What a conditional node chooses from.
    bodies: Vec<Plan>,
    pub(crate) enabled: bool,
}

/// Why a graph is not what an executable one can become: `cudaGraphExecUpdateResult`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Difference {
    pub(crate) result: u32,
    /// The node of the new graph, 0 if it is none.
    pub(crate) node: u64,
}

impl Difference {
    pub(crate) const ERROR: u32 = 1;
    pub(crate) const TOPOLOGY: u32 = 2;
    pub(crate) const KIND: u32 = 3;
    pub(crate) const NOT_SUPPORTED: u32 = 6;
    pub(crate) const FUNCTION: u32 = 7;
}

impl Exec {
    /// Makes an executable graph of `graph`; its handle.
    pub(crate) fn instantiate(store: &Store, graph: u64, flags: u64) -> CuResult<u64> {
        // AutoFreeOnLaunch, Upload, UseNodePriority; DeviceLaunch (4) needs a device that launches graphs.
        if flags & !0xf != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        if flags & 4 != 0 {
            return Err(CuError::NOT_SUPPORTED);
        }
        let plan = Plan::new(store, graph)?;
        let objects = objects(store, graph)?;
        let token = Arc::default();
        plan.claim(&token)?;
        Ok(EXECS.insert(Mutex::new(Exec { flags, plan, objects, _token: token, last: None })))
    }

    /// The executable graph behind a handle.
    pub(crate) fn find(exec: u64) -> CuResult<Arc<Mutex<Exec>>> {
        EXECS.get(exec).map_err(|_| CuError::INVALID_VALUE)
    }

    /// Ends an executable graph. What is tied to it lives until its last launch is over.
    pub(crate) fn destroy(exec: u64) -> CuResult<()> {
        let exec = EXECS.remove(exec).map_err(|_| CuError::INVALID_VALUE)?;
        let mut exec = lock(&exec);
        let objects = std::mem::take(&mut exec.objects);
        let last = exec.last.take().filter(|_| !objects.is_empty());
        match last.as_ref().and_then(|last| Some((last, last.session.upgrade()?))) {
            // If it cannot be posted, the session is gone, its work with it, and the objects end here.
            Some((last, session)) if last.stream_lives() => {
                let _ = session.launch_host_function(last.stream, Box::new(move |_| drop(objects)));
                Ok(())
            }
            Some((_, session)) => session.cuCtxSynchronize(),
            None => Ok(()),
        }
    }

    /// Posts it to the stream.
    pub(crate) fn launch(&mut self, target: &Resolved) -> CuResult<()> {
        target.session.check()?;
        let mut memory = Vec::new();
        self.plan.memory(&mut memory);
        if self.flags & AUTO_FREE != 0 {
            // What the last launch left allocated is freed by this one.
            memory.iter().filter(|memory| memory.is_live()).try_for_each(|memory| memory.free())?;
        } else if memory.iter().any(|memory| memory.is_live()) {
            return Err(CuError::INVALID_VALUE);
        }
        self.come_after_the_last(target)?;
        self.last = Some(Launched {
            session: Arc::downgrade(&target.session),
            ordinal: target.device.ordinal,
            stream: target.stream,
        });
        self.plan.run(target)
    }

    /// CUDA Runtime API, cudaGraphLaunch: each launch is ordered behind the previous one of the same graph.
    fn come_after_the_last(&self, target: &Resolved) -> CuResult<()> {
        let Some(last) = &self.last else { return Ok(()) };
        let Some(session) = last.session.upgrade() else { return Ok(()) };
        let here = Arc::ptr_eq(&session, &target.session);
        if here && last.stream == target.stream {
            return Ok(());
        }
        if !last.stream_lives() {
            return session.cuCtxSynchronize();
        }
        // Without timing.
        let event = session.cuEventCreate(2)?;
        session.cuEventRecord(event, last.stream)?;
        let waited = if here {
            target.session.cuStreamWaitEvent(target.stream, event, 0)
        } else {
            target.session.wait_for_other_device(target.stream, &session, event)
        };
        session.cuEventDestroy(event)?;
        waited
    }

    /// The step of a node, also inside child graphs.
    pub(crate) fn step(&mut self, node: u64) -> CuResult<&mut Step> {
        self.plan.step(node).ok_or(CuError::INVALID_VALUE)
    }

    /// Gives a node other work of the same kind.
    pub(crate) fn set_work(&mut self, node: u64, work: Work) -> CuResult<()> {
        let step = self.step(node)?;
        if step.work.kind() != work.kind() || work.memory().is_some() {
            return Err(CuError::INVALID_VALUE);
        }
        step.work = work;
        Ok(())
    }

    /// Takes the parameters of a graph that looks the same: its plan, and what is tied to it.
    ///
    /// Plans are made under the lock of the store, which must not be held here: a launch holds this graph and may ask
    /// for the store.
    pub(crate) fn update(&mut self, new: Plan, objects: Vec<Arc<UserObject>>) -> Result<(), Difference> {
        self.plan.differs(&new).map_or(Ok(()), Err)?;
        self.plan.take(new);
        // The objects of the former graph stay as well: launches under way may still use them.
        for object in objects {
            if !self.objects.iter().any(|kept| Arc::ptr_eq(kept, &object)) {
                self.objects.push(object);
            }
        }
        Ok(())
    }
}

impl Step {
    /// Runs what the value of a conditional node chooses.
    fn choose(&self, choice: &Choice, target: &Resolved) -> CuResult<()> {
        loop {
            let value = choice.condition.value(target)?;
            let Some(body) = choice.kind.chosen(value, self.bodies.len()) else { return Ok(()) };
            self.bodies[body].run(target)?;
            if choice.kind != Kind::While {
                return Ok(());
            }
        }
    }
}

impl Launched {
    /// Whether work can still be put behind the launch: not in a stream that was destroyed since, nor in a thread's
    /// own, which this table does not know. Then the context is waited for, which is rare.
    fn stream_lives(&self) -> bool {
        self.stream.is_null()
            || STREAMS.any(|stream| stream.name == self.stream && stream.ordinal == self.ordinal)
    }
}

impl Plan {
    /// Orders a graph; `INVALID_VALUE` for one with a cycle.
    pub(crate) fn new(store: &Store, graph: u64) -> CuResult<Plan> {
        let found = store.graph(graph)?;
        let nodes = &found.nodes;
        let places: HashMap<u64, usize> =
            nodes.keys().enumerate().map(|(place, node)| (*node, place)).collect();
        let mut steps = Vec::with_capacity(nodes.len());
        for (handle, node) in nodes {
            let mut after: Vec<usize> = node.after.iter().map(|before| places[before]).collect();
            after.sort_unstable();
            let child = match node.work {
                Work::Child(child) => Some(Plan::new(store, child)?),
                _ => None,
            };
            let bodies = match &node.work {
                Work::Choose(choice) => {
                    choice.bodies.iter().map(|body| Plan::of_body(store, *body)).collect::<CuResult<_>>()?
                }
                _ => Vec::new(),
            };
            steps.push(Step { node: *handle, after, work: node.work.clone(), child, bodies, enabled: true });
        }
        let order = order(&steps).ok_or(CuError::INVALID_VALUE)?;
        Ok(Plan { steps, order, conditions: found.conditions.clone() })
    }

    /// The plan of a graph that a conditional node owns, in which only some kinds may be.
    fn of_body(store: &Store, graph: u64) -> CuResult<Plan> {
        let plan = Plan::new(store, graph)?;
        plan.check_body().map(|()| plan)
    }

    /// CUDA Runtime API, cudaConditionalNodeParams: kernels, copies, sets, empty, child graph and conditional nodes.
    fn check_body(&self) -> CuResult<()> {
        self.steps.iter().try_for_each(|step| match step.work.kind() {
            0..=2 | 4 | 5 | 13 => step.child.as_ref().map_or(Ok(()), Plan::check_body),
            kind => {
                crate::log::warn(format_args!(
                    "a conditional node's graph has a node of kind {kind}, which none may"
                ));
                Err(CuError::INVALID_VALUE)
            }
        })
    }

    fn run(&self, target: &Resolved) -> CuResult<()> {
        self.conditions.iter().try_for_each(|condition| condition.assign(target))?;
        self.in_order().filter(|step| step.enabled).try_for_each(|step| match (&step.child, &step.work) {
            (Some(child), _) => child.run(target),
            (None, Work::Choose(choice)) => step.choose(choice, target),
            (None, work) => work.run(target),
        })
    }

    /// The steps, each behind those that it depends on.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Step> {
        self.order.iter().map(|place| &self.steps[*place])
    }

    fn step(&mut self, node: u64) -> Option<&mut Step> {
        for step in &mut self.steps {
            if step.node == node {
                return Some(step);
            }
            let mut inside = step.child.iter_mut().chain(&mut step.bodies);
            if let Some(found) = inside.find_map(|plan| plan.step(node)) {
                return Some(found);
            }
        }
        None
    }

    /// Takes the values of its conditional nodes.
    fn claim(&self, token: &Arc<()>) -> CuResult<()> {
        self.steps.iter().try_for_each(|step| {
            if let Work::Choose(choice) = &step.work {
                choice.condition.claim(token)?;
            }
            step.child.iter().chain(&step.bodies).try_for_each(|plan| plan.claim(token))
        })
    }

    /// The memory that running it allocates and leaves allocated or frees.
    fn memory(&self, found: &mut Vec<Arc<GraphMemory>>) {
        for step in &self.steps {
            if let Work::Allocate(memory) = &step.work {
                found.push(Arc::clone(memory));
            }
            if let Some(child) = &step.child {
                child.memory(found);
            }
        }
    }

    /// What keeps this plan from becoming `new`. Nodes are paired in order of creation, as CUDA pairs them.
    pub(crate) fn differs(&self, new: &Plan) -> Option<Difference> {
        if self.steps.len() != new.steps.len() {
            return Some(Difference { result: Difference::TOPOLOGY, node: 0 });
        }
        self.steps.iter().zip(&new.steps).find_map(|(old, new)| {
            let node = new.node;
            if old.work.kind() != new.work.kind() {
                return Some(Difference { result: Difference::KIND, node });
            }
            if old.after != new.after {
                return Some(Difference { result: Difference::TOPOLOGY, node });
            }
            if let (Some(old), Some(new)) = (&old.child, &new.child) {
                return old.differs(new);
            }
            if let Some(inside) = old.bodies.iter().zip(&new.bodies).find_map(|(old, new)| old.differs(new)) {
                return Some(inside);
            }
            let result = match (&old.work, &new.work) {
                // A value belongs to its node for good.
                (Work::Choose(old), Work::Choose(new)) if !Arc::ptr_eq(&old.condition, &new.condition) => {
                    Difference::NOT_SUPPORTED
                }
                // CUDA Runtime API, cudaGraphExecUpdate: the owning device of the function cannot change.
                (Work::Kernel(old), Work::Kernel(new)) if old.ordinal != new.ordinal => Difference::FUNCTION,
                (Work::Allocate(old), Work::Allocate(new)) | (Work::Free(old), Work::Free(new))
                    if !Arc::ptr_eq(old, new) =>
                {
                    Difference::NOT_SUPPORTED
                }
                _ => return None,
            };
            Some(Difference { result, node })
        })
    }

    /// Takes the work of a plan that does not differ; nodes keep their names and whether they are enabled.
    pub(crate) fn take(&mut self, new: Plan) {
        for (old, new) in self.steps.iter_mut().zip(new.steps) {
            old.work = new.work;
            match (&mut old.child, new.child) {
                (Some(old), Some(new)) => old.take(new),
                (old, new) => *old = new,
            }
            old.bodies.iter_mut().zip(new.bodies).for_each(|(old, new)| old.take(new));
        }
    }

    /// Makes a graph that does what this plan does; disabled nodes become empty ones.
    pub(crate) fn into_graph(self, store: &mut Store) -> CuResult<u64> {
        let graph = store.create();
        let mut nodes = vec![0; self.steps.len()];
        let order = self.order;
        let mut steps: Vec<Option<Step>> = self.steps.into_iter().map(Some).collect();
        for place in order {
            let Some(step) = steps[place].take() else { continue };
            let after: Vec<u64> = step.after.iter().map(|before| nodes[*before]).collect();
            if !step.bodies.is_empty() {
                // CUDA Runtime API, cudaGraphNodeTypeConditional: such a graph cannot be a child.
                let _ = store.destroy(graph);
                return Err(CuError::NOT_SUPPORTED);
            }
            nodes[place] = match step.child {
                Some(child) => {
                    let child = child.into_graph(store)?;
                    store.add_owned(graph, &after, child)?
                }
                None => store.add(graph, &after, if step.enabled { step.work } else { Work::Empty })?,
            };
        }
        Ok(graph)
    }
}

/// Places so that each step comes behind those it depends on, else in order of creation (Kahn); `None` if some depend
/// on each other in a circle.
fn order(steps: &[Step]) -> Option<Vec<usize>> {
    let mut missing: Vec<usize> = steps.iter().map(|step| step.after.len()).collect();
    let mut dependents = vec![Vec::new(); steps.len()];
    for (place, step) in steps.iter().enumerate() {
        for before in &step.after {
            dependents[*before].push(place);
        }
    }
    let mut ready: BTreeSet<usize> = (0..steps.len()).filter(|place| missing[*place] == 0).collect();
    let mut order = Vec::with_capacity(steps.len());
    while let Some(place) = ready.pop_first() {
        order.push(place);
        for dependent in &dependents[place] {
            missing[*dependent] -= 1;
            if missing[*dependent] == 0 {
                ready.insert(*dependent);
            }
        }
    }
    (order.len() == steps.len()).then_some(order)
}

/// What the program has tied to a graph and to those inside it.
pub(crate) fn objects(store: &Store, graph: u64) -> CuResult<Vec<Arc<UserObject>>> {
    let graph = store.graph(graph)?;
    let mut found: Vec<_> = graph.objects.iter().map(|(object, _)| Arc::clone(object)).collect();
    for node in graph.nodes.values() {
        for inside in node.work.owned() {
            found.extend(objects(store, *inside)?);
        }
    }
    Ok(found)
}

/// The executable graph, which one thread at a time launches or changes.
pub(crate) fn lock(exec: &Mutex<Exec>) -> MutexGuard<'_, Exec> {
    exec.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of event nodes 0.., and an edge for each pair.
    fn graph(store: &mut Store, count: u64, edges: &[(usize, usize)]) -> (u64, Vec<u64>) {
        let graph = store.create();
        let nodes: Vec<u64> =
            (0..count).map(|event| store.add(graph, &[], Work::WaitEvent(event)).unwrap()).collect();
        let edges: Vec<_> = edges.iter().map(|(from, to)| (nodes[*from], nodes[*to])).collect();
        store.connect(graph, &edges).unwrap();
        (graph, nodes)
    }

    #[test]
    fn every_node_comes_behind_its_dependencies_else_in_order_of_creation() {
        let mut store = Store::default();
        let (graph, nodes) = graph(&mut store, 5, &[(4, 0), (0, 2), (3, 2), (4, 3)]);
        let plan = Plan::new(&store, graph).unwrap();
        let order: Vec<u64> = plan.in_order().map(|step| step.node).collect();
        assert_eq!(order, [1, 4, 0, 3, 2].map(|place: usize| nodes[place]));
    }

    #[test]
    fn a_cycle_is_refused_at_any_depth() {
        let mut store = Store::default();
        let (circle, _) = graph(&mut store, 3, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(Plan::new(&store, circle).err(), Some(CuError::INVALID_VALUE));
        let (outer, _) = graph(&mut store, 1, &[]);
        store.add_child(outer, &[], circle).unwrap();
        assert!(Exec::instantiate(&store, outer, 0).is_err());
    }

    #[test]
    fn the_graphs_of_a_conditional_node_hold_only_what_they_may() {
        let mut store = Store::default();
        let outer = store.create();
        store.graph_mut(outer).unwrap().conditions.push(Condition::of_no_device(7));
        let (node, bodies) = store.add_choice(outer, &[], 7, Kind::Switch, 2).unwrap();
        let allowed = store.add(bodies[1], &[], Work::Empty).unwrap();
        let mut plan = Plan::new(&store, outer).unwrap();
        assert!(plan.step(allowed).is_some() && plan.step(node).is_some(), "nodes inside are found");
        assert!(plan.clone().into_graph(&mut store).is_err(), "it cannot be a child");
        assert_eq!(plan.differs(&Plan::new(&store, outer).unwrap()), None);
        let exec = Exec::instantiate(&store, outer, 0).unwrap();
        assert_eq!(Exec::instantiate(&store, outer, 0), Err(CuError::INVALID_VALUE), "one at a time");
        Exec::destroy(exec).unwrap();
        assert!(Exec::instantiate(&store, outer, 0).is_ok());
        store.add(bodies[1], &[], Work::WaitEvent(5)).unwrap();
        assert_eq!(Plan::new(&store, outer).err(), Some(CuError::INVALID_VALUE));
    }

    #[test]
    fn an_update_takes_parameters_and_refuses_another_shape() {
        let mut store = Store::default();
        let edges = [(0, 1), (1, 2)];
        let (first, nodes) = graph(&mut store, 3, &edges);
        let exec = Exec::find(Exec::instantiate(&store, first, 0).unwrap()).unwrap();
        let mut exec = lock(&exec);
        let (same, new) = graph(&mut store, 3, &edges);
        store.node_mut(new[1]).unwrap().work = Work::WaitEvent(77);
        exec.step(nodes[2]).unwrap().enabled = false;
        let update =
            |exec: &mut Exec, store: &Store, graph| exec.update(Plan::new(store, graph).unwrap(), Vec::new());
        assert_eq!(update(&mut exec, &store, same), Ok(()));
        assert!(matches!(exec.step(nodes[1]).unwrap().work, Work::WaitEvent(77)));
        assert!(!exec.step(nodes[2]).unwrap().enabled, "stays disabled");

        let (more, _) = graph(&mut store, 4, &edges);
        let (other, wrong) = graph(&mut store, 3, &[(0, 1), (0, 2)]);
        let (kind, changed) = graph(&mut store, 3, &edges);
        store.node_mut(changed[0]).unwrap().work = Work::Empty;
        for (graph, result, node) in [
            (more, Difference::TOPOLOGY, 0),
            (other, Difference::TOPOLOGY, wrong[2]),
            (kind, Difference::KIND, changed[0]),
        ] {
            assert_eq!(update(&mut exec, &store, graph), Err(Difference { result, node }));
        }
        assert!(
            matches!(exec.step(nodes[1]).unwrap().work, Work::WaitEvent(77)),
            "a refusal changes nothing"
        );
        assert_eq!(exec.set_work(nodes[0], Work::Empty), Err(CuError::INVALID_VALUE));
        assert!(exec.set_work(nodes[0], Work::WaitEvent(5)).is_ok());
    }

    #[test]
    fn a_plan_becomes_a_graph_again() {
        let mut store = Store::default();
        let (inner, _) = graph(&mut store, 2, &[(1, 0)]);
        let (outer, nodes) = graph(&mut store, 2, &[(1, 0)]);
        store.add_child(outer, &[nodes[0]], inner).unwrap();
        let plan = Plan::new(&store, outer).unwrap();
        let copy = plan.clone().into_graph(&mut store).unwrap();
        let again = Plan::new(&store, copy).unwrap();
        let kinds = |plan: &Plan| plan.in_order().map(|step| step.work.kind()).collect::<Vec<_>>();
        assert_eq!(kinds(&plan), kinds(&again));
        assert_eq!(store.graph(copy).unwrap().edges().len(), 2);
    }
}
