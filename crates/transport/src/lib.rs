//! Moves bytes between client and server. Knows no CUDA and no frames.
//!
//! Layout:
//! * [`link`]: the [`Link`] trait and its errors
//! * [`socket`]: TCP and Unix sockets
//! * [`memory`]: both ends in one process

#![forbid(unsafe_code)]

pub mod link;
pub mod memory;
pub mod socket;

pub use link::{Link, LinkError};
pub use socket::{Address, SocketLink};
