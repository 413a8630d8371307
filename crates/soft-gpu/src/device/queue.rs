//! Streams, events and gates: who runs what after what.
//!
//! Every stream is a queue of operations with a thread of its own, started with its first operation. An operation
//! runs when those before it in its stream are done and, for the legacy default stream, those of all blocking streams
//! (CUDA Driver API, "Stream synchronization behavior"): what it must wait for is written down when it is submitted,
//! as a position in another stream. Short operations of an idle stream run on the submitting thread.
//!
//! When a kernel faults, the context is broken: everything queued is dropped, but callbacks still run, with the
//! error, and nobody waits any more.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cuda_types::{CUevent, CUstream, CuError, CuResult};
use proto::device::Callback;

use super::value::Awaited;

/// What a stream does.
pub(crate) enum Operation {
    /// Work that can fail; a sticky failure breaks the context.
    Work(Box<dyn FnOnce() -> CuResult<()> + Send>),
    /// Takes the time for an event.
    Stamp(Arc<AtomicU64>),
    /// Told the context's error, if it has one.
    Callback(Callback),
    /// Waits until a gate is open.
    Gate(u64),
    /// Waits until a word of device memory meets a condition.
    Value(Awaited),
    /// Only waits for its dependencies.
    Nothing,
}

/// All streams of a device.
pub(crate) struct Queues {
    state: Mutex<State>,
    changed: Condvar,
    epoch: Instant,
}

struct State {
    streams: HashMap<u64, Stream>,
    events: HashMap<u64, Event>,
    gates: HashMap<u64, bool>,
    next: u64,
    broken: Option<CuError>,
    /// Threads end when the device is dropped.
    closed: bool,
}

struct Stream {
    pending: VecDeque<Pending>,
    given: u64,
    done: u64,
    /// Whether it synchronizes with the legacy default stream.
    blocking: bool,
    has_thread: bool,
    /// An operation is running.
    running: bool,
    destroyed: bool,
}

struct Pending {
    operation: Operation,
    after: Vec<(u64, u64)>,
}

#[derive(Clone, Default)]
struct Event {
    /// Stream and position of the last recording.
    recorded: Option<(u64, u64)>,
    /// Nanoseconds since the device's start, once recorded and reached.
    time: Arc<AtomicU64>,
    timing: bool,
}

/// The legacy default stream's key.
const LEGACY: u64 = 1;
/// How often a stream looks at a word that it waits for: kernels and other streams write it without telling.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// `CU_STREAM_NON_BLOCKING`, `CU_EVENT_DISABLE_TIMING`.
const NON_BLOCKING: u32 = 1;
const DISABLE_TIMING: u32 = 2;

fn key(stream: CUstream) -> u64 {
    stream.0.max(LEGACY)
}

impl State {
    fn stream(&self, stream: CUstream) -> CuResult<&Stream> {
        self.streams.get(&key(stream)).filter(|stream| !stream.destroyed).ok_or(CuError::INVALID_HANDLE)
    }

    fn reached(&self, (stream, position): (u64, u64)) -> bool {
        self.streams.get(&stream).is_none_or(|stream| stream.done >= position)
    }

    /// Whether the first operation of a stream may run now.
    fn is_ready(&self, id: u64) -> bool {
        let Some(stream) = self.streams.get(&id) else { return false };
        let Some(first) = stream.pending.front() else { return false };
        if stream.running {
            return false;
        }
        if self.broken.is_some() {
            return true;
        }
        let open = match &first.operation {
            Operation::Gate(gate) => self.gates.get(gate).copied().unwrap_or(true),
            _ => true,
        };
        if !open || !first.after.iter().all(|position| self.reached(*position)) {
            return false;
        }
        if let Operation::Value(awaited) = &first.operation { awaited.is_met() } else { true }
    }

    /// Whether a stream waits for a word, of whose change nobody tells.
    fn must_look(&self, id: u64) -> bool {
        let first = self.streams.get(&id).and_then(|stream| stream.pending.front());
        first.is_some_and(|first| matches!(first.operation, Operation::Value(_)))
    }

    fn is_idle(&self) -> bool {
        self.streams.values().all(|stream| stream.done == stream.given)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Queues {
    pub(crate) fn new() -> Arc<Queues> {
        let mut state = State {
            streams: HashMap::new(),
            events: HashMap::new(),
            gates: HashMap::new(),
            next: 0x1000,
            broken: None,
            closed: false,
        };
        state.streams.insert(LEGACY, Stream::new(true));
        Arc::new(Queues { state: Mutex::new(state), changed: Condvar::new(), epoch: Instant::now() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context's error, if it is broken.
    pub(crate) fn check(&self) -> CuResult<()> {
        self.lock().broken.map_or(Ok(()), Err)
    }

    pub(crate) fn create_stream(&self, flags: u32) -> CuResult<CUstream> {
        let mut state = self.lock();
        state.broken.map_or(Ok(()), Err)?;
        let id = state.number();
        state.streams.insert(id, Stream::new(flags & NON_BLOCKING == 0));
        Ok(CUstream(id))
    }

    pub(crate) fn destroy_stream(&self, stream: CUstream) -> CuResult<()> {
        let mut state = self.lock();
        state.stream(stream)?;
        if key(stream) == LEGACY {
            return Err(CuError::INVALID_HANDLE);
        }
        let entry = state.streams.get_mut(&stream.0).expect("looked up just now");
        entry.destroyed = true;
        if entry.done == entry.given && !entry.has_thread {
            state.streams.remove(&stream.0);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Gives a stream something to do. `short` operations of an idle stream run at once, on this thread.
    pub(crate) fn submit(
        self: &Arc<Self>,
        stream: CUstream,
        operation: Operation,
        short: bool,
    ) -> CuResult<()> {
        self.submit_after(stream, operation, Vec::new(), short).map(drop)
    }

    fn submit_after(
        self: &Arc<Self>,
        stream: CUstream,
        operation: Operation,
        mut after: Vec<(u64, u64)>,
        short: bool,
    ) -> CuResult<(u64, u64)> {
        let mut state = self.lock();
        state.broken.map_or(Ok(()), Err)?;
        let blocking = state.stream(stream)?.blocking;
        let id = key(stream);
        if id == LEGACY {
            let others = state.streams.iter().filter(|(other, entry)| **other != LEGACY && entry.blocking);
            after.extend(
                others
                    .filter(|(_, entry)| entry.done < entry.given)
                    .map(|(other, entry)| (*other, entry.given)),
            );
        } else if blocking {
            after.push((LEGACY, state.streams[&LEGACY].given));
        }
        after.retain(|position| !state.reached(*position));
        let entry = state.streams.get_mut(&id).expect("looked up just now");
        entry.given += 1;
        let position = (id, entry.given);
        entry.pending.push_back(Pending { operation, after });
        if short && entry.pending.len() == 1 && state.is_ready(id) {
            drop(self.run_first(state, id));
            return Ok(position);
        }
        let entry = state.streams.get_mut(&id).expect("looked up just now");
        if !entry.has_thread {
            entry.has_thread = true;
            let queues = Arc::clone(self);
            let started =
                std::thread::Builder::new().name("vgpu-stream".into()).spawn(move || queues.run_stream(id));
            if started.is_err() {
                let entry = state.streams.get_mut(&id).expect("looked up just now");
                entry.has_thread = false;
                entry.pending.pop_back();
                entry.given -= 1;
                return Err(CuError::OUT_OF_MEMORY);
            }
        }
        drop(state);
        self.changed.notify_all();
        Ok(position)
    }

    /// A stream's thread.
    fn run_stream(&self, id: u64) {
        let mut state = self.lock();
        loop {
            if state.closed {
                return;
            }
            if state.is_ready(id) {
                state = self.run_first(state, id);
                continue;
            }
            let over =
                state.streams.get(&id).is_none_or(|stream| stream.destroyed && stream.pending.is_empty());
            if over {
                state.streams.remove(&id);
                return;
            }
            state = if state.must_look(id) {
                let waited = self.changed.wait_timeout(state, LOOK_EVERY);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Runs the first operation of a stream, without the lock.
    fn run_first<'a>(&'a self, mut state: MutexGuard<'a, State>, id: u64) -> MutexGuard<'a, State> {
        let broken = state.broken;
        let stream = state.streams.get_mut(&id).expect("ready streams exist");
        let first = stream.pending.pop_front().expect("ready streams have work");
        stream.running = true;
        drop(state);
        let outcome = match first.operation {
            Operation::Work(work) if broken.is_none() => work(),
            Operation::Stamp(time) => {
                let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
                time.store(now.max(1), Ordering::Release);
                Ok(())
            }
            Operation::Callback(callback) => {
                callback(broken.map_or(Ok(()), Err));
                Ok(())
            }
            Operation::Work(_) | Operation::Gate(_) | Operation::Value(_) | Operation::Nothing => Ok(()),
        };
        let mut state = self.lock();
        if let Err(error) = outcome {
            // Work that is in the queue has been checked: whatever fails now has broken the context.
            let error = if error.is_sticky() { error } else { CuError::LAUNCH_FAILED };
            state.broken.get_or_insert(error);
        }
        let stream = state.streams.get_mut(&id).expect("running streams stay");
        stream.running = false;
        stream.done += 1;
        self.changed.notify_all();
        state
    }

    fn wait_until(&self, done: impl Fn(&State) -> bool) -> CuResult<()> {
        let mut state = self.lock();
        loop {
            if let Some(error) = state.broken {
                return Err(error);
            }
            if done(&state) {
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for all streams, or for the error that breaks the context.
    pub(crate) fn synchronize(&self) -> CuResult<()> {
        self.wait_until(State::is_idle)
    }

    /// The position that a wait for everything in `stream` so far means. The legacy stream's work includes that of
    /// the blocking streams.
    fn positions(state: &State, stream: CUstream) -> CuResult<Vec<(u64, u64)>> {
        let own = state.stream(stream)?;
        if key(stream) != LEGACY {
            return Ok(vec![(stream.0, own.given)]);
        }
        Ok(state
            .streams
            .iter()
            .filter(|(_, entry)| entry.blocking)
            .map(|(id, entry)| (*id, entry.given))
            .collect())
    }

    pub(crate) fn synchronize_stream(&self, stream: CUstream) -> CuResult<()> {
        let positions = Queues::positions(&self.lock(), stream)?;
        self.wait_until(|state| positions.iter().all(|position| state.reached(*position)))
    }

    pub(crate) fn query_stream(&self, stream: CUstream) -> CuResult<()> {
        let state = self.lock();
        state.broken.map_or(Ok(()), Err)?;
        let done = Queues::positions(&state, stream)?.iter().all(|position| state.reached(*position));
        done.then_some(()).ok_or(CuError::NOT_READY)
    }

    pub(crate) fn create_event(&self, flags: u32) -> CuResult<CUevent> {
        let mut state = self.lock();
        state.broken.map_or(Ok(()), Err)?;
        let id = state.number();
        state.events.insert(id, Event { timing: flags & DISABLE_TIMING == 0, ..Event::default() });
        Ok(CUevent(id))
    }

    pub(crate) fn destroy_event(&self, event: CUevent) -> CuResult<()> {
        self.lock().events.remove(&event.0).map(drop).ok_or(CuError::INVALID_HANDLE)
    }

    fn event(&self, event: CUevent) -> CuResult<Event> {
        self.lock().events.get(&event.0).cloned().ok_or(CuError::INVALID_HANDLE)
    }

    pub(crate) fn record(self: &Arc<Self>, event: CUevent, stream: CUstream) -> CuResult<()> {
        self.event(event)?;
        let time = Arc::new(AtomicU64::new(0));
        let position = self.submit_after(stream, Operation::Stamp(Arc::clone(&time)), Vec::new(), true)?;
        let mut state = self.lock();
        let entry = state.events.get_mut(&event.0).ok_or(CuError::INVALID_HANDLE)?;
        (entry.recorded, entry.time) = (Some(position), time);
        Ok(())
    }

    pub(crate) fn wait_event(self: &Arc<Self>, stream: CUstream, event: CUevent) -> CuResult<()> {
        match self.event(event)?.recorded {
            Some(position) => self.submit_after(stream, Operation::Nothing, vec![position], true).map(drop),
            None => Ok(()),
        }
    }

    pub(crate) fn synchronize_event(&self, event: CUevent) -> CuResult<()> {
        let recorded = self.event(event)?.recorded;
        self.wait_until(|state| recorded.is_none_or(|position| state.reached(position)))
    }

    pub(crate) fn query_event(&self, event: CUevent) -> CuResult<()> {
        let recorded = self.event(event)?.recorded;
        let state = self.lock();
        state.broken.map_or(Ok(()), Err)?;
        recorded.is_none_or(|position| state.reached(position)).then_some(()).ok_or(CuError::NOT_READY)
    }

    /// Milliseconds between two recordings.
    pub(crate) fn elapsed(&self, start: CUevent, end: CUevent) -> CuResult<f32> {
        self.check()?;
        let (start, end) = (self.event(start)?, self.event(end)?);
        if !start.timing || !end.timing || start.recorded.is_none() || end.recorded.is_none() {
            return Err(CuError::INVALID_HANDLE);
        }
        match (start.time.load(Ordering::Acquire), end.time.load(Ordering::Acquire)) {
            (0, _) | (_, 0) => Err(CuError::NOT_READY),
            #[allow(clippy::cast_possible_truncation, reason = "CUDA answers a float of milliseconds")]
            (from, to) => Ok((to as f64 - from as f64) as f32 / 1e6),
        }
    }

    pub(crate) fn create_gate(&self) -> u64 {
        let mut state = self.lock();
        let gate = state.number();
        state.gates.insert(gate, false);
        gate
    }

    pub(crate) fn open_gate(&self, gate: u64) -> CuResult<()> {
        let opened = self.lock().gates.get_mut(&gate).map(|open| *open = true);
        self.changed.notify_all();
        opened.ok_or(CuError::INVALID_HANDLE)
    }

    pub(crate) fn destroy_gate(&self, gate: u64) {
        self.lock().gates.remove(&gate);
    }

    /// Ends the streams' threads.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl Stream {
    fn new(blocking: bool) -> Stream {
        Stream {
            pending: VecDeque::new(),
            given: 0,
            done: 0,
            blocking,
            has_thread: false,
            running: false,
            destroyed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Work that says its name when it is let go.
    fn held(name: &'static str, log: &Sender<&'static str>, go: Receiver<()>) -> Operation {
        let log = log.clone();
        Operation::Work(Box::new(move || {
            go.recv().expect("the test lets it go");
            log.send(name).expect("the test listens");
            Ok(())
        }))
    }

    fn said(name: &'static str, log: &Sender<&'static str>) -> Operation {
        let log = log.clone();
        Operation::Work(Box::new(move || {
            log.send(name).expect("the test listens");
            Ok(())
        }))
    }

    #[test]
    fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
        let queues = Queues::new();
        let (log, heard) = channel();
        let (blocking, free) =
            (queues.create_stream(0).expect("made"), queues.create_stream(1).expect("made"));
        let (go, gate) = channel();
        queues.submit(blocking, held("first", &log, gate), false).expect("given");
        queues.submit(CUstream::NULL, said("legacy", &log), false).expect("given");
        queues.submit(blocking, said("after", &log), false).expect("given");
        queues.submit(free, said("free", &log), false).expect("given");
        assert_eq!(heard.recv(), Ok("free"), "a non-blocking stream waits for nobody");
        assert_eq!(queues.query_stream(CUstream::LEGACY), Err(CuError::NOT_READY));
        go.send(()).expect("it waits");
        assert_eq!([heard.recv(), heard.recv(), heard.recv()], [Ok("first"), Ok("legacy"), Ok("after")]);
        queues.synchronize().expect("no faults");
        queues.close();
    }

    #[test]
    fn an_event_orders_streams_that_know_nothing_of_each_other() {
        let queues = Queues::new();
        let (log, heard) = channel();
        let (a, b) = (queues.create_stream(1).expect("made"), queues.create_stream(1).expect("made"));
        let event = queues.create_event(0).expect("made");
        let (go, gate) = channel();
        queues.submit(a, held("a", &log, gate), false).expect("given");
        queues.record(event, a).expect("recorded");
        queues.wait_event(b, event).expect("given");
        queues.submit(b, said("b", &log), true).expect("given");
        assert_eq!(queues.query_event(event), Err(CuError::NOT_READY));
        go.send(()).expect("it waits");
        assert_eq!([heard.recv(), heard.recv()], [Ok("a"), Ok("b")]);
        queues.synchronize_event(event).expect("no faults");
        queues.close();
    }

    #[test]
    fn a_fault_breaks_the_context_and_callbacks_are_told() {
        let queues = Queues::new();
        let (log, heard) = channel();
        let gate = queues.create_gate();
        let stream = queues.create_stream(1).expect("made");
        queues.submit(stream, Operation::Gate(gate), false).expect("given");
        let told = Box::new(move |result| log.send(result).expect("the test listens"));
        queues.submit(stream, Operation::Callback(told), false).expect("given");
        queues
            .submit(CUstream::NULL, Operation::Work(Box::new(|| Err(CuError::ILLEGAL_ADDRESS))), false)
            .expect("given");
        assert_eq!(heard.recv(), Ok(Err(CuError::ILLEGAL_ADDRESS)), "though its gate stays closed");
        assert_eq!(queues.synchronize(), Err(CuError::ILLEGAL_ADDRESS));
        assert_eq!(queues.submit(stream, Operation::Nothing, true), Err(CuError::ILLEGAL_ADDRESS));
        queues.close();
    }

    #[test]
    fn times_are_taken_when_the_stream_arrives() {
        let queues = Queues::new();
        let (start, end) = (queues.create_event(0).expect("made"), queues.create_event(0).expect("made"));
        assert_eq!(queues.elapsed(start, end), Err(CuError::INVALID_HANDLE), "never recorded");
        queues.record(start, CUstream::NULL).expect("recorded");
        let (go, gate) = channel();
        let (log, _heard) = channel();
        queues.submit(CUstream::NULL, held("x", &log, gate), false).expect("given");
        queues.record(end, CUstream::NULL).expect("recorded");
        assert_eq!(queues.elapsed(start, end), Err(CuError::NOT_READY));
        go.send(()).expect("it waits");
        queues.synchronize().expect("no faults");
        assert!(queues.elapsed(start, end).expect("both are there") > 0.0);
        let plain = queues.create_event(2).expect("made");
        queues.record(plain, CUstream::NULL).expect("recorded");
        assert_eq!(queues.elapsed(start, plain), Err(CuError::INVALID_HANDLE), "made without timing");
        queues.close();
    }
}
