//! A network with a delay: two network namespaces, a TUN device in each, and a thread between them that holds every
//! packet for half a round trip.
//!
//! The delay is one of packets: both ends are kernels that wait for each other's acknowledgements, as over a real
//! distance. A proxy that ends TCP would acknowledge at once and hide what windows cost. The queues have no end and
//! keep the order of the packets; what the kernel drops before them is counted, and an error.
//!
//! It needs root, `/dev/net/tun` and `ip` of iproute2. The namespaces are called after this process, go with
//! [`Network`], and those of a process that was killed go with the next one's start.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_current_timer_slack};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::table::median;

/// See the module's text.
pub(crate) struct Network {
    near: Namespace,
    far: Namespace,
    stop: Arc<OwnedFd>,
    relay: Option<JoinHandle<Result<(), String>>>,
}

/// A network namespace; it ends with this value and with the last process in it.
struct Namespace {
    name: String,
    descriptor: File,
}

/// Packets on one way, each with the time at which it is due and its length; the longest possible has room.
type Way = VecDeque<(Instant, usize, Box<[u8]>)>;

/// Addresses of the two ends; every network has its own namespaces, so all have the same ones.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Large packets, because each costs the relay system calls on processors that the measured processes need.
const MTU: u16 = 65_000;
/// Packets that the kernel keeps for the relay: more than it can fill while the relay is not running.
const KERNEL_QUEUE: u32 = 20_000;
/// Least, first and most bytes of a connection's send buffer.
const SEND_BUFFER: &str = "4096 16384 33554432";
/// Packets that a relay has memory for from the start: more than are under way at 10 ms. Each network goes through all of
/// it in turn, so that what lies there for half a round trip costs the processors no more than what goes on at once.
const PACKETS: usize = 256;
/// How many packets of one side are taken before those that are due are sent.
const TURN: usize = 64;
const PREFIX: &str = "vgpu-bench";

impl Network {
    /// Makes a network whose packets come back after `round_trip` at the earliest.
    pub(crate) fn new(round_trip: Duration) -> Result<Network, String> {
        let needs = |error| format!("it needs root, /dev/net/tun and ip of iproute2 ({error})");
        Network::make(round_trip).map_err(needs)
    }

    fn make(round_trip: Duration) -> Result<Network, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        remove_stale();
        let name = format!("{PREFIX}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let near = Namespace::new(format!("{name}-near"))?;
        let far = Namespace::new(format!("{name}-far"))?;
        let devices = [near.device(NEAR, FAR)?, far.device(FAR, NEAR)?];
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| format!("eventfd: {error}"))?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        let relay = std::thread::spawn(move || relay(&devices, round_trip / 2, &stopped));
        Ok(Network { near, far, stop, relay: Some(relay) })
    }

    /// Where servers listen.
    pub(crate) fn address() -> IpAddr {
        IpAddr::V4(FAR)
    }

    /// Does something at the near end: sockets that it makes and processes that it starts belong there.
    pub(crate) fn near<T: Send>(&self, body: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        self.near.within(body)
    }

    /// Does something at the far end.
    pub(crate) fn far<T: Send>(&self, body: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        self.far.within(body)
    }

    /// The median time of a byte to the far end and back.
    pub(crate) fn round_trip(&self, count: usize) -> Result<Duration, String> {
        let io = |error: std::io::Error| format!("ping-pong: {error}");
        let listener = self.far(|| TcpListener::bind((FAR, 0)).map_err(io))?;
        let address: SocketAddr = listener.local_addr().map_err(io)?;
        let mut near = self.near(|| TcpStream::connect(address).map_err(io))?;
        let (mut far, _) = listener.accept().map_err(io)?;
        near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).map_err(io)?;
        // Until the other end is closed.
        let peer = std::thread::spawn(move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).and_then(|()| far.write_all(&byte)).is_ok() {}
        });
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            near.write_all(&[1]).and_then(|()| near.read_exact(&mut [0])).map_err(io)?;
            times.push(start.elapsed());
        }
        drop(near);
        peer.join().map_err(|_| "the peer of the ping-pong panicked")?;
        Ok(median(times))
    }

    /// An error if a packet was lost.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.relay.as_ref().is_some_and(JoinHandle::is_finished) {
            return Err("the relay has ended".into());
        }
        for end in [&self.near, &self.far] {
            let dropped = end.within(dropped)?;
            if dropped > 0 {
                return Err(format!("{}: {dropped} packets were dropped", end.name));
            }
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Fails only when the counter is full, and then the relay has been told.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(Ok(Err(error))) = self.relay.take().map(JoinHandle::join) {
            eprintln!("benches: the relay failed: {error}");
        }
    }
}

impl Namespace {
    fn new(name: String) -> Result<Namespace, String> {
        ip(&["netns", "add", &name])?;
        match File::open(format!("{FOLDER}/{name}")) {
            Ok(descriptor) => Ok(Namespace { name, descriptor }),
            Err(error) => {
                // The first error is the one to tell.
                let _ = ip(&["netns", "delete", &name]);
                Err(format!("opening namespace {name}: {error}"))
            }
        }
    }

    /// Runs `body` on a thread inside.
    fn within<T: Send>(&self, body: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        let entering = || {
            move_into_link_name_space(self.descriptor.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| format!("entering namespace {}: {error}", self.name))?;
            body()
        };
        std::thread::scope(|scope| scope.spawn(entering).join())
            .unwrap_or_else(|_| Err(format!("a thread in namespace {} panicked", self.name)))
    }

    /// The way out, with room for all that a fast sender has under way on the longest of them: Linux gives a connection
    /// 4 MiB, which is what three million launches a second fill in 15 ms.
    fn device(&self, own: Ipv4Addr, peer: Ipv4Addr) -> Result<SyncDevice, String> {
        self.within(|| {
            std::fs::write("/proc/sys/net/ipv4/tcp_wmem", SEND_BUFFER)
                .map_err(|error| format!("choosing send buffers: {error}"))?;
            let builder = DeviceBuilder::new().name("vgpu0").mtu(MTU).tx_queue_len(KERNEL_QUEUE);
            let device = builder.ipv4(own, 30_u8, Some(peer)).enable(true).build_sync();
            let device = device.map_err(|error| format!("a TUN device: {error}"))?;
            device.set_nonblocking(true).map_err(|error| format!("a TUN device: {error}"))?;
            Ok(device)
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("benches: {error}");
        }
    }
}

/// Where `ip netns` keeps namespaces.
const FOLDER: &str = "/run/netns";

fn ip(arguments: &[&str]) -> Result<(), String> {
    let what = || format!("ip {}", arguments.join(" "));
    let output =
        Command::new("ip").args(arguments).output().map_err(|error| format!("{}: {error}", what()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", what(), said.trim())) }
}

/// Removes what processes of this kind have left that were killed.
fn remove_stale() {
    let Ok(folder) = std::fs::read_dir(FOLDER) else { return };
    let names = folder.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_stale = |name: &String| {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        process.is_some_and(|process| !std::path::Path::new("/proc").join(process).exists())
    };
    for name in names.filter(is_stale) {
        // Another process may be faster.
        let _ = ip(&["netns", "delete", &name]);
    }
}

/// Packets that the TUN device of this thread's namespace has dropped.
fn dropped() -> Result<u64, String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")
        .map_err(|error| format!("counting packets: {error}"))?;
    let line = table.lines().find_map(|line| line.trim().strip_prefix("vgpu0:"));
    let fields: Vec<u64> =
        line.iter().flat_map(|line| line.split_whitespace()).flat_map(str::parse).collect();
    // Received: bytes, packets, errors, drops; sent, from the ninth on: the same.
    match fields[..] {
        [_, _, received_errors, received, _, _, _, _, _, _, sent_errors, sent, ..] => {
            Ok(received_errors + received + sent_errors + sent)
        }
        _ => Err("counting packets: the device is not there".into()),
    }
}

/// Carries packets between the devices until `stop` is readable.
fn relay(devices: &[SyncDevice; 2], hold: Duration, stop: &OwnedFd) -> Result<(), String> {
    // Else the kernel may wake this thread 50 us late.
    set_current_timer_slack(NonZeroU64::new(1)).map_err(|error| format!("timer slack: {error}"))?;
    let mut ways = [Way::new(), Way::new()];
    let memory = || vec![0; usize::from(MTU)].into_boxed_slice();
    // The memory of packets that have gone, the oldest first: a packet's bytes are as cold without a delay as with one.
    let mut spare: VecDeque<Box<[u8]>> = std::iter::repeat_with(memory).take(PACKETS).collect();
    loop {
        let due = ways.iter().filter_map(|way| way.front()).map(|(due, ..)| *due).min();
        let timeout = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
        let mut watched = [
            PollFd::new(&devices[0], PollFlags::IN),
            PollFd::new(&devices[1], PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        let ready = watched.map(|entry| !entry.revents().is_empty());
        if ready[2] {
            return Ok(());
        }
        for (side, device) in devices.iter().enumerate().filter(|(side, _)| ready[*side]) {
            for _ in 0..TURN {
                let mut packet = spare.pop_front().unwrap_or_else(memory);
                match device.recv(&mut packet) {
                    Ok(bytes) => ways[side].push_back((Instant::now() + hold, bytes, packet)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        spare.push_front(packet);
                        break;
                    }
                    Err(error) => return Err(format!("receiving: {error}")),
                }
            }
        }
        let now = Instant::now();
        for (side, way) in ways.iter_mut().enumerate() {
            while let Some((_, bytes, packet)) = way.pop_front_if(|(due, ..)| *due <= now) {
                devices[1 - side].send(&packet[..bytes]).map_err(|error| format!("sending: {error}"))?;
                spare.push_back(packet);
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
