//! `vgpu-bench`: what a CUDA program gets from a remote device, beside the device of this machine if there is one.
//!
//! What is measured is a plain program of the driver API: this one, started anew with the environment that `vgpu run` sets,
//! or without it for NVIDIA's own driver. The two are asked turn by turn for a part of each figure, because machines and
//! networks drift by more than what is to be seen. Every figure is of work that provably arrived: launches are summed by
//! the device, and bytes are fresh each time and compared.
//!
//! Layout:
//! * `options`: the command line
//! * `plan`: what is measured; `bench`: does it, side by side
//! * `side`: a measuring process, and what is said to it; `message`: the words
//! * `measure`: inside that process; `subject`: the device it measures; `fresh`: bytes that nobody has seen before
//! * `report`: the figures; `figures`: their arithmetic; `show`: a table; `charts`: pictures; `date`: when
//! * `windows`: whether a driver can give what our server asks of it
//! * `error`: what ends this program

#![forbid(unsafe_code)]

mod bench;
mod charts;
mod date;
mod error;
mod figures;
mod fresh;
mod measure;
mod message;
mod options;
mod plan;
mod report;
mod show;
mod side;
mod subject;
mod windows;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use error::BenchError;
use options::{Options, Task};

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.task {
        None => bench::run(&options).map(|()| ExitCode::SUCCESS),
        Some(Task::Measure(options)) => measure::run(options).map(|()| ExitCode::SUCCESS),
        Some(Task::Windows(options)) => windows::run(options),
        Some(Task::StartDevices(options)) => vgpu_cli::soft::start_devices(options).map_err(BenchError::from),
        Some(Task::Pages(pages)) => describe(pages),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("vgpu-bench: {error}");
        ExitCode::FAILURE
    })
}

/// Manual page and completions, without what is hidden.
fn describe(pages: &options::Pages) -> Result<ExitCode, BenchError> {
    let all = Options::command();
    let mut shown = clap::Command::new("vgpu-bench").version(env!("CARGO_PKG_VERSION"));
    shown = shown.about(all.get_about().cloned().unwrap_or_default());
    shown = shown.after_help(all.get_after_help().cloned().unwrap_or_default());
    shown = shown.args(all.get_arguments().filter(|argument| !argument.is_hide_set()));
    vgpu_cli::pages::describe(&shown, &pages.folder)
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| BenchError::file("writing pages to", &pages.folder, error))
}
