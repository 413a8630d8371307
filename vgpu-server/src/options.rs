//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use transport::verbs::VerbsOptions;

use crate::daemon::link_timeout;
use crate::devices::Driver;
use crate::worker::WorkerOptions;
use crate::worker::gpudirect::Policy;

/// Serves one GPU to programs on other machines.
///
/// Programs reach it with VGPU_SERVER="this-host:ID"; the line to paste is printed at start.
#[derive(Clone, Debug, Parser)]
#[command(name = "vgpu-server", version)]
pub struct Options {
    /// Number of this server on this host; it listens on port BASE + ID
    #[arg(short = 's', long = "server", value_name = "ID", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..64))]
    pub id: u16,

    /// Ordinal of the device to serve
    #[arg(short = 'd', long, value_name = "DEVICE", default_value_t = 0)]
    pub device: u32,

    /// What drives the device: auto (NVIDIA's driver if there is one, else the software GPU), soft (the software GPU), cuda (NVIDIA's driver), a path to a libcuda.so.1, null or null-dma-free (computes nothing; for measurements)
    #[arg(long, value_name = "auto|soft|cuda|PATH|null", default_value = "auto")]
    pub driver: Driver,

    /// Address to listen on; without it only programs on this machine are served
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<IpAddr>,

    /// First port: server ID listens on BASE + ID
    #[arg(long = "port", value_name = "BASE", default_value_t = proto::BASE_PORT, value_parser = clap::value_parser!(u16).range(1..65472))]
    pub base_port: u16,

    /// Also serve a Unix socket at this path
    #[arg(long, value_name = "PATH")]
    pub unix: Option<PathBuf>,

    /// Serve the Unix socket alone: no TCP port is opened
    #[arg(long, requires = "unix", conflicts_with_all = ["listen", "base_port"])]
    pub unix_only: bool,

    /// What to log: error, warn, info, debug, or filters such as vgpu_server=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "VGPU_LOG")]
    pub log: String,

    /// KiB of pinned memory that a client may fill ahead of the device
    #[arg(long, value_name = "KIB", default_value_t = 16 * 1024, value_parser = clap::value_parser!(u32).range(64..=1024 * 1024))]
    pub staging_kib: u32,

    /// Whether clients may change to InfiniBand verbs where this machine has them
    #[arg(long, value_enum, default_value_t)]
    pub verbs: Verbs,

    /// Whether the network adapter reads and writes device memory itself: auto (after a checked transfer), on, off
    #[arg(long, value_enum, default_value_t)]
    pub gpudirect: Policy,

    /// The RDMA device for clients, with an optional port, as in mlx5_0:1; any if not given
    #[arg(long, value_name = "NAME[:PORT]", env = "VGPU_IB_DEVICE")]
    pub rdma_device: Option<String>,

    /// Microseconds for which a worker polls before it sleeps; measured if not given, but with few processors not over TCP
    #[arg(long, value_name = "US", env = "VGPU_SPIN_US")]
    pub spin_us: Option<u64>,

    /// Seconds that clients have to finish after SIGTERM or Ctrl-C
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,

    /// End at once, and remove the Unix socket and its folder, when standard input (a process descriptor or a pipe) is
    /// readable or closed (started by `vgpu run --soft`)
    #[arg(long, hide = true)]
    pub lifeline: bool,

    /// Serve the one client whose socket is standard input (started by the daemon)
    #[arg(long, hide = true)]
    pub worker: bool,

    /// Print the device's facts and end (started by the daemon)
    #[arg(long, hide = true)]
    pub probe: bool,

    /// The client's first window proposal, for a worker
    #[arg(long, hide = true, default_value_t = 0)]
    pub window_base: u64,
    #[arg(long, hide = true, default_value_t = 0)]
    pub window_bytes: u64,
    /// Whether the client would like verbs, for a worker
    #[arg(long, hide = true)]
    pub verbs_wanted: bool,

    /// The client's name for a worker's log
    #[arg(long, hide = true, default_value = "")]
    pub client: String,
}

/// Whether verbs are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub enum Verbs {
    /// Where this machine has them.
    #[default]
    Auto,
    /// TCP only.
    Off,
}

impl Options {
    /// The port of this server.
    pub fn port(&self) -> u16 {
        self.base_port + self.id
    }

    /// Sizes for a worker: upload staging as asked for, download staging half of it in slots of at most 1 MiB.
    pub fn worker_options(&self) -> WorkerOptions {
        let upload_bytes = self.staging_kib as usize * 1024;
        let download_bytes = upload_bytes / 2;
        let download_slots = download_bytes.div_ceil(1024 * 1024).max(4);
        WorkerOptions {
            upload_bytes,
            download_bytes: download_bytes / download_slots * download_slots,
            download_slots,
            look: self.spin_us.map_or(WorkerOptions::LOOK, Duration::from_micros),
            verbs: (self.verbs == Verbs::Auto).then(|| VerbsOptions {
                device: self.rdma_device.clone(),
                spin: self.spin_us.map(Duration::from_micros),
                connect_timeout: Duration::from_secs(5),
                link_timeout: link_timeout(),
            }),
            gpudirect: self.gpudirect,
            ..WorkerOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_of_the_ancestors_works() {
        let options = Options::try_parse_from(["VGPUSvr", "-s", "1", "-d", "0"]).expect("valid");
        assert_eq!((options.id, options.device, options.port()), (1, 0, proto::BASE_PORT + 1));
    }

    #[test]
    fn a_server_number_out_of_range_is_refused() {
        assert!(Options::try_parse_from(["vgpu-server", "-s", "64"]).is_err());
        assert!(Options::try_parse_from(["vgpu-server", "--driver", "no-such-thing"]).is_err());
    }

    #[test]
    fn serving_the_unix_socket_alone_needs_one_and_no_address() {
        let parse = |words: &[&str]| Options::try_parse_from([&["vgpu-server"], words].concat());
        assert!(parse(&["--unix-only", "--unix", "/tmp/x"]).is_ok_and(|options| options.unix_only));
        assert!(parse(&["--unix-only"]).is_err());
        assert!(parse(&["--unix-only", "--unix", "/tmp/x", "--listen", "127.0.0.1"]).is_err());
    }

    #[test]
    fn little_staging_still_makes_whole_slots() {
        let options = Options::try_parse_from(["vgpu-server", "--staging-kib", "1024"]).expect("valid");
        let worker = options.worker_options();
        assert_eq!(worker.download_bytes % worker.download_slots, 0);
        assert!(worker.download_slots >= 4);
    }
}
