//! Functions of the driver by name, and the private tables that we do not have.

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;

use cuda_types::{CuError, CuResult};

use crate::driver::{self, entry_point as driver_entry_point};
use crate::edge::{DefaultStream, Out, Required, entries, twins};

twins! {
    /// The function of a name, as CUDA 12.9 had it.
    fn entry_point_12, entry_point_12_ptsz(default; symbol: *const c_char, function: Out<'_, *const ()>, flags: u64, status: Option<&mut MaybeUninit<u32>>) {
        find(default, symbol, function, 12090, flags, status)
    }

    /// The function of a name, as CUDA 13.5 has it.
    fn entry_point_13, entry_point_13_ptsz(default; symbol: *const c_char, function: Out<'_, *const ()>, flags: u64, status: Option<&mut MaybeUninit<u32>>) {
        find(default, symbol, function, 13050, flags, status)
    }

    /// The function of a name, as a version of CUDA had it.
    fn cudaGetDriverEntryPointByVersion, cudaGetDriverEntryPointByVersion_ptsz(default; symbol: *const c_char, function: Out<'_, *const ()>, version: u32, flags: u64, status: Option<&mut MaybeUninit<u32>>) {
        find(default, symbol, function, version, flags, status)
    }
}

entries! {
    /// Private tables of NVIDIA's own libraries: we have none.
    fn cudaGetExportTable(table: Out<'_, *const c_void>, id: Option<&[u8; 16]>) {
        table.required()?.write(std::ptr::null());
        driver_entry_point::say_missing(*id.required()?);
        Err(CuError::INVALID_VALUE)
    }
}

/// `cudaEnableDefault` means the streams of the caller.
const DEFAULT: u64 = 0;
const PER_THREAD: u64 = 2;

fn find(
    default: DefaultStream,
    symbol: *const c_char,
    function: Out<'_, *const ()>,
    version: u32,
    flags: u64,
    status: Option<&mut MaybeUninit<u32>>,
) -> CuResult<()> {
    let flags = match (flags, default) {
        (DEFAULT, DefaultStream::PerThread) => PER_THREAD,
        (flags, _) => flags,
    };
    // What is found is called without `cuInit`: the runtime has done that.
    driver::initialized();
    let version = c_int::try_from(version).map_err(|_| CuError::INVALID_VALUE)?;
    driver_entry_point::tell(symbol, function, version, flags, status)
}
