//! Events.

use cuda_types::{CUevent, CUstream, CuResult};
use proto::EventCalls;

use crate::api::call;
use crate::device::NvidiaGpu;

impl EventCalls for NvidiaGpu {
    fn cuEventCreate(&self, flags: u32) -> CuResult<CUevent> {
        let api = self.enter()?;
        let mut event = 0;
        // SAFETY: `event` is writable.
        unsafe { call!(api, cuEventCreate(&raw mut event, flags)) }?;
        Ok(CUevent(event))
    }

    fn cuEventDestroy_v2(&self, event: CUevent) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the session hands out each event once for its end.
        unsafe { call!(api, cuEventDestroy_v2(event.0)) }
    }

    fn cuEventRecord(&self, event: CUevent, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: stream and event were made by this device.
        unsafe { call!(api, cuEventRecord(event.0, stream.0)) }
    }

    fn cuEventSynchronize(&self, event: CUevent) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the event was made by this device.
        unsafe { call!(api, cuEventSynchronize(event.0)) }
    }

    fn cuEventQuery(&self, event: CUevent) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the event was made by this device.
        unsafe { call!(api, cuEventQuery(event.0)) }
    }

    fn cuEventElapsedTime(&self, start: CUevent, end: CUevent) -> CuResult<f32> {
        let api = self.enter()?;
        let mut milliseconds = 0.0;
        // SAFETY: `milliseconds` is writable, and the events were made by this device.
        unsafe { call!(api, cuEventElapsedTime(&raw mut milliseconds, start.0, end.0)) }?;
        Ok(milliseconds)
    }
}
