//! The demo: two servers, the four samples under both MPIs, one table.

use std::path::Path;

use clap::Args;

use crate::dist;
use crate::launch::{Launcher, Way};
use crate::samples::{Runtime, SAMPLES, sample};
use crate::servers::Servers;
use crate::toolchain::{Mpi, Toolchain};
use crate::workspace::{Failure, Outcome, Workspace};

/// What the demo shows.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// What drives the servers' devices: soft, cuda, or a path to a libcuda.so.1
    #[arg(long, default_value = "soft")]
    pub(crate) driver: String,
    /// How many ranks each program has
    #[arg(long, default_value_t = 4)]
    pub(crate) ranks: u32,
    /// How many servers are started, one device each
    #[arg(long, default_value_t = 2)]
    pub(crate) servers: u16,
    /// Show what the programs print
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

/// Sets everything up and runs it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Outcome {
    let toolchain = Toolchain::ready(workspace)?;
    let dist = dist::build(workspace, &toolchain)?;
    show(&dist, options, &[Runtime::Shared, Runtime::Static])
}

/// Shared runtimes are found by path under one MPI and by preload under the other; static ones need the preload.
fn way(runtime: Runtime, mpi: Mpi) -> Way {
    match (runtime, mpi) {
        (Runtime::Shared, Mpi::OpenMpi) => Way::Path,
        _ => Way::Preload,
    }
}

/// Runs the samples of a finished distribution; fails unless every rank of each verified its results.
pub(crate) fn show(dist: &Path, options: &Options, runtimes: &[Runtime]) -> Outcome {
    let servers = Servers::start(dist, &options.driver, options.servers)?;
    let launcher = Launcher::new(dist, &servers);
    println!("==> VGPU_SERVER=\"{}\", driver {}", servers.list(), options.driver);
    println!(
        "{:<14} {:<8} {:<8} {:>5} {:>7} {:>8} {:>8}",
        "program", "MPI", "runtime", "ranks", "devices", "verified", "seconds"
    );
    let (mut failed, mut total) = (Vec::new(), 0);
    for mpi in Mpi::ALL {
        for (runtime, name) in runtimes.iter().flat_map(|&runtime| SAMPLES.map(|name| (runtime, name))) {
            let run = launcher.under_mpi(
                (&sample(dist, name, mpi, runtime), &[]),
                way(runtime, mpi),
                mpi,
                options.ranks,
            )?;
            let verdict = run.verdict(name);
            let expected_devices = options.ranks.min(options.servers.into());
            let verified = run.succeeded
                && verdict.is_some_and(|verdict| {
                    verdict.verified && verdict.ranks == options.ranks && verdict.devices == expected_devices
                });
            let number = |value: Option<u32>| value.map_or("-".to_owned(), |value| value.to_string());
            println!(
                "{name:<14} {:<8} {:<8} {:>5} {:>7} {:>8} {:>8.1}",
                mpi.name(),
                runtime.name(),
                number(verdict.map(|verdict| verdict.ranks)),
                number(verdict.map(|verdict| verdict.devices)),
                if verified { "yes" } else { "NO" },
                run.seconds
            );
            if options.verbose {
                println!("{}", run.report());
            }
            total += 1;
            if !verified {
                failed.push(run.report());
            }
        }
    }
    if failed.is_empty() {
        println!("==> all {total} runs verified by every rank");
        return Ok(());
    }
    let (count, reports, log) = (failed.len(), failed.join("\n\n"), launcher.server_log());
    Err(Failure::Check(format!("{count} of {total} runs did not verify\n\n{reports}\n\nservers:\n{log}")))
}
