//! The device's facts, read by a process of its own, so that the daemon never opens the device.

use std::io::Write;
use std::process::{Command, Stdio};

use proto::DeviceFacts;
use proto::codec;

use crate::options::Options;

/// In the helper process: writes the facts to standard output.
pub fn print_facts(options: &Options) -> Result<(), String> {
    let facts = options
        .driver
        .open(options.device)
        .and_then(|device| device.facts())
        .map_err(|error| format!("device {} of driver {}: {error}", options.device, options.driver))?;
    let mut bytes = Vec::new();
    codec::put(&mut bytes, facts);
    std::io::stdout().write_all(&bytes).map_err(|error| format!("writing the facts: {error}"))
}

/// In the daemon: asks a helper process for the facts.
pub(crate) fn facts(options: &Options) -> Result<DeviceFacts, String> {
    let program = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    let output = Command::new(program)
        .arg("--probe")
        .args(super::device_arguments(options))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("starting the probe: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "device {} of driver {} cannot be opened (see above)",
            options.device, options.driver
        ));
    }
    codec::read_all(&output.stdout, "device facts").map_err(|error| format!("the probe's answer: {error}"))
}
