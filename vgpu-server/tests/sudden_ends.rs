//! Every kind of sudden end: of workers, servers and clients, in the middle of copies and of kernels.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::launch::LaunchConfig;
use client::server_list::Transport;
use client::{Remote, Session};
use cuda_types::{CUstream, CuError, Dim3, HostSpan};
use proto::MemoryCalls;
use proto::frame::{CallId, Header};
use testkit::kernels;
use transport::Address;

use common::{PATIENCE, Server, begun, eventually, kill, quiet, round_trip};

/// Calls until one fails, within the link's timeout and far from a hang.
fn error_after(session: &Session, end: impl FnOnce()) -> CuError {
    let (begun, copying) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let calling = scope.spawn(move || {
            let bytes = 64 * 1024 * 1024;
            let (up, device) =
                (HostSpan::leak(vec![1; bytes]), session.cuMemAlloc(bytes as u64).expect("memory"));
            begun.send(()).expect("the test listens");
            loop {
                let copied = session.copy_to_device(device, up, CUstream::NULL, true);
                if let Err(error) = copied.and_then(|()| session.cuCtxSynchronize()) {
                    return error;
                }
            }
        });
        copying.recv().expect("it begins");
        std::thread::sleep(Duration::from_millis(50));
        let killed = Instant::now();
        end();
        let error = calling.join().expect("no panic");
        assert!(killed.elapsed() < PATIENCE / 2, "took {:?}", killed.elapsed());
        error
    })
}

#[test]
fn a_worker_killed_in_the_middle_of_a_copy_is_a_clear_error_for_its_client_alone() {
    let server = Server::start("null");
    let victim = server.connect();
    let session = victim.session().expect("a worker");
    let pid = server.workers()[0];
    let other = server.connect();
    let other_session = other.session().expect("a worker");
    assert_eq!(error_after(&session, || kill("-KILL", pid)), CuError::DEVICE_UNAVAILABLE);
    assert_eq!(session.cuCtxSynchronize(), Err(CuError::DEVICE_UNAVAILABLE), "the error stays");
    round_trip(&other_session).expect("another client notices nothing");
    assert!(server.logged("worker ended with signal: 9"));
    // After a reset the device is there again.
    victim.reset().expect("a reset always works");
    round_trip(&victim.session().expect("a new worker")).expect("a good link");
}

#[test]
fn a_server_killed_in_the_middle_of_a_copy_is_a_clear_error_and_leaves_no_worker() {
    let mut server = Server::start("null");
    let remote = server.connect();
    let session = remote.session().expect("a worker");
    let workers = server.workers();
    assert_eq!(
        error_after(&session, || server.process.kill().expect("it runs")),
        CuError::DEVICE_UNAVAILABLE
    );
    assert!(eventually(|| workers
        .iter()
        .all(|pid| !std::path::Path::new(&format!("/proc/{pid}/exe")).exists())));
    remote.reset().expect("a reset always works");
    assert_eq!(remote.session().err(), Some(CuError::DEVICE_UNAVAILABLE), "nobody listens any more");
}

#[test]
fn a_client_killed_in_the_middle_of_a_copy_leaves_no_worker() {
    let server = Server::start("null");
    let mut stream = begun(&server);
    assert_eq!(server.workers().len(), 1);
    // The first half of a bulk frame.
    stream
        .write_all(&Header { opcode: 0x0010, call: CallId(0), length: 8, bulk: 1 << 20 }.encode())
        .expect("sent");
    stream.write_all(&0_u64.to_le_bytes()).expect("sent");
    stream.write_all(&[7; 1000]).expect("sent");
    drop(stream);
    assert!(eventually(|| server.workers().is_empty()));
    round_trip(&server.connect().session().expect("a worker")).expect("a good link");
}

/// Starts a kernel that never ends.
fn run_forever(session: &Session) {
    let (module, facts) = session.load_module(vec![kernels::MODULE.as_bytes()]).expect("PTX");
    let forever = facts.functions.into_iter().find(|kernel| kernel.name == "forever").expect("it is there");
    let function = session.function(module, Arc::new(forever)).expect("a kernel");
    let one = Dim3 { x: 1, y: 1, z: 1 };
    let config =
        LaunchConfig { grid: one, block: one, shared_bytes: 0, stream: CUstream::NULL, cooperative: false };
    session.launch(&function, &config, &[]).expect("launched");
    session.flush().expect("a good link");
}

#[test]
fn a_worker_killed_in_the_middle_of_a_kernel_is_a_clear_error_for_its_client_alone() {
    let server = Server::start("soft");
    let victim = server.connect();
    let session = victim.session().expect("a worker");
    let pid = server.workers()[0];
    let other = server.connect();
    let other_session = other.session().expect("a worker");
    run_forever(&session);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| session.cuCtxSynchronize());
        std::thread::sleep(Duration::from_millis(100));
        kill("-KILL", pid);
        assert_eq!(waiting.join().expect("no panic"), Err(CuError::DEVICE_UNAVAILABLE));
    });
    round_trip(&other_session).expect("another client notices nothing");
    victim.reset().expect("a reset always works");
    let session = victim.session().expect("a new worker");
    round_trip(&session).expect("a good link");
    let (free, total) = session.cuMemGetInfo_v2().expect("a good link");
    assert!(total - free <= 2 << 20, "only the chunk of this round trip is left");
}

#[test]
fn a_server_killed_in_the_middle_of_a_kernel_leaves_no_worker() {
    let mut server = Server::start("soft");
    let remote = server.connect();
    let session = remote.session().expect("a worker");
    let workers = server.workers();
    run_forever(&session);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| session.cuCtxSynchronize());
        std::thread::sleep(Duration::from_millis(100));
        server.process.kill().expect("it runs");
        assert_eq!(waiting.join().expect("no panic"), Err(CuError::DEVICE_UNAVAILABLE));
    });
    assert!(eventually(|| workers
        .iter()
        .all(|pid| !std::path::Path::new(&format!("/proc/{pid}/exe")).exists())));
}

/// Set in the process that is killed.
const VICTIM: &str = "VGPU_TEST_VICTIM";

#[test]
fn a_client_killed_in_the_middle_of_a_kernel_leaves_no_worker_and_no_memory() {
    if let Some(port) = std::env::var(VICTIM).ok().and_then(|port| port.parse().ok()) {
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        let remote = Remote::connect(address, Transport::Auto, 0, Arc::new(quiet()), |_, _| true)
            .expect("the server is up");
        let session = remote.session().expect("a worker");
        session.cuMemAlloc(1 << 30).expect("memory");
        run_forever(&session);
        // Killed here.
        let _ = session.cuCtxSynchronize();
        return;
    }
    let server = Server::start("soft");
    let other = server.connect();
    let other_session = other.session().expect("a worker");
    let mut victim = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_client_killed_in_the_middle_of_a_kernel_leaves_no_worker_and_no_memory"])
        .env(VICTIM, server.port.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("this test starts again");
    assert!(eventually(|| server.workers().len() == 2));
    std::thread::sleep(Duration::from_millis(200));
    victim.kill().expect("it runs");
    victim.wait().expect("it ran");
    assert!(eventually(|| server.workers().len() == 1), "the worker goes, though its kernel never ends");
    round_trip(&other_session).expect("another client notices nothing");
    let (free, total) = other_session.cuMemGetInfo_v2().expect("a good link");
    assert!(total - free <= 2 << 20, "only the chunk of this round trip is left");
}
