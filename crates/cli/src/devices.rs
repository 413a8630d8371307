//! `vgpu devices`: what nvidia-smi shows, as far as it is known, and where each device is.

use std::process::ExitCode;

use client::connect::ConnectError;
use client::server_list::Transport;
use proto::DeviceFacts;
use serde::Serialize;
use transport::Address;
use transport::verbs::{self, VerbsOptions};

use crate::failure::{Failure, Outcome};
use crate::options;
use crate::servers::{self, Answer, Place};
use crate::table::Table;

/// Shows every device of the list; status 1 if one cannot be used.
pub(crate) fn run(options: &options::Devices) -> Outcome {
    let named = servers::named(options.servers.as_deref()).map_err(Failure::own)?;
    let places = servers::places(&named).map_err(Failure::own)?;
    let answers = servers::greet_all(&places, GREETINGS);
    let has_verbs = verbs::available(&verbs_options()).is_ok();
    let rows: Vec<Row> = places
        .iter()
        .zip(answers)
        .enumerate()
        .map(|(index, (place, answer))| Row::new(index, place, answer, has_verbs))
        .collect();
    if options.json {
        let text = serde_json::to_string_pretty(&rows);
        println!("{}", text.map_err(|error| Failure::own(format_args!("writing JSON: {error}")))?);
    } else {
        print!("{}", table(&rows));
    }
    Ok(ExitCode::from(u8::from(rows.iter().any(|row| row.error.is_some()))))
}

/// What this process would ask of the verbs plug-in.
pub(crate) fn verbs_options() -> VerbsOptions {
    let limits = client::Environment::default();
    VerbsOptions {
        device: servers::variable("VGPU_IB_DEVICE"),
        spin: None,
        connect_timeout: limits.connect_timeout,
        link_timeout: limits.link_timeout,
    }
}

/// One device; what is not known is `null`. A device in use and its utilisation are known to its workers only, and asking
/// them would cost a context.
#[derive(Debug, Serialize)]
struct Row {
    index: usize,
    name: Option<String>,
    uuid: Option<String>,
    bus_id: Option<String>,
    memory_used_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    utilization_percent: Option<u32>,
    compute_mode: Option<&'static str>,
    compute_capability: Option<String>,
    server: String,
    link: &'static str,
    protocol: Option<u16>,
    round_trip_us: Option<f64>,
    /// Why the device cannot be used.
    error: Option<String>,
}

impl Row {
    fn new(index: usize, place: &Place, answer: Result<Answer, ConnectError>, has_verbs: bool) -> Row {
        let (answer, error) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let facts = answer.as_ref().map(|answer| &answer.facts);
        Row {
            index,
            name: facts.map(|facts| facts.name.clone()),
            uuid: facts.map(uuid),
            bus_id: facts.and_then(bus_id),
            memory_used_bytes: None,
            memory_total_bytes: facts.map(|facts| facts.total_memory),
            utilization_percent: None,
            compute_mode: facts.and_then(compute_mode),
            compute_capability: facts
                .and_then(|facts| Some(format!("{}.{}", facts.attribute(MAJOR)?, facts.attribute(MINOR)?))),
            server: place.address.to_string(),
            link: link(place, has_verbs),
            protocol: answer.as_ref().map(|answer| answer.version),
            round_trip_us: answer
                .as_ref()
                .map(|answer| (answer.round_trip.as_secs_f64() * 1e7).round() / 10.0),
            error,
        }
    }
}

fn table(rows: &[Row]) -> Table {
    let header = ["GPU", "Name", "Bus-Id", "Memory", "Util", "Compute M.", "Server", "Link", "Round trip"];
    let mut table = Table::new(&header);
    let unknown = || "-".to_owned();
    for row in rows {
        let mut cells = vec![row.index.to_string()];
        if let Some(error) = &row.error {
            // One line: a list's mistake has more.
            cells.push(format!("unavailable: {}", error.replace('\n', " ")));
            table.push_wide(cells);
            continue;
        }
        let mib = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| format!("{}MiB", bytes >> 20));
        cells.extend([
            row.name.clone().unwrap_or_else(unknown),
            row.bus_id.clone().unwrap_or_else(unknown),
            format!("{} / {}", mib(row.memory_used_bytes), mib(row.memory_total_bytes)),
            row.utilization_percent.map_or_else(unknown, |percent| format!("{percent}%")),
            row.compute_mode.map_or_else(unknown, str::to_owned),
            row.server.clone(),
            row.link.to_owned(),
            row.round_trip_us.map_or_else(unknown, |us| format!("{us:.1} us")),
        ]);
        table.push(cells);
    }
    table
}

/// As nvidia-smi writes it.
fn uuid(facts: &DeviceFacts) -> String {
    let hex: String = facts.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn bus_id(facts: &DeviceFacts) -> Option<String> {
    let (domain, bus, device) = (facts.attribute(DOMAIN)?, facts.attribute(BUS)?, facts.attribute(DEVICE)?);
    Some(format!("{domain:08X}:{bus:02X}:{device:02X}.0"))
}

fn compute_mode(facts: &DeviceFacts) -> Option<&'static str> {
    // CUDA Driver API, CUcomputemode.
    match facts.attribute(COMPUTE_MODE)? {
        0 => Some("Default"),
        2 => Some("Prohibited"),
        3 => Some("E. Process"),
        _ => None,
    }
}

/// What bytes would go over. Whether the server has verbs is told only to a client that begins to work.
fn link(place: &Place, has_verbs: bool) -> &'static str {
    match (&place.address, place.transport) {
        (Address::Unix(_), _) => "unix",
        (_, Transport::Verbs) => "verbs",
        (_, Transport::Auto) if has_verbs => "verbs, else tcp",
        _ => "tcp",
    }
}

/// The first greeting after a pause is slow; of these the shortest counts.
const GREETINGS: u32 = 8;

// CUDA Driver API, CUdevice_attribute.
const COMPUTE_MODE: i32 = 20;
const BUS: i32 = 33;
const DEVICE: i32 = 34;
const DOMAIN: i32 = 50;
const MAJOR: i32 = 75;
const MINOR: i32 = 76;

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> DeviceFacts {
        let mut attributes = vec![None; 100];
        for (number, value) in
            [(COMPUTE_MODE, 0), (BUS, 0xc1), (DEVICE, 0), (DOMAIN, 1), (MAJOR, 9), (MINOR, 0)]
        {
            attributes[usize::try_from(number).unwrap()] = Some(value);
        }
        DeviceFacts {
            name: "NVIDIA H200".into(),
            uuid: std::array::from_fn(|index| u8::try_from(index).unwrap()),
            total_memory: 141 << 30,
            driver_version: 13000,
            attributes,
            stream_priorities: (0, 0),
        }
    }

    fn place(text: &str) -> Place {
        let named = client::server_list::Named { by: "test".into(), text: text.into() };
        servers::places(&named).unwrap().remove(0)
    }

    #[test]
    fn a_device_is_shown_as_nvidia_smi_shows_it() {
        let answer =
            Answer { facts: facts(), version: 2, round_trip: std::time::Duration::from_nanos(41_250) };
        let row = Row::new(0, &place("gpuhost:0"), Ok(answer), false);
        assert_eq!(row.uuid.as_deref(), Some("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"));
        assert_eq!(row.compute_capability.as_deref(), Some("9.0"));
        let dead = ConnectError::Silent { peer: "b".into(), timeout: std::time::Duration::from_secs(2) };
        let dead = Row::new(1, &place("b:0"), Err(dead), false);
        let shown = table(&[row, dead]).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "GPU  Name         Bus-Id            Memory         Util  Compute M.  Server         Link  Round trip",
                "0    NVIDIA H200  00000001:C1:00.0  - / 144384MiB  -     Default     gpuhost:40800  tcp   41.3 us",
            ]
        );
        assert!(lines[2].starts_with("1    unavailable: b accepted the connection"), "{shown}");
    }

    #[test]
    fn the_link_is_what_the_list_and_this_machine_allow() {
        for (text, has_verbs, expected) in [
            ("a", false, "tcp"),
            ("a", true, "verbs, else tcp"),
            ("tcp://a", true, "tcp"),
            ("ib://a", false, "verbs"),
            ("unix:/a", true, "unix"),
        ] {
            assert_eq!(link(&place(text), has_verbs), expected, "{text}");
        }
    }
}
