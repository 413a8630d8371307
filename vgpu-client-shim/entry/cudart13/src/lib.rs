//! `libcudart.so.13`: every function of NVIDIA's runtime 13, as a jump into `libvgpu_core.so`.
//!
//! Nothing here but the trampolines that the build script writes; what they do is told in `entry/build_entries.rs`.

include!("../../trampolines.rs");
