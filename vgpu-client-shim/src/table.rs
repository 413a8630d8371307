//! The tables of functions that the entry libraries jump through: one per library, in the order of its names.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

use vgpu_entry::{CORE_ABI, CoreTable};

use crate::{driver, nvml, runtime};

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// A C function of whatever signature.
#[repr(transparent)]
struct Entry(*const ());

// SAFETY: the address of a function, never written.
unsafe impl Sync for Entry {}

/// The table of one library.
macro_rules! table {
    ($name:ident, $key:literal, $entries:ident, $fingerprint:ident) => {
        static $name: CoreTable = CoreTable {
            abi: CORE_ABI,
            library: $key,
            count: $entries.len(),
            fingerprint: $fingerprint,
            entries: (&raw const $entries).cast(),
        };
    };
}
table!(CUDART_12, 12, ENTRIES_12, FINGERPRINT_12);
table!(CUDART_13, 13, ENTRIES_13, FINGERPRINT_13);
table!(CUDA, 100, ENTRIES_100, FINGERPRINT_100);
table!(NVML, 101, ENTRIES_101, FINGERPRINT_101);

/// The only export of the core: the table of a library by its key in `symbols/list.rs`, NULL for one that we do not
/// have.
#[unsafe(no_mangle)]
pub extern "C" fn vgpu_core_v1(library: c_int) -> *const CoreTable {
    match library {
        12 => &raw const CUDART_12,
        13 => &raw const CUDART_13,
        100 => &raw const CUDA,
        101 => &raw const NVML,
        _ => std::ptr::null(),
    }
}

/// The function of the driver at a place of `symbols/cuda.txt`.
pub(crate) fn driver_function(place: usize) -> Option<*const ()> {
    ENTRIES_100.get(place).map(|entry| entry.0)
}

/// Notes, for those who want to know, that a function is not supported: what is asked of NVML is no part of a computation.
pub(crate) fn note_unsupported(place: usize) {
    crate::config::config();
    crate::log::debug(format_args!("{} is not supported", UNSUPPORTED[place]));
}

/// Says once that a function is not supported.
pub(crate) fn say_unsupported(place: usize) {
    static SAID: [AtomicBool; UNSUPPORTED.len()] = [const { AtomicBool::new(false) }; UNSUPPORTED.len()];
    // The line obeys VGPU_LOG, which is read with the rest of the environment.
    crate::config::config();
    if !SAID[place].swap(true, Ordering::Relaxed) {
        crate::log::warn(format_args!("{} is not supported", UNSUPPORTED[place]));
    }
}
