//! Debian's packages: installed when what they bring is missing, which needs root.

use std::path::Path;
use std::process::Command;

use crate::workspace::{Failure, Outcome, finish, is_installed};

/// Something that has to be on this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) probe: Probe,
    /// Separated by spaces.
    pub(crate) packages: &'static str,
}

/// How one sees that it is there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe {
    /// A program that is started by its name.
    Program(&'static str),
    /// A file at a fixed place.
    File(&'static str),
    /// Anything else.
    Question(fn() -> bool),
}

impl Need {
    fn is_met(&self) -> bool {
        match self.probe {
            Probe::Program(name) => is_installed(name),
            Probe::File(path) => Path::new(path).exists(),
            Probe::Question(ask) => ask(),
        }
    }
}

/// Installs what is missing, or says what to install.
pub(crate) fn install(needs: &[Need]) -> Outcome {
    let missing: Vec<&str> =
        needs.iter().filter(|need| !need.is_met()).flat_map(|need| need.packages.split(' ')).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() || !is_installed("apt-get") {
        return Err(Failure::Missing {
            program: list.clone(),
            advice: format!("as root: apt-get install {list}"),
        });
    }
    println!("==> installing Debian packages: {list}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(arguments);
        finish(&mut command)
    };
    apt(&["update"])?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"];
    arguments.extend(&missing);
    apt(&arguments)
}
