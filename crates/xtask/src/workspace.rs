//! Where things lie in this repository, and running programs in it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

/// What a task answers.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a task did not come to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// {doing} failed: {error}
    Io { doing: String, error: std::io::Error },
    /// {program} is missing; {advice}
    Missing { program: String, advice: String },
    /// {command} ended with {status}
    Command { command: String, status: ExitStatus },
    /// what was checked did not hold
    Check(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, error } => write!(f, "{doing} failed: {error}"),
            Self::Missing { program, advice } => write!(f, "{program} is missing; {advice}"),
            Self::Command { command, status } => write!(f, "{command} ended with {status}"),
            Self::Check(what) => f.write_str(what),
        }
    }
}

/// Adds to an I/O error what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure::Io { doing: what.to_string(), error })
    }
}

/// The folders of this repository.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// Where the top `Cargo.toml` is.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// The repository that this program was built from.
    pub(crate) fn find() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        Self { root, target }
    }

    /// Where `cargo xtask dist` puts what a user installs.
    pub(crate) fn dist(&self) -> PathBuf {
        self.root.join("target/dist")
    }

    /// Whether this workspace has a package in `crates/`.
    pub(crate) fn has_package(&self, name: &str) -> bool {
        self.root.join("crates").join(name).join("Cargo.toml").is_file()
    }

    /// The commit that is checked out, and whether the files are others; `unknown` where nobody can tell.
    pub(crate) fn commit(&self) -> String {
        let ask = |words: &[&str]| {
            let output = self.command("git").args(words).stderr(Stdio::null()).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(text)
        };
        let Some(commit) = ask(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
        let is_clean = ask(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
        if is_clean { commit } else { commit + ", changed" }
    }

    /// Where downloaded tools are kept.
    pub(crate) fn toolchain(&self) -> PathBuf {
        self.root.join("target/toolchain")
    }

    /// A command that starts in the top folder.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// The cargo that runs us.
    pub(crate) fn cargo(&self) -> Command {
        self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }
}

/// Runs a command to its end, with its output shown.
pub(crate) fn finish(command: &mut Command) -> Outcome {
    let text = shown(command);
    let status = command.status().doing(format_args!("starting {text}"))?;
    if status.success() { Ok(()) } else { Err(Failure::Command { command: text, status }) }
}

/// What a command prints, without its last line end. Its errors are shown.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let text = shown(command);
    let output = command.stderr(Stdio::inherit()).output().doing(format_args!("starting {text}"))?;
    if !output.status.success() {
        return Err(Failure::Command { command: text, status: output.status });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The command as one would type it, shortened.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    if text.chars().count() > 200 {
        text = text.chars().take(200).chain("...".chars()).collect();
    }
    text
}

/// Whether a program can be started by its name.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Says what begins, and afterwards how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    println!("==> {what}");
    let start = Instant::now();
    let outcome = work();
    let word = if outcome.is_ok() { "done" } else { "FAILED" };
    println!("    {what}: {word} in {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// Copies a file in place of whatever stands there: programs that have the old one open keep it.
pub(crate) fn replace(from: &Path, to: &Path) -> Outcome {
    let doing = format!("copying {} to {}", from.display(), to.display());
    if to.symlink_metadata().is_ok() {
        std::fs::remove_file(to).doing(&doing)?;
    }
    std::fs::copy(from, to).doing(&doing).map(|_| ())
}

/// Makes `link` point at `to`, whatever it was before.
pub(crate) fn relink(to: &str, link: &Path) -> Outcome {
    let doing = format!("linking {}", link.display());
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link).doing(&doing)?;
    }
    std::os::unix::fs::symlink(to, link).doing(&doing)
}
