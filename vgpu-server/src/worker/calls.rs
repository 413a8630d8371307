//! The queue between the thread that reads calls and the threads that issue them.
//!
//! Calls are taken out in the order in which they came. One thread at a time has the issuing role; before a call that
//! can wait for the device, it hands the role on, so that one client thread's synchronize does not hold up another
//! client thread's launches.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::Malformed;
use proto::frame::{CallId, Header};
use proto::frames::FrameReader;

use super::usage::Usage;

/// A call that has been read and not yet issued.
pub(crate) struct Call<'a> {
    pub(crate) id: CallId,
    pub(crate) opcode: u16,
    pub(crate) arguments: &'a [u8],
}

/// Calls that change hands together, at most one that can wait, as the last: a lock, a wake-up and memory for each would
/// cost more than the calls do.
#[derive(Default)]
pub(crate) struct Group {
    /// In `frames`, their frames as they came, one behind the other. The rest is of earlier groups: it is not cleared,
    /// because a buffer that is as long as it was need not be filled again.
    buffer: Vec<u8>,
    frames: Range<usize>,
    calls: usize,
    ends: bool,
}

impl Group {
    /// Adds a call's header and, with what `arguments` appends, its arguments.
    pub(crate) fn add<T>(&mut self, header: &Header, arguments: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.buffer.truncate(self.frames.end);
        self.note(header.opcode);
        self.buffer.extend_from_slice(&header.encode());
        let added = arguments(&mut self.buffer);
        self.frames.end = self.buffer.len();
        added
    }

    /// Adds the calls that lie whole in the reader's buffer and satisfy `belongs`, up to the first that can wait; whether
    /// there were any.
    pub(crate) fn add_whole(
        &mut self,
        frames: &mut FrameReader,
        mut belongs: impl FnMut(&Group, &Header) -> bool,
    ) -> bool {
        let before = self.calls;
        let mut buffer = std::mem::take(&mut self.buffer);
        let taken = frames.take_whole(&mut buffer, self.frames.end, |header| {
            let belongs = !self.ends && belongs(self, header);
            if belongs {
                self.note(header.opcode);
            }
            belongs
        });
        self.buffer = buffer;
        self.frames = self.frames.start + taken.start..taken.end;
        self.calls > before
    }

    fn note(&mut self, opcode: u16) {
        self.calls += 1;
        self.ends = may_wait(opcode);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls == 0
    }

    /// Whether the client waits for the last of its calls.
    pub(crate) fn is_awaited(&self) -> bool {
        self.ends
    }

    /// Whether it takes no further call.
    pub(crate) fn is_full(&self) -> bool {
        self.ends || self.calls >= GROUP_CALLS || self.frames.end >= GROUP_BYTES
    }

    /// The calls, in their order.
    pub(crate) fn calls(&self) -> Calls<'_> {
        Calls { rest: &self.buffer[self.frames.clone()] }
    }

    /// Whether it tells how fast calls are issued: it has many, and the client waits for none.
    pub(crate) fn is_posted_and_long(&self) -> bool {
        !self.ends && self.frame_bytes() >= LONG_BYTES
    }

    pub(crate) fn frame_bytes(&self) -> u64 {
        self.frames.len() as u64
    }

    pub(crate) fn clear(&mut self) {
        (self.frames, self.calls, self.ends) = (0..0, 0, false);
    }
}

/// See [`Group::calls`].
pub(crate) struct Calls<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Calls<'a> {
    type Item = Call<'a>;

    // Always inlined: a call that goes through memory in parts and is copied as a whole waits for each of its parts.
    #[inline(always)]
    fn next(&mut self) -> Option<Call<'a>> {
        let (header, behind) = self.rest.split_first_chunk()?;
        let header = Header::fields(header).expect("a header that was read before");
        let (arguments, behind) = behind.split_at(header.length as usize);
        self.rest = behind;
        Some(Call { id: header.call, opcode: header.opcode, arguments })
    }
}

const GROUP_CALLS: usize = 128;
const GROUP_BYTES: usize = 64 * 1024;
/// From how many bytes of frames on a group is long.
const LONG_BYTES: u64 = 8 * 1024;
/// How many empty groups are kept.
const SPARE_GROUPS: usize = 64;

/// Whether a call can wait for the device, so that others must be able to go on meanwhile.
pub(crate) fn may_wait(opcode: u16) -> bool {
    // Synchronize context, stream, event; copy to the host.
    matches!(opcode, 0x0101 | 0x0503 | 0x0604 | 0x0311)
}

/// The queue and the issuing role.
pub(crate) struct CallQueue {
    state: Mutex<State>,
    /// Wakes the thread that had the role last.
    again: Condvar,
    /// Wakes one of the others.
    changed: Condvar,
    /// There are groups or no more will come: what a thread that looks can see without the lock.
    is_due: AtomicBool,
    /// Bytes of frames that a client may have under way without their being issued.
    limit: u64,
    /// How long the thread that had the role looks for more before it sleeps.
    look: Duration,
    usage: Arc<Usage>,
}

#[derive(Default)]
struct State {
    groups: VecDeque<Group>,
    /// Empty ones, with their memory.
    spare: Vec<Group>,
    bytes: u64,
    ended: bool,
    issuing: bool,
    /// Something is queued or being issued, and [`Usage`] knows.
    busy: bool,
    /// The thread that had the role last looks for calls and will see what is queued.
    looking: bool,
    /// Threads that wait for the role: one that had it last, for more calls, and others.
    sleeping: usize,
    waiting: usize,
    /// Threads that hold or wait for the role or are inside a call that handed it on.
    threads: usize,
}

impl CallQueue {
    pub(crate) fn new(limit: u64, look: Duration, usage: Arc<Usage>) -> CallQueue {
        CallQueue {
            state: Mutex::default(),
            again: Condvar::new(),
            changed: Condvar::new(),
            is_due: AtomicBool::new(false),
            limit,
            look,
            usage,
        }
    }

    /// Lets the usage know whether there is something to issue.
    fn settle(&self, state: &mut State) {
        let busy = state.issuing || !state.groups.is_empty();
        if busy == state.busy {
            return;
        }
        state.busy = busy;
        if busy { self.usage.enter() } else { self.usage.leave() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds calls and leaves an empty group; whether earlier calls are still to be issued. A client that sends more than the
    /// window allows is at fault.
    pub(crate) fn push(&self, group: &mut Group) -> Result<bool, Malformed> {
        let mut state = self.lock();
        let is_behind = state.issuing || !state.groups.is_empty();
        if state.bytes > self.limit {
            return Err(Malformed::new(
                "call",
                format_args!("{} bytes beyond the window", state.bytes - self.limit),
            ));
        }
        state.bytes += group.frame_bytes();
        let empty = state.spare.pop().unwrap_or_default();
        state.groups.push_back(std::mem::replace(group, empty));
        self.settle(&mut state);
        self.is_due.store(true, Ordering::Release);
        if !state.issuing && !state.looking {
            self.wake(&state);
        }
        Ok(is_behind)
    }

    /// Nothing more will come; with `drop_queued`, what is queued is not issued either.
    pub(crate) fn end(&self, drop_queued: bool) {
        let mut state = self.lock();
        state.ended = true;
        self.is_due.store(true, Ordering::Release);
        if drop_queued {
            state.groups.clear();
            self.settle(&mut state);
        }
        self.again.notify_all();
        self.changed.notify_all();
    }

    /// Wakes a thread for the role, the one that had it last if that sleeps: the others' memory is cold.
    fn wake(&self, state: &State) {
        if state.sleeping > 0 { self.again.notify_one() } else { self.changed.notify_one() }
    }

    /// Joins the threads that take turns. The first to join gets the role with its first [`next`](CallQueue::next).
    pub(crate) fn join(&self) {
        self.lock().threads += 1;
    }

    /// Leaves the threads that take turns.
    pub(crate) fn leave(&self) {
        self.lock().threads -= 1;
    }

    /// Waits for the role and puts the next calls into `group`, in the place of those that were there. `false` when nothing
    /// more will come: all calls before have been issued. `holding`: whether the caller has the role already.
    pub(crate) fn next(&self, holding: bool, group: &mut Group) -> bool {
        let mut state = self.lock();
        if holding {
            state.issuing = false;
            self.settle(&mut state);
        }
        group.clear();
        if state.spare.len() < SPARE_GROUPS && group.buffer.capacity() <= GROUP_BYTES {
            state.spare.push(std::mem::take(group));
        }
        if holding && !self.is_due.load(Ordering::Relaxed) {
            state.looking = true;
            drop(state);
            let start = Instant::now();
            while !self.is_due.load(Ordering::Acquire) && start.elapsed() < self.look {
                std::thread::yield_now();
            }
            state = self.lock();
            state.looking = false;
        }
        while state.issuing || (state.groups.is_empty() && !state.ended) {
            state = self.wait(state, holding);
        }
        match state.groups.pop_front() {
            Some(next) => {
                state.issuing = true;
                state.bytes -= next.frame_bytes();
                self.is_due.store(state.ended || !state.groups.is_empty(), Ordering::Release);
                *group = next;
                true
            }
            None => {
                // Those that waited for the role, which this thread may have held, are to see the end too.
                self.again.notify_all();
                self.changed.notify_all();
                false
            }
        }
    }

    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, holding: bool) -> MutexGuard<'a, State> {
        if holding {
            state.sleeping += 1;
            state = self.again.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping -= 1;
        } else {
            state.waiting += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state
    }

    /// Takes the role at once if nothing is queued and nobody has it. The thread that reads may then issue a call itself;
    /// it gives the role back with [`issued_now`](CallQueue::issued_now).
    pub(crate) fn issue_now(&self) -> bool {
        let mut state = self.lock();
        let free = !state.issuing && state.groups.is_empty() && !state.ended;
        state.issuing |= free;
        self.settle(&mut state);
        free
    }

    /// See [`issue_now`](CallQueue::issue_now). Only the thread that reads adds calls, so none has come meanwhile.
    pub(crate) fn issued_now(&self) {
        let mut state = self.lock();
        state.issuing = false;
        self.settle(&mut state);
    }

    /// Gives the role away before a call that can wait; whether a further thread is needed to take it. With as many
    /// threads as `THREAD_LIMIT` the caller keeps the role (`None`) and the others wait with it.
    pub(crate) fn hand_on(&self) -> Option<bool> {
        let mut state = self.lock();
        let is_last = state.waiting + state.sleeping == 0;
        if is_last && state.threads >= CallQueue::THREAD_LIMIT {
            return None;
        }
        state.issuing = false;
        self.settle(&mut state);
        self.wake(&state);
        Some(is_last)
    }

    const THREAD_LIMIT: usize = 256;
}

#[cfg(test)]
mod tests {
    use proto::frame;

    use super::super::WorkerOptions;
    use super::*;

    /// One call that can wait.
    fn call(id: u32) -> Group {
        let mut group = Group::default();
        group.add(&header(id, 0x0101, 10), |arguments| arguments.extend([0; 10]));
        group
    }

    fn header(id: u32, opcode: u16, length: u32) -> Header {
        Header { opcode, call: CallId(id), length, bulk: 0 }
    }

    fn queue(limit: u64) -> CallQueue {
        CallQueue::new(limit, WorkerOptions::LOOK, Arc::default())
    }

    fn take(queue: &CallQueue, holding: bool) -> Vec<u32> {
        let mut group = Group::default();
        assert_eq!(queue.next(holding, &mut group), !group.is_empty());
        group.calls().map(|call| call.id.0).collect()
    }

    #[test]
    fn calls_are_issued_in_order_and_the_role_goes_round() {
        let queue = queue(1000);
        for id in 1..=3 {
            assert_eq!(queue.push(&mut call(id)), Ok(id > 1), "whether it comes behind another");
        }
        assert_eq!(take(&queue, false), [1]);
        queue.join();
        assert_eq!(queue.hand_on(), Some(true), "nobody waits for the role, so a thread is needed");
        assert_eq!(take(&queue, false), [2]);
        queue.end(false);
        assert_eq!(take(&queue, true), [3], "nothing queued is lost");
        assert_eq!(take(&queue, true), []);
    }

    #[test]
    fn a_group_keeps_its_calls_apart_and_ends_with_one_that_can_wait() {
        let mut group = Group::default();
        for id in 1..=3 {
            assert!(!group.is_full());
            let opcode = if id == 3 { 0x0101 } else { 0x0701 };
            group.add(&header(id.into(), opcode, id.into()), |arguments| {
                arguments.extend(vec![id; usize::from(id)]);
            });
        }
        assert!(group.is_full());
        let found: Vec<_> = group.calls().map(|call| (call.id.0, call.arguments.to_vec())).collect();
        assert_eq!(found, [(1, vec![1]), (2, vec![2; 2]), (3, vec![3; 3])]);
        group.clear();
        for _ in 0..GROUP_CALLS {
            group.add(&header(1, 0x0701, 0), |_| ());
        }
        assert!(group.is_full(), "or with as many as there may be");
    }

    #[test]
    fn calls_that_have_come_together_are_taken_together_up_to_the_first_that_can_wait() {
        let mut bytes = Vec::new();
        for (id, opcode) in [(1, 0x0701), (2, 0x0701), (3, 0x0101), (4, 0x0701)] {
            frame::append(&mut bytes, opcode, CallId(id), 0, |out| out.extend([0; 80]));
        }
        let mut frames = FrameReader::default();
        let mut read = |into: &mut [u8]| {
            into[..bytes.len()].copy_from_slice(&bytes);
            Ok::<_, ()>(bytes.len())
        };
        let first = frames.header(&mut read).expect("a header");
        let mut group = Group::default();
        let arguments = |into: &mut Vec<u8>| {
            frames.append_arguments(first.length, into, &mut read).expect("they are there")
        };
        group.add(&first, arguments);
        let ids = |group: &Group| group.calls().map(|call| call.id.0).collect::<Vec<_>>();
        group.add_whole(&mut frames, |_, _| false);
        assert_eq!(ids(&group), [1], "none belongs to it");
        group.add_whole(&mut frames, |group, _| !group.is_empty());
        assert_eq!(ids(&group), [1, 2, 3]);
        assert!(group.is_full() && group.calls().all(|call| call.arguments == [0; 80]));
        group.clear();
        group.add_whole(&mut frames, |_, _| true);
        assert_eq!(ids(&group), [4], "what was not taken stays");
        assert!(!frames.has_frame());
    }

    #[test]
    fn what_is_pushed_comes_out_whatever_lay_in_the_group_before() {
        let queue = queue(1000);
        let mut issued = call(7);
        for id in 1..=3 {
            let mut read = call(id);
            queue.push(&mut read).expect("inside the window");
            assert!(read.is_empty() && read.calls().next().is_none());
            assert!(queue.next(id > 1, &mut issued));
            assert_eq!(issued.calls().map(|call| call.id.0).collect::<Vec<_>>(), [id]);
        }
    }

    #[test]
    fn the_thread_that_had_the_role_last_gets_it_again() {
        let queue = queue(1000);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| take(&queue, false));
            let wait_for = |are_there: fn(&State) -> bool| {
                while !are_there(&queue.lock()) {
                    std::thread::yield_now();
                }
            };
            wait_for(|state| state.waiting == 1);
            assert!(queue.issue_now(), "as the holder whom the other does not know");
            let last = scope.spawn(|| take(&queue, true));
            wait_for(|state| state.sleeping == 1);
            queue.push(&mut call(1)).expect("inside the window");
            assert_eq!(last.join().expect("no panic"), [1]);
            assert_eq!(queue.hand_on(), Some(false), "the other is there to take it");
            queue.push(&mut call(2)).expect("inside the window");
            assert_eq!(other.join().expect("no panic"), [2]);
        });
    }

    #[test]
    fn a_thread_that_waits_for_the_role_sees_the_end_when_its_holder_does() {
        let queue = queue(1000);
        queue.push(&mut call(1)).expect("inside the window");
        assert_eq!(take(&queue, false), [1]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| take(&queue, false).is_empty());
            while queue.lock().waiting == 0 {
                std::thread::yield_now();
            }
            queue.end(false);
            // The other is told, and finds the role taken.
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(take(&queue, true), []);
            assert!(waiting.join().expect("no panic"));
        });
    }

    #[test]
    fn a_client_that_sends_more_than_its_window_is_at_fault() {
        // A call without arguments counts as well: 16 bytes.
        let queue = queue(30);
        queue.push(&mut call(1)).expect("inside the window");
        queue.push(&mut call(2)).expect("one group may cross its edge");
        assert!(queue.push(&mut call(3)).is_err());
    }
}
