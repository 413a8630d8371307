//! The real daemon and its worker processes: greetings, strangers, status, and orderly ends.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::remote::{WINDOW_BASE, WINDOW_BYTES};
use client::server_list::Transport;
use client::{ConnectError, Remote};
use cuda_types::{CUstream, CuError};
use proto::frame::{CallId, Header, append};
use proto::handshake::{AskStatus, Began, Begin, Hello, Status, Welcome};
use proto::{ContextCalls, MemoryCalls};
use transport::Address;

use common::{PATIENCE, Server, begun, begun_as, eventually, kill, quiet, round_trip};

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
    kill("-TERM", i32::try_from(server.process.id()).expect("a pid"));
    assert!(server.logged("waiting for 1 to finish"));
    round_trip(&session).expect("it is still served");
    let late = Remote::connect(server.address(), Transport::Auto, 0, Arc::new(quiet()), |_, _| true);
    assert!(matches!(late, Err(ConnectError::Link(transport::LinkError::Refused { .. }))));
    remote.close(PATIENCE);
    assert!(server.process.wait().expect("it runs").success());
}

/// A server that serves on a Unix socket alone, and ends when its standard input does.
fn on_a_lifeline(program: &Path, socket: &Path) -> Child {
    Command::new(program)
        .args(["--driver", "null", "--unix-only", "--lifeline", "--unix"])
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is there")
}

fn lines_of(process: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(process.stdout.take().expect("piped")).lines().map_while(Result::ok)
}

#[test]
fn a_server_on_a_lifeline_opens_no_port_and_leaves_nothing_behind() {
    let folder = tempfile::Builder::new().prefix("lifeline").tempdir().expect("a folder").keep();
    let socket = folder.join("device.sock");
    let mut process = on_a_lifeline(env!("CARGO_BIN_EXE_vgpu-server").as_ref(), &socket);
    let mut said = lines_of(&mut process);
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
fn a_server_whose_file_was_replaced_still_starts_workers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (program, socket) = (folder.path().join("server"), folder.path().join("device.sock"));
    std::fs::copy(env!("CARGO_BIN_EXE_vgpu-server"), &program).expect("a copy");
    let mut process = on_a_lifeline(&program, &socket);
    let mut said = lines_of(&mut process);
    assert!(said.any(|line| line.starts_with("Serving ")));
    std::fs::remove_file(&program).expect("it is there");
    let remote = Remote::connect(Address::Unix(socket), Transport::Auto, 0, Arc::new(quiet()), |_, _| true);
    let remote = remote.expect("the server is up");
    round_trip(&remote.session().expect("a worker")).expect("a good link");
    drop(process.stdin.take());
    assert!(process.wait().expect("it runs").success());
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
fn a_server_without_descriptors_waits_for_one() {
    let server = Server::start("null");
    let own = std::fs::read_dir(format!("/proc/{}/fd", server.process.id())).expect("Linux").count();
    let limit = format!("--nofile={0}:{0}", own + 4);
    let limited = Command::new("prlimit").args(["--pid", &server.process.id().to_string(), &limit]).status();
    if !limited.is_ok_and(|status| status.success()) {
        println!("skipped: prlimit cannot lower the limits of a process here");
        return;
    }
    let strangers: Vec<_> = (0..16).map(|_| server.raw()).collect();
    assert!(server.logged("could not be accepted"));
    std::thread::sleep(Duration::from_millis(500));
    // Ten times a second.
    assert!((1..20).contains(&server.count("could not be accepted")));
    drop(strangers);
    assert!(server.connect().facts().name.contains("null"), "there are descriptors again");
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
fn no_two_devices_of_a_program_share_a_window() {
    static TAKEN: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    fn reserve(base: u64, _: u64) -> bool {
        let mut taken = TAKEN.lock().expect("no panic under this lock");
        let is_free = base != WINDOW_BASE && !taken.contains(&base);
        taken.extend(is_free.then_some(base));
        is_free
    }
    let server = Server::start("null");
    let device = |ordinal| {
        Remote::connect(server.address(), Transport::Auto, ordinal, Arc::new(quiet()), reserve)
            .expect("the server is up")
    };
    let window = |remote: &Remote| {
        remote.session().expect("a worker").cuMemAlloc(4096).expect("memory").0 / WINDOW_BYTES
    };
    // The second proposal of the one is the first of the other.
    let (near, far) = (device(0), device(64));
    let (one, other) = (window(&near), window(&far));
    assert_ne!(one, other);
    near.reset().expect("a reset always works");
    assert_eq!(window(&near), one, "its own again");
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
fn a_clients_name_is_shown_without_what_a_terminal_obeys() {
    let server = Server::start("null");
    let _client = begun_as(&server, "-\x1b[2J\n\0x[7]@host");
    let status = server.connect().status().expect("this server tells");
    assert_eq!(status.clients.len(), 1);
    assert_eq!((status.clients[0].name.as_str(), status.clients[0].process), ("-?[2J??x[7]@host", Some(7)));
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
