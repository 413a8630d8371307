//! What happens when the program touches managed memory whose newest bytes are on the device.
//!
//! The fault is a synchronous one: it is raised by the instruction of the program that touched the memory, never
//! inside our code or the C library's locks, so the handler may do what a function called in its place could do.

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use client::remote::{WINDOW_BASE, WINDOW_BYTES};
use cuda_types::{CUstream, CuError, CuResult};
use proto::StreamCalls;

use super::{managed, wait_for};
use crate::log;
use crate::state::{Device, is_in_host_function};

/// What handled SIGSEGV before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once, with the first managed allocation.
pub(super) fn install() -> io::Result<()> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if *done {
        return Ok(());
    }
    // SAFETY: all-zero is a valid `sigaction`.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks for the current one only.
    if unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    BEFORE.get_or_init(|| before);
    // SAFETY: all-zero is a valid `sigaction`.
    let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
    ours.sa_sigaction = (handler as *const ()).expose_provenance();
    // Not deferred: a fault inside the handler would be ours, and ends the program as any other.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: `handler` has the type that SA_SIGINFO asks for.
    if unsafe { libc::sigaction(libc::SIGSEGV, &raw const ours, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    *done = true;
    Ok(())
}

/// Gives the program access to the byte at `address`; `None` if it is not in managed memory.
pub(super) fn resolve(address: usize, writes: bool) -> Option<CuResult<()>> {
    let mut managed = managed();
    let super::Managed { ranges, idle } = managed.as_mut()?;
    let (start, range) = ranges.range_mut(..=address).next_back()?;
    let offset = address - start;
    if offset >= range.pages.len() {
        return None;
    }
    let ordinal = range.ordinal;
    Some(range.fetch(offset, writes, &mut |pages, from, to| {
        let device = crate::handles::device(ordinal)?;
        let session = device.open_session().ok_or(CuError::INVALID_CONTEXT)?;
        let stream = if is_in_host_function() {
            // The device waits for this function: only a stream that waits for nothing can fetch.
            own_stream(device)?
        } else {
            wait_for(&session, ordinal, idle)?;
            CUstream::NULL
        };
        let address = cuda_types::CUdeviceptr((pages.start() + from) as u64);
        session.copy_to_host(pages.span(from, to), address, stream, true)
    }))
}

/// Non-blocking streams by device, for accesses by host functions.
static STREAMS: Mutex<Vec<(usize, CUstream)>> = Mutex::new(Vec::new());

/// The context of a device is gone, and its streams with it.
pub(super) fn forget_stream(ordinal: usize) {
    STREAMS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(device, _)| *device != ordinal);
}

fn own_stream(device: &Device) -> CuResult<CUstream> {
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, stream)) = streams.iter().find(|(ordinal, _)| *ordinal == device.ordinal) {
        return Ok(*stream);
    }
    let session = device.open_session().ok_or(CuError::INVALID_CONTEXT)?;
    let stream = session.cuStreamCreateWithPriority(1, 0)?;
    streams.push((device.ordinal, stream));
    Ok(stream)
}

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's own description of the signal.
    let address = unsafe { (*info).si_addr() }.addr();
    // SAFETY: errno of this thread, which the interrupted code may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    let resolved = is_in_windows(address).then(|| {
        // SAFETY: with SA_SIGINFO the third argument is the context of the interrupted code.
        let code = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[ERROR_CODE] };
        std::panic::catch_unwind(|| resolve(address, code & WRITE != 0)).ok().flatten()
    });
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    match resolved.flatten() {
        Some(Ok(())) => return,
        Some(Err(error)) => {
            log::error(format_args!(
                "managed memory at {address:#x} cannot be fetched from the device: {error}"
            ));
        }
        None => {}
    }
    pass_on(signal, info, context);
}

/// `REG_ERR` of ucontext.h: the processor's error code of the fault.
const ERROR_CODE: usize = libc::REG_ERR as usize;
/// The bit of the error code that tells a write (Intel SDM volume 3, "Page-fault exceptions").
const WRITE: i64 = 2;

/// Whether an address can be managed memory at all; anything else is none of our business and takes no lock.
fn is_in_windows(address: usize) -> bool {
    /// Eight proposals, each beyond the windows of 64 devices.
    const END: u64 = WINDOW_BASE + 8 * 64 * WINDOW_BYTES;
    (WINDOW_BASE..END).contains(&(address as u64))
}

/// Does what would have been done without us.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let before = BEFORE.get();
    let Some(before) = before.filter(|before| ![libc::SIG_DFL, libc::SIG_IGN].contains(&before.sa_sigaction))
    else {
        // SAFETY: back to the default; the instruction faults again when this handler returns, and ends the program.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    let function = std::ptr::with_exposed_provenance::<()>(before.sa_sigaction);
    if before.sa_flags & libc::SA_SIGINFO != 0 {
        type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        // SAFETY: the program installed a function of this type.
        let function = unsafe { std::mem::transmute::<*const (), Handler>(function) };
        function(signal, info, context);
    } else {
        // SAFETY: the program installed a function of this type.
        let function = unsafe { std::mem::transmute::<*const (), extern "C" fn(c_int)>(function) };
        function(signal);
    }
}
