//! An NVIDIA GPU behind the calls of the table.
//!
//! cudarc finds and opens the driver library. Its declarations return Rust enums, and a number that an enum does not
//! know is undefined behaviour, so the functions are taken by name from cudarc's library handle and called through
//! our own declarations, with plain integers ([`api`]).
//!
//! Layout:
//! * [`api`]: the driver's functions
//! * [`library`]: which `libcuda` is opened, and what is refused
//! * [`device`]: [`NvidiaGpu`]: opening, facts, the context of each thread
//! * `memory`, `module`, `stream`, `event`, `launch`, `gate`, `array`: the chapters of the table
//! * [`plain`]: the driver as a program uses it that knows nothing of us
//! * `printed`: what kernels print
//! * `names`: the variables of a module, which the driver cannot list

#![allow(non_snake_case, reason = "CUDA's calls keep CUDA's names")]

pub mod api;
pub mod array;
pub mod device;
mod event;
mod gate;
mod launch;
pub mod library;
mod memory;
mod module;
mod names;
pub mod plain;
mod printed;
mod stream;

pub use device::NvidiaGpu;
pub use library::{LibraryFolder, Unavailable};
