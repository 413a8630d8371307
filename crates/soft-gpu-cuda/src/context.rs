//! Contexts: one for each device, its primary one. It lasts as long as the process.

use std::ffi::{c_int, c_uint};

use cuda_types::{CuError, CuResult};

use crate::edge::{context_of, current, current_context, edge, ordinal, ordinal_of, set_current};
use crate::entries;
use crate::pointers::Out;

fn retain(context: Out<u64>, device: c_int) -> CuResult<()> {
    let ordinal = ordinal(device)?;
    edge()?.device(ordinal)?;
    context.set(context_of(ordinal))
}

entries! {
    fn cuDevicePrimaryCtxRetain(context: Out<u64>, device: c_int) {
        retain(context, device)
    }

    /// The context stays; only the process's end ends it.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        ordinal(device).map(drop)
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) {
        ordinal(device)?;
        flags.set_if_wanted(0);
        active.set_if_wanted(1);
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) {
        ordinal(device).map(drop)
    }

    fn cuCtxSetCurrent(context: u64) {
        set_current(context)
    }

    fn cuCtxGetCurrent(context: Out<u64>) {
        context.set(current_context())
    }

    fn cuCtxGetDevice(device: Out<c_int>) {
        let ordinal = ordinal_of(current_context())?;
        device.set(c_int::try_from(ordinal).map_err(|_| CuError::INVALID_DEVICE)?)
    }

    fn cuCtxSynchronize() {
        let opened = current()?;
        let done = opened.device.cuCtxSynchronize();
        opened.print();
        done
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) {
        let found = current()?.device.cuCtxGetLimit(limit)?;
        value.set(usize::try_from(found).unwrap_or(usize::MAX))
    }

    fn cuCtxSetLimit(limit: c_uint, value: usize) {
        current()?.device.cuCtxSetLimit(limit, value as u64)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        let (low, high) = current()?.facts.stream_priorities;
        least.set_if_wanted(low);
        greatest.set_if_wanted(high);
        Ok(())
    }
}
