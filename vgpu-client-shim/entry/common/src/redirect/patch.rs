//! Writes jumps over entry points of code that is mapped but not yet running.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::plan::JUMP_BYTES;

/// Writes to this process's code: through `/proc/self/mem`, which does not change the rights of pages, or, where that
/// is not allowed, by making the touched pages writable for a moment.
pub(super) struct Code {
    memory: Option<File>,
}

impl Code {
    pub(super) fn open() -> Code {
        Code { memory: File::options().read(true).write(true).open("/proc/self/mem").ok() }
    }

    /// Writes a jump to `target` over the function at `address`, which has `room` bytes.
    ///
    /// A leading `endbr64` stays where the room allows.
    ///
    /// # Safety
    /// `address` is the entry of a mapped function with at least `room` bytes up to the next one, and no thread
    /// executes it now.
    pub(super) unsafe fn write_jump(&self, address: usize, room: u64, target: usize) -> io::Result<()> {
        // SAFETY: the caller vouches for `room` mapped bytes, and code is readable.
        let head: [u8; 4] = unsafe { std::ptr::read_unaligned(std::ptr::with_exposed_provenance(address)) };
        let keeps_mark = head == [0xf3, 0x0f, 0x1e, 0xfa] && room >= JUMP_BYTES + 4;
        let at = address + if keeps_mark { 4 } else { 0 };
        // jmp *0(%rip), followed by the address.
        let mut jump = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        jump[6..].copy_from_slice(&target.to_le_bytes());
        let through_file = self.memory.as_ref().map(|memory| memory.write_all_at(&jump, at as u64));
        match through_file {
            Some(Ok(())) => Ok(()),
            // SAFETY: as for this function.
            _ => unsafe { write_with_rights(at, &jump) },
        }
    }
}

/// Whether a jump has been written at `address` already.
///
/// # Safety
/// `address` is the entry of a mapped function with at least [`JUMP_BYTES`] bytes.
pub(super) unsafe fn is_jump(address: usize) -> bool {
    // SAFETY: the caller vouches for the bytes, and code is readable.
    let head: [u8; 10] = unsafe { std::ptr::read_unaligned(std::ptr::with_exposed_provenance(address)) };
    let jump = [0xff, 0x25, 0, 0, 0, 0];
    head[..6] == jump || head[4..] == jump
}

/// A function for a name that we do not know: calls `say` with that name.
///
/// The page and the name live as long as the process. `None` if the system gives no executable memory.
pub(super) fn unknown_name_stub(
    name: &str,
    say: extern "C" fn(*const std::ffi::c_char) -> u32,
) -> Option<usize> {
    let name = CString::new(name).ok()?.into_raw();
    // mov $name, %rdi; mov $say, %rax; jmp *%rax
    let mut code = [0x48, 0xbf, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0];
    code[2..10].copy_from_slice(&name.expose_provenance().to_le_bytes());
    code[12..20].copy_from_slice(&(say as *const ()).expose_provenance().to_le_bytes());
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: asks for new memory only.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), code.len(), rights, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page is new, writable and larger than the code.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len()) };
    // SAFETY: the page is ours alone.
    let done = unsafe { libc::mprotect(page, code.len(), libc::PROT_READ | libc::PROT_EXEC) };
    (done == 0).then(|| page.expose_provenance())
}

/// # Safety
/// As for [`Code::write_jump`].
unsafe fn write_with_rights(at: usize, bytes: &[u8]) -> io::Result<()> {
    const PAGE_BYTES: usize = 4096;
    let first = at / PAGE_BYTES * PAGE_BYTES;
    let length = (at + bytes.len()).next_multiple_of(PAGE_BYTES) - first;
    let page = std::ptr::with_exposed_provenance_mut::<c_void>(first);
    let rights = |rights: i32| {
        // SAFETY: the pages are mapped code, and hold the same bytes under either right.
        match unsafe { libc::mprotect(page, length, rights) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    rights(libc::PROT_READ | libc::PROT_WRITE)?;
    let target = std::ptr::with_exposed_provenance_mut(at);
    // SAFETY: the pages are writable now, and nobody executes them.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    rights(libc::PROT_READ | libc::PROT_EXEC)
}
