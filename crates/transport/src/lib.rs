//! Moves bytes between client and server. Knows no CUDA and no frames.
//!
//! Layout:
//! * [`link`]: the [`Link`] trait and its errors
//! * [`socket`]: TCP and Unix sockets
//! * [`memory`]: both ends in one process
//! * [`verbs`]: InfiniBand verbs, through a plug-in
//! * [`Urgency`]: how a thread that reads a link wakes up
//! * [`direct`]: what a link with access to the peer's memory can do beside sending
//!
//! Unsafe code stands only in files of [`verbs`] and in `socket_info.rs` and `urgency.rs` that say so (docs/adr/0008).

#![deny(unsafe_code)]

pub mod direct;
pub mod link;
pub mod memory;
mod patience;
pub mod socket;
mod socket_info;
mod urgency;
pub mod verbs;

pub use link::{Link, LinkError};
pub use socket::{Address, SocketLink};
pub use urgency::Urgency;
