//! Medians of paired ratios, and the table that shows them.

use std::time::Duration;

use crate::gates::Measured;

#[derive(Default)]
pub(crate) struct Table {
    lines: Vec<String>,
}

impl Table {
    /// Runs raw and product in turn and notes the median ratio of neighbours, with its range.
    pub(crate) fn pairs(
        &mut self,
        name: &str,
        pairs: usize,
        mut raw: impl FnMut() -> Result<Duration, String>,
        mut product: impl FnMut() -> Result<Duration, String>,
    ) -> Result<Measured, String> {
        let naming = |error: String| format!("{name}: {error}");
        // Once unmeasured: the first run pays for pages and buffers.
        raw().map_err(naming)?;
        product().map_err(naming)?;
        let mut measured = Vec::with_capacity(pairs);
        for _ in 0..pairs {
            let (raw, product) = (raw().map_err(naming)?, product().map_err(naming)?);
            measured.push((product.as_secs_f64() / raw.as_secs_f64(), raw, product));
        }
        measured.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (median, raw, product) = measured[measured.len() / 2];
        let line = format!(
            "| {name} | {median:.2} | {:.2} - {:.2} | {} | {} |",
            measured[0].0,
            measured[measured.len() - 1].0,
            show(raw),
            show(product)
        );
        eprintln!("{line}");
        self.lines.push(line);
        Ok(Measured { value: median, samples: measured.iter().map(|pair| pair.0).collect() })
    }

    /// [`pairs`](Table::pairs) of two ways through one thing.
    pub(crate) fn pairs_of_two<T>(
        &mut self,
        name: &str,
        pairs: usize,
        shared: &mut T,
        mut raw: impl FnMut(&mut T) -> Result<Duration, String>,
        mut product: impl FnMut(&mut T) -> Result<Duration, String>,
    ) -> Result<Measured, String> {
        let shared = std::cell::RefCell::new(shared);
        self.pairs(name, pairs, || raw(&mut shared.borrow_mut()), || product(&mut shared.borrow_mut()))
    }

    /// Notes a count.
    pub(crate) fn note(&mut self, name: &str, value: &str) {
        self.lines.push(format!("| {name} | {value} | | | |"));
    }

    pub(crate) fn print(&self) {
        println!(
            "\n| what | product / raw, median | range | raw | product |\n| --- | --- | --- | --- | --- |"
        );
        for line in &self.lines {
            println!("{line}");
        }
    }
}

fn show(time: Duration) -> String {
    match time.as_nanos() {
        0..10_000 => format!("{:.2} us", time.as_secs_f64() * 1e6),
        10_000..10_000_000 => format!("{:.0} us", time.as_secs_f64() * 1e6),
        _ => format!("{:.1} ms", time.as_secs_f64() * 1e3),
    }
}

/// The one in the middle; of two, the greater.
pub(crate) fn median<T: Copy + PartialOrd>(values: impl IntoIterator<Item = T>) -> T {
    let mut sorted: Vec<T> = values.into_iter().collect();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("a time or a rate"));
    sorted[sorted.len() / 2]
}
