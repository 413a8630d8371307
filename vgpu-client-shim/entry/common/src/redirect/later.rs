//! Libraries that are opened after the start (`dlopen`), as Python opens its extensions.
//!
//! Interposing `dlopen` would be too late: when it returns, the library's constructors have registered its kernels
//! already. But the loader calls an empty function for debuggers, `_r_debug.r_brk`, when the list of objects has
//! changed and before any constructor runs. A jump over that function leads here (seen on glibc 2.36).
//!
//! The loader's lock is held here, so nothing may wait for another thread.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::patch::{self, Code};
use super::plan::JUMP_BYTES;
use super::{Object, Trampolines, redirect_object};

/// link.h, `struct r_debug`.
#[repr(C)]
struct RDebug {
    version: c_int,
    map: *const LinkMap,
    /// The empty function.
    brk: usize,
    state: c_int,
    loader_base: usize,
}

/// link.h, `struct link_map`.
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const c_char,
    dynamic: *const c_void,
    next: *const LinkMap,
    previous: *const LinkMap,
}

/// link.h, `RT_CONSISTENT`: the list is complete.
const CONSISTENT: c_int = 0;

static TRAMPOLINES: OnceLock<[Trampolines; 2]> = OnceLock::new();
/// The objects that have been looked at, by their dynamic sections.
static SEEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Has [`changed`] called whenever an object is opened; quietly does without on a loader that looks otherwise.
pub(super) fn watch(known: [Trampolines; 2]) {
    let Some(debug) = loader() else { return };
    // SAFETY: the loader's own structure, which lives as long as the process.
    let brk = unsafe { (*debug).brk };
    if brk == 0 || !is_empty_function(brk) || TRAMPOLINES.set(known).is_err() {
        return;
    }
    look(debug, |_| {});
    // SAFETY: an empty function with room for a jump, as was just checked; only the loader's thread runs.
    let written =
        unsafe { Code::open().write_jump(brk, JUMP_BYTES, (changed as *const ()).expose_provenance()) };
    if written.is_err() {
        super::say("libraries that are opened later are not redirected");
    }
}

/// The loader calls this when its list has changed, or is about to.
extern "C" fn changed() {
    let Some(debug) = loader() else { return };
    // SAFETY: the loader's own structure.
    if unsafe { (*debug).state } != CONSISTENT {
        return;
    }
    // A panic must not reach the loader.
    let _ = std::panic::catch_unwind(|| {
        look(debug, |object| {
            if let Some(known) = TRAMPOLINES.get() {
                redirect_object(object, known);
            }
        });
    });
}

/// Calls `new` for every object that was not there at the last look.
fn look(debug: *const RDebug, mut new: impl FnMut(&Object)) {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = std::mem::take(&mut *seen);
    // SAFETY: the list is consistent, and the loader's lock is held, or no other thread runs.
    let mut map = unsafe { (*debug).map };
    while !map.is_null() {
        // SAFETY: an element of the list.
        let LinkMap { base, name, dynamic, next, .. } = unsafe { &*map };
        if !before.contains(&dynamic.addr()) && !name.is_null() {
            // SAFETY: a C string of the loader.
            let name = unsafe { CStr::from_ptr(*name) };
            let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
            new(&Object { path, base: *base, end: *base, is_program: false });
        }
        seen.push(dynamic.addr());
        map = *next;
    }
}

fn loader() -> Option<*const RDebug> {
    // SAFETY: a C string; the loader exports the structure for debuggers.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_r_debug".as_ptr()) };
    (!found.is_null()).then_some(found.cast_const().cast())
}

/// Whether the function at `address` does nothing, and nothing else lies in the bytes that a jump needs.
fn is_empty_function(address: usize) -> bool {
    if !address.is_multiple_of(16) {
        return false;
    }
    // SAFETY: code of the loader, which is readable; 16 bytes from a multiple of 16 lie in one page.
    let code: [u8; 16] = unsafe { std::ptr::read_unaligned(std::ptr::with_exposed_provenance(address)) };
    // SAFETY: as above.
    if unsafe { patch::is_jump(address) } {
        return false;
    }
    let body = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(&code);
    let Some(padding) = body.strip_prefix(&[0xc3]) else { return false };
    // What compilers fill gaps with: int3, zeros, or long forms of nop.
    let nops: [&[u8]; 3] = [&[0x66, 0x66, 0x2e, 0x0f, 0x1f], &[0x66, 0x2e, 0x0f, 0x1f], &[0x0f, 0x1f]];
    padding.iter().all(|byte| matches!(byte, 0xcc | 0 | 0x90))
        || nops.iter().any(|nop| padding.starts_with(nop))
}
