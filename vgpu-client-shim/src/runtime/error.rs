//! Errors: the thread's last error, names and texts.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use cuda_types::{CuError, CuResult};

use super::error_list::ERRORS;
use crate::journal;

// Codes of driver_types.h that only the runtime has.
/// `cudaErrorInvalidConfiguration`
pub(crate) const INVALID_CONFIGURATION: CuError = CuError(9);
/// `cudaErrorInvalidPitchValue`
pub(crate) const INVALID_PITCH_VALUE: CuError = CuError(12);
/// `cudaErrorInvalidSymbol`
pub(crate) const INVALID_SYMBOL: CuError = CuError(13);
/// `cudaErrorInvalidMemcpyDirection`
pub(crate) const INVALID_MEMCPY_DIRECTION: CuError = CuError(21);
/// `cudaErrorMissingConfiguration`
pub(crate) const MISSING_CONFIGURATION: CuError = CuError(52);
/// `cudaErrorInvalidDeviceFunction`
pub(crate) const INVALID_DEVICE_FUNCTION: CuError = CuError(98);
/// `cudaErrorPeerAccessUnsupported`
pub(crate) const PEER_ACCESS_UNSUPPORTED: CuError = CuError(217);

thread_local! {
    /// What `cudaPeekAtLastError` answers. A plain cell without a destructor: usable while the thread ends.
    static LAST_ERROR: Cell<u32> = const { Cell::new(0) };
}

/// Notes the outcome of a call: an error becomes the thread's last one, success changes nothing.
pub(crate) fn record(error: CuError) -> u32 {
    LAST_ERROR.set(error.0);
    error.0
}

/// Runs the body of an entry point: notes its error, and turns a panic into `cudaErrorUnknown` with a log line.
pub(crate) fn answer(name: &str, body: impl FnOnce() -> CuResult<()>) -> u32 {
    journal::around(|| match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            crate::log::debug(format_args!("{name}: {error}"));
            record(error)
        }
        Err(_) => {
            crate::log::error(format_args!("{name}: internal error, see the message above"));
            record(CuError::UNKNOWN)
        }
    })
}

/// Answers the last error of this thread and forgets it.
///
/// One that destroyed the context stays until the device is reset (CUDA Runtime API, "Error handling").
pub(crate) extern "C" fn cudaGetLastError() -> u32 {
    let error = LAST_ERROR.get();
    if !CuError(error).is_sticky() {
        LAST_ERROR.set(0);
    }
    error
}

/// The device was reset: nothing stays.
pub(crate) fn forget() {
    LAST_ERROR.set(0);
}

/// Puts the last error back that there was before a call whose error is not to be remembered.
pub(crate) fn restore(error: u32) {
    LAST_ERROR.set(error);
}

/// Answers the last error of this thread.
pub(crate) extern "C" fn cudaPeekAtLastError() -> u32 {
    LAST_ERROR.get()
}

/// The name of an error, as driver_types.h spells it.
pub(crate) extern "C" fn cudaGetErrorName(error: u32) -> *const c_char {
    find(error).map_or(UNRECOGNIZED, |(_, name, _)| name).as_ptr()
}

/// The text of an error, as NVIDIA's runtime words it.
pub(crate) extern "C" fn cudaGetErrorString(error: u32) -> *const c_char {
    find(error).map_or(UNRECOGNIZED, |(_, _, text)| text).as_ptr()
}

const UNRECOGNIZED: &CStr = c"unrecognized error code";

pub(crate) fn find(error: u32) -> Option<&'static (u32, &'static CStr, &'static CStr)> {
    ERRORS.binary_search_by_key(&error, |row| row.0).ok().map(|index| &ERRORS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_so_that_every_number_is_found() {
        assert!(ERRORS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(find(2).unwrap().1, c"cudaErrorMemoryAllocation");
        assert_eq!(find(2).unwrap().2, c"out of memory");
        assert!(find(12345).is_none());
    }

    #[test]
    fn the_last_error_stays_until_it_is_fetched() {
        assert_eq!(answer("a", || Err(CuError::INVALID_VALUE)), 1);
        assert_eq!(answer("b", || Ok(())), 0);
        assert_eq!(cudaPeekAtLastError(), 1);
        assert_eq!(cudaGetLastError(), 1);
        assert_eq!(cudaGetLastError(), 0);
    }

    #[test]
    fn a_panic_becomes_an_unknown_error() {
        assert_eq!(answer("c", || panic!("on purpose")), 999);
        assert_eq!(cudaGetLastError(), 999);
    }
}
