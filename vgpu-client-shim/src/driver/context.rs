//! Contexts: primary ones, those that the program makes, and each thread's stack of them.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cuda_types::{CuError, CuResult};

use super::device::are_context_flags;
use super::{as_the_runtime, entries};
use crate::edge::{Out, Required};
use crate::graph::capture;
use crate::handles::Table;
use crate::managed;
use crate::runtime::device as runtime;
use crate::state::{self, Current, Device, devices};

/// A context as programs name it.
#[derive(Debug)]
struct Context {
    ordinal: usize,
    /// See [`Device::generation`].
    generation: u32,
    flags: AtomicU32,
}

/// Every context that has a handle.
static CONTEXTS: Table<Context> = Table::new();
/// The handles of the primary contexts, by ordinal: they never change.
static PRIMARY: Mutex<Option<HashMap<usize, u64>>> = Mutex::new(None);
/// One context is made at a time, so that no two get the same place.
static MAKING: Mutex<()> = Mutex::new(());

entries! {
    /// Makes a context and makes it this thread's own.
    fn cuCtxCreate(handle: Out<'_, u64>, flags: u32, device: c_int) {
        create(handle, flags, device)
    }

    /// Makes a context and makes it this thread's own.
    fn cuCtxCreate_v2(handle: Out<'_, u64>, flags: u32, device: c_int) {
        create(handle, flags, device)
    }

    /// Makes a context that is confined to some multiprocessors, which no device here can.
    fn cuCtxCreate_v3(handle: Out<'_, u64>, _affinity: *const c_void, count: c_int, flags: u32, device: c_int) {
        if count != 0 {
            return Err(CuError::NOT_SUPPORTED);
        }
        create(handle, flags, device)
    }

    /// Makes a context; with parameters, one that is confined or shared with graphics, which no device here can.
    fn cuCtxCreate_v4(handle: Out<'_, u64>, parameters: Option<&CreateParameters>, flags: u32, device: c_int) {
        let plain = parameters.is_none_or(|parameters| parameters.affinity_count == 0 && parameters.graphics.is_null());
        if !plain {
            return Err(CuError::NOT_SUPPORTED);
        }
        create(handle, flags, device)
    }

    /// Ends a context and everything in it.
    fn cuCtxDestroy(handle: u64) {
        destroy(handle)
    }

    /// Ends a context and everything in it.
    fn cuCtxDestroy_v2(handle: u64) {
        destroy(handle)
    }

    /// Makes a context this thread's own, above the present one.
    fn cuCtxPushCurrent(handle: u64) {
        push(handle)
    }

    /// Makes a context this thread's own, above the present one.
    fn cuCtxPushCurrent_v2(handle: u64) {
        push(handle)
    }

    /// Takes this thread's context away; the one below it comes back.
    fn cuCtxPopCurrent(handle: Option<&mut u64>) {
        pop(handle)
    }

    /// Takes this thread's context away; the one below it comes back.
    fn cuCtxPopCurrent_v2(handle: Option<&mut u64>) {
        pop(handle)
    }

    /// Makes a context this thread's own, in the place of the present one; NULL leaves it without.
    fn cuCtxSetCurrent(handle: u64) {
        if handle == 0 {
            state::pop_current();
            return Ok(());
        }
        let device = find(handle)?;
        state::set_current(Current::of(device));
        Ok(())
    }

    /// This thread's context, or NULL.
    fn cuCtxGetCurrent(handle: Out<'_, u64>) {
        handle.required()?.write(handle_of(state::current())?);
        Ok(())
    }

    /// The device of this thread's context.
    fn cuCtxGetDevice(device: Out<'_, c_int>) {
        device.required()?.write(current()?.program_number());
        Ok(())
    }

    /// The device of a context; NULL is this thread's.
    fn cuCtxGetDevice_v2(device: Out<'_, c_int>, handle: u64) {
        device.required()?.write(or_current(handle)?.program_number());
        Ok(())
    }

    /// The flags that this thread's context was made with.
    fn cuCtxGetFlags(flags: Out<'_, u32>) {
        let flags = flags.required()?;
        let device = current()?;
        let found = match CONTEXTS.get(handle_of(state::current())?) {
            Ok(context) if !device.is_primary() => context.flags.load(Ordering::Relaxed),
            _ => device.preferences().flags,
        };
        flags.write(found);
        Ok(())
    }

    /// Sets the flags of this thread's context.
    fn cuCtxSetFlags(flags: u32) {
        if !are_context_flags(flags) {
            return Err(CuError::INVALID_VALUE);
        }
        let device = current()?;
        CONTEXTS.get(handle_of(state::current())?)?.flags.store(flags, Ordering::Relaxed);
        device.prefer(|preferences| preferences.flags = flags);
        Ok(())
    }

    /// A number that no other context of the process has; NULL is this thread's.
    fn cuCtxGetId(handle: u64, id: Out<'_, u64>) {
        let id = id.required()?;
        let device = or_current(handle)?;
        id.write((u64::from(device.generation()) << 16) + device.ordinal as u64 + 1);
        Ok(())
    }

    /// The version of the API that a context was made for; NULL is this thread's.
    fn cuCtxGetApiVersion(handle: u64, version: Out<'_, u32>) {
        let version = version.required()?;
        or_current(handle)?;
        // CUDA Driver API, cuCtxGetApiVersion: that of `cuCtxCreate_v2`.
        version.write(3020);
        Ok(())
    }

    /// Waits for everything in a context; NULL is this thread's.
    fn cuCtxSynchronize_v2(handle: u64) {
        let device = or_current(handle)?;
        capture::refuse_device(device.ordinal)?;
        let session = device.session()?;
        session.cuCtxSynchronize()?;
        managed::synchronized(device, &session, true)
    }

    /// Retains a context: it counts nobody, it lives until it is destroyed.
    fn cuCtxAttach(handle: Out<'_, u64>, flags: u32) {
        let handle = handle.required()?;
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        current()?;
        handle.write(handle_of(state::current())?);
        Ok(())
    }

    /// Ends what `cuCtxAttach` began.
    fn cuCtxDetach(handle: u64) {
        find(handle).map(drop)
    }

    /// How the context is confined: not.
    fn cuCtxGetExecAffinity(_affinity: *mut c_void, _kind: c_int) {
        current()?;
        Err(CuError(UNSUPPORTED_EXEC_AFFINITY))
    }

    /// Lets this thread's context reach another's memory: they cannot.
    fn cuCtxEnablePeerAccess(peer: u64, flags: u32) {
        let peer = find(peer)?.program_number();
        current()?;
        super::of_runtime(|| runtime::cudaDeviceEnablePeerAccess(peer, flags))
    }

    /// Ends what `cuCtxEnablePeerAccess` began: nothing.
    fn cuCtxDisablePeerAccess(peer: u64) {
        let peer = find(peer)?.program_number();
        current()?;
        super::of_runtime(|| runtime::cudaDeviceDisablePeerAccess(peer))
    }
}

as_the_runtime! {
    /// Waits for everything in this thread's context.
    fn cuCtxSynchronize() = runtime::cudaDeviceSynchronize;
    /// A limit: stack size, printf buffer, device heap.
    fn cuCtxGetLimit(value: Out<'_, usize>, limit: u32) = runtime::cudaDeviceGetLimit;
    /// Sets a limit.
    fn cuCtxSetLimit(limit: u32, value: usize) = runtime::cudaDeviceSetLimit;
    /// The preference between L1 and shared memory.
    fn cuCtxGetCacheConfig(config: Out<'_, u32>) = runtime::cudaDeviceGetCacheConfig;
    /// Prefers L1 or shared memory.
    fn cuCtxSetCacheConfig(config: u32) = runtime::cudaDeviceSetCacheConfig;
    /// The width of shared memory banks.
    fn cuCtxGetSharedMemConfig(config: Out<'_, u32>) = runtime::cudaDeviceGetSharedMemConfig;
    /// Prefers a width of shared memory banks.
    fn cuCtxSetSharedMemConfig(config: u32) = runtime::cudaDeviceSetSharedMemConfig;
    /// The lowest and the highest priority of streams.
    fn cuCtxGetStreamPriorityRange(lowest: Option<&mut c_int>, highest: Option<&mut c_int>) = runtime::cudaDeviceGetStreamPriorityRange;
    /// Ends the persistence of lines in the device's cache.
    fn cuCtxResetPersistingL2Cache() = runtime::cudaCtxResetPersistingL2Cache;
    /// Starts a profiler's collection.
    fn cuProfilerStart() = runtime::cudaProfilerStart;
    /// Stops a profiler's collection.
    fn cuProfilerStop() = runtime::cudaProfilerStop;
}

/// `CUctxCreateParams`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct CreateParameters {
    affinity: *const c_void,
    affinity_count: c_int,
    graphics: *const c_void,
}

/// `CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY`
const UNSUPPORTED_EXEC_AFFINITY: u32 = 224;

/// This thread's context: an error if it has none, or one that is gone.
pub(crate) fn current() -> CuResult<&'static Device> {
    if !state::current().is_bound {
        return Err(CuError::INVALID_CONTEXT);
    }
    let device = devices().current()?;
    // A primary context can be this thread's own before it exists.
    let is_used = device.is_retained() || device.is_held_by_the_runtime();
    if device.is_primary() && !is_used && device.open_session().is_none() {
        return Err(CuError::CONTEXT_IS_DESTROYED);
    }
    Ok(device)
}

/// The context behind a handle.
pub(crate) fn find(handle: u64) -> CuResult<&'static Device> {
    let context = CONTEXTS.get(handle).map_err(|_| CuError::INVALID_CONTEXT)?;
    let device = devices().at(context.ordinal)?;
    if device.generation() == context.generation { Ok(device) } else { Err(CuError::CONTEXT_IS_DESTROYED) }
}

/// The context behind a handle; NULL is this thread's.
fn or_current(handle: u64) -> CuResult<&'static Device> {
    if handle == 0 { current() } else { find(handle) }
}

/// The handle of a device's primary context.
pub(crate) fn primary_handle(device: &Device) -> u64 {
    let mut all = PRIMARY.lock().unwrap_or_else(PoisonError::into_inner);
    *all.get_or_insert_default().entry(device.ordinal).or_insert_with(|| {
        CONTEXTS.insert(Context { ordinal: device.ordinal, generation: 0, flags: AtomicU32::new(0) })
    })
}

/// The handle of a context: what `cuStreamGetCtx` and the like answer.
pub(crate) fn handle_of_device(device: &Device) -> CuResult<u64> {
    if device.is_primary() {
        return Ok(primary_handle(device));
    }
    let (ordinal, generation) = (device.ordinal, device.generation());
    CONTEXTS
        .find(|context| context.ordinal == ordinal && context.generation == generation)
        .ok_or(CuError::CONTEXT_IS_DESTROYED)
}

/// The handle of a thread's context; NULL for none.
fn handle_of(current: Current) -> CuResult<u64> {
    if !current.is_bound {
        return Ok(0);
    }
    let device = devices().at(current.ordinal)?;
    if device.generation() != current.generation {
        return Err(CuError::CONTEXT_IS_DESTROYED);
    }
    handle_of_device(device)
}

fn create(handle: Out<'_, u64>, flags: u32, number: c_int) -> CuResult<()> {
    let handle = handle.required()?;
    if !are_context_flags(flags) {
        return Err(CuError::INVALID_VALUE);
    }
    let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let is_free = |device: &Device| {
        let (ordinal, generation) = (device.ordinal, device.generation());
        !CONTEXTS.any(|context| context.ordinal == ordinal && context.generation == generation)
    };
    let device = devices().add_context(number, is_free)?;
    if let Err(error) = device.session().and_then(|session| session.check()) {
        // The place is used again, with another connection.
        device.destroy()?;
        return Err(error);
    }
    let flags = AtomicU32::new(flags);
    let generation = device.generation();
    handle.write(CONTEXTS.insert(Context { ordinal: device.ordinal, generation, flags }));
    state::push_current(Current::of(device));
    Ok(())
}

fn destroy(handle: u64) -> CuResult<()> {
    // Its place is free when everything in it is gone, and not before.
    let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let device = find(handle)?;
    if device.is_primary() {
        // CUDA Driver API, cuCtxDestroy: primary contexts are released instead.
        return Err(CuError::INVALID_CONTEXT);
    }
    // Its last work is done before its memory goes; an error of it belongs to what is going away.
    let _: Arc<Context> = CONTEXTS.remove(handle).map_err(|_| CuError::INVALID_CONTEXT)?;
    if state::current() == Current::of(device) {
        state::pop_current();
    }
    device.destroy()
}

fn push(handle: u64) -> CuResult<()> {
    let device = find(handle)?;
    state::push_current(Current::of(device));
    Ok(())
}

fn pop(handle: Option<&mut u64>) -> CuResult<()> {
    let top = handle_of(state::current());
    state::pop_current().ok_or(CuError::INVALID_CONTEXT)?;
    if let (Some(handle), Ok(top)) = (handle, top) {
        *handle = top;
    }
    Ok(())
}
