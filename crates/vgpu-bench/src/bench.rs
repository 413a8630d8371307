//! The run: starts a measuring process for each device, asks them turn by turn, and tells what they found.

use indicatif::{ProgressBar, ProgressStyle};
use vgpu_cli::environment::Variables;
use vgpu_cli::libraries::Libraries;
use vgpu_cli::servers;
use vgpu_cli::soft::{self, Lifeline};

use crate::charts::{self, Rounds};
use crate::date;
use crate::error::BenchError;
use crate::options::Options;
use crate::plan::{self, Step};
use crate::report::{FORMAT, Measured, Metric, Report};
use crate::show;
use crate::side::{Place, Side, Started};

/// Measures, prints and writes what the options ask for.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let date = date::now();
    let largest = plan::sizes(options.quick, &options.sizes).last().copied().unwrap_or(0);
    // Everything that can fail without measuring fails first.
    let remote = if options.local_only { None } else { Some(remote(options, largest)?) };
    let local = local(options, largest)?;
    let steps = plan::steps(options.quick, &options.sizes);
    let mut report = Report {
        format: FORMAT,
        date,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        quick: options.quick,
        local: local.as_ref().map(|side| measured(side, None)),
        remote: remote.as_ref().map(|remote| measured(&remote.side, Some(remote.server.clone()))),
        metrics: Vec::new(),
    };
    let (_servers, remote) = remote.map_or((None, None), |remote| (remote.lifeline, Some(remote.side)));
    let all = all_steps(&steps, [local, remote])?;
    report.metrics = all
        .iter()
        .map(|(step, [local, remote])| Metric::new(step, local.as_deref(), remote.as_deref()))
        .collect();
    print!("{}", show::text(&report));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report);
        let text = text.map_err(|error| BenchError::file("writing", file, error))?;
        std::fs::write(file, text + "\n").map_err(|error| BenchError::file("writing", file, error))?;
    }
    match &options.plot {
        Some(folder) => charts::write(folder, &all, &report.metrics),
        None => Ok(()),
    }
}

/// A remote device that is ready to be measured.
struct Remote {
    side: Side,
    /// Its entry in the list.
    server: String,
    /// Private devices end when this goes.
    lifeline: Option<Lifeline>,
}

/// Greets the server, or starts one, and then the measuring process as `vgpu run` would.
fn remote(options: &Options, largest: u64) -> Result<Remote, BenchError> {
    let libraries = Libraries::find()?;
    let mut lifeline = None;
    let list = if options.soft {
        let own = Lifeline::own()?;
        let list = soft::start(1, &own)?;
        lifeline = Some(own);
        Some(list)
    } else {
        servers::list(options.servers.as_deref())?
    };
    let named =
        servers::named(list.as_deref()).map_err(|reason| BenchError::io("reading the list", reason))?;
    let places = servers::places(&named).map_err(|reason| BenchError::io("reading the list", reason))?;
    let place = usize::try_from(options.device).ok().and_then(|device| places.get(device));
    let place = place.ok_or(BenchError::NoSuchDevice { device: options.device, count: places.len() })?;
    let server = place.address.to_string();
    let greeted = servers::greet_all(std::slice::from_ref(place), 1, false).into_iter().next();
    if let Some(Err(error)) = greeted {
        return Err(BenchError::Server { address: server, reason: error.to_string() });
    }
    let variables = Variables::new(&libraries, &[], list.as_deref(), false, &current)?;
    match Side::start(Place::Remote, options.device, largest, variables)? {
        Started::Ready(side) => Ok(Remote { side, server, lifeline }),
        Started::Absent(reason) => Err(BenchError::Side { side: Place::Remote.name(), reason }),
    }
}

/// The device of this machine, where there is one and it is wanted.
fn local(options: &Options, largest: u64) -> Result<Option<Side>, BenchError> {
    if options.remote_only {
        return Ok(None);
    }
    // Without our libraries there is nothing that would have to be left out.
    let variables = Libraries::find().map(|libraries| Variables::without(&libraries, &current));
    match Side::start(Place::Local, options.local_device, largest, variables.unwrap_or_default())? {
        Started::Ready(side) => Ok(Some(side)),
        Started::Absent(reason) if options.local || options.local_only => {
            Err(BenchError::NoDriver { reason })
        }
        Started::Absent(reason) => {
            eprintln!(
                "vgpu-bench: no local GPU to compare with: {reason}; measuring the remote device alone"
            );
            Ok(None)
        }
    }
}

/// A variable of the environment.
fn current(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

fn measured(side: &Side, server: Option<String>) -> Measured {
    Measured { device: side.facts.device.clone(), driver: side.facts.driver.clone(), server }
}

/// Every step on each side. A round is one turn of each, and the first round of a step, which pays for pages and buffers,
/// is not counted.
fn all_steps(steps: &[Step], mut sides: [Option<Side>; 2]) -> Result<Vec<(Step, Rounds)>, BenchError> {
    let turns: u64 = steps.iter().map(|step| u64::from(step.rounds) + 1).sum();
    // Hidden by itself where standard error is no terminal.
    let bar = ProgressBar::new(turns);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed} (remaining: {eta})") {
        bar.set_style(style);
    }
    let mut all = Vec::with_capacity(steps.len());
    for step in steps {
        let mut rounds: Rounds = [const { None }; 2];
        for round in 0..=step.rounds {
            for (side, rounds) in sides.iter_mut().zip(&mut rounds) {
                let Some(side) = side else { continue };
                let times = side.measure(&step.request)?;
                if round > 0 {
                    rounds.get_or_insert_default().push(times);
                }
            }
            bar.inc(1);
        }
        all.push((*step, rounds));
    }
    bar.finish_and_clear();
    Ok(all)
}
