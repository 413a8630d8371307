//! `cargo xtask`: everything that is done to this repository beside compiling it.
//!
//! Layout:
//! * [`workspace`]: where things lie, and running programs
//! * [`debian`]: Debian's packages, installed when what they bring is missing
//! * [`toolchain`]: NVIDIA's compiler, MPI and cargo's helpers, installed when they are missing
//! * [`plugin`]: the verbs plug-in, built where that is possible
//! * [`samples`]: the programs under `examples/`, compiled
//! * [`dist`]: `target/dist`, as a user would install it
//! * [`packages`]: Debian packages of it, and their test
//! * [`servers`]: daemons that end when we do
//! * [`launch`]: one program run on these servers, and what it said
//! * [`demo`]: the samples under both MPIs, as a table
//! * [`bench`]: the product beside raw sockets
//! * [`gpu_validate`]: the product on an NVIDIA GPU, beside the GPU itself; [`gpu_page`]: what it writes
//! * [`checks`]: what continuous integration runs
//! * [`driver`]: of these, the programs of the driver API; [`python`]: libraries that compile kernels in Python
//! * [`tool`]: of these, the check of `vgpu run`
//! * [`verbs`]: of these, the check of the verbs transport
//! * [`virtual_machine`]: a guest with RDMA devices in software
//! * [`guest`]: what runs inside it
//! * [`without_verbs`]: the product where there is no libibverbs
//! * [`room`]: a machine with less on it than this one

#![forbid(unsafe_code)]

mod bench;
mod checks;
mod debian;
mod demo;
mod dist;
mod driver;
mod gpu_page;
mod gpu_validate;
mod guest;
mod launch;
mod packages;
mod plugin;
mod python;
mod room;
mod samples;
mod servers;
mod tool;
mod toolchain;
mod verbs;
mod virtual_machine;
mod without_verbs;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use workspace::{Outcome, Workspace};

/// Tasks of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what is missing: MPI (Debian packages, as root), NVIDIA's compiler (into target/toolchain)
    Setup,
    /// Builds everything in release mode into target/dist
    Dist,
    /// Builds everything and makes Debian packages in target/packages
    Packages,
    /// Starts two servers, runs the samples under Open MPI and MPICH and prints what was verified
    Demo(demo::Options),
    /// Formatting, lints, tests, dependency checks, the samples, the negative control, and verbs in a virtual machine
    Test(checks::Options),
    /// Measures the product beside raw sockets, on the null device, and prints a table
    Bench(bench::Options),
    /// Measures samples and calls on this machine's GPU, natively and through a server, and writes them down
    GpuValidate(gpu_validate::Options),
    /// Inside the virtual machine of the verbs check
    #[command(hide = true)]
    VerbsGuest(guest::Options),
    /// Inside the folder that has no libibverbs
    #[command(hide = true)]
    WithoutVerbs,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let workspace = Workspace::find();
    match run(&workspace, options.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nxtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(workspace: &Workspace, task: Task) -> Outcome {
    match task {
        Task::Setup => toolchain::Toolchain::ready(workspace).map(|_| ()),
        Task::Dist => dist::build(workspace, &toolchain::Toolchain::ready(workspace)?).map(|_| ()),
        Task::Packages => {
            let dist = dist::build(workspace, &toolchain::Toolchain::ready(workspace)?)?;
            packages::build(workspace, &dist).map(|_| ())
        }
        Task::Demo(options) => demo::run(workspace, &options),
        Task::Test(options) => checks::run(workspace, &options),
        Task::Bench(options) => bench::run(workspace, &options),
        Task::GpuValidate(options) => gpu_validate::run(workspace, &options),
        Task::VerbsGuest(options) => guest::run(workspace, &options),
        Task::WithoutVerbs => without_verbs::inside(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::verbs::Mode;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_verbs_check_runs_unless_told_otherwise() {
        let mode = |arguments: &str| {
            let words = ["xtask", "test"].into_iter().chain(arguments.split_whitespace());
            match Options::try_parse_from(words).map(|options| options.task) {
                Ok(Task::Test(options)) => Some(options.verbs.mode()),
                _ => None,
            }
        };
        assert_eq!(mode(""), Some(Mode::Run));
        assert_eq!(mode("--verbs=run"), Some(Mode::Run));
        assert_eq!(mode("--verbs"), Some(Mode::Only));
        assert_eq!(mode("--verbs --step samples"), Some(Mode::Only));
        assert_eq!(mode("--verbs=skip"), Some(Mode::Skip));
        assert_eq!(mode("--step samples"), None);
    }
}
