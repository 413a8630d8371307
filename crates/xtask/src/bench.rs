//! The product beside raw sockets: builds `benches` and what it measures in release mode, and runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::Value;

use crate::debian::{self, Need, Probe};
use crate::toolchain::Toolchain;
use crate::workspace::{Doing, Failure, Outcome, Workspace, finish, step};
use crate::{dist, samples};

/// What is measured.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Options {
    /// The promises with their gates instead of the table; fails if one is not kept
    #[arg(long)]
    gate: bool,
    /// Only these promises, as in G1,G4
    #[arg(long, requires = "gate")]
    only: Option<String>,
    /// Only promises that are counts, which need no quiet machine
    #[arg(long, requires = "gate")]
    counts: bool,
    /// Also write the promises to a file
    #[arg(long, requires = "gate")]
    json: Option<PathBuf>,
    /// Also draw each promise, as an SVG file in a folder
    #[arg(long, requires = "gate")]
    plot: Option<PathBuf>,
    /// Also write the table of README.md anew
    #[arg(long, requires = "gate", conflicts_with_all = ["only", "counts"])]
    readme: bool,
}

impl Options {
    /// The counts, as continuous integration judges them.
    pub(crate) fn counts() -> Options {
        Options { gate: true, counts: true, ..Options::default() }
    }

    /// Whether a promise is asked for.
    fn wants(&self, id: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.split(',').any(|named| named.eq_ignore_ascii_case(id)))
    }
}

/// Prints the table, or the gates; fails if any run moved other bytes or made other calls than it was asked to.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Outcome {
    step("building the benchmark and the server", || {
        let packages = ["--package", "benches", "--package", "vgpu-server"];
        finish(workspace.cargo().args(["build", "--release", "--locked"]).args(packages))
    })?;
    let release = workspace.target.join("release");
    let mut command = Command::new(release.join("benches"));
    if !options.gate {
        return finish(command.arg(release.join("vgpu-server")));
    }
    let folder = workspace.target.join("bench");
    std::fs::create_dir_all(&folder).doing(format_args!("making {}", folder.display()))?;
    command.arg("--gates").arg(release.join("vgpu-server")).arg("--gate");
    command.args(options.only.iter().flat_map(|only| ["--only", only]));
    command.args(options.counts.then_some("--counts"));
    if options.wants("G3") || options.wants("G5") {
        debian::install(&[Need { probe: Probe::Program("valgrind"), packages: "valgrind" }])?;
        let toolchain = Toolchain::ready(workspace)?;
        let installed = dist::build(workspace, &toolchain)?;
        command.arg("--program").arg(samples::calls(&installed));
        command.arg("--libraries").arg(installed.join("lib"));
    }
    if options.wants("G22") && !options.counts {
        let file = folder.join("G22.json");
        beside_c(workspace, &file)?;
        command.arg("--also").arg(&file);
    }
    let json = options.json.clone().unwrap_or_else(|| folder.join("gates.json"));
    command.arg("--json").arg(&json);
    if let Some(folder) = &options.plot {
        command.arg("--plot").arg(folder);
    }
    let kept = finish(&mut command);
    if options.readme {
        write_readme(workspace, &json)?;
    }
    kept
}

/// The software GPU beside C: a promise of its own crate.
fn beside_c(workspace: &Workspace, file: &Path) -> Outcome {
    let mut cargo = workspace.cargo();
    cargo.args(["bench", "--locked", "--package", "soft-gpu", "--bench", "speed", "--", "--json"]).arg(file);
    step("the software GPU beside C", || finish(&mut cargo))
}

/// Writes the table between the marks of README.md from the promises in `json`.
fn write_readme(workspace: &Workspace, json: &Path) -> Outcome {
    let path = workspace.root.join("README.md");
    let text = std::fs::read_to_string(json).doing(format_args!("reading {}", json.display()))?;
    let readme = std::fs::read_to_string(&path).doing("reading README.md")?;
    let table = table(&text).map_err(Failure::Check)?;
    let readme = between_marks(&readme, &table)
        .ok_or_else(|| Failure::Check(format!("README.md lacks the lines {BEGIN:?} and {END:?}")))?;
    std::fs::write(&path, readme).doing("writing README.md")
}

const BEGIN: &str = "<!-- cargo xtask bench --gate --readme: begin -->\n";
const END: &str = "<!-- end -->\n";

fn between_marks(readme: &str, table: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, behind) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{behind}"))
}

/// The promises as a table in Markdown.
fn table(json: &str) -> Result<String, String> {
    let gates: Vec<Value> = serde_json::from_str(json).map_err(|error| format!("the promises: {error}"))?;
    let mut lines = vec!["| | measured | gate | |".to_owned(), "| --- | --- | --- | --- |".to_owned()];
    for gate in &gates {
        let word = |key: &str| gate[key].as_str().ok_or_else(|| format!("a promise has no {key:?}"));
        let value = gate["value"].as_f64().map_or_else(|| "-".to_owned(), rounded);
        let mark = if gate["pass"] == true { "kept" } else { "**not kept**" };
        let bound = gate["gate"].as_f64().map_or_else(|| "-".to_owned(), rounded);
        lines.push(format!("| {} | {value} | {} {bound} | {mark} |", word("what")?, word("bound")?));
    }
    Ok(lines.join("\n") + "\n")
}

/// With as many digits as mean something.
fn rounded(value: f64) -> String {
    let digits =
        if value.abs() >= 100.0 || value.fract() == 0.0 { 0 } else { 2 + usize::from(value.abs() < 0.1) };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_between_the_marks() {
        let readme = format!("a\n{BEGIN}old\n{END}z\n");
        let written = between_marks(&readme, "new\n").unwrap();
        assert_eq!(written, format!("a\n{BEGIN}\nnew\n\n{END}z\n"));
        assert_eq!(between_marks("no marks", "new"), None);
    }

    #[test]
    fn a_promise_is_a_line() {
        let json = r#"[{"id": "G5", "what": "sends", "value": 0.0062, "bound": "<=", "gate": 0.1, "pass": true},
                       {"id": "G6", "what": "rate", "value": null, "bound": ">=", "gate": 800.0, "pass": false}]"#;
        let table = table(json).unwrap();
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(lines, ["| sends | 0.006 | <= 0.10 | kept |", "| rate | - | >= 800 | **not kept** |"]);
        assert!(super::table("{}").is_err());
    }
}
