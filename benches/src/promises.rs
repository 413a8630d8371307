//! Measures the gates.

use crate::delay;
use crate::gates::{
    G1, G4, G5_BYTES, G5_SENDS, G7_DOWN, G7_UP, G8_DOWN, G8_UP, G12, G13, G14, G15, G15_SENDS, Gate, Gates,
};
use crate::product::{Product, Settings};
use crate::raw::Raw;
use crate::table::Table;
use crate::{Placement, place};
use crate::{many, memory};

/// Measures every gate that is asked for.
pub(crate) fn run(server: &str, gates: &mut Gates) -> Result<(), String> {
    place(Placement::TwoCores)?;
    counts(server, gates)?;
    memory::run(server, gates)?;
    let mut table = Table::default();
    if gates.wants(&G1) {
        place(Placement::OneCore)?;
        let (raw, product) = (Raw::start()?, Product::start(server, "null")?);
        gates.judge(&G1, || {
            table.pairs(G1.what, 9, || raw.ping_pong(2000), || product.synchronous_calls(2000))
        })?;
        place(Placement::TwoCores)?;
    }
    if gates.wants(&G4) {
        let product = Product::start(server, "null")?;
        gates.judge(&G4, || product.launches_a_second(500_000).map(|rate| rate / 1e6))?;
    }
    for (driver, up, down) in [("null-dma-free", &G7_UP, &G7_DOWN), ("null", &G8_UP, &G8_DOWN)] {
        copies(server, driver, (up, down), gates, &mut table)?;
    }
    many::run(server, gates)?;
    delay::run(server, gates, &mut table)
}

/// What repeats to the digit.
fn counts(server: &str, gates: &mut Gates) -> Result<(), String> {
    // Memory that fits into what is mapped from the start, as a first program's does.
    let product = Product::with(server, "null", &Settings { buffer_bytes: 1 << 20, ..Settings::default() })?;
    gates.judge(&G12, || Ok(product.first_launch_round_trips()))?;
    let (sends, bytes) = product.launch_costs()?;
    gates.judge(&G5_SENDS, || Ok(sends))?;
    gates.judge(&G5_BYTES, || Ok(bytes))?;
    gates.judge(&G13, || product.enumeration_round_trips())?;
    gates.judge(&G14, || product.local_calls_round_trips())?;
    let step = product.inference_step()?;
    gates.judge(&G15, || Ok(step.0))?;
    gates.judge(&G15_SENDS, || Ok(step.1))
}

fn copies(
    server: &str,
    driver: &str,
    (up, down): (&Gate, &Gate),
    gates: &mut Gates,
    table: &mut Table,
) -> Result<(), String> {
    const BYTES: u64 = 256 << 20;
    if !gates.wants(up) && !gates.wants(down) {
        return Ok(());
    }
    let (raw, product) = (Raw::start()?, Product::start(server, driver)?);
    // The table has product / raw, the gate raw / product.
    gates.judge(up, || {
        table.pairs(up.what, 5, || raw.up(BYTES), || product.up(BYTES, false)).map(f64::recip)
    })?;
    gates.judge(down, || {
        table.pairs(down.what, 5, || raw.down(BYTES), || product.down(BYTES, false)).map(f64::recip)
    })
}
