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

/// A client process.
struct Client {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// How many clients work at once, by turns.
const SIZES: [usize; 3] = [1, 8, 64];
/// What they share in each turn.
const LAUNCHES: usize = 2_000_000;
const ROUNDS: usize = 5;

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
            let rates = SIZES.map(|size| turn(&mut clients[..size]));
            let [one, eight, all] = rates;
            let rates = [one?, eight?, all?];
            let (least, best) =
                (rates.into_iter().fold(f64::MAX, f64::min), rates.into_iter().fold(0.0, f64::max));
            rounds.push((least / best, rates));
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (median, rates) = rounds[ROUNDS / 2];
        let shown = rates.map(|rate| format!("{:.2}", rate / 1e6)).join(", ");
        eprintln!(
            "     {shown} M launches/s of 1, 8, 64 clients; least / best {:.2} - {:.2}",
            rounds[0].0,
            rounds[ROUNDS - 1].0
        );
        Ok(Measured { value: median, samples: rounds.iter().map(|round| round.0).collect() })
    })
}

/// Has all of these launch at once; launches a second, until the last is done.
fn turn(clients: &mut [Client]) -> Result<f64, String> {
    let each = LAUNCHES / clients.len();
    let start = Instant::now();
    clients.iter_mut().try_for_each(|client| client.order(each))?;
    clients.iter_mut().try_for_each(|client| client.answer("done"))?;
    let total = u32::try_from(each * clients.len()).map_err(|_| "too many launches")?;
    Ok(f64::from(total) / start.elapsed().as_secs_f64())
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
