//! Launches of functions and kernels.

use std::ffi::c_void;

use cuda_types::{CuError, CuResult, Dim3};

use super::{context, module, twins};
use crate::edge::{DefaultStream, Required};
use crate::handles::resolve;
use crate::runtime::launch::{self as runtime, Kind, LaunchAttribute};
use crate::shortcut::{self, Key};

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

impl LaunchConfig {
    /// The same for the runtime, whose shared memory is a word wider.
    pub(super) fn as_the_runtimes(&self) -> runtime::LaunchConfig {
        let LaunchConfig { grid, block, shared_bytes, stream, attributes, attribute_count } = *self;
        runtime::LaunchConfig {
            grid,
            block,
            shared_bytes: shared_bytes as usize,
            stream,
            attributes,
            attribute_count,
        }
    }
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
    let named = std::ptr::without_provenance(usize::try_from(function).map_err(|_| CuError::INVALID_HANDLE)?);
    let (place, target) = shortcut::place(Key::new(default, named, stream, true), || {
        context::current()?;
        Ok((module::kernel(function)?, resolve(default, stream)?))
    })?;
    if !extra.is_null() {
        if !parameters.is_null() {
            // CUDA Driver API, cuLaunchKernel: one of both.
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the caller's list of names and values, up to its end (module doc of `edge`).
        let packed = unsafe { runtime::packed(extra) }?;
        return runtime::launch_packed((&place, &target), extents, packed, shared_bytes, kind);
    }
    let named = std::ptr::from_ref(place.kernel).cast();
    runtime::launch((&place, &target), named, extents, parameters, shared_bytes as usize, kind)
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
}
