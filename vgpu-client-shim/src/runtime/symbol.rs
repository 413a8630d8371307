//! Variables of modules: addresses, sizes, copies by symbol.

use std::ffi::{c_int, c_void};

use cuda_types::{CuError, CuResult};

use super::copy::{Timing, copy};
use crate::edge::{Out, Required, entries, twins};
use crate::globals::GLOBALS;
use crate::handles::resolve;
use crate::registry;
use crate::state::{Device, devices};

entries! {
    /// Where a variable lies on the current device.
    fn cudaGetSymbolAddress(pointer: Out<'_, u64>, symbol: *const c_void) {
        let pointer = pointer.required()?;
        let device = devices().current()?;
        let (address, _) = registry::variable(symbol, device)?;
        GLOBALS.tell(device.ordinal, address);
        pointer.write(address);
        Ok(())
    }

    /// The size of a variable.
    fn cudaGetSymbolSize(bytes: Out<'_, usize>, symbol: *const c_void) {
        let bytes = bytes.required()?;
        let (_, size) = registry::variable(symbol, devices().current()?)?;
        bytes.write(usize::try_from(size).map_err(|_| CuError::UNKNOWN)?);
        Ok(())
    }
}

twins! {
    /// Copies to a variable.
    fn cudaMemcpyToSymbol, cudaMemcpyToSymbol_ptds(default; symbol: *const c_void, src: u64, bytes: usize, offset: usize, kind: c_int) {
        let target = resolve(default, 0)?;
        let variable = part(target.device, symbol, bytes, offset)?;
        copy(&target, variable, src, bytes, known(kind, src, 1), Timing::Sync)
    }

    /// Copies to a variable in stream order.
    fn cudaMemcpyToSymbolAsync, cudaMemcpyToSymbolAsync_ptsz(default; symbol: *const c_void, src: u64, bytes: usize, offset: usize, kind: c_int, stream: u64) {
        let target = resolve(default, stream)?;
        let variable = part(target.device, symbol, bytes, offset)?;
        copy(&target, variable, src, bytes, known(kind, src, 1), Timing::Async)
    }

    /// Copies from a variable.
    fn cudaMemcpyFromSymbol, cudaMemcpyFromSymbol_ptds(default; dst: u64, symbol: *const c_void, bytes: usize, offset: usize, kind: c_int) {
        let target = resolve(default, 0)?;
        let variable = part(target.device, symbol, bytes, offset)?;
        copy(&target, dst, variable, bytes, known(kind, dst, 2), Timing::Sync)
    }

    /// Copies from a variable in stream order.
    fn cudaMemcpyFromSymbolAsync, cudaMemcpyFromSymbolAsync_ptsz(default; dst: u64, symbol: *const c_void, bytes: usize, offset: usize, kind: c_int, stream: u64) {
        let target = resolve(default, stream)?;
        let variable = part(target.device, symbol, bytes, offset)?;
        copy(&target, dst, variable, bytes, known(kind, dst, 2), Timing::Async)
    }
}

/// `cudaMemcpyDefault` (4) with one end known to be a variable: within devices (3), or `otherwise` with the host.
pub(crate) fn known(kind: c_int, other_end: u64, otherwise: c_int) -> c_int {
    match kind {
        4 if devices().guess(other_end).is_some() => 3,
        4 => otherwise,
        said => said,
    }
}

/// Where `bytes` bytes from `offset` of a variable lie; they must lie inside it.
pub(crate) fn part(device: &Device, symbol: *const c_void, bytes: usize, offset: usize) -> CuResult<u64> {
    let (address, size) = registry::variable(symbol, device)?;
    let end = offset.checked_add(bytes).ok_or(CuError::INVALID_VALUE)?;
    if end as u64 > size {
        return Err(CuError::INVALID_VALUE);
    }
    Ok(address + offset as u64)
}
