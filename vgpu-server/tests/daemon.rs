//! The real daemon and its worker processes: greetings, strangers, and every kind of sudden end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::launch::LaunchConfig;
use client::server_list::Transport;
use client::{ConnectError, Environment, Remote, Session};
use cuda_types::{CUstream, CuError, Dim3, HostSpan};
use proto::frame::{CallId, Header, append};
use proto::handshake::{AskStatus, Began, Begin, Hello, Status, Welcome};
use proto::{ContextCalls, MemoryCalls};
use testkit::kernels;
use transport::Address;

/// Longer than anything here takes, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    process: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

impl Server {
    fn start(driver: &str) -> Server {
        loop {
            let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
            match Server::start_at(driver, port.expect("a port").port().min(65000)) {
                Ok(server) => return server,
                // Another test has connected from it meanwhile.
                Err(log) if log.contains("another server may hold the port") => eprintln!("again: {log}"),
                Err(log) => panic!("the server does not start: {log}"),
            }
        }
    }

    /// A server at this port, or what it said before it ended.
    fn start_at(driver: &str, port: u16) -> Result<Server, String> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_vgpu-server"))
            .args(["--driver", driver, "--log", "debug", "--port", &port.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is there");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        if !line.starts_with("Serving ") {
            let output = process.wait_with_output().expect("it has ended");
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let log = Arc::new(Mutex::new(String::new()));
        let (errors, sink) = (process.stderr.take().expect("piped"), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let mut log = sink.lock().expect("no panic under this lock");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Ok(Server { process, port, log })
    }

    fn address(&self) -> Address {
        Address::Tcp { host: "127.0.0.1".into(), port: self.port }
    }

    fn connect(&self) -> Remote {
        Remote::connect(self.address(), Transport::Auto, 0, Arc::new(quiet()), |_, _| true)
            .expect("the server is up")
    }

    fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server is up");
        stream.set_read_timeout(Some(PATIENCE)).expect("a live socket");
        stream
    }

    /// Process ids of the workers.
    fn workers(&self) -> Vec<i32> {
        let parent = self.process.id().to_string();
        let is_child = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // "pid (name) state ppid ...": a zombie holds nothing any more.
            let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
            fields.next().is_some_and(|state| state != "Z") && fields.next() == Some(&parent)
        };
        let processes = std::fs::read_dir("/proc").expect("Linux");
        processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(is_child)
            .collect()
    }

    fn logged(&self, text: &str) -> bool {
        eventually(|| self.log.lock().expect("no panic under this lock").contains(text))
    }

    fn signal(&self, signal: &str) {
        kill(signal, i32::try_from(self.process.id()).expect("a pid"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which some tests want.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn kill(signal: &str, pid: i32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill is there");
    assert!(status.success());
}

fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Losing links is what these tests are about: no messages.
fn quiet() -> Environment {
    Environment { log: |_, _| {}, ..Environment::default() }
}

fn round_trip(session: &Session) -> Result<(), CuError> {
    let device = session.cuMemAlloc(300_000)?;
    let up = HostSpan::leak((0..=255).cycle().take(300_000).collect());
    let down = HostSpan::leak(vec![0; 300_000]);
    session.copy_to_device(device, up, CUstream::NULL, true)?;
    session.copy_to_host(down, device, CUstream::NULL, true)?;
    assert_eq!(up.read(), down.read());
    session.cuMemFree(device)
}

#[test]
fn clients_that_only_enumerate_start_no_worker() {
    let server = Server::start("null");
    let clients: Vec<Remote> = (0..64).map(|_| server.connect()).collect();
    assert!(clients.iter().all(|client| client.facts().name.contains("null")));
    assert_eq!(server.workers(), []);
    let session = clients[0].session().expect("a worker");
    round_trip(&session).expect("a good link");
    assert_eq!(server.workers().len(), 1);
    clients[0].close(PATIENCE);
    assert!(server.logged("the client left"));
    assert!(eventually(|| server.workers().is_empty()));
}

#[test]
fn a_client_of_another_version_is_refused_naming_both() {
    let server = Server::start("null");
    let mut stream = server.raw();
    let hello = Hello { oldest: 700, newest: 701, hashes: vec![1, 2], client: "from the future".into() };
    stream.write_all(&hello.frame()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and the end");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("700 to 701") && text.contains("install the same release"), "{text}");
}

/// Greets and gets a worker, by hand.
fn begun(server: &Server) -> TcpStream {
    let mut stream = server.raw();
    let mut answer = |frame: Vec<u8>, opcode: u16| {
        stream.write_all(&frame).expect("sent");
        let mut header = [0; Header::SIZE];
        stream.read_exact(&mut header).expect("an answer");
        let header = Header::decode(&header).expect("a frame");
        assert_eq!(header.opcode, opcode);
        stream.read_exact(&mut vec![0; header.length as usize]).expect("its arguments");
    };
    answer(Hello::new("by hand".into()).frame(), Welcome::OPCODE);
    answer(Begin { window_base: 1 << 44, window_bytes: 1 << 30, verbs: false }.frame(), Began::OPCODE);
    stream
}

#[test]
fn frames_that_are_none_end_their_own_session_with_a_logged_reason() {
    let server = Server::start("null");
    let other = server.connect();
    let other_session = other.session().expect("a worker");
    let mut call = Vec::new();
    append(&mut call, 0x0101, CallId(1), 0, |_| {});
    let mut trailing = Vec::new();
    append(&mut trailing, 0x0101, CallId(1), 0, |out| out.push(0));
    let mut unknown = Vec::new();
    append(&mut unknown, 0x7fff, CallId(1), 0, |_| {});
    let oversized = Header { opcode: 0x0101, call: CallId(1), length: u32::MAX, bulk: 0 }.encode();
    let outside = Header { opcode: 0x0010, call: CallId(0), length: 8, bulk: 1 << 20 }.encode();
    let outside = [&outside[..], &u64::MAX.to_le_bytes()].concat();
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "magic"),
        (&oversized, "bytes of arguments"),
        (&trailing, "1 bytes after its end"),
        (&unknown, "0x7fff is no call"),
        (&outside, "of the staging"),
    ] {
        let mut stream = begun(&server);
        stream.write_all(bytes).expect("sent");
        let mut rest = Vec::new();
        // The worker may close with bytes of ours unread, which resets the connection.
        let _ = stream.read_to_end(&mut rest);
        assert!(server.logged(reason), "{reason}");
        round_trip(&other_session).expect("another client notices nothing");
    }
    // A frame that is cut off ends with its link.
    let mut stream = begun(&server);
    stream.write_all(&call[..7]).expect("sent");
    drop(stream);
    assert!(eventually(|| server.workers().len() == 1), "only the other client's worker is left");
    round_trip(&other_session).expect("another client notices nothing");
}

#[test]
fn strangers_who_do_not_greet_are_turned_away() {
    let server = Server::start("null");
    let mut stream = server.raw();
    stream
        .write_all(&Header { opcode: Hello::OPCODE, call: CallId(0), length: 1 << 20, bulk: 0 }.encode())
        .expect("sent");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(server.logged("a greeting was expected"));
    let mut stream = server.raw();
    stream.write_all(&[0x16; 200]).expect("sent");
    let _ = stream.read_to_end(&mut rest);
    assert!(server.logged("magic"));
    round_trip(&server.connect().session().expect("a worker")).expect("a good link");
}

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

/// Set in the processes that only look.
const LOOKER: &str = "VGPU_TEST_LOOKER";

#[test]
fn sixty_four_processes_that_only_enumerate_eight_devices_start_no_worker() {
    if let Ok(ports) = std::env::var(LOOKER) {
        let devices: Vec<Remote> = ports
            .split(',')
            .map(|port| {
                let address = Address::Tcp { host: "127.0.0.1".into(), port: port.parse().expect("a port") };
                Remote::connect(address, Transport::Auto, 0, Arc::new(quiet()), |_, _| true)
                    .expect("the server is up")
            })
            .collect();
        assert!(devices.iter().all(|device| device.facts().name.contains("null")));
        println!("seen {} devices", devices.len());
        // Until the test has counted.
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let servers: Vec<Server> = (0..8).map(|_| Server::start("null")).collect();
    let ports = servers.iter().map(|server| server.port.to_string()).collect::<Vec<_>>().join(",");
    let mut lookers: Vec<Child> = (0..64)
        .map(|_| {
            Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "sixty_four_processes_that_only_enumerate_eight_devices_start_no_worker"])
                .arg("--nocapture")
                .env(LOOKER, &ports)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("this test starts again")
        })
        .collect();
    for looker in &mut lookers {
        let said = BufReader::new(looker.stdout.as_mut().expect("piped")).lines().map_while(Result::ok);
        assert!(said.into_iter().any(|line| line.contains("seen 8 devices")));
    }
    assert!(servers.iter().all(|server| server.workers().is_empty()));
    for mut looker in lookers {
        drop(looker.stdin.take());
        assert!(looker.wait().expect("it ran").success());
    }
}

#[test]
fn a_termination_lets_clients_finish_and_takes_no_new_ones() {
    let mut server = Server::start("null");
    let remote = server.connect();
    let session = remote.session().expect("a worker");
    server.signal("-TERM");
    assert!(server.logged("waiting for 1 to finish"));
    round_trip(&session).expect("it is still served");
    let late = Remote::connect(server.address(), Transport::Auto, 0, Arc::new(quiet()), |_, _| true);
    assert!(matches!(late, Err(ConnectError::Link(transport::LinkError::Refused { .. }))));
    remote.close(PATIENCE);
    assert!(server.process.wait().expect("it runs").success());
}

#[test]
fn a_server_on_a_lifeline_opens_no_port_and_leaves_nothing_behind() {
    let folder = tempfile::Builder::new().prefix("lifeline").tempdir().expect("a folder").keep();
    let socket = folder.join("device.sock");
    let mut process = Command::new(env!("CARGO_BIN_EXE_vgpu-server"))
        .args(["--driver", "null", "--unix-only", "--lifeline", "--unix"])
        .arg(&socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is there");
    let mut said = BufReader::new(process.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let (what, paste) = (said.next().expect("a line"), said.next().expect("a line"));
    assert!(what.starts_with("Serving ") && what.ends_with("on a Unix socket."), "{what}");
    assert!(paste.ends_with(&format!("export VGPU_SERVER=\"unix:{}\"", socket.display())), "{paste}");
    let tcp = std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("Linux").filter_map(|entry| {
        let target = std::fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        let listening = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/net/{table}")));
        let is_tcp = |table: String| table.lines().any(|row| row.split_whitespace().nth(9) == Some(&inode));
        listening.into_iter().flatten().any(is_tcp).then_some(inode)
    });
    assert_eq!(tcp.collect::<Vec<_>>(), [] as [String; 0], "no TCP socket");
    let remote = Remote::connect(Address::Unix(socket), Transport::Auto, 0, Arc::new(quiet()), |_, _| true);
    let remote = remote.expect("the server is up");
    let session = remote.session().expect("a worker");
    round_trip(&session).expect("a good link");
    drop(process.stdin.take());
    assert!(process.wait().expect("it runs").success(), "it does not wait for its client");
    assert!(!folder.exists());
    assert!(eventually(|| ContextCalls::cuCtxSynchronize(&*session) == Err(CuError::DEVICE_UNAVAILABLE)));
}

#[test]
fn the_service_manager_learns_when_clients_can_come_and_when_no_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let (notify, socket) = (folder.path().join("notify"), folder.path().join("device.sock"));
    let manager = std::os::unix::net::UnixDatagram::bind(&notify).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a live socket");
    let told = || {
        let mut bytes = [0; 64];
        let length = manager.recv(&mut bytes).expect("a line");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut process = Command::new(env!("CARGO_BIN_EXE_vgpu-server"))
        .args(["--driver", "null", "--unix-only", "--unix"])
        .arg(&socket)
        .env("NOTIFY_SOCKET", &notify)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program is there");
    assert_eq!(told(), "READY=1");
    Remote::connect(Address::Unix(socket), Transport::Auto, 0, Arc::new(quiet()), |_, _| true)
        .expect("it is ready");
    kill("-TERM", i32::try_from(process.id()).expect("a pid"));
    assert_eq!(told(), "STOPPING=1");
    assert!(process.wait().expect("it runs").success());
}

#[test]
fn a_port_that_is_taken_is_named_with_the_remedy() {
    let server = Server::start("null");
    let second = Command::new(env!("CARGO_BIN_EXE_vgpu-server"))
        .args(["--driver", "null", "--port", &server.port.to_string()])
        .output()
        .expect("the program is there");
    let message = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success());
    assert!(
        message.contains(&server.port.to_string()) && message.contains("choose another -s or --port"),
        "{message}"
    );
}

#[test]
fn a_farewell_right_after_posted_calls_loses_none_of_them() {
    let server = Server::start("null");
    let remote = server.connect();
    let session = remote.session().expect("a worker");
    let device = session.cuMemAlloc(4).expect("memory");
    for value in 0..1000 {
        session.cuMemsetD32Async(device, value, 1, CUstream::NULL).expect("posted");
    }
    remote.close(PATIENCE);
    assert!(server.logged("cuMemsetD32Async=1000"));
    assert_eq!(ContextCalls::cuCtxSynchronize(&*session), Err(CuError::DEVICE_UNAVAILABLE), "it is over");
}

#[test]
fn a_client_without_a_context_is_told_who_uses_what() {
    let server = Server::start("null");
    let (looking, first, second) = (server.connect(), server.connect(), server.connect());
    let status = looking.status().expect("this server tells");
    let total_memory = looking.facts().total_memory;
    assert_eq!((status.total_memory, status.used_bytes), (total_memory, Some(0)));
    assert_eq!((status.utilization_percent, status.clients.len()), (Some(0), 0));
    let (one, other) = (first.session().expect("a worker"), second.session().expect("a worker"));
    let memory = one.cuMemAlloc(10 << 20).expect("memory");
    let _other_memory = other.cuMemAlloc(300 << 20).expect("memory");
    let status = looking.status().expect("this server tells");
    let used: Vec<u64> = status.clients.iter().map(|client| client.used_bytes.expect("told")).collect();
    assert!((10 << 20..300 << 20).contains(&used[0]) && used[1] >= 300 << 20, "{used:?}");
    assert_eq!(status.used_bytes, Some(used.iter().sum()));
    for client in &status.clients {
        assert_eq!(client.process, Some(std::process::id()));
        assert!(client.name.starts_with("daemon-") && client.peer.starts_with("127.0.0.1:"), "{client:?}");
    }
    // While a call waits for the device, its client is told of like any other, and so is the time.
    let release = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let held = Arc::clone(&release);
    let hold = Box::new(move |_| {
        while !held.load(std::sync::atomic::Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let stream = proto::StreamCalls::cuStreamCreateWithPriority(&*one, 1, 0).expect("a stream");
    one.launch_host_function(stream, hold).expect("a host function");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.cuStreamSynchronize(stream));
        let busy = eventually(|| {
            looking.status().and_then(|status| status.utilization_percent).is_some_and(|percent| percent > 90)
        });
        release.store(true, std::sync::atomic::Ordering::Release);
        assert!(busy, "a call that waits is a second of use");
        waiting.join().expect("no panic").expect("the host function has run");
    });
    one.cuMemFree(memory).expect("freed");
    first.close(PATIENCE);
    assert!(eventually(|| looking.status().is_some_and(|status| status.clients.len() == 1)));
    assert_eq!(looking.status().and_then(|status| status.used_bytes), Some(used[1]));
    assert_eq!(server.workers().len(), 1, "nobody who asks gets a worker");
    // The one that was greeted first can still begin, on the link over which it has never asked.
    round_trip(&looking.session().expect("a worker")).expect("a good link");
}

#[test]
fn status_may_be_asked_before_a_begin_on_the_same_link() {
    let server = Server::start("null");
    let mut stream = server.raw();
    let mut answer = |frame: Vec<u8>| {
        stream.write_all(&frame).expect("sent");
        let mut header = [0; Header::SIZE];
        stream.read_exact(&mut header).expect("an answer");
        let header = Header::decode(&header).expect("a frame");
        stream.read_exact(&mut vec![0; header.length as usize]).expect("its arguments");
        header.opcode
    };
    assert_eq!(answer(Hello::new("by hand".into()).frame()), Welcome::OPCODE);
    let begin = Begin { window_base: 1 << 44, window_bytes: 1 << 30, verbs: false };
    let answers = [AskStatus {}.frame(), AskStatus {}.frame(), begin.frame()].map(answer);
    assert_eq!(answers, [Status::OPCODE, Status::OPCODE, Began::OPCODE]);
}

#[test]
fn a_server_that_does_not_know_the_question_leaves_it_unanswered() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = Server::start("null");
    let facts = server.connect().facts().clone();
    // As servers did before they knew it: what is no `Begin` ends the connection.
    let older = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut hello = [0; Header::SIZE];
            stream.read_exact(&mut hello).expect("a greeting");
            let length = Header::decode(&hello).expect("a frame").length;
            stream.read_exact(&mut vec![0; length as usize]).expect("its arguments");
            let welcome = Welcome { version: proto::handshake::VERSIONS.1, facts: facts.clone() };
            stream.write_all(&welcome.frame()).expect("sent");
            // The end of the first client's link, the question of the second.
            let _ = stream.read(&mut [0; Header::SIZE]);
        }
    });
    let address = Address::Tcp { host: "127.0.0.1".into(), port };
    let greeted = |address: &Address| {
        let link = transport::SocketLink::connect(address, PATIENCE, PATIENCE).expect("it listens");
        client::connect::Greeted::new(Box::new(link), PATIENCE).expect("it greets")
    };
    drop(greeted(&address));
    assert!(matches!(greeted(&address).status(PATIENCE), Err(ConnectError::Link(_))));
    older.join().expect("no panic");
}
