//! Programs and libraries with NVIDIA's runtime linked in: their entry points become jumps to our trampolines.
//!
//! nvcc links the runtime statically unless told otherwise, so there is no library to stand in for. But the functions
//! are there, under their public names, in the symbol table. Before any constructor of the program has registered
//! anything, each of them is overwritten by a jump; the runtime that was linked in never runs.
//!
//! What may be assumed here: relocations are done, no other thread runs, `malloc` works. What must never happen: some
//! entry points of an object are redirected and others not, because two runtimes would then share one program. So an
//! object is redirected as a whole or not at all, and a failure in the middle ends the process.
//!
//! `environ` is not set yet at this point (`-z initfirst`), so variables are read from `/proc/self/environ`.

mod elf;
mod later;
mod patch;
mod plan;

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use patch::Code;
use plan::{Entry, Plan, plan};

/// The trampolines of one major: what entry points are redirected to.
#[derive(Clone, Copy, Debug)]
pub struct Trampolines {
    pub major: u32,
    /// Sorted.
    pub names: &'static [&'static str],
    /// Where the trampoline of each name lies, relative to the first of these numbers.
    pub offsets: &'static [i32],
}

/// The status of a program that must not run: `EX_CONFIG` of sysexits.h.
const STATUS_STRIPPED: c_int = 78;

/// Redirects the static runtimes of the program and of every library, loaded so far or later.
///
/// Ends a stripped program with device code with status 78, unless `VGPU_STATIC=ignore`: on a machine with a GPU of
/// its own it would silently use that one.
pub fn redirect_static_runtimes(known: [Trampolines; 2]) {
    let own = known.map(|trampolines| trampolines.offsets.as_ptr().addr());
    for object in loaded_objects() {
        // Debug builds of this library have large string tables, and the kernel's own object has no file.
        if object.path.parent().is_none_or(|folder| folder.as_os_str().is_empty()) || object.holds(own[0]) {
            continue;
        }
        redirect_object(&object, &known);
    }
    later::watch(known);
}

/// Redirects one object, if it has a runtime linked in.
fn redirect_object(object: &Object, known: &[Trampolines; 2]) {
    let Some(file) = MappedFile::open(&object.path) else { return };
    match plan(file.bytes(), known) {
        Plan::Nothing => {}
        Plan::Redirect { major, entries } => {
            let trampolines = known.iter().find(|trampolines| trampolines.major == major);
            // `plan` only answers a major that is in `known`.
            if let Some(trampolines) = trampolines {
                redirect(object, trampolines, &entries);
            }
        }
        Plan::Refused(reason) if object.is_program => end_unless_ignored(&format!(
            "{}: {reason}, so its calls cannot be redirected; link it with -cudart shared",
            object.shown().display()
        )),
        Plan::Refused(reason) => say(&format!("{} is left alone: {reason}", object.shown().display())),
        Plan::Stripped if object.is_program => end_unless_ignored(&format!(
            "{} has the CUDA runtime linked in and no symbol table, so its calls cannot be redirected; \
                 link it with -cudart shared or do not strip it",
            object.shown().display()
        )),
        Plan::Stripped => say(&format!(
            "{} has device code and no symbol table; if the CUDA runtime is linked in, its calls are not redirected",
            object.shown().display()
        )),
    }
}

/// A file that the loader has mapped.
struct Object {
    path: PathBuf,
    /// Added to the addresses of its symbols.
    base: usize,
    /// The end of what is mapped of it.
    end: usize,
    is_program: bool,
}

impl Object {
    fn holds(&self, address: usize) -> bool {
        (self.base..self.end).contains(&address)
    }

    /// The name for messages.
    fn shown(&self) -> PathBuf {
        std::fs::read_link(&self.path).unwrap_or_else(|_| self.path.clone())
    }
}

fn loaded_objects() -> Vec<Object> {
    /// Collects one object.
    ///
    /// # Safety
    /// Called by `dl_iterate_phdr` with the vector below as `objects`.
    unsafe extern "C" fn collect(info: *mut libc::dl_phdr_info, _: usize, objects: *mut c_void) -> c_int {
        // SAFETY: the pointer that `loaded_objects` passed on, alive during the iteration.
        let objects = unsafe { &mut *objects.cast::<Vec<Object>>() };
        // SAFETY: the loader's own description, valid during this call.
        let info = unsafe { &*info };
        let is_program = objects.is_empty();
        let path = if is_program || info.dlpi_name.is_null() {
            PathBuf::from("/proc/self/exe")
        } else {
            // SAFETY: a C string of the loader.
            PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes()))
        };
        // Usize and u64 are the same on the only platform whose entry points we know.
        let base = usize::try_from(info.dlpi_addr).unwrap_or(0);
        let headers = if info.dlpi_phdr.is_null() {
            &[]
        } else {
            // SAFETY: the loader's own array of program headers.
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
        };
        let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let end = loaded.map(|header| header.p_vaddr.saturating_add(header.p_memsz)).max().unwrap_or(0);
        let end = base.wrapping_add(usize::try_from(end).unwrap_or(0));
        objects.push(Object { path, base, end, is_program });
        0
    }
    let mut objects: Vec<Object> = Vec::new();
    // SAFETY: `collect` matches the type and gets the vector that it expects.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut objects).cast()) };
    objects
}

fn redirect(object: &Object, trampolines: &Trampolines, entries: &[Entry<'_>]) {
    let code = Code::open();
    let address = |entry: &Entry<'_>| usize::try_from(entry.address).map(|at| object.base.wrapping_add(at));
    // With both majors preloaded, the entry library that comes second finds the work done.
    // SAFETY: the entry of a mapped function with at least `JUMP_BYTES` bytes.
    if entries.first().and_then(|entry| address(entry).ok()).is_some_and(|at| unsafe { patch::is_jump(at) }) {
        return;
    }
    let table = trampolines.offsets.as_ptr().expose_provenance();
    for entry in entries {
        let target = match entry.index {
            Some(index) => usize::try_from(trampolines.offsets[index])
                .map(|offset| table + offset)
                .or_else(|_| {
                    usize::try_from(trampolines.offsets[index].unsigned_abs()).map(|back| table - back)
                })
                .ok(),
            None => patch::unknown_name_stub(entry.name, unknown_name),
        };
        let (Some(target), Ok(address)) = (target, address(entry)) else {
            end(&format!("{}: {} cannot be redirected", object.shown().display(), entry.name));
        };
        // SAFETY: the address comes from the symbol table of this very object, `room` reaches to its next function,
        // and only the loader's thread runs.
        if let Err(error) = unsafe { code.write_jump(address, entry.room, target) } {
            end(&format!("{}: {} cannot be redirected: {error}", object.shown().display(), entry.name));
        }
    }
}

/// Stands behind a name that is in no table: a runtime newer than this shim.
extern "C" fn unknown_name(name: *const c_char) -> u32 {
    // SAFETY: the C string that `unknown_name_stub` made for its page.
    let name = unsafe { CStr::from_ptr(name) };
    say(&format!("{} is not known to this release", name.to_string_lossy()));
    801 // cudaErrorNotSupported
}

/// A file mapped for reading: only the pages that are looked at are read.
struct MappedFile {
    address: *mut c_void,
    length: usize,
}

impl MappedFile {
    fn open(path: &Path) -> Option<MappedFile> {
        let file = File::open(path).ok()?;
        let length = usize::try_from(file.metadata().ok()?.len()).ok().filter(|length| *length > 0)?;
        let descriptor = file.as_raw_fd();
        // SAFETY: a new private mapping of a file that is open.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, descriptor, 0)
        };
        (address != libc::MAP_FAILED).then_some(MappedFile { address, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped readable for `length` bytes until `self` is dropped. The file is one that the loader has
        // mapped too; who cuts it off meanwhile breaks the program anyway.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.length) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `open` made.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

fn say(message: &str) {
    eprintln!("vgpu: {message}");
}

/// Says why the program cannot run and ends it, unless the user wants it run all the same.
fn end_unless_ignored(message: &str) {
    let environment = std::fs::read("/proc/self/environ").unwrap_or_default();
    if environment.split(|byte| *byte == 0).any(|variable| variable == b"VGPU_STATIC=ignore") {
        return say(&format!("{message}; going on without redirection (VGPU_STATIC=ignore)"));
    }
    end(message)
}

fn end(message: &str) -> ! {
    say(message);
    // SAFETY: ends the process before any of its own code has run.
    unsafe { libc::_exit(STATUS_STRIPPED) }
}
