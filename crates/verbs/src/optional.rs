//! Functions that an old libibverbs lacks.
//!
//! They are looked up by name, so the plug-in opens there too and only what needs them says no.

use std::ffi::{CStr, c_int, c_void};
use std::mem::transmute;
use std::sync::Once;

use libc::{RTLD_LAZY, RTLD_NOLOAD};
use rdma_sys::{ibv_fork_init, ibv_mr, ibv_pd};

type ForkStatus = unsafe extern "C" fn() -> c_int;
/// `ibv_reg_dmabuf_mr`: domain, offset, length, address, descriptor, access.
pub(crate) type RegisterDmabuf =
    unsafe extern "C" fn(*mut ibv_pd, u64, usize, u64, c_int, c_int) -> *mut ibv_mr;

/// Makes registered memory survive a `fork` of the process, where the kernel does not see to it (before 5.12).
///
/// Called before the first registration. Without `ibv_is_fork_initialized` (rdma-core 35) the library cannot say, and
/// `ibv_fork_init` costs a `madvise` with every registration, so it is left alone there: programs that fork and use
/// RDMA set `RDMAV_FORK_SAFE`, as the library's own documentation says.
pub(crate) fn make_fork_safe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(symbol) = symbol(c"ibv_is_fork_initialized") else { return };
        // SAFETY: infiniband/verbs.h: `enum ibv_fork_status ibv_is_fork_initialized(void)`.
        let status = unsafe { transmute::<*mut c_void, ForkStatus>(symbol) };
        // SAFETY: no preconditions.
        if unsafe { status() } == FORK_DISABLED {
            // SAFETY: no preconditions; that it fails once memory is registered is no harm.
            unsafe { ibv_fork_init() };
        }
    });
}

/// `ibv_reg_dmabuf_mr`, since rdma-core 34.
pub(crate) fn register_dmabuf() -> Option<RegisterDmabuf> {
    let symbol = symbol(c"ibv_reg_dmabuf_mr")?;
    // SAFETY: the signature is the one of infiniband/verbs.h.
    Some(unsafe { transmute::<*mut c_void, RegisterDmabuf>(symbol) })
}

/// A function of the libibverbs that this plug-in is linked with.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a valid name; RTLD_NOLOAD finds what is loaded already, and runs no code.
    let library = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), RTLD_LAZY | RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    // SAFETY: `library` is open and `name` a valid name.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: opened above; the library stays, because this plug-in needs it.
    unsafe { libc::dlclose(library) };
    (!found.is_null()).then_some(found)
}

/// `IBV_FORK_DISABLED`: the kernel does not see to it, and `ibv_fork_init` has not been called.
const FORK_DISABLED: c_int = 0;
