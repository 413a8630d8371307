//! Executable memory: chunks of one reserved region of the process. A chunk is written while it is writable and becomes
//! executable before anybody learns its address; never both at once.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

const REGION_BYTES: usize = 1 << 30;
const PAGE: usize = 4096;

static REGION: AtomicUsize = AtomicUsize::new(0);
static BOOKS: Mutex<Books> = Mutex::new(Books { end: 0, free: Vec::new() });

/// What of the region is in use.
struct Books {
    end: usize,
    /// Offset and bytes of chunks given back.
    free: Vec<(usize, usize)>,
}

/// Generated code of one function; freed on drop.
pub(crate) struct Code {
    offset: usize,
    bytes: usize,
}

impl Code {
    /// Copies position-independent code into executable memory.
    pub(crate) fn install(code: &[u8]) -> io::Result<Self> {
        let bytes = code.len().max(1).next_multiple_of(PAGE);
        let mut books = BOOKS.lock().unwrap_or_else(PoisonError::into_inner);
        let base = region()?;
        let offset = match books.free.iter().position(|&(_, free)| free >= bytes) {
            Some(at) => {
                let (offset, free) = books.free.swap_remove(at);
                if free > bytes {
                    books.free.push((offset + bytes, free - bytes));
                }
                offset
            }
            None if books.end + bytes <= REGION_BYTES => {
                books.end += bytes;
                books.end - bytes
            }
            None => return Err(io::ErrorKind::OutOfMemory.into()),
        };
        protect(base + offset, bytes, libc::PROT_READ | libc::PROT_WRITE)?;
        let target = std::ptr::with_exposed_provenance_mut::<u8>(base + offset);
        // SAFETY: the chunk is `bytes` long, at least `code.len()`, writable since the line above, and nobody else
        // has its address: the books gave it to us alone.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), target, code.len()) };
        protect(base + offset, bytes, libc::PROT_READ | libc::PROT_EXEC)?;
        Ok(Self { offset, bytes })
    }

    /// Where the code starts.
    pub(crate) fn address(&self) -> usize {
        REGION.load(Ordering::Acquire) + self.offset
    }
}

/// Whether an address lies where generated code is. Safe in a signal handler.
pub(crate) fn holds(address: usize) -> bool {
    let base = REGION.load(Ordering::Relaxed);
    base != 0 && (base..base + REGION_BYTES).contains(&address)
}

impl Drop for Code {
    fn drop(&mut self) {
        let base = REGION.load(Ordering::Acquire);
        // A stale call into the chunk faults instead of running what comes next.
        let _ = protect(base + self.offset, self.bytes, libc::PROT_NONE);
        let mut books = BOOKS.lock().unwrap_or_else(PoisonError::into_inner);
        books.free.push((self.offset, self.bytes));
    }
}

fn region() -> io::Result<usize> {
    let base = REGION.load(Ordering::Acquire);
    if base != 0 {
        return Ok(base);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), REGION_BYTES, libc::PROT_NONE, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = address.expose_provenance();
    REGION.store(base, Ordering::Release);
    Ok(base)
}

fn protect(address: usize, bytes: usize, protection: libc::c_int) -> io::Result<()> {
    // SAFETY: the callers pass whole pages of the region reserved above, which is never unmapped.
    let answer = unsafe { libc::mprotect(std::ptr::with_exposed_provenance_mut(address), bytes, protection) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
