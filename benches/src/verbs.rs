//! The product over verbs beside bare verbs, in the same run, both polling.
//!
//! Usage: `benches --verbs ADDRESS PATH-OF-VGPU-SERVER`, where ADDRESS is one of an RDMA device of this machine: the
//! server listens there, and traffic to it leaves through another device.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use client::server_list::Transport;
use transport::verbs::VerbsError;
use transport::verbs::raw::{Message, Raw, RawHost};

use crate::gates::Measured;
use crate::product::{Product, Settings};
use crate::raw::{REPLY_BYTES, REQUEST_BYTES};
use crate::table::{Table, median};
use crate::{Placement, place};

/// Far longer than a round trip, so both ends poll through it, and short enough that nobody polls in the other's turn.
const POLLING: Duration = Duration::from_millis(2);
/// After that, pollers of the turn before sleep.
const PAUSE: Duration = Duration::from_millis(30);
const BULK_BYTES: u64 = 4 << 20;

fn verbs(doing: &str) -> impl Fn(VerbsError) -> String + '_ {
    move |error| format!("bare verbs, {doing}: {error}")
}

/// The peer process of the baseline and the connection to it.
struct Bare {
    raw: Raw,
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Bare {
    fn start(ip: IpAddr) -> Result<Bare, String> {
        let program = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
        let mut process = Command::new(program)
            .arg("--bare-verbs-peer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting the peer: {error}"))?;
        let orders = process.stdin.take().ok_or("the peer has no input")?;
        let mut answers = BufReader::new(process.stdout.take().ok_or("the peer has no output")?);
        let mut port = String::new();
        answers.read_line(&mut port).map_err(|error| format!("the peer's port: {error}"))?;
        let port = port.trim().parse().map_err(|error| format!("the peer said {port:?}: {error}"))?;
        let raw = Raw::connect(ip, port).map_err(verbs("connecting"))?;
        Ok(Bare { raw, process, orders, answers })
    }

    fn ask(&mut self, line: &str) -> Result<(), String> {
        writeln!(self.orders, "{line}").map_err(|error| format!("asking the peer: {error}"))?;
        let mut ready = String::new();
        self.answers.read_line(&mut ready).map_err(|error| format!("the peer: {error}"))?;
        if ready.trim() == "ready" { Ok(()) } else { Err(format!("the peer said {ready:?}")) }
    }

    /// The median round trip.
    fn ping_pong(&mut self, how: Message, count: u32) -> Result<Duration, String> {
        std::thread::sleep(PAUSE);
        self.ask(&format!("echo {how:?} {count}"))?;
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            self.raw.send(how, REQUEST_BYTES as u64).map_err(verbs("ping"))?;
            self.raw.receive().map_err(verbs("pong"))?;
            times.push(start.elapsed());
        }
        Ok(median(times))
    }

    /// One RDMA WRITE of fresh bytes until it is acknowledged; the peer says what arrived.
    fn write(&mut self, seed: u64) -> Result<Duration, String> {
        let mut memory =
            self.raw.memory().slice(0, usize::try_from(BULK_BYTES).unwrap_or(0)).expect("inside");
        for (index, word) in (0_u64..).zip(memory.write().chunks_exact_mut(8)) {
            word.copy_from_slice(&(index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes());
        }
        let start = Instant::now();
        self.raw.write(BULK_BYTES, BULK_BYTES).map_err(verbs("writing"))?;
        let took = start.elapsed();
        writeln!(self.orders, "sum").map_err(|error| format!("asking the peer: {error}"))?;
        let mut sum = String::new();
        self.answers.read_line(&mut sum).map_err(|error| format!("the peer: {error}"))?;
        let expected = vgpu_server::null::word_sum(memory.read());
        if sum.trim() == expected.to_string() { Ok(took) } else { Err("other bytes arrived".into()) }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended with an error of its own.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The peer's side: orders come on standard input.
pub(crate) fn serve() -> Result<(), String> {
    let host = RawHost::open().map_err(verbs("listening"))?;
    let mut out = std::io::stdout();
    let mut say = |line: &str| -> Result<(), String> {
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| format!("answering: {error}"))
    };
    say(&host.port().to_string())?;
    let mut raw = host.accept().map_err(verbs("accepting"))?;
    for line in std::io::stdin().lines() {
        let line = line.map_err(|error| format!("orders: {error}"))?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["echo", how, count] => {
                let how = if how == "Send" { Message::Send } else { Message::Write };
                let count: u32 = count.parse().map_err(|error| format!("{line}: {error}"))?;
                say("ready")?;
                for _ in 0..count {
                    raw.receive().map_err(verbs("ping"))?;
                    raw.send(how, REPLY_BYTES as u64).map_err(verbs("pong"))?;
                }
            }
            ["sum"] => {
                let memory = raw.memory().slice(0, usize::try_from(BULK_BYTES).unwrap_or(0)).expect("inside");
                say(&vgpu_server::null::word_sum(memory.read()).to_string())?;
            }
            _ => return Err(format!("the peer was asked for {line:?}")),
        }
    }
    Ok(())
}

/// The median of synchronous calls, after the pollers of the turn before have gone to sleep.
fn calls(product: &Product) -> Result<Duration, String> {
    std::thread::sleep(PAUSE);
    product.synchronous_calls(300)
}

/// What must hold where this runs, as product to baseline.
const CALL_GATE: f64 = 1.5;
const COPY_GATE: f64 = 1.0 / 0.85;
const TCP_GATE: f64 = 1.0;

/// Measures again, up to three times, while the median is above the gate; the least of the medians. The machine is shared, as with
/// all timings that are judged ([`crate::gates`]).
fn best_of_three(
    gate: f64,
    mut measure: impl FnMut() -> Result<Measured, String>,
) -> Result<Measured, String> {
    let mut best = measure()?;
    for _ in 1..3 {
        if best.value <= gate {
            break;
        }
        let again = measure()?;
        best = if again.value < best.value { again } else { best };
    }
    Ok(best)
}

/// Prints the table; fails if a gate is missed, or if a counter says that the steady path did what it must not.
pub(crate) fn run(ip: &str, server: &str) -> Result<(), String> {
    let ip: IpAddr = ip.parse().map_err(|error| format!("{ip}: {error}"))?;
    let mut table = Table::default();
    let settings = |transport, spin| Settings { ip, transport, spin, buffer_bytes: 16 << 20 };
    // One processor for this side and one for the other: two pollers on one would wait for each other's turns.
    place(Placement::Second)?;
    let mut bare = Bare::start(ip)?;
    let product = Product::with(server, "null", &settings(Transport::Verbs, Some(POLLING)))?;
    place(Placement::OneCore)?;
    println!("{}", product.link());
    let call = best_of_three(CALL_GATE, || {
        table.pairs(
            "synchronous call over verbs, both polling, a core each, p50 / bare verbs",
            15,
            || bare.ping_pong(Message::Write, 300),
            || calls(&product),
        )
    })?;
    table.pairs_of_two(
        "bare SEND / bare WRITE with immediate, polling, a core each, p50",
        9,
        &mut bare,
        |bare| bare.ping_pong(Message::Write, 300),
        |bare| bare.ping_pong(Message::Send, 300),
    )?;
    drop(product);
    place(Placement::TwoCores)?;
    // Copies with the default wait policy: polling threads would take the processors from those that copy.
    let product = Product::with(server, "null", &settings(Transport::Verbs, None))?;
    let mut seed = 0;
    let registrations = product.registrations();
    let mut copies = |what: &str, copy: &dyn Fn() -> Result<Duration, String>| {
        best_of_three(COPY_GATE, || {
            let write = || {
                seed += 1;
                bare.write(seed)
            };
            table.pairs(
                &format!("4 MiB {what}, registered, and synchronize / bare RDMA WRITE"),
                9,
                write,
                copy,
            )
        })
    };
    let copy = copies("to the device", &|| product.up(BULK_BYTES, true))?;
    let down = copies("to the host", &|| product.down(BULK_BYTES, true))?;
    let steady = product.registrations();
    drop(bare);
    drop(product);
    place(Placement::Second)?;
    let product = Product::with(server, "null", &settings(Transport::Verbs, Some(POLLING)))?;
    let tcp = Product::with(server, "null", &settings(Transport::Tcp, None))?;
    place(Placement::OneCore)?;
    let against_tcp = best_of_three(TCP_GATE, || {
        table.pairs(
            "synchronous call over verbs, polling, a core each, p50 / over TCP between the same addresses",
            15,
            || calls(&tcp),
            || calls(&product),
        )
    })?;
    drop(tcp);
    drop(product);
    let sleeping = Product::with(server, "null", &settings(Transport::Verbs, None))?;
    table.note(
        "synchronous call over verbs, wait policy by measurement, p50",
        &format!("{:.0} us", sleeping.synchronous_calls(300)?.as_secs_f64() * 1e6),
    );
    table.note(
        "registrations from the first copy of a buffer to the last",
        &format!("{}", steady - registrations),
    );
    table.print();
    let gates = [
        ("a synchronous call", call, CALL_GATE),
        ("a copy to the device", copy, COPY_GATE),
        ("a copy to the host", down, COPY_GATE),
        ("a synchronous call against TCP", against_tcp, TCP_GATE),
    ];
    let missed: Vec<String> = gates
        .iter()
        .filter(|(_, ratio, gate)| ratio.value > *gate)
        .map(|(what, ratio, gate)| format!("{what}: {:.2}, at most {gate:.2}", ratio.value))
        .collect();
    // The buffer of the benchmark on the first copy.
    if steady - registrations > 1 {
        return Err(format!("{} registrations where one belongs", steady - registrations));
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("missed: {}", missed.join("; "))) }
}
