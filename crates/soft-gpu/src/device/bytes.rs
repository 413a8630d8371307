//! Copies and fills of device memory, whose addresses are addresses of this process.
//!
//! The ranges have been checked against the allocations when the operation was submitted, and an allocation ends only
//! after the work that was submitted before (`cuMemFree` waits for it). A kernel of another stream may access the same
//! bytes meanwhile: that is a race of the program, whose outcome CUDA leaves open, so bytes are moved as raw memory.

use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64};

use cuda_types::HostSpan;

fn pointer(address: u64) -> *mut u8 {
    ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

/// Device memory as host memory, which it is.
///
/// # Safety
/// As for [`HostSpan::new`].
pub(super) unsafe fn span(address: u64, bytes: usize) -> HostSpan {
    // SAFETY: the caller's promise.
    unsafe { HostSpan::new(pointer(address), bytes) }
}

/// Copies within device memory; the ranges may overlap.
///
/// # Safety
/// Both ranges lie in allocations or variables that outlive the call.
pub(super) unsafe fn copy(dst: u64, src: u64, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { ptr::copy(pointer(src), pointer(dst), bytes) }
}

/// Copies host bytes to device memory.
///
/// # Safety
/// As for [`copy`].
pub(super) unsafe fn store(dst: u64, src: &[u8]) {
    // SAFETY: the caller's promise; `src` is no device memory, or overlaps as `ptr::copy` allows.
    unsafe { ptr::copy(src.as_ptr(), pointer(dst), src.len()) }
}

/// Copies device memory to host bytes.
///
/// # Safety
/// As for [`copy`].
pub(super) unsafe fn load(dst: &mut [u8], src: u64) {
    // SAFETY: the caller's promise.
    unsafe { ptr::copy(pointer(src), dst.as_mut_ptr(), dst.len()) }
}

/// A word that others may be writing.
///
/// # Safety
/// As for [`copy`], and the address is a multiple of 4.
pub(super) unsafe fn word_32<'a>(address: u64) -> &'a AtomicU32 {
    // SAFETY: the caller's promise.
    unsafe { AtomicU32::from_ptr(pointer(address).cast()) }
}

/// As [`word_32`], for 64 bits.
///
/// # Safety
/// As for [`copy`], and the address is a multiple of 8.
pub(super) unsafe fn word_64<'a>(address: u64) -> &'a AtomicU64 {
    // SAFETY: the caller's promise.
    unsafe { AtomicU64::from_ptr(pointer(address).cast()) }
}

/// Repeats a pattern of 1, 2 or 4 bytes `count` times.
///
/// # Safety
/// As for [`copy`], and `dst` is a multiple of the pattern's length.
pub(super) unsafe fn fill(dst: u64, pattern: &[u8], count: usize) {
    for index in 0..if pattern.len() == 1 { 0 } else { count } {
        // SAFETY: the caller's promise; index * length stays inside the range.
        unsafe { ptr::copy(pattern.as_ptr(), pointer(dst).add(index * pattern.len()), pattern.len()) }
    }
    if let [byte] = pattern {
        // SAFETY: the caller's promise.
        unsafe { ptr::write_bytes(pointer(dst), *byte, count) }
    }
}
