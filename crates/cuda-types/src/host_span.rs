//! Host memory that must outlive the call which names it.
//!
//! An asynchronous copy reads or writes host memory after the call has returned; a borrowed slice cannot say that.
//! A [`HostSpan`] is an address and a length whose maker has promised, once and in writing, that the memory stays
//! mapped until the operation is over. This is the only unsafe code of the crate (docs/adr/0002).

#![allow(unsafe_code, reason = "the one place where host memory named by address is read and written")]

use std::fmt;

/// A range of host memory, readable and writable until the operation that it was made for has completed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HostSpan {
    address: usize,
    bytes: usize,
}

impl HostSpan {
    /// Names `bytes` bytes of host memory at `address`.
    ///
    /// # Safety
    /// The range stays mapped, readable and, where the operation writes, writable until that operation has
    /// completed. Other threads may write it meanwhile only where CUDA allows it (CUDA Driver API, "API
    /// synchronization behavior"): what is read is then unspecified, as it is with a real device.
    pub unsafe fn new(address: *const u8, bytes: usize) -> HostSpan {
        HostSpan { address: address.expose_provenance(), bytes }
    }

    /// Memory of the process that is never freed.
    pub fn leak(bytes: Vec<u8>) -> HostSpan {
        let bytes = bytes.leak();
        HostSpan { address: bytes.as_mut_ptr().expose_provenance(), bytes: bytes.len() }
    }

    /// The first address.
    pub fn address(self) -> usize {
        self.address
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.bytes
    }

    /// Whether it holds no byte.
    pub fn is_empty(self) -> bool {
        self.bytes == 0
    }

    /// The part of `bytes` bytes from `offset`; `None` if it does not lie inside.
    pub fn slice(self, offset: usize, bytes: usize) -> Option<HostSpan> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then(|| HostSpan { address: self.address + offset, bytes })
    }

    /// Lends the bytes for reading, for as long as the caller can show that nothing writes them.
    pub fn read(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: `new`'s caller promised that the range is mapped and readable until the operation is over.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(self.address), self.bytes) }
    }

    /// Lends the bytes for writing.
    pub fn write(&mut self) -> &mut [u8] {
        if self.bytes == 0 {
            return &mut [];
        }
        // SAFETY: as in `read`, and the operation is one that writes the range.
        unsafe {
            std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(self.address), self.bytes)
        }
    }
}

impl fmt::Debug for HostSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostSpan({:#x}, {} bytes)", self.address, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_outside_the_span_is_refused() {
        let bytes = [1_u8, 2, 3, 4];
        // SAFETY: `bytes` outlives every use below and nothing writes it.
        let span = unsafe { HostSpan::new(bytes.as_ptr(), bytes.len()) };
        assert_eq!(span.slice(1, 2).map(|part| part.read().to_vec()), Some(vec![2, 3]));
        assert_eq!(span.slice(3, 2), None);
        assert_eq!(span.slice(usize::MAX, 2), None);
    }
}
