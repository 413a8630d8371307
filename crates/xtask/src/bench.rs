//! The product beside raw sockets: builds `benches` and the server in release mode and runs them.

use std::process::Command;

use crate::workspace::{Outcome, Workspace, finish, step};

/// Prints the table; fails if any run moved other bytes or made other calls than it was asked to.
pub(crate) fn run(workspace: &Workspace) -> Outcome {
    step("building the benchmark and the server", || {
        finish(workspace.cargo().args([
            "build",
            "--release",
            "--locked",
            "--package",
            "benches",
            "--package",
            "vgpu-server",
        ]))
    })?;
    let release = workspace.target.join("release");
    finish(Command::new(release.join("benches")).arg(release.join("vgpu-server")))
}
