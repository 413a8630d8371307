//! What continuous integration runs: every promise that can be checked on a machine without a GPU.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use crate::bench;
use crate::demo;
use crate::dist;
use crate::driver;
use crate::gpu_validate;
use crate::launch::{Launcher, Way};
use crate::packages;
use crate::plugin;
use crate::python;
use crate::samples::{self, Runtime, SAMPLES};
use crate::servers::Servers;
use crate::tool;
use crate::toolchain::{self, Mpi, Toolchain};
use crate::verbs::{self, Mode};
use crate::workspace::{Failure, Outcome, Workspace, finish, is_installed, step};

/// Which checks run.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Only the checks whose name contains this word: format, lints, tests, dependencies, samples, programs, vgpu run, gpu-validate, packages, control, verbs
    #[arg(long)]
    only: Option<String>,
    /// Also the kernels of cuda-python, Numba and CuPy, whose wheels are 150 MB
    #[arg(long)]
    python: bool,
    #[command(flatten)]
    pub(crate) verbs: verbs::Options,
}

/// Runs all checks, also after one has failed, and names those that did.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Outcome {
    let start = Instant::now();
    let wanted = |name: &str| options.only.as_ref().is_none_or(|word| name.contains(word.as_str()));
    let toolchain = step("toolchain", || Toolchain::ready(workspace))?;
    let mut dist = None;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        let is_verbs = matches!(check, Check::Verbs);
        let is_asked_for = *name != PYTHON || options.python;
        if !wanted(name) || !is_asked_for || (options.verbs.mode() == Mode::Only && !is_verbs) {
            continue;
        }
        if options.verbs.mode() == Mode::Skip && is_verbs {
            println!("==> {name}: left out, as --verbs=skip asks");
            continue;
        }
        let outcome = step(name, || match check {
            Check::Source(check) => check(workspace, &toolchain),
            Check::Program(check) => check(workspace, built(&mut dist, workspace, &toolchain)?),
            Check::Verbs => verbs::check(workspace, built(&mut dist, workspace, &toolchain)?, &options.verbs),
        });
        if let Err(failure) = outcome {
            eprintln!("    {failure}");
            failed.push(*name);
        }
    }
    println!("==> {:.0} s", start.elapsed().as_secs_f64());
    if failed.is_empty() { Ok(()) } else { Err(Failure::Check(format!("failed: {}", failed.join(", ")))) }
}

enum Check {
    /// Needs the sources and the tools.
    Source(fn(&Workspace, &Toolchain) -> Outcome),
    /// Needs the distribution.
    Program(fn(&Workspace, &Path) -> Outcome),
    /// Needs the distribution and a virtual machine.
    Verbs,
}

/// The distribution, built when it is first asked for.
fn built<'a>(
    dist: &'a mut Option<PathBuf>,
    workspace: &Workspace,
    toolchain: &Toolchain,
) -> Outcome<&'a Path> {
    match dist {
        Some(dist) => Ok(dist),
        None => Ok(dist.insert(dist::build(workspace, toolchain)?)),
    }
}

const CHECKS: &[(&str, Check)] = &[
    ("format", Check::Source(format)),
    ("lints", Check::Source(lints)),
    ("tests", Check::Source(tests)),
    ("dependencies", Check::Source(dependencies)),
    ("samples on the software GPU", Check::Program(samples_on_soft_gpu)),
    ("programs on the software GPU", Check::Program(programs_on_soft_gpu)),
    ("programs through cudarc, on the software GPU's libcuda", Check::Program(programs_through_cudarc)),
    ("driver API: programs over TCP, through cudarc, and over Unix sockets", Check::Program(driver::check)),
    ("vgpu run, on private software devices", Check::Program(tool::check)),
    ("gpu-validate, the software GPU in the place of a GPU", Check::Program(gpu_validate::check)),
    ("packages, installed on a machine without Rust", Check::Program(packages::check)),
    (PYTHON, Check::Program(python::check)),
    ("control: nothing passes on a driver that does nothing", Check::Program(negative_control)),
    ("gates: promises that are counts", Check::Source(gates)),
    ("verbs, in a virtual machine", Check::Verbs),
];

const PYTHON: &str = "python: kernels of cuda-python, Numba and CuPy";

fn gates(workspace: &Workspace, _: &Toolchain) -> Outcome {
    bench::run(workspace, &bench::Options::counts())
}

fn format(workspace: &Workspace, _: &Toolchain) -> Outcome {
    finish(workspace.cargo().args(["fmt", "--all", "--check"]))
}

fn lints(workspace: &Workspace, _: &Toolchain) -> Outcome {
    let mut cargo = workspace.cargo();
    cargo.args(["clippy", "--locked", "--workspace", "--all-targets"]).args(plugin::excluded(workspace));
    finish(cargo.args(["--", "-D", "warnings"]))
}

fn tests(workspace: &Workspace, toolchain: &Toolchain) -> Outcome {
    let mut cargo = workspace.cargo();
    toolchain.lend(&mut cargo);
    if is_installed("cargo-nextest") {
        cargo.args([
            "nextest",
            "run",
            "--no-fail-fast",
            "--status-level",
            "fail",
            "--final-status-level",
            "fail",
        ]);
    } else {
        cargo.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    let excluded = plugin::excluded(workspace);
    finish(cargo.args(["--locked", "--workspace"]).args(excluded))?;
    let mut cargo = workspace.cargo();
    toolchain.lend(&mut cargo);
    finish(cargo.args(["test", "--quiet", "--locked", "--workspace", "--doc"]).args(excluded))
}

/// Licences, bans and sources by `deny.toml`, without the network. Compiling cargo-deny the first time takes minutes.
fn dependencies(workspace: &Workspace, _: &Toolchain) -> Outcome {
    let deny = toolchain::CARGO_DENY.ready(workspace)?;
    finish(workspace.cargo().args(["fetch", "--locked"]))?;
    finish(workspace.command(deny).args(["--offline", "check", "licenses", "bans", "sources"]))
}

fn samples_on_soft_gpu(_: &Workspace, dist: &Path) -> Outcome {
    let options = demo::Options { driver: "soft".to_owned(), ranks: 4, servers: 2, verbose: false };
    demo::show(dist, &options, &Runtime::ALL)
}

fn programs_on_soft_gpu(workspace: &Workspace, dist: &Path) -> Outcome {
    run_programs(workspace, dist, "soft")
}

/// The way that an NVIDIA GPU is driven, with another driver at its end.
fn programs_through_cudarc(workspace: &Workspace, dist: &Path) -> Outcome {
    run_programs(workspace, dist, &dist.join("lib/soft/libcuda.so.1").display().to_string())
}

fn run_programs(workspace: &Workspace, dist: &Path, driver: &str) -> Outcome {
    let servers = Servers::start(dist, driver, 1)?;
    let launcher = Launcher::new(dist, &servers);
    let mut failed = Vec::new();
    for (runtime, name) in programs(workspace)? {
        let run = launcher.alone(&samples::test(dist, &name, runtime), way(runtime))?;
        let passed = run.succeeded && run.output.contains(&format!("{name}: ok"));
        let word = if passed { "ok" } else { "FAILED" };
        println!("{name:<16} {:<8} {word:<8} {:>6.1} s", runtime.name(), run.seconds);
        if !passed {
            failed.push(run.report());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let (count, reports, log) = (failed.len(), failed.join("\n\n"), launcher.server_log());
    Err(Failure::Check(format!("{count} programs failed\n\n{reports}\n\nservers:\n{log}")))
}

/// A driver that says yes to everything and does nothing: a program that passes there checks nothing.
fn negative_control(workspace: &Workspace, dist: &Path) -> Outcome {
    let servers = Servers::start(dist, "null", 2)?;
    let launcher = Launcher::new(dist, &servers);
    let mut runs = Vec::new();
    for (mpi, runtime) in Mpi::ALL.into_iter().flat_map(|mpi| Runtime::ALL.map(|runtime| (mpi, runtime))) {
        for name in SAMPLES {
            let program = samples::sample(dist, name, mpi, runtime);
            let run = launcher.under_mpi((&program, &[]), Way::Preload, mpi, 2)?;
            // It must come as far as comparing results, and then say that they are wrong.
            let refused = run.verdict(name).is_some_and(|verdict| !verdict.verified) && !run.succeeded;
            runs.push((format!("{name}, {}, {}", mpi.name(), runtime.name()), refused, run));
        }
    }
    for (runtime, name) in programs(workspace)? {
        let run = launcher.alone(&samples::test(dist, &name, runtime), way(runtime))?;
        let refused = !run.succeeded && run.output.contains(": expected ");
        runs.push((format!("{name}, {}", runtime.name()), refused, run));
    }
    for (name, run) in driver::runs(workspace, dist, &launcher)? {
        let refused = !run.succeeded && run.output.contains(": expected ");
        runs.push((format!("{name}, driver API"), refused, run));
    }
    let wrong: Vec<String> = runs
        .iter()
        .filter(|(_, refused, _)| !refused)
        .map(|(what, _, run)| format!("{what} does not say that its results are wrong\n{}", run.report()))
        .collect();
    println!("{} of {} programs say that their results are wrong", runs.len() - wrong.len(), runs.len());
    if wrong.is_empty() {
        return Ok(());
    }
    let (reports, log) = (wrong.join("\n\n"), launcher.server_log());
    Err(Failure::Check(format!("on a driver that does nothing:\n\n{reports}\n\nservers:\n{log}")))
}

fn programs(workspace: &Workspace) -> Outcome<Vec<(Runtime, String)>> {
    let names = samples::tests(workspace)?;
    Ok(Runtime::ALL
        .into_iter()
        .flat_map(|runtime| names.clone().into_iter().map(move |name| (runtime, name)))
        .collect())
}

/// A program that names its runtime finds it by path.
fn way(runtime: Runtime) -> Way {
    match runtime {
        Runtime::Shared => Way::Path,
        Runtime::Static => Way::Preload,
    }
}
