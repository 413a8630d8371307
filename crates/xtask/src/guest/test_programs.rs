//! The workspace's tests whose names say verbs, and all tests of the plug-in.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Guest, SERVER, TESTS};
use crate::plugin;
use crate::workspace::{Doing, Failure, Outcome};

/// Runs every program of the list; fails if one does, or if no test ran at all.
pub(super) fn check(guest: &Guest) -> Outcome {
    let list = std::fs::read_to_string(guest.folder.join(TESTS)).doing("reading the list of tests")?;
    let (mut total, mut failed) = (0, Vec::new());
    for line in list.lines() {
        let [package, folder, program] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err(Failure::Check(format!("the list of tests has the line {line:?}")));
        };
        let mut command = Command::new("timeout");
        command.args(["--kill-after", "5", LIMIT_SECONDS, program, "--test-threads=1"]);
        if package != plugin::PACKAGE {
            command.arg("verbs");
        }
        command.current_dir(folder).env("VGPU_TEST_VERBS", SERVER.to_string()).stdin(Stdio::null());
        let start = Instant::now();
        let output = command.output().doing(format_args!("starting {program}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
        let (summary, count) = summary(&said);
        if output.status.success() && count == 0 {
            continue;
        }
        total += count;
        println!("    {package:<10} {name:<32} {summary} ({:.1} s)", start.elapsed().as_secs_f64());
        if !output.status.success() {
            println!("{said}{}", String::from_utf8_lossy(&output.stderr));
            failed.push(format!("{name} ended with {}", output.status));
        }
    }
    if !failed.is_empty() {
        return Err(Failure::Check(failed.join("; ")));
    }
    if total == 0 {
        return Err(Failure::Check("not one test ran".to_owned()));
    }
    println!("    {total} tests ran");
    Ok(())
}

/// What libtest said at the end, and how many tests it ran.
fn summary(said: &str) -> (&str, u32) {
    let mut lines = said.lines().filter_map(|line| line.strip_prefix("test result: "));
    let Some(summary) = lines.next_back() else { return ("no summary", 0) };
    let number = |what: &str| {
        let part = summary.split([';', '.']).find_map(|part| part.trim().strip_suffix(what));
        part.and_then(|number| number.trim().parse::<u32>().ok()).unwrap_or(0)
    };
    (summary, number("passed") + number("failed"))
}

/// A test that hangs is a failed test.
const LIMIT_SECONDS: &str = "150";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_ran_are_counted() {
        let text =
            "test result: ok. 3 passed; 1 failed; 7 ignored; 0 measured; 9 filtered out; finished in 0.1s";
        assert_eq!(summary(&format!("running 4 tests\n\n{text}\n")).1, 4);
        assert_eq!(summary(&text.replace(['3', '1'], "0")).1, 0);
        assert_eq!(summary("killed"), ("no summary", 0));
    }
}
