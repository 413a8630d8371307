//! `vgpu`: runs programs on remote devices, and says what is wrong when that does not work.
//!
//! The program is one call of [`main`]. What starts a program on devices is public: `vgpu-bench` starts itself with it.
//!
//! Layout:
//! * `options`: the command line; `pages`: manual pages and completions made from it
//! * `run`: starts a program; `env`: prints what `run` would set; both from `environment`
//! * `libraries`: where the client libraries lie
//! * `soft`: private software devices that end with a program
//! * `program`, `binary`: which file a command is, and what it says about itself
//! * `search`: which file the dynamic loader would take for a name
//! * `servers`: greets the servers of a list; `devices`: shows them
//! * `doctor`: ordered checks, each with a remedy
//! * `functions`: what of CUDA there is; `coverage`: shows it
//! * `failure`: what ends this program, and with which status; `progress`: a sign of life

#![forbid(unsafe_code)]

mod binary;
mod coverage;
mod devices;
mod doctor;
mod env;
pub mod environment;
pub mod failure;
mod functions;
pub mod libraries;
mod options;
pub mod pages;
mod program;
mod progress;
mod run;
mod search;
pub mod servers;
pub mod soft;
pub mod table;

use std::process::ExitCode;

use clap::Parser;
use options::{Options, Task};

/// The whole program: reads the command line, does the task, answers the exit status.
pub fn main() -> ExitCode {
    let outcome = match Options::parse().task {
        Task::Run(options) => run::run(&options),
        Task::Env(options) => env::run(&options),
        Task::Devices(options) => devices::run(&options),
        Task::Doctor(options) => doctor::run(&options),
        Task::Coverage(options) => coverage::run(&options),
        Task::StartDevices(options) => soft::start_devices(&options),
        Task::Pages(options) => pages::write(&options),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("vgpu: {failure}");
        failure.status()
    })
}
