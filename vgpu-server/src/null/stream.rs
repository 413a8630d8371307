//! Streams and events of a device that computes nothing: order, and the time at which calls came.

use std::time::Instant;

use cuda_types::{CUdeviceptr, CUevent, CUstream, CuError, CuResult};
use proto::{EventCalls, StreamCalls};

use super::{NullGpu, Work};

impl StreamCalls for NullGpu {
    fn cuStreamCreateWithPriority(&self, _: u32, _: i32) -> CuResult<CUstream> {
        Ok(CUstream(self.handle()))
    }
    fn cuStreamDestroy_v2(&self, _: CUstream) -> CuResult<()> {
        Ok(())
    }
    fn cuStreamSynchronize(&self, stream: CUstream) -> CuResult<()> {
        let position = self.lock().streams.get(&stream.0.max(1)).map_or(0, |stream| stream.given);
        self.wait_until(|state| state.reached(stream.0.max(1), position));
        Ok(())
    }
    fn cuStreamQuery(&self, stream: CUstream) -> CuResult<()> {
        let idle = self.lock().streams.get(&stream.0.max(1)).is_none_or(|stream| stream.done == stream.given);
        idle.then_some(()).ok_or(CuError::NOT_READY)
    }
    fn cuStreamWaitEvent(&self, stream: CUstream, event: CUevent, _: u32) -> CuResult<()> {
        let recorded = self.lock().events.get(&event.0).copied();
        if let Some((source, position, _)) = recorded {
            self.submit(stream, Work::Event { stream: source, position });
        }
        Ok(())
    }
    fn cuStreamWaitValue32_v2(&self, _: CUstream, _: CUdeviceptr, _: u32, _: u32) -> CuResult<()> {
        Ok(())
    }
    fn cuStreamWaitValue64_v2(&self, _: CUstream, _: CUdeviceptr, _: u64, _: u32) -> CuResult<()> {
        Ok(())
    }
    fn cuStreamWriteValue32_v2(&self, _: CUstream, addr: CUdeviceptr, value: u32, _: u32) -> CuResult<()> {
        self.word(addr, &value.to_le_bytes())
    }
    fn cuStreamWriteValue64_v2(&self, _: CUstream, addr: CUdeviceptr, value: u64, _: u32) -> CuResult<()> {
        self.word(addr, &value.to_le_bytes())
    }
}

impl NullGpu {
    /// Writes a word of memory. Nothing computes here, so what streams wait for never comes: they wait for no words.
    fn word(&self, address: CUdeviceptr, value: &[u8]) -> CuResult<()> {
        let mut state = self.lock();
        state.bytes(address.0, value.len()).ok_or(CuError::INVALID_VALUE)?.copy_from_slice(value);
        Ok(())
    }
}

impl EventCalls for NullGpu {
    fn cuEventCreate(&self, _: u32) -> CuResult<CUevent> {
        Ok(CUevent(self.handle()))
    }
    fn cuEventDestroy_v2(&self, event: CUevent) -> CuResult<()> {
        self.lock().events.remove(&event.0);
        Ok(())
    }
    fn cuEventRecord(&self, event: CUevent, stream: CUstream) -> CuResult<()> {
        let mut state = self.lock();
        let position = state.streams.get(&stream.0.max(1)).map_or(0, |stream| stream.given);
        state.events.insert(event.0, (stream.0.max(1), position, Instant::now()));
        Ok(())
    }
    fn cuEventSynchronize(&self, event: CUevent) -> CuResult<()> {
        let Some((stream, position, _)) = self.lock().events.get(&event.0).copied() else { return Ok(()) };
        self.wait_until(|state| state.reached(stream, position));
        Ok(())
    }
    fn cuEventQuery(&self, event: CUevent) -> CuResult<()> {
        let state = self.lock();
        let done =
            state.events.get(&event.0).is_none_or(|(stream, position, _)| state.reached(*stream, *position));
        done.then_some(()).ok_or(CuError::NOT_READY)
    }
    /// The time between the calls that recorded: work takes none here.
    fn cuEventElapsedTime(&self, start: CUevent, end: CUevent) -> CuResult<f32> {
        let state = self.lock();
        let recorded = |event: CUevent| state.events.get(&event.0).map(|(_, _, when)| *when);
        let (start, end) = recorded(start).zip(recorded(end)).ok_or(CuError::INVALID_HANDLE)?;
        Ok(end.saturating_duration_since(start).as_secs_f32() * 1000.0)
    }
}
