//! What the entry libraries share.
//!
//! They are loaded into every process that inherits `LD_PRELOAD`, shells and launchers included, so nothing here
//! allocates much, starts a thread or opens the core before a CUDA function is called.
//!
//! Layout:
//! * [`open_core`]: the table of functions, from `libvgpu_core.so` beside the entry library
//! * [`redirect_static_runtimes`]: programs and libraries with NVIDIA's runtime linked in

mod core_library;
mod redirect;

pub use core_library::{CORE_ABI, CoreTable, open_core};
pub use redirect::{Trampolines, redirect_static_runtimes};
