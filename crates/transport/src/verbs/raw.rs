//! The baseline of the benchmarks: verbs with nothing of ours around them. No rings, no room to watch, no frames; one
//! message at a time, by polling.

#![allow(unsafe_code, reason = "posting requests on memory that this value owns (docs/adr/0008)")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cuda_types::HostSpan;
use verbs_abi::{Address, Completion, QueueSizes, Receive, Send as Request, flag, opcode, queue};

use super::connect::address;
use super::error::{VerbsError, explain};
use super::pinned::Pinned;
use super::plugin::{Endpoint, Listener, Plugin};
use crate::direct::RemoteAddress;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// RDMA WRITE with immediate into the peer's memory.
    Write,
    /// SEND into the buffer of a receive.
    Send,
}

/// One end of a bare connection.
pub struct Raw {
    endpoint: Arc<Endpoint>,
    memory: Pinned,
    peer: RemoteAddress,
    posted: u64,
    completed: u64,
}

/// Waits for bare connections.
pub struct RawHost(Listener);

/// Memory for bulk on each side; receives lie behind it.
const BULK_BYTES: usize = 16 * 1024 * 1024;
const RECEIVES: u32 = 64;
const RECEIVE_BYTES: u64 = 256;
const SIZES: QueueSizes = QueueSizes { sends: 256, receives: RECEIVES, inline_bytes: 256, timeout_ms: 5000 };
const PATIENCE: Duration = Duration::from_secs(30);
/// Looks before a message counts as lost: a second and more.
const LOOKS: u32 = 100_000_000;

fn failed(text: impl Into<String>) -> VerbsError {
    VerbsError::Failed { step: verbs_abi::step::POLL, text: text.into() }
}

impl RawHost {
    /// Listens on every RDMA device.
    pub fn open() -> Result<RawHost, VerbsError> {
        Listener::new(Plugin::open()?, &Address { family: 4, ..Address::default() }).map(RawHost)
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Waits for the one client.
    pub fn accept(mut self) -> Result<Raw, VerbsError> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some((endpoint, data)) = self.0.next_request(&SIZES)? {
                let raw = Raw::new(endpoint)?;
                let raw = Raw { peer: Raw::read(&data)?, ..raw };
                raw.endpoint.accept(&raw.words(), 5000)?;
                return Ok(raw);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(failed("nobody connected"))
    }
}

impl Raw {
    /// Connects to a [`RawHost`].
    pub fn connect(ip: IpAddr, port: u16) -> Result<Raw, VerbsError> {
        let peer = address(SocketAddr::new(ip, port));
        let raw = Raw::new(Plugin::open()?.resolve(&peer, None, &SIZES, 5000)?)?;
        let answer = raw.endpoint.connect(&raw.words(), 5000)?;
        Ok(Raw { peer: Raw::read(&answer)?, ..raw })
    }

    fn new(endpoint: Endpoint) -> Result<Raw, VerbsError> {
        let endpoint = Arc::new(endpoint);
        let memory = Pinned::new(&endpoint, BULK_BYTES + 64 * 1024)?;
        let peer = RemoteAddress { address: 0, key: 0 };
        let raw = Raw { endpoint, memory, peer, posted: 0, completed: 0 };
        (0..u64::from(RECEIVES)).try_for_each(|id| raw.post_receive(id))?;
        Ok(raw)
    }

    fn words(&self) -> Vec<u8> {
        let own = self.memory.remote();
        [&own.address.to_le_bytes()[..], &own.key.to_le_bytes()].concat()
    }

    fn read(words: &[u8]) -> Result<RemoteAddress, VerbsError> {
        let address = words.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let key = words.get(8..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
        let both = address.zip(key).map(|(address, key)| RemoteAddress { address, key });
        both.ok_or_else(|| failed("the peer sent no address"))
    }

    fn post_receive(&self, id: u64) -> Result<(), VerbsError> {
        let place = self.memory.local(BULK_BYTES as u64 + id * RECEIVE_BYTES, RECEIVE_BYTES);
        let place = place.expect("receives lie behind the bulk memory");
        let receive = Receive {
            id,
            local_address: place.address,
            local_key: place.key,
            bytes: u32::try_from(RECEIVE_BYTES).expect("small"),
        };
        // SAFETY: memory of this value, which outlives the connection.
        unsafe { self.endpoint.post_receives(&[receive]) }
    }

    /// Memory that `write` sends from, and that the peer's `write` fills.
    pub fn memory(&self) -> HostSpan {
        self.memory.span().slice(0, BULK_BYTES).expect("the bulk memory comes first")
    }

    fn post(&mut self, kind: u32, bytes: u64, wanted: bool) -> Result<(), VerbsError> {
        let place = self.memory.local(0, bytes).ok_or_else(|| failed("more bytes than there is memory"))?;
        let inline = if bytes <= u64::from(SIZES.inline_bytes) { flag::INLINE } else { 0 };
        self.posted += 1;
        let signalled = if wanted || self.posted.is_multiple_of(32) { flag::SIGNALED } else { 0 };
        let request = Request {
            id: self.posted,
            opcode: kind,
            flags: inline | signalled,
            local_address: place.address,
            local_key: place.key,
            bytes: u32::try_from(bytes).map_err(|_| failed("more bytes than a request takes"))?,
            remote_address: self.peer.address,
            remote_key: self.peer.key,
            immediate: 1,
        };
        // SAFETY: memory of this value, which outlives the connection.
        unsafe { self.endpoint.post_sends(&[request]) }?;
        while self.posted - self.completed > 128 {
            self.poll(queue::SENDS)?;
        }
        Ok(())
    }

    fn poll(&mut self, which: u32) -> Result<Option<Completion>, VerbsError> {
        let mut completions = [Completion::default()];
        if self.endpoint.poll(which, &mut completions)? == 0 {
            std::hint::spin_loop();
            return Ok(None);
        }
        let [completion] = completions;
        if completion.status != 0 {
            return Err(failed(explain(completion.status, "the baseline's request failed")));
        }
        if which == queue::SENDS {
            self.completed = completion.id;
        }
        Ok(Some(completion))
    }

    /// Sends one message of at most 256 bytes.
    pub fn send(&mut self, how: Message, bytes: u64) -> Result<(), VerbsError> {
        let kind = match how {
            Message::Write => opcode::WRITE_WITH_IMMEDIATE,
            Message::Send => opcode::SEND,
        };
        self.post(kind, bytes, false)
    }

    /// Waits for a message, and for the next one posts its receive again.
    pub fn receive(&mut self) -> Result<(), VerbsError> {
        // As often as a patience of half a minute needs, and no clock between two looks.
        for _ in 0..LOOKS {
            if let Some(completion) = self.poll(queue::RECEIVES)? {
                return self.post_receive(completion.id);
            }
        }
        Err(failed("no message came"))
    }

    /// Writes `bytes` of the memory to the peer's, in requests of at most `part` bytes, and waits until they are there.
    pub fn write(&mut self, bytes: u64, part: u64) -> Result<(), VerbsError> {
        let mut offset = 0;
        while offset < bytes {
            let now = part.min(bytes - offset);
            let place = self.memory.local(offset, now).ok_or_else(|| failed("more bytes than memory"))?;
            self.posted += 1;
            let request = Request {
                id: self.posted,
                opcode: opcode::WRITE,
                flags: if offset + now == bytes { flag::SIGNALED } else { 0 },
                local_address: place.address,
                local_key: place.key,
                bytes: u32::try_from(now).map_err(|_| failed("more bytes than a request takes"))?,
                remote_address: self.peer.address + offset,
                remote_key: self.peer.key,
                immediate: 0,
            };
            // SAFETY: memory of this value, which outlives the connection.
            unsafe { self.endpoint.post_sends(&[request]) }?;
            offset += now;
        }
        while self.completed < self.posted {
            self.poll(queue::SENDS)?;
        }
        Ok(())
    }
}
