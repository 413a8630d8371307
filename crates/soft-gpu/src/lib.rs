//! A CUDA device in software: PTX compiled with Cranelift, grids run on CPU threads.
//!
//! Layout:
//! * [`device`]: streams, memory, modules: what a driver does around the grids
//! * [`engine`]: PTX programs as the device loads and runs them
//! * `image`: linked PTX texts
//! * `jit`: PTX to machine code
//! * `run`: grids on CPU threads
//! * `texture`: textures and surfaces

#![allow(non_snake_case, reason = "CUDA's calls keep CUDA's names")]

pub mod device;
pub mod engine;
mod error;
mod image;
mod jit;
mod run;
mod texture;

pub use device::{SoftGpu, SoftOptions};
