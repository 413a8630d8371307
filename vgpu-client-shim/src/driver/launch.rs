//! Launches of functions and kernels.

use std::ffi::c_void;

use cuda_types::{CuError, CuResult, Dim3};

use super::{context, module, twins};
use crate::edge::{DefaultStream, Required};
use crate::runtime::launch::{self as runtime, Kind, LaunchAttribute};

twins! {
    /// Starts a function.
    fn cuLaunchKernel, cuLaunchKernel_ptsz(default; function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared_bytes: u32, stream: u64, parameters: *const *const c_void, extra: *const *const c_void) {
        let (grid, block) = (Dim3 { x: grid_x, y: grid_y, z: grid_z }, Dim3 { x: block_x, y: block_y, z: block_z });
        launch(default, function, (grid, block), shared_bytes, stream, (parameters, extra), Kind::Plain)
    }

    /// Starts a function whose blocks are all resident at once.
    fn cuLaunchCooperativeKernel, cuLaunchCooperativeKernel_ptsz(default; function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared_bytes: u32, stream: u64, parameters: *const *const c_void) {
        let (grid, block) = (Dim3 { x: grid_x, y: grid_y, z: grid_z }, Dim3 { x: block_x, y: block_y, z: block_z });
        launch(default, function, (grid, block), shared_bytes, stream, (parameters, std::ptr::null()), Kind::Cooperative)
    }

    /// Starts a function with attributes.
    fn cuLaunchKernelEx, cuLaunchKernelEx_ptsz(default; configuration: Option<&LaunchConfig>, function: u64, parameters: *const *const c_void, extra: *const *const c_void) {
        let LaunchConfig { grid, block, shared_bytes, stream, attributes, attribute_count } = *configuration.required()?;
        // SAFETY: the caller's array of attributes (module doc of `edge`), which are the runtime's.
        let kind = unsafe { Kind::of_attributes("cuLaunchKernelEx", attributes, attribute_count) }?;
        launch(default, function, (grid, block), shared_bytes, stream, (parameters, extra), kind)
    }
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchConfig {
    grid: Dim3,
    block: Dim3,
    shared_bytes: u32,
    stream: u64,
    attributes: *const LaunchAttribute,
    attribute_count: u32,
}

fn launch(
    default: DefaultStream,
    function: u64,
    extents: (Dim3, Dim3),
    shared_bytes: u32,
    stream: u64,
    (parameters, extra): (*const *const c_void, *const *const c_void),
    kind: Kind,
) -> CuResult<()> {
    context::current()?;
    let kernel = module::kernel(function)?;
    if !extra.is_null() {
        if !parameters.is_null() {
            // CUDA Driver API, cuLaunchKernel: one of both.
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the caller's list of names and values, up to its end (module doc of `edge`).
        let packed = unsafe { packed(extra) }?;
        return runtime::launch_packed(default, kernel, extents, packed, shared_bytes, stream, kind);
    }
    let named = std::ptr::from_ref(kernel).cast();
    runtime::launch(default, kernel, named, extents, parameters, shared_bytes as usize, stream, kind)
}

/// The buffer behind `extra`.
///
/// # Safety
/// `extra` is a list of names and values that ends with `CU_LAUNCH_PARAM_END`.
unsafe fn packed<'a>(extra: *const *const c_void) -> CuResult<&'a [u8]> {
    const END: usize = 0;
    const BUFFER_POINTER: usize = 1;
    const BUFFER_SIZE: usize = 2;
    let (mut start, mut size) = (std::ptr::null::<u8>(), None);
    let mut entry = extra;
    loop {
        // SAFETY: the list has not ended yet.
        let name = unsafe { *entry }.addr();
        if name == END {
            break;
        }
        // SAFETY: each name but the last has a value behind it.
        let value = unsafe { *entry.add(1) };
        match name {
            BUFFER_POINTER => start = value.cast(),
            // SAFETY: the manual has a pointer to a size_t here.
            BUFFER_SIZE if !value.is_null() => size = Some(unsafe { value.cast::<usize>().read() }),
            _ => return Err(CuError::INVALID_VALUE),
        }
        // SAFETY: the next name.
        entry = unsafe { entry.add(2) };
    }
    match (start.is_null(), size) {
        (_, Some(0)) => Ok(&[]),
        // SAFETY: the caller's buffer has as many bytes as it says.
        (false, Some(size)) => Ok(unsafe { std::slice::from_raw_parts(start, size) }),
        _ => Err(CuError::INVALID_VALUE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<LaunchConfig>(), 56);
        assert_eq!(std::mem::offset_of!(LaunchConfig, shared_bytes), 24);
        assert_eq!(std::mem::offset_of!(LaunchConfig, stream), 32);
        assert_eq!(std::mem::offset_of!(LaunchConfig, attribute_count), 48);
    }

    #[test]
    fn extra_is_a_list_of_names_and_values() {
        let (bytes, size) = ([1_u8, 2, 3], 3_usize);
        let name = std::ptr::without_provenance::<c_void>;
        let list = [name(1), bytes.as_ptr().cast(), name(2), (&raw const size).cast(), name(0)];
        // SAFETY: a list with its end.
        assert_eq!(unsafe { packed(list.as_ptr()) }, Ok(&bytes[..]));
        let list = [name(7), name(1), name(0)];
        // SAFETY: a list with its end.
        assert_eq!(unsafe { packed(list.as_ptr()) }, Err(CuError::INVALID_VALUE));
    }
}
