//! What client and server say to each other, without a socket in sight.
//!
//! The heart is the call table in [`calls`]: one row per CUDA driver call. From each row come a method of the
//! [`Driver`] traits, its implementation for whoever can [carry calls](remote::Caller), its branch in
//! [`dispatch`](calls::dispatch) and its line in [`ROWS`](calls::rows). To add a call: write a row, then a method in
//! each device.
//!
//! Layout:
//! * [`calls`]: the rows, one file per chapter, and the macros that read them
//! * [`param`]: how each kind of argument and answer travels
//! * [`arrays`]: what the calls about arrays carry
//! * [`remote`]: a trait call becomes a frame
//! * [`names`]: the names that a client gives to what it creates
//! * [`device`]: what a worker needs of a device beside the table
//! * [`facts`]: what is told once, so that nobody has to ask
//! * [`codec`], [`frame`], [`frames`], [`control`]: bytes
//! * [`handshake`]: versions and greetings

#![forbid(unsafe_code)]
#![allow(non_snake_case, reason = "CUDA's calls keep CUDA's names")]

pub mod arrays;
pub mod calls;
pub mod codec;
pub mod control;
pub mod device;
pub mod facts;
pub mod frame;
pub mod frames;
pub mod handshake;
pub mod names;
pub mod param;
pub mod remote;

pub use calls::{
    ArrayCalls, Class, ContextCalls, Driver, EventCalls, LaunchCalls, MemoryCalls, ModuleCalls, Row,
    StreamCalls, TransferCalls,
};
pub use codec::Malformed;
pub use device::Device;
pub use facts::{DeviceFacts, FunctionFacts, GlobalFacts, ModuleFacts};
pub use names::Names;
pub use remote::Caller;

/// The TCP port of server 0; server `n` listens on `BASE_PORT + n`.
pub const BASE_PORT: u16 = 40800;
