//! A server process with a device that computes nothing, or with another.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use transport::Address;

/// Ends with this value, and its workers with it.
pub(crate) struct Server {
    process: Child,
    ip: IpAddr,
    port: u16,
}

impl Server {
    /// Starts one that listens at `ip`, in the network namespace of the calling thread. Returns when clients can come.
    pub(crate) fn start(
        program: &str,
        driver: &str,
        ip: IpAddr,
        spin: Option<Duration>,
    ) -> Result<Server, String> {
        let port = TcpListener::bind((ip, 0))
            .and_then(|listener| listener.local_addr())
            .map_err(|error| format!("finding a port: {error}"))?
            .port()
            .min(65000);
        let mut process = Command::new(program)
            .args(["--driver", driver, "--log", "error", "--port", &port.to_string()])
            .args(["--listen", &ip.to_string()])
            .args(spin.map(|spin| format!("--spin-us={}", spin.as_micros())))
            // It ends with this process, however that ends: its standard input is closed then.
            .arg("--lifeline")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting {program}: {error}"))?;
        let output = process.stdout.take().ok_or("the server's output is not piped")?;
        let server = Server { process, ip, port };
        BufReader::new(output)
            .read_line(&mut String::new())
            .map_err(|error| format!("the server said nothing: {error}"))?;
        Ok(server)
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> Address {
        Address::Tcp { host: self.ip.to_string(), port: self.port }
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process of its worker, of which there must be one.
    pub(crate) fn worker(&self) -> Result<u32, String> {
        let path = format!("/proc/{0}/task/{0}/children", self.process.id());
        let children = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        match children.split_whitespace().collect::<Vec<_>>()[..] {
            [worker] => worker.parse().map_err(|error| format!("{path}: {error}")),
            _ => Err(format!("the server has not one worker but {:?}", children.trim())),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended with an error of its own.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
