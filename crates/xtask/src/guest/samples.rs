//! The four samples over verbs, and the proof that their bytes went through the RDMA devices.

use super::devices::{Counters, ENDS};
use super::{Guest, sum_up, timed};
use crate::launch::{Run, Way};
use crate::samples::{Runtime, sample};
use crate::servers::Servers;
use crate::toolchain::Mpi;
use crate::workspace::{Failure, Outcome};

/// Runs them on two servers with two ranks.
pub(super) fn check(guest: &Guest) -> Outcome {
    Counters::watch()?;
    let servers = guest.servers(2)?;
    let mut summary = Vec::new();
    for program in &PROGRAMS {
        summary.push((program.name, timed(|| run(guest, &servers, program))));
    }
    sum_up(&summary).inspect_err(|_| println!("servers:\n{}", servers.log()))
}

/// A sample with the size that suits an emulated processor.
struct Program {
    name: &'static str,
    arguments: &'static [&'static str],
    /// What each rank copies to its device and from it, by the arguments.
    up_bytes: u64,
    down_bytes: u64,
}

const PROGRAMS: [Program; 4] = [
    // 1 Mi elements of 4 bytes: two vectors up, one down.
    Program { name: "vecadd", arguments: &["1048576"], up_bytes: 8 << 20, down_bytes: 4 << 20 },
    // 16, 64, 256, 1024 and 4096 KiB, each twice pageable and twice pinned.
    Program {
        name: "bandwidth",
        arguments: &["4", "2"],
        up_bytes: (4 * 5456) << 10,
        down_bytes: (4 * 5456) << 10,
    },
    // One matrix of 1000 x 1000 up, three down.
    Program { name: "transpose", arguments: &["1000", "2"], up_bytes: 4_000_000, down_bytes: 12_000_000 },
    // Three vectors up, two down.
    Program { name: "BlackScholes", arguments: &["400000", "2"], up_bytes: 4_800_000, down_bytes: 3_200_000 },
];

fn run(guest: &Guest, servers: &Servers, program: &Program) -> Outcome {
    let before = Counters::read()?;
    let path = sample(&guest.dist, program.name, Mpi::OpenMpi, Runtime::Shared);
    let launcher = guest.launcher(servers);
    let run = launcher.under_mpi((&path, program.arguments), Way::Path, Mpi::OpenMpi, RANKS)?;
    let after = Counters::read()?;
    let moved = [after[0].since(&before[0]), after[1].since(&before[1])];
    let mut wrong = Vec::new();
    let verified = run
        .verdict(program.name)
        .is_some_and(|verdict| verdict.verified && verdict.ranks == RANKS && verdict.devices == 2);
    println!(
        "    {}: {} in {:.1} s",
        program.name,
        if verified { "VERIFIED" } else { "NOT VERIFIED" },
        run.seconds
    );
    if !(verified && run.succeeded) {
        wrong.push("not verified".to_owned());
    }
    if guest.is_over_verbs() {
        wrong.extend(check_links(&run));
    }
    let copied = [program.up_bytes, program.down_bytes].map(|bytes| bytes * u64::from(RANKS));
    for (index, (device, netdev)) in ENDS.into_iter().enumerate() {
        let (this, peer) = (&moved[index], &moved[1 - index]);
        let carried = this.payload_bytes(peer);
        println!("      {device}, {netdev}: {}", this.show());
        println!(
            "      {device}: at least {carried} bytes of messages; the program copied {} this way",
            copied[index]
        );
        if guest.is_over_verbs() {
            if !this.carried(peer, copied[index]) {
                wrong.push(format!("{device} carried {carried} of {} bytes", copied[index]));
            }
            wrong.extend(this.alarms().into_iter().map(|alarm| format!("{device}: {alarm}")));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::Check(format!("{}\n{}", wrong.join("; "), run.report())))
}

/// Every session says at its end how it was linked: over verbs, with TCP for no more than its greeting.
fn check_links(run: &Run) -> Vec<String> {
    let links: Vec<u64> = run.output.lines().filter_map(tcp_bytes).collect();
    println!("      sessions over verbs: {}, with bytes over TCP: {links:?}", links.len());
    let mut wrong: Vec<String> = links
        .iter()
        .filter(|&&bytes| bytes >= TCP_LIMIT_BYTES)
        .map(|bytes| format!("a session moved {bytes} bytes over TCP"))
        .collect();
    if u32::try_from(links.len()).is_ok_and(|links| links < RANKS) {
        wrong.push(format!("{} sessions over verbs, fewer than ranks", links.len()));
    }
    wrong
}

/// N of a line `vgpu: link to PEER: verbs DEVICE, N bytes over TCP`, with more after it or not.
fn tcp_bytes(line: &str) -> Option<u64> {
    let (link, bytes) = line.split_once(" bytes over TCP")?.0.rsplit_once(", ")?;
    if link.contains("verbs ") { bytes.parse().ok() } else { None }
}

const RANKS: u32 = 2;
/// More than a greeting and its answer, less than the smallest sample copies.
const TCP_LIMIT_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_session_is_read() {
        assert_eq!(tcp_bytes("vgpu: link to 10.9.0.2:40800: verbs rxe0, 1234 bytes over TCP"), Some(1234));
        let more = "vgpu: link to 10.9.0.2:40800: verbs rxe0, 99 bytes over TCP; 12 messages of 34 bytes, 5 transfers";
        assert_eq!(tcp_bytes(more), Some(99));
        assert_eq!(tcp_bytes("vgpu: link to 10.9.0.2:40800: tcp, 1234 bytes over TCP"), None);
        assert_eq!(tcp_bytes("vgpu: device 0: soft"), None);
    }
}
