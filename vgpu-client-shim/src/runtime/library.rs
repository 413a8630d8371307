//! Libraries that the program loads itself. They are the driver's: see [`crate::driver::module`].

use std::ffi::{c_char, c_void};

use cuda_types::CuResult;

use super::error::INVALID_SYMBOL;
use crate::driver::module;
use crate::edge::{Out, Required, entries};
use crate::registry;
use crate::state::{Device, devices};

entries! {
    /// Loads a library from memory.
    fn cudaLibraryLoadData(library: Out<'_, u64>, code: *const c_void, jit_options: *const u32, jit_values: *mut *mut c_void, jit_count: u32, options: *const u32, values: *mut *mut c_void, count: u32) {
        current()?;
        // SAFETY: the caller's arrays, as for the driver's function (module doc of `edge`).
        unsafe { module::load_library_data(library, code, (jit_count, jit_options, jit_values), (count, options, values)) }
    }

    /// Loads a library from a file.
    fn cudaLibraryLoadFromFile(library: Out<'_, u64>, path: *const c_char, jit_options: *const u32, jit_values: *mut *mut c_void, jit_count: u32, _options: *const u32, _values: *mut *mut c_void, _count: u32) {
        current()?;
        // SAFETY: the caller's arrays, as for the driver's function (module doc of `edge`).
        unsafe { module::load_library_file(library, path, (jit_count, jit_options, jit_values)) }
    }

    /// Unloads a library from every device.
    fn cudaLibraryUnload(library: u64) {
        module::unload_library(library)
    }

    /// The kernel of a name.
    fn cudaLibraryGetKernel(kernel: Out<'_, u64>, library: u64, name: *const c_char) {
        let kernel = kernel.required()?;
        let (name, fatbin) = (module::name_of(name)?, module::library(library)?);
        kernel.write(module::existing(&fatbin, name, current()?)?.handle());
        Ok(())
    }

    /// The number of kernels.
    fn cudaLibraryGetKernelCount(count: Out<'_, u32>, library: u64) {
        module::kernel_count(count, &module::library(library)?, current()?)
    }

    /// The kernels, as many as there is room for.
    fn cudaLibraryEnumerateKernels(kernels: *mut u64, room: u32, library: u64) {
        module::enumerate(kernels, room, &module::library(library)?, current()?)
    }

    /// The address and length of a variable on the current device.
    fn cudaLibraryGetGlobal(address: Option<&mut u64>, bytes: Option<&mut usize>, library: u64, name: *const c_char) {
        let (name, fatbin) = (module::name_of(name)?, module::library(library)?);
        module::global(address, bytes, &fatbin, name, current()?).map_err(|error| match error {
            cuda_types::CuError::NOT_FOUND => INVALID_SYMBOL,
            error => error,
        })
    }

    /// The address and length of a managed variable.
    fn cudaLibraryGetManaged(address: Option<&mut u64>, bytes: Option<&mut usize>, library: u64, name: *const c_char) {
        let (name, fatbin) = (module::name_of(name)?, module::library(library)?);
        module::managed(address, bytes, &fatbin, name, current()?).map_err(|error| match error {
            cuda_types::CuError::NOT_FOUND => INVALID_SYMBOL,
            error => error,
        })
    }

    /// The kernel behind a host stub as a function of the driver.
    fn cudaGetFuncBySymbol(function: Out<'_, u64>, stub: *const c_void) {
        let function = function.required()?;
        let kernel = registry::kernel(stub)?;
        kernel.on(current()?)?;
        function.write(kernel.handle());
        Ok(())
    }
}

/// This thread's device, with its context.
fn current() -> CuResult<&'static Device> {
    let device = devices().current()?;
    device.session()?.check()?;
    Ok(device)
}
