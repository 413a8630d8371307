//! TCP and Unix sockets.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use smallvec::SmallVec;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::link::{Link, LinkError};
use crate::patience::{Patience, is_crowded};
use crate::socket_info::tcp_bytes;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address, and a port.
    Tcp { host: String, port: u16 },
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connected stream socket. Closed when dropped; the descriptor does not survive an exec.
pub struct SocketLink {
    socket: Socket,
    peer: String,
    /// How long to poll for bytes; `None` for not at all.
    patience: Option<Patience>,
}

impl SocketLink {
    /// Connects within `timeout`, over all addresses that the host name has. An established connection counts as
    /// lost after `link_timeout` without a sign of life from the peer's kernel, however busy the peer itself is.
    pub fn connect(
        address: &Address,
        timeout: Duration,
        link_timeout: Duration,
    ) -> Result<SocketLink, LinkError> {
        let peer = address.to_string();
        match address {
            Address::Unix(path) => {
                let socket = SockAddr::unix(path)
                    .and_then(|name| {
                        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                        socket.connect_timeout(&name, timeout)?;
                        Ok(socket)
                    })
                    .map_err(|source| LinkError::connecting(peer.clone(), timeout, source))?;
                SocketLink::from_socket(socket, peer, link_timeout)
            }
            Address::Tcp { host, port } => {
                let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
                    Ok(ip) => vec![SocketAddr::new(ip, *port)],
                    Err(_) => (host.as_str(), *port)
                        .to_socket_addrs()
                        .map_err(|source| LinkError::Unresolved { peer: peer.clone(), source })?
                        .collect(),
                };
                let mut failure = io::Error::new(io::ErrorKind::NotFound, "no address");
                for address in addresses {
                    match connect_tcp(address, timeout) {
                        Ok(socket) => return SocketLink::from_socket(socket, peer, link_timeout),
                        Err(error) => failure = error,
                    }
                }
                Err(LinkError::connecting(peer, timeout, failure))
            }
        }
    }

    /// Takes over a connected socket, as a worker does with the one that its daemon accepted.
    pub fn from_descriptor(
        descriptor: OwnedFd,
        peer: String,
        link_timeout: Duration,
    ) -> Result<SocketLink, LinkError> {
        SocketLink::from_socket(Socket::from(descriptor), peer, link_timeout)
    }

    fn from_socket(socket: Socket, peer: String, link_timeout: Duration) -> Result<SocketLink, LinkError> {
        let link = SocketLink { socket, peer, patience: None };
        link.configure(link_timeout).map_err(|source| link.lost(source))?;
        Ok(link)
    }

    /// Has whoever waits for bytes poll before it sleeps: as long as `fixed` says (`VGPU_SPIN_US`), else as waits have taken
    /// lately - but not where processors are few.
    #[must_use]
    pub fn polling(mut self, fixed: Option<Duration>) -> SocketLink {
        self.patience = match fixed {
            Some(Duration::ZERO) => None,
            None if is_crowded() => None,
            fixed => Some(Patience::new(fixed, FIRST_WAIT)),
        };
        self
    }

    /// What has come already; `None` if that is nothing.
    fn receive_now(&self, into: &mut [u8]) -> Result<Option<usize>, LinkError> {
        match rustix::net::recv(&self.socket, into, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Err(LinkError::Closed { peer: self.peer.clone() }),
            Ok((_, received)) => Ok(Some(received)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(self.lost(error.into())),
        }
    }

    /// Sleeps until bytes come.
    fn receive_asleep(&self, into: &mut [u8]) -> Result<usize, LinkError> {
        loop {
            match rustix::io::read(&self.socket, &mut *into) {
                Ok(0) => return Err(LinkError::Closed { peer: self.peer.clone() }),
                Ok(received) => return Ok(received),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.lost(error.into())),
            }
        }
    }

    /// Polls for bytes, for a while.
    fn poll(&self, patience: &Patience, into: &mut [u8]) -> Result<Option<usize>, LinkError> {
        let (start, budget) = (Instant::now(), patience.budget());
        loop {
            if let Some(received) = self.receive_now(into)? {
                return Ok(Some(received));
            }
            if start.elapsed() >= budget {
                return Ok(None);
            }
        }
    }

    fn configure(&self, link_timeout: Duration) -> io::Result<()> {
        self.socket.set_nonblocking(false)?;
        if self.socket.domain()? == Domain::UNIX {
            return Ok(());
        }
        self.socket.set_tcp_nodelay(true)?;
        // Probes once a second (the kernel's finest step) until the timeout is used up.
        let probes = u32::try_from(link_timeout.as_secs()).unwrap_or(u32::MAX).max(1);
        let second = Duration::from_secs(1);
        self.socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(second).with_interval(second).with_retries(probes),
        )?;
        self.socket.set_tcp_user_timeout(Some(link_timeout))
    }

    /// One run of bytes: what most calls are.
    fn send_part(&self, part: &[u8]) -> Result<(), LinkError> {
        let mut left = part;
        while !left.is_empty() {
            match rustix::net::send(&self.socket, left, SendFlags::NOSIGNAL) {
                Ok(sent) => left = &left[sent..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.lost(error.into())),
            }
        }
        Ok(())
    }

    fn lost(&self, source: io::Error) -> LinkError {
        match source.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => {
                LinkError::Closed { peer: self.peer.clone() }
            }
            _ => LinkError::Lost { peer: self.peer.clone(), source },
        }
    }
}

/// `MSG_NOSIGNAL` of send(2).
const NO_SIGNAL: i32 = 0x4000;
/// `MSG_DONTWAIT`.
const NO_WAIT: i32 = 0x40;

/// What a first wait is taken for: a round trip in one machine room.
const FIRST_WAIT: Duration = Duration::from_micros(20);

fn connect_tcp(address: SocketAddr, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.connect_timeout(&address.into(), timeout)?;
    Ok(socket)
}

/// What there is to send, for the system; a few parts without memory of their own.
fn slices<'a>(parts: &[&'a [u8]]) -> SmallVec<[IoSlice<'a>; 4]> {
    parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect()
}

impl Link for SocketLink {
    fn send(&self, parts: &[&[u8]]) -> Result<(), LinkError> {
        if let [part] = parts {
            return self.send_part(part);
        }
        let mut slices = slices(parts);
        let mut left = &mut slices[..];
        while !left.is_empty() {
            // A lost peer is an error here and no SIGPIPE: the program around us has its own way with signals.
            match SockRef::from(&self.socket).send_vectored_with_flags(left, NO_SIGNAL) {
                Ok(sent) => IoSlice::advance_slices(&mut left, sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(())
    }

    fn try_send(&self, parts: &[&[u8]]) -> Result<usize, LinkError> {
        let slices = slices(parts);
        if slices.is_empty() {
            return Ok(0);
        }
        match SockRef::from(&self.socket).send_vectored_with_flags(&slices, NO_SIGNAL | NO_WAIT) {
            Ok(sent) => Ok(sent),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(self.lost(error)),
            },
        }
    }

    fn receive(&self, into: &mut [u8]) -> Result<usize, LinkError> {
        let Some(patience) = &self.patience else { return self.receive_asleep(into) };
        let start = Instant::now();
        let polled = self.poll(patience, into)?;
        let received = polled.map_or_else(|| self.receive_asleep(into), Ok)?;
        patience.learn(start);
        Ok(received)
    }

    fn wait_readable(&self, timeout: Duration) -> Result<bool, LinkError> {
        readable(self.socket.as_fd(), timeout).map_err(|source| self.lost(source))
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn shutdown(&self) {
        // An error means that the socket is down already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn peer(&self) -> &str {
        &self.peer
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()?.as_socket()
    }

    fn socket_bytes(&self) -> Option<u64> {
        tcp_bytes(self.socket.as_fd())
    }
}

/// Waits until a descriptor polls readable, at most `timeout`.
pub(crate) fn readable(descriptor: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    match poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], Some(&timespec(timeout))) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
