//! The product beside raw sockets: builds `benches` and the server in release mode and runs them.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::workspace::{Outcome, Workspace, finish, step};

/// What is measured.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Options {
    /// The promises with their gates instead of the table; fails if one is not kept
    #[arg(long)]
    gate: bool,
    /// Only these promises, as in G1,G4
    #[arg(long, requires = "gate")]
    only: Option<String>,
    /// Only promises that are counts, which repeat to the digit
    #[arg(long, requires = "gate")]
    counts: bool,
    /// Also write the promises to a file
    #[arg(long, requires = "gate")]
    json: Option<PathBuf>,
}

impl Options {
    /// The counts, as continuous integration judges them.
    pub(crate) fn counts() -> Options {
        Options { gate: true, counts: true, ..Options::default() }
    }
}

/// Prints the table, or the gates; fails if any run moved other bytes or made other calls than it was asked to.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Outcome {
    step("building the benchmark and the server", || {
        finish(workspace.cargo().args([
            "build",
            "--release",
            "--locked",
            "--package",
            "benches",
            "--package",
            "vgpu-server",
        ]))
    })?;
    let release = workspace.target.join("release");
    let mut command = Command::new(release.join("benches"));
    if options.gate {
        command.arg("--gates").arg(release.join("vgpu-server")).arg("--gate");
        command.args(options.only.iter().flat_map(|only| ["--only", only]));
        command.args(options.counts.then_some("--counts"));
        if let Some(file) = &options.json {
            command.arg("--json").arg(file);
        }
    } else {
        command.arg(release.join("vgpu-server"));
    }
    finish(&mut command)?;
    // The software GPU beside C: a promise of its own crate.
    let is_asked_for = options.only.as_ref().is_none_or(|only| only.to_ascii_uppercase().contains("G22"));
    if options.gate && !options.counts && is_asked_for {
        let mut cargo = workspace.cargo();
        cargo.args(["bench", "--locked", "--package", "soft-gpu", "--bench", "speed", "--", "--gate"]);
        step("G22: the software GPU beside C", || finish(&mut cargo))?;
    }
    Ok(())
}
