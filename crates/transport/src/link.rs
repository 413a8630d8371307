//! What every transport can do.
//!
//! A link carries an ordered, reliable run of bytes each way. One thread at a time sends and one receives; the two
//! may be different threads and never wait for each other. Whoever receives must never wait for its own sending
//! (docs/architecture.md, "Flow control"): that is the rule which keeps two full links from waiting for each other.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::direct::DirectAccess;

/// One end of a connection.
pub trait Link: Send + Sync {
    /// Sends all parts, one behind the other; returns when the link has taken them, so they may be reused.
    fn send(&self, parts: &[&[u8]]) -> Result<(), LinkError>;

    /// Sends as many bytes of the parts as can be sent without waiting, and answers how many: the first of them, laid
    /// end to end.
    fn try_send(&self, parts: &[&[u8]]) -> Result<usize, LinkError>;

    /// Waits for bytes and receives at least one. An orderly end is [`LinkError::Closed`].
    fn receive(&self, into: &mut [u8]) -> Result<usize, LinkError>;

    /// Waits until `receive` would not block, at most `timeout`; whether it would not.
    fn wait_readable(&self, timeout: Duration) -> Result<bool, LinkError>;

    /// A descriptor that polls readable when `receive` would not block, for what comes after
    /// [`prepare_sleep`](Link::prepare_sleep).
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// To be called before sleeping on the descriptor; whether something is there already, which it may not show.
    fn prepare_sleep(&self) -> Result<bool, LinkError> {
        Ok(false)
    }

    /// Ends both directions; calls that wait in the link return. May be called more than once.
    fn shutdown(&self);

    /// The other end, for messages to people.
    fn peer(&self) -> &str;

    /// The other end's address, where the link goes over IP.
    fn peer_address(&self) -> Option<SocketAddr> {
        None
    }

    /// The socket whose end is the link's end, where that is not what `descriptor` answers.
    fn lifeline(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Bytes that have gone over the link's TCP socket, both ways, as the kernel counts them.
    fn socket_bytes(&self) -> Option<u64> {
        None
    }

    /// Direct access to the peer's memory, where the link has it.
    fn direct(&self) -> Option<&dyn DirectAccess> {
        None
    }
}

/// Why a link could not be made or does not carry on. The message says what was being done and what to do next.
#[derive(Debug)]
pub enum LinkError {
    /// The host name has no address.
    Unresolved { peer: String, source: io::Error },
    /// Nobody listens there.
    Refused { peer: String },
    /// No answer within the time allowed.
    NoAnswer { peer: String, timeout: Duration },
    /// Any other failure while connecting.
    Unreachable { peer: String, source: io::Error },
    /// The peer ended the connection.
    Closed { peer: String },
    /// The connection broke.
    Lost { peer: String, source: io::Error },
}

impl LinkError {
    /// Whether connecting again may help without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, LinkError::NoAnswer { .. } | LinkError::Closed { .. } | LinkError::Lost { .. })
    }

    /// The error of a connection attempt.
    pub(crate) fn connecting(peer: String, timeout: Duration, source: io::Error) -> LinkError {
        match source.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => LinkError::Refused { peer },
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => LinkError::NoAnswer { peer, timeout },
            _ => LinkError::Unreachable { peer, source },
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Unresolved { peer, source } => {
                write!(f, "the host name of {peer} cannot be resolved ({source}): check its spelling")
            }
            LinkError::Refused { peer } => {
                write!(f, "nobody listens at {peer}: start vgpu-server there, or check the port")
            }
            LinkError::NoAnswer { peer, timeout } => write!(
                f,
                "no answer from {peer} within {} ms: check that the host is up and no firewall lies between",
                timeout.as_millis()
            ),
            LinkError::Unreachable { peer, source } => write!(f, "{peer} cannot be reached: {source}"),
            LinkError::Closed { peer } => write!(f, "{peer} closed the connection"),
            LinkError::Lost { peer, source } => write!(f, "the connection to {peer} is lost: {source}"),
        }
    }
}

impl std::error::Error for LinkError {}
