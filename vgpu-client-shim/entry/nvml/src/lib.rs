//! `libnvidia-ml.so.1`: every function of NVML, as a jump into `libvgpu_core.so`.
//!
//! Nothing here but the trampolines that the build script writes; what they do is told in `entry/build_entries.rs`.

include!("../../plain_trampolines.rs");
