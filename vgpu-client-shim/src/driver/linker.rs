//! `cuLink*`: images that are put together and linked where they are loaded.
//!
//! The device's own driver links (`cuLinkComplete` there), when the result is loaded. So the image that a program gets
//! here is a list of what it has added, and only we can load it; it is tried once on this thread's device, so that
//! what cannot be linked is told when CUDA tells it.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cuda_types::{CuError, CuResult};

use super::module::{Options, name_of};
use super::{context, entries};
use crate::edge::{Out, Required};
use crate::handles::Table;
use crate::images::{self, Images};
use crate::{log, registry};

/// A link in progress.
struct Link {
    parts: Vec<Vec<u8>>,
    options: Options,
    /// What `cuLinkComplete` has answered: it belongs to the link.
    image: Option<Vec<u8>>,
}

/// The links of the process.
static LINKS: Table<Mutex<Link>> = Table::new();

entries! {
    /// Begins to link.
    fn cuLinkCreate(count: u32, options: *const u32, values: *mut *mut c_void, link: Out<'_, u64>) {
        create(count, options, values, link)
    }

    /// Begins to link.
    fn cuLinkCreate_v2(count: u32, options: *const u32, values: *mut *mut c_void, link: Out<'_, u64>) {
        create(count, options, values, link)
    }

    /// Adds an image in memory.
    fn cuLinkAddData(link: u64, kind: c_int, data: *const c_void, bytes: usize, _name: *const c_char, _count: u32, _options: *const u32, _values: *mut *mut c_void) {
        add_data(link, kind, data, bytes)
    }

    /// Adds an image in memory.
    fn cuLinkAddData_v2(link: u64, kind: c_int, data: *const c_void, bytes: usize, _name: *const c_char, _count: u32, _options: *const u32, _values: *mut *mut c_void) {
        add_data(link, kind, data, bytes)
    }

    /// Adds an image in a file.
    fn cuLinkAddFile(link: u64, kind: c_int, path: *const c_char, _count: u32, _options: *const u32, _values: *mut *mut c_void) {
        add_file(link, kind, path)
    }

    /// Adds an image in a file.
    fn cuLinkAddFile_v2(link: u64, kind: c_int, path: *const c_char, _count: u32, _options: *const u32, _values: *mut *mut c_void) {
        add_file(link, kind, path)
    }

    /// Ends adding; the image can be loaded until the link is destroyed.
    fn cuLinkComplete(link: u64, image: Out<'_, *const c_void>, bytes: Option<&mut usize>) {
        let image = image.required()?;
        let device = context::current()?;
        let link = LINKS.get(link)?;
        let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.parts.is_empty() {
            return Err(CuError::INVALID_VALUE);
        }
        let linked = images::linked(&link.parts);
        let tried = registry::adopt(Images::of_bytes(&linked)?, Some(device.ordinal));
        let module = tried.module(device);
        registry::discard(&tried);
        // A device that compiles kernels one by one says of each why it cannot run: a name is missing, for one.
        let refused = module.iter().flat_map(|module| module.functions.values());
        let reason = refused.clone().find_map(|function| Some((&function.name, function.unsupported.as_ref()?)));
        let outcome = match (&module, reason) {
            (Err(error), _) => Err((*error, format!("{error}; the server's log says more"))),
            (Ok(_), Some((name, reason))) => Err((CuError::INVALID_PTX, format!("{name}: {reason}"))),
            (Ok(_), None) => Ok(()),
        };
        link.options.report(outcome.as_ref().err().map(|(_, text)| text.as_str()));
        outcome.map_err(|(error, _)| error)?;
        let kept = link.image.insert(linked);
        image.write(kept.as_ptr().cast());
        if let Some(bytes) = bytes {
            *bytes = kept.len();
        }
        Ok(())
    }

    /// Ends a link, and the image with it.
    fn cuLinkDestroy(link: u64) {
        LINKS.remove(link).map(drop)
    }
}

// SAFETY: the pointers of the options are the program's, which owes their room until the link is destroyed.
unsafe impl Send for Link {}

fn create(count: u32, options: *const u32, values: *mut *mut c_void, link: Out<'_, u64>) -> CuResult<()> {
    let link = link.required()?;
    context::current()?;
    // SAFETY: the caller's arrays of `count` options and values (module doc of `edge`).
    let options = unsafe { Options::read(count, options, values) }?;
    link.write(LINKS.insert(Mutex::new(Link { parts: Vec::new(), options, image: None })));
    Ok(())
}

fn add_data(link: u64, kind: c_int, data: *const c_void, bytes: usize) -> CuResult<()> {
    if data.is_null() || bytes == 0 {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: the caller's memory has as many bytes as it says (module doc of `edge`).
    add(link, kind, unsafe { std::slice::from_raw_parts(data.cast(), bytes) })
}

fn add_file(link: u64, kind: c_int, path: *const c_char) -> CuResult<()> {
    let path: &CStr = name_of(path)?;
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let bytes = std::fs::read(path).map_err(|error| {
        log::error(format_args!("cuLinkAddFile: {}: {error}", path.display()));
        CuError(FILE_NOT_FOUND)
    })?;
    add(link, kind, &bytes)
}

fn add(link: u64, kind: c_int, bytes: &[u8]) -> CuResult<()> {
    match kind {
        PTX | CUBIN | FATBIN | OBJECT => {}
        LIBRARY => {
            log::warn(format_args!(
                "cuLinkAddData: libraries of objects are not supported; add their objects"
            ));
            return Err(CuError::NOT_SUPPORTED);
        }
        _ => return Err(CuError::INVALID_VALUE),
    }
    // Text may have its zero byte or not.
    let bytes = if kind == PTX { bytes.split(|byte| *byte == 0).next().unwrap_or(bytes) } else { bytes };
    let link = LINKS.get(link)?;
    link.lock().unwrap_or_else(PoisonError::into_inner).parts.push(bytes.to_vec());
    Ok(())
}

/// `CUjitInputType`.
const CUBIN: c_int = 0;
const PTX: c_int = 1;
const FATBIN: c_int = 2;
const OBJECT: c_int = 3;
const LIBRARY: c_int = 4;

/// `CUDA_ERROR_FILE_NOT_FOUND`
const FILE_NOT_FOUND: u32 = 301;
