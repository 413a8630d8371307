//! Kernel launches: the caller gives a pointer to each value, the device takes the values one behind the other.

use std::ffi::c_uint;

use cuda_types::{CUfunction, CUstream, CuError, CuResult, Dim3};

use crate::edge::{Opened, current};
use crate::entries;
use crate::pointers::{Host, In};

/// The values of all parameters.
fn values(opened: &Opened, function: u64, parameters: In<Host>) -> CuResult<Vec<u8>> {
    let books = opened.books();
    let sizes = &books.functions.get(&function).ok_or(CuError::INVALID_HANDLE)?.facts.parameters;
    let mut values = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let size = usize::try_from(*size).map_err(|_| CuError::INVALID_VALUE)?;
        values.extend_from_slice(parameters.at(index)?.bytes(0, size)?);
    }
    Ok(values)
}

entries! {
    /// Values in one buffer (`extra`) are laid out as NVIDIA's devices want it, which is not known here.
    fn cuLaunchKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared: c_uint, stream: CUstream, parameters: In<Host>, extra: In<usize>,
    ) {
        if !extra.is_null() {
            return Err(CuError::NOT_SUPPORTED);
        }
        let opened = current()?;
        let values = values(&opened, function, parameters)?;
        let grid = Dim3 { x: grid_x, y: grid_y, z: grid_z };
        let block = Dim3 { x: block_x, y: block_y, z: block_z };
        opened.device.cuLaunchKernel(CUfunction(function), grid, block, shared, stream, &values)
    }

    fn cuLaunchCooperativeKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared: c_uint, stream: CUstream, parameters: In<Host>,
    ) {
        let opened = current()?;
        let values = values(&opened, function, parameters)?;
        let grid = Dim3 { x: grid_x, y: grid_y, z: grid_z };
        let block = Dim3 { x: block_x, y: block_y, z: block_z };
        opened.device.cuLaunchCooperativeKernel(CUfunction(function), grid, block, shared, stream, &values)
    }
}
