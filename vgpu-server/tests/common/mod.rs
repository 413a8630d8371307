//! What the tests of the daemon share: a server of one's own, signals, and a session that is put to use.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use client::server_list::Transport;
use client::{Environment, Remote, Session};
use cuda_types::{CUstream, CuError, HostSpan};
use proto::frame::Header;
use proto::handshake::{Began, Begin, Hello, Welcome};
use transport::Address;

pub(crate) use testkit::{PATIENCE, eventually};

pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) port: u16,
    log: Arc<Mutex<String>>,
}

impl Server {
    pub(crate) fn start(driver: &str) -> Server {
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

    pub(crate) fn address(&self) -> Address {
        Address::Tcp { host: "127.0.0.1".into(), port: self.port }
    }

    pub(crate) fn connect(&self) -> Remote {
        Remote::connect(self.address(), Transport::Auto, 0, Arc::new(quiet()), |_, _| true)
            .expect("the server is up")
    }

    pub(crate) fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server is up");
        stream.set_read_timeout(Some(PATIENCE)).expect("a live socket");
        stream
    }

    /// Process ids of the workers.
    pub(crate) fn workers(&self) -> Vec<i32> {
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

    pub(crate) fn logged(&self, text: &str) -> bool {
        eventually(|| self.count(text) > 0)
    }

    /// How often the log has a text by now.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log.lock().expect("no panic under this lock").matches(text).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which some tests want.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn kill(signal: &str, pid: i32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill is there");
    assert!(status.success());
}

/// Losing links is what these tests are about: no messages.
pub(crate) fn quiet() -> Environment {
    Environment { log: |_, _| {}, ..Environment::default() }
}

pub(crate) fn round_trip(session: &Session) -> Result<(), CuError> {
    let device = session.cuMemAlloc(300_000)?;
    let up = HostSpan::leak((0..=255).cycle().take(300_000).collect());
    let down = HostSpan::leak(vec![0; 300_000]);
    session.copy_to_device(device, up, CUstream::NULL, true)?;
    session.copy_to_host(down, device, CUstream::NULL, true)?;
    assert_eq!(up.read(), down.read());
    session.cuMemFree(device)
}

/// Greets and gets a worker, by hand.
pub(crate) fn begun(server: &Server) -> TcpStream {
    begun_as(server, "by hand")
}

/// The same under a name.
pub(crate) fn begun_as(server: &Server, name: &str) -> TcpStream {
    let mut stream = server.raw();
    let mut answer = |frame: Vec<u8>, opcode: u16| {
        stream.write_all(&frame).expect("sent");
        let mut header = [0; Header::SIZE];
        stream.read_exact(&mut header).expect("an answer");
        let header = Header::decode(&header).expect("a frame");
        assert_eq!(header.opcode, opcode);
        stream.read_exact(&mut vec![0; header.length as usize]).expect("its arguments");
    };
    answer(Hello::new(name.into()).frame(), Welcome::OPCODE);
    answer(Begin { window_base: 1 << 44, window_bytes: 1 << 30, verbs: false }.frame(), Began::OPCODE);
    stream
}
