//! Streams: the default ones and the program's own.

use std::ffi::{c_int, c_void};

use cuda_types::{CuError, CuResult};
use proto::StreamCalls;
use std::sync::atomic::Ordering;

use super::stream_attributes;
use crate::edge::{DefaultStream, Out, Required, entries, twins};
use crate::graph::capture;
use crate::graph::work::{self, Work};
use crate::handles::{self, EVENTS, Resolved, STREAMS, Stream, resolve};
use crate::managed;
use crate::shortcut;
use crate::state::{HostFunctionGuard, devices};

/// `cudaStreamNonBlocking`.
pub(crate) const NON_BLOCKING: u32 = 1;

entries! {
    /// Makes a stream.
    fn cudaStreamCreate(stream: Out<'_, u64>) {
        create(stream, 0, 0)
    }

    /// Makes a stream; flag 1 = it does not synchronize with the legacy default stream.
    fn cudaStreamCreateWithFlags(stream: Out<'_, u64>, flags: u32) {
        create(stream, flags, 0)
    }

    /// Makes a stream with a priority, which is clamped to the device's range.
    fn cudaStreamCreateWithPriority(stream: Out<'_, u64>, flags: u32, priority: c_int) {
        create(stream, flags, priority)
    }

    /// Ends a stream; what it still has to do is done.
    fn cudaStreamDestroy(stream: u64) {
        // The default streams belong to nobody.
        let stream = STREAMS.remove(stream)?;
        shortcut::forget();
        capture::forget_stream((stream.ordinal, stream.name.0));
        stream_attributes::forget_stream((stream.ordinal, stream.name.0));
        handles::device(stream.ordinal)?.session()?.cuStreamDestroy(stream.name)
    }
}

twins! {
    /// Waits until the stream's work is done.
    fn cudaStreamSynchronize, cudaStreamSynchronize_ptsz(default; stream: u64) {
        let target = resolve(default, stream)?;
        capture::refuse_waiting(&target)?;
        target.session.cuStreamSynchronize(target.stream)?;
        managed::synchronized(target.device, &target.session, false)
    }

    /// Whether the stream's work is done.
    fn cudaStreamQuery, cudaStreamQuery_ptsz(default; stream: u64) {
        let target = resolve(default, stream)?;
        capture::refuse_waiting(&target)?;
        target.session.cuStreamQuery(target.stream)?;
        managed::synchronized(target.device, &target.session, false)
    }

    /// Later work of the stream waits for the event's last recording; flag 1 makes a captured wait a node, for a
    /// recording outside of the graph.
    fn cudaStreamWaitEvent, cudaStreamWaitEvent_ptsz(default; stream: u64, event: u64, flags: u32) {
        let target = resolve(default, stream)?;
        let recorded = EVENTS.get(event)?.recorded.load(Ordering::Acquire);
        match flags {
            0 => {
                let blocking = || flags_of(stream) & NON_BLOCKING == 0;
                let captured = capture::wait_event(&target, event, recorded, blocking)?;
                if captured { Ok(()) } else { work::wait(&target, event) }
            }
            1 if capture::record(&target, || Ok(Work::WaitEvent(event)))? => Ok(()),
            _ => Err(CuError::INVALID_VALUE),
        }
    }

    /// The flags that the stream was made with.
    fn cudaStreamGetFlags, cudaStreamGetFlags_ptsz(default; stream: u64, flags: Out<'_, u32>) {
        let found = describe(default, stream)?.flags;
        flags.required()?.write(found);
        Ok(())
    }

    /// The priority that the stream has.
    fn cudaStreamGetPriority, cudaStreamGetPriority_ptsz(default; stream: u64, priority: Out<'_, c_int>) {
        let found = describe(default, stream)?.priority;
        let set = stream_attributes::priority(&resolve(default, stream)?);
        priority.required()?.write(set.unwrap_or(found));
        Ok(())
    }

    /// A number that no other stream of the process has.
    fn cudaStreamGetId, cudaStreamGetId_ptsz(default; stream: u64, id: Out<'_, u64>) {
        let target = resolve(default, stream)?;
        let id = id.required()?;
        // Handles are unique and never given out twice; a default stream is unique with its device.
        let own = if stream > 2 { stream } else { target.stream.0 << 8 | target.device.ordinal as u64 };
        id.write(own);
        Ok(())
    }

    /// The device of the stream.
    fn cudaStreamGetDevice, cudaStreamGetDevice_ptsz(default; stream: u64, device: Out<'_, c_int>) {
        let ordinal = describe(default, stream)?.ordinal;
        device.required()?.write(handles::device(ordinal)?.program_number());
        Ok(())
    }

    /// Runs a host function in stream order, on a thread of ours; it must not call CUDA.
    fn cudaLaunchHostFunc, cudaLaunchHostFunc_ptsz(default; stream: u64, function: Option<HostFunction>, data: *mut c_void) {
        launch_host_function(default, stream, function, data)
    }

    /// The same; 0 = waits may block, 1 = they may spin: a wish about speed.
    fn cudaLaunchHostFunc_v2, cudaLaunchHostFunc_v2_ptsz(default; stream: u64, function: Option<HostFunction>, data: *mut c_void, mode: u32) {
        if mode > 1 {
            return Err(CuError::INVALID_VALUE);
        }
        launch_host_function(default, stream, function, data)
    }

    /// Runs a callback in stream order, also after an error, which it is told.
    fn cudaStreamAddCallback, cudaStreamAddCallback_ptsz(default; stream: u64, callback: Option<Callback>, data: *mut c_void, flags: u32) {
        let callback = callback.required()?;
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let target = resolve(default, stream)?;
        // CUDA Runtime API, cudaStreamAddCallback: not for streams that are captured.
        capture::refuse_waiting(&target)?;
        let data = SendData(data);
        target.session.launch_host_function(target.stream, Box::new(move |error| {
            let data = data;
            let _guard = HostFunctionGuard::enter();
            // SAFETY: the callback and data that the program gave, once, in stream order.
            unsafe { callback(stream, error, data.0) };
        }))
    }
}

/// `cudaHostFn_t`.
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);
/// `cudaStreamCallback_t`.
pub(crate) type Callback = unsafe extern "C" fn(u64, u32, *mut c_void);

/// What the program wants back in its host function; only passed on.
#[derive(Clone, Copy)]
struct SendData(*mut c_void);

// SAFETY: never looked at on this side; the program gave it for a function that runs on another thread.
unsafe impl Send for SendData {}

/// `cudaHostNodeParams`: a host function and what it is given.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostCall {
    pub(crate) function: HostFunction,
    pub(crate) data: *mut c_void,
}

// SAFETY: as for `SendData`.
unsafe impl Send for HostCall {}

impl HostCall {
    /// Has it run in stream order.
    pub(crate) fn launch(&self, target: &Resolved) -> CuResult<()> {
        let call = *self;
        target.session.launch_host_function(
            target.stream,
            Box::new(move |error| {
                // CUDA Runtime API, cudaLaunchHostFunc: not called after an error in the context.
                if error == 0 {
                    let call = call;
                    let _guard = HostFunctionGuard::enter();
                    // SAFETY: the function and data that the program gave, in stream order.
                    unsafe { (call.function)(call.data) };
                }
            }),
        )
    }
}

fn launch_host_function(
    default: DefaultStream,
    stream: u64,
    function: Option<HostFunction>,
    data: *mut c_void,
) -> CuResult<()> {
    let call = HostCall { function: function.required()?, data };
    let target = resolve(default, stream)?;
    if capture::record(&target, || Ok(Work::Host(call)))? { Ok(()) } else { call.launch(&target) }
}

/// The flags of a stream; default streams have none.
pub(crate) fn flags_of(stream: u64) -> u32 {
    STREAMS.get(stream).map_or(0, |stream| stream.flags)
}

/// A priority, clamped to the range of a device. Greater numbers mean lower priorities.
pub(super) fn priority_within((lowest, highest): (i32, i32), priority: i32) -> i32 {
    priority.min(lowest.max(highest)).max(highest.min(lowest))
}

fn create(stream: Out<'_, u64>, flags: u32, priority: c_int) -> CuResult<()> {
    let stream = stream.required()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(CuError::INVALID_VALUE);
    }
    let device = devices().current()?;
    let priority = priority_within(device.facts()?.stream_priorities, priority);
    let name = device.session()?.cuStreamCreateWithPriority(flags, priority)?;
    stream.write(STREAMS.insert(Stream { ordinal: device.ordinal, name, flags, priority }));
    Ok(())
}

/// What the program may ask about a stream.
fn describe(default: DefaultStream, stream: u64) -> CuResult<Stream> {
    let target = resolve(default, stream)?;
    match STREAMS.get(stream) {
        Ok(own) => {
            Ok(Stream { ordinal: own.ordinal, name: own.name, flags: own.flags, priority: own.priority })
        }
        Err(_) => Ok(Stream { ordinal: target.device.ordinal, name: target.stream, flags: 0, priority: 0 }),
    }
}
