//! Measures the gates.

use std::time::Duration;

use crate::delay;
use crate::gates::{
    G1, G2, G4, G5_BYTES, G5_SENDS, G7_DOWN, G7_DOWN_LOCKED, G7_UP, G7_UP_LOCKED, G8_DOWN, G8_DOWN_LOCKED,
    G8_UP, G8_UP_LOCKED, G9, G12, G13, G14, G15, G15_SENDS, Gate, Gates, Measured,
};
use crate::instructions;
use crate::product::{Product, Settings};
use crate::raw::Raw;
use crate::table::Table;
use crate::{Placement, place};
use crate::{many, memory};

/// Measures every gate that is asked for.
pub(crate) fn run(
    server: &str,
    client: Option<&instructions::Client>,
    gates: &mut Gates,
) -> Result<(), String> {
    place(Placement::TwoCores)?;
    counts(server, gates)?;
    memory::run(server, gates)?;
    instructions::run(server, client, gates)?;
    let mut table = Table::default();
    if gates.wants(&G1) {
        place(Placement::OneCore)?;
        let (raw, product) = (Raw::start()?, Product::start(server, "null")?);
        gates.judge(&G1, || {
            table.pairs(G1.what, 9, || raw.ping_pong(2000), || product.synchronous_calls(2000))
        })?;
        place(Placement::TwoCores)?;
    }
    if gates.wants(&G2) {
        let settings = Settings { spin: Some(POLLING), ..Settings::default() };
        let (raw, product) = (Raw::start()?, Product::with(server, "null", &settings)?);
        gates.judge(&G2, || {
            table.pairs(G2.what, 9, || raw.ping_pong_polling(5000), || product.synchronous_calls(5000))
        })?;
    }
    if gates.wants(&G9) {
        const BYTES: u64 = 64 << 10;
        place(Placement::OneCore)?;
        let settings = Settings { buffer_bytes: 1 << 20, ..Settings::default() };
        gates.judge(&G9, || {
            // Anew each time: where their memory happens to lie counts among so few bytes.
            let (raw, product) = (Raw::start()?, Product::with(server, "null", &settings)?);
            table.pairs(G9.what, 301, || raw.up(BYTES), || product.up(BYTES, false))
        })?;
        place(Placement::TwoCores)?;
    }
    if gates.wants(&G4) {
        let product = Product::start(server, "null")?;
        gates.judge(&G4, || product.launches_a_second(500_000).map(|rate| rate / 1e6))?;
    }
    let copied = [
        ("null-dma-free", [&G7_UP, &G7_DOWN, &G7_UP_LOCKED, &G7_DOWN_LOCKED]),
        ("null", [&G8_UP, &G8_DOWN, &G8_UP_LOCKED, &G8_DOWN_LOCKED]),
    ];
    for (driver, ways) in copied {
        copies(server, driver, ways, gates, &mut table)?;
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
    [up, down, up_locked, down_locked]: [&Gate; 4],
    gates: &mut Gates,
    table: &mut Table,
) -> Result<(), String> {
    const BYTES: u64 = 256 << 20;
    const PAIRS: usize = 5;
    // All have one number.
    if !gates.wants(up) {
        return Ok(());
    }
    let (raw, product) = (Raw::start()?, Product::start(server, driver)?);
    // The table has product / raw, the gate raw / product.
    for (gate, locked) in [(up, false), (up_locked, true)] {
        gates.judge(gate, || {
            table.pairs(gate.what, PAIRS, || raw.up(BYTES), || product.up(BYTES, locked)).map(Measured::recip)
        })?;
    }
    for (gate, locked) in [(down, false), (down_locked, true)] {
        gates.judge(gate, || {
            table
                .pairs(gate.what, PAIRS, || raw.down(BYTES), || product.down(BYTES, locked))
                .map(Measured::recip)
        })?;
    }
    Ok(())
}

/// Longer than any wait that is measured: both ends poll all the time.
const POLLING: Duration = Duration::from_millis(20);
