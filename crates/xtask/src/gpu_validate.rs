//! The product on this machine's NVIDIA GPU, beside the GPU itself: what `docs/gpu-validation.md` shows.
//!
//! Samples and calls run natively, on NVIDIA's driver, and remotely, on a server of this machine over TCP, turn by turn. Where
//! there is no GPU the software GPU's `libcuda.so.1` can stand in its place, to try all of this; what is written then says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::dist;
use crate::gpu_page::{self, Record, Sample};
use crate::launch::{Launcher, Run, Way};
use crate::samples::{self, SAMPLES};
use crate::servers::Servers;
use crate::toolchain::Toolchain;
use crate::workspace::{Doing, Failure, Outcome, Workspace, step};

/// What is measured, and where it is written.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// What is measured
    #[arg(long, value_enum, default_value_t)]
    driver: Driver,
    /// Use a finished distribution and build nothing: needs neither Rust, nor a compiler, nor a network
    #[arg(long, value_name = "DIST")]
    prebuilt: Option<PathBuf>,
    /// Write to this file instead of docs/gpu-validation.md
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How many pairs of runs each sample has
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Have vgpu-bench measure less of everything
    #[arg(long)]
    quick: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
enum Driver {
    /// NVIDIA's driver of this machine
    #[default]
    Cuda,
    /// The software GPU in the place of a GPU, where there is none
    Soft,
}

/// Measures, prints the section, and writes it down; fails if anything did, after that.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Outcome {
    let page = page(workspace, options)?;
    let dist = match &options.prebuilt {
        Some(dist) => dist.canonicalize().doing(format_args!("looking for {}", dist.display()))?,
        None => dist::build(workspace, &Toolchain::ready(workspace)?)?,
    };
    let record = Validation { dist: &dist, options }.record()?;
    let section = record.section();
    println!("\n{section}");
    let text = match options.output {
        Some(_) => format!("# What ran on which GPU\n\n{section}"),
        None => {
            let old = std::fs::read_to_string(&page).doing(format_args!("reading {}", page.display()))?;
            gpu_page::insert(&old, &section)?
        }
    };
    std::fs::write(&page, text).doing(format_args!("writing {}", page.display()))?;
    println!("==> written to {}", page.display());
    if record.failures.is_empty() { Ok(()) } else { Err(Failure::Check(record.failures.join("\n\n"))) }
}

/// The same machinery where there is no GPU, once and quickly: so that it works when there is one.
pub(crate) fn check(workspace: &Workspace, dist: &Path) -> Outcome {
    let output = Some(workspace.target.join("gpu-validate-soft.md"));
    let prebuilt = Some(dist.to_path_buf());
    run(workspace, &Options { driver: Driver::Soft, prebuilt, output, pairs: 1, quick: true })
}

/// Where the section goes, found before anything is measured.
fn page(workspace: &Workspace, options: &Options) -> Outcome<PathBuf> {
    if let Some(file) = &options.output {
        return Ok(file.clone());
    }
    if options.driver == Driver::Soft {
        return Err(Failure::Check(
            "the page is about GPUs; say --output FILE to write down what the software GPU does".to_owned(),
        ));
    }
    // A carried xtask may be anywhere.
    let root = if options.prebuilt.is_some() { Path::new(".") } else { &workspace.root };
    let page = root.join("docs/gpu-validation.md");
    if page.is_file() {
        return Ok(page);
    }
    Err(Failure::Check(format!("there is no {}; say --output FILE", page.display())))
}

struct Validation<'a> {
    dist: &'a Path,
    options: &'a Options,
}

impl Validation<'_> {
    /// Everything, in the order in which it is worth knowing. What fails is part of the record, and the rest goes on; without a
    /// device there is none.
    fn record(&self) -> Outcome<Record> {
        let windows = step("address windows", || self.windows())?;
        let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
        let mut record = Record {
            device: text(&windows["device"]),
            driver: text(&windows["driver"]),
            ..Record::default()
        };
        if self.options.driver == Driver::Soft {
            record.device = format!("{} - software, in the place of a GPU", record.device);
        }
        record.setting = self.setting().to_owned();
        let commit = std::fs::read_to_string(self.dist.join(dist::COMMIT));
        record.commit = commit.map_or_else(|_| "unknown".to_owned(), |commit| commit.trim().to_owned());
        let works = |window: &Value| window["outcome"] == "ok";
        if !windows["windows"].as_array().is_some_and(|all| all.iter().any(works)) {
            record.failures.push("no address window works, so no server does".to_owned());
        }
        record.windows = windows;
        match step("the driver's own calls", || self.bench(&["--local-only"])) {
            Ok(alone) => record.alone = alone,
            Err(failure) => record.failures.push(failure.to_string()),
        }
        let servers = match Servers::start(self.dist, &self.server_driver(), 1) {
            Ok(servers) => servers,
            Err(failure) => {
                record.failures.push(failure.to_string());
                return Ok(record);
            }
        };
        match step("calls and copies", || self.bench(&["--local", "-s", &servers.list()])) {
            Ok(pairs) => record.pairs = pairs,
            Err(failure) => record.failures.push(failure.to_string()),
        }
        for name in SAMPLES {
            let (sample, failures) = step(name, || self.sample(&servers, name))?;
            record.samples.push(sample);
            record.failures.extend(failures);
        }
        let dated = [&record.alone, &record.pairs].into_iter().find_map(|report| report["date"].as_str());
        record.date = dated.unwrap_or("date unknown").to_owned();
        Ok(record)
    }

    fn setting(&self) -> &'static str {
        match self.options.driver {
            Driver::Cuda => {
                "Native: NVIDIA's driver. Remote: `vgpu-server --driver cuda` on the same machine, over TCP on the loopback."
            }
            Driver::Soft => {
                "Not a GPU. Native: for calls the software GPU's own `libcuda.so.1`, for samples `vgpu run --soft`, since NVIDIA's \
                 runtime needs more of a driver. Remote: `vgpu-server` over TCP on the loopback, driving that `libcuda.so.1` as it \
                 would NVIDIA's."
            }
        }
    }

    /// What the server is told to drive.
    fn server_driver(&self) -> String {
        match self.options.driver {
            Driver::Cuda => "cuda".to_owned(),
            Driver::Soft => self.soft_folder().join("libcuda.so.1").display().to_string(),
        }
    }

    fn soft_folder(&self) -> PathBuf {
        self.dist.join("lib/soft")
    }

    /// `vgpu-bench`, for which the driver of choice is this machine's.
    fn command(&self) -> Command {
        let mut command = Command::new(self.dist.join("bin/vgpu-bench"));
        if self.options.driver == Driver::Soft {
            command.env("LD_LIBRARY_PATH", self.soft_folder());
        }
        command.stdin(Stdio::null());
        command
    }

    /// The check that comes first: without a window no server starts.
    fn windows(&self) -> Outcome<Value> {
        let output = self.command().arg("windows").output().doing("starting vgpu-bench")?;
        serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            Failure::Check(match self.options.driver {
                Driver::Cuda => format!(
                    "there is no NVIDIA GPU here: {}\n\
                     To try the rest without one: cargo xtask gpu-validate --driver soft --output FILE",
                    said.lines().next().unwrap_or_default().trim_start_matches("vgpu-bench: ")
                ),
                Driver::Soft => format!("the software GPU's libcuda.so.1 does not work:\n{said}"),
            })
        })
    }

    /// The report of a run of `vgpu-bench`, whose table is shown.
    fn bench(&self, words: &[&str]) -> Outcome<Value> {
        let file = std::env::temp_dir().join(format!("vgpu-validate-{}.json", std::process::id()));
        let mut command = self.command();
        command.args(words).args(self.options.quick.then_some("--quick")).arg("--json").arg(&file);
        let done = crate::workspace::finish(&mut command);
        let text = std::fs::read(&file);
        // It may not have been written at all.
        let _ = std::fs::remove_file(&file);
        done?;
        let text = text.doing("reading what vgpu-bench wrote")?;
        serde_json::from_slice(&text)
            .map_err(|error| Failure::Check(format!("what vgpu-bench wrote: {error}")))
    }

    /// A sample natively and remotely, turn by turn, after one pair that is not counted: it pays for caches of files and of
    /// the driver's compiler.
    fn sample(&self, servers: &Servers, name: &'static str) -> Outcome<(Sample, Vec<String>)> {
        let program = samples::alone(self.dist, name);
        let launcher = Launcher::new(self.dist, servers);
        let mut sample = Sample { name, ..Sample::default() };
        let mut failures = Vec::new();
        for pair in 0..=self.options.pairs {
            let (native, remote) = (self.native(&program)?, launcher.alone(&program, Way::Preload)?);
            if pair > 0 {
                sample.pairs.push((native.seconds, remote.seconds));
            }
            for (side, run) in [("natively", &native), ("remotely", &remote)] {
                let verified = run.succeeded && run.verdict(name).is_some_and(|verdict| verdict.verified);
                sample.verified += usize::from(verified && pair > 0);
                if !verified {
                    let log = launcher.server_log();
                    let report = format!("{}\nthe server's log:\n{log}", run.report());
                    failures.push(format!("{name} did not verify {side}\n{report}"));
                }
            }
            // It will not be better the next time.
            if !failures.is_empty() {
                break;
            }
        }
        Ok((sample, failures))
    }

    /// NVIDIA's runtime asks the driver for more than the software GPU's has, so ours stands in for it there.
    fn native(&self, program: &Path) -> Outcome<Run> {
        match self.options.driver {
            Driver::Cuda => Run::native(program),
            Driver::Soft => {
                let (vgpu, program) = (self.dist.join("bin/vgpu"), program.display().to_string());
                Run::of(&[&vgpu.display().to_string(), "run", "--soft", "--", &program])
            }
        }
    }
}
