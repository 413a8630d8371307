//! The lowering of cudart calls to driver calls, one chapter a file. Entry points carry the names of CUDA.

pub(crate) mod array;
pub(crate) mod array_copy;
pub(crate) mod batch;
pub(crate) mod capture;
pub(crate) mod copy;
pub(crate) mod device;
pub(crate) mod entry_point;
pub(crate) mod error;
mod error_list;
pub(crate) mod event;
pub(crate) mod function;
pub(crate) mod graph;
pub(crate) mod host_memory;
pub(crate) mod launch;
pub(crate) mod library;
pub(crate) mod logs;
pub(crate) mod managed;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod properties;
pub(crate) mod registration;
pub(crate) mod stream;
pub(crate) mod stream_attributes;
pub(crate) mod symbol;
pub(crate) mod texture;
pub(crate) mod unavailable;
pub(crate) mod version;

/// Stands behind every name that is not supported: says so once, answers `cudaErrorNotSupported`.
///
/// The arguments are not looked at; in the C calling convention the caller removes them.
pub(crate) extern "C" fn unsupported<const PLACE: usize>() -> u32 {
    crate::table::say_unsupported(PLACE);
    error::record(cuda_types::CuError::NOT_SUPPORTED)
}
