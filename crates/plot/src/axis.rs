//! What stands beside an axis.

use crate::PlotError;

/// Title and numbers of an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    title: String,
    unit: String,
    ticks: Ticks,
}

/// How the numbers of an axis are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticks {
    /// As they are, with few digits.
    Plain,
    /// As KiB, MiB and GiB; on an axis that grows by powers, these are powers of two.
    Bytes,
}

impl Axis {
    /// An axis for numbers of a unit, as in `Axis::new("rate", "M launches/s")`.
    pub fn new(title: &str, unit: &str) -> Axis {
        Axis { title: title.to_owned(), unit: unit.to_owned(), ticks: Ticks::Plain }
    }

    /// An axis for sizes; its numbers carry their unit.
    pub fn bytes(title: &str) -> Axis {
        Axis { title: title.to_owned(), unit: String::new(), ticks: Ticks::Bytes }
    }

    /// Title and unit.
    pub(crate) fn description(&self) -> String {
        if self.unit.is_empty() { self.title.clone() } else { format!("{} [{}]", self.title, self.unit) }
    }

    /// A number, as it stands beside the axis.
    pub(crate) fn tick(&self, value: f64) -> String {
        match self.ticks {
            Ticks::Plain => plain(value),
            Ticks::Bytes => {
                let units = [(1024.0 * 1024.0 * 1024.0, "GiB"), (1024.0 * 1024.0, "MiB"), (1024.0, "KiB")];
                let fitting = units.into_iter().find(|(bytes, _)| value >= *bytes);
                fitting.map_or_else(
                    || format!("{} B", plain(value)),
                    |(bytes, unit)| format!("{} {unit}", plain(value / bytes)),
                )
            }
        }
    }

    /// What an axis that grows by powers grows by.
    pub(crate) fn base(&self) -> f64 {
        match self.ticks {
            Ticks::Plain => 10.0,
            Ticks::Bytes => 2.0,
        }
    }
}

/// Few digits, and none that says nothing.
fn plain(value: f64) -> String {
    let digits = match value.abs() {
        0.0..0.1 => 4,
        0.1..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The ends of an axis that starts at zero and has some air above `values`.
pub(crate) fn from_zero(values: impl Iterator<Item = f64>) -> Result<f64, PlotError> {
    let largest = values.reduce(f64::max).ok_or(PlotError::Empty)?;
    Ok(if largest > 0.0 { largest * 1.1 } else { 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_few_digits_and_sizes_their_unit() {
        let plain = Axis::new("time", "us");
        assert_eq!(
            [0.0, 0.0025, 1.5, 20.0, 1234.5].map(|value| plain.tick(value)),
            ["0", "0.0025", "1.5", "20", "1234"]
        );
        let bytes = Axis::bytes("size");
        assert_eq!(
            [512.0, 4096.0, 1_572_864.0].map(|value| bytes.tick(value)),
            ["512 B", "4 KiB", "1.5 MiB"]
        );
        assert_eq!((plain.description().as_str(), bytes.description().as_str()), ("time [us]", "size"));
    }
}
