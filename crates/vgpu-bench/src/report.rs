//! The figures, as they are written to a file; `docs/vgpu-bench.md` describes it.

use serde::{Deserialize, Serialize};

use crate::figures::{Figure, Ratio};
use crate::message::{Direction, HostMemory, What};
use crate::plan::Step;
use crate::side::Place;

/// Everything that a run found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Of this description: a reader refuses what it does not know.
    pub(crate) format: u32,
    /// When the run began, in UTC.
    pub(crate) date: String,
    /// Of vgpu-bench.
    pub(crate) version: String,
    pub(crate) quick: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<Measured>,
    pub(crate) metrics: Vec<Metric>,
}

/// A device that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) device: String,
    /// The version that its driver tells, as in 12.9.
    pub(crate) driver: String,
    /// The entry of the list; of the remote device alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
}

/// One figure on each device.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) direction: Option<Direction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<HostMemory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<Figure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<Figure>,
    /// Remote over local, if both were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<Ratio>,
}

/// What is written today.
pub(crate) const FORMAT: u32 = 1;

impl Metric {
    /// From the times of each device, by rounds.
    pub(crate) fn new(step: &Step, local: Option<&[Vec<f64>]>, remote: Option<&[Vec<f64>]>) -> Metric {
        let what = step.request.what;
        let figure = |rounds: Option<&[Vec<f64>]>| rounds.map(|rounds| complete(what, Figure::new(rounds)));
        let (local, remote) = (figure(local), figure(remote));
        let ratio = local.as_ref().zip(remote.as_ref()).map(|(local, remote)| Ratio::new(local, remote));
        let name = match what {
            What::Synchronize => "synchronize",
            What::ReadWord => "read_word",
            What::LaunchAndSynchronize => "launch_and_synchronize",
            What::Launches => "launches",
            What::Copy { .. } => "copy",
        };
        let (direction, memory, bytes) = match what {
            What::Copy { direction, memory, bytes } => (Some(direction), Some(memory), Some(bytes)),
            _ => (None, None, None),
        };
        Metric { name: name.to_owned(), direction, memory, bytes, local, remote, ratio }
    }

    /// The figure of one device.
    pub(crate) fn of(&self, place: Place) -> Option<&Figure> {
        match place {
            Place::Local => self.local.as_ref(),
            Place::Remote => self.remote.as_ref(),
        }
    }

    /// What was measured, for people.
    pub(crate) fn title(&self) -> String {
        match (self.direction, self.memory, self.bytes) {
            (Some(direction), Some(memory), Some(bytes)) => {
                format!("{}, {}, {}", direction.name(), memory.name(), size(bytes))
            }
            _ => match self.name.as_str() {
                "synchronize" => "cuCtxSynchronize, nothing to wait for".to_owned(),
                "read_word" => "cuMemcpyDtoH of 4 bytes".to_owned(),
                "launch_and_synchronize" => "a launch and cuCtxSynchronize".to_owned(),
                _ => "launches, all different".to_owned(),
            },
        }
    }
}

/// Adds what is told of launches and of copies.
fn complete(what: What, mut figure: Figure) -> Figure {
    match what {
        What::Launches => figure.per_second = Some(1e6 / figure.p50_us),
        What::Copy { bytes, .. } => {
            // 1000 bytes in a microsecond are 10^9 bytes in a second.
            figure.gigabytes_per_second = Some(bytes as f64 / figure.p50_us / 1e3);
        }
        _ => {}
    }
    figure
}

/// A size in the unit that makes it a small number.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting = units.into_iter().find(|(shift, _)| bytes >> shift > 0 && bytes.is_multiple_of(1 << shift));
    fitting.map_or_else(|| format!("{bytes} B"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;

    #[test]
    fn sizes_are_told_exactly() {
        assert_eq!(
            [512, 4096, 4097, 1 << 20, 3 << 30].map(size),
            ["512 B", "4 KiB", "4097 B", "1 MiB", "3 GiB"]
        );
    }

    #[test]
    fn a_copy_of_a_million_bytes_in_a_millisecond_is_a_gigabyte_a_second() {
        let what =
            What::Copy { direction: Direction::ToHost, memory: HostMemory::Pageable, bytes: 1_000_000 };
        let step = Step { request: Request { what, count: 1, limit_ms: 1 }, rounds: 1 };
        let metric = Metric::new(&step, None, Some(&[vec![1000.0]]));
        assert_eq!(metric.remote.as_ref().and_then(|figure| figure.gigabytes_per_second), Some(1.0));
        assert!(metric.ratio.is_none() && metric.local.is_none());
        assert_eq!(metric.title(), "to the host, pageable, 1000000 B");
    }
}
