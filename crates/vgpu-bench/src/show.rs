//! The figures as a table.

use vgpu_cli::table::Table;

use crate::figures::Figure;
use crate::report::{Measured, Metric, Report};
use crate::side::Place;

/// A paragraph about the devices, and a row for every figure.
pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    for (place, measured) in [(Place::Local, &report.local), (Place::Remote, &report.remote)] {
        text += &line(place, measured.as_ref());
    }
    let both = report.local.is_some() && report.remote.is_some();
    let places = [(Place::Local, report.local.is_some()), (Place::Remote, report.remote.is_some())];
    let places: Vec<Place> =
        places.into_iter().filter(|(_, is_there)| *is_there).map(|(place, _)| place).collect();
    let mut header = vec![""];
    header.extend(places.iter().map(|place| place.name()));
    header.extend(both.then_some("remote / local (least - largest)"));
    let mut table = Table::new(&header);
    for metric in &report.metrics {
        let mut row = vec![metric.title()];
        row.extend(
            places
                .iter()
                .map(|place| metric.of(*place).map_or_else(String::new, |figure| cell(metric, figure))),
        );
        row.extend(metric.ratio.as_ref().map(|ratio| {
            format!("{} ({} - {})", digits(ratio.median), digits(ratio.least), digits(ratio.largest))
        }));
        table.push(row);
    }
    format!("{text}\n{table}")
}

fn line(place: Place, measured: Option<&Measured>) -> String {
    let name = format!("{}:", place.name());
    match measured {
        Some(Measured { device, driver, server }) => {
            let at = server.as_ref().map_or_else(String::new, |server| format!(" at {server}"));
            format!("{name:<8} {device}{at}, driver {driver}\n")
        }
        None => format!("{name:<8} not measured\n"),
    }
}

fn cell(metric: &Metric, figure: &Figure) -> String {
    let median = time(figure.p50_us);
    if let Some(rate) = figure.per_second {
        return format!("{median} each, {} M/s", digits(rate / 1e6));
    }
    match figure.gigabytes_per_second {
        Some(speed) => format!("{median}, {} GB/s", digits(speed)),
        None if metric.bytes.is_none() => format!("{median}, p99 {}", time(figure.p99_us)),
        None => median,
    }
}

/// A time in the unit that suits it.
pub(crate) fn time(microseconds: f64) -> String {
    match microseconds {
        ..1e4 => format!("{} us", digits(microseconds)),
        1e4..1e7 => format!("{} ms", digits(microseconds / 1e3)),
        _ => format!("{} s", digits(microseconds / 1e6)),
    }
}

/// Three digits that say something.
fn digits(value: f64) -> String {
    let behind = match value.abs() {
        ..0.01 => 5,
        0.01..0.1 => 4,
        0.1..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.behind$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0.25, 3.218, 1234.5, 45_000.0, 12_345_678.0].map(time);
        assert_eq!(shown, ["0.250 us", "3.22 us", "1234 us", "45.0 ms", "12.3 s"]);
    }
}
