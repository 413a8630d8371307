//! A virtual machine with two RDMA devices in software: `soft-roce/run.sh`, and what it needs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::debian::{self, Need, Probe};
use crate::workspace::{Outcome, Workspace, finish};

/// Installs what the virtual machine is made of, or says what is missing.
pub(crate) fn ready() -> Outcome {
    debian::install(&NEEDS)
}

/// Runs a program of this machine in the guest, and ends with it; after `limit` the guest is killed.
///
/// The guest sees this machine's files and cannot change them. Its output is shown.
pub(crate) fn run(workspace: &Workspace, program: &Path, arguments: &[&str], limit: Duration) -> Outcome {
    let mut command: Command = workspace.command(workspace.root.join("crates/xtask/soft-roce/run.sh"));
    command.env("SOFT_ROCE_CACHE", workspace.root.join("target/soft-roce"));
    command.env("SOFT_ROCE_SECONDS", limit.as_secs().to_string());
    command.env("SOFT_ROCE_PASS", PASSED.join(" "));
    finish(command.arg(program).args(arguments))
}

/// Variables that mean the same in the guest.
const PASSED: [&str; 3] = ["CARGO_TARGET_DIR", "RUST_BACKTRACE", "VGPU_LINK_TIMEOUT_MS"];

const NEEDS: [Need; 6] = [
    Need { probe: Probe::Program("qemu-system-x86_64"), packages: "qemu-system-x86" },
    Need { probe: Probe::Program("busybox"), packages: "busybox-static" },
    Need { probe: Probe::Program("cpio"), packages: "cpio" },
    // What lies in sbin is not in everybody's PATH.
    Need { probe: Probe::File("/usr/sbin/depmod"), packages: "kmod" },
    Need { probe: Probe::File("/usr/sbin/tc"), packages: "iproute2" },
    Need { probe: Probe::File("/etc/libibverbs.d/rxe.driver"), packages: "ibverbs-providers" },
];
