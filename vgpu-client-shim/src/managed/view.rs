//! The pages of a managed range: the program's view, whose rights change, and our own, which always has access.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use cuda_types::HostSpan;

/// What the program may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    None,
    Read,
    Write,
}

/// Pages of the common memory file, mapped twice.
pub(super) struct Pages {
    /// The program's view: at the device's addresses.
    start: usize,
    /// Ours.
    own: *mut c_void,
    bytes: usize,
}

// SAFETY: the mappings belong to the value and are used under the lock of the module above.
unsafe impl Send for Pages {}

impl Pages {
    /// Maps new pages at `start`, readable and writable. What is mapped there now is replaced: it must be a part of
    /// the window, which this process has reserved.
    pub(super) fn new(start: usize, bytes: usize) -> io::Result<Pages> {
        let file = memory_file()?;
        let offset = i64::try_from(start).map_err(io::Error::other)?;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let descriptor = file.as_raw_fd();
        // SAFETY: a new mapping wherever the kernel likes.
        let own =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, libc::MAP_SHARED, descriptor, offset) };
        if own == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let wanted = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: replaces a part of our own reservation, as the caller vouches.
        let view = unsafe { libc::mmap(wanted, bytes, rights, flags, descriptor, offset) };
        if view == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            // SAFETY: exactly the mapping made above.
            unsafe { libc::munmap(own, bytes) };
            return Err(error);
        }
        Ok(Pages { start, own, bytes })
    }

    /// The first address of the program's view.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Sets what the program may do with the bytes from offset `from` to `to`.
    pub(super) fn allow(&self, from: usize, to: usize, access: Access) -> io::Result<()> {
        let rights = match access {
            Access::None => libc::PROT_NONE,
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        let address = std::ptr::with_exposed_provenance_mut(self.start + from);
        // SAFETY: a part of the program's view, which this value owns.
        match unsafe { libc::mprotect(address, to - from, rights) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The bytes from offset `from` to `to`, by way of our own mapping.
    pub(super) fn span(&self, from: usize, to: usize) -> HostSpan {
        // SAFETY: `own` is mapped readable and writable as long as the value lives, and every copy that gets a span
        // of it is over, or has captured the bytes, when it returns (pageable memory).
        unsafe { HostSpan::new(self.own.cast::<u8>().cast_const().wrapping_add(from), to - from) }
    }

    /// The parts of `from..to` that hold anything: all of it, or with `only_touched` the pages that were written.
    pub(super) fn touched(&self, from: usize, to: usize, only_touched: bool) -> Vec<(usize, usize)> {
        if !only_touched {
            return vec![(from, to)];
        }
        let Ok(file) = memory_file() else { return vec![(from, to)] };
        let seek = |at: usize, whence| {
            let offset = i64::try_from(self.start + at).ok()?;
            // SAFETY: moves the position of our own file, which nobody else uses.
            let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
            usize::try_from(found).ok().map(|found| found - self.start)
        };
        let mut parts = Vec::new();
        let mut at = from;
        // The end of the file is far behind, so both searches find something or there is no data at all.
        while at < to
            && let Some(data) = seek(at, libc::SEEK_DATA).filter(|data| *data < to)
        {
            let hole = seek(data, libc::SEEK_HOLE).unwrap_or(to).min(to);
            parts.push((data, hole));
            at = hole;
        }
        parts
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let start = std::ptr::with_exposed_provenance_mut(self.start);
        // SAFETY: puts the reservation back over exactly the program's view.
        unsafe { libc::mmap(start, self.bytes, libc::PROT_NONE, flags, -1, 0) };
        // SAFETY: exactly our own mapping.
        unsafe { libc::munmap(self.own, self.bytes) };
        if let (Ok(file), Ok(offset), Ok(bytes)) =
            (memory_file(), i64::try_from(self.start), i64::try_from(self.bytes))
        {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: gives the pages of this range back; nothing maps them any more.
            unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, bytes) };
        }
    }
}

/// The file behind all managed pages; an address is its own offset.
fn memory_file() -> io::Result<&'static OwnedFd> {
    static FILE: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(file) = FILE.get() {
        return Ok(file);
    }
    // SAFETY: a C string; the descriptor does not survive an exec.
    let descriptor = unsafe { libc::memfd_create(c"vgpu-managed".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // As long as user addresses reach; it takes no memory.
    // SAFETY: our own file.
    if unsafe { libc::ftruncate(file.as_raw_fd(), 1 << 47) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(FILE.get_or_init(|| file))
}
