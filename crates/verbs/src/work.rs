//! The table's functions for memory and work.

use std::ffi::{c_char, c_void};

use rdma_sys::ibv_wc_status_str;
use verbs_abi::{
    Completion, Counts, Endpoint as Handle, Problem, Receive, Region as RegionHandle, Send, step,
};

use crate::connection::endpoint as the;
use crate::counts::all;
use crate::entry::{borrow, guard, list, output, quiet, report};
use crate::failure::Failure;
use crate::post::Posted;
use crate::region::{Dmabuf, Region};

pub(crate) unsafe extern "C" fn register(
    endpoint: *mut Handle,
    address: u64,
    bytes: u64,
    access: u32,
    region: *mut RegionHandle,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { the(endpoint, step::REGISTER) }?;
        let region = output(region, "region", step::REGISTER)?;
        // SAFETY: the memory stays mapped while it is registered (the table's rule).
        let made = unsafe { Region::host(endpoint.queue_pair().domain(), address, bytes, access) }?;
        // SAFETY: writable for the call.
        unsafe { region.write(handle(made)) };
        Ok(0)
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::REGISTER, body) }
}

#[allow(clippy::too_many_arguments, reason = "the table's signature")]
pub(crate) unsafe extern "C" fn register_dmabuf(
    endpoint: *mut Handle,
    descriptor: i32,
    offset: u64,
    bytes: u64,
    address: u64,
    access: u32,
    region: *mut RegionHandle,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { the(endpoint, step::REGISTER) }?;
        let region = output(region, "region", step::REGISTER)?;
        let buffer = Dmabuf { descriptor, offset };
        let made = Region::device(endpoint.queue_pair().domain(), &buffer, bytes, address, access)?;
        // SAFETY: writable for the call.
        unsafe { region.write(handle(made)) };
        Ok(0)
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::REGISTER, body) }
}

pub(crate) unsafe extern "C" fn deregister(region: *const RegionHandle) {
    quiet((), || {
        // SAFETY: valid for the call (the table's rule).
        let handle = unsafe { borrow(region, "region", step::REGISTER) }.ok()?.handle;
        if !handle.is_null() {
            // SAFETY: made by `handle` below, and given up by the caller.
            drop(unsafe { Box::from_raw(handle.cast::<Region>()) });
        }
        Some(())
    });
}

pub(crate) unsafe extern "C" fn post_sends(
    endpoint: *mut Handle,
    sends: *const Send,
    count: u32,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { the(endpoint, step::POST) }?;
        // SAFETY: valid for the call (the table's rule).
        let sends = unsafe { list(sends, count, "sends", step::POST) }?;
        // SAFETY: `problem` is valid for the call.
        Ok(unsafe { posted(endpoint.queue_pair().post_sends(sends), problem) })
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::POST, body) }
}

pub(crate) unsafe extern "C" fn post_receives(
    endpoint: *mut Handle,
    receives: *const Receive,
    count: u32,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { the(endpoint, step::POST) }?;
        // SAFETY: valid for the call (the table's rule).
        let receives = unsafe { list(receives, count, "receives", step::POST) }?;
        // SAFETY: `problem` is valid for the call.
        Ok(unsafe { posted(endpoint.queue_pair().post_receives(receives), problem) })
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::POST, body) }
}

pub(crate) unsafe extern "C" fn poll(
    endpoint: *mut Handle,
    queue: u32,
    completions: *mut Completion,
    capacity: u32,
    problem: *mut Problem,
) -> i32 {
    let body = || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { the(endpoint, step::POLL) }?;
        let queue = endpoint.queue_pair().queue(queue).ok_or_else(|| no_queue(queue))?;
        let mut next = output(completions, "completions", step::POLL)?;
        // An answer that is no i32 would read as a failure.
        let capacity = i32::try_from(capacity).unwrap_or(i32::MAX);
        let taken = queue.poll(usize::try_from(capacity).unwrap_or(0), |completion| {
            // SAFETY: the caller has room for `capacity` completions.
            unsafe { next.write(completion) };
            // SAFETY: at most one past the last.
            next = unsafe { next.add(1) };
        })?;
        Ok(i32::try_from(taken).unwrap_or(capacity))
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::POLL, body) }
}

pub(crate) unsafe extern "C" fn arm(endpoint: *mut Handle, queue: u32, problem: *mut Problem) -> i32 {
    let body = || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { the(endpoint, step::POLL) }?;
        endpoint.queue_pair().queue(queue).ok_or_else(|| no_queue(queue))?.arm()?;
        Ok(0)
    };
    // SAFETY: `problem` is valid for the call (the table's rule).
    unsafe { guard(problem, step::POLL, body) }
}

pub(crate) unsafe extern "C" fn descriptor(endpoint: *mut Handle, queue: u32) -> i32 {
    quiet(-1, || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { the(endpoint, step::POLL) }.ok()?;
        Some(endpoint.queue_pair().queue(queue)?.descriptor())
    })
}

pub(crate) unsafe extern "C" fn take_events(endpoint: *mut Handle, queue: u32) {
    quiet((), || {
        // SAFETY: an endpoint that is not destroyed, or null.
        let endpoint = unsafe { the(endpoint, step::POLL) }.ok()?;
        endpoint.queue_pair().queue(queue)?.take_events();
        Some(())
    });
}

pub(crate) unsafe extern "C" fn status_text(status: u32) -> *const c_char {
    // SAFETY: answers a text for any number, which is never freed.
    unsafe { ibv_wc_status_str(status) }
}

pub(crate) unsafe extern "C" fn counts(counts: *mut Counts) {
    quiet((), || {
        let counts = output(counts, "counts", step::POLL).ok()?;
        // SAFETY: writable for the call.
        unsafe { counts.write(all()) };
        Some(())
    });
}

/// How many were posted, for the caller; writes the problem if not all were.
///
/// # Safety
/// `problem` is null or writable.
unsafe fn posted(posted: Posted, problem: *mut Problem) -> i32 {
    if let Some(failure) = &posted.failure {
        // SAFETY: the caller's promise.
        unsafe { report(problem, failure) };
    }
    i32::try_from(posted.count).unwrap_or(i32::MAX)
}

fn handle(region: Region) -> RegionHandle {
    let (lkey, rkey) = (region.local_key(), region.remote_key());
    RegionHandle { handle: Box::into_raw(Box::new(region)).cast::<c_void>(), lkey, rkey }
}

fn no_queue(number: u32) -> Failure {
    Failure::new(step::POLL, format!("there is no completion queue {number}"))
}
