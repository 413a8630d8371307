//! The tables of functions that the entry libraries jump through: one per major, in the order of its names.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

use vgpu_entry::{CORE_ABI, CoreTable};

use crate::runtime;

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// A C function of whatever signature.
#[repr(transparent)]
struct Entry(*const ());

// SAFETY: the address of a function, never written.
unsafe impl Sync for Entry {}

static TABLE_12: CoreTable = CoreTable {
    abi: CORE_ABI,
    major: 12,
    count: ENTRIES_12.len(),
    fingerprint: FINGERPRINT_12,
    entries: (&raw const ENTRIES_12).cast(),
};

static TABLE_13: CoreTable = CoreTable {
    abi: CORE_ABI,
    major: 13,
    count: ENTRIES_13.len(),
    fingerprint: FINGERPRINT_13,
    entries: (&raw const ENTRIES_13).cast(),
};

/// The only export of the core: the table of a major, NULL for one that we do not have.
#[unsafe(no_mangle)]
pub extern "C" fn vgpu_core_v1(major: c_int) -> *const CoreTable {
    match major {
        12 => &raw const TABLE_12,
        13 => &raw const TABLE_13,
        _ => std::ptr::null(),
    }
}

/// Stands behind every name that is not supported: says so once, answers `cudaErrorNotSupported`.
///
/// The arguments are not looked at; in the C calling convention the caller removes them.
extern "C" fn unsupported<const NAME: usize>() -> u32 {
    static SAID: [AtomicBool; NAMES.len()] = [const { AtomicBool::new(false) }; NAMES.len()];
    // The line obeys VGPU_LOG, which is read with the rest of the environment.
    crate::config::config();
    if !SAID[NAME].swap(true, Ordering::Relaxed) {
        crate::log::warn(format_args!("{} is not supported", NAMES[NAME]));
    }
    crate::runtime::error::record(cuda_types::CuError::NOT_SUPPORTED)
}
