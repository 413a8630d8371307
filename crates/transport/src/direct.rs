//! Direct access to the peer's memory, for transports that have it (RDMA).
//!
//! Each side registers memory and tells the other where it is ([`RemoteAddress`]); either may then write and read it
//! without the other's processor. What is written is there before anything that the same side sends afterwards.

use std::any::Any;
use std::fmt;
use std::os::fd::BorrowedFd;

use cuda_types::HostSpan;

use crate::link::LinkError;

/// What a link with direct access can do beside sending.
pub trait DirectAccess: Send + Sync {
    /// Registers memory, so that both sides can use it in transfers. Expensive: once per piece of memory, not per copy.
    fn register(&self, span: HostSpan) -> Result<Registered, LinkError>;

    /// Registers device memory.
    fn register_device(&self, memory: &DeviceMemory<'_>) -> Result<Registered, LinkError>;

    /// Zeroed memory of the transport's own, registered.
    fn pinned(&self, bytes: usize) -> Result<crate::verbs::Pinned, LinkError>;

    /// Writes to the peer's memory. Returns when the request is posted; `done` runs when the bytes have arrived, or
    /// with `false` when they will not. It must not block.
    fn write(&self, from: LocalRange, to: RemoteAddress, done: Option<Done>) -> Result<Ticket, LinkError>;

    /// Reads the peer's memory; `done` as for [`write`](DirectAccess::write).
    fn read(&self, into: LocalRange, from: RemoteAddress, done: Option<Done>) -> Result<Ticket, LinkError>;

    /// Waits until a transfer, and all before it, are complete: their local memory is free again.
    fn wait_for(&self, ticket: Ticket) -> Result<(), LinkError>;

    /// The ticket of what was posted last.
    fn last_ticket(&self) -> Ticket;

    /// Runs the `done` of completed transfers as they complete, until the link ends. For a thread of its own: without
    /// one they run when other calls come by.
    fn run_completions(&self);

    /// The network device that carries the link.
    fn device(&self) -> &str;

    /// What the link has done so far.
    fn statistics(&self) -> DirectStatistics;
}

/// Runs when a transfer is over; whether it succeeded.
pub type Done = Box<dyn FnOnce(bool) + Send>;

/// A transfer's place in the order of all that were posted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub(crate) u64);

/// A place in the peer's memory and the key that admits to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteAddress {
    pub address: u64,
    pub key: u32,
}

impl RemoteAddress {
    /// The place `bytes` further on; `None` behind the end of the address space.
    pub fn offset(self, bytes: u64) -> Option<RemoteAddress> {
        Some(RemoteAddress { address: self.address.checked_add(bytes)?, key: self.key })
    }
}

/// A registered range of this side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalRange {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) key: u32,
}

impl LocalRange {
    pub(crate) fn inside(span: HostSpan, key: u32, offset: u64, bytes: u64) -> Option<LocalRange> {
        let end = offset.checked_add(bytes)?;
        (end <= span.len() as u64).then(|| LocalRange { address: span.address() as u64 + offset, bytes, key })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// Memory that both sides may use in transfers until this value is dropped: wait for them first.
pub struct Registered {
    address: u64,
    bytes: u64,
    local_key: u32,
    remote_key: u32,
    _registration: Box<dyn Any + Send + Sync>,
}

impl Registered {
    pub(crate) fn new(
        span: HostSpan,
        local_key: u32,
        remote_key: u32,
        registration: Box<dyn Any + Send + Sync>,
    ) -> Registered {
        let (address, bytes) = (span.address() as u64, span.len() as u64);
        Registered { address, bytes, local_key, remote_key, _registration: registration }
    }

    pub(crate) fn device(
        address: u64,
        bytes: u64,
        (local_key, remote_key): (u32, u32),
        registration: Box<dyn Any + Send + Sync>,
    ) -> Registered {
        Registered { address, bytes, local_key, remote_key, _registration: registration }
    }

    /// `bytes` at `address`, if they lie inside.
    pub fn local(&self, address: u64, bytes: u64) -> Option<LocalRange> {
        self.holds(address, bytes).then_some(LocalRange { address, bytes, key: self.local_key })
    }

    /// The same as the peer names it.
    pub fn remote(&self, address: u64, bytes: u64) -> Option<RemoteAddress> {
        self.holds(address, bytes).then_some(RemoteAddress { address, key: self.remote_key })
    }

    fn holds(&self, address: u64, bytes: u64) -> bool {
        address >= self.address
            && address.checked_add(bytes).is_some_and(|end| end <= self.address + self.bytes)
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registered({:#x}, {} bytes)", self.address, self.bytes)
    }
}

/// Device memory that a network adapter can reach.
#[derive(Clone, Copy, Debug)]
pub enum DeviceMemory<'a> {
    /// It is memory of this process, or the kernel knows the device's addresses (nvidia-peermem).
    Mapped { span: HostSpan },
    /// `bytes` from `offset` of a dma-buf, which the device has at `address`.
    DmaBuf { descriptor: BorrowedFd<'a>, offset: u64, bytes: u64, address: u64 },
}

/// Counts that repeat to the digit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectStatistics {
    /// Memory registrations of this process since its start.
    pub registrations: u64,
    /// Messages into the peer's ring, and their bytes.
    pub messages: u64,
    pub message_bytes: u64,
    /// Transfers of both directions that this side posted, and their bytes.
    pub transfers: u64,
    pub transfer_bytes: u64,
    /// Times that this side waited for room in the peer's ring, and for room in its own send queue.
    pub ring_waits: u64,
    pub queue_waits: u64,
    /// Times that this side slept until something came.
    pub sleeps: u64,
}
