//! The software GPU as a CUDA driver of its own: `libcuda.so.1` for programs on this machine, and for the tests of
//! the code that drives an NVIDIA GPU.
//!
//! A C entry point is a safe function whose parameters are the wrappers of [`pointers`]: they alone read and write
//! memory of the caller. Each answers a `CUresult`, and never lets a panic out.
//!
//! Layout:
//! * [`pointers`]: memory of the caller
//! * [`edge`]: the devices, and what this library must remember beside them
//! * [`gates`]: streams that wait for a word of host memory
//! * `device`, `context`, `memory`, `virtual_memory`, `copy`, `module`, `link`, `stream`, `event`, `launch`, `array`: the
//!   entry points, by chapter

#![allow(non_snake_case, reason = "CUDA's calls keep CUDA's names")]

mod array;
mod context;
mod copy;
mod device;
mod edge;
mod event;
mod gates;
mod launch;
mod link;
mod memory;
mod module;
mod pointers;
mod stream;
mod virtual_memory;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_types::{CuError, CuResult};

/// Declares C entry points. The body answers a `CuResult<()>`.
macro_rules! entries {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $name($($argument: $type),*) -> u32 {
            $crate::answer(|| $body)
        }
    )*};
}
pub(crate) use entries;

/// Turns the result of a body into a `CUresult`; a panic inside is `CUDA_ERROR_UNKNOWN`.
pub(crate) fn answer(body: impl FnOnce() -> CuResult<()>) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => error.0,
        Err(_) => CuError::UNKNOWN.0,
    }
}
