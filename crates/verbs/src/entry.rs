//! The edge: no unwinding into C, no null pointer past here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::slice;

use verbs_abi::Problem;

use crate::failure::{Failure, Outcome};

/// Runs the body of a C function: writes a failure into `problem`, if there is one to write to, and answers -1.
///
/// # Safety
/// `problem` is null or writable.
pub(crate) unsafe fn guard(problem: *mut Problem, at: u32, body: impl FnOnce() -> Outcome<i32>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(Failure::new(at, "the verbs plug-in stumbled; what it printed says where")));
    match outcome {
        Ok(answer) => answer,
        Err(failure) => {
            // SAFETY: the caller's promise.
            unsafe { report(problem, &failure) };
            -1
        }
    }
}

/// Runs the body of a C function that has no way to fail.
pub(crate) fn quiet<T>(otherwise: T, body: impl FnOnce() -> Option<T>) -> T {
    catch_unwind(AssertUnwindSafe(body)).ok().flatten().unwrap_or(otherwise)
}

/// Writes a failure for the caller.
///
/// # Safety
/// `problem` is null or writable.
pub(crate) unsafe fn report(problem: *mut Problem, failure: &Failure) {
    if let Some(problem) = NonNull::new(problem) {
        // SAFETY: not null, and writable by the caller's promise.
        unsafe { problem.write(failure.problem()) };
    }
}

/// Borrows what a pointer of the caller's stands for.
///
/// # Safety
/// `pointer` is null, or points at a `T` that nobody changes and that outlives the borrow.
pub(crate) unsafe fn borrow<'a, T>(pointer: *const T, what: &str, at: u32) -> Outcome<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure::new(at, format!("{what} is a null pointer")))
}

/// Checks an output before anything is made for it.
pub(crate) fn output<T>(pointer: *mut T, what: &str, at: u32) -> Outcome<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(|| Failure::new(at, format!("{what} is a null pointer")))
}

/// Borrows `count` things from the caller; with `count` 0 the pointer may be null.
///
/// # Safety
/// `pointer` is null, or points at `count` things that nobody changes and that outlive the borrow.
pub(crate) unsafe fn list<'a, T>(pointer: *const T, count: u32, what: &str, at: u32) -> Outcome<&'a [T]> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null()
        || size_of::<T>().checked_mul(count).is_none_or(|bytes| isize::try_from(bytes).is_err())
    {
        return Err(Failure::new(at, format!("{what} is a null pointer")));
    }
    // SAFETY: not null, not longer than memory can be, and the caller promises the rest.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}
