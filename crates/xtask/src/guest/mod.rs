//! What runs inside the virtual machine: the product on two RDMA devices in software.
//!
//! There is no cargo here, and nothing can be written but under `TMPDIR`. The servers listen at [`SERVER`], behind `rxe1`;
//! programs reach them from [`CLIENT_NETDEV`], behind `rxe0`.
//!
//! Layout:
//! * [`devices`]: the RDMA devices, and what they have counted
//! * [`test_programs`]: the workspace's tests whose names say verbs
//! * [`samples`]: the four samples, and what crossed the devices meanwhile
//! * [`failures`]: a cut cable, killed servers and programs, lost packets

mod devices;
mod failures;
mod samples;
mod test_programs;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use clap::Args;

use crate::launch::Launcher;
use crate::servers::{Place, Servers};
use crate::verbs;
use crate::workspace::{Failure, Outcome, Workspace, finish};

/// What runs in the guest.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Only this step
    #[arg(long)]
    step: Option<String>,
    /// The programs' `VGPU_REMOTECALL`
    #[arg(long, default_value = VERBS)]
    over: String,
}

/// Where things lie in the guest, and how programs connect.
#[derive(Debug)]
struct Guest {
    dist: PathBuf,
    release: PathBuf,
    /// What the host has put down for us.
    folder: PathBuf,
    /// The only place to write to.
    scratch: PathBuf,
    over: String,
}

/// A part of the check.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    run: Check,
}

type Check = fn(&Guest) -> Outcome;

pub(crate) const STEPS: [Step; 5] = [
    Step { name: "devices", run: devices::check },
    Step { name: "tests", run: test_programs::check },
    Step { name: "samples", run: samples::check },
    Step { name: "failures", run: failures::check },
    Step { name: "benches", run: benches },
];

/// Runs all steps, also after one has failed, and sums up.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Outcome {
    let guest = Guest {
        dist: workspace.dist(),
        release: workspace.target.join("release"),
        folder: verbs::folder(workspace),
        scratch: std::env::temp_dir(),
        over: options.over.clone(),
    };
    let wanted = |step: &&Step| options.step.as_ref().is_none_or(|name| name == step.name);
    let mut summary = Vec::new();
    for step in STEPS.iter().filter(wanted) {
        println!("==> {}", step.name);
        summary.push((step.name, timed(|| (step.run)(&guest))));
    }
    println!("==> all steps in the virtual machine:");
    sum_up(&summary)
}

impl Guest {
    /// Servers with software GPUs, to be reached through the devices.
    fn servers(&self, count: u16) -> Outcome<Servers> {
        let place = Place { listen: Some(SERVER), log_folder: self.scratch.clone() };
        Servers::start_at(&place, &self.dist, "soft", count)
    }

    /// Programs that connect as was asked for, and say how they did.
    fn launcher<'a>(&self, servers: &'a Servers) -> Launcher<'a> {
        Launcher::new(&self.dist, servers).with("VGPU_REMOTECALL", &self.over).with("VGPU_LOG", "info")
    }

    fn is_over_verbs(&self) -> bool {
        self.over == VERBS
    }
}

fn benches(guest: &Guest) -> Outcome {
    let mut benches = Command::new(guest.release.join("benches"));
    finish(benches.args(["--verbs", &SERVER.to_string()]).arg(guest.dist.join("bin/vgpu-server")))
}

/// How long something took, and how it ended; a failure is shown at once.
fn timed(work: impl FnOnce() -> Outcome) -> (f64, bool) {
    let start = Instant::now();
    let outcome = work();
    if let Err(failure) = &outcome {
        println!("    {failure}");
    }
    (start.elapsed().as_secs_f64(), outcome.is_ok())
}

/// One line for each part; fails if one did.
fn sum_up(parts: &[(&str, (f64, bool))]) -> Outcome {
    for (name, (seconds, passed)) in parts {
        println!("    {name:<40} {:<8} {seconds:>6.1} s", if *passed { "ok" } else { "FAILED" });
    }
    let failed: Vec<&str> = parts.iter().filter(|(_, (_, passed))| !passed).map(|(name, _)| *name).collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::Check(format!("failed: {}", failed.join(", ")))) }
}

/// The value of `VGPU_REMOTECALL` that accepts nothing but verbs.
pub(crate) const VERBS: &str = "ibv";
/// The list of test programs, in [`verbs::folder`].
pub(crate) const TESTS: &str = "tests.txt";
/// The address behind `rxe1`.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The two ends of the cable: programs are at the first, servers at the second.
const CLIENT_NETDEV: &str = "v0";
const SERVER_NETDEV: &str = "v1";
