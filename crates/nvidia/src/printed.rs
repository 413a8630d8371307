//! What kernels print. The driver writes it to standard output of its process, through C's buffers, when it
//! synchronizes. The client wants it, so standard output becomes a file in memory that we read.
//!
//! This happens with the first module and not before: the process that only reads a device's facts writes them to
//! standard output.

use std::os::fd::OwnedFd;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::io::{Errno, pread};

use crate::device::{NvidiaGpu, lock};

/// Standard output, and how far it was read.
#[derive(Debug)]
pub(crate) struct Printed {
    file: OwnedFd,
    read: u64,
}

impl NvidiaGpu {
    /// Takes over standard output, once, if that was asked for.
    pub(crate) fn capture_printed(&self) {
        let mut printed = lock(&self.printed);
        if self.captures_printed && printed.is_none() {
            match Printed::new() {
                Ok(captured) => *printed = Some(captured),
                Err(error) => tracing::warn!("what kernels print stays here: {error}"),
            }
        }
    }
}

impl Printed {
    fn new() -> Result<Self, Errno> {
        let file = memfd_create("printed", MemfdFlags::CLOEXEC)?;
        rustix::stdio::dup2_stdout(&file)?;
        Ok(Self { file, read: 0 })
    }

    /// What was printed since the last time.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        // SAFETY: null stands for all of C's output streams.
        unsafe { libc::fflush(std::ptr::null_mut()) };
        let mut taken = Vec::new();
        let mut block = [0; 4096];
        // A file in memory has no errors but a signal's, and what is not read now is read next time.
        while let Ok(bytes @ 1..) = pread(&self.file, &mut block, self.read) {
            taken.extend_from_slice(&block[..bytes]);
            self.read += bytes as u64;
        }
        if !taken.is_empty() {
            // The memory behind us is given back; if it cannot be, it is held for nothing, and that is all.
            let _ =
                fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, self.read);
        }
        taken
    }
}
