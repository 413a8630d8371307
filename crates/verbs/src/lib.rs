//! The verbs plug-in: RDMA connections over libibverbs and librdmacm, behind a table of C functions.
//!
//! `verbs-abi` declares the table and is the contract; this crate fills it ([`vgpu_verbs_v1`]). Each C object has one
//! owning type whose `Drop` frees it. An object that needs another one holds it as a field or shares it, and fields
//! are dropped after the `Drop` of what contains them: the order in which libibverbs wants its objects freed follows
//! from the types.
//!
//! ```text
//! Endpoint ── QueuePair ─┬─ CompletionQueue ×2 ── CompletionChannel
//!                        ├─ ProtectionDomain (shared with each Region)
//!                        └─ CmId ── EventChannel
//! Listener ── CmId ── EventChannel
//! ```
//!
//! Layout:
//! * `failure`: what goes into a `Problem`
//! * `address`: addresses as the C library wants them
//! * `device`: the devices, and which addresses belong to one
//! * `event`: rdma_cm's event channel and its events
//! * `id`: rdma_cm's ids
//! * `completion`: completion queues and their channels
//! * `queue_pair`: the protection domain and the queue pair
//! * `post`: chains of work requests
//! * `region`: registered memory
//! * `listener`, `endpoint`: what the caller holds
//! * `optional`: functions that an old libibverbs lacks
//! * `counts`: what is alive
//! * `table`: the exported table; `connection` and `work` are its functions, `entry` what they share

mod address;
mod completion;
mod connection;
mod counts;
mod device;
mod endpoint;
mod entry;
mod event;
mod failure;
mod id;
mod listener;
mod optional;
mod post;
mod queue_pair;
mod region;
mod table;
mod work;

pub use table::vgpu_verbs_v1;
