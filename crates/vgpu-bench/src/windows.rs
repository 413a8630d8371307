//! Whether a driver can give what our server asks of it first: addresses at fixed places, memory mapped there, and bytes
//! in it. This is the server's own code on this machine's driver.

//!
//! A process of a server has one window, so each place is tried in a process of its own.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use client::remote::{WINDOW_BYTES, window_bases};
use cuda_types::{CUdeviceptr, CUstream, CuResult};
use nvidia::NvidiaGpu;
use proto::{ContextCalls, Device, MemoryCalls};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::options;

/// What is printed.
#[derive(Debug, Serialize, Deserialize)]
struct Checked {
    device: String,
    /// As in 12.9.
    driver: String,
    window_bytes: u64,
    windows: Vec<Window>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Window {
    base: String,
    /// What the driver answered, or `ok`.
    outcome: String,
    /// Of the reservation alone.
    reserve_us: f64,
}

/// Checks every place that a client proposes for the first device; the status is 0 if one of them works.
pub(crate) fn run(options: &options::Windows) -> Result<ExitCode, BenchError> {
    let checked = match options.place {
        Some(place) => check_one(options.device, place)?,
        None => check_all(options.device)?,
    };
    let text = serde_json::to_string_pretty(&checked);
    println!("{}", text.map_err(|error| BenchError::io("writing JSON", error))?);
    let works = checked.windows.iter().any(|window| window.outcome == OK);
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_all(device: u32) -> Result<Checked, BenchError> {
    let failed = |error: std::io::Error| BenchError::io("starting this program", error);
    let own = std::env::current_exe().map_err(failed)?;
    let mut all: Option<Checked> = None;
    for place in 0..window_bases(0).count() {
        let mut command = Command::new(&own);
        command.args(["windows", "--device", &device.to_string(), "--place", &place.to_string()]);
        let output = command.stderr(Stdio::inherit()).output().map_err(failed)?;
        let checked: Checked = serde_json::from_slice(&output.stdout)
            .map_err(|_| BenchError::NoDriver { reason: format!("the check ended: {}", output.status) })?;
        match &mut all {
            Some(all) => all.windows.extend(checked.windows),
            None => all = Some(checked),
        }
    }
    all.ok_or_else(|| BenchError::io("checking windows", "a client proposes no place"))
}

fn check_one(device: u32, place: usize) -> Result<Checked, BenchError> {
    let failed = |error| BenchError::NoDriver { reason: format!("opening it: {error}") };
    let base = window_bases(0).nth(place);
    let base =
        base.ok_or_else(|| BenchError::io("checking a window", format!("there is no place {place}")))?;
    let gpu = NvidiaGpu::open(device).map_err(failed)?;
    let facts = gpu.facts().map_err(failed)?;
    let version = facts.driver_version;
    Ok(Checked {
        device: facts.name,
        driver: format!("{}.{}", version / 1000, version % 1000 / 10),
        window_bytes: WINDOW_BYTES,
        windows: vec![check(&gpu, base)],
    })
}

fn check(gpu: &NvidiaGpu, base: u64) -> Window {
    let start = Instant::now();
    let reserved = gpu.reserve_window(base, WINDOW_BYTES);
    let reserve_us = start.elapsed().as_secs_f64() * 1e6;
    let outcome = match reserved {
        Err(error) => format!("reserving: {error}"),
        Ok(()) => match first_and_last(gpu, base) {
            Err(error) => format!("using it: {error}"),
            Ok(false) => "using it: other bytes come back than were set".to_owned(),
            Ok(true) => OK.to_owned(),
        },
    };
    Window { base: format!("{base:#x}"), outcome, reserve_us }
}

/// Whether memory can be mapped at both ends of a window and keeps what is set there.
fn first_and_last(gpu: &NvidiaGpu, base: u64) -> CuResult<bool> {
    let mut is_right = true;
    for (address, value) in [(base, 0x5a), (base + WINDOW_BYTES - CHUNK_BYTES, 0xa5)] {
        gpu.vgpuMemMap(address, CHUNK_BYTES)?;
        gpu.cuMemsetD8Async(CUdeviceptr(address), value, CHUNK_BYTES, CUstream::NULL)?;
        let last = CUdeviceptr(address + CHUNK_BYTES - PROBE_BYTES);
        let bytes = gpu.cuMemcpyDtoH_v2(last, PROBE_BYTES, CUstream::NULL)?;
        is_right &= bytes.iter().all(|byte| *byte == value);
        gpu.cuCtxSynchronize()?;
        gpu.vgpuMemUnmap(address, CHUNK_BYTES)?;
    }
    Ok(is_right)
}

const OK: &str = "ok";

/// As `window::CHUNK_BYTES`: what a server maps first.
const CHUNK_BYTES: u64 = 2 << 20;
const PROBE_BYTES: u64 = 4096;
