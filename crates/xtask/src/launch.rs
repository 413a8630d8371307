//! One program run on servers, and what it said.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::servers::Servers;
use crate::toolchain::Mpi;
use crate::workspace::{Doing, Outcome, shown};

/// How programs are started: with our libraries before NVIDIA's, on these servers.
#[derive(Debug)]
pub(crate) struct Launcher<'a> {
    list: String,
    lib: PathBuf,
    servers: &'a Servers,
    variables: Vec<(&'static str, String)>,
}

/// How a program finds our libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By `LD_LIBRARY_PATH`: enough for a program that names a `libcudart.so`.
    Path,
    /// By `LD_PRELOAD` of both majors: also for a program with NVIDIA's runtime linked in.
    Preload,
}

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) succeeded: bool,
    pub(crate) seconds: f64,
    pub(crate) output: String,
    command: String,
}

impl<'a> Launcher<'a> {
    pub(crate) fn new(dist: &Path, servers: &'a Servers) -> Self {
        Self { list: servers.list(), lib: dist.join("lib"), servers, variables: Vec::new() }
    }

    /// One more variable for the programs.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn environment(&self, way: Way) -> Vec<(&'static str, String)> {
        let found = match way {
            Way::Path => ("LD_LIBRARY_PATH", self.lib.display().to_string()),
            Way::Preload => {
                let majors = ["libcudart.so.12", "libcudart.so.13"];
                ("LD_PRELOAD", majors.map(|name| self.lib.join(name).display().to_string()).join(":"))
            }
        };
        let own = [("VGPU_SERVER", self.list.clone()), found];
        own.into_iter().chain(self.variables.iter().cloned()).collect()
    }

    /// Runs a program by itself.
    pub(crate) fn alone(&self, program: &Path, way: Way) -> Outcome<Run> {
        let mut command = limited();
        // The limit itself needs no GPU: only the program gets the environment.
        command.arg("env").args(self.environment(way).iter().map(|(name, value)| format!("{name}={value}")));
        run(command.arg(program))
    }

    /// A program to be started by itself; nothing limits its time.
    pub(crate) fn command(&self, program: &Path, way: Way) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment(way)).stdin(std::process::Stdio::null());
        command
    }

    /// Runs a program as `ranks` ranks under an MPI. The starter itself keeps its own environment.
    pub(crate) fn under_mpi(
        &self,
        (program, arguments): (&Path, &[&str]),
        way: Way,
        mpi: Mpi,
        ranks: u32,
    ) -> Outcome<Run> {
        let mut command = limited();
        command.args(mpi.starter(ranks)).envs(Mpi::ENVIRONMENT);
        match mpi {
            Mpi::OpenMpi => {
                for (name, value) in &self.environment(way) {
                    command.args(["-x", &format!("{name}={value}")]);
                }
            }
            Mpi::Mpich => {
                for (name, value) in &self.environment(way) {
                    command.args(["-genv", name, value]);
                }
            }
        }
        run(command.arg(program).args(arguments))
    }

    /// What the servers said, to explain a failure.
    pub(crate) fn server_log(&self) -> String {
        self.servers.log()
    }
}

impl Run {
    /// Runs words as they stand, with what the starters of MPI want to be told.
    pub(crate) fn of(words: &[&str]) -> Outcome<Run> {
        run(limited().args(words).envs(Mpi::ENVIRONMENT))
    }

    /// Runs a program on this machine's own driver: without libraries of ours, whatever the shell has set.
    pub(crate) fn native(program: &Path) -> Outcome<Run> {
        let mut command = limited();
        command.env_remove("LD_PRELOAD");
        if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
            let others = std::env::split_paths(&path).filter(|folder| !folder.join(OUR_CORE).exists());
            command.env("LD_LIBRARY_PATH", std::env::join_paths(others).unwrap_or_default());
        }
        run(command.arg(program))
    }

    /// The fields of the line `<name>: VERIFIED ranks=4 devices=2 seconds=0.12`, if the program printed one.
    pub(crate) fn verdict(&self, name: &str) -> Option<Verdict> {
        let line = self.output.lines().find_map(|line| {
            let rest = line.trim().strip_prefix(name)?.strip_prefix(": ")?;
            (rest.starts_with("VERIFIED ") || rest.starts_with("FAILED ")).then_some(rest)
        })?;
        let field = |key: &str| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok())
        };
        Some(Verdict {
            verified: line.starts_with("VERIFIED "),
            ranks: field("ranks")?,
            devices: field("devices")?,
        })
    }

    /// Command and output, for people.
    pub(crate) fn report(&self) -> String {
        format!("$ {}\n{}", self.command, self.output.trim_end())
    }
}

/// What all ranks of a sample found together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) verified: bool,
    pub(crate) ranks: u32,
    pub(crate) devices: u32,
}

fn limited() -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after", "5", LIMIT_SECONDS]);
    command
}

fn run(command: &mut Command) -> Outcome<Run> {
    let start = Instant::now();
    let text = shown(command);
    let output =
        command.stdin(std::process::Stdio::null()).output().doing(format_args!("starting {text}"))?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(124) {
        said.push_str(&format!("(ended after {LIMIT_SECONDS} seconds)\n"));
    }
    Ok(Run {
        succeeded: output.status.success(),
        seconds: start.elapsed().as_secs_f64(),
        output: said,
        command: text,
    })
}

/// Lies beside every library of ours.
const OUR_CORE: &str = "libvgpu_core.so";

/// A program that hangs must not hang us.
const LIMIT_SECONDS: &str = "180";

#[cfg(test)]
mod tests {
    use super::*;

    fn said(output: &str) -> Run {
        Run { succeeded: true, seconds: 0.0, output: output.to_owned(), command: String::new() }
    }

    #[test]
    fn verdicts_are_found_among_other_lines() {
        let run = said("0.1 ms\nvecadd: VERIFIED ranks=4 devices=2 seconds=0.12\n");
        assert_eq!(run.verdict("vecadd"), Some(Verdict { verified: true, ranks: 4, devices: 2 }));
        let run =
            said("vecadd: FAILED ranks=4 devices=1 seconds=0.12\nvecadd: 1 of 4 ranks have wrong results\n");
        assert_eq!(run.verdict("vecadd"), Some(Verdict { verified: false, ranks: 4, devices: 1 }));
    }

    #[test]
    fn a_program_that_said_nothing_has_no_verdict() {
        for output in
            ["", "vecadd: VERIFIED", "vecadd: VERIFIED ranks=4", "other: VERIFIED ranks=1 devices=1"]
        {
            assert_eq!(said(output).verdict("vecadd"), None, "{output}");
        }
    }
}
