//! What a client costs the server in memory that no other process shares: `Private_Clean` and `Private_Dirty` of its worker.

use std::sync::Arc;
use std::time::Duration;

use client::{Environment, Remote};
use cuda_types::CUstream;

use crate::gates::{G20_NULL, G20_SOFT, G20_STAGING, Gates};
use crate::product::{Product, Settings, cuda};
use crate::server::Server;

/// Measures those gates that are asked for.
pub(crate) fn run(server: &str, gates: &mut Gates) -> Result<(), String> {
    gates.judge(&G20_STAGING, || staging(server))?;
    for (gate, driver) in [(&G20_NULL, "null"), (&G20_SOFT, "soft")] {
        gates.judge(gate, || idle(server, driver))?;
    }
    Ok(())
}

/// The worker of a client that has begun and asks for nothing.
fn idle(server: &str, driver: &str) -> Result<f64, String> {
    let settings = Settings::default();
    let server = Server::start(server, driver, settings.ip, None)?;
    let environment = Arc::new(Environment::default());
    let remote = Remote::connect(server.address(), settings.transport, 0, environment, |_, _| true)
        .map_err(|error| error.to_string())?;
    let session = remote.session().map_err(cuda("a worker"))?;
    let bytes = settled(server.worker()?)?;
    drop(session);
    remote.close(Duration::from_secs(1));
    Ok(mebibytes(bytes))
}

/// What copies add to a worker: those to the device on the dma-free one, which has no memory of its own to fill, and those
/// to the host on the copying one, which fills staging with what its untouched memory holds: pages that nobody owns.
fn staging(server: &str) -> Result<f64, String> {
    const BYTES: u64 = 64 << 20;
    let settings = Settings { buffer_bytes: 64 << 20, ..Settings::default() };
    let grown = |driver: &str, copy: fn(&Product, bool) -> Result<(), String>| {
        let product = Product::with(server, driver, &settings)?;
        let before = settled(product.worker()?)?;
        [false, true].into_iter().try_for_each(|locked| copy(&product, locked))?;
        settled(product.worker()?).map(|after| after.saturating_sub(before))
    };
    let up = grown("null-dma-free", |product, locked| product.up(BYTES, locked).map(drop))?;
    let down = grown("null", |product, locked| {
        let span = product.buffer(BYTES, locked)?;
        let session = &product.session;
        session.copy_to_host(span, product.memory, CUstream::NULL, false).map_err(cuda("to the host"))?;
        session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
        if product.tally(4)? < BYTES {
            Err("the device sent less than it was asked for".into())
        } else {
            Ok(())
        }
    })?;
    Ok(mebibytes(up + down))
}

/// Private bytes of a process once they stay as they are: its threads may be starting yet.
fn settled(process: u32) -> Result<u64, String> {
    const PAUSE: Duration = Duration::from_millis(20);
    const LOOKS: usize = 50;
    let mut found = private_bytes(process)?;
    for _ in 0..LOOKS {
        std::thread::sleep(PAUSE);
        let now = private_bytes(process)?;
        if now == found {
            return Ok(now);
        }
        found = now;
    }
    Err(format!("the memory of worker {process} does not settle"))
}

fn private_bytes(process: u32) -> Result<u64, String> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let kibibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let sum = kibibytes("Private_Clean:").zip(kibibytes("Private_Dirty:"));
    sum.map(|(clean, dirty)| (clean + dirty) * 1024).ok_or_else(|| format!("{path} tells no private bytes"))
}

fn mebibytes(bytes: u64) -> f64 {
    // In KiB it is far below what a float holds exactly.
    u32::try_from(bytes / 1024).map_or(f64::INFINITY, f64::from) / 1024.0
}
