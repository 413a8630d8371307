//! The figures as pictures.

use std::path::Path;

use plot::{Axis, LineChart, PlotError, SampleChart, Samples, Series};

use crate::error::BenchError;
use crate::message::{Direction, HostMemory, What};
use crate::plan::Step;
use crate::report::Metric;
use crate::side::Place;

/// The times of one step: local, remote, by rounds.
pub(crate) type Rounds = [Option<Vec<Vec<f64>>>; 2];

/// Writes a file for each figure into a folder, which is made if it is not there: samples of what is measured once, and
/// a line of bandwidths for what is measured by size.
pub(crate) fn write(
    folder: &Path,
    measured: &[(Step, Rounds)],
    metrics: &[Metric],
) -> Result<(), BenchError> {
    std::fs::create_dir_all(folder).map_err(|error| BenchError::file("making", folder, error))?;
    for ((step, rounds), metric) in measured.iter().zip(metrics) {
        if !matches!(step.request.what, What::Copy { .. }) {
            save(&folder.join(format!("{}.svg", metric.name)), samples(metric, rounds).svg())?;
        }
    }
    for direction in Direction::ALL {
        let name = match direction {
            Direction::ToDevice => "to_device.svg",
            Direction::ToHost => "to_host.svg",
        };
        save(&folder.join(name), bandwidths(direction, metrics).svg())?;
    }
    Ok(())
}

fn save(file: &Path, svg: Result<String, PlotError>) -> Result<(), BenchError> {
    let svg = svg.map_err(|error| BenchError::file("drawing", file, error))?;
    std::fs::write(file, svg).map_err(|error| BenchError::file("writing", file, error))
}

fn samples(metric: &Metric, rounds: &Rounds) -> SampleChart {
    let places = PLACES.into_iter().zip(rounds);
    let series = places.filter_map(|(place, rounds)| {
        let all: Vec<f64> = rounds.as_ref()?.iter().flatten().copied().collect();
        // Dots that cover each other say nothing, and the slowest one in ten thousand would flatten all others.
        let shown = all.iter().step_by(all.len().div_ceil(MOST_DOTS)).copied();
        let limit = metric.of(place).map_or(f64::INFINITY, |figure| figure.p99_us);
        let values = shown.filter(|time| *time <= limit).collect();
        Some(Samples { name: place.name().to_owned(), values })
    });
    SampleChart { title: metric.title(), y: Axis::new("time", "us"), series: series.collect() }
}

fn bandwidths(direction: Direction, metrics: &[Metric]) -> LineChart {
    let mut series = Vec::new();
    for (place, memory) in PLACES.into_iter().flat_map(|place| HostMemory::ALL.map(|memory| (place, memory)))
    {
        let these = metrics.iter().filter(|m| m.direction == Some(direction) && m.memory == Some(memory));
        let points: Vec<(f64, f64)> = these
            .filter_map(|metric| Some((metric.bytes? as f64, metric.of(place)?.gigabytes_per_second?)))
            .collect();
        if !points.is_empty() {
            series.push(Series { name: format!("{}, {}", place.name(), memory.name()), points });
        }
    }
    LineChart {
        title: format!("Copies {}", direction.name()),
        x: Axis::bytes("size of a copy"),
        y: Axis::new("bandwidth", "GB/s"),
        series,
    }
}

const PLACES: [Place; 2] = [Place::Local, Place::Remote];
const MOST_DOTS: usize = 300;
