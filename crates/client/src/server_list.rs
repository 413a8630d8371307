//! The grammar of `VGPU_SERVER`: which servers stand behind which device.
//!
//! ```text
//! list   = device { space device }          the position is the device ordinal
//! device = server { "," server }            replicas of one device
//! server = [ "tcp://" | "ib://" | "auto://" ] host [ "@" base-port ] [ ":" id ]
//!        | "unix:" path
//! host   = name | IPv4 | "[" IPv6 "]"
//! ```
//!
//! The port of a server is base port + id. A mistake is shown with a caret under the wrong token.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use proto::BASE_PORT;
use transport::Address;

/// The servers of one device: the first is used, the others are replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// At least one.
    pub servers: Vec<Server>,
}

/// One server, as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// The transport that the item itself names.
    pub transport: Option<Transport>,
    pub address: Address,
}

/// How bytes travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP only.
    Tcp,
    /// Verbs or nothing.
    Verbs,
    /// Verbs where the server offers them, else TCP.
    Auto,
}

/// A list that we could not read: what is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    text: String,
    at: Range<usize>,
    reason: String,
}

/// The list of a process, before it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The variable or file that holds it, for messages.
    pub by: String,
    pub text: String,
}

impl Named {
    /// Finds the list through `variable`: `VGPU_SERVER`, else `DSCUDA_SERVER`, else the file `VGPU_SERVER_CONF`, in which `#`
    /// starts a comment. Or the line that says why there is none.
    pub fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Named, String> {
        for name in ["VGPU_SERVER", "DSCUDA_SERVER"] {
            if let Some(text) = variable(name) {
                return Ok(Named { by: name.to_owned(), text });
            }
        }
        let Some(path) = variable("VGPU_SERVER_CONF") else {
            return Err("no server is named; set VGPU_SERVER, as in VGPU_SERVER=\"host:0\"".to_owned());
        };
        let text =
            std::fs::read_to_string(&path).map_err(|error| format!("VGPU_SERVER_CONF={path}: {error}"))?;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or(line));
        let text = lines.collect::<Vec<_>>().join(" ").trim().to_owned();
        Ok(Named { by: format!("VGPU_SERVER_CONF={path}"), text })
    }

    /// The devices, at least one; or what is wrong with the list and where.
    pub fn devices(&self) -> Result<Vec<Device>, String> {
        let list = parse(&self.text).map_err(|mistake| format!("{}: {mistake}", self.by))?;
        if list.is_empty() {
            return Err(format!("{0} names no server; try {0}=\"host:0\"", self.by));
        }
        Ok(list)
    }
}

/// Reads a list; an empty one has no devices.
pub fn parse(text: &str) -> Result<Vec<Device>, Mistake> {
    let mistake = |(at, reason)| Mistake { text: text.to_owned(), at, reason };
    tokens(text, 0, char::is_whitespace)
        .filter(|(_, token)| !token.is_empty())
        .map(|(start, token)| {
            let servers = tokens(token, start, |c| c == ',').map(|(start, item)| server(start, item));
            Ok(Device { servers: servers.collect::<Result<_, _>>()? })
        })
        .collect::<Result<_, _>>()
        .map_err(mistake)
}

type Reason = (Range<usize>, String);

fn server(start: usize, item: &str) -> Result<Server, Reason> {
    let end = start + item.len();
    if item.is_empty() {
        return Err((start..start + 1, "a server is missing beside the comma".to_owned()));
    }
    if let Some(path) = item.strip_prefix("unix:") {
        if path.is_empty() {
            return Err((start..end, "unix: needs a path, as in unix:/run/vgpu.sock".to_owned()));
        }
        return Ok(Server { transport: None, address: Address::Unix(PathBuf::from(path)) });
    }
    let (transport, host_start) = match item.find("://") {
        None => (None, 0),
        Some(length) => {
            let transport = match &item[..length] {
                "tcp" => Transport::Tcp,
                "ib" => Transport::Verbs,
                "auto" => Transport::Auto,
                other => {
                    let reason = format!("unknown transport {other:?}: tcp, ib or auto");
                    return Err((start..start + length.max(1), reason));
                }
            };
            (Some(transport), length + 3)
        }
    };
    let (host, tail_start) = host(start, item, host_start)?;
    let (base_port, id) = port_and_id(start, item, tail_start)?;
    let port = base_port.checked_add(id).ok_or_else(|| {
        let reason = format!("port {base_port} + {id} is above 65535");
        (start + tail_start..end, reason)
    })?;
    Ok(Server { transport, address: Address::Tcp { host, port } })
}

/// The host that begins at `from` in `item`, and where the rest begins.
fn host(start: usize, item: &str, from: usize) -> Result<(String, usize), Reason> {
    let rest = &item[from..];
    let end = start + item.len();
    if let Some(inner) = rest.strip_prefix('[') {
        let Some(length) = inner.find(']') else {
            return Err((start + from..end, "the bracket is not closed".to_owned()));
        };
        let address = &inner[..length];
        let plain = address.split('%').next().unwrap_or(address);
        if plain.parse::<std::net::Ipv6Addr>().is_err() {
            let at = start + from + 1;
            return Err((at..at + length.max(1), format!("{address:?} is not an IPv6 address")));
        }
        return Ok((address.to_owned(), from + length + 2));
    }
    if rest.matches(':').count() > 1 && !rest.contains('@') {
        return Err((start + from..end, "an IPv6 address stands in brackets, as in [::1]:0".to_owned()));
    }
    let length = rest.find(['@', ':']).unwrap_or(rest.len());
    let host = &rest[..length];
    if host.is_empty() {
        let at = start + from;
        return Err((at..(at + 1).max(end.min(at + 1)), "the host is missing".to_owned()));
    }
    if let Some((offset, wrong)) =
        host.char_indices().find(|(_, c)| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_')))
    {
        let at = start + from + offset;
        return Err((at..at + wrong.len_utf8(), format!("{wrong:?} cannot stand in a host name")));
    }
    Ok((host.to_owned(), from + length))
}

/// `[@base-port][:id]` from `from` to the end of `item`.
fn port_and_id(start: usize, item: &str, from: usize) -> Result<(u16, u16), Reason> {
    let tail = &item[from..];
    let (port_text, id_text, id_start) = match tail.find(':') {
        None => (tail, None, 0),
        Some(colon) => (&tail[..colon], Some(&tail[colon + 1..]), start + from + colon + 1),
    };
    let base_port = match port_text.strip_prefix('@') {
        None if port_text.is_empty() => BASE_PORT,
        None => {
            let at = start + from;
            return Err((
                at..at + port_text.len(),
                format!("{port_text:?} follows the bracket: expected @ or :"),
            ));
        }
        Some(digits) => number(start + from + 1, digits, "a port is a number from 1 to 65535")?,
    };
    if base_port == 0 {
        let at = start + from + 1;
        return Err((at..at + port_text.len() - 1, "a port is a number from 1 to 65535".to_owned()));
    }
    let id = match id_text {
        None => 0,
        Some(digits) => number(id_start, digits, "a server id is a number from 0, as in host:0")?,
    };
    Ok((base_port, id))
}

fn number(at: usize, digits: &str, expected: &str) -> Result<u16, Reason> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = plain.then(|| digits.parse().ok()).flatten();
    value.ok_or_else(|| (at..at + digits.len().max(1), expected.to_owned()))
}

/// The parts of `text` between separators, with their places; `start` is the place of `text` itself.
fn tokens<'a>(
    text: &'a str,
    start: usize,
    separates: impl Fn(char) -> bool + Copy + 'a,
) -> impl Iterator<Item = (usize, &'a str)> {
    text.split(separates).map(move |token| (start + (token.as_ptr().addr() - text.as_ptr().addr()), token))
}

impl Transport {
    /// What `VGPU_REMOTECALL` asks for, for items that name no transport.
    pub fn by_default(variable: &dyn Fn(&str) -> Option<String>) -> Result<Transport, String> {
        match variable("VGPU_REMOTECALL") {
            None => Ok(Transport::Auto),
            Some(text) => Transport::parse(&text)
                .ok_or_else(|| format!("VGPU_REMOTECALL={text}: expected rpc, tcp, ibv or auto")),
        }
    }

    /// The value of `VGPU_REMOTECALL`; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Transport> {
        match text.trim().to_ascii_lowercase().as_str() {
            "rpc" | "tcp" => Some(Transport::Tcp),
            "ibv" | "ib" => Some(Transport::Verbs),
            "auto" | "" => Some(Transport::Auto),
            _ => None,
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line: String = self.text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
        let before = self.text[..self.at.start].chars().count();
        let carets = self.text.get(self.at.clone()).map_or(1, |wrong| wrong.chars().count().max(1));
        write!(f, "{}\n    {line}\n    {:before$}{:^<carets$}", self.reason, "", "")
    }
}

impl std::error::Error for Mistake {}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    fn places(text: &str) -> Vec<Vec<Address>> {
        let devices = parse(text).unwrap();
        devices
            .into_iter()
            .map(|device| device.servers.into_iter().map(|server| server.address).collect())
            .collect()
    }

    #[test]
    fn spaces_start_devices_and_commas_add_replicas() {
        assert_eq!(
            places("server0:0  server0:1,server1:3\tserver2"),
            vec![
                vec![host("server0", 40800)],
                vec![host("server0", 40801), host("server1", 40803)],
                vec![host("server2", 40800)],
            ]
        );
        assert_eq!(places("  \n "), Vec::<Vec<Address>>::new());
    }

    #[test]
    fn every_part_of_an_item_is_read() {
        assert_eq!(places("10.0.0.7@50000:2"), vec![vec![host("10.0.0.7", 50002)]]);
        assert_eq!(places("[fe80::1%eth0]:1"), vec![vec![host("fe80::1%eth0", 40801)]]);
        assert_eq!(places("[::1]@7"), vec![vec![host("::1", 7)]]);
        assert_eq!(places("unix:/run/v:0.sock"), vec![vec![Address::Unix("/run/v:0.sock".into())]]);
        let transports = parse("tcp://a ib://b:1 auto://c d").unwrap();
        let transports: Vec<_> = transports.iter().map(|device| device.servers[0].transport).collect();
        assert_eq!(transports, [Some(Transport::Tcp), Some(Transport::Verbs), Some(Transport::Auto), None]);
    }

    #[track_caller]
    fn shows(text: &str, caret_line: &str, words: &str) {
        let shown = parse(text).unwrap_err().to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[1], format!("    {text}"));
        assert_eq!(lines[2], format!("    {caret_line}"), "{shown}");
        assert!(lines[0].contains(words), "{shown}");
    }

    #[test]
    fn a_caret_stands_under_the_wrong_token() {
        shows("good:0 bad:x", "           ^", "server id");
        shows("good:0 bad@port:1", "           ^^^^", "port");
        shows("rdma://host", "^^^^", "unknown transport");
        shows("a ::1", "  ^^^", "brackets");
        shows("[::1", "^^^^", "not closed");
        shows("[zz]:0", " ^^", "not an IPv6");
        shows("a,,b", "  ^", "comma");
        shows("ho$t:0", "  ^", "host name");
        shows("host@65535:1", "    ^^^^^^^^", "65535");
        shows("host:", "     ^", "server id");
        shows("tcp://", "      ^", "host is missing");
        shows("unix:", "^^^^^", "path");
        shows("[::1]x", "     ^", "expected");
        shows("h@0", "  ^", "port");
    }

    #[test]
    fn any_text_is_read_or_refused_without_panic() {
        for text in
            ["", ",", ":", "@", "[]", "[", "]", "a:b:c", "é:0", "日本:9 ]", "unix:", "://", "a@:", "[::1]]"]
        {
            if let Err(mistake) = parse(text) {
                assert!(mistake.to_string().contains('^'));
            }
        }
    }
}
