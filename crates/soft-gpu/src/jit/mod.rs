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
//! * `numeric`, `float8`: arithmetic that has no instruction
//! * `fragment`, `matrix`: products of matrices, and which lane holds what of them
//! * `mbarrier`: barriers that are objects in shared memory
//! * `printf`: device printf
//! * `texture`: what generated code calls for textures and surfaces
//! * `video`: video instructions
//! * `mapping`: owned memory maps

pub(crate) mod code;
pub(crate) mod compiler;
pub(crate) mod context;
pub(crate) mod float8;
pub(crate) mod fragment;
pub(crate) mod helpers;
pub(crate) mod mapping;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod numeric;
mod printf;
pub(crate) mod texture;
pub(crate) mod video;

/// How a device thread ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It returned.
    Finished,
    /// The grid is over, with this `CUresult`.
    Fault(u32),
}
