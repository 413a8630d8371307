//! Launches a second of many client processes on one server device.
//!
//! Clients are processes of this program. All of them are connected before anything is measured; then 1, 8 and 64 of them
//! share the same number of launches, turn by turn, each with a start of its own from this process: a line with a count,
//! which it answers when its device has counted that many launches, all different.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use transport::Address;

use crate::gates::{G23, Gates, Measured};
use crate::product::{Product, Settings};
use crate::server::Server;
use crate::table::median;

/// A client process.
struct Client {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// How many clients work at once, by turns.
const SIZES: [usize; 3] = [1, 8, 64];
/// What they share in each turn.
const LAUNCHES: usize = 8_000_000;
/// And before that, unmeasured: while clients begin and others have just ended, the kernel moves threads between processors.
const LEAD: usize = 3_000_000;
const ROUNDS: usize = 9;

/// Measures the gate, if it is asked for.
pub(crate) fn run(server: &str, gates: &mut Gates) -> Result<(), String> {
    if !gates.wants(&G23) {
        return Ok(());
    }
    let server = Server::start(server, "null", Settings::default().ip, None)?;
    let started: Result<Vec<Client>, String> =
        (0..SIZES[SIZES.len() - 1]).map(|_| Client::start(server.port())).collect();
    let mut clients = started?;
    clients.iter_mut().try_for_each(|client| client.answer("ready"))?;
    gates.judge(&G23, || {
        // Once unmeasured: the first run pays for pages and buffers.
        SIZES.iter().try_for_each(|size| turn(&mut clients[..*size]).map(drop))?;
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let [one, eight, all] = SIZES.map(|size| turn(&mut clients[..size]));
            rounds.push([one?, eight?, all?]);
        }
        let rates: Vec<String> = (0..SIZES.len())
            .map(|size| format!("{:.2}", median(rounds.iter().map(|rates| rates[size])) / 1e6))
            .collect();
        eprintln!("     {} M launches/s of 1, 8, 64 clients", rates.join(", "));
        Ok(least_of_best(&rounds))
    })
}

/// The size that falls most behind another, by the median of the rounds' ratios, and those ratios. The least and the best of
/// each round would come out unequal even if only chance told them apart.
fn least_of_best(rounds: &[[f64; SIZES.len()]]) -> Measured {
    let pairs = (0..SIZES.len()).flat_map(|a| (0..SIZES.len()).map(move |b| (a, b)));
    let compared = pairs.map(|(a, b)| {
        let samples: Vec<f64> = rounds.iter().map(|rates| rates[a] / rates[b]).collect();
        Measured { value: median(samples.iter().copied()), samples }
    });
    compared.min_by(|a, b| a.value.total_cmp(&b.value)).expect("there are sizes")
}

/// Has all of these launch at once; launches a second, until the last is done.
fn turn(clients: &mut [Client]) -> Result<f64, String> {
    share(clients, LEAD)?;
    let start = Instant::now();
    let total = share(clients, LAUNCHES)?;
    Ok(f64::from(total) / start.elapsed().as_secs_f64())
}

/// Has these launch so often in all, each its part; how often they have.
fn share(clients: &mut [Client], launches: usize) -> Result<u32, String> {
    let each = launches / clients.len();
    clients.iter_mut().try_for_each(|client| client.order(each))?;
    clients.iter_mut().try_for_each(|client| client.answer("done"))?;
    u32::try_from(each * clients.len()).map_err(|_| "too many launches".into())
}

impl Client {
    fn start(port: u16) -> Result<Client, String> {
        let failed = |error| format!("starting a client: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut process = Command::new(program)
            .args(["--client", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (orders, answers) = pipes.ok_or("a client has no pipes")?;
        Ok(Client { process, orders, answers: BufReader::new(answers) })
    }

    fn order(&mut self, launches: usize) -> Result<(), String> {
        writeln!(self.orders, "{launches}").map_err(|error| format!("a client takes no orders: {error}"))
    }

    fn answer(&mut self, expected: &str) -> Result<(), String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| format!("a client does not answer: {error}"))?;
        if line.trim() == expected { Ok(()) } else { Err(format!("a client answered {line:?}")) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended with an error of its own.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The client's side: launches as often as each line says.
pub(crate) fn serve(port: &str) -> Result<(), String> {
    let port = port.parse().map_err(|error| format!("port {port:?}: {error}"))?;
    let settings = Settings { buffer_bytes: 1 << 20, ..Settings::default() };
    let address = Address::Tcp { host: settings.ip.to_string(), port };
    let product = Product::connect(address, &settings)?;
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line.map_err(|error| format!("orders: {error}"))?;
        let launches = line.parse().map_err(|error| format!("order {line:?}: {error}"))?;
        let _: Duration = product.launches(launches)?;
        println!("done");
    }
    Ok(())
}
