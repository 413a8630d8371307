//! The table's functions for the life of a connection.

use std::ffi::{CStr, c_char};
use std::os::fd::RawFd;
use std::ptr::copy_nonoverlapping;
use std::time::Duration;

use verbs_abi::{Address, Endpoint as Handle, Info, Listener as ListenerHandle, Problem, QueueSizes, step};

use crate::address::from_abi;
use crate::device::names;
use crate::endpoint::Endpoint;
use crate::entry::{borrow, guard, list, output, quiet};
use crate::failure::{Failure, Outcome};
use crate::listener::Listener;

pub(crate) unsafe extern "C" fn devices(out: *mut [u8; 64], capacity: u32, problem: *mut Problem) -> i32 {
    let body = || {
        let names = names()?;
        let room = if out.is_null() { 0 } else { usize::try_from(capacity).unwrap_or(0) };
        for (index, name) in names.iter().take(room).enumerate() {
            let mut field = [0; 64];
            let used = name.len().min(field.len() - 1);
            field[..used].copy_from_slice(&name.as_bytes()[..used]);
            // SAFETY: the caller has room for `capacity` names.
            unsafe { out.add(index).write(field) };
        }
        Ok(i32::try_from(names.len()).unwrap_or(i32::MAX))
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::DEVICE, body) }
}

pub(crate) unsafe extern "C" fn listen(
    address: *const Address,
    listener: *mut *mut ListenerHandle,
    port: *mut u16,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: valid for the call (the table's rule).
        let address = unsafe { borrow(address, "address", step::LISTEN) }?;
        let listener = output(listener, "listener", step::LISTEN)?;
        let port = output(port, "port", step::LISTEN)?;
        let made = Box::new(Listener::new(from_abi(address, step::LISTEN)?)?);
        // SAFETY: writable for the call.
        unsafe { port.write(made.port()) };
        // SAFETY: writable for the call.
        unsafe { listener.write(Box::into_raw(made).cast()) };
        Ok(0)
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::LISTEN, body) }
}

pub(crate) unsafe extern "C" fn listener_descriptor(listener: *mut ListenerHandle) -> i32 {
    quiet(-1, || {
        // SAFETY: a listener of `listen` that is not destroyed, or null.
        let listener = unsafe { listener.cast::<Listener>().as_ref() }?;
        Some(listener.descriptor())
    })
}

pub(crate) unsafe extern "C" fn next_request(
    listener: *mut ListenerHandle,
    sizes: *const QueueSizes,
    endpoint: *mut *mut Handle,
    private_data: *mut [u8; 64],
    private_bytes: *mut u32,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: a listener of `listen` that is not destroyed, or null.
        let listener = unsafe { borrow(listener.cast::<Listener>(), "listener", step::CONNECT) }?;
        // SAFETY: valid for the call (the table's rule).
        let sizes = unsafe { borrow(sizes, "sizes", step::CONNECT) }?;
        let endpoint = output(endpoint, "endpoint", step::CONNECT)?;
        let private_data = output(private_data, "private_data", step::CONNECT)?;
        let private_bytes = output(private_bytes, "private_bytes", step::CONNECT)?;
        let Some(request) = listener.next_request(sizes)? else { return Ok(0) };
        let mut data = [0; 64];
        let used = request.private_data.len().min(data.len());
        data[..used].copy_from_slice(&request.private_data[..used]);
        // SAFETY: writable for the call.
        unsafe { private_data.write(data) };
        // SAFETY: writable for the call.
        unsafe { private_bytes.write(u32::try_from(used).unwrap_or(0)) };
        // SAFETY: writable for the call.
        unsafe { endpoint.write(Box::into_raw(Box::new(request.endpoint)).cast()) };
        Ok(1)
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::CONNECT, body) }
}

pub(crate) unsafe extern "C" fn listener_destroy(listener: *mut ListenerHandle) {
    quiet((), || {
        if !listener.is_null() {
            // SAFETY: made by `listen` from a box, and given up by the caller.
            drop(unsafe { Box::from_raw(listener.cast::<Listener>()) });
        }
        Some(())
    });
}

pub(crate) unsafe extern "C" fn resolve(
    peer: *const Address,
    device: *const c_char,
    sizes: *const QueueSizes,
    timeout_ms: u32,
    endpoint: *mut *mut Handle,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: valid for the call (the table's rule).
        let peer = unsafe { borrow(peer, "peer", step::ADDRESS) }?;
        // SAFETY: valid for the call (the table's rule).
        let sizes = unsafe { borrow(sizes, "sizes", step::QUEUES) }?;
        let endpoint = output(endpoint, "endpoint", step::CONNECT)?;
        // SAFETY: null, or a zero-terminated name.
        let device = unsafe { device_name(device) }?;
        let timeout = Duration::from_millis(timeout_ms.into());
        let made = Endpoint::resolve(from_abi(peer, step::ADDRESS)?, device, sizes, timeout)?;
        // SAFETY: writable for the call.
        unsafe { endpoint.write(Box::into_raw(Box::new(made)).cast()) };
        Ok(0)
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::CONNECT, body) }
}

pub(crate) unsafe extern "C" fn connect(
    endpoint: *mut Handle,
    private_data: *const u8,
    private_bytes: u32,
    timeout_ms: u32,
    answer: *mut [u8; 196],
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { self::endpoint(endpoint, step::CONNECT) }?;
        // SAFETY: valid for the call (the table's rule).
        let data = unsafe { private(private_data, private_bytes, 56) }?;
        let answer = output(answer, "answer", step::CONNECT)?;
        let said = endpoint.connect(data, Duration::from_millis(timeout_ms.into()))?;
        let used = said.len().min(196);
        // SAFETY: `answer` has room for 196 bytes, and lies apart from what was just made.
        unsafe { copy_nonoverlapping(said.as_ptr(), answer.as_ptr().cast::<u8>(), used) };
        Ok(i32::try_from(used).unwrap_or(0))
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::CONNECT, body) }
}

pub(crate) unsafe extern "C" fn accept(
    endpoint: *mut Handle,
    private_data: *const u8,
    private_bytes: u32,
    timeout_ms: u32,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { self::endpoint(endpoint, step::CONNECT) }?;
        // SAFETY: valid for the call (the table's rule).
        let data = unsafe { private(private_data, private_bytes, 196) }?;
        endpoint.accept(data, Duration::from_millis(timeout_ms.into()))?;
        Ok(0)
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::CONNECT, body) }
}

pub(crate) unsafe extern "C" fn reject(endpoint: *mut Handle, reason: *const u8, reason_bytes: u32) {
    quiet((), || {
        if endpoint.is_null() {
            return None;
        }
        // SAFETY: made by `next_request` from a box, and given up by the caller.
        let endpoint = unsafe { Box::from_raw(endpoint.cast::<Endpoint>()) };
        // SAFETY: valid for the call (the table's rule).
        let reason = unsafe { list(reason, reason_bytes, "reason", step::CONNECT) }.unwrap_or(b"");
        endpoint.reject(reason);
        Some(())
    });
}

pub(crate) unsafe extern "C" fn info(endpoint: *mut Handle, info: *mut Info) {
    quiet((), || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { self::endpoint(endpoint, step::CONNECT) }.ok()?;
        let info = output(info, "info", step::CONNECT).ok()?;
        // SAFETY: writable for the call.
        unsafe { info.write(endpoint.info()) };
        Some(())
    });
}

pub(crate) unsafe extern "C" fn connection_descriptor(endpoint: *mut Handle) -> RawFd {
    quiet(-1, || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { self::endpoint(endpoint, step::CONNECT) }.ok()?;
        Some(endpoint.id().channel().descriptor())
    })
}

pub(crate) unsafe extern "C" fn is_connected(endpoint: *mut Handle) -> i32 {
    quiet(0, || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { self::endpoint(endpoint, step::CONNECT) }.ok()?;
        Some(i32::from(endpoint.is_connected()))
    })
}

pub(crate) unsafe extern "C" fn disconnect(endpoint: *mut Handle) {
    quiet((), || {
        // SAFETY: an endpoint that is not destroyed, or null.
        unsafe { self::endpoint(endpoint, step::CONNECT) }.ok()?.disconnect();
        Some(())
    });
}

pub(crate) unsafe extern "C" fn destroy(endpoint: *mut Handle) {
    quiet((), || {
        if !endpoint.is_null() {
            // SAFETY: made by `resolve` or `next_request` from a box, and given up by the caller.
            drop(unsafe { Box::from_raw(endpoint.cast::<Endpoint>()) });
        }
        Some(())
    });
}

/// The endpoint behind the caller's pointer.
///
/// # Safety
/// `endpoint` is null, or an endpoint that is not destroyed during the borrow.
pub(crate) unsafe fn endpoint<'a>(endpoint: *mut Handle, at: u32) -> Outcome<&'a Endpoint> {
    // SAFETY: the caller's promise; an endpoint has no state that needs `&mut`.
    unsafe { borrow(endpoint.cast::<Endpoint>(), "endpoint", at) }
}

/// The device's name, if one is wanted.
///
/// # Safety
/// `name` is null, or zero-terminated and outlives the borrow.
unsafe fn device_name<'a>(name: *const c_char) -> Outcome<Option<&'a str>> {
    if name.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, and zero-terminated by the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_str().map(Some).map_err(|_| Failure::new(step::DEVICE, "the device's name is not UTF-8"))
}

/// Private data, of which rdma_cm carries at most `most` bytes.
///
/// # Safety
/// As for [`list`].
unsafe fn private<'a>(data: *const u8, bytes: u32, most: u32) -> Outcome<&'a [u8]> {
    if bytes > most {
        let text = format!("{bytes} bytes of private data, but rdma_cm carries at most {most}");
        return Err(Failure::new(step::CONNECT, text));
    }
    // SAFETY: the caller's promise.
    unsafe { list(data, bytes, "private_data", step::CONNECT) }
}
