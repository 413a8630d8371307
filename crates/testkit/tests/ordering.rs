//! The order that posting must keep: each test fails without one of the rules that let calls go ahead of the device.
//!
//! Copies have theirs in `transfers.rs`; launches and faults by themselves are in `semantics.rs`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use client::Session;
use client::launch::{Function, LaunchConfig};
use cuda_types::{CUdeviceptr, CUstream, CuError, HostSpan};
use proto::{MemoryCalls, StreamCalls};
use soft_gpu::{SoftGpu, SoftOptions};
use testkit::kernels::{LATE, MODULE, kernel, shape};
use testkit::{Harness, Wire};
use vgpu_server::worker::WorkerOptions;

fn connect(wire: Wire, ordinal: u32) -> (Harness, Arc<Session>, Arc<SoftGpu>) {
    let gpu = Arc::new(SoftGpu::open(ordinal, SoftOptions::default()).expect("a software GPU"));
    let harness = Harness::new(wire, Arc::clone(&gpu) as _, ordinal, WorkerOptions::default());
    let session = harness.remote.session().expect("a worker");
    (harness, session, gpu)
}

/// A stream that does not wait for the default stream.
fn stream(session: &Session) -> CUstream {
    const NON_BLOCKING: u32 = 1;
    session.cuStreamCreateWithPriority(NON_BLOCKING, 0).expect("a stream")
}

fn upload(session: &Session, to: CUdeviceptr, word: u32, count: usize, stream: CUstream) {
    let bytes = HostSpan::leak(word.to_le_bytes().repeat(count));
    session.copy_to_device(to, bytes, stream, false).expect("up");
}

fn words(session: &Session, from: CUdeviceptr, count: usize) -> Vec<u32> {
    let bytes = HostSpan::leak(vec![0; count * 4]);
    session.copy_to_host(bytes, from, CUstream::NULL, true).expect("down");
    bytes.read().chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four"))).collect()
}

/// Launches `late(out, in, turns)`.
fn launch_late(
    session: &Session,
    late: &Function,
    out: CUdeviceptr,
    from: CUdeviceptr,
    turns: u32,
    stream: CUstream,
) {
    let mut arguments = [out.0.to_le_bytes(), from.0.to_le_bytes()].concat();
    arguments.extend(turns.to_le_bytes());
    session.launch(late, &LaunchConfig { stream, ..shape(1, 1) }, &arguments).expect("launched");
}

/// Launches `scale(out, in, 1, count)`: `out[i] = in[i] + i`.
fn launch_scale(
    session: &Session,
    scale: &Function,
    out: CUdeviceptr,
    from: CUdeviceptr,
    count: usize,
    stream: CUstream,
) {
    let count = u32::try_from(count).expect("few");
    let mut arguments = [out.0.to_le_bytes(), from.0.to_le_bytes()].concat();
    arguments.extend([1_u32.to_le_bytes(), count.to_le_bytes()].concat());
    let config = LaunchConfig { stream, ..shape(count.div_ceil(256), 256) };
    session.launch(scale, &config, &arguments).expect("launched");
}

/// Holds a stream until the answer is set.
fn hold(session: &Session, stream: CUstream) -> Arc<AtomicBool> {
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let wait = move |_| {
        while !held.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    session.launch_host_function(stream, Box::new(wait)).expect("a host function");
    release
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// As many words as travel inside a call.
const WORDS: usize = 4096;
const BYTES: u64 = 4 * WORDS as u64;

fn memory_freed_behind_a_launch_goes_to_nobody_while_the_launch_is_pending(wire: Wire) {
    let (_harness, session, _gpu) = connect(wire, 0);
    let scale = kernel(&session, MODULE, "scale");
    let (first, second) = (stream(&session), stream(&session));
    let out = session.cuMemAlloc(BYTES).expect("memory");
    for round in 0..20 {
        let old = session.cuMemAlloc(BYTES).expect("memory");
        upload(&session, old, round, WORDS, first);
        let release = hold(&session, first);
        launch_scale(&session, &scale, out, old, WORDS, first);
        session.cuMemFree(old).expect("freed");
        let new = session.cuMemAlloc(BYTES).expect("memory");
        assert_ne!(new, old, "round {round}: the kernel has not run");
        // No copy: one from pageable memory waits while a host function may still change that.
        session.cuMemsetD32Async(new, 0xeeee_eeee, WORDS as u64, second).expect("posted");
        release.store(true, Ordering::Release);
        session.cuCtxSynchronize().expect("done");
        let expected: Vec<u32> = (round..).take(WORDS).collect();
        assert_eq!(words(&session, out, WORDS), expected, "round {round}: what the kernel read");
        assert_eq!(words(&session, new, WORDS), [0xeeee_eeee; WORDS], "round {round}: the new owner's");
        session.cuMemFree(new).expect("freed");
    }
}

fn the_next_owner_of_the_same_addresses_comes_behind_the_launch(wire: Wire) {
    let (_harness, session, _gpu) = connect(wire, 0);
    let scale = kernel(&session, MODULE, "scale");
    let (first, second) = (stream(&session), stream(&session));
    // The chunk that is mapped from the start is full, so there is room only where something is freed.
    let chunk = 2 << 20;
    let out = session.cuMemAlloc(BYTES).expect("memory");
    let mut old = session.cuMemAlloc(chunk / 2).expect("memory");
    session.cuMemAlloc(chunk / 2 - BYTES).expect("memory");
    for round in 0..20 {
        upload(&session, old, round, WORDS, first);
        let pause = Box::new(|_| std::thread::sleep(Duration::from_millis(10)));
        session.launch_host_function(first, pause).expect("a host function");
        launch_scale(&session, &scale, out, old, WORDS, first);
        // In place, so that the kernel also writes what is freed.
        launch_scale(&session, &scale, old, old, WORDS, first);
        session.cuMemFree(old).expect("freed");
        let new = session.cuMemAlloc(chunk / 2).expect("memory");
        assert_eq!(new, old, "there is no other room");
        upload(&session, new, 0xeeee_eeee, WORDS, second);
        session.cuCtxSynchronize().expect("done");
        let expected: Vec<u32> = (round..).take(WORDS).collect();
        assert_eq!(words(&session, out, WORDS), expected, "round {round}: what the kernel read");
        assert_eq!(words(&session, new, WORDS), [0xeeee_eeee; WORDS], "round {round}: the new owner's");
        old = new;
    }
}

fn threads_that_free_and_allocate_at_once_have_their_memory_to_themselves(wire: Wire) {
    const ROUNDS: u32 = 1000;
    let (_harness, session, _gpu) = connect(wire, 0);
    let late = kernel(&session, LATE, "late");
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (session, late) = (&session, &late);
            scope.spawn(move || {
                let stream = stream(session);
                let out = session.cuMemAlloc(u64::from(ROUNDS) * 4).expect("memory");
                for round in 0..ROUNDS {
                    let memory = session.cuMemAlloc(4).expect("memory");
                    let value = thread * 10_000 + round;
                    session.cuMemsetD32Async(memory, value, 1, stream).expect("posted");
                    let to = CUdeviceptr(out.0 + u64::from(round) * 4);
                    launch_late(session, late, to, memory, 0, stream);
                    session.cuMemFree(memory).expect("freed");
                }
                assert_eq!(session.cuCtxSynchronize(), Ok(()), "thread {thread}");
                let expected: Vec<u32> = (thread * 10_000 + 1..).take(ROUNDS as usize).collect();
                assert_eq!(words(session, out, ROUNDS as usize), expected, "thread {thread}");
            });
        }
    });
}

fn two_threads_hand_memory_to_and_fro_by_events_alone(wire: Wire) {
    const ROUNDS: usize = 200;
    const TURNS: u32 = 200_000;
    let (_harness, session, _gpu) = connect(wire, 0);
    let late = kernel(&session, LATE, "late");
    let shared = session.cuMemAlloc(4).expect("memory");
    let inputs = session.cuMemAlloc(4 * ROUNDS as u64).expect("memory");
    let outputs = session.cuMemAlloc(4 * ROUNDS as u64).expect("memory");
    let (written, read) =
        (session.cuEventCreate(0).expect("event"), session.cuEventCreate(0).expect("event"));
    let word = |of: CUdeviceptr, round: usize| CUdeviceptr(of.0 + 4 * round as u64);
    for round in 0..ROUNDS {
        let value = u32::try_from(10 * round).expect("few");
        session.cuMemsetD32Async(word(inputs, round), value, 1, CUstream::NULL).expect("posted");
    }
    session.cuCtxSynchronize().expect("done");
    let asked = session.statistics().round_trips;
    let (has_written, when_written) = channel();
    let (has_read, when_read) = channel();
    std::thread::scope(|scope| {
        let (session, late) = (&session, &late);
        scope.spawn(move || {
            let stream = stream(session);
            for round in 0..ROUNDS {
                // Never recorded in the first round: nothing to wait for.
                session.cuStreamWaitEvent(stream, read, 0).expect("posted");
                launch_late(session, late, shared, word(inputs, round), TURNS, stream);
                session.cuEventRecord(written, stream).expect("posted");
                has_written.send(()).expect("the other thread");
                when_read.recv().expect("the other thread");
            }
        });
        scope.spawn(move || {
            let stream = stream(session);
            for round in 0..ROUNDS {
                when_written.recv().expect("the other thread");
                session.cuStreamWaitEvent(stream, written, 0).expect("posted");
                launch_late(session, late, word(outputs, round), shared, TURNS / 10, stream);
                session.cuEventRecord(read, stream).expect("posted");
                has_read.send(()).expect("the other thread");
            }
        });
    });
    assert_eq!(session.statistics().round_trips, asked, "nothing waited for the device");
    session.cuCtxSynchronize().expect("done");
    let expected: Vec<u32> = (2..).step_by(10).take(ROUNDS).collect();
    assert_eq!(words(&session, outputs, ROUNDS), expected);
}

/// Lies outside of every window: only the device finds out.
const NOWHERE: CUdeviceptr = CUdeviceptr(0x1234);

fn an_error_among_posted_calls_is_told_once_and_costs_no_other_call(wire: Wire) {
    let (_harness, session, _gpu) = connect(wire, 0);
    let memory = session.cuMemAlloc(8).expect("memory");
    for round in 0..50_u32 {
        session.cuMemsetD32Async(memory, round, 1, CUstream::NULL).expect("posted");
        session.cuMemsetD32Async(NOWHERE, 0, 1, CUstream::NULL).expect("posted");
        session.cuMemsetD32Async(CUdeviceptr(memory.0 + 4), round + 1, 1, CUstream::NULL).expect("posted");
        if round % 2 == 0 {
            session.cuMemGetInfo_v2().expect("tells nothing of other calls, though the failure is known");
        }
        assert_eq!(session.cuStreamSynchronize(CUstream::NULL), Err(CuError::INVALID_VALUE));
        assert_eq!(session.cuStreamSynchronize(CUstream::NULL), Ok(()), "told once");
        assert_eq!(words(&session, memory, 2), [round, round + 1]);
    }
}

fn of_two_threads_with_failed_calls_each_is_told_of_its_own(wire: Wire) {
    let (_harness, session, _gpu) = connect(wire, 0);
    let memory = session.cuMemAlloc(4).expect("memory");
    let both = Barrier::new(2);
    let no_stream = CUstream(0xdead_beef);
    std::thread::scope(|scope| {
        for (target, stream, error) in
            [(NOWHERE, CUstream::NULL, CuError::INVALID_VALUE), (memory, no_stream, CuError::INVALID_HANDLE)]
        {
            let (session, both) = (&session, &both);
            scope.spawn(move || {
                for round in 0..50 {
                    session.cuMemsetD32Async(target, 0, 1, stream).expect("posted");
                    both.wait();
                    assert_eq!(session.cuCtxSynchronize(), Err(error), "round {round}");
                    both.wait();
                    assert_eq!(session.cuCtxSynchronize(), Ok(()), "round {round}: told once");
                    // What is posted next could be told to the other thread, which still asks.
                    both.wait();
                }
            });
        }
    });
}

fn a_thread_that_waits_is_told_of_its_failed_call_though_another_asks_first(wire: Wire) {
    let (_harness, session, _gpu) = connect(wire, 0);
    let (held, free) = (stream(&session), stream(&session));
    for round in 0..20 {
        let release = hold(&session, held);
        let asked = session.statistics().round_trips;
        std::thread::scope(|scope| {
            let poster = scope.spawn(|| {
                session.cuMemsetD32Async(NOWHERE, 0, 1, held).expect("posted");
                session.cuStreamSynchronize(held)
            });
            wait_until("the poster never asked", || session.statistics().round_trips > asked);
            let other = session.cuStreamSynchronize(free);
            release.store(true, Ordering::Release);
            assert_eq!(other, Ok(()), "round {round}: the call was the other thread's");
            assert_eq!(poster.join().expect("no panic"), Err(CuError::INVALID_VALUE), "round {round}");
        });
    }
    // Whose thread has ended is told to whoever asks.
    std::thread::scope(|scope| {
        scope.spawn(|| session.cuMemsetD32Async(NOWHERE, 0, 1, CUstream::NULL).expect("posted"));
    });
    assert_eq!(session.cuCtxSynchronize(), Err(CuError::INVALID_VALUE));
    assert_eq!(session.cuCtxSynchronize(), Ok(()));
}

fn a_fault_among_posted_calls_is_told_to_every_thread_of_its_session_and_to_no_other(wire: Wire) {
    let ((_one, first, _gpu), (_two, second, _other)) = (connect(wire, 0), connect(wire, 1));
    let poke = kernel(&first, MODULE, "poke");
    let (lost, kept) = (first.cuMemAlloc(4).expect("memory"), second.cuMemAlloc(4).expect("memory"));
    for round in 0..20 {
        first.cuMemsetD32Async(lost, round, 1, CUstream::NULL).expect("posted");
        second.cuMemsetD32Async(kept, round, 1, CUstream::NULL).expect("posted");
    }
    first.launch(&poke, &shape(1, 1), &0_u64.to_le_bytes()).expect("launched");
    for round in 20..40 {
        // The fault may be known by now.
        let _ = first.cuMemsetD32Async(lost, round, 1, CUstream::NULL);
        second.cuMemsetD32Async(kept, round, 1, CUstream::NULL).expect("posted");
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2 {
                    assert_eq!(first.cuCtxSynchronize(), Err(CuError::ILLEGAL_ADDRESS));
                    let posted = first.cuMemsetD32Async(lost, 0, 1, CUstream::NULL);
                    assert_eq!(posted, Err(CuError::ILLEGAL_ADDRESS));
                }
            });
        }
    });
    assert_eq!(second.cuCtxSynchronize(), Ok(()));
    assert_eq!(words(&second, kept, 1), [39]);
}

fn what_a_posted_call_was_given_may_be_overwritten_right_after_it(wire: Wire) {
    let (_harness, session, _gpu) = connect(wire, 0);
    let late = kernel(&session, LATE, "late");
    let memory = session.cuMemAlloc(800).expect("memory");
    let word = |index: u64| CUdeviceptr(memory.0 + 4 * index);
    // Long enough for all that follows to be called while it runs.
    launch_late(&session, &late, memory, memory, 20_000_000, CUstream::NULL);
    let mut bytes = HostSpan::leak(vec![0; 4]);
    let mut arguments = [0; 20];
    for index in 0..100_u32 {
        bytes.write().copy_from_slice(&(7 * index).to_le_bytes());
        let (from, out) = (word(index.into()), word(u64::from(index) + 100));
        session.copy_to_device(from, bytes, CUstream::NULL, false).expect("up");
        arguments[..8].copy_from_slice(&out.0.to_le_bytes());
        arguments[8..16].copy_from_slice(&from.0.to_le_bytes());
        arguments[16..].copy_from_slice(&index.to_le_bytes());
        session.launch(&late, &shape(1, 1), &arguments).expect("launched");
        bytes.write().fill(0xee);
        arguments.fill(0xee);
    }
    session.cuCtxSynchronize().expect("done");
    let expected: Vec<u32> = (1..).step_by(7).take(100).collect();
    assert_eq!(words(&session, word(100), 100), expected);
}

fn posts_arrive_by_themselves_however_fast_the_program_goes_on_posting(wire: Wire) {
    let (_harness, session, gpu) = connect(wire, 0);
    let memory = session.cuMemAlloc(4).expect("memory");
    let mut value = 0_u32;
    for round in 0..10 {
        // A send buffer takes some 1500 of these calls.
        for (calls, pause_us) in [(200, 100), (1, 0), (600, 10), (20, 1000), (2, 0), (1000, 0)] {
            for _ in 0..calls {
                value += 1;
                session.cuMemsetD32Async(memory, value, 1, CUstream::NULL).expect("posted");
                let end = Instant::now() + Duration::from_micros(pause_us);
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
            }
            // No call of the session: the device is asked directly.
            wait_until("calls were never sent", || {
                gpu.cuMemcpyDtoH_v2(memory, 4, CUstream::NULL) == Ok(value.to_le_bytes().to_vec())
            });
            // From none to many looks of the progress thread.
            std::thread::sleep(Duration::from_micros(100 * round));
        }
    }
}

fn host_functions_run_though_the_program_never_waits(wire: Wire) {
    let (_harness, session, _gpu) = connect(wire, 0);
    let ran = Arc::new(AtomicU32::new(0));
    for posted in 1..=200 {
        let count = Arc::clone(&ran);
        let function = Box::new(move |_| {
            count.fetch_add(1, Ordering::AcqRel);
        });
        session.launch_host_function(CUstream::NULL, function).expect("posted");
        std::thread::sleep(Duration::from_micros(100));
        if posted % 50 == 0 {
            wait_until("host functions were never run", || ran.load(Ordering::Acquire) == posted);
        }
    }
}

testkit::over_links! { over_tcp: Tcp, over_verbs: Verbs => {
    memory_freed_behind_a_launch_goes_to_nobody_while_the_launch_is_pending
    the_next_owner_of_the_same_addresses_comes_behind_the_launch
    threads_that_free_and_allocate_at_once_have_their_memory_to_themselves
    two_threads_hand_memory_to_and_fro_by_events_alone
    an_error_among_posted_calls_is_told_once_and_costs_no_other_call
    of_two_threads_with_failed_calls_each_is_told_of_its_own
    a_thread_that_waits_is_told_of_its_failed_call_though_another_asks_first
    a_fault_among_posted_calls_is_told_to_every_thread_of_its_session_and_to_no_other
    what_a_posted_call_was_given_may_be_overwritten_right_after_it
    posts_arrive_by_themselves_however_fast_the_program_goes_on_posting
    host_functions_run_though_the_program_never_waits
} }
