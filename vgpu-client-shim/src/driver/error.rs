//! Names and texts of errors.

use std::ffi::{CStr, c_char};

use cuda_types::CuError;

use super::{answer_always, error_list::NAMES};
use crate::edge::{Out, Required};
use crate::runtime::error as runtime_error;

/// The name of an error, as cuda.h spells it.
pub(crate) extern "C" fn cuGetErrorName(error: u32, text: Out<'_, *const c_char>) -> u32 {
    answer_always("cuGetErrorName", || {
        let text = text.required()?;
        let found = NAMES.binary_search_by_key(&error, |row| row.0).ok().map(|index| NAMES[index].1);
        tell(text, found)
    })
}

/// The text of an error.
pub(crate) extern "C" fn cuGetErrorString(error: u32, text: Out<'_, *const c_char>) -> u32 {
    answer_always("cuGetErrorString", || {
        let text = text.required()?;
        let found = match error {
            // The driver's own.
            47 => Some(c"multicast resource full"),
            202 => Some(c"context already current"),
            916 => Some(c"key rotation error"),
            _ => runtime_error::find(error).map(|(_, _, text)| *text),
        };
        tell(text, found)
    })
}

/// CUDA Driver API, cuGetErrorString: an unknown error is `CUDA_ERROR_INVALID_VALUE`, and the text NULL.
fn tell(
    text: &mut std::mem::MaybeUninit<*const c_char>,
    found: Option<&'static CStr>,
) -> Result<(), CuError> {
    text.write(found.map_or(std::ptr::null(), CStr::as_ptr));
    found.map(drop).ok_or(CuError::INVALID_VALUE)
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::*;

    fn asked(ask: extern "C" fn(u32, Out<'_, *const c_char>) -> u32, error: u32) -> Result<String, u32> {
        let mut text = MaybeUninit::uninit();
        match ask(error, Some(&mut text)) {
            // SAFETY: written on success, a C string of ours.
            0 => Ok(unsafe { CStr::from_ptr(text.assume_init()) }.to_str().unwrap().to_owned()),
            code => Err(code),
        }
    }

    #[test]
    fn the_list_is_sorted_so_that_every_number_is_found() {
        assert!(NAMES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(asked(cuGetErrorName, 2).as_deref(), Ok("CUDA_ERROR_OUT_OF_MEMORY"));
        assert_eq!(asked(cuGetErrorString, 2).as_deref(), Ok("out of memory"));
        for (number, _) in NAMES {
            assert!(asked(cuGetErrorString, *number).is_ok(), "{number} has no text");
        }
        assert_eq!(asked(cuGetErrorName, 12345), Err(1));
        assert_eq!(cuGetErrorName(1, None), 1);
    }
}
