//! Memory of the C caller. All reading and writing of it happens here.
//!
//! The contract is that of the CUDA Driver API: an output pointer is null or writable for its type, an input pointer
//! is null or readable, a string ends with NUL, and a range is as long as the length beside it says. A null pointer is
//! `CUDA_ERROR_INVALID_VALUE`. What a caller breaks of this, it breaks with every driver.

use std::ffi::{CStr, CString, c_char, c_void};

use cuda_types::{CuError, CuResult, HostSpan};

/// Where an answer goes.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Whether the caller does not want this answer.
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes the answer.
    pub(crate) fn set(self, value: T) -> CuResult<()> {
        if self.0.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: not null, hence writable by the caller's contract; alignment is that of a C variable.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the answer if the caller wants it.
    pub(crate) fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `set`.
            unsafe { self.0.write(value) };
        }
    }

    /// Writes several answers one behind the other, where the caller has said that there is room.
    pub(crate) fn set_all(self, values: impl IntoIterator<Item = T>) -> CuResult<()> {
        for (index, value) in values.into_iter().enumerate() {
            Out(self.0.wrapping_add(index)).set(value)?;
        }
        Ok(())
    }
}

/// A structure to be read.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    pub(crate) fn get(self) -> CuResult<T> {
        if self.0.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: not null, hence readable by the caller's contract.
        Ok(unsafe { self.0.read() })
    }

    /// The element at `index`, where the caller has said that there is one.
    pub(crate) fn at(self, index: usize) -> CuResult<T> {
        if self.0.is_null() { Err(CuError::INVALID_VALUE) } else { In(self.0.wrapping_add(index)).get() }
    }

    /// Whether nothing is given.
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// A string to be read.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub(crate) fn get(self) -> CuResult<CString> {
        if self.0.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: not null, hence a C string by the caller's contract.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_owned())
    }
}

/// Host memory whose length stands beside it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Host(*mut c_void);

impl Host {
    pub(crate) fn address(self) -> usize {
        self.0.expose_provenance()
    }

    /// The memory at `address`, for whoever got the address as a number.
    pub(crate) fn at(address: usize) -> Self {
        Host(std::ptr::with_exposed_provenance_mut(address))
    }

    /// The bytes at `offset`, to be read before the call returns.
    pub(crate) fn bytes(&self, offset: usize, length: usize) -> CuResult<&[u8]> {
        if length == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: not null, hence readable for the length by the caller's contract; nothing writes it meanwhile.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast::<u8>().wrapping_add(offset), length) })
    }

    /// The range as memory that outlives the call, for an operation that is over before the caller's contract is.
    pub(crate) fn span(self, length: usize) -> CuResult<HostSpan> {
        if self.0.is_null() && length > 0 {
            return Err(CuError::INVALID_VALUE);
        }
        self.0.expose_provenance();
        // SAFETY: the caller's contract: readable and writable until the copy that it is made for is over.
        Ok(unsafe { HostSpan::new(self.0.cast::<u8>().cast_const(), length) })
    }

    /// Bytes up to a NUL.
    pub(crate) fn text(self) -> CuResult<CString> {
        Text(self.0.cast_const().cast()).get()
    }
}
