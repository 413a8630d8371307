//! From a TCP connection to one over verbs.
//!
//! The server opens a [`Host`] for one client and tells it the port and a one-time token over TCP ([`Offer`]). The client
//! [`dial`]s; token, version and ring go in rdma_cm's private data, and the answer brings the server's ring. Both then
//! lay a [`VerbsLink`] over the endpoint, with the TCP connection as its lifeline.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use verbs_abi::{Address, QueueSizes, step};

use super::error::VerbsError;
use super::link::{RING_BYTES, RING_MESSAGES, VerbsLink};
use super::pinned::Pinned;
use super::plugin::{Endpoint, Listener, Plugin};
use super::receives::post_receives;
use super::sends::SEND_REQUESTS;
use crate::direct::RemoteAddress;
use crate::link::{Link, LinkError};
use crate::patience::Patience;

/// What the user chose about verbs.
#[derive(Clone, Debug)]
pub struct VerbsOptions {
    /// The RDMA device to use, with an optional `:port`; else rdma_cm chooses by address.
    pub device: Option<String>,
    /// How long to poll before sleeping; measured if not given.
    pub spin: Option<Duration>,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// After how long without an acknowledgement the connection is lost.
    pub link_timeout: Duration,
}

/// How a client finds the listener that was opened for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub port: u16,
    /// Proves that the client is the one that the offer was made to.
    pub token: [u8; TOKEN_BYTES],
}

/// Length of a token.
pub const TOKEN_BYTES: usize = 16;

/// What stands in rdma_cm's private data: of this version.
const VERSION: u16 = 1;
/// The first wait is taken for this long, until others are measured.
const FIRST_WAIT: Duration = Duration::from_micros(20);

/// A ring and the words about it, as the other side finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) ring: RemoteAddress,
    pub(super) ring_bytes: u32,
    pub(super) messages: u32,
    pub(super) words: RemoteAddress,
}

impl Terms {
    const BYTES: usize = 32;

    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Terms::BYTES);
        out.extend(self.ring.address.to_le_bytes());
        out.extend(self.ring.key.to_le_bytes());
        out.extend(self.ring_bytes.to_le_bytes());
        out.extend(self.words.address.to_le_bytes());
        out.extend(self.words.key.to_le_bytes());
        out.extend(self.messages.to_le_bytes());
        out
    }

    /// Providers round the length of private data up, so more bytes may follow.
    fn decode(bytes: &[u8]) -> Option<Terms> {
        let long = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let terms = Terms {
            ring: RemoteAddress { address: long(0)?, key: word(8)? },
            ring_bytes: word(12)?,
            words: RemoteAddress { address: long(16)?, key: word(24)? },
            messages: word(28)?,
        };
        // The mirror of the peer's ring is as large as our own.
        let sane = u64::from(terms.ring_bytes) == RING_BYTES && terms.messages == RING_MESSAGES;
        sane.then_some(terms)
    }
}

/// An endpoint with its memory.
pub(super) struct Rings {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) inbox: Pinned,
    pub(super) mirror: Pinned,
    pub(super) words: Pinned,
}

impl Rings {
    fn new(endpoint: Endpoint) -> Result<Rings, VerbsError> {
        let endpoint = Arc::new(endpoint);
        let ring = usize::try_from(RING_BYTES).expect("a ring fits into memory");
        let rings = Rings {
            inbox: Pinned::new(&endpoint, ring)?,
            mirror: Pinned::new(&endpoint, ring)?,
            words: Pinned::new(&endpoint, 4096)?,
            endpoint,
        };
        // Before the connection: the peer's first message finds them posted.
        post_receives(&rings.endpoint, RING_MESSAGES)?;
        Ok(rings)
    }

    fn terms(&self) -> Terms {
        Terms {
            ring: self.inbox.remote(),
            ring_bytes: u32::try_from(RING_BYTES).expect("far below 4 GiB"),
            messages: RING_MESSAGES,
            words: self.words.remote(),
        }
    }
}

/// A connection that is not yet a link.
pub struct Dialed {
    rings: Rings,
    terms: Terms,
    spin: Option<Duration>,
}

impl Dialed {
    /// Makes it a link that ends with `lifeline`.
    pub fn over(self, lifeline: Arc<dyn Link>) -> Result<VerbsLink, LinkError> {
        VerbsLink::new(self.rings, self.terms, lifeline, Patience::new(self.spin, FIRST_WAIT))
    }

    /// The RDMA device that carries it.
    pub fn device(&self) -> String {
        name_of(&self.rings.endpoint.info().device)
    }
}

/// Whether this machine has what verbs need: the plug-in and a device.
pub fn available(options: &VerbsOptions) -> Result<(), VerbsError> {
    let devices = Plugin::open()?.devices()?;
    let missing = |text| Err(VerbsError::Failed { step: step::DEVICE, text });
    match &options.device {
        _ if devices.is_empty() => missing("this machine has no RDMA device".to_owned()),
        Some(wanted) if !devices.iter().any(|name| Some(name.as_str()) == wanted.split(':').next()) => {
            missing(format!("there is no device {wanted:?}, only {}", devices.join(", ")))
        }
        _ => Ok(()),
    }
}

/// What this process holds of the network adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    pub queue_pairs: u64,
    pub listeners: u64,
    pub regions: u64,
}

/// What is held now.
pub fn resources() -> Result<Resources, VerbsError> {
    let counts = Plugin::open()?.counts();
    Ok(Resources { queue_pairs: counts.endpoints, listeners: counts.listeners, regions: counts.regions })
}

/// Connects to the listener that `offer` describes, on the machine at `ip`.
pub fn dial(ip: SocketAddr, offer: &Offer, options: &VerbsOptions) -> Result<Dialed, VerbsError> {
    available(options)?;
    let mut peer = address(ip);
    peer.port = offer.port;
    let timeout = milliseconds(options.connect_timeout);
    let endpoint =
        Plugin::open()?.resolve(&peer, options.device.as_deref(), &queue_sizes(options), timeout)?;
    let rings = Rings::new(endpoint)?;
    let mut data = Vec::with_capacity(56);
    data.extend(VERSION.to_le_bytes());
    data.extend([0, 0]);
    data.extend(offer.token);
    data.extend(rings.terms().encode());
    let answer = rings.endpoint.connect(&data, timeout)?;
    let terms = Terms::decode(&answer).ok_or_else(|| VerbsError::Failed {
        step: step::CONNECT,
        text: "the server answers as another release does: install the same release on both sides".into(),
    })?;
    Ok(Dialed { rings, terms, spin: options.spin })
}

/// The listener of one worker for its one client.
pub struct Host {
    listener: Listener,
    token: [u8; TOKEN_BYTES],
    options: VerbsOptions,
}

impl Host {
    /// Listens on every RDMA device.
    pub fn open(options: VerbsOptions) -> Result<Host, VerbsError> {
        available(&options)?;
        let plugin = Plugin::open()?;
        let any = address(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0));
        let listener = match Listener::new(plugin, &any) {
            Ok(listener) => listener,
            // A machine without IPv6.
            Err(_) => Listener::new(plugin, &Address { family: 4, ..Address::default() })?,
        };
        let mut token = [0; TOKEN_BYTES];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut token)).map_err(|error| {
            VerbsError::Failed { step: step::LISTEN, text: format!("no random numbers for a token: {error}") }
        })?;
        Ok(Host { listener, token, options })
    }

    /// What to tell the client.
    pub fn offer(&self) -> Offer {
        Offer { port: self.listener.port, token: self.token }
    }

    /// Readable when somebody may want to connect.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.descriptor()
    }

    /// The client's connection, if it has come; strangers are refused on the way.
    pub fn next_client(&mut self) -> Result<Option<Dialed>, VerbsError> {
        while let Some((endpoint, data)) = self.listener.next_request(&queue_sizes(&self.options))? {
            let terms = match self.judge(&data) {
                Ok(terms) => terms,
                Err(reason) => {
                    endpoint.reject(reason);
                    continue;
                }
            };
            let device = name_of(&endpoint.info().device);
            if self.options.device.as_ref().is_some_and(|wanted| wanted.split(':').next() != Some(&device)) {
                endpoint.reject("the server serves another RDMA device; see its VGPU_IB_DEVICE");
                continue;
            }
            let rings = Rings::new(endpoint)?;
            rings.endpoint.accept(&rings.terms().encode(), milliseconds(self.options.connect_timeout))?;
            return Ok(Some(Dialed { rings, terms, spin: self.options.spin }));
        }
        Ok(None)
    }

    fn judge(&self, data: &[u8]) -> Result<Terms, &'static str> {
        let version = data.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
        if version != Some(VERSION) {
            return Err("another release: install the same on both sides");
        }
        // Not a password that time could give away: it is good for one connection within seconds.
        if data.get(4..4 + TOKEN_BYTES) != Some(&self.token[..]) {
            return Err("the token is not the one that was given out");
        }
        Terms::decode(&data[4 + TOKEN_BYTES..]).ok_or("ring sizes of another release")
    }
}

fn queue_sizes(options: &VerbsOptions) -> QueueSizes {
    QueueSizes {
        sends: SEND_REQUESTS,
        receives: RING_MESSAGES + 16,
        inline_bytes: 256,
        timeout_ms: milliseconds(options.link_timeout),
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

pub(super) fn address(at: SocketAddr) -> Address {
    let mut bytes = [0; 16];
    let (family, scope) = match at {
        SocketAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.ip().octets());
            (4, 0)
        }
        // A socket that serves both families names IPv4 peers in this form.
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => {
                bytes[..4].copy_from_slice(&v4.octets());
                (4, 0)
            }
            None => {
                bytes.copy_from_slice(&v6.ip().octets());
                (6, v6.scope_id())
            }
        },
    };
    Address { family, port: at.port(), scope, bytes }
}

pub(super) fn name_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_survive_the_private_data_and_its_padding() {
        let terms = Terms {
            ring: RemoteAddress { address: 0x1234_5678_9abc, key: 7 },
            ring_bytes: u32::try_from(RING_BYTES).expect("small"),
            messages: RING_MESSAGES,
            words: RemoteAddress { address: 42, key: 9 },
        };
        let mut bytes = terms.encode();
        assert_eq!(bytes.len(), Terms::BYTES);
        assert!(4 + TOKEN_BYTES + bytes.len() <= 56, "rdma_cm's limit for a request");
        bytes.resize(196, 0);
        assert_eq!(Terms::decode(&bytes), Some(terms));
        assert_eq!(Terms::decode(&bytes[..Terms::BYTES - 1]), None);
        bytes[12] = 1;
        assert_eq!(Terms::decode(&bytes), None, "another ring size");
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = address("[::ffff:10.0.0.7]:5".parse().expect("an address"));
        assert_eq!((mapped.family, mapped.port, &mapped.bytes[..4]), (4, 5, &[10, 0, 0, 7][..]));
    }
}
