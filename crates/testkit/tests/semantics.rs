//! What CUDA promises about launches and faults, seen through clients of two devices.

use std::sync::{Arc, Mutex};

use client::launch::{Function, LaunchConfig};
use client::{LaunchRefusal, Session};
use cuda_types::attribute::FunctionAttribute;
use cuda_types::{CUdeviceptr, CUstream, CuError, HostSpan};
use proto::ModuleCalls;
use proto::calls::module::load_bytes;
use proto::codec::MESSAGE_LIMIT;
use proto::frame::Header;
use soft_gpu::{SoftGpu, SoftOptions};
use testkit::kernels::{MODULE, kernel, shape};
use testkit::{Harness, Wire};
use vgpu_server::worker::WorkerOptions;

fn connect(wire: Wire, ordinal: u32) -> (Harness, Arc<Session>) {
    let gpu = Arc::new(SoftGpu::open(ordinal, SoftOptions::default()).expect("a software GPU"));
    let harness = Harness::new(wire, gpu, ordinal, WorkerOptions::default());
    let session = harness.remote.session().expect("a worker");
    (harness, session)
}

/// Stores 77 at an address, and reads it back.
fn poke_works(session: &Session, poke: &Function) -> bool {
    let memory = session.cuMemAlloc(4).expect("memory");
    session.launch(poke, &shape(1, 1), &memory.0.to_le_bytes()).expect("launched");
    let back = HostSpan::leak(vec![0; 4]);
    session.copy_to_host(back, memory, CUstream::NULL, true).expect("down");
    back.read() == 77_u32.to_le_bytes()
}

fn a_refused_launch_leaves_no_trace_and_a_fault_stays_on_its_own_device(wire: Wire) {
    let ((_one, first), (_two, second)) = (connect(wire, 0), connect(wire, 1));
    let (poke, other) = (kernel(&first, MODULE, "poke"), kernel(&second, MODULE, "poke"));
    let address = 0_u64.to_le_bytes();
    assert_eq!(first.launch(&poke, &shape(1, 0), &address), Err(LaunchRefusal::Configuration));
    assert_eq!(first.launch(&poke, &shape(0, 1), &address), Err(LaunchRefusal::Configuration));
    assert_eq!(first.launch(&poke, &shape(1, 1025), &address), Err(LaunchRefusal::Configuration));
    let shared = LaunchConfig { shared_bytes: 49 * 1024, ..shape(1, 1) };
    assert_eq!(first.launch(&poke, &shared, &address), Err(LaunchRefusal::SharedMemory));
    assert_eq!(first.launch(&poke, &shape(1, 1), &address[..4]), Err(LaunchRefusal::Arguments));
    assert_eq!(first.cuCtxSynchronize(), Ok(()), "nothing was sent");
    assert!(poke_works(&first, &poke));
    // A null pointer: found when the kernel runs, and every later call answers it.
    first.launch(&poke, &shape(1, 1), &address).expect("launched");
    assert_eq!(first.cuCtxSynchronize(), Err(CuError::ILLEGAL_ADDRESS));
    assert_eq!(first.cuMemAlloc(4), Err(CuError::ILLEGAL_ADDRESS));
    assert_eq!(
        first.launch(&poke, &shape(1, 1), &address),
        Err(LaunchRefusal::Broken(CuError::ILLEGAL_ADDRESS))
    );
    assert!(poke_works(&second, &other), "the other device is not touched");
}

fn freed_and_misaligned_addresses_are_faults_with_their_own_codes(wire: Wire) {
    for (offset, code) in [(2, CuError::MISALIGNED_ADDRESS), (8 << 20, CuError::ILLEGAL_ADDRESS)] {
        let (_harness, session) = connect(wire, 0);
        let poke = kernel(&session, MODULE, "poke");
        let memory = session.cuMemAlloc(1 << 20).expect("memory");
        session.launch(&poke, &shape(1, 1), &(memory.0 + offset).to_le_bytes()).expect("launched");
        assert_eq!(session.cuCtxSynchronize(), Err(code), "{offset} bytes behind the start");
    }
    let (_harness, session) = connect(wire, 0);
    let poke = kernel(&session, MODULE, "poke");
    let memory = session.cuMemAlloc(1 << 20).expect("memory");
    session.cuMemFree(memory).expect("freed");
    session.launch(&poke, &shape(1, 1), &memory.0.to_le_bytes()).expect("launched");
    assert_eq!(session.cuCtxSynchronize(), Err(CuError::ILLEGAL_ADDRESS));
}

fn a_launch_runs_while_the_program_does_something_else(wire: Wire) {
    let gpu = Arc::new(SoftGpu::open(0, SoftOptions::default()).expect("a software GPU"));
    let harness = Harness::new(wire, Arc::clone(&gpu) as _, 0, WorkerOptions::default());
    let session = harness.remote.session().expect("a worker");
    let poke = kernel(&session, MODULE, "poke");
    let memory = session.cuMemAlloc(4).expect("memory");
    session.launch(&poke, &shape(1, 1), &memory.0.to_le_bytes()).expect("launched");
    // No call of the session from here on: the device is asked directly.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let done = || {
        let read = proto::MemoryCalls::cuMemcpyDtoH_v2(&*gpu, CUdeviceptr(memory.0), 4, CUstream::NULL);
        read == Ok(77_u32.to_le_bytes().to_vec())
    };
    while !done() {
        assert!(std::time::Instant::now() < end, "the launch was never sent");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn a_faulted_device_can_be_used_again_after_many_faults(wire: Wire) {
    // Connecting takes half a second over RDMA devices in software.
    for _ in 0..if wire == Wire::Verbs { 10 } else { 100 } {
        let (harness, session) = connect(wire, 0);
        let poke = kernel(&session, MODULE, "poke");
        session.launch(&poke, &shape(4, 64), &0_u64.to_le_bytes()).expect("launched");
        assert_eq!(session.cuCtxSynchronize(), Err(CuError::ILLEGAL_ADDRESS));
        // With the session goes the device, and with it the window that the next one takes.
        harness.finish();
    }
}

fn the_device_is_asked_for_occupancy_once_until_an_attribute_changes_it(wire: Wire) {
    let (_harness, session) = connect(wire, 0);
    let poke = kernel(&session, MODULE, "poke");
    let asked_of = |threads, shared| {
        let before = session.statistics().round_trips;
        (session.resident_blocks(&poke, threads, shared, 0), session.statistics().round_trips - before)
    };
    let asked = |shared| asked_of(128, shared);
    let (plain, round_trips) = asked(0);
    assert!(plain.expect("a good launch") > 1 && round_trips == 0, "it came with the module");
    for threads in (32..=1024).step_by(32) {
        let device = session.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(poke.handle, threads, 0, 0);
        assert_eq!(asked_of(threads, 0), (device, 0));
    }
    assert_eq!((asked_of(100, 0).1, asked_of(100, 0).1), (1, 0), "no whole warps");
    assert_eq!((asked_of(1056, 0).1, asked_of(1056, 0).1), (1, 0), "beyond what was told");
    assert_eq!(asked_of(0, 0), (Err(CuError::INVALID_VALUE), 1));
    assert_eq!(asked_of(-32, 0), (Err(CuError::INVALID_VALUE), 1));
    let (with_shared, round_trips) = asked(40 << 10);
    assert!(with_shared.ok() < plain.ok() && round_trips == 1, "{with_shared:?} of {plain:?}");
    assert_eq!(asked(40 << 10), (with_shared, 0));
    let attribute = FunctionAttribute::MAX_DYNAMIC_SHARED_SIZE_BYTES;
    session.set_function_attribute(&poke, attribute, 64 << 10).expect("within the device's limit");
    assert_eq!(asked(0), (plain, 1));
    assert_eq!(asked(0), (plain, 0));
}

testkit::over_links! { over_tcp: Tcp, over_verbs: Verbs => {
    the_device_is_asked_for_occupancy_once_until_an_attribute_changes_it
    a_refused_launch_leaves_no_trace_and_a_fault_stays_on_its_own_device
    freed_and_misaligned_addresses_are_faults_with_their_own_codes
    a_launch_runs_while_the_program_does_something_else
    a_faulted_device_can_be_used_again_after_many_faults
} }

#[test]
fn a_module_larger_than_a_message_is_refused_and_the_session_goes_on() {
    static LOGGED: Mutex<String> = Mutex::new(String::new());
    let log = |_, line: &str| *LOGGED.lock().expect("no panic") += line;
    let environment = client::Environment { log, ..client::Environment::default() };
    let gpu = Arc::new(SoftGpu::open(0, SoftOptions::default()).expect("a software GPU"));
    let harness = Harness::with(Wire::Memory, gpu, 0, WorkerOptions::default(), environment);
    let session = harness.remote.session().expect("a worker");
    let before = session.statistics();
    let part = vec![0; 1024 * 1024];
    // A little more than a message; what 32 bits count as a little more than a MiB.
    for parts in [512, 4097] {
        let loaded = session.load_module(vec![&part[..]; parts]);
        assert_eq!(loaded.map(drop), Err(CuError::OUT_OF_MEMORY));
        let logged = std::mem::take(&mut *LOGGED.lock().expect("no panic"));
        let bytes = (parts * (part.len() + 8) + 16).to_string();
        assert!(logged.contains(&bytes) && logged.contains(&MESSAGE_LIMIT.to_string()), "{logged}");
    }
    assert_eq!(session.statistics(), before, "nothing was sent");
    let images = [&part[..], b"no image either", b""];
    assert!(session.load_module(images.to_vec()).is_err());
    let frame = session.statistics().bytes_sent - before.bytes_sent;
    assert_eq!(frame, Header::SIZE as u64 + load_bytes(&images), "what is compared is what is sent");
    assert!(poke_works(&session, &kernel(&session, MODULE, "poke")));
}

#[test]
fn with_checks_a_write_one_word_behind_an_allocation_is_found() {
    for check in [false, true] {
        let options = SoftOptions { check, ..SoftOptions::default() };
        let gpu = Arc::new(SoftGpu::open(0, options).expect("a software GPU"));
        let harness = Harness::new(Wire::Memory, gpu, 0, WorkerOptions::default());
        let session = harness.remote.session().expect("a worker");
        let poke = kernel(&session, MODULE, "poke");
        let memory = session.cuMemAlloc(100).expect("memory");
        session.launch(&poke, &shape(1, 1), &(memory.0 + 96).to_le_bytes()).expect("launched");
        assert_eq!(session.cuCtxSynchronize(), Ok(()), "the last word");
        session.launch(&poke, &shape(1, 1), &(memory.0 + 100).to_le_bytes()).expect("launched");
        // Still in the allocation's page, so only a check to the byte finds it.
        let expected = if check { Err(CuError::ILLEGAL_ADDRESS) } else { Ok(()) };
        assert_eq!(session.cuCtxSynchronize(), expected, "checked: {check}");
        harness.finish();
    }
}
