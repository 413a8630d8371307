//! The driver API: the entry points of `libcuda.so.1`, one chapter a file.
//!
//! It shares everything with the runtime API - contexts, streams, events, memory, modules, graphs are the same objects,
//! with the same handles - and lowers to the same calls. What differs is told here: a call needs `cuInit` and a
//! context of its thread, its error is not remembered for `cudaGetLastError`, and errors that only the runtime has
//! become the driver's.

pub(crate) mod array;
pub(crate) mod batch;
pub(crate) mod context;
pub(crate) mod copy;
pub(crate) mod device;
pub(crate) mod entry_point;
pub(crate) mod error;
mod error_list;
pub(crate) mod event;
pub(crate) mod function;
pub(crate) mod graph;
pub(crate) mod launch;
pub(crate) mod linker;
pub(crate) mod logs;
pub(crate) mod memory;
pub(crate) mod module;
pub(crate) mod stream;
pub(crate) mod stream_value;
pub(crate) mod texture;
pub(crate) mod unavailable;
pub(crate) mod virtual_memory;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use cuda_types::{CuError, CuResult};

use crate::journal;
use crate::runtime::error as runtime_error;

/// Entry points of the driver: C functions whose body answers `CuResult<()>`. They are refused before `cuInit`.
macro_rules! entries {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        pub(crate) extern "C" fn $name($($arg: $type),*) -> u32 {
            $crate::driver::answer(stringify!($name), move || $body)
        }
    )*};
}
pub(crate) use entries;

/// Entry points with a twin whose default stream is the thread's own.
macro_rules! twins {
    ($($(#[$doc:meta])* fn $name:ident, $twin:ident($default:ident; $($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        pub(crate) extern "C" fn $name($($arg: $type),*) -> u32 {
            let $default = $crate::edge::DefaultStream::Legacy;
            $crate::driver::answer(stringify!($name), move || $body)
        }

        $(#[$doc])*
        pub(crate) extern "C" fn $twin($($arg: $type),*) -> u32 {
            let $default = $crate::edge::DefaultStream::PerThread;
            $crate::driver::answer(stringify!($twin), move || $body)
        }
    )*};
}
pub(crate) use twins;

/// Entry points that do what a function of the runtime with the same arguments does, in this thread's context.
macro_rules! as_the_runtime {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $runtime:path;)*) => {$(
        $(#[$doc])*
        pub(crate) extern "C" fn $name($($arg: $type),*) -> u32 {
            $crate::driver::answer(stringify!($name), move || {
                $crate::driver::context::current()?;
                $crate::driver::of_runtime(move || $runtime($($arg),*))
            })
        }
    )*};
}
pub(crate) use as_the_runtime;

/// Set by `cuInit`.
static INITIALIZED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// This thread is in a call of the driver API.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a call of the driver API, made by the program.
pub(crate) fn is_calling() -> bool {
    CALLING.get()
}

/// `cuInit` was called.
pub(crate) fn initialized() {
    INITIALIZED.store(true, Ordering::Release);
}

/// Runs something that uses contexts without being a call of the runtime.
pub(crate) fn aside<T>(body: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            CALLING.set(self.0);
        }
    }
    let _restore = Restore(CALLING.replace(true));
    body()
}

/// Runs the body of an entry point that may be called before `cuInit`.
pub(crate) fn answer_always(name: &str, body: impl FnOnce() -> CuResult<()>) -> u32 {
    journal::around(|| {
        let before = CALLING.replace(true);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        CALLING.set(before);
        match outcome {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => {
                crate::log::debug(format_args!("{name}: {error}"));
                of_the_driver(error).0
            }
            Err(_) => {
                crate::log::error(format_args!("{name}: internal error, see the message above"));
                CuError::UNKNOWN.0
            }
        }
    })
}

/// Runs the body of an entry point.
pub(crate) fn answer(name: &str, body: impl FnOnce() -> CuResult<()>) -> u32 {
    answer_always(name, || {
        if INITIALIZED.load(Ordering::Acquire) { body() } else { Err(CuError::NOT_INITIALIZED) }
    })
}

/// Calls an entry point of the runtime: what it notes for `cudaGetLastError` is undone.
pub(crate) fn of_runtime(call: impl FnOnce() -> u32) -> CuResult<()> {
    let before = runtime_error::cudaPeekAtLastError();
    let code = call();
    runtime_error::restore(before);
    if code == 0 { Ok(()) } else { Err(CuError(code)) }
}

/// An error as the driver names it: some exist in the runtime only.
fn of_the_driver(error: CuError) -> CuError {
    match error {
        runtime_error::INVALID_SYMBOL => CuError::NOT_FOUND,
        runtime_error::INVALID_DEVICE_FUNCTION => CuError::INVALID_HANDLE,
        // driver_types.h: what these numbers mean - a wrong argument of one kind or another - only the runtime tells apart.
        CuError(9..=33 | 52..=99) => CuError::INVALID_VALUE,
        error => error,
    }
}

/// The context of an ordinal is gone: what was made in it is, too.
pub(crate) fn forget_device(ordinal: usize) {
    module::forget_device(ordinal);
    virtual_memory::forget_device(ordinal);
}

/// Stands behind every name that is not supported: says so once, answers `CUDA_ERROR_NOT_SUPPORTED`.
pub(crate) extern "C" fn unsupported<const PLACE: usize>() -> u32 {
    crate::table::say_unsupported(PLACE);
    CuError::NOT_SUPPORTED.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_runtime_become_the_drivers_and_are_not_remembered() {
        runtime_error::restore(0);
        let failing = || runtime_error::answer("a", || Err(runtime_error::INVALID_SYMBOL));
        assert_eq!(answer_always("b", || of_runtime(failing)), CuError::NOT_FOUND.0);
        assert_eq!(runtime_error::cudaPeekAtLastError(), 0);
    }

    #[test]
    fn a_panic_becomes_an_unknown_error_and_the_thread_leaves_the_driver() {
        assert_eq!(answer_always("c", || panic!("on purpose")), CuError::UNKNOWN.0);
        assert!(!is_calling());
    }
}
