//! A program's side of its remote devices.
//!
//! A [`Remote`] is one device of the list: greeted at start, so that its facts are known, and given a [`Session`] at
//! the first call that needs a context. The session carries the calls of the table and adds what must happen on this
//! side: addresses, captured and landing copies, queries answered without asking, errors told once or forever.
//!
//! Layout:
//! * [`remote`]: a device of the list and its session
//! * [`session`]: posts, waits, and the role of the thread that reads; [`outgoing`]: its send buffer;
//!   [`ahead`]: how far it runs ahead
//! * [`incoming`]: what the worker sends
//! * [`progress`]: the one thread that reads and sends while no program thread does
//! * [`memory`], [`copy`], [`event`], [`launch`], [`host_function`]: chapters with a part on this side
//! * [`virtual_memory`]: addresses, physical memory and mappings apart
//! * [`verbs`]: the change from TCP to verbs; [`bulk`]: bulk bytes over a link with direct access
//! * [`hazards`]: host memory that something pending can still write
//! * [`ledger`]: where the time went
//! * [`environment`]: what the embedding program provides
//! * [`server_list`]: the grammar of `VGPU_SERVER`

#![forbid(unsafe_code)]
#![allow(non_snake_case, reason = "CUDA's calls keep CUDA's names")]

mod ahead;
mod bulk;
pub mod connect;
pub mod copy;
pub mod environment;
pub mod event;
pub mod hazards;
pub mod host_function;
mod incoming;
pub mod launch;
mod ledger;
pub mod memory;
mod outgoing;
mod progress;
pub mod remote;
pub mod server_list;
pub mod session;
mod staging;
mod state;
mod thread_number;
mod verbs;
pub mod virtual_memory;

pub use connect::ConnectError;
pub use environment::Environment;
pub use launch::LaunchRefusal;
pub use ledger::{Account, SMALL_COPY_BYTES, Tally};
pub use remote::Remote;
pub use session::{Session, Statistics};
