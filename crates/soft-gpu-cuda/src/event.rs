//! Events.

use std::ffi::c_uint;

use cuda_types::{CUevent, CUstream};

use crate::edge::current;
use crate::entries;
use crate::pointers::Out;

entries! {
    fn cuEventCreate(event: Out<u64>, flags: c_uint) {
        event.set(current()?.device.cuEventCreate(flags)?.0)
    }

    fn cuEventDestroy_v2(event: CUevent) {
        current()?.device.cuEventDestroy_v2(event)
    }

    fn cuEventRecord(event: CUevent, stream: CUstream) {
        current()?.device.cuEventRecord(event, stream)
    }

    fn cuEventSynchronize(event: CUevent) {
        let opened = current()?;
        let done = opened.device.cuEventSynchronize(event);
        opened.print();
        done
    }

    fn cuEventQuery(event: CUevent) {
        current()?.device.cuEventQuery(event)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: CUevent, end: CUevent) {
        milliseconds.set(current()?.device.cuEventElapsedTime(start, end)?)
    }
}
