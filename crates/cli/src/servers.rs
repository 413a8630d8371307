//! Greets the servers of a list. A greeting costs a server no context.

use std::time::{Duration, Instant};

use client::Environment;
use client::connect::{ConnectError, Greeted};
use client::server_list::{Named, Transport};
use proto::DeviceFacts;
use proto::handshake::Status;
use transport::{Address, SocketLink};

use crate::failure::{Failure, Outcome};

/// Where a device of the list is.
#[derive(Clone, Debug)]
pub struct Place {
    pub address: Address,
    pub transport: Transport,
}

/// What a server said.
#[derive(Clone, Debug)]
pub struct Answer {
    pub facts: DeviceFacts,
    /// Of the protocol.
    pub version: u16,
    /// From a question to its answer, the shortest of some.
    pub round_trip: Duration,
    /// How busy the device is, if that was asked and the server knows the question.
    pub status: Option<Status>,
}

/// The list that option `-s` or the environment names, and by which word.
pub fn named(option: Option<&str>) -> Result<Named, String> {
    match option {
        Some(text) => Ok(Named { by: "-s".to_owned(), text: text.to_owned() }),
        None => Named::find(&variable),
    }
}

/// The list that is to be set for a program: what an option says, or what the environment holds already. It is refused if
/// it cannot be read.
pub fn list(option: Option<&str>) -> Outcome<Option<String>> {
    let named = named(option).map_err(|reason| {
        Failure::own(format_args!("{reason}; or use -s \"host:0\", or --soft for a device in software"))
    })?;
    places(&named).map_err(Failure::own)?;
    // The libraries read the older variable and the file themselves.
    Ok(Some(named).filter(|named| matches!(named.by.as_str(), "-s" | "VGPU_SERVER")).map(|named| named.text))
}

/// The devices of a list, in order.
pub fn places(named: &Named) -> Result<Vec<Place>, String> {
    let default = Transport::by_default(&variable)?;
    let first = named.devices()?.into_iter().filter_map(|device| device.servers.into_iter().next());
    Ok(first
        .map(|server| Place { address: server.address, transport: server.transport.unwrap_or(default) })
        .collect())
}

/// A variable of the environment, as text.
pub fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|text| text.to_string_lossy().into_owned())
}

/// Greets all servers at once; `with_status` asks them how busy their devices are.
pub fn greet_all(places: &[Place], times: u32, with_status: bool) -> Vec<Result<Answer, ConnectError>> {
    let what = format!("greeting {} servers", places.len());
    crate::progress::during(&what, || {
        std::thread::scope(|scope| {
            let greeting: Vec<_> = places
                .iter()
                .map(|place| scope.spawn(move || greet(&place.address, times, with_status)))
                .collect();
            let joined = greeting.into_iter().map(|greeting| greeting.join());
            joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    })
}

/// Greets a server `times` times, over a new connection each time, and keeps the shortest round trip.
fn greet(address: &Address, times: u32, with_status: bool) -> Result<Answer, ConnectError> {
    let limits = Environment::default();
    let mut best: Option<Answer> = None;
    for time in (0..times.max(1)).rev() {
        let link = SocketLink::connect(address, limits.connect_timeout, limits.link_timeout)
            .map_err(ConnectError::Link)?;
        let start = Instant::now();
        let mut greeted = Greeted::new(Box::new(link), limits.connect_timeout)?;
        let round_trip = start.elapsed();
        // A server that does not know the question ends the link, so it comes with the last.
        let status =
            if with_status && time == 0 { greeted.status(limits.connect_timeout).ok() } else { None };
        let welcome = greeted.welcome();
        let shortest = best.map_or(round_trip, |best| best.round_trip.min(round_trip));
        best = Some(Answer {
            facts: welcome.facts.clone(),
            version: welcome.version,
            round_trip: shortest,
            status,
        });
    }
    Ok(best.expect("greeted at least once"))
}
