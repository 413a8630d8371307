//! Memory that both ends of a connection use: rings, staging, words that the peer writes.

#![allow(unsafe_code, reason = "memory that another machine writes is no Rust reference (docs/adr/0008)")]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cuda_types::HostSpan;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use verbs_abi::access;

use super::error::VerbsError;
use super::plugin::{Endpoint, Region};
use crate::direct::{LocalRange, Registered, RemoteAddress};

/// Zeroed pages of this process that the peer may write and read; unmapped after their registration has ended.
pub struct Pinned {
    // Fields are dropped in order: the registration before the pages.
    region: Region,
    pages: Pages,
}

struct Pages {
    address: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: a mapping that only this value unmaps.
unsafe impl Send for Pages {}
// SAFETY: the bytes are reached through `HostSpan` and atomics only.
unsafe impl Sync for Pages {}

impl Pinned {
    pub(crate) fn new(endpoint: &Arc<Endpoint>, bytes: usize) -> Result<Pinned, VerbsError> {
        let pages = Pages::new(bytes).map_err(|error| VerbsError::Failed {
            step: verbs_abi::step::REGISTER,
            text: format!("no {bytes} bytes of memory: {error}"),
        })?;
        let rights = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ;
        let region = Region::new(endpoint, pages.span(), rights)?;
        Ok(Pinned { region, pages })
    }

    /// All of it, valid as long as this value lives.
    pub fn span(&self) -> HostSpan {
        self.pages.span()
    }

    /// `bytes` from `offset`, as a source or target of this side's own transfers.
    pub fn local(&self, offset: u64, bytes: u64) -> Option<LocalRange> {
        LocalRange::inside(self.span(), self.region.local_key(), offset, bytes)
    }

    /// Where the peer finds it.
    pub fn remote(&self) -> RemoteAddress {
        RemoteAddress { address: self.pages.span().address() as u64, key: self.region.remote_key() }
    }

    /// Reads one of the aligned words that the peer writes; `index` counts words.
    pub(crate) fn word(&self, index: usize) -> u64 {
        assert!(index < self.pages.bytes / 8, "a word of this memory");
        // SAFETY: inside the mapping and aligned, as pages are; written by the network adapter in whole words.
        let word = unsafe { AtomicU64::from_ptr(self.pages.address.cast::<u64>().as_ptr().add(index)) };
        word.load(Ordering::Acquire)
    }
}

impl Pages {
    fn new(bytes: usize) -> std::io::Result<Pages> {
        // SAFETY: asks for new memory only.
        let address = unsafe {
            mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        let address = NonNull::new(address).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Pages { address, bytes })
    }

    fn span(&self) -> HostSpan {
        // SAFETY: mapped as long as this value lives, and every user holds it that long.
        unsafe { HostSpan::new(self.address.as_ptr().cast(), self.bytes) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made. Nothing can be done about a failure.
        let _ = unsafe { munmap(self.address.as_ptr(), self.bytes) };
    }
}

/// Registers memory of the program for transfers of both sides.
pub(crate) fn register(endpoint: &Arc<Endpoint>, span: HostSpan) -> Result<Registered, VerbsError> {
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ;
    let region = Region::new(endpoint, span, rights)?;
    let (local_key, remote_key) = (region.local_key(), region.remote_key());
    Ok(Registered::new(span, local_key, remote_key, Box::new(region)))
}
