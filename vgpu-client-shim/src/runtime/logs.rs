//! What CUDA has to say about its errors, as text; how it is kept is told in [`crate::journal`].

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;

use cuda_types::{CuError, CuResult};

use crate::edge::{Out, Required, entries};
use crate::journal::{self, Callback, MOST_BYTES};

entries! {
    /// Has a function of the program be told every line.
    fn cudaLogsRegisterCallback(callback: Option<Callback>, data: *mut c_void, handle: Out<'_, u64>) {
        let callback = callback.required()?;
        let made = journal::with(|journal| journal.listen(callback, data));
        if let Some(handle) = handle {
            handle.write(made);
        }
        Ok(())
    }

    /// The function is told no more.
    fn cudaLogsUnregisterCallback(handle: u64) {
        journal::with(|journal| journal.hush(handle))
    }

    /// The place behind the last line.
    fn cudaLogsCurrent(place: Out<'_, u32>, flags: u32) {
        let place = place.required()?;
        none(flags)?;
        place.write(journal::with(|journal| journal.end()));
        Ok(())
    }

    /// Writes the lines from a place on to a file.
    fn cudaLogsDumpToFile(place: Option<&mut u32>, path: *const c_char, flags: u32) {
        none(flags)?;
        if path.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the caller's string (module doc of `edge`).
        let path = unsafe { CStr::from_ptr(path) };
        // With the line about missing ones it can be a little longer than what is kept.
        let (text, end) = taken(place.as_deref().copied(), 2 * MOST_BYTES)?;
        let written = std::fs::File::create(OsStr::from_bytes(path.to_bytes()))
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|_| CuError::INVALID_VALUE)?;
        if let Some(place) = place {
            *place = end;
        }
        Ok(())
    }

    /// Writes the lines from a place on to memory, as a text that ends with zero.
    fn cudaLogsDumpToMemory(place: Option<&mut u32>, buffer: *mut c_char, bytes: Option<&mut usize>, flags: u32) {
        none(flags)?;
        let bytes = bytes.required()?;
        if buffer.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        let Some(room) = bytes.checked_sub(1) else { return Err(CuError::INVALID_VALUE) };
        let (text, end) = taken(place.as_deref().copied(), room).inspect_err(|_| *bytes = 0)?;
        // SAFETY: the caller's buffer has `bytes` bytes (module doc of `edge`), one more than `room`.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), text.len());
            buffer.add(text.len()).write(0);
        }
        *bytes = text.len();
        if let Some(place) = place {
            *place = end;
        }
        Ok(())
    }
}

/// The lines from a place on, and the place behind them.
fn taken(from: Option<u32>, room: usize) -> CuResult<(String, u32)> {
    journal::with(|journal| Ok((journal.text(from, room)?, journal.end())))
}

/// Flags are for later.
fn none(flags: u32) -> CuResult<()> {
    if flags == 0 { Ok(()) } else { Err(CuError::INVALID_VALUE) }
}
