//! The registration that compilers write into constructors; see [`crate::registry`].

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::images::Images;
use crate::state::devices;
use crate::{log, registry};

/// Registers the images of one translation unit; the answer belongs to the calls below.
pub(crate) extern "C" fn __cudaRegisterFatBinary(wrapper: *const c_void) -> *mut *mut c_void {
    let handle = quietly(|| {
        // SAFETY: nvcc's own constructor calls with the wrapper in its constant data.
        match unsafe { Images::of_wrapper(wrapper) } {
            Some(images) => registry::add_fatbin(images),
            None => {
                log::error(format_args!(
                    "a fatbin was registered whose format is not known; its kernels are missing"
                ));
                0
            }
        }
    });
    std::ptr::with_exposed_provenance_mut(handle)
}

/// All of the unit is registered. Nothing to do: modules are loaded at first use.
pub(crate) extern "C" fn __cudaRegisterFatBinaryEnd(_handle: *mut *mut c_void) {}

/// The unit goes: the program ends, or its library is closed.
pub(crate) extern "C" fn __cudaUnregisterFatBinary(handle: *mut *mut c_void) {
    quietly(|| registry::remove_fatbin(handle.addr()));
}

/// Registers a kernel. Launch bounds come with the module, so what follows the name is not needed.
pub(crate) extern "C" fn __cudaRegisterFunction(
    handle: *mut *mut c_void,
    stub: *const c_void,
    _device_function: *const c_char,
    device_name: *const c_char,
    _thread_limit: c_int,
    _thread: *const c_void,
    _block: *const c_void,
    _block_size: *const c_void,
    _grid_size: *const c_void,
    _warp_size: *const c_int,
) {
    quietly(|| {
        if let Some(name) = name(device_name) {
            registry::add_kernel(handle.addr(), stub.addr(), name);
        }
    });
}

/// Registers a `__device__` or `__constant__` variable.
pub(crate) extern "C" fn __cudaRegisterVar(
    handle: *mut *mut c_void,
    shadow: *const c_void,
    _device_address: *const c_char,
    device_name: *const c_char,
    _is_external: c_int,
    bytes: usize,
    _is_constant: c_int,
    _is_global: c_int,
) {
    quietly(|| {
        if let Some(name) = name(device_name) {
            registry::add_variable(handle.addr(), shadow.addr(), name, bytes);
        }
    });
}

/// Registers a `__managed__` variable; the program reaches it through `*pointer`, which is set when it is placed.
pub(crate) extern "C" fn __cudaRegisterManagedVar(
    handle: *mut *mut c_void,
    pointer: *mut *mut c_void,
    _device_address: *const c_char,
    device_name: *const c_char,
    _is_external: c_int,
    bytes: usize,
    _is_constant: c_int,
    _is_global: c_int,
) {
    quietly(|| {
        if let Some(name) = name(device_name) {
            // SAFETY: nvcc's own constructor calls with its own pointer variable.
            unsafe { registry::add_managed(handle.addr(), pointer.expose_provenance(), name, bytes) };
        }
    });
}

/// Called before the host touches a `__managed__` variable; 1 = it is there.
pub(crate) extern "C" fn __cudaInitModule(handle: *mut *mut c_void) -> c_char {
    quietly(|| {
        if !registry::has_managed(handle.addr()) {
            return 1;
        }
        let placed = devices().current().and_then(|device| registry::place_managed(handle.addr(), device));
        // A program that goes on all the same follows a NULL pointer: it has been told why.
        placed
            .inspect_err(|error| log::error(format_args!("__managed__ variables: {error}")))
            .map_or(0, |()| 1)
    })
}

fn name<'a>(name: *const c_char) -> Option<&'a CStr> {
    // SAFETY: NULL, which is refused, or a C string in the constant data of the program.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
}

/// Registration has no error to answer; a panic must not reach the C caller all the same.
fn quietly<T: Default>(body: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|_| {
        log::error(format_args!("registration: internal error, see the message above"));
        T::default()
    })
}
