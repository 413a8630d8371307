//! The function table that `libvgpu_verbs.so` exports.
//!
//! The plug-in (`crates/verbs`) fills the table, `transport::verbs` opens the plug-in and calls through it. Neither
//! links the other, so programs, shim and server start on a machine without libibverbs. Only plain C types cross.
//!
//! An [`Endpoint`] is one reliable connection: an rdma_cm id with its protection domain, two completion queues (one
//! for sends, one for receives, each with a completion channel of its own) and a queue pair. Its life:
//!
//! ```text
//! client:  resolve ── register memory ── connect ──┐
//! server:  listen ── next_request ── register ── accept ──┴── post, poll, arm ── disconnect ── destroy
//! ```
//!
//! Rules for the caller:
//! * `post_sends` of one endpoint is called by one thread at a time, and so is `post_receives`, and so is `poll` of
//!   each queue; different functions, and different queues, may be used at once.
//! * Regions are deregistered before their endpoint is destroyed, and memory stays mapped while it is registered.
//! * Everything returns 0 or a count; a negative answer is a failure, described in the [`Problem`].

#![forbid(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

/// The exported symbol: a `static` of type [`Table`].
pub const SYMBOL: &CStr = c"vgpu_verbs_v1";

/// What `Table::abi` must say; changed whenever a line of this file changes its meaning.
pub const ABI: u32 = 1;

/// A connection; see the crate's text.
#[repr(C)]
pub struct Endpoint {
    private: [u8; 0],
}

/// A listening rdma_cm id.
#[repr(C)]
pub struct Listener {
    private: [u8; 0],
}

/// A step at which something went wrong, as written into [`Problem::step`].
pub mod step {
    /// There is no RDMA device, or not the one that was asked for.
    pub const DEVICE: u32 = 1;
    /// The address belongs to no RDMA device, or cannot be resolved from here.
    pub const ADDRESS: u32 = 2;
    /// No route leads there.
    pub const ROUTE: u32 = 3;
    /// Protection domain, completion queue or queue pair could not be made.
    pub const QUEUES: u32 = 4;
    /// Memory could not be registered; ENOMEM is most often the memlock limit.
    pub const REGISTER: u32 = 5;
    /// The listener could not be made.
    pub const LISTEN: u32 = 6;
    /// Nobody listens at the port.
    pub const REFUSED: u32 = 7;
    /// The peer said no; `Problem::text` has what it said when it said anything.
    pub const REJECTED: u32 = 8;
    /// No answer within the time allowed.
    pub const TIMEOUT: u32 = 9;
    /// Any other failure while connecting or accepting.
    pub const CONNECT: u32 = 10;
    /// Work could not be posted.
    pub const POST: u32 = 11;
    /// A completion queue could not be polled or armed.
    pub const POLL: u32 = 12;
}

/// What went wrong, written only on failure.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Problem {
    /// One of [`step`].
    pub step: u32,
    /// `errno`, or 0.
    pub errno: i32,
    /// What was being done and what was found, in UTF-8; `text_bytes` of it are used.
    pub text: [u8; 240],
    pub text_bytes: u32,
}

/// An IPv4 or IPv6 address with a port.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Address {
    /// 4 or 6.
    pub family: u16,
    pub port: u16,
    /// The IPv6 scope (interface index), or 0.
    pub scope: u32,
    /// Network byte order; the first 4 bytes for IPv4.
    pub bytes: [u8; 16],
}

/// Sizes of an endpoint's queues, and how long its peer may be silent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QueueSizes {
    pub sends: u32,
    pub receives: u32,
    /// How many bytes a send may carry inline; the device's limit applies (see [`Info::inline_bytes`]).
    pub inline_bytes: u32,
    /// After how many milliseconds without an acknowledgement the connection breaks, retries included.
    pub timeout_ms: u32,
}

/// Facts about an endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// The device's name, zero-terminated, as in `ibv_devices`.
    pub device: [u8; 64],
    pub port: u32,
    /// The path's MTU in bytes.
    pub mtu_bytes: u32,
    /// Bytes that a send may really carry inline.
    pub inline_bytes: u32,
    /// RDMA reads that may be under way at once.
    pub reads: u32,
    pub local: Address,
    pub peer: Address,
}

/// Registered memory. `handle` is the plug-in's own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub handle: *mut c_void,
    pub lkey: u32,
    pub rkey: u32,
}

/// Rights of registered memory, as in `ibv_reg_mr`; reading by this side is always allowed.
pub mod access {
    pub const LOCAL_WRITE: u32 = 1;
    pub const REMOTE_WRITE: u32 = 2;
    pub const REMOTE_READ: u32 = 4;
}

/// What a send request does.
pub mod opcode {
    /// Writes into the peer's memory; the peer is not told.
    pub const WRITE: u32 = 0;
    /// Writes into the peer's memory, takes one of the peer's receives and completes it with `immediate`.
    pub const WRITE_WITH_IMMEDIATE: u32 = 1;
    /// Fills the buffer of the peer's next receive.
    pub const SEND: u32 = 2;
    /// Reads the peer's memory.
    pub const READ: u32 = 3;
}

/// Flags of a send request.
pub mod flag {
    /// Completes with an entry in the send queue's completion queue also when it succeeds.
    pub const SIGNALED: u32 = 1;
    /// The bytes are taken before `post_sends` returns, and need no registration.
    pub const INLINE: u32 = 2;
    /// Begins only when all reads posted before it are complete.
    pub const FENCE: u32 = 4;
}

/// One send request, of at most one contiguous piece of local memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Send {
    /// Given back in the completion.
    pub id: u64,
    /// One of [`opcode`].
    pub opcode: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    pub local_address: u64,
    pub local_key: u32,
    pub bytes: u32,
    pub remote_address: u64,
    pub remote_key: u32,
    /// Handed to the peer in host byte order.
    pub immediate: u32,
}

/// One receive. With `bytes` 0 it takes no memory and serves only `WRITE_WITH_IMMEDIATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Receive {
    pub id: u64,
    pub local_address: u64,
    pub local_key: u32,
    pub bytes: u32,
}

/// What came of a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Completion {
    pub id: u64,
    /// `ibv_wc_status`: 0 for success. `id` alone is valid with the others beside it.
    pub status: u32,
    /// The provider's own word about a failure.
    pub vendor_error: u32,
    /// Bytes received.
    pub bytes: u32,
    /// The immediate, in host byte order; valid if `has_immediate` is 1.
    pub immediate: u32,
    pub has_immediate: u32,
}

/// Which of an endpoint's completion queues.
pub mod queue {
    pub const SENDS: u32 = 0;
    pub const RECEIVES: u32 = 1;
}

/// What the plug-in holds and has done in this process, for tests and statistics.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Alive now.
    pub endpoints: u64,
    pub listeners: u64,
    pub regions: u64,
    /// Since the start.
    pub registrations: u64,
}

/// The table. Every pointer argument is valid for the call; `problem` is written only on failure.
#[repr(C)]
pub struct Table {
    /// [`ABI`].
    pub abi: u32,
    /// `size_of::<Table>()`.
    pub bytes: u32,

    /// Writes the names of at most `capacity` devices, 64 bytes each, zero-terminated; answers how many there are.
    pub devices: unsafe extern "C" fn(names: *mut [u8; 64], capacity: u32, problem: *mut Problem) -> i32,

    /// Listens at `address` (port 0: any; an unspecified IP: every device). `port` gets the port.
    pub listen: unsafe extern "C" fn(
        address: *const Address,
        listener: *mut *mut Listener,
        port: *mut u16,
        problem: *mut Problem,
    ) -> i32,
    /// A descriptor that polls readable when a request may have come.
    pub listener_descriptor: unsafe extern "C" fn(listener: *mut Listener) -> i32,
    /// Takes the next connection request, without waiting: 1 with an endpoint whose queues are made and whose
    /// `private_data` (of capacity 64, `private_bytes` long) the peer sent, or 0 if none is there. Other events of the
    /// listener are handled on the way.
    pub next_request: unsafe extern "C" fn(
        listener: *mut Listener,
        sizes: *const QueueSizes,
        endpoint: *mut *mut Endpoint,
        private_data: *mut [u8; 64],
        private_bytes: *mut u32,
        problem: *mut Problem,
    ) -> i32,
    /// Stops listening. Endpoints made from it live on.
    pub listener_destroy: unsafe extern "C" fn(listener: *mut Listener),

    /// Resolves address and route to `peer` within `timeout_ms` and makes the queues. `device`: a zero-terminated name
    /// that the route must use, with an optional `:port`, or null for whatever rdma_cm chooses.
    pub resolve: unsafe extern "C" fn(
        peer: *const Address,
        device: *const c_char,
        sizes: *const QueueSizes,
        timeout_ms: u32,
        endpoint: *mut *mut Endpoint,
        problem: *mut Problem,
    ) -> i32,
    /// Connects a resolved endpoint. `private_data`: at most 56 bytes for the peer. `answer` (of capacity 196) gets
    /// what the peer sent back; answers its length, which providers may round up.
    pub connect: unsafe extern "C" fn(
        endpoint: *mut Endpoint,
        private_data: *const u8,
        private_bytes: u32,
        timeout_ms: u32,
        answer: *mut [u8; 196],
        problem: *mut Problem,
    ) -> i32,
    /// Accepts an endpoint of `next_request` with at most 196 bytes for the peer, and waits until it is established.
    pub accept: unsafe extern "C" fn(
        endpoint: *mut Endpoint,
        private_data: *const u8,
        private_bytes: u32,
        timeout_ms: u32,
        problem: *mut Problem,
    ) -> i32,
    /// Refuses an endpoint of `next_request`, with at most 148 bytes for the peer, and destroys it.
    pub reject: unsafe extern "C" fn(endpoint: *mut Endpoint, reason: *const u8, reason_bytes: u32),

    /// Facts; `inline_bytes` is known once the queues are made, the peer's address once connected.
    pub info: unsafe extern "C" fn(endpoint: *mut Endpoint, info: *mut Info),
    /// Registers host memory for this endpoint.
    pub register: unsafe extern "C" fn(
        endpoint: *mut Endpoint,
        address: u64,
        bytes: u64,
        access: u32,
        region: *mut Region,
        problem: *mut Problem,
    ) -> i32,
    /// Registers device memory that a dma-buf stands for: `bytes` from `offset` of it, seen at `address`.
    pub register_dmabuf: unsafe extern "C" fn(
        endpoint: *mut Endpoint,
        descriptor: i32,
        offset: u64,
        bytes: u64,
        address: u64,
        access: u32,
        region: *mut Region,
        problem: *mut Problem,
    ) -> i32,
    /// Ends a registration.
    pub deregister: unsafe extern "C" fn(region: *const Region),

    /// Posts `count` sends as one chain; answers how many were posted: fewer only with a problem written.
    pub post_sends: unsafe extern "C" fn(
        endpoint: *mut Endpoint,
        sends: *const Send,
        count: u32,
        problem: *mut Problem,
    ) -> i32,
    /// Posts `count` receives, in the same way.
    pub post_receives: unsafe extern "C" fn(
        endpoint: *mut Endpoint,
        receives: *const Receive,
        count: u32,
        problem: *mut Problem,
    ) -> i32,
    /// Takes at most `capacity` completions of a queue without waiting; answers how many.
    pub poll: unsafe extern "C" fn(
        endpoint: *mut Endpoint,
        queue: u32,
        completions: *mut Completion,
        capacity: u32,
        problem: *mut Problem,
    ) -> i32,
    /// Asks for one event with the next completion of a queue. Poll again afterwards: what came before gives none.
    pub arm: unsafe extern "C" fn(endpoint: *mut Endpoint, queue: u32, problem: *mut Problem) -> i32,
    /// The descriptor that polls readable when an armed queue has had a completion.
    pub descriptor: unsafe extern "C" fn(endpoint: *mut Endpoint, queue: u32) -> i32,
    /// Takes and acknowledges the events of a queue, without waiting.
    pub take_events: unsafe extern "C" fn(endpoint: *mut Endpoint, queue: u32),
    /// A descriptor that polls readable when rdma_cm has something to say, such as that the peer has disconnected.
    pub connection_descriptor: unsafe extern "C" fn(endpoint: *mut Endpoint) -> i32,
    /// Handles what rdma_cm has to say, without waiting: 1 while connected, 0 when not any more.
    pub is_connected: unsafe extern "C" fn(endpoint: *mut Endpoint) -> i32,
    /// Ends the connection: all outstanding work completes with an error. May be called more than once, by any thread.
    pub disconnect: unsafe extern "C" fn(endpoint: *mut Endpoint),
    /// Frees everything.
    pub destroy: unsafe extern "C" fn(endpoint: *mut Endpoint),

    /// What a completion's status means, a zero-terminated text that is never freed.
    pub status_text: unsafe extern "C" fn(status: u32) -> *const c_char,
    /// See [`Counts`].
    pub counts: unsafe extern "C" fn(counts: *mut Counts),
}

impl Problem {
    /// A problem that nobody has written yet.
    pub const NONE: Problem = Problem { step: 0, errno: 0, text: [0; 240], text_bytes: 0 };

    /// The text.
    pub fn message(&self) -> String {
        let used = usize::try_from(self.text_bytes).map_or(240, |bytes| bytes.min(240));
        String::from_utf8_lossy(&self.text[..used]).into_owned()
    }

    /// Describes a problem; a text that is too long is cut.
    pub fn describe(step: u32, errno: i32, text: &str) -> Problem {
        let mut problem = Problem { step, errno, ..Problem::NONE };
        let used = text.len().min(problem.text.len());
        problem.text[..used].copy_from_slice(&text.as_bytes()[..used]);
        problem.text_bytes = used.try_into().unwrap_or(0);
        problem
    }
}
