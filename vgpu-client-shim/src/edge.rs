//! The C edge: what the shapes of entry points may assume of their caller.
//!
//! Entry points are reached only through the table, from C code that was compiled against NVIDIA's headers. What the
//! caller owes, once and for all of them:
//! * a pointer to an answer is NULL or points to writable, aligned room for it ([`Out`]);
//! * a pointer to a structure or a string is NULL or points to one that stays unchanged during the call;
//! * host memory named in a copy is mapped for its whole length, until the copy is over.
//!
//! What every entry point does in return: it catches panics, notes its error for `cudaGetLastError`, and writes
//! answers only on success.

use std::mem::MaybeUninit;

use cuda_types::{CuError, CuResult};

/// Room for an answer, or NULL.
pub(crate) type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// Makes NULL an invalid value.
pub(crate) trait Required<T> {
    /// What the pointer points to.
    fn required(self) -> CuResult<T>;
}

impl<T> Required<T> for Option<T> {
    fn required(self) -> CuResult<T> {
        self.ok_or(CuError::INVALID_VALUE)
    }
}

/// Which stream handle 0 stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DefaultStream {
    /// The legacy default stream, shared by all threads.
    Legacy,
    /// The calling thread's own: entry points `_ptsz` and `_ptds`, from `--default-stream per-thread`.
    PerThread,
}

/// Entry points: C functions whose body answers `CuResult<()>`.
macro_rules! entries {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        pub(crate) extern "C" fn $name($($arg: $type),*) -> u32 {
            $crate::runtime::error::answer(stringify!($name), move || $body)
        }
    )*};
}
pub(crate) use entries;

/// Entry points with a twin whose default stream is the thread's own; the body finds which in the first name.
macro_rules! twins {
    ($($(#[$doc:meta])* fn $name:ident, $twin:ident($default:ident; $($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        pub(crate) extern "C" fn $name($($arg: $type),*) -> u32 {
            let $default = $crate::edge::DefaultStream::Legacy;
            $crate::runtime::error::answer(stringify!($name), move || $body)
        }

        $(#[$doc])*
        pub(crate) extern "C" fn $twin($($arg: $type),*) -> u32 {
            let $default = $crate::edge::DefaultStream::PerThread;
            $crate::runtime::error::answer(stringify!($twin), move || $body)
        }
    )*};
}
pub(crate) use twins;
