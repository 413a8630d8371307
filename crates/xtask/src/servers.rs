//! Daemons that end when we do.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::workspace::{Doing, Failure, Outcome, is_installed};

/// Some servers on this machine, one device each. They are ended when this value goes.
#[derive(Debug)]
pub(crate) struct Servers {
    children: Vec<Child>,
    place: Place,
    base_port: u16,
    log: PathBuf,
}

/// Where servers listen, and where their log goes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `None`: only programs on this machine are served.
    pub(crate) listen: Option<Ipv4Addr>,
    pub(crate) log_folder: PathBuf,
}

impl Servers {
    /// Starts servers 0 to `count` - 1 and waits until each accepts connections.
    pub(crate) fn start(dist: &Path, driver: &str, count: u16) -> Outcome<Self> {
        Self::start_at(&Place { listen: None, log_folder: dist.to_path_buf() }, dist, driver, count)
    }

    /// The same at a place of one's choice.
    pub(crate) fn start_at(place: &Place, dist: &Path, driver: &str, count: u16) -> Outcome<Self> {
        let place = place.clone();
        let base_port = free_base(place.address(), count)?;
        // The driver may be a path.
        let name = driver.trim_start_matches('/').replace(['/', '.'], "-");
        let log = place.log_folder.join(format!("servers-{name}.log"));
        let file = File::create(&log).doing(format_args!("writing {}", log.display()))?;
        let mut servers = Self { children: Vec::new(), place, base_port, log };
        for id in 0..count {
            let mut command = mortal(&dist.join("bin/vgpu-server"));
            command.args(["-s", &id.to_string(), "-d", &id.to_string(), "--driver", driver]);
            command.args(["--port", &base_port.to_string(), "--drain-seconds", "1"]);
            if let Some(address) = servers.place.listen {
                command.args(["--listen", &address.to_string()]);
            }
            command.env("NO_COLOR", "1").stdin(Stdio::null());
            for stream in [Command::stdout, Command::stderr] {
                stream(&mut command, file.try_clone().doing("sharing the servers' log")?);
            }
            servers.children.push(command.spawn().doing("starting vgpu-server")?);
        }
        for id in 0..count {
            servers.wait_for(id)?;
        }
        Ok(servers)
    }

    /// The value of `VGPU_SERVER` that names them all, as devices 0, 1 ...
    pub(crate) fn list(&self) -> String {
        let host = self.place.listen.map_or("localhost".to_owned(), |address| address.to_string());
        let name = |id: usize| match self.base_port {
            DEFAULT_BASE => format!("{host}:{id}"),
            base => format!("{host}@{base}:{id}"),
        };
        (0..self.children.len()).map(name).collect::<Vec<_>>().join(" ")
    }

    /// What the servers have said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Ends a server without giving it a chance to say so.
    pub(crate) fn kill(&mut self, id: usize) -> Outcome {
        self.children[id].kill().doing("killing vgpu-server")
    }

    fn wait_for(&mut self, id: u16) -> Outcome {
        let start = Instant::now();
        while TcpStream::connect((self.place.address(), self.base_port + id)).is_err() {
            let child = &mut self.children[usize::from(id)];
            let ended = child.try_wait().doing("asking after vgpu-server")?;
            if ended.is_some() || start.elapsed() > START_LIMIT {
                let state =
                    ended.map_or("does not listen".to_owned(), |status| format!("ended with {status}"));
                return Err(Failure::Check(format!("vgpu-server {id} {state}:\n{}", self.log())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Place {
    fn address(&self) -> Ipv4Addr {
        self.listen.unwrap_or(Ipv4Addr::LOCALHOST)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &self.children {
            // A child that has ended already needs no signal; nothing else can go wrong here.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        let start = Instant::now();
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) {
                if start.elapsed() > STOP_LIMIT {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A command that is ended by the kernel should we die without cleaning up.
fn mortal(program: &Path) -> Command {
    if !is_installed("setpriv") {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(program);
    command
}

/// The usual port if nobody uses it and its neighbours, else the next hundred.
fn free_base(address: Ipv4Addr, count: u16) -> Outcome<u16> {
    let is_free = |port| TcpListener::bind((address, port)).is_ok();
    let bases = (0..100).map(|step| DEFAULT_BASE + 100 * step);
    let mut free = bases.filter(|base| (0..count).all(|id| is_free(base + id)));
    free.next().ok_or_else(|| Failure::Check("no free ports for the servers".to_owned()))
}

/// The port of server 0, as in `proto::BASE_PORT`.
const DEFAULT_BASE: u16 = 40800;
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(5);
