//! What distance costs: launches and steps over a network with a delay, beside the same over one without.
//!
//! Base and distance are two [`Network`]s that differ in their delay alone, each with a server and a session of its own,
//! measured in turn. The relay between their ends uses processors that the measured processes need as well, so absolute
//! times are worse than without it, at both ends of each ratio.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use client::launch::LaunchConfig;
use cuda_types::{CUevent, CUstream, Dim3};
use proto::StreamCalls;

use crate::gates::{G6, G16_1, G16_10, G16_100, Gate, Gates, Measured};
use crate::product::{Product, Settings, cuda};
use crate::relay::Network;
use crate::server::Server;
use crate::table::{Table, median};

/// A session with a server at the other end of a network.
struct Distant {
    stepper: Stepper,
    // After the session that goes over it.
    network: Network,
}

/// Makes inference steps.
struct Stepper {
    product: Product,
    streams: [CUstream; 2],
    event: CUevent,
}

/// Measures those gates that are asked for.
pub(crate) fn run(server: &str, gates: &mut Gates, table: &mut Table) -> Result<(), String> {
    let all = [&G6, &G16_1, &G16_10, &G16_100];
    if !all.iter().any(|gate| gates.wants(gate)) {
        return Ok(());
    }
    let base = match Network::new(Duration::ZERO) {
        Ok(network) => Distant::new(server, network)?,
        Err(reason) => {
            all.iter().for_each(|gate| gates.cannot_measure(gate, &reason));
            return Ok(());
        }
    };
    if gates.wants(&G6) {
        launch_rate(&base, &Distant::new(server, Network::new(Duration::from_millis(10))?)?, gates, table)?;
    }
    let steps = [(&G16_1, 1, 50, 9), (&G16_10, 10, 15, 7), (&G16_100, 100, 3, 5)];
    for (gate, milliseconds, count, pairs) in steps {
        if gates.wants(gate) {
            let distant = Distant::new(server, Network::new(Duration::from_millis(milliseconds))?)?;
            step(gate, count, pairs, (&base, &distant), gates, table)?;
        }
    }
    Ok(())
}

/// Judges [`G6`]: a million launches and a synchronize, over both.
fn launch_rate(
    base: &Distant,
    distant: &Distant,
    gates: &mut Gates,
    table: &mut Table,
) -> Result<(), String> {
    let round_trip = distant.describe(LOOKS)?;
    let launches = |at: &Distant| at.checked(|stepper| stepper.product.launches(1_000_000));
    // The kernel's congestion control takes some of them to find out what the network carries.
    for _ in 0..LEAD_IN {
        launches(distant)?;
    }
    let near = RefCell::new(Vec::new());
    gates.judge(&G6, || {
        let at_base = || launches(base).inspect(|took| near.borrow_mut().push(*took));
        // The table has time / time, the gate rate / rate.
        table.pairs(G6.what, 9, at_base, || launches(distant)).map(Measured::recip)
    })?;
    let near = median(near.into_inner());
    eprintln!(
        "     {} ms at 0: with the synchronize's one round trip behind them, the ratio is {:.2}",
        near.as_millis(),
        near.as_secs_f64() / (near + round_trip).as_secs_f64()
    );
    Ok(())
}

fn step(
    gate: &Gate,
    count: usize,
    pairs: usize,
    (base, distant): (&Distant, &Distant),
    gates: &mut Gates,
    table: &mut Table,
) -> Result<(), String> {
    gates.judge(gate, || {
        base.describe(LOOKS)?;
        let round_trip = distant.describe(LOOKS)?;
        table.pairs(
            gate.what,
            pairs,
            || Ok(base.checked(|stepper| stepper.steps(count))? + round_trip * SYNCHRONIZATIONS),
            || distant.checked(|stepper| stepper.steps(count)),
        )
    })
}

/// Runs over the distance that are not measured.
const LEAD_IN: usize = 4;
/// How many round trips tell how long one is.
const LOOKS: usize = 51;
/// Explicit ones of a step.
const SYNCHRONIZATIONS: u32 = 4;
/// Launches of a step.
const LAUNCHES: u32 = 200;
/// Bytes up and bytes down of a step.
const BYTES: u64 = 16 << 10;

impl Distant {
    fn new(server: &str, network: Network) -> Result<Distant, String> {
        let ip = Network::address();
        let settings = Settings { ip, buffer_bytes: 1 << 20, ..Settings::default() };
        let server = network.far(|| Server::start(server, "null", ip, None))?;
        let product = network.near(|| Product::of(server, &settings))?;
        Ok(Distant { stepper: Stepper::new(product)?, network })
    }

    /// Says what the network's round trip is, and answers it.
    fn describe(&self, count: usize) -> Result<Duration, String> {
        let round_trip = self.network.round_trip(count)?;
        eprintln!("     round trip {} us by a raw ping-pong through the relay", round_trip.as_micros());
        Ok(round_trip)
    }

    /// Measures something, and that no packet was lost meanwhile.
    fn checked(&self, measure: impl Fn(&Stepper) -> Result<Duration, String>) -> Result<Duration, String> {
        let took = measure(&self.stepper);
        self.network.check()?;
        took
    }
}

impl Stepper {
    fn new(product: Product) -> Result<Stepper, String> {
        let stream = || product.session.cuStreamCreateWithPriority(1, 0).map_err(cuda("a stream"));
        let streams = [stream()?, stream()?];
        let event = product.session.cuEventCreate(2).map_err(cuda("an event"))?;
        Ok(Stepper { product, streams, event })
    }

    /// The median time of a step; its launches are counted and summed by the device, its bytes compared.
    fn steps(&self, count: usize) -> Result<Duration, String> {
        let tally = |field| self.product.tally(field);
        let before = (tally(0)?, tally(1)?, tally(2)?);
        let (mut times, mut sums) = (Vec::with_capacity(count), (0, 0, 0));
        for index in 0..count {
            times.push(self.step(index as u64, &mut sums)?);
        }
        let arrived =
            (tally(0)? - before.0, tally(1)?.wrapping_sub(before.1), tally(2)?.wrapping_sub(before.2));
        if arrived != sums {
            return Err(format!("{sums:?} were launches, arguments and grids sent; {arrived:?} arrived"));
        }
        Ok(median(times))
    }

    /// One upload, 200 launches on two streams with events between them and a synchronization behind each quarter, and a
    /// download into registered memory before the last. Adds up launches, argument words and grids.
    fn step(&self, seed: u64, sums: &mut (u64, u64, u64)) -> Result<Duration, String> {
        let (session, streams) = (&self.product.session, self.streams);
        let (mut up, mut down) = (self.product.buffer(BYTES, false)?, self.product.buffer(BYTES, true)?);
        for (index, word) in (0_u64..).zip(up.write().chunks_exact_mut(8)) {
            word.copy_from_slice(&(seed << 32 | index).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        }
        down.write().fill(0);
        let start = Instant::now();
        session.copy_to_device(self.product.memory, up, streams[0], false).map_err(cuda("to the device"))?;
        for index in 0..LAUNCHES {
            let stream = streams[usize::from(!index.is_multiple_of(2))];
            let grid = Dim3 { x: 1 + index, y: 1, z: 1 };
            let counter = seed << 32 | u64::from(index);
            let mut arguments = [0; 32];
            arguments[24..].copy_from_slice(&counter.to_le_bytes());
            let config = LaunchConfig {
                grid,
                block: Dim3 { x: 128, y: 1, z: 1 },
                shared_bytes: 0,
                stream,
                cooperative: false,
            };
            session
                .launch(&self.product.function, &config, &arguments)
                .map_err(|refusal| format!("launch: {refusal:?}"))?;
            *sums = (sums.0 + 1, sums.1.wrapping_add(counter), sums.2 + u64::from(grid.x));
            if index.is_multiple_of(25) {
                session.cuEventRecord(self.event, stream).map_err(cuda("recording"))?;
                session.cuStreamWaitEvent(streams[1], self.event, 0).map_err(cuda("waiting in a stream"))?;
            }
            let quarter = LAUNCHES / SYNCHRONIZATIONS;
            if (index + 1).is_multiple_of(quarter) && index + 1 < LAUNCHES {
                session.cuStreamSynchronize(stream).map_err(cuda("synchronize"))?;
            }
        }
        session.copy_to_host(down, self.product.memory, streams[0], false).map_err(cuda("to the host"))?;
        session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
        let took = start.elapsed();
        if up.read() != down.read() {
            return Err("other bytes came back than were sent".into());
        }
        Ok(took)
    }
}
