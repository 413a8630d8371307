//! What was said about errors, as text. No context is needed.

use std::ffi::{c_char, c_void};

use super::{entries, of_runtime};
use crate::edge::Out;
use crate::journal::Callback;
use crate::runtime::logs as runtime;

entries! {
    /// Has a function of the program be told every line.
    fn cuLogsRegisterCallback(callback: Option<Callback>, data: *mut c_void, handle: Out<'_, u64>) {
        of_runtime(|| runtime::cudaLogsRegisterCallback(callback, data, handle))
    }

    /// The function is told no more.
    fn cuLogsUnregisterCallback(handle: u64) {
        of_runtime(|| runtime::cudaLogsUnregisterCallback(handle))
    }

    /// The place behind the last line.
    fn cuLogsCurrent(place: Out<'_, u32>, flags: u32) {
        of_runtime(|| runtime::cudaLogsCurrent(place, flags))
    }

    /// Writes the lines from a place on to a file.
    fn cuLogsDumpToFile(place: Option<&mut u32>, path: *const c_char, flags: u32) {
        of_runtime(|| runtime::cudaLogsDumpToFile(place, path, flags))
    }

    /// Writes the lines from a place on to memory.
    fn cuLogsDumpToMemory(place: Option<&mut u32>, buffer: *mut c_char, bytes: Option<&mut usize>, flags: u32) {
        of_runtime(|| runtime::cudaLogsDumpToMemory(place, buffer, bytes, flags))
    }
}
