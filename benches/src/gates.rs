//! The promises of `docs/performance.md` as gates: a value each, what it must keep to, and what it should come to.
//!
//! Counts repeat to the digit and are judged as they are. Timings are medians of paired runs on a shared machine, so one
//! that fails is measured again, up to three times in all, and the best of the medians is judged.

use std::path::Path;

use plot::{Axis, SampleChart, Samples};
use serde::{Deserialize, Serialize};

/// One promise.
#[derive(Clone, Copy)]
pub(crate) struct Gate {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    bound: Bound,
    gate: f64,
    stretch: f64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtMost,
    AtLeast,
}

/// How a value comes about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Count,
    /// A count in which a second thread takes part: measured again like a timing, but also where only counts are.
    Repeated,
    Timing,
}

/// What came of a gate.
#[derive(Serialize, Deserialize)]
pub(crate) struct Judged {
    id: String,
    what: String,
    /// None if it could not be measured.
    value: Option<f64>,
    /// All that were measured: ratios of pairs, or one a try.
    samples: Vec<f64>,
    bound: String,
    gate: f64,
    stretch: f64,
    pass: bool,
    /// Why it could not be measured.
    missing: Option<String>,
}

/// A value, and what it is the median of.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) value: f64,
    pub(crate) samples: Vec<f64>,
}

impl From<f64> for Measured {
    fn from(value: f64) -> Measured {
        Measured { value, samples: vec![value] }
    }
}

impl Measured {
    /// The same the other way round: raw / product for product / raw.
    pub(crate) fn recip(self) -> Measured {
        let samples = self.samples.into_iter().map(f64::recip).collect();
        Measured { value: self.value.recip(), samples }
    }
}

const fn gate(
    id: &'static str,
    what: &'static str,
    bound: Bound,
    gate: f64,
    stretch: f64,
    kind: Kind,
) -> Gate {
    Gate { id, what, bound, gate, stretch, kind }
}

use Bound::{AtLeast, AtMost};
use Kind::{Count, Repeated, Timing};

pub(crate) const G1: Gate =
    gate("G1", "synchronous call / raw ping-pong, one core, blocking, p50", AtMost, 1.30, 1.10, Timing);
pub(crate) const G2: Gate =
    gate("G2", "synchronous call / raw ping-pong, two cores, both polling, p50", AtMost, 1.25, 1.10, Timing);
pub(crate) const G3: Gate = gate(
    "G3",
    "client instructions of a synchronous call, through libcudart",
    AtMost,
    1500.0,
    600.0,
    Repeated,
);
pub(crate) const G4: Gate =
    gate("G4", "asynchronous launches a second, two cores, millions", AtLeast, 1.0, 5.0, Timing);
pub(crate) const G5_SENDS: Gate = gate("G5", "sends per launch", AtMost, 0.1, 0.02, Count);
pub(crate) const G5_BYTES: Gate =
    gate("G5", "bytes sent per launch with 4 pointer arguments", AtMost, 96.0, 48.0, Count);
pub(crate) const G5_INSTRUCTIONS: Gate = gate(
    "G5",
    "client instructions of a launch with 4 pointer arguments, through libcudart",
    AtMost,
    800.0,
    300.0,
    Repeated,
);
pub(crate) const G6: Gate =
    gate("G6", "launch rate at 10 ms round trip / at 0, 1 M launches", AtLeast, 0.9, 0.98, Timing);
pub(crate) const G7_UP: Gate =
    gate("G7", "raw / to the device, 256 MiB, pageable, dma-free device", AtLeast, 0.85, 0.97, Timing);
pub(crate) const G7_DOWN: Gate =
    gate("G7", "raw / to the host, 256 MiB, pageable, dma-free device", AtLeast, 0.85, 0.97, Timing);
pub(crate) const G7_UP_LOCKED: Gate =
    gate("G7", "raw / to the device, 256 MiB, page-locked, dma-free device", AtLeast, 0.85, 0.97, Timing);
pub(crate) const G7_DOWN_LOCKED: Gate =
    gate("G7", "raw / to the host, 256 MiB, page-locked, dma-free device", AtLeast, 0.85, 0.97, Timing);
pub(crate) const G8_UP: Gate =
    gate("G8", "raw / to the device, 256 MiB, pageable, copying device", AtLeast, 0.45, 0.65, Timing);
pub(crate) const G8_DOWN: Gate =
    gate("G8", "raw / to the host, 256 MiB, pageable, copying device", AtLeast, 0.45, 0.65, Timing);
pub(crate) const G8_UP_LOCKED: Gate =
    gate("G8", "raw / to the device, 256 MiB, page-locked, copying device", AtLeast, 0.45, 0.65, Timing);
pub(crate) const G8_DOWN_LOCKED: Gate =
    gate("G8", "raw / to the host, 256 MiB, page-locked, copying device", AtLeast, 0.45, 0.65, Timing);
pub(crate) const G9: Gate = gate(
    "G9",
    "64 KiB to the device and a synchronize / raw: 64 KiB and one reply, one core",
    AtMost,
    1.5,
    1.15,
    Timing,
);
pub(crate) const G12: Gate =
    gate("G12", "round trips from connect to the first launch", AtMost, 3.0, 1.0, Count);
pub(crate) const G13: Gate =
    gate("G13", "round trips of a full device enumeration, after the handshake", AtMost, 0.0, 0.0, Count);
pub(crate) const G14: Gate = gate(
    "G14",
    "round trips of malloc, free, stream and event create, record, destroy, covered query, function attribute, occupancy",
    AtMost,
    0.0,
    0.0,
    Count,
);
pub(crate) const G15: Gate =
    gate("G15", "round trips of an inference step of 200 launches", AtMost, 1.0, 1.0, Count);
pub(crate) const G15_SENDS: Gate =
    gate("G15", "sends of an inference step of 200 launches", AtMost, 8.0, 4.0, Count);
pub(crate) const G16_1: Gate =
    gate("G16", "inference step at 1 ms / (step at 0 + 4 round trips)", AtMost, 1.02, 1.01, Timing);
pub(crate) const G16_10: Gate =
    gate("G16", "inference step at 10 ms / (step at 0 + 4 round trips)", AtMost, 1.02, 1.01, Timing);
pub(crate) const G16_100: Gate =
    gate("G16", "inference step at 100 ms / (step at 0 + 4 round trips)", AtMost, 1.02, 1.01, Timing);
pub(crate) const G20_STAGING: Gate =
    gate("G20", "staging memory of a client at the server, MiB", AtMost, 64.0, 16.0, Count);
pub(crate) const G20_NULL: Gate =
    gate("G20", "private memory of an idle client's worker, null device, MiB", AtMost, 24.0, 8.0, Count);
pub(crate) const G20_SOFT: Gate =
    gate("G20", "private memory of an idle client's worker, software GPU, MiB", AtMost, 24.0, 8.0, Count);
pub(crate) const G23: Gate =
    gate("G23", "launches a second of 1, 8, 64 client processes, least / best", AtLeast, 0.9, 0.95, Timing);

/// The gates that are asked for, and what came of them.
pub(crate) struct Gates {
    only: Vec<String>,
    counts_only: bool,
    judged: Vec<Judged>,
}

impl Gates {
    /// Those named in `only`, all if it is empty; with `counts_only` no timings.
    pub(crate) fn new(only: Vec<String>, counts_only: bool) -> Gates {
        Gates { only, counts_only, judged: Vec::new() }
    }

    /// Whether a gate is asked for.
    pub(crate) fn wants(&self, gate: &Gate) -> bool {
        let named = self.only.is_empty() || self.only.iter().any(|id| id.eq_ignore_ascii_case(gate.id));
        named && !(self.counts_only && gate.kind == Timing)
    }

    /// Judges a gate that is asked for, by a value that `measure` finds.
    pub(crate) fn judge<M: Into<Measured>>(
        &mut self,
        gate: &Gate,
        mut measure: impl FnMut() -> Result<M, String>,
    ) -> Result<(), String> {
        if !self.wants(gate) {
            return Ok(());
        }
        let tries = if gate.kind == Count { 1 } else { TRIES };
        let mut best: Option<Measured> = None;
        for _ in 0..tries {
            let now: Measured = measure().map_err(|error| format!("{}: {error}", gate.id))?.into();
            if best.as_ref().is_none_or(|best| gate.is_better(now.value, best.value)) {
                best = Some(now);
            }
            if best.as_ref().is_some_and(|best| gate.passes(best.value)) {
                break;
            }
        }
        self.note(gate, best, None);
        Ok(())
    }

    /// Notes that a gate that is asked for cannot be measured here; it is then not kept.
    pub(crate) fn cannot_measure(&mut self, gate: &Gate, reason: &str) {
        if self.wants(gate) {
            self.note(gate, None, Some(reason.to_owned()));
        }
    }

    fn note(&mut self, gate: &Gate, measured: Option<Measured>, missing: Option<String>) {
        let value = measured.as_ref().map(|measured| measured.value);
        let pass = value.is_some_and(|value| gate.passes(value));
        let bound = if gate.bound == AtMost { "<=" } else { ">=" };
        let Gate { id, what, gate, stretch, .. } = *gate;
        self.add(Judged {
            id: id.to_owned(),
            what: what.to_owned(),
            value,
            samples: measured.map_or_else(Vec::new, |measured| measured.samples),
            bound: bound.to_owned(),
            gate,
            stretch,
            pass,
            missing,
        });
    }

    fn add(&mut self, judged: Judged) {
        let word = if judged.pass { "pass" } else { "FAILS" };
        eprintln!("{:<4} {word:<8} {:>9}  {}", judged.id, judged.shown(), judged.what);
        self.judged.push(judged);
    }

    /// Adds gates that another program has judged, as JSON.
    pub(crate) fn add_judged(&mut self, json: &str) -> Result<(), String> {
        let judged: Vec<Judged> =
            serde_json::from_str(json).map_err(|error| format!("gates of another program: {error}"))?;
        judged.into_iter().for_each(|judged| self.add(judged));
        Ok(())
    }

    /// Draws every gate that was measured, as an SVG file in `folder`: what was measured beside what it is held to.
    pub(crate) fn draw(&self, folder: &Path) -> Result<(), String> {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for (number, judged) in self.judged.iter().enumerate().filter(|(_, judged)| judged.value.is_some()) {
            let series =
                |name: &str, values: &[f64]| Samples { name: name.to_owned(), values: values.into() };
            let chart = SampleChart {
                title: format!("{}: {}", judged.id, judged.what),
                y: Axis::new("value", ""),
                series: vec![
                    series("measured", &judged.samples),
                    series(&format!("gate, {}", judged.bound), &[judged.gate]),
                    series("stretch", &[judged.stretch]),
                ],
            };
            let svg = chart.svg().map_err(|error| format!("drawing {}: {error}", judged.id))?;
            let file = folder.join(format!("{number:02}-{}.svg", judged.id));
            std::fs::write(&file, svg).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(())
    }

    /// Every gate as JSON.
    pub(crate) fn json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(&self.judged).map_err(|error| format!("writing JSON: {error}"))
    }

    /// The table; an error that names the gates that are not kept.
    pub(crate) fn print(&self) -> Result<(), String> {
        println!("\n| gate | what | value | gate | stretch | pass |\n| --- | --- | --- | --- | --- | --- |");
        let mut failed = Vec::new();
        for judged in &self.judged {
            let Judged { id, what, bound, gate, stretch, pass, missing, .. } = judged;
            let value = judged.shown();
            let word = if *pass { "yes" } else { "no" };
            println!("| {id} | {what} | {value} | {bound} {gate} | {stretch} | {word} |");
            let reason = missing.iter().map(|reason| format!(" (not measured: {reason})"));
            failed.extend((!pass).then(|| format!("{id}{}", reason.collect::<String>())));
        }
        failed.dedup();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(format!("gates that are not kept: {}", failed.join(", ")))
        }
    }
}

impl Judged {
    fn shown(&self) -> String {
        self.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.3}"))
    }
}

impl Gate {
    fn is_better(&self, value: f64, than: f64) -> bool {
        if self.bound == AtMost { value < than } else { value > than }
    }

    fn passes(&self, value: f64) -> bool {
        if self.bound == AtMost { value <= self.gate } else { value >= self.gate }
    }
}

/// The most times that a timing is measured.
const TRIES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_judged_as_it_is_and_a_timing_by_the_best_of_three() {
        let mut gates = Gates::new(Vec::new(), false);
        let mut values = [2.0, 0.5, 0.1].into_iter();
        gates.judge(&G1, || Ok(values.next().unwrap())).unwrap();
        assert_eq!(values.next(), Some(0.1), "it passed at the second measurement");
        gates.judge(&G12, || Ok(4.0)).unwrap();
        assert_eq!(gates.judged.iter().map(|judged| judged.pass).collect::<Vec<_>>(), [true, false]);
        assert_eq!(gates.print(), Err("gates that are not kept: G12".to_owned()));
    }

    #[test]
    fn a_gate_that_cannot_be_measured_is_not_kept_and_says_why() {
        let mut gates = Gates::new(vec!["G12".to_owned()], false);
        gates.cannot_measure(&G1, "nobody asked");
        assert_eq!(gates.print(), Ok(()));
        gates.cannot_measure(&G12, "needs root");
        let told = "gates that are not kept: G12 (not measured: needs root)";
        assert_eq!(gates.print(), Err(told.to_owned()));
    }

    #[test]
    fn only_what_is_asked_for_is_measured() {
        let gates = Gates::new(vec!["g4".to_owned()], false);
        assert!(gates.wants(&G4) && !gates.wants(&G12));
        let counts = Gates::new(Vec::new(), true);
        assert!(counts.wants(&G12) && !counts.wants(&G4));
    }
}
