//! The RDMA devices of the guest, and what they have counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{CLIENT_NETDEV, Guest, SERVER_NETDEV};
use crate::workspace::{Doing, Failure, Outcome, finish, output};

/// Shows the devices; fails unless there are two that work.
pub(super) fn check(_: &Guest) -> Outcome {
    let folder = Path::new("/sys/class/infiniband");
    let entries = std::fs::read_dir(folder).doing("reading the RDMA devices")?;
    let mut devices: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    devices.sort();
    let mut active = 0;
    for device in &devices {
        let port = device.join("ports/1");
        let state = read(&port.join("state"))?;
        let netdev = read(&port.join("gid_attrs/ndevs/0"))?;
        let mtu = read(&net(&netdev).join("mtu"))?;
        let name = device.file_name().unwrap_or_default().to_string_lossy();
        println!("    {name}: {state}, netdev {netdev}, MTU {mtu}, rate {}", read(&port.join("rate"))?);
        active += u32::from(state.contains("ACTIVE"));
    }
    if active == 2 { Ok(()) } else { Err(Failure::Check(format!("{active} devices are active, not 2"))) }
}

/// What one end of the cable has sent so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters {
    /// `hw_counters` of the device: packets and errors.
    device: BTreeMap<String, u64>,
    /// RoCE packets that left the netdev, and their bytes with all headers, Ethernet's included.
    roce_packets: u64,
    roce_bytes: u64,
    /// Everything that left the netdev.
    netdev_bytes: u64,
}

/// Both ends: the programs', then the servers'.
pub(super) const ENDS: [(&str, &str); 2] = [("rxe0", CLIENT_NETDEV), ("rxe1", SERVER_NETDEV)];

impl Counters {
    /// Has the kernel count RoCE packets apart: rxe itself counts packets only, and a netdev counts TCP as well.
    pub(super) fn watch() -> Outcome {
        for (_, netdev) in ENDS {
            // RoCE v2 is UDP to port 4791.
            let tc = |words: &str| finish(Command::new("tc").args(words.split(' ')));
            tc(&format!("qdisc add dev {netdev} clsact"))?;
            tc(&format!(
                "filter add dev {netdev} egress protocol ip prio 1 u32 match ip protocol 17 0xff match ip dport 4791 0xffff action pass"
            ))?;
        }
        Ok(())
    }

    pub(super) fn read() -> Outcome<[Self; 2]> {
        // The kernel answers from a copy of at most this age (`hw_counters/lifespan` is 12 ms).
        std::thread::sleep(Duration::from_millis(50));
        let [programs, servers] = ENDS.map(|(device, netdev)| Self::read_end(device, netdev));
        Ok([programs?, servers?])
    }

    fn read_end(device: &str, netdev: &str) -> Outcome<Self> {
        let folder = format!("/sys/class/infiniband/{device}/ports/1/hw_counters");
        let mut counters = Self::default();
        for entry in std::fs::read_dir(&folder).doing(format_args!("reading {folder}"))? {
            let path = entry.doing(format_args!("reading {folder}"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name != "lifespan" {
                counters.device.insert(name, number(&read(&path)?)?);
            }
        }
        let filter = output(Command::new("tc").args(["-s", "filter", "show", "dev", netdev, "egress"]))?;
        let Some((bytes, packets)) = sent(&filter) else {
            return Err(Failure::Check(format!("tc says of {netdev}:\n{filter}")));
        };
        (counters.roce_bytes, counters.roce_packets) = (bytes, packets);
        counters.netdev_bytes = number(&read(&net(netdev).join("statistics/tx_bytes"))?)?;
        Ok(counters)
    }

    /// How far everything moved since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let moved = |name: &String, now: u64| now - before.device.get(name).copied().unwrap_or(0);
        Self {
            device: self.device.iter().map(|(name, &now)| (name.clone(), moved(name, now))).collect(),
            roce_packets: self.roce_packets - before.roce_packets,
            roce_bytes: self.roce_bytes - before.roce_bytes,
            netdev_bytes: self.netdev_bytes - before.netdev_bytes,
        }
    }

    /// At least so many bytes of messages left this end through its RDMA device, `peer` being what moved at the other end.
    ///
    /// The bytes of all RoCE packets on the netdev, less the most that can be headers in each packet, less a packet of mean
    /// size for each that `peer` received a second time. TCP is no part of it. And no more than the device's own packets
    /// can hold: what only looks like RoCE does not count. (The answers to a repeated RDMA read are counted twice. It is
    /// seldom repeated here: only when a processor as slow as this one lets a retry timer expire.)
    pub(super) fn payload_bytes(&self, peer: &Self) -> u64 {
        let repeated = peer.of("duplicate_request") + peer.of("out_of_seq_request");
        let mean = self.roce_bytes.checked_div(self.roce_packets).unwrap_or(0);
        let excess = self.roce_packets * HEADER_BYTES + repeated * mean;
        self.roce_bytes.saturating_sub(excess).min(self.of("sent_pkts") * PACKET_BYTES)
    }

    /// Whether that is as much as was copied. Most packets have 20 bytes of headers less than the most, 0.5 % of a full packet;
    /// twice that is allowed for.
    pub(super) fn carried(&self, peer: &Self, copied_bytes: u64) -> bool {
        self.payload_bytes(peer) >= copied_bytes - copied_bytes / 100
    }

    /// Counters of this end that must not move on a network that loses nothing, and did.
    pub(super) fn alarms(&self) -> Vec<String> {
        let moved = ALARMS.iter().map(|name| (name, self.of(name))).filter(|(_, count)| *count != 0);
        moved.map(|(name, count)| format!("{name} moved by {count}")).collect()
    }

    /// For people.
    pub(super) fn show(&self) -> String {
        let others = self.device.iter().filter(|(name, moved)| **moved != 0 && !name.ends_with("_pkts"));
        let others: Vec<String> = others.map(|(name, moved)| format!("{name} {moved}")).collect();
        format!(
            "sent_pkts {}, rcvd_pkts {}; netdev: {} RoCE packets, {} RoCE bytes of {}; {}",
            self.of("sent_pkts"),
            self.of("rcvd_pkts"),
            self.roce_packets,
            self.roce_bytes,
            self.netdev_bytes,
            if others.is_empty() { "nothing else moved".to_owned() } else { others.join(", ") }
        )
    }

    fn of(&self, name: &str) -> u64 {
        self.device.get(name).copied().unwrap_or(0)
    }
}

/// Bytes and packets in what `tc -s filter show` prints for a filter with an action.
fn sent(text: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.split_once("Sent ")?;
    let mut words = rest.split_whitespace();
    let bytes = words.next()?.parse().ok()?;
    let packets = words.nth(1)?.parse().ok()?;
    Some((bytes, packets))
}

fn net(netdev: &str) -> PathBuf {
    Path::new("/sys/class/net").join(netdev)
}

fn read(path: &Path) -> Outcome<String> {
    let text = std::fs::read_to_string(path).doing(format_args!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn number(text: &str) -> Outcome<u64> {
    text.parse().map_err(|_| Failure::Check(format!("{text:?} is not a number")))
}

/// The most that is no payload in a RoCE v2 packet: Ethernet 14, IPv4 20, UDP 8, BTH 12, RETH 16, immediate 4, ICRC 4.
const HEADER_BYTES: u64 = 78;
/// The most payload of a packet: InfiniBand's largest MTU.
const PACKET_BYTES: u64 = 4096;
/// Receiver not ready, and retries used up.
const ALARMS: [&str; 4] = ["rcvd_rnr_err", "send_rnr_err", "retry_exceeded_err", "retry_rnr_exceeded_err"];

#[cfg(test)]
mod tests {
    use super::*;

    fn end(sent_pkts: u64, roce_packets: u64, roce_bytes: u64, duplicates: u64) -> Counters {
        let device = [("sent_pkts", sent_pkts), ("duplicate_request", duplicates)];
        let device = device.map(|(name, value)| (name.to_owned(), value)).into();
        Counters { device, roce_packets, roce_bytes, netdev_bytes: 0 }
    }

    #[test]
    fn headers_and_repeated_packets_are_no_payload() {
        let quiet = end(0, 0, 0, 0);
        assert_eq!(end(10, 10, 10 * 4174, 0).payload_bytes(&quiet), 10 * 4096);
        assert_eq!(end(10, 10, 10 * 4174, 0).payload_bytes(&end(0, 0, 0, 3)), 10 * 4096 - 3 * 4174);
        assert_eq!(end(10, 10, 10 * 62, 0).payload_bytes(&quiet), 0);
    }

    #[test]
    fn a_copy_in_full_packets_is_carried() {
        let quiet = end(0, 0, 0, 0);
        // One RDMA write of 1 MiB: its first packet has a RETH.
        let write = end(256, 256, 256 * (4096 + 58) + 16, 0);
        assert!(write.carried(&quiet, 1 << 20));
        assert!(!write.carried(&quiet, (1 << 20) + (1 << 16)));
        assert!(!write.carried(&end(0, 0, 0, 16), 1 << 20));
    }

    #[test]
    fn packets_that_the_device_did_not_send_are_no_payload() {
        assert_eq!(end(0, 10, 10 * 4174, 0).payload_bytes(&end(0, 0, 0, 0)), 0);
    }

    #[test]
    fn the_filter_s_counters_are_found() {
        let text = "match 000012b7/0000ffff at 20\n\taction order 1: gact action pass\n\tSent 21241378 bytes 20049 pkt (dropped 0)";
        assert_eq!(sent(text), Some((21_241_378, 20_049)));
        assert_eq!(sent(""), None);
    }
}
