//! Opens `libvgpu_core.so` beside the entry library and takes the table of one library.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The layout of [`CoreTable`]; an entry library refuses a core with another one.
pub const CORE_ABI: u32 = 2;

/// The core's only export, `vgpu_core_v1(library)`, answers this.
#[repr(C)]
#[derive(Debug)]
pub struct CoreTable {
    pub abi: u32,
    /// The library's key in `symbols/list.rs`.
    pub library: u32,
    /// Number of entries.
    pub count: usize,
    /// Fingerprint of the names, in the order of the entries.
    pub fingerprint: u64,
    pub entries: *const *const (),
}

// SAFETY: a table is written once, by the compiler, and only read.
unsafe impl Sync for CoreTable {}

type CoreEntry = unsafe extern "C" fn(c_int) -> *const CoreTable;

/// The entries of `library`, in the order of the names that `count` and `fingerprint` stand for.
///
/// Ends the process with status 127, as the dynamic loader does for a missing library, if the core is not there or
/// belongs to another build: no entry point could answer anything meaningful, registration has no error to return.
pub fn open_core(inside: *const u32, library: u32, count: usize, fingerprint: u64) -> *const *const () {
    let own = own_path(inside.cast());
    let mut tried = String::new();
    for folder in folders(&own) {
        let path = folder.join("libvgpu_core.so");
        match core_table(&path, library) {
            Ok(table)
                if table.abi == CORE_ABI && table.count == count && table.fingerprint == fingerprint =>
            {
                return table.entries;
            }
            Ok(_) => fail(&format!("{} belongs to another build than {}", path.display(), own.display())),
            Err(reason) => {
                let _ = write!(tried, "{}{reason}", if tried.is_empty() { "" } else { "; " });
            }
        }
    }
    fail(&format!("{} needs libvgpu_core.so beside it: {tried}", own.display()))
}

/// The file that this library was loaded from.
fn own_path(inside: *const c_void) -> PathBuf {
    // SAFETY: all-zero is a valid `Dl_info`.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable; any address may be asked for.
    let found = unsafe { libc::dladdr(inside, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return PathBuf::from("libcudart.so");
    }
    // SAFETY: dladdr answered a C string that lives as long as the library.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    PathBuf::from(OsStr::from_bytes(name.to_bytes()))
}

/// The folder of the path as loaded, then that of the file behind its links.
fn folders(own: &Path) -> Vec<PathBuf> {
    let behind = own.canonicalize().ok();
    let both = [Some(own), behind.as_deref()].into_iter().flatten();
    let mut folders: Vec<PathBuf> = both
        .filter_map(Path::parent)
        .map(|folder| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
        .collect();
    folders.dedup();
    folders
}

fn core_table(path: &Path, library_key: u32) -> Result<&'static CoreTable, String> {
    let name = CString::new(path.as_os_str().to_owned().into_vec()).map_err(|error| error.to_string())?;
    // SAFETY: a C string; the core has no constructors.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(loader_error());
    }
    // SAFETY: an open library and a C string.
    let symbol = unsafe { libc::dlsym(library, c"vgpu_core_v1".as_ptr()) };
    if symbol.is_null() {
        return Err(loader_error());
    }
    // SAFETY: the core exports this name with this type only; its version is in the name.
    let entry = unsafe { std::mem::transmute::<*mut c_void, CoreEntry>(symbol) };
    let key = c_int::try_from(library_key).unwrap_or(0);
    // SAFETY: the answer is NULL or a table that lives as long as the core, which is never closed.
    unsafe { entry(key).as_ref() }.ok_or_else(|| format!("{} has no library {library_key}", path.display()))
}

fn loader_error() -> String {
    // SAFETY: called on the thread whose dlopen or dlsym has just failed.
    let text: *const c_char = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown error of the dynamic loader".to_owned();
    }
    // SAFETY: dlerror answered a C string, valid until this thread's next call of the loader.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn fail(message: &str) -> ! {
    eprintln!("vgpu: {message}");
    // SAFETY: ends the process at once; registered exit handlers belong to a program that cannot run.
    unsafe { libc::_exit(127) }
}
