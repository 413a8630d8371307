//! The environment, read once.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `VGPU_SERVER` | the devices, in the grammar of [`client::server_list`]; `DSCUDA_SERVER` is read when it is unset |
//! | `VGPU_SERVER_CONF` | a file with the same, read when neither is set; `#` starts a comment |
//! | `VGPU_REMOTECALL` | `rpc` or `tcp`, `ibv`, or `auto` (the default): verbs where the server offers them, else TCP |
//! | `VGPU_IB_DEVICE` | the RDMA device to use, with an optional port, as in `mlx5_0:1` |
//! | `VGPU_SPIN_US` | microseconds for which a waiting thread polls before it sleeps; measured if unset, but with few processors not over TCP |
//! | `VGPU_LINK_TIMEOUT_MS` | after how long without a sign of life a server counts as lost; 2000 |
//! | `VGPU_LOG` | `off`, `error`, `warn`, `summary` (where the time went), `info` or `debug` |
//! | `CUDA_VISIBLE_DEVICES` | which of the devices the program sees, in which order |
//! | `VGPU_RANK_POLICY` | which of these one rank of an MPI program sees: [`crate::rank`] |
//! | `CUDA_LAUNCH_BLOCKING` | `1`: every launch waits for its kernel |
//! | `VGPU_PINNED` | `mapped`: kernels may use all page-locked memory that CUDA allocates, and copies to it are slower; `plain` |

use std::sync::OnceLock;

use client::server_list::{Device, Named, Server, Transport};
use transport::Address;

use crate::log::{self, Level};
use crate::rank::{LocalRank, Policy};

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Config {
    /// The devices that the program sees, in order; or the line that says why there are none.
    pub(crate) devices: Result<Vec<Target>, String>,
    /// `CUDA_LAUNCH_BLOCKING`.
    pub(crate) launch_blocking: bool,
    /// `VGPU_PINNED=mapped`: kernels reach all page-locked memory that CUDA allocates.
    pub(crate) pinned_is_mapped: bool,
}

/// One device of the program and the server behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) transport: Transport,
    /// The variable or file that named it, for messages.
    pub(crate) named_by: String,
    /// Why this device cannot be used, if that is known before connecting; its ordinal fails, the others do not.
    pub(crate) refused: Option<String>,
}

/// The configuration of this process.
pub(crate) fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        Config::read(&|name| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned()))
    })
}

impl Config {
    /// Reads the variables through `variable`; says on the log what it cannot read.
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Config {
        if let Some(text) = variable("VGPU_LOG") {
            match Level::parse(&text) {
                Some(level) => log::set_level(level),
                None => log::warn(format_args!(
                    "VGPU_LOG={text}: expected off, error, warn, summary, info or debug"
                )),
            }
        }
        let launch_blocking = variable("CUDA_LAUNCH_BLOCKING").is_some_and(|text| text.trim() == "1");
        let pinned_is_mapped = match variable("VGPU_PINNED").as_deref().map(str::trim) {
            Some("mapped") => true,
            None | Some("plain" | "") => false,
            Some(text) => {
                log::warn(format_args!("VGPU_PINNED={text}: expected plain or mapped"));
                false
            }
        };
        Config { devices: devices(variable), launch_blocking, pinned_is_mapped }
    }
}

fn devices(variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Target>, String> {
    let default = Transport::by_default(variable)?;
    let named = Named::find(variable)?;
    let list = named.devices()?;
    let all: Vec<Target> = list.into_iter().map(|device| target(device, default, &named.by)).collect();
    let visible: Vec<Target> = match variable("CUDA_VISIBLE_DEVICES") {
        None => all,
        Some(text) => visible(&text, all.len()).into_iter().map(|index| all[index].clone()).collect(),
    };
    // Of what the user lets through: with CUDA_VISIBLE_DEVICES=2,3 the ranks share these two.
    let part = Policy::read(variable)?.part(LocalRank::read(variable).as_ref(), visible.len())?;
    Ok(visible[part].to_vec())
}

fn target(device: Device, default: Transport, named_by: &str) -> Target {
    let replicas = device.servers.len();
    let first = device.servers.into_iter().next();
    let Server { transport, address } = first
        .unwrap_or_else(|| Server { transport: None, address: Address::Unix(std::path::PathBuf::new()) });
    let transport = transport.unwrap_or(default);
    let refused = if replicas > 1 {
        Some(format!("{named_by}: {address} has {} replica(s); replicas are not available yet", replicas - 1))
    } else {
        None
    };
    Target { address, transport, named_by: named_by.to_owned(), refused }
}

/// The ordinals that `CUDA_VISIBLE_DEVICES` lets through, in its order.
///
/// CUDA C++ Programming Guide, "CUDA environment variables": the list ends at the first entry that is no device.
fn visible(text: &str, count: usize) -> Vec<usize> {
    let mut seen = Vec::new();
    for entry in text.split(',') {
        let entry = entry.trim();
        if entry.starts_with("GPU-") || entry.starts_with("MIG-") {
            log::warn(format_args!("CUDA_VISIBLE_DEVICES={text}: {entry}: only ordinals are supported"));
        }
        match entry.parse::<usize>() {
            // A device twice: CUDA then shows none at all.
            Ok(index) if seen.contains(&index) => return Vec::new(),
            Ok(index) if index < count => seen.push(index),
            _ => break,
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Config {
        Config::read(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    fn names(config: &Config) -> Vec<String> {
        config.devices.as_ref().unwrap().iter().map(|target| target.address.to_string()).collect()
    }

    #[test]
    fn without_a_server_the_message_names_the_variable() {
        assert!(read(&[]).devices.unwrap_err().contains("VGPU_SERVER"));
        assert!(read(&[("VGPU_SERVER", " ")]).devices.unwrap_err().contains("VGPU_SERVER"));
    }

    #[test]
    fn the_older_name_is_read_when_the_newer_is_unset() {
        assert_eq!(names(&read(&[("DSCUDA_SERVER", "old:1")])), ["old:40801"]);
        assert_eq!(names(&read(&[("DSCUDA_SERVER", "old"), ("VGPU_SERVER", "new")])), ["new:40800"]);
    }

    #[test]
    fn a_file_holds_the_same_list_with_comments() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("servers");
        std::fs::write(&path, "a:0 # the first\n\nb:1\n").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(names(&read(&[("VGPU_SERVER_CONF", path)])), ["a:40800", "b:40801"]);
        assert!(read(&[("VGPU_SERVER_CONF", "/nowhere/x")]).devices.unwrap_err().contains("/nowhere/x"));
    }

    #[test]
    fn a_mistake_names_the_variable_and_shows_the_place() {
        let message = read(&[("VGPU_SERVER", "a b:x")]).devices.unwrap_err();
        assert!(message.starts_with("VGPU_SERVER: ") && message.ends_with("    ^"), "{message}");
        assert!(read(&[("VGPU_SERVER", "a"), ("VGPU_REMOTECALL", "pigeon")]).devices.is_err());
    }

    #[test]
    fn replicas_and_transports_are_known_per_device() {
        let config = read(&[("VGPU_SERVER", "a,b c ib://d")]);
        let devices = config.devices.unwrap();
        assert!(devices[0].refused.as_ref().unwrap().contains("replicas are not available yet"));
        assert_eq!(devices[1].refused, None);
        assert_eq!(devices[1].transport, Transport::Auto);
        assert_eq!((devices[2].transport, devices[2].refused.as_ref()), (Transport::Verbs, None));
        let strict = read(&[("VGPU_SERVER", "a tcp://b"), ("VGPU_REMOTECALL", "ibv")]).devices.unwrap();
        assert_eq!((strict[0].transport, strict[1].transport), (Transport::Verbs, Transport::Tcp));
    }

    #[test]
    fn visible_devices_select_and_reorder_until_the_first_wrong_entry() {
        assert_eq!(visible("2,0", 3), [2, 0]);
        assert_eq!(visible(" 1 , 7,0", 3), [1]);
        assert_eq!(visible("", 3), [] as [usize; 0]);
        assert_eq!(visible("-1", 3), [] as [usize; 0]);
        assert_eq!(visible("1,1", 3), [] as [usize; 0]);
        assert_eq!(visible("NoDevFiles", 3), [] as [usize; 0]);
    }

    #[test]
    fn ranks_share_what_the_user_lets_through() {
        let rank = |policy, visible| {
            names(&read(&[
                ("VGPU_SERVER", "a b c d"),
                ("VGPU_RANK_POLICY", policy),
                ("CUDA_VISIBLE_DEVICES", visible),
                ("MPI_LOCALRANKID", "1"),
                ("MPI_LOCALNRANKS", "2"),
            ]))
        };
        assert_eq!(rank("all", "3,1"), ["d:40800", "b:40800"]);
        assert_eq!(rank("roundrobin", "3,1"), ["b:40800"]);
        assert_eq!(rank("block", "0,1,2,3"), ["c:40800", "d:40800"]);
        let wrong = read(&[("VGPU_SERVER", "a"), ("VGPU_RANK_POLICY", "fair")]);
        assert!(wrong.devices.unwrap_err().contains("fair"));
    }

    #[test]
    fn page_locked_memory_is_plain_unless_it_is_asked_for() {
        assert!(read(&[("VGPU_PINNED", "mapped")]).pinned_is_mapped);
        assert!(!read(&[("VGPU_PINNED", "1")]).pinned_is_mapped && !read(&[]).pinned_is_mapped);
    }

    #[test]
    fn launch_blocking_is_one_and_nothing_else() {
        assert!(read(&[("CUDA_LAUNCH_BLOCKING", "1")]).launch_blocking);
        assert!(!read(&[("CUDA_LAUNCH_BLOCKING", "0")]).launch_blocking);
    }
}
