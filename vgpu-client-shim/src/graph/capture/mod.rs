//! Captures: streams whose calls become nodes of a graph instead of being done.
//!
//! A capture begins in one stream and spreads to others through events: a stream that waits for an event of the
//! capture belongs to it from then on, until the first stream ends the capture; by then every other must have come
//! back the same way. Each stream of a capture has a *tail*: the nodes that its next node comes after.
//!
//! A call that a capture forbids answers an error and *invalidates* the capture: nothing more is added, and its end
//! answers `cudaErrorStreamCaptureInvalidated` (CUDA Programming Guide, "Prohibited and Unhandled Operations").
//!
//! While nothing is captured in the process, all of this costs one atomic load a call.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use cuda_types::{CuError, CuResult};

use super::store;
use super::work::Work;
use crate::handles::Resolved;

mod members;

pub(crate) use members::Captures;

/// `cudaErrorStreamCaptureInvalidated`
pub(crate) const INVALIDATED: CuError = CuError(901);
/// `cudaErrorStreamCaptureMerge`
const MERGE: CuError = CuError(902);
/// `cudaErrorStreamCaptureUnmatched`
const UNMATCHED: CuError = CuError(903);
/// `cudaErrorStreamCaptureUnjoined`
pub(crate) const UNJOINED: CuError = CuError(904);
/// `cudaErrorStreamCaptureIsolation`
const ISOLATION: CuError = CuError(905);
/// `cudaErrorStreamCaptureImplicit`
const IMPLICIT: CuError = CuError(906);
/// `cudaErrorCapturedEvent`
const CAPTURED_EVENT: CuError = CuError(907);
/// `cudaErrorStreamCaptureWrongThread`
const WRONG_THREAD: CuError = CuError(908);

/// `cudaStreamCaptureModeGlobal`.
const GLOBAL: u32 = 0;
/// `cudaStreamCaptureModeRelaxed`.
const RELAXED: u32 = 2;

/// Captures under way, and events that were recorded in one: the latter keep [`record_event`] and [`wait_event`] asking.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// `cudaStreamCaptureMode` of this thread: global at first.
    static THREAD_MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// A stream of the process: ordinal of its device, its name there.
pub(crate) type Key = (usize, u64);

/// The key of a stream.
pub(crate) fn key(target: &Resolved) -> Key {
    (target.device.ordinal, target.stream.0)
}

/// Sets the mode of this thread; the former one.
pub(crate) fn exchange_mode(mode: u32) -> u32 {
    THREAD_MODE.replace(mode)
}

/// Whether any stream may be captured: what a launch asks before it makes a node of itself.
#[inline]
pub(crate) fn is_active() -> bool {
    ACTIVE.load(Ordering::Acquire) != 0
}

/// Makes a node of the call if its stream is captured; `false` if the call is to be done.
pub(crate) fn record(target: &Resolved, work: impl FnOnce() -> CuResult<Work>) -> CuResult<bool> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Ok(false);
    }
    let key = key(target);
    if !store::with(|store| store.captures.takes(key))? {
        return Ok(false);
    }
    // The node is made outside the lock: it may ask the device for memory or a module.
    let work = work();
    store::with(|store| match work {
        Ok(work) => store.append(key, work).map(|_| true),
        Err(error) => {
            store.captures.invalidate_stream(key);
            Err(error)
        }
    })
}

/// Records an event in a captured stream; `false` if the recording is to be done.
pub(crate) fn record_event(target: &Resolved, event: u64) -> CuResult<bool> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Ok(false);
    }
    store::with(|store| store.captures.record_event(key(target), event))
}

/// Has a stream wait for an event, if one of both is captured; `false` if the wait is to be done.
pub(crate) fn wait_event(
    target: &Resolved,
    event: u64,
    was_recorded: bool,
    blocking: impl FnOnce() -> bool,
) -> CuResult<bool> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Ok(false);
    }
    store::with(|store| store.captures.wait_event(key(target), event, was_recorded, blocking()))
}

/// Refuses to wait for or to ask about a stream that is captured.
pub(crate) fn refuse_waiting(target: &Resolved) -> CuResult<()> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    store::with(|store| match store.captures.takes(key(target)) {
        Ok(false) => Ok(()),
        Ok(true) => {
            store.captures.invalidate_stream(key(target));
            Err(CuError::STREAM_CAPTURE_UNSUPPORTED)
        }
        Err(error) => Err(error),
    })
}

/// Refuses to wait for a device of which a stream is captured.
pub(crate) fn refuse_device(ordinal: usize) -> CuResult<()> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    store::with(|store| store.captures.refuse(|captures, id| captures.is_on(id, ordinal)))
}

/// Refuses to wait for or to ask about an event that was recorded in a capture.
pub(crate) fn refuse_event(event: u64) -> CuResult<()> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    store::with(|store| store.captures.refuse_event(event))
}

/// Refuses a call that may break captures, as far as their modes and this thread's forbid it.
///
/// CUDA Runtime API, cudaThreadExchangeStreamCaptureMode: in global mode, every capture of this thread that is not
/// relaxed and every global one of others forbids it; in thread-local mode, those of this thread; in relaxed, none.
pub(crate) fn refuse_unsafe() -> CuResult<()> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    let (mode, thread) = (THREAD_MODE.get(), std::thread::current().id());
    store::with(|store| store.captures.refuse(|captures, id| captures.forbids_unsafe(id, mode, thread)))
}

/// The event is recorded outside of captures, or gone.
pub(crate) fn forget_event(event: u64) {
    if ACTIVE.load(Ordering::Acquire) != 0 {
        store::with(|store| store.captures.forget_event(event));
    }
}

/// The stream is destroyed: a capture that began in it is over without a graph.
pub(crate) fn forget_stream(key: Key) {
    if ACTIVE.load(Ordering::Acquire) != 0 {
        let gone = store::with(|store| store.forget_stream(key));
        drop(gone);
    }
}

/// The device is reset, and its streams with it.
pub(crate) fn forget_device(ordinal: usize) {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return;
    }
    let keys = store::with(|store| store.captures.keys(ordinal));
    keys.into_iter().for_each(forget_stream);
}
