//! What verbs need of this machine.

use rustix::process::{Resource, getrlimit};
use transport::verbs;

use super::Check;
use super::reach::Reach;
use crate::devices::verbs_options;

/// The plug-in can be opened, and there is an RDMA device.
pub(super) fn verbs(reach: &Reach) -> Check {
    const NAME: &str = "verbs";
    match verbs::available(&verbs_options()) {
        Ok(()) => Check::ok(NAME, "the plug-in and an RDMA device are there"),
        Err(error) if reach.insists_on_verbs() => Check::failed(
            NAME,
            error.to_string(),
            "install the package vgpu-verbs, or allow TCP: VGPU_REMOTECALL=auto and auto:// in the list",
        ),
        Err(error) => Check::skipped(NAME, format!("TCP is used: {error}")),
    }
}

/// Memory that the network adapter reaches must be locked, and the limit of that is low on most machines.
pub(super) fn memlock(reach: &Reach) -> Check {
    const NAME: &str = "memlock";
    let limit = getrlimit(Resource::Memlock).current;
    let Some(bytes) = limit.filter(|_| !may_lock()) else {
        return Check::ok(NAME, "no limit on locked memory");
    };
    let shown = format!("the limit on locked memory is {} KiB", bytes >> 10);
    if !reach.insists_on_verbs() && verbs::available(&verbs_options()).is_err() {
        return Check::skipped(NAME, format!("{shown}; that matters for verbs only"));
    }
    if bytes >= NEEDED_BYTES {
        return Check::ok(NAME, shown);
    }
    Check::failed(
        NAME,
        format!("{shown}, and verbs need {} KiB for each device at least", NEEDED_BYTES >> 10),
        "ulimit -l unlimited; for good in /etc/security/limits.conf, or LimitMEMLOCK=infinity for a systemd unit",
    )
}

/// Whether the limit does not hold for this process.
fn may_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask & CAP_IPC_LOCK != 0)
}

/// capabilities(7).
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Staging, landing memory and rings of one device, as the server has them by default, with some room.
const NEEDED_BYTES: u64 = 64 << 20;
