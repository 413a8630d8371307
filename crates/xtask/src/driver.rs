//! The check of the driver API: the programs under `examples/driver`, and one over cudarc, on every way to a device.

use std::path::Path;

use crate::launch::{Launcher, Run, Way};
use crate::samples;
use crate::servers::Servers;
use crate::toolchain::Mpi;
use crate::workspace::{Failure, Outcome, Workspace};

/// Runs every program on the software GPU over TCP, through cudarc on the software GPU's `libcuda.so.1`, and with
/// `vgpu run --soft`, whose private devices are reached over Unix sockets.
pub(crate) fn check(workspace: &Workspace, dist: &Path) -> Outcome {
    let through_cudarc = dist.join("lib/soft/libcuda.so.1").display().to_string();
    let mut failed = Vec::new();
    for (way, driver) in [("TCP", "soft"), ("cudarc", through_cudarc.as_str())] {
        let servers = Servers::start(dist, driver, 1)?;
        let launcher = Launcher::new(dist, &servers);
        for (name, run) in runs(workspace, dist, &launcher)? {
            judge(&name, way, &run, &mut failed);
        }
        if !failed.is_empty() {
            failed.push(format!("servers:\n{}", launcher.server_log()));
        }
    }
    let vgpu = dist.join("bin/vgpu");
    for name in programs(workspace)? {
        let program = samples::driver_program(dist, &name);
        let (vgpu, program) = (vgpu.display().to_string(), program.display().to_string());
        let starter = if samples::is_for_ranks(&name) { Mpi::OpenMpi.starter(RANKS) } else { Vec::new() };
        let mut words = vec![vgpu, "run".to_owned(), "--soft".to_owned(), "--".to_owned()];
        words.extend(starter);
        words.push(program);
        let run = Run::of(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        judge(&name, "Unix socket", &run, &mut failed);
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Check(failed.join("\n\n"))) }
}

/// Every program, run with `launcher`.
pub(crate) fn runs(
    workspace: &Workspace,
    dist: &Path,
    launcher: &Launcher<'_>,
) -> Outcome<Vec<(String, Run)>> {
    let run = |name: String| {
        let program = samples::driver_program(dist, &name);
        let run = if samples::is_for_ranks(&name) {
            launcher.under_mpi((&program, &[]), Way::Path, Mpi::OpenMpi, RANKS)?
        } else {
            launcher.alone(&program, Way::Path)?
        };
        Ok((name, run))
    };
    programs(workspace)?.into_iter().map(run).collect()
}

/// Those of `examples/driver`, and the one of `examples/cudarc`.
fn programs(workspace: &Workspace) -> Outcome<Vec<String>> {
    let mut names = samples::driver_programs(workspace)?;
    names.push("cudarc_saxpy".to_owned());
    Ok(names)
}

fn judge(name: &str, way: &str, run: &Run, failed: &mut Vec<String>) {
    let passed = run.succeeded && run.output.contains(&format!("{name}: ok"));
    let word = if passed { "ok" } else { "FAILED" };
    println!("    {name:<20} {way:<12} {word:<8} {:>5.1} s", run.seconds);
    if !passed {
        failed.push(run.report());
    }
}

const RANKS: u32 = 2;
