//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use vgpu_cli::soft::StartDevices;

/// Measures what a CUDA program gets from a remote device: latencies, launches, and copies by size.
///
/// Where NVIDIA's driver is found on this machine, its device is measured in the same run, turn by turn, and the two are
/// compared. Every byte and every launch is checked; a wrong one ends the run with status 1.
#[derive(Debug, Parser)]
#[command(
    name = "vgpu-bench",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "With a server:         vgpu-bench -s gpuhost:0\n\
                  Without any hardware:  vgpu-bench --soft --quick\n\
                  With pictures:         vgpu-bench -s gpuhost:0 --json figures.json --plot figures"
)]
pub(crate) struct Options {
    /// The devices, as in "host0:0 host0:1"; VGPU_SERVER if not given
    #[arg(short = 's', long = "servers", value_name = "LIST", conflicts_with = "soft")]
    pub(crate) servers: Option<String>,

    /// Measure a private device in software that ends with this program; no hardware, no server, no port
    #[arg(long)]
    pub(crate) soft: bool,

    /// Which device of the list is measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) device: u32,

    /// Which device of this machine's driver is measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) local_device: u32,

    /// Without a driver on this machine, fail instead of measuring the remote device alone
    #[arg(long, conflicts_with_all = ["remote_only", "local_only"])]
    pub(crate) local: bool,

    /// Do not look for a driver on this machine
    #[arg(long, conflicts_with = "local_only")]
    pub(crate) remote_only: bool,

    /// Measure this machine's driver alone; no server is needed
    #[arg(long, conflicts_with_all = ["servers", "soft"])]
    pub(crate) local_only: bool,

    /// Less of everything: some seconds, and figures that say little more than that it works
    #[arg(long)]
    pub(crate) quick: bool,

    /// The sizes of copies, as in 4KiB,1MiB
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = size)]
    pub(crate) sizes: Vec<u64>,

    /// Also write all figures to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Also draw them: an SVG file for each figure in a folder
    #[arg(long, value_name = "FOLDER")]
    pub(crate) plot: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) task: Option<Task>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    #[command(hide = true)]
    Measure(Measure),
    #[command(hide = true)]
    Windows(Windows),
    #[command(hide = true)]
    StartDevices(StartDevices),
    #[command(hide = true)]
    Pages(Pages),
}

/// Measures one device, as the requests on standard input say.
#[derive(Args, Debug)]
pub(crate) struct Measure {
    #[arg(long)]
    pub(crate) device: u32,

    /// The largest copy that will be asked for
    #[arg(long)]
    pub(crate) largest: u64,

    /// Whether the driver must be our client's library, or must not
    #[arg(long)]
    pub(crate) remote: bool,
}

/// Checks on this machine's driver that the addresses of our windows can be reserved, mapped and used. Prints JSON.
#[derive(Args, Debug)]
pub(crate) struct Windows {
    #[arg(long, default_value_t = 0)]
    pub(crate) device: u32,

    /// Only the place of this number
    #[arg(long)]
    pub(crate) place: Option<usize>,
}

/// Writes manual page and completions below a folder, laid out as in /usr/share.
#[derive(Args, Debug)]
pub(crate) struct Pages {
    pub(crate) folder: PathBuf,
}

/// Reads a size, as in 4096, 4KiB, 64k or 1MiB.
fn size(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(format!("{unit:?} is no unit: KiB, MiB or GiB")),
    };
    let bytes = digits.parse::<u64>().map_err(|error| error.to_string())?.checked_mul(1 << shift);
    match bytes {
        Some(bytes) if (8..=LARGEST).contains(&bytes) => Ok(bytes),
        _ => Err(format!("a copy has 8 bytes to {} GiB", LARGEST >> 30)),
    }
}

const LARGEST: u64 = 16 << 30;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(words: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(["vgpu-bench"].into_iter().chain(words.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parsed("--sizes 4KiB,64k,1MiB,512").unwrap().sizes, [4096, 65536, 1 << 20, 512]);
        for wrong in ["4x", "", "0", "MiB", "4TiB", "99999GiB", "99999999999999999999"] {
            assert!(parsed(&format!("--sizes={wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for words in
            ["--soft -s a:0", "--local --remote-only", "--local-only --soft", "--local-only --remote-only"]
        {
            assert!(parsed(words).is_err(), "{words}");
        }
        assert!(parsed("-s a:0 --local").is_ok());
    }
}
