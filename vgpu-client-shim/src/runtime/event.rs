//! Events: recording, waiting, timing.

use std::sync::atomic::{AtomicBool, Ordering};

use cuda_types::{CuError, CuResult};
use proto::EventCalls;

use crate::edge::{DefaultStream, Out, Required, entries, twins};
use crate::graph::capture;
use crate::graph::work::{self, Work};
use crate::handles::{self, EVENTS, Event, resolve};
use crate::managed;
use crate::state::devices;

/// `cudaEventDisableTiming`.
const DISABLE_TIMING: u32 = 2;
/// `cudaEventInterprocess`.
const INTERPROCESS: u32 = 4;

entries! {
    /// Makes an event.
    fn cudaEventCreate(event: Out<'_, u64>) {
        create(event, 0)
    }

    /// Makes an event; 1 = waits block, 2 = without timing, 4 = for other processes.
    fn cudaEventCreateWithFlags(event: Out<'_, u64>, flags: u32) {
        create(event, flags)
    }

    /// Ends an event; what waits for it is not disturbed.
    fn cudaEventDestroy(event: u64) {
        capture::forget_event(event);
        let event = EVENTS.remove(event)?;
        handles::device(event.ordinal)?.session()?.cuEventDestroy(event.name)
    }

    /// Waits for the event's last recording.
    fn cudaEventSynchronize(event: u64) {
        capture::refuse_event(event)?;
        let event = EVENTS.get(event)?;
        let device = handles::device(event.ordinal)?;
        let session = device.session()?;
        // CUDA Runtime API, cudaEventSynchronize: an event that was never recorded is complete.
        if !event.recorded.load(Ordering::Acquire) {
            return session.check();
        }
        session.cuEventSynchronize(event.name)?;
        managed::synchronized(device, &session, false)
    }

    /// Whether the event's last recording is complete.
    fn cudaEventQuery(event: u64) {
        capture::refuse_event(event)?;
        capture::refuse_unsafe()?;
        let event = EVENTS.get(event)?;
        let device = handles::device(event.ordinal)?;
        let session = device.session()?;
        if !event.recorded.load(Ordering::Acquire) {
            return session.check();
        }
        session.cuEventQuery(event.name)?;
        managed::synchronized(device, &session, false)
    }

    /// Milliseconds between two recordings.
    fn cudaEventElapsedTime(milliseconds: Out<'_, f32>, start: u64, end: u64) {
        elapsed(milliseconds, start, end)
    }

    /// Milliseconds between two recordings; the name that 12.8 and 12.9 headers use.
    fn cudaEventElapsedTime_v2(milliseconds: Out<'_, f32>, start: u64, end: u64) {
        elapsed(milliseconds, start, end)
    }
}

twins! {
    /// Records the event in the stream.
    fn cudaEventRecord, cudaEventRecord_ptsz(default; event: u64, stream: u64) {
        record(default, event, stream)
    }

    /// Records the event in the stream; flag 1 makes a captured recording a node, seen outside of the graph.
    fn cudaEventRecordWithFlags, cudaEventRecordWithFlags_ptsz(default; event: u64, stream: u64, flags: u32) {
        match flags {
            0 => record(default, event, stream),
            1 => record_external(default, event, stream),
            _ => Err(CuError::INVALID_VALUE),
        }
    }
}

fn create(event: Out<'_, u64>, flags: u32) -> CuResult<()> {
    let event = event.required()?;
    if flags & INTERPROCESS != 0 {
        // CUDA Runtime API, cudaEventCreateWithFlags: interprocess events must not time.
        return Err(if flags & DISABLE_TIMING == 0 {
            CuError::INVALID_VALUE
        } else {
            CuError::NOT_SUPPORTED
        });
    }
    if flags & !3 != 0 {
        return Err(CuError::INVALID_VALUE);
    }
    let device = devices().current()?;
    let name = device.session()?.cuEventCreate(flags)?;
    let recorded = AtomicBool::new(false);
    event.write(EVENTS.insert(Event { ordinal: device.ordinal, name, flags, recorded }));
    Ok(())
}

fn record(default: DefaultStream, event: u64, stream: u64) -> CuResult<()> {
    let target = resolve(default, stream)?;
    EVENTS.get(event)?;
    if capture::record_event(&target, event)? { Ok(()) } else { work::record(&target, event) }
}

fn record_external(default: DefaultStream, event: u64, stream: u64) -> CuResult<()> {
    let target = resolve(default, stream)?;
    EVENTS.get(event)?;
    // CUDA Runtime API, cudaEventRecordWithFlags: external recordings exist in captures only.
    if capture::record(&target, || Ok(Work::RecordEvent(event)))? {
        capture::forget_event(event);
        return Ok(());
    }
    Err(CuError::INVALID_VALUE)
}

fn elapsed(milliseconds: Out<'_, f32>, start: u64, end: u64) -> CuResult<()> {
    let milliseconds = milliseconds.required()?;
    let (start, end) = (EVENTS.get(start)?, EVENTS.get(end)?);
    let times = |event: &Event| event.flags & DISABLE_TIMING == 0 && event.recorded.load(Ordering::Acquire);
    if start.ordinal != end.ordinal || !times(&start) || !times(&end) {
        return Err(CuError::INVALID_HANDLE);
    }
    let session = handles::device(start.ordinal)?.session()?;
    milliseconds.write(session.cuEventElapsedTime(start.name, end.name)?);
    Ok(())
}
