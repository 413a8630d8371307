//! The daemon: listens, greets, and starts a worker process for each client that wants a context.
//!
//! It never opens the device. Enumeration is answered from facts that a helper process read at start, so that many
//! ranks that only look cost no context.

mod manager;
pub mod probe;
mod status;
pub mod worker_process;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use proto::DeviceFacts;
use proto::frame::Header;
use proto::handshake::{AskStatus, Begin, GREETING_LIMIT, Hello, Refusal, Welcome};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::options::Options;
use status::Clients;

/// How long a stranger may take over its greeting.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// How long an established link may give no sign of life.
pub(crate) fn link_timeout() -> Duration {
    let milliseconds = std::env::var("VGPU_LINK_TIMEOUT_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(milliseconds.unwrap_or(2000))
}

/// The arguments that tell a helper process or a worker which device is meant.
pub(crate) fn device_arguments(options: &Options) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut push = |name: &str, value: String| arguments.extend([name.into(), value.into()]);
    push("--device", options.device.to_string());
    push("--driver", options.driver.to_string());
    push("--log", options.log.clone());
    push("--staging-kib", options.staging_kib.to_string());
    let word = |value: Option<clap::builder::PossibleValue>| {
        value.map_or(String::new(), |value| value.get_name().to_owned())
    };
    push("--verbs", word(options.verbs.to_possible_value()));
    push("--gpudirect", word(options.gpudirect.to_possible_value()));
    if let Some(device) = &options.rdma_device {
        push("--rdma-device", device.clone());
    }
    if let Some(spin) = options.spin_us {
        push("--spin-us", spin.to_string());
    }
    arguments
}

/// Serves until SIGTERM or Ctrl-C, then lets the clients finish.
pub fn run(options: Options) -> Result<(), String> {
    let facts = probe::facts(&options)?;
    // One thread: a worker's death signal is tied to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the event loop: {error}"))?;
    runtime.block_on(serve(Arc::new(options), Arc::new(facts)))
}

async fn serve(options: Arc<Options>, facts: Arc<DeviceFacts>) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| format!("SIGTERM: {error}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| format!("SIGINT: {error}"))?;
    let mut lifeline = if options.lifeline { Some(lifeline()?) } else { None };
    let (first, second) = if options.unix_only { (None, None) } else { listen(&options).await? };
    let unix = match &options.unix {
        Some(path) => Some(listen_unix(path)?),
        None => None,
    };
    announce(&options, &facts);
    manager::tell("READY=1");
    let clients = Clients::new(facts.total_memory);
    let serving = Serving { options: Arc::clone(&options), facts, clients };
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept_opt(first.as_ref()) => take(accepted, &mut sessions, &serving).await,
            accepted = accept_opt(second.as_ref()) => take(accepted, &mut sessions, &serving).await,
            accepted = accept_unix(unix.as_ref()) => take(accepted, &mut sessions, &serving).await,
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = cut(lifeline.as_mut()) => {
                // Nobody is left to finish for: workers end with their Child handles.
                sessions.shutdown().await;
                break;
            }
        }
    }
    manager::tell("STOPPING=1");
    drop((first, second, unix));
    if let Some(path) = &options.unix {
        // It may be gone already.
        let _ = std::fs::remove_file(path);
        if let Some(folder) = path.parent().filter(|_| options.lifeline) {
            // The folder was made for this program's sockets; while one is left this fails, and its server comes last.
            let _ = std::fs::remove_dir(folder);
        }
    }
    drain(&options, sessions, &mut terminate, &mut interrupt).await;
    Ok(())
}

/// Lets the clients finish; a second signal or the end of the drain time ends them.
async fn drain(
    options: &Options,
    mut sessions: JoinSet<()>,
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) {
    if sessions.is_empty() {
        return;
    }
    tracing::info!("no new clients; waiting for {} to finish", sessions.len());
    tokio::select! {
        () = async { while sessions.join_next().await.is_some() {} } => {}
        () = tokio::time::sleep(worker_process::drain_time(options)) => {
            tracing::warn!("clients are still there after {} s: ending their sessions", options.drain_seconds);
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Workers that are left end with their Child handles.
    sessions.shutdown().await;
}

/// Standard input, whose end is ours: ready when it is.
fn lifeline() -> Result<oneshot::Receiver<()>, String> {
    let (cut, lifeline) = oneshot::channel();
    let wait = || {
        let stdin = rustix::stdio::stdin();
        // A process descriptor is readable when its process has ended, a pipe at its end.
        let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
        while matches!(poll(&mut watched, None), Err(Errno::INTR)) {}
        drop(cut);
    };
    let thread = std::thread::Builder::new().name("lifeline".into()).spawn(wait);
    thread.map(|_| lifeline).map_err(|error| format!("--lifeline: starting its thread: {error}"))
}

async fn cut(lifeline: Option<&mut oneshot::Receiver<()>>) {
    match lifeline {
        // Nothing is ever sent: the other end is dropped.
        Some(lifeline) => drop(lifeline.await),
        None => std::future::pending().await,
    }
}

/// What listens on TCP: one address, and where none is given the second address of this machine itself.
type Listeners = (Option<TcpListener>, Option<TcpListener>);

async fn listen(options: &Options) -> Result<Listeners, String> {
    let port = options.port();
    let bind = async |ip: IpAddr| {
        let address = SocketAddr::new(ip, port);
        TcpListener::bind(address).await.map_err(|error| {
            format!("listening on {address}: {error}; another server may hold the port: choose another -s or --port")
        })
    };
    match options.listen {
        Some(ip) => {
            if !ip.is_loopback() {
                tracing::warn!(
                    "whoever reaches {ip}:{port} can use this device: there is no authentication yet"
                );
            }
            Ok((Some(bind(ip).await?), None))
        }
        None => {
            let v4 = bind(IpAddr::V4(Ipv4Addr::LOCALHOST)).await?;
            // A machine without IPv6 is served all the same.
            Ok((Some(v4), bind(IpAddr::V6(Ipv6Addr::LOCALHOST)).await.ok()))
        }
    }
}

fn listen_unix(path: &Path) -> Result<UnixListener, String> {
    // A socket file that nobody listens on any more is left by a server that was killed.
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
    UnixListener::bind(path).map_err(|error| format!("listening on {}: {error}", path.display()))
}

/// Says what is served and the lines to paste; the first line tells who started us that clients can come.
fn announce(options: &Options, facts: &DeviceFacts) {
    let host = match options.listen {
        Some(ip) if !ip.is_unspecified() => ip.to_string(),
        Some(_) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        None => "localhost".into(),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let base =
        if options.base_port == proto::BASE_PORT { String::new() } else { format!("@{}", options.base_port) };
    let tcp = (!options.unix_only).then(|| format!("{host}{base}:{}", options.id));
    let unix = options.unix.as_ref().map(|path| format!("unix:{}", path.display()));
    let place = if options.unix_only { "a Unix socket".into() } else { format!("port {}", options.port()) };
    let mut line = format!(
        "Serving {} ({} MiB, driver {}) on {place}.\n",
        facts.name,
        facts.total_memory >> 20,
        options.driver,
    );
    for (word, item) in ["On the client:", "          or:"].into_iter().zip([tcp, unix].into_iter().flatten())
    {
        line += &format!("{word}  export VGPU_SERVER=\"{item}\"\n");
    }
    print!("{line}");
}

async fn accept_opt(listener: Option<&TcpListener>) -> std::io::Result<(Client, String)> {
    match listener {
        Some(listener) => {
            listener.accept().await.map(|(stream, peer)| (Client::Tcp(stream), peer.to_string()))
        }
        None => std::future::pending().await,
    }
}

async fn accept_unix(listener: Option<&UnixListener>) -> std::io::Result<(Client, String)> {
    match listener {
        Some(listener) => {
            listener.accept().await.map(|(stream, _)| (Client::Unix(stream), "a local program".into()))
        }
        None => std::future::pending().await,
    }
}

async fn take(accepted: std::io::Result<(Client, String)>, sessions: &mut JoinSet<()>, serving: &Serving) {
    match accepted {
        Ok((client, peer)) => {
            sessions.spawn(session(client, peer, serving.clone()));
        }
        Err(error) => {
            tracing::warn!("a client could not be accepted: {error}");
            // Out of descriptors, most likely: do not spin until one is free.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What every session needs.
#[derive(Clone)]
struct Serving {
    options: Arc<Options>,
    facts: Arc<DeviceFacts>,
    clients: Arc<Clients>,
}

/// A client's socket, of either kind.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One client from its greeting to the end of its worker.
async fn session(client: Client, peer: String, serving: Serving) {
    let greeted = match client {
        Client::Tcp(mut stream) => {
            let greeted = greet(&mut stream, &peer, &serving).await;
            greeted.map(|(hello, begin)| (hello, begin, stream.into_std().map(OwnedFd::from)))
        }
        Client::Unix(mut stream) => {
            let greeted = greet(&mut stream, &peer, &serving).await;
            greeted.map(|(hello, begin)| (hello, begin, stream.into_std().map(OwnedFd::from)))
        }
    };
    match greeted {
        Ok((hello, begin, Ok(socket))) => {
            let name = format!("{} at {peer}", hello.client);
            match start_worker(socket, &begin, &name, &serving.options) {
                Ok((mut worker, questions)) => {
                    let _present = serving.clients.add(&hello.client, &peer, questions);
                    match worker.wait().await {
                        Ok(status) if status.success() => {}
                        Ok(status) => tracing::warn!(client = name, "worker ended with {status}"),
                        Err(error) => tracing::warn!(client = name, "worker lost: {error}"),
                    }
                }
                Err(error) => tracing::error!(client = name, "no worker could be started: {error}"),
            }
        }
        Ok((_, _, Err(error))) => tracing::warn!("{peer}: {error}"),
        Err(Some(reason)) => tracing::warn!("{peer}: {reason}"),
        Err(None) => tracing::debug!("{peer} looked and left"),
    }
}

/// Starts a worker; over the socket in the answer, which is the worker's standard output, it is asked what it uses.
fn start_worker(
    socket: OwnedFd,
    begin: &Begin,
    client: &str,
    options: &Options,
) -> std::io::Result<(Child, UnixStream)> {
    let (questions, answers) = std::os::unix::net::UnixStream::pair()?;
    questions.set_nonblocking(true)?;
    // When the file was replaced by another release, this process still has its own, which speaks as it does.
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    let child = Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()))
        .arg("--worker")
        .args(device_arguments(options))
        .args(["--window-base", &begin.window_base.to_string()])
        .args(["--window-bytes", &begin.window_bytes.to_string()])
        .args(begin.verbs.then_some("--verbs-wanted"))
        // In one word: a name may begin as an option does.
        .arg(format!("--client={client}"))
        .stdin(Stdio::from(socket))
        .stdout(Stdio::from(OwnedFd::from(answers)))
        // Ctrl-C is for the daemon, which drains.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, UnixStream::from_std(questions)?))
}

/// Greets a client up to its `Begin`. `Err(None)` when it left before that, as one does that only enumerates.
async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    peer: &str,
    serving: &Serving,
) -> Result<(Hello, Begin), Option<String>> {
    let first = tokio::time::timeout(GREETING_TIME, read_greeting(stream, &[Hello::OPCODE])).await;
    let mut hello = match first {
        Ok(Ok(Some((_, bytes)))) => Hello::read(&bytes).map_err(|error| Some(error.to_string()))?,
        Ok(Ok(None)) => return Err(None),
        Ok(Err(reason)) => return Err(Some(reason)),
        Err(_) => return Err(Some("connected and said nothing".into())),
    };
    // It is shown in the log and to other clients, whose terminals take it for what it says.
    hello.client = hello.client.replace(char::is_control, "?");
    match hello.agree() {
        Ok(version) => {
            tracing::debug!("{} at {peer}: protocol {version}", hello.client);
            let welcome = Welcome { version, facts: DeviceFacts::clone(&serving.facts) };
            stream.write_all(&welcome.frame()).await.map_err(|error| Some(error.to_string()))?;
        }
        Err(refusal) => {
            refuse(stream, &refusal).await;
            return Err(Some(refusal.reason));
        }
    }
    // A program may enumerate devices now and use them hours later, or never.
    loop {
        match read_greeting(stream, &[Begin::OPCODE, AskStatus::OPCODE]).await {
            Ok(Some((AskStatus::OPCODE, bytes))) => {
                AskStatus::read(&bytes).map_err(|error| Some(error.to_string()))?;
                let status = serving.clients.status().await;
                stream.write_all(&status.frame()).await.map_err(|error| Some(error.to_string()))?;
            }
            Ok(Some((_, bytes))) => {
                let begin = Begin::read(&bytes).map_err(|error| Some(error.to_string()))?;
                return Ok((hello, begin));
            }
            Ok(None) => return Err(None),
            Err(reason) => return Err(Some(reason)),
        }
    }
}

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), refusal: &Refusal) {
    // If it does not arrive the client sees the end of the connection.
    let _ = stream.write_all(&refusal.frame()).await;
    let _ = stream.shutdown().await;
}

/// Reads one greeting of these and not a byte more: what follows is the worker's. `None` at the end of the connection.
async fn read_greeting(
    stream: &mut (impl AsyncRead + Unpin),
    opcodes: &[u16],
) -> Result<Option<(u16, Vec<u8>)>, String> {
    let mut bytes = [0; Header::SIZE];
    if let Err(error) = stream.read_exact(&mut bytes).await {
        return match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => Ok(None),
            _ => Err(error.to_string()),
        };
    }
    let header = Header::decode(&bytes).map_err(|error| error.to_string())?;
    if !opcodes.contains(&header.opcode) || header.length > GREETING_LIMIT || header.bulk != 0 {
        return Err(format!("a greeting was expected, found {header:?}"));
    }
    let mut arguments = vec![0; header.length as usize];
    stream.read_exact(&mut arguments).await.map_err(|error| format!("a greeting was cut off: {error}"))?;
    Ok(Some((header.opcode, arguments)))
}
