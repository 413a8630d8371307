//! Modules, which belong to a context, and libraries, which every context loads at its first use.
//!
//! Both are fatbins to [`crate::registry`], and their functions and kernels are its kernels: so a `CUkernel` is accepted
//! wherever a `CUfunction` is, as with NVIDIA's driver.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_types::{CuError, CuResult};

use super::{context, entries};
use crate::edge::{Out, Required};
use crate::globals::GLOBALS;
use crate::handles::Table;
use crate::images::Images;
use crate::log;
use crate::registry::{self, Fatbin, Kernel};
use crate::runtime::error::INVALID_DEVICE_FUNCTION;
use crate::state::{Device, devices};

/// A module of a context.
struct Module {
    fatbin: Arc<Fatbin>,
    ordinal: usize,
    /// It belongs to this library, with which it goes.
    library: Option<u64>,
}

/// The modules of the process.
static MODULES: Table<Module> = Table::new();
/// The libraries of the process.
static LIBRARIES: Table<Arc<Fatbin>> = Table::new();
/// The modules of libraries that were asked for, by library and context.
static OF_LIBRARIES: Mutex<Option<HashMap<(u64, usize), u64>>> = Mutex::new(None);

entries! {
    /// Loads a module from a file.
    fn cuModuleLoad(module: Out<'_, u64>, path: *const c_char) {
        load(module, file(path)?)
    }

    /// Loads a module from memory.
    fn cuModuleLoadData(module: Out<'_, u64>, image: *const c_void) {
        // SAFETY: one of the forms that the manual names (module doc of `edge`).
        load(module, unsafe { Images::of_data(image, false) }?)
    }

    /// Loads a module from memory, with options for its compiler.
    fn cuModuleLoadDataEx(module: Out<'_, u64>, image: *const c_void, count: u32, options: *const u32, values: *mut *mut c_void) {
        // SAFETY: the caller's arrays of `count` options and values (module doc of `edge`).
        let options = unsafe { Options::read(count, options, values) }?;
        // SAFETY: one of the forms that the manual names (module doc of `edge`).
        let loaded = unsafe { Images::of_data(image, false) }.and_then(|images| load(module, images));
        options.report_load(loaded);
        loaded
    }

    /// Loads a module from a fatbin.
    fn cuModuleLoadFatBinary(module: Out<'_, u64>, fatbin: *const c_void) {
        // SAFETY: one of the forms that the manual names (module doc of `edge`).
        load(module, unsafe { Images::of_data(fatbin, false) }?)
    }

    /// Unloads a module: its functions and variables are gone.
    fn cuModuleUnload(module: u64) {
        context::current()?;
        if MODULES.get(module)?.library.is_some() {
            // CUDA Driver API, cuLibraryGetModule: it goes with its library.
            return Err(CuError::NOT_PERMITTED);
        }
        registry::discard(&MODULES.remove(module)?.fatbin);
        Ok(())
    }

    /// The function of a name.
    fn cuModuleGetFunction(function: Out<'_, u64>, module: u64, name: *const c_char) {
        let function = function.required()?;
        let name = name_of(name)?;
        let (fatbin, device) = find(module)?;
        function.write(existing(&fatbin, name, device)?.handle());
        Ok(())
    }

    /// The number of functions.
    fn cuModuleGetFunctionCount(count: Out<'_, u32>, module: u64) {
        let (fatbin, device) = find(module)?;
        kernel_count(count, &fatbin, device)
    }

    /// The functions, as many as there is room for.
    fn cuModuleEnumerateFunctions(functions: *mut u64, room: u32, module: u64) {
        let (fatbin, device) = find(module)?;
        enumerate(functions, room, &fatbin, device)
    }

    /// The address and length of a variable; either may not be wanted.
    fn cuModuleGetGlobal_v2(address: Option<&mut u64>, bytes: Option<&mut usize>, module: u64, name: *const c_char) {
        let name = name_of(name)?;
        let (fatbin, device) = find(module)?;
        global(address, bytes, &fatbin, name, device)
    }

    /// When functions are loaded: with their module.
    fn cuModuleGetLoadingMode(mode: Out<'_, u32>) {
        // CU_MODULE_EAGER_LOADING
        mode.required()?.write(1);
        Ok(())
    }

    /// Loads a library from memory: contexts load it when they first use it.
    fn cuLibraryLoadData(library: Out<'_, u64>, code: *const c_void, jit_options: *const u32, jit_values: *mut *mut c_void, jit_count: u32, options: *const u32, values: *mut *mut c_void, count: u32) {
        // SAFETY: the caller's arrays and image (module doc of `edge`).
        unsafe { load_library_data(library, code, (jit_count, jit_options, jit_values), (count, options, values)) }
    }

    /// Loads a library from a file.
    fn cuLibraryLoadFromFile(library: Out<'_, u64>, path: *const c_char, jit_options: *const u32, jit_values: *mut *mut c_void, jit_count: u32, _options: *const u32, _values: *mut *mut c_void, _count: u32) {
        // SAFETY: the caller's arrays (module doc of `edge`).
        unsafe { load_library_file(library, path, (jit_count, jit_options, jit_values)) }
    }

    /// Unloads a library from every context.
    fn cuLibraryUnload(library: u64) {
        unload_library(library)
    }

    /// The kernel of a name.
    fn cuLibraryGetKernel(kernel: Out<'_, u64>, library: u64, name: *const c_char) {
        let kernel = kernel.required()?;
        let name = name_of(name)?;
        let fatbin = LIBRARIES.get(library)?;
        kernel.write(existing(&fatbin, name, here()?)?.handle());
        Ok(())
    }

    /// The number of kernels.
    fn cuLibraryGetKernelCount(count: Out<'_, u32>, library: u64) {
        kernel_count(count, &self::library(library)?, here()?)
    }

    /// The kernels, as many as there is room for.
    fn cuLibraryEnumerateKernels(kernels: *mut u64, room: u32, library: u64) {
        let fatbin = LIBRARIES.get(library)?;
        enumerate(kernels, room, &fatbin, here()?)
    }

    /// A library as this context's module.
    fn cuLibraryGetModule(module: Out<'_, u64>, library: u64) {
        let module = module.required()?;
        let fatbin = LIBRARIES.get(library)?;
        let device = context::current()?;
        fatbin.module(device)?;
        module.write(module_of(library, &fatbin, device.ordinal));
        Ok(())
    }

    /// The address and length of a library's variable in this context.
    fn cuLibraryGetGlobal(address: Option<&mut u64>, bytes: Option<&mut usize>, library: u64, name: *const c_char) {
        let name = name_of(name)?;
        let fatbin = LIBRARIES.get(library)?;
        global(address, bytes, &fatbin, name, context::current()?)
    }

    /// The kernel as a function of this context: the same handle.
    fn cuKernelGetFunction(function: Out<'_, u64>, kernel: u64) {
        let function = function.required()?;
        let found = self::kernel(kernel)?;
        found.on(context::current()?)?;
        function.write(found.handle());
        Ok(())
    }

    /// The address and length of a managed variable of a library; either may not be wanted.
    fn cuLibraryGetManaged(address: Option<&mut u64>, bytes: Option<&mut usize>, library: u64, name: *const c_char) {
        let name = name_of(name)?;
        managed(address, bytes, &*LIBRARIES.get(library)?, name, context::current()?)
    }

    /// The library of a kernel.
    fn cuKernelGetLibrary(library: Out<'_, u64>, kernel: u64) {
        let library = library.required()?;
        let fatbin = self::kernel(kernel)?.fatbin.clone();
        let found = LIBRARIES.find(|known| Arc::ptr_eq(known, &fatbin));
        library.write(found.ok_or(CuError::INVALID_HANDLE)?);
        Ok(())
    }

    /// The name of a kernel.
    fn cuKernelGetName(name: Out<'_, *const c_char>, kernel: u64) {
        name.required()?.write(self::kernel(kernel)?.name.as_ptr());
        Ok(())
    }

    /// The name of a function.
    fn cuFuncGetName(name: Out<'_, *const c_char>, function: u64) {
        name.required()?.write(kernel(function)?.name.as_ptr());
        Ok(())
    }

    /// The module of a function.
    fn cuFuncGetModule(module: Out<'_, u64>, function: u64) {
        let module = module.required()?;
        let fatbin = kernel(function)?.fatbin.clone();
        if let Some(found) = MODULES.find(|known| known.library.is_none() && Arc::ptr_eq(&known.fatbin, &fatbin)) {
            module.write(found);
            return Ok(());
        }
        let library = LIBRARIES.find(|known| Arc::ptr_eq(known, &fatbin)).ok_or(CuError::INVALID_HANDLE)?;
        module.write(module_of(library, &fatbin, context::current()?.ordinal));
        Ok(())
    }
}

/// Where kernels of a library are looked for: in this thread's context, or, as libraries need none, on the first device.
pub(super) fn here() -> CuResult<&'static Device> {
    context::current().or_else(|_| devices().current())
}

/// The kernel behind a function or kernel handle.
pub(crate) fn kernel(handle: u64) -> CuResult<&'static Kernel> {
    let address = usize::try_from(handle).map_err(|_| CuError::INVALID_HANDLE)?;
    registry::kernel(std::ptr::without_provenance(address)).map_err(|_| CuError::INVALID_HANDLE)
}

/// The context of an ordinal is gone, and its modules with it.
pub(crate) fn forget_device(ordinal: usize) {
    let mut gone = Vec::new();
    MODULES.remove_where(|module| {
        let is_gone = module.ordinal == ordinal;
        if is_gone && module.library.is_none() {
            gone.push(module.fatbin.clone());
        }
        is_gone
    });
    gone.iter().for_each(registry::discard);
    if let Some(all) = of_libraries().as_mut() {
        all.retain(|(_, context), _| *context != ordinal);
    }
}

/// Loads a library from memory.
///
/// # Safety
/// Each triple is the length of two arrays and the arrays; `code` is one of the forms that `cuModuleLoadData` names,
/// and stays as it is if the options say so.
pub(crate) unsafe fn load_library_data(
    library: Out<'_, u64>,
    code: *const c_void,
    jit: (u32, *const u32, *mut *mut c_void),
    (count, options, values): (u32, *const u32, *mut *mut c_void),
) -> CuResult<()> {
    // SAFETY: the caller's promise.
    let jit = unsafe { Options::read(jit.0, jit.1, jit.2) }?;
    // SAFETY: the caller's promise.
    let is_lasting = unsafe { is_preserved(count, options, values) }?;
    // SAFETY: the caller's promise.
    let images = unsafe { Images::of_data(code, is_lasting) };
    let loaded = images.and_then(|images| load_library(library, images));
    jit.report_load(loaded);
    loaded
}

/// Loads a library from a file.
///
/// # Safety
/// The triple is the length of two arrays and the arrays.
pub(crate) unsafe fn load_library_file(
    library: Out<'_, u64>,
    path: *const c_char,
    jit: (u32, *const u32, *mut *mut c_void),
) -> CuResult<()> {
    // SAFETY: the caller's promise.
    let jit = unsafe { Options::read(jit.0, jit.1, jit.2) }?;
    let loaded = file(path).and_then(|images| load_library(library, images));
    jit.report_load(loaded);
    loaded
}

/// Takes the images of a library.
fn load_library(library: Out<'_, u64>, images: Images) -> CuResult<()> {
    let library = library.required()?;
    let fatbin = registry::adopt(images, None);
    // What no device could load is told at once, where there is a context to try it in.
    if let Ok(device) = devices().current()
        && device.open_session().is_some()
        && let Err(error) = fatbin.module(device)
    {
        registry::discard(&fatbin);
        return Err(error);
    }
    library.write(LIBRARIES.insert(fatbin));
    Ok(())
}

/// The fatbin behind a library.
pub(crate) fn library(handle: u64) -> CuResult<Arc<Fatbin>> {
    Ok(Arc::clone(&*LIBRARIES.get(handle)?))
}

/// Tells the number of a module's kernels.
pub(crate) fn kernel_count(count: Out<'_, u32>, fatbin: &Arc<Fatbin>, device: &Device) -> CuResult<()> {
    let count = count.required()?;
    count.write(u32::try_from(fatbin.module(device)?.functions.len()).map_err(|_| CuError::UNKNOWN)?);
    Ok(())
}

/// Gives a library back.
pub(crate) fn unload_library(library: u64) -> CuResult<()> {
    let fatbin = LIBRARIES.remove(library)?;
    MODULES.remove_where(|module| module.library == Some(library));
    if let Some(all) = of_libraries().as_mut() {
        all.retain(|(of, _), _| *of != library);
    }
    registry::discard(&fatbin);
    Ok(())
}

/// The kernel of a name, if the module of `device` has it.
pub(crate) fn existing(fatbin: &Arc<Fatbin>, name: &CStr, device: &Device) -> CuResult<&'static Kernel> {
    if !fatbin.module(device)?.functions.contains_key(&*name.to_string_lossy()) {
        return Err(CuError::NOT_FOUND);
    }
    let kernel = fatbin.kernel(name);
    match kernel.on(device) {
        Ok(_) => Ok(kernel),
        Err(INVALID_DEVICE_FUNCTION) => Err(CuError::NOT_FOUND),
        Err(error) => Err(error),
    }
}

/// Writes the kernels of a module, as many as there is room for.
pub(crate) fn enumerate(room: *mut u64, count: u32, fatbin: &Arc<Fatbin>, device: &Device) -> CuResult<()> {
    let module = fatbin.module(device)?;
    if room.is_null() && count > 0 {
        return Err(CuError::INVALID_VALUE);
    }
    let mut names: Vec<&String> = module.functions.keys().collect();
    names.sort();
    for (index, name) in names.into_iter().take(count as usize).enumerate() {
        let name = std::ffi::CString::new(name.as_str()).map_err(|_| CuError::UNKNOWN)?;
        // SAFETY: the caller's array of `count` handles (module doc of `edge`).
        unsafe { room.add(index).write(fatbin.kernel(&name).handle()) };
    }
    Ok(())
}

/// Tells address and length of a variable.
pub(crate) fn global(
    address: Option<&mut u64>,
    bytes: Option<&mut usize>,
    fatbin: &Fatbin,
    name: &CStr,
    device: &Device,
) -> CuResult<()> {
    if address.is_none() && bytes.is_none() {
        return Err(CuError::INVALID_VALUE);
    }
    let module = fatbin.module(device)?;
    if let Some((place, length)) = fatbin.managed_variable(name) {
        tell(address, bytes, place, length);
        return Ok(());
    }
    let found = module.globals.get(&*name.to_string_lossy()).ok_or(CuError::NOT_FOUND)?;
    if let Some(bytes) = bytes {
        *bytes = usize::try_from(found.bytes).map_err(|_| CuError::UNKNOWN)?;
    }
    if let Some(address) = address {
        GLOBALS.tell(device.ordinal, found.address);
        *address = found.address;
    }
    Ok(())
}

/// Tells address and length of a managed variable, which is on one device and can be reached from this process.
pub(crate) fn managed(
    address: Option<&mut u64>,
    bytes: Option<&mut usize>,
    fatbin: &Fatbin,
    name: &CStr,
    device: &Device,
) -> CuResult<()> {
    fatbin.module(device)?;
    let (place, length) = fatbin.managed_variable(name).ok_or(CuError::NOT_FOUND)?;
    tell(address, bytes, place, length);
    Ok(())
}

fn tell(address: Option<&mut u64>, bytes: Option<&mut usize>, place: u64, length: usize) {
    if let Some(address) = address {
        *address = place;
    }
    if let Some(bytes) = bytes {
        *bytes = length;
    }
}

/// A name that the caller gave.
pub(crate) fn name_of<'a>(name: *const c_char) -> CuResult<&'a CStr> {
    if name.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: a C string of the caller, for the length of the call (module doc of `edge`).
    Ok(unsafe { CStr::from_ptr(name) })
}

/// The images in a file.
pub(crate) fn file(path: *const c_char) -> CuResult<Images> {
    let path = Path::new(OsStr::from_bytes(name_of(path)?.to_bytes()));
    let bytes = std::fs::read(path).map_err(|error| {
        log::error(format_args!("a module cannot be read: {}: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::NotFound => CuError(FILE_NOT_FOUND),
            _ => CuError::OPERATING_SYSTEM,
        }
    })?;
    Images::of_bytes(&bytes)
}

/// `CUDA_ERROR_FILE_NOT_FOUND`
const FILE_NOT_FOUND: u32 = 301;

fn load(module: Out<'_, u64>, images: Images) -> CuResult<()> {
    let module = module.required()?;
    let device = context::current()?;
    let fatbin = registry::adopt(images, Some(device.ordinal));
    if let Err(error) = fatbin.module(device) {
        registry::discard(&fatbin);
        return Err(error);
    }
    module.write(MODULES.insert(Module { fatbin, ordinal: device.ordinal, library: None }));
    Ok(())
}

/// A module's fatbin, and the context that it is in.
fn find(module: u64) -> CuResult<(Arc<Fatbin>, &'static Device)> {
    context::current()?;
    let module = MODULES.get(module)?;
    Ok((module.fatbin.clone(), crate::handles::device(module.ordinal)?))
}

/// The handle of a library as a context's module.
fn module_of(library: u64, fatbin: &Arc<Fatbin>, ordinal: usize) -> u64 {
    let mut all = of_libraries();
    *all.get_or_insert_default()
        .entry((library, ordinal))
        .or_insert_with(|| MODULES.insert(Module { fatbin: fatbin.clone(), ordinal, library: Some(library) }))
}

fn of_libraries() -> MutexGuard<'static, Option<HashMap<(u64, usize), u64>>> {
    OF_LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `CU_LIBRARY_BINARY_IS_PRESERVED` is set.
///
/// # Safety
/// `options` and `values` have `count` elements each.
unsafe fn is_preserved(count: u32, options: *const u32, values: *mut *mut c_void) -> CuResult<bool> {
    const BINARY_IS_PRESERVED: u32 = 1;
    if count > 0 && (options.is_null() || values.is_null()) {
        return Err(CuError::INVALID_VALUE);
    }
    Ok((0..count as usize).any(|index| {
        // SAFETY: within the caller's arrays.
        let (option, value) = unsafe { (*options.add(index), *values.add(index)) };
        option == BINARY_IS_PRESERVED && value.addr() & 0xffff_ffff != 0
    }))
}

/// The options of a compilation that have an answer: room for logs. The others say how to compile, which the device's
/// own driver knows best.
pub(crate) struct Options {
    info: Log,
    errors: Log,
    /// Where the wall time goes: a float in the place of the value.
    wall_time: Option<*mut *mut c_void>,
}

/// Room for a log, and where its length goes.
struct Log {
    text: *mut c_char,
    room: usize,
    length: Option<*mut *mut c_void>,
}

impl Options {
    /// Reads `CUjit_option`s.
    ///
    /// # Safety
    /// `options` and `values` have `count` elements each, which stay during the call.
    pub(crate) unsafe fn read(
        count: u32,
        options: *const u32,
        values: *mut *mut c_void,
    ) -> CuResult<Options> {
        if count > 0 && (options.is_null() || values.is_null()) {
            return Err(CuError::INVALID_VALUE);
        }
        let empty = || Log { text: std::ptr::null_mut(), room: 0, length: None };
        let mut read = Options { info: empty(), errors: empty(), wall_time: None };
        for index in 0..count as usize {
            // SAFETY: within the caller's arrays.
            let (option, place) = unsafe { (*options.add(index), values.add(index)) };
            // SAFETY: as above.
            let value = unsafe { *place };
            match option {
                // CU_JIT_WALL_TIME, then buffer and size of the info log, then of the error log.
                2 => read.wall_time = Some(place),
                3 => read.info.text = value.cast(),
                4 => (read.info.room, read.info.length) = (value.addr() & 0xffff_ffff, Some(place)),
                5 => read.errors.text = value.cast(),
                6 => (read.errors.room, read.errors.length) = (value.addr() & 0xffff_ffff, Some(place)),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Fills the logs after loading.
    fn report_load(&self, loaded: CuResult<()>) {
        let failure = loaded.err().map(|error| format!("vgpu: {error}; the server's log says more"));
        self.report(failure.as_deref());
    }

    /// Fills the logs: with what went wrong, if something did.
    pub(crate) fn report(&self, failure: Option<&str>) {
        self.info.write("");
        self.errors.write(failure.unwrap_or(""));
        if let Some(place) = self.wall_time {
            // SAFETY: within the caller's array, where the manual has a float in the low half.
            unsafe { place.write(std::ptr::null_mut()) };
        }
    }
}

impl Log {
    fn write(&self, text: &str) {
        let shown = text.len().min(self.room.saturating_sub(1));
        if !self.text.is_null() && self.room > 0 {
            // SAFETY: the caller's buffer has `room` bytes, of which `shown` and one are written.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr().cast(), self.text, shown);
                self.text.add(shown).write(0);
            }
        }
        if let Some(place) = self.length {
            // SAFETY: within the caller's array of values: the length replaces the room.
            unsafe { place.write(std::ptr::without_provenance_mut(shown)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_cut_to_their_room_and_end_with_zero() {
        let mut text = [1_i8; 8];
        let options = [5_u32, 6];
        let mut values = [text.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(8)];
        // SAFETY: two options and two values.
        let read = unsafe { Options::read(2, options.as_ptr(), values.as_mut_ptr()) }.unwrap();
        read.report_load(Err(CuError::INVALID_PTX));
        assert_eq!(values[1].addr(), 7);
        assert_eq!(text[7], 0);
        assert_eq!(text[..4].iter().map(|byte| byte.to_le_bytes()[0]).collect::<Vec<u8>>(), b"vgpu");
        read.report_load(Ok(()));
        assert_eq!((values[1].addr(), text[0]), (0, 0));
    }

    #[test]
    fn preserved_binaries_are_read_in_place() {
        let (on, off) = (std::ptr::without_provenance_mut::<c_void>(1), std::ptr::null_mut());
        // SAFETY: one option and one value each.
        unsafe {
            assert_eq!(is_preserved(1, [1_u32].as_ptr(), [on].as_mut_ptr()), Ok(true));
            assert_eq!(is_preserved(1, [1_u32].as_ptr(), [off].as_mut_ptr()), Ok(false));
            assert_eq!(is_preserved(1, [0_u32].as_ptr(), [on].as_mut_ptr()), Ok(false));
            assert_eq!(is_preserved(1, std::ptr::null(), std::ptr::null_mut()), Err(CuError::INVALID_VALUE));
        }
    }
}
