//! Which streams and events belong to which capture.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::thread::ThreadId;

use cuda_types::{CuError, CuResult};

use super::{
    ACTIVE, CAPTURED_EVENT, GLOBAL, IMPLICIT, INVALIDATED, ISOLATION, Key, MERGE, RELAXED, UNJOINED,
    UNMATCHED, WRONG_THREAD,
};
use crate::graph::store::{self, Graph, Store};
use crate::graph::work::Work;

/// All captures; part of the store.
#[derive(Default)]
pub(crate) struct Captures {
    all: HashMap<u64, Capture>,
    streams: HashMap<Key, Member>,
    events: HashMap<u64, Recorded>,
}

struct Capture {
    graph: u64,
    /// Whether the capture made the graph, which is then gone when the capture fails.
    made_graph: bool,
    mode: u32,
    thread: ThreadId,
    origin: Key,
    invalid: bool,
}

/// A stream that belongs to a capture.
pub(crate) struct Member {
    pub(crate) capture: u64,
    pub(crate) tail: Vec<u64>,
    /// As many default edges as `tail` has nodes: what `cudaStreamGetCaptureInfo` points to.
    pub(crate) edges: Vec<[u8; 8]>,
    /// Whether it synchronizes with the legacy default stream.
    blocking: bool,
}

/// An event whose last recording is in a capture.
struct Recorded {
    capture: u64,
    nodes: Vec<u64>,
}

/// What `cudaStreamGetCaptureInfo` answers for a capturing stream.
pub(crate) struct Info<'a> {
    pub(crate) id: u64,
    pub(crate) invalid: bool,
    pub(crate) graph: u64,
    pub(crate) member: &'a Member,
}

impl Store {
    /// Begins a capture into `graph` behind `tail`, or into a new graph; `key` is not the legacy stream.
    pub(crate) fn begin(
        &mut self,
        key: Key,
        blocking: bool,
        mode: u32,
        into: Option<(u64, Vec<u64>)>,
    ) -> CuResult<()> {
        if mode > RELAXED {
            return Err(CuError::INVALID_VALUE);
        }
        if key.1 == 0 {
            return Err(CuError::STREAM_CAPTURE_UNSUPPORTED);
        }
        if self.captures.streams.contains_key(&key) {
            return Err(CuError::ILLEGAL_STATE);
        }
        let made_graph = into.is_none();
        let (graph, tail) = match into {
            Some((graph, tail)) => {
                let nodes = &self.graph(graph)?.nodes;
                if !tail.iter().all(|node| nodes.contains_key(node)) {
                    return Err(CuError::INVALID_VALUE);
                }
                (graph, tail)
            }
            None => (self.create(), Vec::new()),
        };
        let id = store::new_handle();
        let thread = std::thread::current().id();
        let capture = Capture { graph, made_graph, mode, thread, origin: key, invalid: false };
        self.captures.all.insert(id, capture);
        self.captures.streams.insert(key, Member { capture: id, tail, edges: Vec::new(), blocking });
        ACTIVE.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Adds a node to the capture of a stream.
    pub(crate) fn append(&mut self, key: Key, work: Work) -> CuResult<u64> {
        if !self.captures.takes(key)? {
            return Err(CuError::ILLEGAL_STATE);
        }
        let (graph, tail) = self.captures.place(key).ok_or(CuError::ILLEGAL_STATE)?;
        let node = match work {
            Work::Child(child) => self.add_owned(graph, &tail, child)?,
            other => self.add(graph, &tail, other)?,
        };
        if let Some(member) = self.captures.streams.get_mut(&key) {
            member.tail = vec![node];
        }
        Ok(node)
    }

    /// Whether the stream is captured into a graph that the program made itself.
    pub(crate) fn captures_into_own_graph(&self, key: Key) -> bool {
        let member = self.captures.streams.get(&key);
        member
            .and_then(|member| self.captures.all.get(&member.capture))
            .is_some_and(|capture| !capture.made_graph)
    }

    /// Ends the capture of a stream; its graph, or why there is none. What is gone is dropped outside the lock.
    pub(crate) fn end(&mut self, key: Key, gone: &mut Vec<Graph>) -> CuResult<u64> {
        let member = self.captures.streams.get(&key).ok_or(CuError::ILLEGAL_STATE)?;
        let (id, tail) = (member.capture, member.tail.clone());
        let capture = self.captures.all.get(&id).ok_or(CuError::ILLEGAL_STATE)?;
        if capture.origin != key {
            self.captures.invalidate(id);
            return Err(UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(WRONG_THREAD);
        }
        let (graph, made_graph, invalid) = (capture.graph, capture.made_graph, capture.invalid);
        let joined = self.graph(graph)?.ancestry(&tail);
        let members = || self.captures.streams.values().filter(|member| member.capture == id);
        let unjoined = members().any(|member| !member.tail.iter().all(|node| joined.contains(node)));
        self.captures.remove(id);
        if invalid || unjoined {
            if made_graph {
                self.remove(graph, gone);
            }
            return Err(if invalid { INVALIDATED } else { UNJOINED });
        }
        Ok(graph)
    }

    /// Adds to or replaces what the next node of a stream comes after.
    pub(crate) fn update_tail(&mut self, key: Key, nodes: &[u64], replace: bool) -> CuResult<()> {
        if !self.captures.takes(key)? {
            return Err(CuError::ILLEGAL_STATE);
        }
        let (graph, _) = self.captures.place(key).ok_or(CuError::ILLEGAL_STATE)?;
        let known = &self.graph(graph)?.nodes;
        if !nodes.iter().all(|node| known.contains_key(node)) {
            return Err(CuError::INVALID_VALUE);
        }
        if let Some(member) = self.captures.streams.get_mut(&key) {
            if replace {
                member.tail.clear();
            }
            member.join(nodes);
        }
        Ok(())
    }

    /// A stream that a capture has spread to stays a member under its name: whether it was joined is judged at the end.
    pub(super) fn forget_stream(&mut self, key: Key) -> Vec<Graph> {
        let mut gone = Vec::new();
        let captures = &self.captures.all;
        let ended = captures.iter().find(|(_, capture)| capture.origin == key);
        if let Some((id, capture)) = ended.map(|(id, capture)| (*id, (capture.graph, capture.made_graph))) {
            self.captures.remove(id);
            if let (graph, true) = capture {
                self.remove(graph, &mut gone);
            }
        }
        gone
    }
}

impl Captures {
    /// Whether calls of a stream become nodes; an error if the capture is invalid, or if the stream is the legacy one
    /// and would have to wait for a capture.
    pub(super) fn takes(&mut self, key: Key) -> CuResult<bool> {
        if key.1 == 0 {
            return self.refuse_legacy(key.0).map(|()| false);
        }
        let Some(member) = self.streams.get(&key) else { return Ok(false) };
        match self.all.get(&member.capture) {
            Some(capture) if capture.invalid => Err(INVALIDATED),
            Some(_) => Ok(true),
            None => Ok(false),
        }
    }

    /// The legacy stream waits for every blocking stream, so it cannot be used while one is captured.
    fn refuse_legacy(&mut self, ordinal: usize) -> CuResult<()> {
        let blocking = |((device, _), member): &(&Key, &Member)| *device == ordinal && member.blocking;
        let ids: Vec<u64> = self.streams.iter().filter(blocking).map(|(_, member)| member.capture).collect();
        if ids.is_empty() {
            return Ok(());
        }
        ids.into_iter().for_each(|id| self.invalidate(id));
        Err(IMPLICIT)
    }

    /// Whether a stream of a device belongs to a capture.
    pub(super) fn is_on(&self, id: u64, ordinal: usize) -> bool {
        self.streams.iter().any(|((device, _), member)| *device == ordinal && member.capture == id)
    }

    /// Whether a call that may break captures is forbidden by one, in a mode of a thread; see `refuse_unsafe`.
    pub(super) fn forbids_unsafe(&self, id: u64, mode: u32, thread: ThreadId) -> bool {
        let Some(capture) = self.all.get(&id) else { return false };
        let own = capture.thread == thread && capture.mode != RELAXED;
        match mode {
            GLOBAL => own || capture.mode == GLOBAL,
            RELAXED => false,
            _ => own,
        }
    }

    /// Refuses an event that was recorded in a capture.
    pub(super) fn refuse_event(&mut self, event: u64) -> CuResult<()> {
        let Some(capture) = self.events.get(&event).map(|recorded| recorded.capture) else { return Ok(()) };
        self.invalidate(capture);
        Err(CAPTURED_EVENT)
    }

    /// The streams of a device that belong to captures.
    pub(super) fn keys(&self, ordinal: usize) -> Vec<Key> {
        self.streams.keys().filter(|(device, _)| *device == ordinal).copied().collect()
    }

    /// Invalidates the captures that forbid a call.
    pub(super) fn refuse(&mut self, forbids: impl Fn(&Captures, u64) -> bool) -> CuResult<()> {
        let ids: Vec<u64> = self.all.keys().filter(|id| forbids(self, **id)).copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        ids.into_iter().for_each(|id| self.invalidate(id));
        Err(CuError::STREAM_CAPTURE_UNSUPPORTED)
    }

    pub(super) fn invalidate(&mut self, id: u64) {
        if let Some(capture) = self.all.get_mut(&id) {
            capture.invalid = true;
        }
    }

    pub(super) fn invalidate_stream(&mut self, key: Key) {
        if let Some(id) = self.streams.get(&key).map(|member| member.capture) {
            self.invalidate(id);
        }
    }

    /// The graph of a stream's capture and the stream's tail.
    fn place(&self, key: Key) -> Option<(u64, Vec<u64>)> {
        let member = self.streams.get(&key)?;
        Some((self.all.get(&member.capture)?.graph, member.tail.clone()))
    }

    /// Whether a capture under way adds to a graph.
    pub(crate) fn uses(&self, graph: u64) -> bool {
        self.all.values().any(|capture| capture.graph == graph)
    }

    /// What is known about a stream; `IMPLICIT` for the legacy stream that cannot be asked.
    pub(crate) fn info(&mut self, key: Key) -> CuResult<Option<Info<'_>>> {
        if key.1 == 0 {
            let asked = self.streams.iter().any(|((device, _), member)| *device == key.0 && member.blocking);
            // CUDA Runtime API, cudaStreamIsCapturing: asking does not invalidate the capture.
            return if asked { Err(IMPLICIT) } else { Ok(None) };
        }
        let Some(member) = self.streams.get_mut(&key) else { return Ok(None) };
        member.edges = vec![[0; 8]; member.tail.len()];
        let Some(capture) = self.all.get(&member.capture) else { return Ok(None) };
        Ok(Some(Info { id: member.capture, invalid: capture.invalid, graph: capture.graph, member }))
    }

    pub(super) fn record_event(&mut self, key: Key, event: u64) -> CuResult<bool> {
        if !self.takes(key)? {
            self.forget_event(event);
            return Ok(false);
        }
        let Some(member) = self.streams.get(&key) else { return Ok(false) };
        let recorded = Recorded { capture: member.capture, nodes: member.tail.clone() };
        if self.events.insert(event, recorded).is_none() {
            ACTIVE.fetch_add(1, Ordering::AcqRel);
        }
        Ok(true)
    }

    pub(super) fn wait_event(
        &mut self,
        key: Key,
        event: u64,
        was_recorded: bool,
        blocking: bool,
    ) -> CuResult<bool> {
        let recorded = self.events.get(&event).map(|recorded| (recorded.capture, recorded.nodes.clone()));
        let under_way = recorded.as_ref().is_some_and(|(id, _)| self.all.contains_key(id));
        let own = if key.1 == 0 { None } else { self.streams.get(&key).map(|member| member.capture) };
        match (own, recorded) {
            (Some(own), Some((id, nodes))) if own == id => {
                if !self.takes(key)? {
                    return Ok(false);
                }
                if let Some(member) = self.streams.get_mut(&key) {
                    member.join(&nodes);
                }
                Ok(true)
            }
            (Some(own), Some((id, _))) => {
                self.takes(key)?;
                self.invalidate(own);
                self.invalidate(id);
                Err(if under_way { MERGE } else { ISOLATION })
            }
            (Some(own), None) => {
                self.takes(key)?;
                if !was_recorded {
                    return Ok(true);
                }
                self.invalidate(own);
                Err(ISOLATION)
            }
            (None, Some((id, nodes))) if under_way => {
                if self.all.get(&id).is_some_and(|capture| capture.invalid) {
                    return Err(INVALIDATED);
                }
                if key.1 == 0 {
                    self.invalidate(id);
                    return Err(IMPLICIT);
                }
                self.streams.insert(key, Member { capture: id, tail: nodes, edges: Vec::new(), blocking });
                Ok(true)
            }
            // The capture is over: nothing was ever recorded for a stream to wait for.
            (None, Some(_)) => Err(CAPTURED_EVENT),
            (None, None) => self.takes(key),
        }
    }

    pub(super) fn forget_event(&mut self, event: u64) {
        if self.events.remove(&event).is_some() {
            ACTIVE.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn remove(&mut self, id: u64) {
        self.streams.retain(|_, member| member.capture != id);
        if self.all.remove(&id).is_some() {
            ACTIVE.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Member {
    /// The next node comes after `nodes` as well.
    fn join(&mut self, nodes: &[u64]) {
        for node in nodes {
            if !self.tail.contains(node) {
                self.tail.push(*node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Key = (0, 0x100);
    const SECOND: Key = (0, 0x101);
    const LEGACY: Key = (0, 0);
    const EVENT: u64 = 5;

    fn begun(mode: u32) -> Store {
        let mut store = Store::default();
        store.begin(FIRST, true, mode, None).unwrap();
        store
    }

    fn end(store: &mut Store, key: Key) -> CuResult<u64> {
        store.end(key, &mut Vec::new())
    }

    #[test]
    fn a_fork_through_events_that_is_joined_becomes_a_diamond() {
        let mut store = begun(GLOBAL);
        let a = store.append(FIRST, Work::Empty).unwrap();
        assert_eq!(store.captures.record_event(FIRST, EVENT), Ok(true));
        assert_eq!(store.captures.wait_event(SECOND, EVENT, false, false), Ok(true));
        let b = store.append(SECOND, Work::Empty).unwrap();
        let c = store.append(FIRST, Work::Empty).unwrap();
        assert_eq!(store.captures.record_event(SECOND, EVENT), Ok(true));
        assert_eq!(store.captures.wait_event(FIRST, EVENT, false, false), Ok(true));
        let d = store.append(FIRST, Work::Empty).unwrap();
        let graph = end(&mut store, FIRST).unwrap();
        assert_eq!(store.graph(graph).unwrap().edges(), [(a, b), (a, c), (c, d), (b, d)]);
        assert_eq!(store.captures.takes(SECOND), Ok(false), "the capture is over for all its streams");
        assert_eq!(store.captures.wait_event(SECOND, EVENT, false, false), Err(CAPTURED_EVENT));
        store.captures.forget_event(EVENT);
    }

    #[test]
    fn a_fork_that_is_not_joined_is_told_at_the_end_and_leaves_no_graph() {
        let mut store = begun(GLOBAL);
        store.captures.record_event(FIRST, EVENT).unwrap();
        store.captures.wait_event(SECOND, EVENT, false, false).unwrap();
        store.append(SECOND, Work::Empty).unwrap();
        let graph = store.captures.info(FIRST).unwrap().unwrap().graph;
        assert_eq!(end(&mut store, SECOND), Err(UNMATCHED));
        assert_eq!(end(&mut store, FIRST), Err(INVALIDATED), "ending it in the wrong stream has spoilt it");
        assert!(store.graph(graph).is_err());
        store.captures.forget_event(EVENT);

        let mut store = begun(GLOBAL);
        store.captures.record_event(FIRST, EVENT).unwrap();
        store.captures.wait_event(SECOND, EVENT, false, false).unwrap();
        store.append(SECOND, Work::Empty).unwrap();
        assert!(store.forget_stream(SECOND).is_empty());
        assert_eq!(end(&mut store, FIRST), Err(UNJOINED), "also when the stream is destroyed");
        assert_eq!(end(&mut store, FIRST), Err(CuError::ILLEGAL_STATE));
        store.captures.forget_event(EVENT);
    }

    #[test]
    fn what_crosses_the_border_of_a_capture_invalidates_it() {
        let mut store = begun(GLOBAL);
        assert_eq!(store.captures.wait_event(FIRST, EVENT, true, true), Err(ISOLATION));
        assert_eq!(store.append(FIRST, Work::Empty), Err(INVALIDATED));
        assert_eq!(end(&mut store, FIRST), Err(INVALIDATED));

        let mut store = begun(GLOBAL);
        assert_eq!(store.captures.info(LEGACY).err(), Some(IMPLICIT));
        assert_eq!(store.captures.takes(FIRST), Ok(true), "asking has not invalidated it");
        assert_eq!(store.captures.takes(LEGACY), Err(IMPLICIT));
        assert_eq!(end(&mut store, FIRST), Err(INVALIDATED));

        let mut store = begun(GLOBAL);
        store.begin(SECOND, false, GLOBAL, None).unwrap();
        store.captures.record_event(SECOND, EVENT).unwrap();
        assert_eq!(store.captures.wait_event(FIRST, EVENT, false, true), Err(MERGE));
        assert_eq!(end(&mut store, FIRST), Err(INVALIDATED));
        assert_eq!(end(&mut store, SECOND), Err(INVALIDATED));
        store.captures.forget_event(EVENT);
    }

    #[test]
    fn what_may_break_captures_is_judged_by_both_modes_and_the_thread() {
        const THREAD_LOCAL: u32 = 1;
        let here = std::thread::current().id();
        let elsewhere = std::thread::spawn(|| std::thread::current().id()).join().unwrap();
        for (capture_mode, by_mode) in [
            (GLOBAL, [[true, true, false], [true, false, false]]),
            (THREAD_LOCAL, [[true, true, false], [false, false, false]]),
            (RELAXED, [[false; 3]; 2]),
        ] {
            let mut store = begun(capture_mode);
            let id = store.captures.info(FIRST).unwrap().unwrap().id;
            let asked = [here, elsewhere].map(|thread| {
                [GLOBAL, THREAD_LOCAL, RELAXED].map(|mode| store.captures.forbids_unsafe(id, mode, thread))
            });
            assert_eq!(asked, by_mode, "capture mode {capture_mode}");
            end(&mut store, FIRST).unwrap();
        }
    }

    #[test]
    fn only_relaxed_captures_end_in_another_thread() {
        for (mode, expected) in [(GLOBAL, false), (1, false), (RELAXED, true)] {
            let mut store = begun(mode);
            let ended = std::thread::scope(|scope| {
                let store = &mut store;
                scope.spawn(move || end(store, FIRST)).join().unwrap()
            });
            assert_eq!(ended.is_ok(), expected, "mode {mode}: {ended:?}");
            assert!(expected || ended == Err(WRONG_THREAD));
            if !expected {
                end(&mut store, FIRST).unwrap();
            }
        }
    }

    #[test]
    fn beginnings_that_cannot_be() {
        let mut store = begun(GLOBAL);
        assert_eq!(store.begin(FIRST, true, GLOBAL, None), Err(CuError::ILLEGAL_STATE));
        assert_eq!(store.begin(LEGACY, true, GLOBAL, None), Err(CuError::STREAM_CAPTURE_UNSUPPORTED));
        assert_eq!(store.begin(SECOND, true, 3, None), Err(CuError::INVALID_VALUE));
        assert_eq!(store.begin(SECOND, true, 0, Some((1, Vec::new()))), Err(CuError::INVALID_VALUE));
        end(&mut store, FIRST).unwrap();
    }

    #[test]
    fn a_capture_goes_on_behind_the_nodes_that_it_is_told() {
        let mut store = Store::default();
        let graph = store.create();
        let a = store.add(graph, &[], Work::Empty).unwrap();
        store.begin(FIRST, true, RELAXED, Some((graph, vec![a]))).unwrap();
        assert!(store.destroy(graph).is_err(), "a capture adds to it");
        let b = store.append(FIRST, Work::Empty).unwrap();
        let c = store.add(graph, &[], Work::Empty).unwrap();
        store.update_tail(FIRST, &[c], false).unwrap();
        let d = store.append(FIRST, Work::Empty).unwrap();
        store.update_tail(FIRST, &[a], true).unwrap();
        assert!(store.update_tail(FIRST, &[7], true).is_err());
        let e = store.append(FIRST, Work::Empty).unwrap();
        assert_eq!(store.graph(graph).unwrap().edges(), [(a, b), (b, d), (c, d), (a, e)]);
        assert_eq!(end(&mut store, FIRST), Ok(graph));
        assert!(store.destroy(graph).is_ok());
    }
}
