//! Little-endian fields at checked offsets.

use crate::error::{Malformed, Result};

/// A part of the container, named so that an error can say which one ended early.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a> {
    what: &'static str,
    data: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(what: &'static str, data: &'a [u8]) -> Self {
        Self { what, data }
    }

    /// `length` bytes at `offset`.
    pub(crate) fn slice(&self, offset: u64, length: u64) -> Result<&'a [u8]> {
        let end = offset.saturating_add(length);
        let truncated = Malformed::Truncated { what: self.what, need: end, have: self.data.len() };
        match (usize::try_from(offset), usize::try_from(end)) {
            (Ok(from), Ok(to)) => self.data.get(from..to).ok_or(truncated),
            _ => Err(truncated),
        }
    }

    pub(crate) fn u16(&self, offset: u64) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(offset)?))
    }

    pub(crate) fn u32(&self, offset: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    pub(crate) fn u64(&self, offset: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }

    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(offset, N as u64)?);
        Ok(array)
    }
}
