//! `libcuda.so.1`: every function of NVIDIA's driver, as a jump into `libvgpu_core.so`.
//!
//! Nothing here but the trampolines that the build script writes; what they do is told in `entry/build_entries.rs`.
//! Static runtimes are not redirected here: a program that reaches us through its runtime has registered with it already.

include!("../../plain_trampolines.rs");
