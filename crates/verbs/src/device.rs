//! The machine's RDMA devices, and which addresses belong to one.
//!
//! rdma_cm chooses a device by IP address. To make it choose a certain one, the connection is given a source address
//! that lies on a network interface of that device; sysfs says which interfaces those are.

use std::ffi::CStr;
use std::fs::{read_dir, read_to_string};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::ptr::null_mut;

use libc::{IFF_UP, c_int, ifaddrs};
use rdma_sys::{ibv_device, ibv_free_device_list, ibv_get_device_list, ibv_get_device_name};
use verbs_abi::step;

use crate::address;
use crate::failure::{Failure, Outcome, last_errno};

/// The device that a connection must use.
pub(crate) struct Wanted {
    name: String,
    port: Option<u8>,
}

impl Wanted {
    /// Reads `NAME` or `NAME:PORT`; the device must exist.
    pub(crate) fn parse(text: &str) -> Outcome<Wanted> {
        let (name, port) = match text.split_once(':') {
            None => (text, None),
            Some((name, port)) => match port.parse::<u8>() {
                Ok(port) if port > 0 => (name, Some(port)),
                _ => {
                    return Err(Failure::new(step::DEVICE, format!("{port:?} is no port of an RDMA device")));
                }
            },
        };
        let present = required_names()?;
        if !present.iter().any(|device| device == name) {
            let present = present.join(", ");
            let text = format!("no RDMA device named {name:?} on this machine; it has {present}");
            return Err(Failure::new(step::DEVICE, text));
        }
        let wanted = Wanted { name: name.to_owned(), port };
        if let Some(port) = port.filter(|port| !Path::new(&wanted.folder(&format!("ports/{port}"))).exists())
        {
            return Err(Failure::new(step::DEVICE, format!("RDMA device {name} has no port {port}")));
        }
        Ok(wanted)
    }

    /// The device's address that is nearest to the peer's, with port 0.
    pub(crate) fn source(&self, peer: IpAddr) -> Outcome<SocketAddr> {
        let interfaces = self.interfaces();
        let addresses = interface_addresses()?;
        let nearest = addresses
            .into_iter()
            .filter(|(interface, ip)| interfaces.contains(interface) && ip.is_ipv4() == peer.is_ipv4())
            .max_by_key(|(_, ip)| address::shared_bits(ip.ip(), peer));
        match nearest {
            Some((_, source)) => Ok(source),
            None => Err(Failure::new(step::ADDRESS, self.no_source(peer, &interfaces))),
        }
    }

    /// Checks what rdma_cm has chosen.
    pub(crate) fn verify(&self, device: &str, port: u8, peer: IpAddr) -> Outcome<()> {
        if device == self.name && self.port.is_none_or(|wanted| wanted == port) {
            return Ok(());
        }
        let wanted = self.port.map_or_else(|| self.name.clone(), |port| format!("{}:{port}", self.name));
        let text =
            format!("the route to {peer} uses RDMA device {device}:{port}, but {wanted} was asked for");
        Err(Failure::new(step::DEVICE, text))
    }

    /// The network interfaces of the device's ports.
    fn interfaces(&self) -> Vec<String> {
        let mut found = Vec::new();
        for port in entries(&self.folder("ports")) {
            if self.port.is_some_and(|wanted| wanted.to_string() != port) {
                continue;
            }
            let folder = self.folder(&format!("ports/{port}/gid_attrs/ndevs"));
            // Unused entries of the GID table cannot be read.
            let names = entries(&folder)
                .into_iter()
                .filter_map(|entry| read_to_string(format!("{folder}/{entry}")).ok());
            found.extend(names.map(|name| name.trim().to_owned()));
        }
        // IP over InfiniBand: its interfaces are not in the GID table, and count their ports from 0.
        for interface in entries(&self.folder("device/net")) {
            let number = read_to_string(format!("/sys/class/net/{interface}/dev_port"));
            let number = number.ok().and_then(|text| text.trim().parse::<u8>().ok());
            if self
                .port
                .is_none_or(|wanted| number.is_none_or(|number| number.checked_add(1) == Some(wanted)))
            {
                found.push(interface);
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn no_source(&self, peer: IpAddr, interfaces: &[String]) -> String {
        let family = if peer.is_ipv4() { "IPv4" } else { "IPv6" };
        match interfaces {
            [] => format!(
                "RDMA device {} has no network interface here, so no address to reach {peer} from",
                self.name
            ),
            names => {
                let names = names.join(", ");
                format!("RDMA device {} ({names}) has no {family} address to reach {peer} from", self.name)
            }
        }
    }

    fn folder(&self, below: &str) -> String {
        format!("/sys/class/infiniband/{}/{below}", self.name)
    }
}

/// The devices' names, in the library's order; none on a machine without RDMA.
pub(crate) fn names() -> Outcome<Vec<String>> {
    let mut count: c_int = 0;
    // SAFETY: `count` is writable.
    let list = unsafe { ibv_get_device_list(&raw mut count) };
    if list.is_null() {
        return match last_errno() {
            // The kernel has no RDMA at all.
            libc::ENOSYS | libc::ENOENT => Ok(Vec::new()),
            errno => Err(Failure::numbered(step::DEVICE, errno, "list the RDMA devices")),
        };
    }
    let names = (0..usize::try_from(count).unwrap_or(0)).map(|index| {
        // SAFETY: the list has `count` entries.
        let device = unsafe { list.add(index).read() };
        // SAFETY: the list's devices are valid until it is freed.
        unsafe { name(device) }
    });
    let names = names.collect();
    // SAFETY: the list comes from `ibv_get_device_list` and is not used any more.
    unsafe { ibv_free_device_list(list) };
    Ok(names)
}

/// The devices' names; a failure if there is none.
pub(crate) fn required_names() -> Outcome<Vec<String>> {
    let names = names()?;
    if names.is_empty() {
        let text = "no RDMA device on this machine (/sys/class/infiniband is empty); load the driver of its adapter, \
                    or make a software one: rdma link add rxe0 type rxe netdev ...";
        return Err(Failure::new(step::DEVICE, text));
    }
    Ok(names)
}

/// A device's name.
///
/// # Safety
/// `device` is valid: of a list that is not freed yet, or of an open context.
pub(crate) unsafe fn name(device: *mut ibv_device) -> String {
    // SAFETY: the caller's promise.
    let name = unsafe { ibv_get_device_name(device) };
    if name.is_null() {
        return String::new();
    }
    // SAFETY: a zero-terminated string that lives as long as the device.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// The addresses of all interfaces that are up.
fn interface_addresses() -> Outcome<Vec<(String, SocketAddr)>> {
    let mut first: *mut ifaddrs = null_mut();
    // SAFETY: `first` is writable.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(Failure::last(step::ADDRESS, "list the network interfaces"));
    }
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: null, or an entry of the list that is freed below.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        let is_up = entry.ifa_flags & u32::try_from(IFF_UP).unwrap_or(0) != 0;
        // SAFETY: null, or an address as long as its family wants.
        if let Some(address) = unsafe { address::read(entry.ifa_addr) }.filter(|_| is_up) {
            // SAFETY: every entry has a zero-terminated name.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            found.push((name.to_string_lossy().into_owned(), address));
        }
    }
    // SAFETY: the list comes from `getifaddrs`; what was kept is copied.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// The names in a folder; none if there is no such folder.
fn entries(folder: &str) -> Vec<String> {
    let Ok(entries) = read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
