//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::soft::StartDevices;

/// Runs CUDA programs on GPUs of other machines.
#[derive(Debug, Parser)]
#[command(
    name = "vgpu",
    version,
    after_help = "Without any hardware:  vgpu run --soft -- ./a.out\n\
                  With a server:         vgpu run -s gpuhost:0 -- ./a.out\n\
                  If it does not work:   vgpu doctor -- ./a.out"
)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    Run(Run),
    Env(Env),
    Devices(Devices),
    Doctor(Doctor),
    Coverage(Coverage),
    #[command(hide = true)]
    StartDevices(StartDevices),
    #[command(hide = true)]
    Pages(Pages),
}

/// Which devices, and how much is said about them.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Launch {
    /// The devices, as in "host0:0 host0:1"; VGPU_SERVER if not given
    #[arg(short = 's', long = "servers", value_name = "LIST", conflicts_with = "soft")]
    pub(crate) servers: Option<String>,

    /// Start N private software devices (1 if not given) that end with the program; no hardware, no server, no port
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) soft: Option<u16>,

    /// Have the program say at its end what went over the network
    #[arg(long)]
    pub(crate) summary: bool,
}

/// Runs a program on the devices of a list, or on private software devices.
///
/// The program takes the place of this process: process id, signals and exit status are its own. Statuses 125, 126 and 127
/// are ours: it was not started, cannot be run this way, or was not found.
#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) launch: Launch,

    /// The program and its arguments; a launcher such as mpirun, a script or a shell will do as well
    #[arg(value_name = "CMD", required = true, num_args = 1.., trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// Prints the variables that `run` sets, for mpirun -x and job scripts.
///
/// In a shell:  eval "$(vgpu env -s gpuhost:0)"
#[derive(Args, Debug)]
pub(crate) struct Env {
    #[command(flatten)]
    pub(crate) launch: Launch,

    /// The private software devices end with this process, as in: eval "$(vgpu env --soft --until $$)"
    #[arg(long, value_name = "PID", requires = "soft", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) until: Option<i32>,

    /// What is printed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// How variables are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Exports for a POSIX shell
    #[default]
    Sh,
    /// One JSON object
    Json,
}

/// Shows the device of every server of the list, and who uses it. Costs no context there.
///
/// A server that cannot be used is a row with the reason; the exit status is then 1.
#[derive(Args, Debug)]
pub(crate) struct Devices {
    /// The devices, as in "host0:0 host0:1"; VGPU_SERVER if not given
    #[arg(short = 's', long = "servers", value_name = "LIST")]
    pub(crate) servers: Option<String>,

    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// Checks servers, libraries and a program; the exit status is the number of failures.
///
/// What is checked is what a program would find if it were started from this very shell.
#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// The devices, as in "host0:0 host0:1"; VGPU_SERVER if not given
    #[arg(short = 's', long = "servers", value_name = "LIST")]
    pub(crate) servers: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// The program to look at as well; it is not started
    #[arg(value_name = "CMD", num_args = 0.., trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// Shows which CUDA functions there are, or which of them a program uses.
#[derive(Args, Debug)]
pub(crate) struct Coverage {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// The program to look at; it is not started
    #[arg(value_name = "CMD", num_args = 0.., trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// Writes manual pages and completions below a folder, laid out as in /usr/share.
#[derive(Args, Debug)]
pub(crate) struct Pages {
    pub(crate) folder: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(words: &[&str]) -> Result<Run, clap::Error> {
        let options = Options::try_parse_from([&["vgpu", "run"], words].concat())?;
        match options.task {
            Task::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn soft_takes_its_number_after_an_equals_sign_only() {
        assert_eq!(run(&["--soft", "--", "./a.out"]).unwrap().launch.soft, Some(1));
        assert_eq!(run(&["--soft=3", "./a.out"]).unwrap().launch.soft, Some(3));
        assert_eq!(run(&["--soft", "2"]).unwrap().command, ["2"]);
        assert!(run(&["--soft=0", "./a.out"]).is_err());
        assert!(run(&["--soft=many", "./a.out"]).is_err());
        assert!(run(&["--soft", "-s", "a:0", "./a.out"]).is_err());
    }

    #[test]
    fn everything_behind_the_command_is_the_commands() {
        let parsed = run(&["-s", "a:0", "--", "mpirun", "-np", "4", "--", "-s", "x"]).unwrap();
        assert_eq!(parsed.command, ["mpirun", "-np", "4", "--", "-s", "x"]);
        assert_eq!(parsed.launch.servers.as_deref(), Some("a:0"));
        assert_eq!(run(&["ls", "--summary"]).unwrap().command, ["ls", "--summary"]);
        assert!(run(&["-s", "a:0"]).is_err());
    }
}
