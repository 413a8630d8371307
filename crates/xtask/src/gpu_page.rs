//! `docs/gpu-validation.md`: what it says about one GPU, and its place among others.

use std::fmt::Write as _;

use serde_json::Value;

use crate::workspace::{Failure, Outcome};

/// What was measured on one GPU.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Of the device, with what must be said about it.
    pub(crate) device: String,
    pub(crate) driver: String,
    pub(crate) date: String,
    pub(crate) commit: String,
    /// How the two sides were reached.
    pub(crate) setting: String,
    /// As `vgpu-bench windows` prints it.
    pub(crate) windows: Value,
    pub(crate) samples: Vec<Sample>,
    /// As `vgpu-bench --local-only --json` writes it.
    pub(crate) alone: Value,
    /// As `vgpu-bench --json` writes it.
    pub(crate) pairs: Value,
    /// What went wrong, in order.
    pub(crate) failures: Vec<String>,
}

/// Wall times of one sample, in pairs that ran turn by turn.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    /// Seconds: native, remote.
    pub(crate) pairs: Vec<(f64, f64)>,
    /// Runs whose results were verified, of both kinds together.
    pub(crate) verified: usize,
}

impl Record {
    /// The section of the page.
    pub(crate) fn section(&self) -> String {
        let Record { device, driver, date, commit, setting, .. } = self;
        let mut text = format!("## {device}\n\nDriver {driver}, {date}, commit {commit}. {setting}\n");
        for failure in &self.failures {
            text += &format!("\n**Failed:** {}\n", failure.lines().next().unwrap_or_default());
        }
        text += &self.windows_table();
        text += &self.samples_table();
        text += &self.calls_table();
        text
    }

    fn windows_table(&self) -> String {
        let mut text =
            heading("Address windows", "| base | outcome | time to reserve |\n| --- | --- | --- |");
        for window in list(&self.windows["windows"]) {
            let (base, outcome) = (word(&window["base"]), word(&window["outcome"]));
            text += &format!("| {base} | {outcome} | {} |\n", time(&window["reserve_us"]));
        }
        text
    }

    fn samples_table(&self) -> String {
        let header = "| sample | native | remote | remote / native | range | verified |\n| --- | --- | --- | --- | --- | --- |";
        let mut text = heading("Samples, wall time of the whole program", header);
        for Sample { name, pairs, verified } in &self.samples {
            let ratios = sorted(pairs.iter().map(|(native, remote)| remote / native));
            let (Some(least), Some(largest)) = (ratios.first(), ratios.last()) else {
                text += &format!("| {name} | | | | | {verified} of 0 |\n");
                continue;
            };
            let native = middle(&sorted(pairs.iter().map(|pair| pair.0)));
            let remote = middle(&sorted(pairs.iter().map(|pair| pair.1)));
            // `expect`: writing to a String cannot fail.
            writeln!(
                text,
                "| {name} | {native:.3} s | {remote:.3} s | {:.2} | {least:.2} - {largest:.2} | {verified} of {} |",
                middle(&ratios),
                2 * pairs.len()
            )
            .expect("a String takes all");
        }
        text
    }

    fn calls_table(&self) -> String {
        let header = "| what | driver alone | driver | through us | ratio | range |\n| --- | --- | --- | --- | --- | --- |";
        let mut text = heading("Calls and copies (vgpu-bench)", header);
        let alone = list(&self.alone["metrics"]);
        for metric in list(&self.pairs["metrics"]) {
            let same = |other: &&Value| {
                ["name", "direction", "memory", "bytes"].iter().all(|key| other[key] == metric[key])
            };
            let alone = alone.iter().find(same).map_or("-".to_owned(), |metric| figure(&metric["local"]));
            let ratio = |key: &str| metric["ratio"][key].as_f64().map_or("-".to_owned(), digits);
            text += &format!(
                "| {} | {alone} | {} | {} | {} | {} - {} |\n",
                title(metric),
                figure(&metric["local"]),
                figure(&metric["remote"]),
                ratio("median"),
                ratio("least"),
                ratio("largest")
            );
        }
        text
    }
}

/// Puts a section into a page: in place of that of the same device, else behind all others.
pub(crate) fn insert(page: &str, section: &str) -> Outcome<String> {
    let (head, measured) = page.split_once(MARK).ok_or_else(|| {
        Failure::Check(format!("the page has no line {MARK:?}, below which the measured part stands"))
    })?;
    let title = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let mut sections: Vec<String> =
        measured.split("\n## ").skip(1).map(|text| format!("## {}\n", text.trim_end())).collect();
    let section = section.trim_end().to_owned() + "\n";
    match sections.iter_mut().find(|other| title(other) == title(&section)) {
        Some(other) => *other = section,
        None => sections.push(section),
    }
    Ok(format!("{head}{MARK}\n\n{}", sections.join("\n")))
}

/// Everything below this line of the page is ours to write.
const MARK: &str = "<!-- measured by `cargo xtask gpu-validate` -->";

fn heading(title: &str, header: &str) -> String {
    format!("\n### {title}\n\n{header}\n")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// What was measured, as vgpu-bench calls it.
fn title(metric: &Value) -> String {
    match (metric["direction"].as_str(), metric["memory"].as_str(), metric["bytes"].as_u64()) {
        (Some(direction), Some(memory), Some(bytes)) => {
            let size =
                if bytes >> 20 > 0 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) };
            format!("copy {}, {}, {size}", direction.replace('_', " "), memory.replace('_', "-"))
        }
        _ => word(&metric["name"]).replace('_', " "),
    }
}

/// The figures of one side.
fn figure(side: &Value) -> String {
    let median = time(&side["p50_us"]);
    match (side["per_second"].as_f64(), side["gigabytes_per_second"].as_f64()) {
        (Some(rate), _) => format!("{median}, {} M/s", digits(rate / 1e6)),
        (_, Some(speed)) => format!("{median}, {} GB/s", digits(speed)),
        _ => median,
    }
}

fn time(microseconds: &Value) -> String {
    match microseconds.as_f64() {
        Some(time) if time < 1e4 => format!("{} us", digits(time)),
        Some(time) => format!("{} ms", digits(time / 1e3)),
        None => "-".to_owned(),
    }
}

/// Three digits that say something.
fn digits(value: f64) -> String {
    let behind = match value.abs() {
        ..0.1 => 4,
        0.1..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.behind$}")
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn middle(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(device: &str) -> Record {
        let metric = json!({
            "name": "copy", "direction": "to_device", "memory": "page_locked", "bytes": 65536,
            "local": { "p50_us": 10.0, "gigabytes_per_second": 6.5536 },
            "remote": { "p50_us": 100.0, "gigabytes_per_second": 0.65536 },
            "ratio": { "median": 10.0, "least": 9.0, "largest": 12.5 },
        });
        Record {
            device: device.to_owned(),
            driver: "13.0".to_owned(),
            windows: json!({ "windows": [{ "base": "0x200000000000", "outcome": "ok", "reserve_us": 3.5 }] }),
            samples: vec![Sample {
                name: "vecadd",
                pairs: vec![(1.0, 2.0), (2.0, 3.0), (1.0, 4.0)],
                verified: 6,
            }],
            alone: json!({ "metrics": [{
                "name": "copy", "direction": "to_device", "memory": "page_locked", "bytes": 65536,
                "local": { "p50_us": 8.0, "gigabytes_per_second": 8.192 },
            }] }),
            pairs: json!({ "metrics": [metric] }),
            ..Record::default()
        }
    }

    #[test]
    fn a_section_has_every_figure() {
        let section = record("H200").section();
        for line in [
            "## H200",
            "| 0x200000000000 | ok | 3.50 us |",
            "| vecadd | 1.000 s | 3.000 s | 2.00 | 1.50 - 4.00 | 6 of 6 |",
            "| copy to device, page-locked, 64 KiB | 8.00 us, 8.19 GB/s | 10.0 us, 6.55 GB/s | 100 us, 0.655 GB/s | 10.0 | 9.00 - 12.5 |",
        ] {
            assert!(section.contains(line), "{line} is not in:\n{section}");
        }
    }

    #[test]
    fn a_device_has_one_section_and_others_stay() {
        let page = format!("# Page\n\nText.\n\n{MARK}\n\nNothing yet.\n");
        let first = insert(&page, &record("A").section()).unwrap();
        assert!(first.starts_with("# Page\n\nText.\n\n") && !first.contains("Nothing yet"), "{first}");
        let both = insert(&first, &record("B").section()).unwrap();
        assert_eq!(both.matches("\n## ").count(), 2);
        let mut again = record("A");
        again.driver = "14.0".to_owned();
        let again = insert(&both, &again.section()).unwrap();
        assert_eq!((again.matches("\n## ").count(), again.matches("Driver 14.0").count()), (2, 1));
        assert_eq!(insert(&again, &record("B").section()).unwrap(), again, "nothing piles up");
        assert!(insert("no mark", "## A\n").is_err());
    }
}
