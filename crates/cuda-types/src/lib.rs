//! The CUDA driver ABI in plain Rust: handles, error codes and small structures, without any behaviour.
//!
//! Everything here keeps CUDA's own names. Values that cross the wire or the C edge are transparent newtypes over
//! integers, never Rust enums: a value that we do not know is kept and printed in hex.
//!
//! Layout:
//! * [`error`]: `CuError`, the only error a CUDA program ever sees
//! * [`handle`]: `CUstream`, `CUevent`, `CUdeviceptr` ...
//! * [`attribute`]: device and function attribute numbers
//! * [`host_span`]: host memory that outlives the call which named it
//! * [`wait_value`]: when a stream goes on that waits for a word of memory

#![deny(unsafe_code)]

pub mod attribute;
pub mod error;
pub mod handle;
pub mod host_span;
pub mod wait_value;

pub use error::{CuError, CuResult};
pub use handle::{CUarray, CUdeviceptr, CUevent, CUfunction, CUmipmappedArray, CUmodule, CUstream, Dim3};
pub use host_span::HostSpan;
