//! InfiniBand verbs, through the plug-in `libvgpu_verbs.so`. Picture and set-up: docs/verbs.md.
//!
//! Layout:
//! * [`connect`]: from a TCP connection to one over verbs
//! * [`link`]: the connection as a [`Link`](crate::Link); [`sends`] and [`receives`]: its two sides
//! * [`direct`]: transfers between registered memory
//! * [`ring`]: the rings' arithmetic; [`patience`]: how long to poll
//! * [`pinned`]: memory that the peer writes; [`plugin`]: calls of the plug-in; [`error`]: what went wrong
//! * [`raw`]: the benchmarks' baseline

mod connect;
mod direct;
mod error;
mod link;
mod pinned;
mod plugin;
pub mod raw;
mod receives;
mod ring;
mod sends;

pub use connect::{Dialed, Host, Offer, Resources, TOKEN_BYTES, VerbsOptions, available, dial, resources};
pub use error::VerbsError;
pub use link::VerbsLink;
pub use pinned::Pinned;
