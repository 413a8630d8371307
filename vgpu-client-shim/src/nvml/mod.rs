//! The management library, `libnvidia-ml.so.1`: what `nvidia-smi`-like programs, PyTorch and MPI libraries ask of the
//! remote devices. It shows the devices of the list as the machine's own; what only the machine with the device knows
//! (temperatures, clocks, fans) is not supported.
//!
//! Layout:
//! * `system`: beginning and end, versions, errors
//! * `device`: handles, names, places on the bus, what a device is
//! * `usage`: memory, utilization, processes
//! * `topology`: what lies between devices

pub(crate) mod device;
pub(crate) mod system;
pub(crate) mod topology;
pub(crate) mod usage;

use std::ffi::c_char;
use std::sync::atomic::{AtomicU32, Ordering};

use cuda_types::{CuError, CuResult};

use crate::journal;
use crate::state::{Device, devices};

/// `nvmlReturn_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct NvmlError(pub(crate) u32);

impl NvmlError {
    pub(crate) const UNINITIALIZED: NvmlError = NvmlError(1);
    pub(crate) const INVALID_ARGUMENT: NvmlError = NvmlError(2);
    pub(crate) const NOT_SUPPORTED: NvmlError = NvmlError(3);
    pub(crate) const NOT_FOUND: NvmlError = NvmlError(6);
    pub(crate) const INSUFFICIENT_SIZE: NvmlError = NvmlError(7);
    pub(crate) const DRIVER_NOT_LOADED: NvmlError = NvmlError(9);
    pub(crate) const GPU_IS_LOST: NvmlError = NvmlError(15);
    pub(crate) const ARGUMENT_VERSION_MISMATCH: NvmlError = NvmlError(25);
    pub(crate) const UNKNOWN: NvmlError = NvmlError(999);
}

/// What a function of NVML comes to.
pub(crate) type Outcome<T = ()> = Result<T, NvmlError>;

/// How often the program has initialized and not shut down.
static INITIALIZED: AtomicU32 = AtomicU32::new(0);

/// Functions of NVML: C functions whose body answers an [`Outcome`]. They are refused before `nvmlInit`.
macro_rules! entries {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        pub(crate) extern "C" fn $name($($arg: $type),*) -> u32 {
            $crate::nvml::answer(stringify!($name), move || {
                $crate::nvml::check_initialized()?;
                $body
            })
        }
    )*};
}
pub(crate) use entries;

/// Runs the body of a function.
pub(crate) fn answer(name: &str, body: impl FnOnce() -> Outcome) -> u32 {
    // A context that is asked here is not the runtime's for that.
    let body = || crate::driver::aside(body);
    journal::around(|| match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            crate::log::debug(format_args!("{name}: NVML error {}", error.0));
            error.0
        }
        Err(_) => {
            crate::log::error(format_args!("{name}: internal error, see the message above"));
            NvmlError::UNKNOWN.0
        }
    })
}

fn check_initialized() -> Outcome {
    if INITIALIZED.load(Ordering::Acquire) == 0 { Err(NvmlError::UNINITIALIZED) } else { Ok(()) }
}

/// Stands behind every name that is not supported: says so once, answers `NVML_ERROR_NOT_SUPPORTED`.
pub(crate) extern "C" fn unsupported<const PLACE: usize>() -> u32 {
    crate::table::note_unsupported(PLACE);
    NvmlError::NOT_SUPPORTED.0
}

/// Handles are the devices' numbers, moved away from NULL and from anything that is mapped.
const HANDLE_BASE: u64 = 0x6d6c_0000_0000;
const HANDLE_STEP: u64 = 16;

fn handle(device: &Device) -> u64 {
    HANDLE_BASE + device.number as u64 * HANDLE_STEP
}

/// The device behind a handle.
fn device(handle: u64) -> Outcome<&'static Device> {
    let number = handle.checked_sub(HANDLE_BASE).filter(|offset| offset.is_multiple_of(HANDLE_STEP));
    let number = number.and_then(|offset| i32::try_from(offset / HANDLE_STEP).ok());
    devices().get(number.ok_or(NvmlError::INVALID_ARGUMENT)?).map_err(|_| NvmlError::INVALID_ARGUMENT)
}

/// A device that cannot be reached is lost.
fn reached<T>(found: CuResult<T>) -> Outcome<T> {
    found.map_err(|error| match error {
        CuError::NO_DEVICE | CuError::DEVICE_UNAVAILABLE => NvmlError::GPU_IS_LOST,
        _ => NvmlError::UNKNOWN,
    })
}

/// Writes a text with its zero byte into the caller's room.
fn write_text(text: &str, room: *mut c_char, length: u32) -> Outcome {
    if room.is_null() {
        return Err(NvmlError::INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(NvmlError::INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller's buffer has `length` bytes (module doc of `edge`), and the text with its zero byte fits.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), room, text.len());
        room.add(text.len()).write(0);
    }
    Ok(())
}

/// Room for an answer, which must be there.
fn room<T>(room: Option<&mut std::mem::MaybeUninit<T>>) -> Outcome<&mut std::mem::MaybeUninit<T>> {
    room.ok_or(NvmlError::INVALID_ARGUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_whole_or_not_at_all() {
        let mut bytes = [1_i8; 4];
        assert_eq!(write_text("abc", bytes.as_mut_ptr(), 3), Err(NvmlError::INSUFFICIENT_SIZE));
        assert_eq!(bytes, [1; 4]);
        assert_eq!(write_text("abc", bytes.as_mut_ptr(), 4), Ok(()));
        assert_eq!(bytes[3], 0);
        assert_eq!(write_text("", std::ptr::null_mut(), 4), Err(NvmlError::INVALID_ARGUMENT));
    }

    #[test]
    fn what_was_never_a_handle_is_refused() {
        for wrong in [0, 1, HANDLE_BASE + 1, HANDLE_BASE - HANDLE_STEP, u64::MAX] {
            assert_eq!(device(wrong).err(), Some(NvmlError::INVALID_ARGUMENT), "{wrong:#x}");
        }
    }
}
