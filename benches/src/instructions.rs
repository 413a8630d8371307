//! Instructions that a call costs the client, as callgrind counts them: the difference of two runs of different lengths,
//! divided by what one has more. All threads count, and all libraries; the program's own instructions do not.
//!
//! What the program's thread executes repeats to the digit. How often the progress thread looks in between does not, so
//! these values are judged as timings are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::gates::{G3, G5_INSTRUCTIONS, Gates};
use crate::product::Settings;
use crate::server::Server;

/// Where what is measured lies.
pub(crate) struct Client {
    /// `programs/calls.cu`, compiled with the runtime as a library.
    pub(crate) program: PathBuf,
    /// The folder of the libraries that stand in for NVIDIA's.
    pub(crate) libraries: PathBuf,
}

const SHORT: u64 = 1_000;
const LONG: u64 = 11_000;

/// Measures those gates that are asked for.
pub(crate) fn run(server: &str, client: Option<&Client>, gates: &mut Gates) -> Result<(), String> {
    for (gate, kind) in [(&G3, "synchronize"), (&G5_INSTRUCTIONS, "launch")] {
        let Some(client) = client else {
            gates.cannot_measure(gate, "no program was given: use cargo xtask bench");
            continue;
        };
        gates.judge(gate, || {
            let [short, long] = [SHORT, LONG].map(|count| counted(server, client, kind, count));
            let more = u32::try_from(long?.saturating_sub(short?)).map_err(|_| "too many instructions")?;
            Ok(f64::from(more) / f64::from(u32::try_from(LONG - SHORT).unwrap_or(u32::MAX)))
        })?;
    }
    Ok(())
}

/// Instructions of a whole run but those of the program itself.
fn counted(server: &str, client: &Client, kind: &str, count: u64) -> Result<u64, String> {
    let server = Server::start(server, "null", Settings::default().ip, None)?;
    let file = std::env::temp_dir().join(format!("vgpu-callgrind-{}-{count}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(&client.program)
        .args([kind, &count.to_string()])
        .env("LD_LIBRARY_PATH", &client.libraries)
        .env("VGPU_SERVER", format!("localhost@{}:0", server.port()))
        .env("VGPU_SPIN_US", "0")
        .output()
        .map_err(|error| format!("valgrind: {error}: is it installed?"))?;
    let profile = std::fs::read_to_string(&file);
    // Written by a run that went wrong, too.
    let _ = std::fs::remove_file(&file);
    if !output.status.success() {
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return Err(format!("{kind}: {}: {said}{complained}", output.status));
    }
    let profile = profile.map_err(|error| format!("what callgrind counted: {error}"))?;
    let by_object = instructions_by_object(&profile);
    let own = |object: &&str| Path::new(object).file_name() != client.program.file_name();
    Ok(by_object.iter().filter(|(object, _)| own(object)).map(|(_, count)| count).sum())
}

/// Instructions that were executed in each object file (Valgrind's manual, "Callgrind Format Specification").
fn instructions_by_object(profile: &str) -> HashMap<&str, u64> {
    let (mut names, mut counts) = (HashMap::new(), HashMap::new());
    let mut object = "";
    // The line behind a call tells what was called cost, which is counted where it was executed.
    let mut is_of_call = false;
    for line in profile.lines() {
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "ob" | "cob" => {
                    // "(number) name" the first time, "(number)" from then on.
                    let (number, name) = value.split_once(' ').unwrap_or((value, ""));
                    let name = *names.entry(number).or_insert(name);
                    if key == "ob" {
                        object = name;
                    }
                }
                "calls" => is_of_call = true,
                _ => {}
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let count = line.split(' ').nth(1).and_then(|count| count.parse::<u64>().ok());
            if !std::mem::take(&mut is_of_call) {
                *counts.entry(object).or_insert(0) += count.unwrap_or(0);
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_where_they_were_executed() {
        let profile = "events: Ir\n\nob=(1) /bin/calls\nfl=(1) a.c\nfn=(1) main\n16 400\n+4 3\n\
                       cob=(2) /lib/core.so\ncfn=(2) launch\ncalls=3 50\n* 900\n\n\
                       ob=(2)\nfn=(2)\n51 100\nfi=(2) b.c\n-2 700\nob=(1)\nfn=(1)\n* 7\n";
        let counts = instructions_by_object(profile);
        assert_eq!(counts.get("/bin/calls"), Some(&410));
        assert_eq!(counts.get("/lib/core.so"), Some(&800));
        assert_eq!(counts.len(), 2);
    }
}
