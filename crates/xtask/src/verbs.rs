//! The verbs transport, checked in a virtual machine that has RDMA devices in software, and without any of it on this one.
//!
//! The host builds and starts the guest; what happens there is in [`crate::guest`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::guest;
use crate::plugin;
use crate::virtual_machine;
use crate::without_verbs;
use crate::workspace::{Doing, Failure, Outcome, Workspace, finish, shown, step};

/// Whether and how the verbs check runs.
#[derive(Args, Debug, Clone)]
// Their group would have the name of the options that they are part of.
#[group(skip)]
pub(crate) struct Options {
    /// The verbs transport in a virtual machine: with the other checks (run, the default), alone (only, or no value), or not (skip)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "only")]
    verbs: Option<Mode>,
    /// One step of the verbs check: devices, tests, samples, failures, benches, "without libibverbs"
    #[arg(long, requires = "verbs")]
    step: Option<String>,
    /// What programs connect with; tcp shows whether a failure is the transport's or the machine's
    #[arg(long, hide = true, requires = "verbs", default_value = guest::VERBS)]
    over: String,
}

/// The place of the verbs check among the others.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Run,
    Only,
    Skip,
}

impl Options {
    pub(crate) fn mode(&self) -> Mode {
        self.verbs.unwrap_or(Mode::Run)
    }
}

/// Runs the steps; all of them unless one is named. Compiling does not count towards the limit of ten minutes.
pub(crate) fn check(workspace: &Workspace, dist: &Path, options: &Options) -> Outcome {
    let known: Vec<&str> = guest::STEPS.iter().map(|step| step.name).chain([without_verbs::STEP]).collect();
    let wanted = |name: &str| options.step.as_ref().is_none_or(|step| step == name);
    if !known.iter().any(|name| wanted(name)) {
        let step = options.step.as_deref().unwrap_or_default();
        return Err(Failure::Check(format!("no step {step:?}; there are: {}", known.join(", "))));
    }
    plugin::ready(workspace).and_then(|()| virtual_machine::ready()).map_err(or_skip)?;
    let programs = Programs::build(workspace, &wanted)?;
    let start = Instant::now();
    let mut outcomes = Vec::new();
    if wanted(without_verbs::STEP) {
        outcomes.push(step(without_verbs::STEP, || without_verbs::check(workspace, dist, &programs.xtask)));
    }
    if guest::STEPS.iter().any(|step| wanted(step.name)) {
        let mut arguments = vec!["verbs-guest", "--over", &options.over];
        arguments.extend(options.step.iter().flat_map(|step| ["--step", step]));
        let left = LIMIT.saturating_sub(start.elapsed());
        outcomes.push(step("in the virtual machine", || {
            virtual_machine::run(workspace, &programs.xtask, &arguments, left).map_err(or_skip)
        }));
    }
    let failed: Vec<String> =
        outcomes.iter().filter_map(|outcome| outcome.as_ref().err().map(Failure::to_string)).collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::Check(failed.join("\n    "))) }
}

/// Where the guest finds what the host has built for it.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.root.join("target/verbs")
}

/// What the guest starts beside the distribution.
struct Programs {
    /// A copy of this program: cargo may replace the original while the checks run.
    xtask: PathBuf,
}

impl Programs {
    fn build(workspace: &Workspace, wanted: &dyn Fn(&str) -> bool) -> Outcome<Self> {
        let folder = folder(workspace);
        std::fs::create_dir_all(&folder).doing(format_args!("making {}", folder.display()))?;
        let xtask = folder.join("xtask");
        // Not `replace`: its source must be a file with a name.
        let _ = std::fs::remove_file(&xtask);
        std::fs::copy("/proc/self/exe", &xtask).doing("copying this program")?;
        if wanted("tests") {
            step("building the tests for the virtual machine", || {
                std::fs::write(folder.join(guest::TESTS), tests(workspace)?).doing("listing the tests")
            })?;
        }
        if wanted("benches") {
            step("building the benchmark", || {
                finish(workspace.cargo().args(["build", "--release", "--locked", "--package", "benches"]))
            })?;
        }
        Ok(Self { xtask })
    }
}

/// Builds the test programs; one line for each: package, folder in which it runs, path.
fn tests(workspace: &Workspace) -> Outcome<String> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--no-run", "--release", "--locked", "--lib", "--bins", "--tests"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let packages = ["transport", "testkit", "client"].into_iter();
    for package in packages.chain(plugin::is_buildable(workspace).then_some(plugin::PACKAGE)) {
        cargo.args(["--package", package]);
    }
    let text = shown(&cargo);
    let output = cargo.stderr(Stdio::inherit()).output().doing(format_args!("starting {text}"))?;
    if !output.status.success() {
        return Err(Failure::Command { command: text, status: output.status });
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let lines: BTreeSet<String> = messages.lines().filter_map(test_program).collect();
    Ok(lines.into_iter().collect())
}

/// The line of a test program, if this message of cargo is about one.
///
/// Cargo writes one JSON object a line, each key once and without spaces between tokens, so that finding a key is enough.
fn test_program(message: &str) -> Option<String> {
    let value = |key: &str| {
        let (_, rest) = message.split_once(&format!("\"{key}\":\""))?;
        rest.split_once('"').map(|(value, _)| value)
    };
    let (_, profile) = message.split_once("\"profile\":{")?;
    let (profile, _) = profile.split_once('}')?;
    if value("reason")? != "compiler-artifact" || !profile.contains("\"test\":true") {
        return None;
    }
    let folder = value("manifest_path")?.strip_suffix("/Cargo.toml")?;
    let package = folder.rsplit('/').next()?;
    Some(format!("{package}\t{folder}\t{}\n", value("executable")?))
}

fn or_skip(failure: Failure) -> Failure {
    match failure {
        Failure::Missing { program, advice } => Failure::Missing {
            program,
            advice: format!("{advice}; or leave this check out: cargo xtask test --verbs=skip"),
        },
        // What `run.sh` answers when it could not start the guest; it has said why.
        Failure::Command { command, status } if status.code() == Some(125) => Failure::Check(format!(
            "{command}: the virtual machine did not start; to leave this check out: cargo xtask test --verbs=skip"
        )),
        Failure::Command { command, status } if status.code() == Some(124) => {
            Failure::Check(format!("{command}: the virtual machine was killed after {} s", LIMIT.as_secs()))
        }
        other => other,
    }
}

/// When the guest is killed: the check ends within ten minutes.
const LIMIT: Duration = Duration::from_secs(570);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_messages_of_cargo() {
        let test = r#"{"reason":"compiler-artifact","package_id":"path+file:///r/crates/client#0.1.0","manifest_path":"/r/crates/client/Cargo.toml","target":{"kind":["lib"],"name":"client","test":true},"profile":{"opt_level":"3","test":true},"features":[],"executable":"/r/target/client-1","fresh":true}"#;
        assert_eq!(test_program(test).as_deref(), Some("client\t/r/crates/client\t/r/target/client-1\n"));
        let program = test.replace(r#""opt_level":"3","test":true"#, r#""opt_level":"3","test":false"#);
        assert_eq!(test_program(&program), None);
        let library = test.replace(r#""/r/target/client-1""#, "null");
        assert_eq!(test_program(&library), None);
        assert_eq!(test_program(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
