//! The arithmetic of figures.

use serde::{Deserialize, Serialize};

/// What one device showed for one figure; times in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) least_us: f64,
    pub(crate) largest_us: f64,
    /// How many times went into it.
    pub(crate) samples: usize,
    /// The median of each round.
    pub(crate) rounds_us: Vec<f64>,
    /// Launches a second, of launches alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<f64>,
    /// 10^9 bytes a second, of copies alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gigabytes_per_second: Option<f64>,
}

/// How many times as long the remote device took; below 1 it was faster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    /// Of the ratios of neighbouring rounds.
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) largest: f64,
}

impl Figure {
    /// From the times of all rounds, none of which is empty.
    pub(crate) fn new(rounds: &[Vec<f64>]) -> Figure {
        let all = sorted(rounds.iter().flatten().copied());
        Figure {
            p50_us: at(&all, 50),
            p99_us: at(&all, 99),
            least_us: at(&all, 0),
            largest_us: at(&all, 100),
            samples: all.len(),
            rounds_us: rounds.iter().map(|round| at(&sorted(round.iter().copied()), 50)).collect(),
            per_second: None,
            gigabytes_per_second: None,
        }
    }
}

impl Ratio {
    /// Of rounds that were measured turn by turn.
    pub(crate) fn new(local: &Figure, remote: &Figure) -> Ratio {
        let pairs = remote.rounds_us.iter().zip(&local.rounds_us);
        let all = sorted(pairs.map(|(remote, local)| remote / local));
        Ratio { median: at(&all, 50), least: at(&all, 0), largest: at(&all, 100) }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which `percent` of all lie (the nearest rank); NaN for none.
fn at(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let figure = Figure::new(&[(1..=60).map(f64::from).collect(), (61..=100).map(f64::from).collect()]);
        assert_eq!((figure.p50_us, figure.p99_us, figure.samples), (50.0, 99.0, 100));
        assert_eq!((figure.least_us, figure.largest_us), (1.0, 100.0));
        assert_eq!(figure.rounds_us, [30.0, 80.0]);
        let single = Figure::new(&[vec![3.0]]);
        assert_eq!((single.p50_us, single.p99_us, single.least_us), (3.0, 3.0, 3.0));
    }

    #[test]
    fn ratios_are_of_neighbours_and_not_of_medians() {
        let (local, remote) = (
            Figure::new(&[vec![1.0], vec![10.0], vec![2.0]]),
            Figure::new(&[vec![2.0], vec![30.0], vec![2.0]]),
        );
        assert_eq!(Ratio::new(&local, &remote), Ratio { median: 2.0, least: 1.0, largest: 3.0 });
    }
}
