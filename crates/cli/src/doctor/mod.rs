//! `vgpu doctor`: ordered checks, each with a remedy. What is checked is what a program would find if it were started from
//! this very environment.
//!
//! Layout:
//! * `reach`: the list, and the servers that it names
//! * `loader`: which libraries the dynamic loader would take
//! * `network`: what verbs need of this machine
//! * `command`: a program, without starting it

mod command;
mod loader;
mod network;
mod reach;

use std::ffi::OsString;
use std::process::ExitCode;

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::libraries::Libraries;
use crate::options;
use crate::program::Program;
use crate::search::Search;

/// Does all checks, prints them and answers the number of failures.
pub(crate) fn run(options: &options::Doctor) -> Outcome {
    let report = Report { checks: checks(options) };
    if options.json {
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.map_err(|error| Failure::own(format_args!("writing JSON: {error}")))?);
    } else {
        print!("{}", report.page());
    }
    // Statuses from 125 on have other meanings.
    Ok(ExitCode::from(u8::try_from(report.failures().min(100)).unwrap_or(100)))
}

/// What the checks look at.
struct Scene {
    libraries: Result<Libraries, String>,
    search: Search,
    program: Option<Result<Program, String>>,
    library_path: Option<OsString>,
}

fn checks(options: &options::Doctor) -> Vec<Check> {
    let preload = std::env::var_os("LD_PRELOAD");
    let library_path = std::env::var_os("LD_LIBRARY_PATH");
    let find = |command| Program::find(command, std::env::var_os("PATH")).map_err(|error| error.to_string());
    let scene = Scene {
        libraries: Libraries::find().map_err(|error| error.to_string()),
        search: Search::new(preload.as_deref(), library_path.as_deref()),
        program: options.command.first().map(|command| find(command)),
        library_path,
    };
    let reach = reach::Reach::new(options.servers.as_deref());
    vec![
        reach.list(),
        reach.addresses(),
        reach.ports(),
        reach.versions(),
        scene.libraries(),
        scene.preload(),
        scene.order(),
        scene.names(),
        scene.stubs(),
        network::verbs(&reach),
        network::memlock(&reach),
        scene.program(),
        scene.linkage(),
        scene.functions(),
    ]
}

/// One check and what came of it.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found, in one line unless a list's mistake is shown.
    found: String,
    /// What to do about it.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Failed,
    /// It does not matter here, or something before it failed.
    Skipped,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, state: State::Ok, found: found.into(), remedy: None }
    }

    fn failed(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name, state: State::Failed, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn skipped(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, state: State::Skipped, found: found.into(), remedy: None }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Check>,
}

impl Report {
    fn failures(&self) -> usize {
        self.checks.iter().filter(|check| check.state == State::Failed).count()
    }

    fn page(&self) -> String {
        let mut page = String::new();
        for check in &self.checks {
            let word = match check.state {
                State::Ok => "ok",
                State::Failed => "FAILED",
                State::Skipped => "-",
            };
            let found = check.found.replace('\n', &format!("\n{:20}", ""));
            page += &format!("{word:<7} {:<11} {found}\n", check.name);
            if let Some(remedy) = &check.remedy {
                page += &format!("{:20}do: {remedy}\n", "");
            }
        }
        page + &match self.failures() {
            0 => "nothing is wrong\n".to_owned(),
            count => format!("{count} of {} checks failed\n", self.checks.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_counts_failures_and_shows_remedies() {
        let report = Report {
            checks: vec![
                Check::ok("list", "2 devices"),
                Check::failed("ports", "nobody\nlistens", "start a server"),
                Check::skipped("verbs", "not needed"),
            ],
        };
        assert_eq!(
            report.page(),
            "ok      list        2 devices\n\
             FAILED  ports       nobody\n                    listens\n                    do: start a server\n\
             -       verbs       not needed\n\
             1 of 3 checks failed\n"
        );
    }
}
