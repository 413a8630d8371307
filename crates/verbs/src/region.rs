//! Registered memory.

use std::ffi::c_void;
use std::ptr::with_exposed_provenance_mut;
use std::sync::Arc;

use libc::{RLIMIT_MEMLOCK, c_int, rlimit};
use rdma_sys::{ibv_access_flags, ibv_dereg_mr, ibv_mr, ibv_reg_mr};
use verbs_abi::{access, step};

use crate::counts::{Counted, REGIONS, REGISTRATIONS};
use crate::failure::{Failure, Outcome, last_errno};
use crate::optional;
use crate::queue_pair::ProtectionDomain;

/// A registration; ends when dropped.
pub(crate) struct Region {
    raw: *mut ibv_mr,
    _domain: Arc<ProtectionDomain>,
    _counted: Counted,
}

/// A piece of a dma-buf.
pub(crate) struct Dmabuf {
    pub(crate) descriptor: c_int,
    pub(crate) offset: u64,
}

impl Region {
    /// Registers host memory.
    ///
    /// # Safety
    /// The range is mapped, and stays so as long as the region lives.
    pub(crate) unsafe fn host(
        domain: &Arc<ProtectionDomain>,
        address: u64,
        bytes: u64,
        rights: u32,
    ) -> Outcome<Region> {
        let start = usize::try_from(address).map_err(|_| too_long(bytes))?;
        let length = usize::try_from(bytes).map_err(|_| too_long(bytes))?;
        let start: *mut c_void = with_exposed_provenance_mut(start);
        // SAFETY: the domain is alive; the caller promises the range, and the kernel checks that it is mapped.
        let raw = unsafe { ibv_reg_mr(domain.raw(), start, length, flags(rights)) };
        Region::made(raw, domain, bytes, "memory")
    }

    /// Registers device memory, seen at `address`.
    pub(crate) fn device(
        domain: &Arc<ProtectionDomain>,
        buffer: &Dmabuf,
        bytes: u64,
        address: u64,
        rights: u32,
    ) -> Outcome<Region> {
        let Some(register) = optional::register_dmabuf() else {
            let text = "this libibverbs cannot register a dma-buf; it can since rdma-core 34";
            return Err(Failure { step: step::REGISTER, errno: libc::EOPNOTSUPP, text: text.to_owned() });
        };
        let length = usize::try_from(bytes).map_err(|_| too_long(bytes))?;
        // SAFETY: the domain is alive; the kernel checks the descriptor and the range.
        let raw = unsafe {
            register(domain.raw(), buffer.offset, length, address, buffer.descriptor, flags(rights))
        };
        Region::made(raw, domain, bytes, "memory of a dma-buf")
    }

    /// The key for work requests of this side.
    pub(crate) fn local_key(&self) -> u32 {
        // SAFETY: the region lives as long as `self`.
        unsafe { (*self.raw).lkey }
    }

    /// The key for the peer.
    pub(crate) fn remote_key(&self) -> u32 {
        // SAFETY: the region lives as long as `self`.
        unsafe { (*self.raw).rkey }
    }

    fn made(raw: *mut ibv_mr, domain: &Arc<ProtectionDomain>, bytes: u64, what: &str) -> Outcome<Region> {
        if raw.is_null() {
            let errno = last_errno();
            let failure = Failure::numbered(
                step::REGISTER,
                errno,
                &format!("register {bytes} bytes of {what} for RDMA"),
            );
            return Err(if errno == libc::ENOMEM { failure.with(&memlock_advice()) } else { failure });
        }
        REGISTRATIONS.add();
        Ok(Region { raw, _domain: Arc::clone(domain), _counted: REGIONS.enter() })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: made by `host` or `device`; the domain lives until the fields are dropped.
        unsafe { ibv_dereg_mr(self.raw) };
    }
}

fn flags(rights: u32) -> c_int {
    let pairs = [
        (access::LOCAL_WRITE, ibv_access_flags::IBV_ACCESS_LOCAL_WRITE),
        (access::REMOTE_WRITE, ibv_access_flags::IBV_ACCESS_REMOTE_WRITE),
        (access::REMOTE_READ, ibv_access_flags::IBV_ACCESS_REMOTE_READ),
    ];
    let asked = pairs.iter().filter(|(right, _)| rights & right != 0);
    asked.fold(0, |all, (_, flag)| all | flag.0.cast_signed())
}

/// What to do about ENOMEM; short, because a problem has room for 240 bytes.
fn memlock_advice() -> String {
    let mut limit = rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    let status = unsafe { libc::getrlimit(RLIMIT_MEMLOCK, &raw mut limit) };
    if status != 0 || limit.rlim_cur == libc::RLIM_INFINITY {
        return String::new();
    }
    let kib = limit.rlim_cur / 1024;
    format!(
        "; at most {kib} KiB may be locked: ulimit -l unlimited, LimitMEMLOCK=infinity in a unit, \
         or memlock in /etc/security/limits.conf"
    )
}

fn too_long(bytes: u64) -> Failure {
    Failure::new(step::REGISTER, format!("{bytes} bytes are more than this machine can address"))
}
