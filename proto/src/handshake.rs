//! Greetings. The client speaks first.
//!
//! `Hello` -> `Welcome` (or `Refusal`) asks only for facts and costs the server no context. Nor does `AskStatus` -> `Status`, which may
//! follow, any number of times; a server that does not know it ends the connection. `Begin` -> `Began` asks
//! for a worker; from then on calls may flow. A client that wants InfiniBand verbs says so in `Begin`; if the worker
//! then offers them, the client tries and tells with `Chosen`, still over the first link, which of the two it will be. Over
//! verbs, `Lend` (client) and `Lent` (worker) come first: where each side's registered memory lies. Both sides take the lower of their newest versions and compare the hash
//! of the call table up to it.

use bincode::{Decode, Encode};

use crate::calls::table_hash;
use crate::codec::{self, Malformed};
use crate::facts::DeviceFacts;
use crate::frame::{CallId, append};

/// The oldest and the newest protocol version that this build speaks.
pub const VERSIONS: (u16, u16) = (4, 4);

/// Client: who I am.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Hello {
    pub oldest: u16,
    pub newest: u16,
    /// `table_hash` of every version from `oldest` to `newest`.
    pub hashes: Vec<u64>,
    /// Host, program and process, for the server's log.
    pub client: String,
}

/// Server: here is what you get.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Welcome {
    pub version: u16,
    pub facts: DeviceFacts,
}

/// Server: no, and why.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Refusal {
    pub reason: String,
}

/// Client: how busy is the device?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AskStatus {}

/// Server: what its workers know of the device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Status {
    pub total_memory: u64,
    /// What all clients have taken; `None` if one of their workers does not tell.
    pub used_bytes: Option<u64>,
    /// The share of the last second in which calls were being made, that of the busiest client; `None` if one of them has
    /// posted work of which nobody knows yet when it ends.
    pub utilization_percent: Option<u8>,
    /// At most [`STATUS_CLIENTS`].
    pub clients: Vec<ClientStatus>,
}

/// A client that has a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClientStatus {
    /// As in the server's log: program, process and host as the client tells them.
    pub name: String,
    pub peer: String,
    /// The process, if the name tells it.
    pub process: Option<u32>,
    /// For how long it has had its worker.
    pub seconds: u64,
    /// What it has taken of the device's memory.
    pub used_bytes: Option<u64>,
}

/// The most clients of which a [`Status`] tells, so that it is a greeting by its size.
pub const STATUS_CLIENTS: usize = 100;
/// The most characters of a client's name in it.
pub const STATUS_NAME: usize = 100;

/// Client: I need a context; this is where I would like device addresses to lie.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Begin {
    pub window_base: u64,
    pub window_bytes: u64,
    /// Whether the client would like verbs.
    pub verbs: bool,
}

/// Worker: ready.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Began {
    /// Bytes of upload staging that the client may fill from the start.
    pub staging_bytes: u64,
    /// Bytes of download staging.
    pub landing_bytes: u64,
    /// Bytes of control frames that may be under way without being issued.
    pub control_bytes: u64,
    /// Bytes from the start of the window that are mapped already, so that the first allocations need not ask.
    pub mapped_bytes: u64,
    pub verbs: VerbsOffer,
}

/// Worker: whether the client may change to verbs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum VerbsOffer {
    /// The client did not ask.
    NotAsked,
    /// Why not.
    Unavailable(String),
    /// A listener for this client alone, on the server's RDMA addresses. The worker waits for `Chosen`.
    Listening { port: u16, token: [u8; 16] },
}

/// Client: what it will be after an offer; with the reason if verbs did not work.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Chosen {
    pub verbs: bool,
    pub reason: String,
}

/// Client, first over verbs: where downloads may be put. It has the same slots as the worker's download staging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lend {
    pub landing: Place,
}

/// Worker, first over verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lent {
    /// The upload staging.
    pub staging: Place,
    /// Whether device memory is read and written by the network itself (GPUDirect RDMA): registered host memory is then
    /// best named with [`HostMemory`](crate::control::HostMemory) and pulled.
    pub gpudirect: bool,
}

/// Registered memory of one side, as the other side reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Place {
    pub address: u64,
    pub key: u32,
    pub bytes: u64,
}

macro_rules! greeting {
    ($($opcode:literal $name:ident)*) => {$(
        impl $name {
            /// The opcode in the frame header.
            pub const OPCODE: u16 = $opcode;
            /// The whole frame.
            pub fn frame(&self) -> Vec<u8> {
                let mut out = Vec::new();
                append(&mut out, $opcode, CallId(0), 0, |out| codec::put(out, self));
                out
            }
            /// Reads the arguments of the frame.
            pub fn read(arguments: &[u8]) -> Result<$name, Malformed> {
                codec::read_all(arguments, stringify!($name))
            }
        }
    )*};
}

greeting! {
    0x0001 Hello
    0x0002 Welcome
    0x0003 Refusal
    0x0004 Begin
    0x0005 Began
    0x0006 Chosen
    0x0007 Lend
    0x0008 Lent
    0x0009 AskStatus
    0x000a Status
}

/// The most bytes that a greeting may have; a stranger gets no more memory than this.
pub const GREETING_LIMIT: u32 = 64 * 1024;

impl Hello {
    /// The greeting of this build.
    pub fn new(client: String) -> Hello {
        let (oldest, newest) = VERSIONS;
        Hello { oldest, newest, hashes: (oldest..=newest).map(table_hash).collect(), client }
    }

    /// The version that both sides speak, or why there is none.
    pub fn agree(&self) -> Result<u16, Refusal> {
        let (oldest, newest) = VERSIONS;
        let version = self.newest.min(newest);
        if version < self.oldest.max(oldest) {
            let reason = format!(
                "the client speaks protocol versions {} to {}, this server {oldest} to {newest}: install the same release on both sides",
                self.oldest, self.newest
            );
            return Err(Refusal { reason });
        }
        let theirs = self.hashes.get(usize::from(version - self.oldest));
        if theirs != Some(&table_hash(version)) {
            let reason = format!(
                "client and server both claim protocol version {version} but their call tables differ: install the same release on both sides"
            );
            return Err(Refusal { reason });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_builds_agree_on_the_newest_version() {
        assert_eq!(Hello::new("test".into()).agree(), Ok(VERSIONS.1));
    }

    #[test]
    fn disjoint_versions_are_refused_naming_both_ranges() {
        let hello = Hello { oldest: 900, newest: 901, hashes: vec![0, 0], client: "test".into() };
        let refusal = hello.agree().expect_err("no common version");
        assert!(refusal.reason.contains("900 to 901"), "{}", refusal.reason);
        assert!(refusal.reason.contains(&format!("{} to {}", VERSIONS.0, VERSIONS.1)), "{}", refusal.reason);
    }

    #[test]
    fn the_longest_status_is_a_greeting_and_is_read_back() {
        let client = ClientStatus {
            name: "\u{10ffff}".repeat(STATUS_NAME),
            peer: "[fe80:1111:2222:3333:4444:5555:6666:7777%123456789]:65535".into(),
            process: Some(u32::MAX),
            seconds: u64::MAX,
            used_bytes: Some(u64::MAX),
        };
        let status = Status {
            total_memory: u64::MAX,
            used_bytes: Some(u64::MAX),
            utilization_percent: Some(100),
            clients: vec![client; STATUS_CLIENTS],
        };
        let frame = status.frame();
        let header = crate::frame::Header::decode(frame.first_chunk().expect("a header")).expect("a frame");
        assert!(header.length <= GREETING_LIMIT, "{} bytes", header.length);
        assert_eq!(Status::read(&frame[crate::frame::Header::SIZE..]), Ok(status));
    }

    #[test]
    fn a_different_table_of_the_same_version_is_refused() {
        let mut hello = Hello::new("test".into());
        hello.hashes.iter_mut().for_each(|hash| *hash ^= 1);
        assert!(hello.agree().is_err());
    }

    #[test]
    fn a_greeting_with_missing_hashes_is_refused() {
        let mut hello = Hello::new("test".into());
        hello.hashes.clear();
        assert!(hello.agree().is_err());
    }
}
