//! A CUDA device in software.
//!
//! Layout:
//! * [`device`]: streams, memory, modules: what a driver does around the grids

#![allow(non_snake_case, reason = "CUDA's calls keep CUDA's names")]

pub mod device;

pub use device::{SoftGpu, SoftOptions};
