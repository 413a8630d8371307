//! The lowering of cudart calls to driver calls, one chapter a file.

pub mod error;
mod error_list;
