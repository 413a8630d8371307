//! From PTX to running machine code, and everything that generated code touches.
//!
//! What may be assumed: generated code runs only inside a coroutine, with a [`ThreadContext`] of its own. What must
//! never happen: a panic in a helper, a value with `Drop` or a lock on a coroutine's stack while it is suspended.
//!
//! Layout:
//! * `compiler`: PTX functions to Cranelift's form
//! * `code`: executable memory
//! * `context`: what generated code knows of its thread
//! * `helpers`: functions that generated code calls
//! * `numeric`: arithmetic that has no instruction
//! * `printf`: device printf
//! * `texture`: what generated code calls for textures and surfaces
//! * `mapping`: owned memory maps

pub(crate) mod code;
pub(crate) mod compiler;
pub(crate) mod context;
pub(crate) mod helpers;
pub(crate) mod mapping;
pub(crate) mod numeric;
mod printf;
pub(crate) mod texture;

/// How a device thread ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It returned.
    Finished,
    /// The grid is over, with this `CUresult`.
    Fault(u32),
}
