//! Measures the product beside a raw socket that carries the same bytes, both in one run, turn by turn.
//!
//! The device is the null device, so that what is measured is everything but a GPU. Each figure is the median of the
//! ratios of neighbouring pairs (raw, product, raw, product ...), because a shared machine drifts by far more than
//! what is to be seen. Every run checks that the work arrived: a figure whose bytes or counts are wrong is an error.
//!
//! Usage: `benches PATH-OF-VGPU-SERVER` (`cargo xtask bench` does it).
//!
//! Layout:
//! * [`raw`]: the baseline: a peer process that answers, counts and sends
//! * [`verbs`]: the same over verbs, beside bare verbs
//! * [`server`]: a server process; [`product`]: one and a session with it
//! * [`gates`]: what is promised; [`promises`]: measures it
//! * of these, [`instructions`]: of a client; [`delay`]: over a distance that [`relay`] makes; [`memory`]: of a worker;
//!   [`many`]: of many clients
//! * [`table`]: medians and their presentation

#![forbid(unsafe_code)]

mod delay;
mod gates;
mod instructions;
mod many;
mod memory;
mod product;
mod promises;
mod raw;
mod relay;
mod server;
mod table;
mod verbs;

use std::process::ExitCode;

use product::Product;
use raw::Raw;
use table::Table;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--raw-peer", port] => raw::serve(port),
        ["--client", port] => many::serve(port),
        ["--bare-verbs-peer"] => verbs::serve(),
        ["--verbs", ip, server] => verbs::run(ip, server),
        ["--gates", server, ..] => judge(server, &arguments[2..]),
        [server] => run(server),
        _ => Err("usage: benches [--verbs ADDRESS | --gates] PATH-OF-VGPU-SERVER".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benches: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the promises: `--counts` leaves timings out, `--only G1,G4` chooses, `--json FILE` writes them down, and with
/// `--gate` one that is not kept is an error.
fn judge(server: &str, options: &[String]) -> Result<(), String> {
    let value = |name: &str| {
        let at = options.iter().position(|option| option == name)?;
        options.get(at + 1).cloned()
    };
    let has = |name: &str| options.iter().any(|option| option == name);
    let only = value("--only").map_or_else(Vec::new, |list| list.split(',').map(str::to_owned).collect());
    let mut gates = gates::Gates::new(only, has("--counts"));
    println!("{}", machine());
    let client = value("--program").zip(value("--libraries")).map(|(program, libraries)| {
        instructions::Client { program: program.into(), libraries: libraries.into() }
    });
    promises::run(server, client.as_ref(), &mut gates)?;
    if let Some(file) = value("--also") {
        let json = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        gates.add_judged(&json)?;
    }
    if let Some(folder) = value("--plot") {
        gates.draw(folder.as_ref())?;
    }
    if let Some(file) = value("--json") {
        std::fs::write(&file, gates.json()?).map_err(|error| format!("{file}: {error}"))?;
    }
    let kept = gates.print();
    if has("--gate") { kept } else { Ok(()) }
}

/// Where the two processes run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Placement {
    OneCore,
    TwoCores,
    /// One core, and not that of `OneCore`.
    Second,
}

fn run(server: &str) -> Result<(), String> {
    println!("{}", machine());
    let mut table = Table::default();
    for placement in [Placement::OneCore, Placement::TwoCores] {
        place(placement)?;
        let name = if placement == Placement::OneCore { "one core" } else { "two cores" };
        let (raw, product) = (Raw::start()?, Product::start(server, "null")?);
        table.pairs(
            &format!("synchronous call, blocking, {name}, p50"),
            9,
            || raw.ping_pong(2000),
            || product.synchronous_calls(2000),
        )?;
    }
    let (raw, product) = (Raw::start()?, Product::start(server, "null")?);
    let (sends, bytes) = product.launch_costs()?;
    table.note("sends per launch", &format!("{sends:.4}"));
    table.note("bytes sent per launch with 4 arguments", &format!("{bytes:.1}"));
    table.pairs(
        "200,000 launches and a synchronize, two cores",
        7,
        || raw.stream_calls(200_000),
        || product.launches(200_000),
    )?;
    table.note("launches per second, product", &product.launch_rate(500_000)?);
    for (driver, mode) in [("null", "copying device"), ("null-dma-free", "dma-free device")] {
        let product = Product::start(server, driver)?;
        for locked in [false, true] {
            let memory = if locked { "registered" } else { "pageable" };
            for (bytes, name, pairs) in [(64 << 10, "64 KiB", 15), (256 << 20, "256 MiB", 5)] {
                table.pairs(
                    &format!("to the device, {name}, {memory}, {mode}"),
                    pairs,
                    || raw.up(bytes),
                    || product.up(bytes, locked),
                )?;
                table.pairs(
                    &format!("to the host, {name}, {memory}, {mode}"),
                    pairs,
                    || raw.down(bytes),
                    || product.down(bytes, locked),
                )?;
            }
        }
    }
    table.print();
    Ok(())
}

/// Restricts this process, and those it starts from now on, to one or two processors.
fn place(placement: Placement) -> Result<(), String> {
    let mut set = rustix::thread::CpuSet::new();
    let processors = match placement {
        Placement::OneCore => 0..1,
        Placement::TwoCores => 0..PROCESSORS,
        Placement::Second => 1..2,
    };
    processors.for_each(|processor| set.set(processor));
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| format!("choosing processors: {error}"))
}

/// As many as any machine for this has; those that it has not are ignored.
const PROCESSORS: usize = 64;

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned())
        })
        .unwrap_or_default();
    format!(
        "{model}, {} processors, load {}, TCP congestion control {} on both sides",
        std::thread::available_parallelism().map_or(0, usize::from),
        read("/proc/loadavg").split(' ').next().unwrap_or("?"),
        read("/proc/sys/net/ipv4/tcp_congestion_control").trim()
    )
}
