//! `vgpu devices`: what nvidia-smi shows, as far as it is known, and where each device is.

use std::process::ExitCode;

use client::connect::ConnectError;
use client::server_list::Transport;
use proto::DeviceFacts;
use proto::handshake::ClientStatus;
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
    let answers = servers::greet_all(&places, GREETINGS, true);
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
        if rows.iter().any(|row| row.processes.as_ref().is_some_and(|all| !all.is_empty())) {
            print!("\n{}", processes(&rows));
        }
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

/// One device; what is not known is `null`, or missing in a server of an older release.
#[derive(Debug, Serialize)]
struct Row {
    index: usize,
    name: Option<String>,
    uuid: Option<String>,
    bus_id: Option<String>,
    memory_used_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    utilization_percent: Option<u8>,
    compute_mode: Option<&'static str>,
    compute_capability: Option<String>,
    server: String,
    link: &'static str,
    protocol: Option<u16>,
    round_trip_us: Option<f64>,
    /// Why the device cannot be used.
    error: Option<String>,
    /// Who has a context on the device.
    processes: Option<Vec<Process>>,
}

/// A program that uses a device.
#[derive(Debug, Serialize)]
struct Process {
    pid: Option<u32>,
    name: String,
    /// Where it runs, as it says itself, or from where the server sees it come.
    host: String,
    memory_used_bytes: Option<u64>,
    seconds: u64,
}

impl Row {
    fn new(index: usize, place: &Place, answer: Result<Answer, ConnectError>, has_verbs: bool) -> Row {
        let (answer, error) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let facts = answer.as_ref().map(|answer| &answer.facts);
        let status = answer.as_ref().and_then(|answer| answer.status.as_ref());
        Row {
            index,
            name: facts.map(|facts| facts.name.clone()),
            uuid: facts.map(DeviceFacts::uuid_text),
            bus_id: facts.and_then(bus_id),
            memory_used_bytes: status.and_then(|status| status.used_bytes),
            memory_total_bytes: facts.map(|facts| facts.total_memory),
            utilization_percent: status.and_then(|status| status.utilization_percent),
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
            processes: status.map(|status| status.clients.iter().map(Process::new).collect()),
        }
    }
}

impl Process {
    fn new(client: &ClientStatus) -> Process {
        // Clients call themselves `program[process]@host`; what is not of this form is shown as it is.
        let own = client.name.rsplit_once("]@").zip(client.process);
        let parts = own.and_then(|((before, host), _)| Some((before.rsplit_once('[')?.0, host)));
        let (name, host) = parts.unwrap_or((&client.name, &client.peer));
        Process {
            pid: client.process,
            name: name.to_owned(),
            host: host.to_owned(),
            memory_used_bytes: client.used_bytes,
            seconds: client.seconds,
        }
    }
}

fn table(rows: &[Row]) -> Table {
    let header =
        ["GPU", "Name", "Bus-Id", "Memory-Usage", "GPU-Util", "Compute M.", "Server", "Link", "Round trip"];
    let mut table = Table::new(&header);
    for row in rows {
        let mut cells = vec![row.index.to_string()];
        if let Some(error) = &row.error {
            // One line: a list's mistake has more.
            cells.push(format!("unavailable: {}", error.replace('\n', " ")));
            table.push_wide(cells);
            continue;
        }
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

/// The second table of nvidia-smi; all processes compute (type C).
fn processes(rows: &[Row]) -> Table {
    let mut table = Table::new(&["GPU", "PID", "Type", "Process name", "GPU Memory", "Host"]);
    for row in rows {
        for process in row.processes.iter().flatten() {
            table.push(vec![
                row.index.to_string(),
                process.pid.map_or_else(unknown, |pid| pid.to_string()),
                "C".to_owned(),
                process.name.clone(),
                mib(process.memory_used_bytes),
                process.host.clone(),
            ]);
        }
    }
    table
}

fn mib(bytes: Option<u64>) -> String {
    bytes.map_or_else(unknown, |bytes| format!("{}MiB", bytes >> 20))
}

fn unknown() -> String {
    "-".to_owned()
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
        let answer = Answer {
            facts: facts(),
            version: 2,
            round_trip: std::time::Duration::from_nanos(41_250),
            status: None,
        };
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
                "GPU  Name         Bus-Id            Memory-Usage   GPU-Util  Compute M.  Server         Link  Round trip",
                "0    NVIDIA H200  00000001:C1:00.0  - / 144384MiB  -         Default     gpuhost:40800  tcp   41.3 us",
            ]
        );
        assert!(lines[2].starts_with("1    unavailable: b accepted the connection"), "{shown}");
    }

    /// What nvidia-smi 580 prints, as far as there is something of it here.
    const NVIDIA_SMI: &str = "\
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|   0  NVIDIA H200                    On  | 00000001:C1:00.0   Off |                    0 |
| N/A   30C    P0             76W / 700W  |   1536MiB / 144384MiB  |      37%     Default |
| Processes:                                                                              |
|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |
|    0   N/A  N/A            4711      C   train                                   1024MiB |
|    0   N/A  N/A              12      C   a.out                                    512MiB |
";

    #[test]
    fn what_overlaps_with_nvidia_smi_has_its_names_and_formats() {
        let client = |name: &str, process, bytes: u64| ClientStatus {
            name: name.into(),
            peer: "10.0.0.9:4321".into(),
            process,
            seconds: 60,
            used_bytes: Some(bytes),
        };
        let status = proto::handshake::Status {
            total_memory: 141 << 30,
            used_bytes: Some(1536 << 20),
            utilization_percent: Some(37),
            clients: vec![
                client("train[4711]@node1", Some(4711), 1024 << 20),
                client("a.out[12]@node2", Some(12), 512 << 20),
            ],
        };
        let round_trip = std::time::Duration::from_micros(40);
        let answer = Answer { facts: facts(), version: 3, round_trip, status: Some(status) };
        let row = Row::new(0, &place("gpuhost:0"), Ok(answer), false);
        let rows = [row];
        let shown = format!("{}\n{}", table(&rows), processes(&rows));
        let expected = "\
GPU  Name         Bus-Id            Memory-Usage          GPU-Util  Compute M.  Server         Link  Round trip
0    NVIDIA H200  00000001:C1:00.0  1536MiB / 144384MiB   37%       Default     gpuhost:40800  tcp   40.0 us

GPU  PID   Type  Process name  GPU Memory  Host
0    4711  C     train         1024MiB     node1
0    12    C     a.out         512MiB      node2
";
        let squeezed = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(squeezed(&shown), squeezed(expected));
        // Every cell but those of the network is one of nvidia-smi's.
        let ours =
            ["Server", "Link", "Round trip", "gpuhost:40800", "tcp", "40.0 us", "Host", "node1", "node2"];
        let cells =
            shown.lines().flat_map(|line| line.split("  ")).map(str::trim).filter(|cell| !cell.is_empty());
        let mut compared = 0;
        for cell in cells.filter(|cell| !ours.contains(cell)) {
            let bounded = |part: &str| part.starts_with([' ', '|']) || part.is_empty();
            let found = NVIDIA_SMI.match_indices(cell).any(|(at, _)| bounded(&NVIDIA_SMI[at + cell.len()..]));
            assert!(found, "{cell:?} is not nvidia-smi's");
            compared += 1;
        }
        assert_eq!(compared, 6 + 6 + 5 + 5 + 5);
    }

    #[test]
    fn a_client_with_another_name_is_shown_by_its_address() {
        let client = ClientStatus {
            name: "by hand".into(),
            peer: "10.0.0.9:4321".into(),
            process: None,
            seconds: 1,
            used_bytes: None,
        };
        let process = Process::new(&client);
        assert_eq!(
            (process.name.as_str(), process.host.as_str(), process.pid),
            ("by hand", "10.0.0.9:4321", None)
        );
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
