//! Bytes and order between client and worker, on a device that computes nothing: every rule about copies that does
//! not need a kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Session, hazards};
use cuda_types::{CUdeviceptr, CUstream, CuError, HostSpan};
use proto::{ContextCalls, Device, MemoryCalls, StreamCalls};
use soft_gpu::{SoftGpu, SoftOptions};
use testkit::{Harness, Wire};
use vgpu_server::null::NullGpu;
use vgpu_server::worker::gpudirect::Policy;
use vgpu_server::worker::{SessionEnd, WorkerOptions};

/// 1 MiB of staging, as the deadlock scenarios ask for.
fn little_staging() -> WorkerOptions {
    WorkerOptions {
        upload_bytes: 1024 * 1024,
        download_bytes: 1024 * 1024,
        download_slots: 4,
        control_bytes: 256 * 1024,
        ..WorkerOptions::default()
    }
}

/// How a client reaches which device.
#[derive(Clone, Copy)]
struct Way {
    wire: Wire,
    /// The software GPU, whose memory the network reaches by itself, in place of the null device.
    gpudirect: bool,
}

impl Way {
    /// Software RDMA devices carry some 50 MB/s where others carry gigabytes.
    fn sized(self, bytes: usize) -> usize {
        if self.wire == Wire::Verbs { bytes / 16 } else { bytes }
    }
}

fn connect(way: Way) -> (Harness, Arc<Session>) {
    connect_as(way, 0)
}

fn connect_as(way: Way, ordinal: u32) -> (Harness, Arc<Session>) {
    let device: Arc<dyn Device> = if way.gpudirect {
        Arc::new(SoftGpu::open(ordinal, SoftOptions::default()).expect("a software GPU"))
    } else {
        Arc::new(NullGpu::new(false))
    };
    let harness = Harness::new(way.wire, device, ordinal, little_staging());
    let session = harness.remote.session().expect("a worker");
    assert_eq!(session.uses_gpudirect(), way.gpudirect);
    (harness, session)
}

/// Memory that is never freed, so that any copy may still refer to it.
fn host(bytes: usize, fill: impl FnMut(usize) -> u8) -> HostSpan {
    HostSpan::leak((0..bytes).map(fill).collect())
}

fn registered(bytes: usize, fill: impl FnMut(usize) -> u8) -> HostSpan {
    let span = host(bytes, fill);
    assert!(hazards::register(span));
    span
}

fn pattern(seed: usize) -> impl Fn(usize) -> u8 {
    move |i| ((i * 31 + i / 257 + seed * 101) % 251).to_le_bytes()[0]
}

fn holds_pattern(span: HostSpan, seed: usize) -> bool {
    let expected = pattern(seed);
    span.read().iter().enumerate().all(|(i, byte)| *byte == expected(i))
}

const MIB: usize = 1024 * 1024;

fn copies_of_every_size_come_back(way: Way) {
    let (harness, session) = connect(way);
    for (seed, bytes) in
        [1, 4, 4095, 16 * 1024, 16 * 1024 + 1, 65537, MIB, 5 * MIB + 3].into_iter().enumerate()
    {
        let device = session.cuMemAlloc(bytes as u64).expect("memory");
        for locked in [false, true] {
            let up = if locked { registered(bytes, pattern(seed)) } else { host(bytes, pattern(seed)) };
            let down = if locked { registered(bytes, |_| 0) } else { host(bytes, |_| 0) };
            session.copy_to_device(device, up, CUstream::NULL, false).expect("up");
            session.copy_to_host(down, device, CUstream::NULL, false).expect("down");
            session.cuCtxSynchronize().expect("done");
            assert!(holds_pattern(down, seed), "{bytes} bytes, registered: {locked}");
        }
        session.cuMemFree(device).expect("freed");
    }
    let (end, counts) = harness.finish();
    assert!(matches!(end, SessionEnd::Farewell), "{end} {counts}");
}

fn a_host_buffer_overwritten_right_after_an_asynchronous_pageable_copy_does_no_harm(way: Way) {
    let (_harness, session) = connect(way);
    let device = session.cuMemAlloc(3 * MIB as u64).expect("memory");
    let mut buffer = host(3 * MIB, pattern(1));
    session.copy_to_device(device, buffer, CUstream::NULL, false).expect("up");
    buffer.write().fill(0xee);
    let back = host(3 * MIB, |_| 0);
    session.copy_to_host(back, device, CUstream::NULL, false).expect("down");
    assert!(holds_pattern(back, 1));
}

fn an_upload_behind_a_download_through_the_same_registered_buffer_sends_what_landed(way: Way) {
    let (_harness, session) = connect(way);
    let stream = session.cuStreamCreateWithPriority(1, 0).expect("a stream");
    let (a, b) =
        (session.cuMemAlloc(MIB as u64).expect("memory"), session.cuMemAlloc(MIB as u64).expect("memory"));
    session.copy_to_device(a, host(MIB, pattern(7)), stream, true).expect("up");
    let bounce = registered(MIB, |_| 0x55);
    // Nothing has landed yet when the second copy is called: the gate holds the stream.
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let hold = Box::new(move |_| {
        while !held.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    session.launch_host_function(stream, hold).expect("a host function");
    session.copy_to_host(bounce, a, stream, false).expect("down");
    session.copy_to_device(b, bounce, stream, false).expect("up again");
    release.store(true, Ordering::Release);
    session.cuStreamSynchronize(stream).expect("done");
    let back = host(MIB, |_| 0);
    session.copy_to_host(back, b, stream, false).expect("down");
    assert!(holds_pattern(back, 7));
}

fn a_stream_that_waits_for_a_host_function_with_many_copies_behind_it_goes_on(way: Way) {
    let (_harness, session) = connect(way);
    let stream = session.cuStreamCreateWithPriority(1, 0).expect("a stream");
    let bytes = way.sized(32 * MIB);
    let device = session.cuMemAlloc(bytes as u64).expect("memory");
    let (up, down) = (registered(bytes, pattern(3)), registered(bytes, |_| 0));
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let hold = Box::new(move |_| {
        while !held.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    session.launch_host_function(stream, hold).expect("a host function");
    // Far more than the staging holds, both ways, all asynchronous.
    for _ in 0..16 {
        session.copy_to_device(device, up, stream, false).expect("up");
        session.copy_to_host(down, device, stream, false).expect("down");
    }
    // Calls on other streams are not held up.
    session.cuStreamSynchronize(CUstream::NULL).expect("the default stream is free");
    assert_eq!(session.cuStreamQuery(stream), Err(CuError::NOT_READY));
    release.store(true, Ordering::Release);
    session.cuStreamSynchronize(stream).expect("done");
    assert!(holds_pattern(down, 3));
}

fn copies_behind_a_pulled_copy_do_not_take_the_staging_that_it_needs(way: Way) {
    let (_harness, session) = connect(way);
    let stream = session.cuStreamCreateWithPriority(1, 0).expect("a stream");
    let device = session.cuMemAlloc(2 * MIB as u64).expect("memory");
    let (up, small) = (registered(2 * MIB, pattern(9)), registered(100_000, pattern(8)));
    for _ in 0..20 {
        // Held until all are called: the large copy is pulled, since its bytes may still change.
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let hold = Box::new(move |_| {
            let _ = receiver.recv();
        });
        session.launch_host_function(stream, hold).expect("a host function");
        session.copy_to_device(device, up, stream, false).expect("up");
        drop(sender);
        for _ in 0..40 {
            session.copy_to_device(device, small, stream, false).expect("up");
        }
    }
    session.cuStreamSynchronize(stream).expect("done");
    let back = host(100_000, |_| 0);
    session.copy_to_host(back, device, stream, true).expect("down");
    assert!(holds_pattern(back, 8));
}

fn one_thread_up_and_one_thread_down_do_not_wait_for_each_other(way: Way) {
    let (_harness, session) = connect(way);
    let bytes = way.sized(256 * MIB);
    let (a, b) = (
        session.cuMemAlloc(bytes as u64).expect("memory"),
        session.cuMemAlloc(bytes as u64).expect("memory"),
    );
    session.copy_to_device(b, host(bytes, pattern(5)), CUstream::NULL, true).expect("up");
    let (up, down) = (host(bytes, pattern(4)), host(bytes, |_| 0));
    std::thread::scope(|scope| {
        scope.spawn(|| session.copy_to_device(a, up, CUstream::NULL, true).expect("up"));
        scope.spawn(|| session.copy_to_host(down, b, CUstream::NULL, true).expect("down"));
    });
    assert!(holds_pattern(down, 5));
    let back = host(bytes, |_| 0);
    session.copy_to_host(back, a, CUstream::NULL, true).expect("down");
    assert!(holds_pattern(back, 4));
}

fn a_failed_posted_call_is_told_once_at_the_next_synchronize(way: Way) {
    let (_harness, session) = connect(way);
    // An address that was never allocated: the client lets it pass, since it lies outside the window.
    session.cuMemsetD8Async(CUdeviceptr(0x1234), 0, 16, CUstream::NULL).expect("posted");
    assert_eq!(session.cuCtxSynchronize(), Err(CuError::INVALID_VALUE));
    assert_eq!(session.cuCtxSynchronize(), Ok(()));
}

fn what_lies_outside_an_allocation_is_refused_at_once(way: Way) {
    let (_harness, session) = connect(way);
    let device = session.cuMemAlloc(1000).expect("memory");
    let four = host(4, |_| 0);
    assert_eq!(
        session.copy_to_device(CUdeviceptr(device.0 + 997), four, CUstream::NULL, true),
        Err(CuError::INVALID_VALUE)
    );
    assert_eq!(
        session.copy_to_host(four, CUdeviceptr::NULL, CUstream::NULL, true),
        Err(CuError::INVALID_VALUE)
    );
    session.cuMemFree(device).expect("freed");
    assert_eq!(session.cuMemFree(device), Err(CuError::INVALID_VALUE));
    assert_eq!(session.copy_to_device(device, four, CUstream::NULL, true), Err(CuError::INVALID_VALUE));
}

fn memory_that_was_freed_can_be_allocated_again_and_again(way: Way) {
    let (_harness, session) = connect(way);
    // Four times the device's memory in all.
    for _ in 0..16 {
        let device = session.cuMemAlloc(1 << 30).expect("what was freed is free");
        session.cuMemFree(device).expect("freed");
    }
    assert_eq!(session.cuMemAlloc(5 << 30), Err(CuError::OUT_OF_MEMORY));
    let half = session.cuMemAlloc(3 << 30).expect("memory");
    assert_eq!(session.cuMemAlloc(2 << 30), Err(CuError::OUT_OF_MEMORY), "told at once, not later");
    session.cuMemFree(half).expect("freed");
    session.cuMemAlloc(2 << 30).expect("memory");
}

fn many_threads_may_call_at_once(way: Way) {
    let (_harness, session) = connect(way);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let session = &session;
            scope.spawn(move || {
                let stream = session.cuStreamCreateWithPriority(1, 0).expect("a stream");
                for round in 0..20 {
                    let bytes = 1000 + 40_000 * (round % 3);
                    let device = session.cuMemAlloc(bytes as u64).expect("memory");
                    session.copy_to_device(device, host(bytes, pattern(thread)), stream, false).expect("up");
                    let back = host(bytes, |_| 0);
                    session.copy_to_host(back, device, stream, false).expect("down");
                    assert!(holds_pattern(back, thread), "thread {thread}, round {round}");
                    session.cuMemFree(device).expect("freed");
                }
            });
        }
    });
}

fn more_calls_than_the_window_holds_are_all_issued(way: Way) {
    let (harness, session) = connect(way);
    let device = session.cuMemAlloc(4).expect("memory");
    for round in 0..50_000_u32 {
        session.cuMemsetD32Async(device, round, 1, CUstream::NULL).expect("posted");
    }
    ContextCalls::cuCtxSynchronize(&*session).expect("done");
    let last = host(4, |_| 0);
    session.copy_to_host(last, device, CUstream::NULL, true).expect("down");
    assert_eq!(last.read(), 49_999_u32.to_le_bytes());
    let (_, counts) = harness.finish();
    assert!(counts.to_string().contains("cuMemsetD32Async=50000"), "{counts}");
}

fn four_bytes_to_pageable_memory_are_there_when_an_asynchronous_copy_returns(way: Way) {
    let (_harness, session) = connect(way);
    let device = session.cuMemAlloc(4).expect("memory");
    for value in 0..100_u32 {
        session.cuMemsetD32Async(device, value, 1, CUstream::NULL).expect("posted");
        let back = host(4, |_| 0xff);
        session.copy_to_host(back, device, CUstream::NULL, false).expect("down");
        assert_eq!(back.read(), value.to_le_bytes());
    }
}

fn work_is_issued_while_the_program_does_something_else(way: Way) {
    let device = Arc::new(NullGpu::new(false));
    let harness = Harness::new(way.wire, Arc::clone(&device) as Arc<dyn proto::Device>, 0, little_staging());
    let session = harness.remote.session().expect("a worker");
    let memory = session.cuMemAlloc(4).expect("memory");
    session.cuMemsetD32Async(memory, 77, 1, CUstream::NULL).expect("posted");
    // No call of this session meanwhile: the device is looked at directly.
    let issued = || device.cuMemcpyDtoH_v2(memory, 4, CUstream::NULL) == Ok(77_u32.to_le_bytes().to_vec());
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !issued() {
        assert!(std::time::Instant::now() < end, "the call was never sent");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn an_event_query_becomes_true_without_a_synchronize(way: Way) {
    let (_harness, session) = connect(way);
    let stream = session.cuStreamCreateWithPriority(1, 0).expect("a stream");
    let event = session.cuEventCreate(0).expect("an event");
    assert_eq!(session.cuEventQuery(event), Ok(()), "never recorded");
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let hold = Box::new(move |_| {
        while !held.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    session.launch_host_function(stream, hold).expect("a host function");
    session.cuEventRecord(event, stream).expect("recorded");
    let asked = session.statistics().round_trips;
    for _ in 0..100 {
        assert_eq!(session.cuEventQuery(event), Err(CuError::NOT_READY));
    }
    release.store(true, Ordering::Release);
    while session.cuEventQuery(event) == Err(CuError::NOT_READY) {}
    assert_eq!(session.cuEventQuery(event), Ok(()));
    assert_eq!(session.statistics().round_trips - asked, 1, "asked once, then told");
}

fn a_thousand_event_waits_between_two_devices_need_no_host(way: Way) {
    let (_harness_a, a) = connect_as(way, 0);
    let (_harness_b, b) = connect_as(way, 1);
    let (on_a, on_b) = (a.cuMemAlloc(64).expect("memory"), b.cuMemAlloc(64).expect("memory"));
    let stream_a = a.cuStreamCreateWithPriority(1, 0).expect("a stream");
    let stream_b = b.cuStreamCreateWithPriority(1, 0).expect("a stream");
    let (event_a, event_b) = (a.cuEventCreate(2).expect("an event"), b.cuEventCreate(2).expect("an event"));
    // One registered word goes round: up on one device, down on the other, a thousand times.
    let mut bounce = registered(4, |_| 0);
    let asked = (a.statistics().round_trips, b.statistics().round_trips);
    for round in 0..500_u32 {
        a.cuMemsetD32Async(on_a, round, 1, stream_a).expect("posted");
        a.copy_to_host(bounce, on_a, stream_a, false).expect("down");
        a.cuEventRecord(event_a, stream_a).expect("recorded");
        b.wait_for_other_device(stream_b, &a, event_a).expect("waits");
        b.copy_to_device(on_b, bounce, stream_b, false).expect("up");
        b.cuMemcpyDtoDAsync_v2(CUdeviceptr(on_b.0 + 4), on_b, 4, stream_b).expect("posted");
        b.cuEventRecord(event_b, stream_b).expect("recorded");
        a.wait_for_other_device(stream_a, &b, event_b).expect("waits");
    }
    let after = (a.statistics().round_trips, b.statistics().round_trips);
    assert_eq!(after, asked, "nobody waited on the host");
    b.cuStreamSynchronize(stream_b).expect("done");
    a.cuStreamSynchronize(stream_a).expect("done");
    let back = host(4, |_| 0);
    b.copy_to_host(back, CUdeviceptr(on_b.0 + 4), stream_b, true).expect("down");
    assert_eq!(back.read(), 499_u32.to_le_bytes());
    bounce.write().fill(0);
}

fn a_lost_link_ends_every_wait(way: Way) {
    let (harness, session) = connect(way);
    let stream = session.cuStreamCreateWithPriority(1, 0).expect("a stream");
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let hold = Box::new(move |_| {
        let _ = receiver.recv();
    });
    session.launch_host_function(stream, hold).expect("a host function");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| session.cuStreamSynchronize(stream));
        std::thread::sleep(Duration::from_millis(50));
        harness.cut();
        assert_eq!(waiting.join().expect("no panic"), Err(CuError::DEVICE_UNAVAILABLE));
    });
    drop(sender);
    assert_eq!(session.cuMemAlloc(4), Err(CuError::DEVICE_UNAVAILABLE));
}

macro_rules! on_every_wire {
    (@ $name:ident $wire:ident $gpudirect:literal $($body:ident)*) => {
        mod $name {
            $(#[test] fn $body() {
                let way = super::Way { wire: super::Wire::$wire, gpudirect: $gpudirect };
                if way.wire != super::Wire::Verbs || testkit::verbs_address().is_some() {
                    super::$body(way);
                }
            })*
        }
    };
    ($($body:ident)*) => {
        on_every_wire! { @ over_memory Memory false $($body)* }
        on_every_wire! { @ over_tcp Tcp false $($body)* }
        on_every_wire! { @ over_unix Unix false $($body)* }
        on_every_wire! { @ over_verbs Verbs false $($body)* }
    };
}

on_every_wire! {
    copies_of_every_size_come_back
    a_host_buffer_overwritten_right_after_an_asynchronous_pageable_copy_does_no_harm
    an_upload_behind_a_download_through_the_same_registered_buffer_sends_what_landed
    a_stream_that_waits_for_a_host_function_with_many_copies_behind_it_goes_on
    copies_behind_a_pulled_copy_do_not_take_the_staging_that_it_needs
    one_thread_up_and_one_thread_down_do_not_wait_for_each_other
    a_failed_posted_call_is_told_once_at_the_next_synchronize
    what_lies_outside_an_allocation_is_refused_at_once
    many_threads_may_call_at_once
    more_calls_than_the_window_holds_are_all_issued
    four_bytes_to_pageable_memory_are_there_when_an_asynchronous_copy_returns
    work_is_issued_while_the_program_does_something_else
    an_event_query_becomes_true_without_a_synchronize
    a_thousand_event_waits_between_two_devices_need_no_host
    a_lost_link_ends_every_wait
}

// Copies to and from memory that the network reaches by itself.
on_every_wire! { @ over_verbs_with_gpudirect Verbs true
    copies_of_every_size_come_back
    a_host_buffer_overwritten_right_after_an_asynchronous_pageable_copy_does_no_harm
    an_upload_behind_a_download_through_the_same_registered_buffer_sends_what_landed
    a_stream_that_waits_for_a_host_function_with_many_copies_behind_it_goes_on
    copies_behind_a_pulled_copy_do_not_take_the_staging_that_it_needs
    one_thread_up_and_one_thread_down_do_not_wait_for_each_other
    many_threads_may_call_at_once
    a_thousand_event_waits_between_two_devices_need_no_host
    a_lost_link_ends_every_wait
}

// Takes more memory than the virtual machine of the tests over verbs has.
on_every_wire! { @ over_memory_with_much_memory Memory false
    memory_that_was_freed_can_be_allocated_again_and_again
}
on_every_wire! { @ over_tcp_with_much_memory Tcp false
    memory_that_was_freed_can_be_allocated_again_and_again
}

fn soft_gpu_over_verbs(policy: Policy) -> Harness {
    let device = Arc::new(SoftGpu::open(0, SoftOptions::default()).expect("a software GPU"));
    Harness::new(Wire::Verbs, device, 0, WorkerOptions { gpudirect: policy, ..little_staging() })
}

#[test]
fn verbs_register_memory_once_and_not_for_every_copy() {
    if testkit::verbs_address().is_none() {
        return;
    }
    for policy in [Policy::On, Policy::Off] {
        let harness = soft_gpu_over_verbs(policy);
        let session = harness.remote.session().expect("a worker");
        assert_eq!(session.uses_gpudirect(), policy == Policy::On);
        let device = session.cuMemAlloc(MIB as u64).expect("memory");
        let (locked, pageable) = (registered(MIB, pattern(1)), host(MIB, pattern(2)));
        let copy_all = || {
            for memory in [locked, pageable] {
                session.copy_to_device(device, memory, CUstream::NULL, false).expect("up");
                session.copy_to_host(memory, device, CUstream::NULL, false).expect("down");
            }
            session.cuCtxSynchronize().expect("done");
        };
        copy_all();
        let before = session.registrations();
        (0..10).for_each(|_| copy_all());
        assert_eq!(session.registrations(), before, "{policy:?}");
        assert!(holds_pattern(locked, 1) && holds_pattern(pageable, 2));
        // Memory that is given back is registered anew when it is used again.
        assert!(hazards::unregister(locked.address()).is_some());
        assert!(hazards::register(locked));
        copy_all();
        assert_eq!(session.registrations(), before + 1, "{policy:?}");
        assert!(holds_pattern(locked, 1) && holds_pattern(pageable, 2));
        hazards::unregister(locked.address());
    }
}

#[test]
fn verbs_memory_that_is_freed_and_allocated_again_is_reached_anew() {
    if testkit::verbs_address().is_none() {
        return;
    }
    let harness = soft_gpu_over_verbs(Policy::On);
    let session = harness.remote.session().expect("a worker");
    for round in 0..10 {
        let bytes = 200_000 + 70_000 * (round % 3);
        let device = session.cuMemAlloc(bytes as u64).expect("memory");
        let (up, down) = (registered(bytes, pattern(round)), registered(bytes, |_| 0));
        session.copy_to_device(device, up, CUstream::NULL, false).expect("up");
        session.copy_to_host(down, device, CUstream::NULL, false).expect("down");
        session.cuCtxSynchronize().expect("done");
        assert!(holds_pattern(down, round), "round {round}");
        session.cuMemFree(device).expect("freed");
        hazards::unregister(up.address());
        hazards::unregister(down.address());
    }
}

#[test]
fn verbs_a_client_is_refused_where_gpudirect_must_be_and_cannot() {
    if testkit::verbs_address().is_none() {
        return;
    }
    let options = WorkerOptions { gpudirect: Policy::On, ..little_staging() };
    let harness = Harness::new(Wire::Verbs, Arc::new(NullGpu::new(false)), 0, options);
    assert_eq!(harness.remote.session().map(drop), Err(CuError::DEVICE_UNAVAILABLE));
}

#[test]
fn an_account_counts_what_the_session_counts() {
    let environment = client::Environment { keeps_account: true, ..client::Environment::default() };
    let device: Arc<dyn Device> = Arc::new(NullGpu::new(false));
    let harness = Harness::with(Wire::Unix, device, 0, little_staging(), environment);
    let account = || harness.remote.account().expect("it is kept");
    assert_eq!(account().calls(), 0, "a greeting is no use of the device");
    let session = harness.remote.session().expect("a worker");
    let bytes = 2 * 1024 * 1024;
    let memory = session.cuMemAlloc(bytes as u64).expect("memory");
    session.copy_to_device(memory, host(bytes, pattern(1)), CUstream::NULL, true).expect("copied");
    session.copy_to_device(memory, registered(bytes, pattern(2)), CUstream::NULL, true).expect("copied");
    for length in [4, 4, 1024, 1025, bytes] {
        session.copy_to_host(host(length, |_| 0), memory, CUstream::NULL, true).expect("copied");
    }
    session.copy_to_host(registered(bytes, |_| 0), memory, CUstream::NULL, false).expect("posted");
    session.cuCtxSynchronize().expect("done");
    session.cuStreamQuery(CUstream::NULL).expect("asked");
    let (account, statistics) = (account(), session.statistics());
    assert_eq!(account.all_round_trips().count, statistics.round_trips);
    assert_eq!((account.sends, account.bytes_sent), (statistics.sends, statistics.bytes_sent));
    let small = account.small_copies;
    assert_eq!((small.count, small.received_bytes, small.largest_received), (3, 1032, 1024));
    assert_eq!(account.round_trips["cuMemcpyDtoH_v2"].count, 4);
    assert_eq!(account.landings.count, 1, "of two, one was waited for");
    assert_eq!((account.staged_bytes, account.landed_bytes), (2 * bytes as u64, 2 * bytes as u64));
    assert!(account.waited() >= account.all_round_trips().waited + account.landings.waited);
    let silent = Harness::new(Wire::Memory, Arc::new(NullGpu::new(false)), 1, little_staging());
    assert_eq!(silent.remote.account(), None);
}
