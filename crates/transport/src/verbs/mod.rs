//! InfiniBand verbs, through the plug-in `libvgpu_verbs.so`. Picture and set-up: docs/verbs.md.
//!
//! Layout:
//! * [`connect`]: from a TCP connection to one over verbs
//! * [`link`]: the connection as a [`Link`](crate::Link): small messages through rings
//! * [`direct`]: transfers between registered memory
//! * [`ring`]: the rings' arithmetic; [`patience`]: how long to poll
//! * [`pinned`]: memory that the peer writes; [`plugin`]: calls of the plug-in; [`error`]: what went wrong

mod connect;
mod direct;
mod error;
mod link;
mod patience;
mod pinned;
mod plugin;
mod ring;

pub use connect::{Dialed, Host, Offer, TOKEN_BYTES, VerbsOptions, available, dial};
pub use error::VerbsError;
pub use link::VerbsLink;
pub use pinned::Pinned;
