//! A measuring process: this program, started anew as a CUDA program of this machine or of a remote device.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use vgpu_cli::environment::Variables;

use crate::error::BenchError;
use crate::message::{Facts, Reply, Request};

/// Which device is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Of this machine, through its own driver.
    Local,
    /// Of a server.
    Remote,
}

/// A measuring process that is ready. It ends when this value goes.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) place: Place,
    pub(crate) facts: Facts,
    process: Process,
}

/// What became of a measuring process that was started.
#[derive(Debug)]
pub(crate) enum Started {
    Ready(Side),
    /// There is nothing to measure, and why.
    Absent(String),
}

#[derive(Debug)]
struct Process {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Place {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Place::Local => "local",
            Place::Remote => "remote",
        }
    }
}

impl Side {
    /// Starts a measuring process with `variables` over what this one has, and waits until it is ready.
    pub(crate) fn start(
        place: Place,
        device: u32,
        largest: u64,
        variables: Variables,
    ) -> Result<Started, BenchError> {
        let own = std::env::current_exe().map_err(|error| BenchError::io("finding this program", error))?;
        let mut command = Command::new(own);
        command.args(["measure", "--device", &device.to_string(), "--largest", &largest.to_string()]);
        command.args((place == Place::Remote).then_some("--remote"));
        for (name, value) in variables.0 {
            // The loader takes an empty entry of a path for the working folder.
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| BenchError::io("starting a measuring process", error))?;
        let (requests, replies) = (child.stdin.take(), child.stdout.take());
        let replies = replies.ok_or_else(|| BenchError::io("starting a measuring process", "no pipe"))?;
        let mut process = Process { child, requests, replies: BufReader::new(replies) };
        match process.reply() {
            Ok(Reply::Ready(facts)) => Ok(Started::Ready(Side { place, facts, process })),
            Ok(Reply::Absent(reason)) => Ok(Started::Absent(reason)),
            Ok(Reply::Failed(reason)) | Err(reason) => Err(BenchError::Side { side: place.name(), reason }),
            Ok(Reply::Times(_)) => {
                Err(BenchError::Side { side: place.name(), reason: "it answered before it was asked".into() })
            }
        }
    }

    /// Measures a part of a figure; the times of the repetitions, in microseconds.
    pub(crate) fn measure(&mut self, request: &Request) -> Result<Vec<f64>, BenchError> {
        let failed = |reason: String| BenchError::Side { side: self.place.name(), reason };
        let text = serde_json::to_string(request).map_err(|error| failed(error.to_string()))?;
        let requests = self.process.requests.as_mut().expect("taken only when this value goes");
        // What it said last explains an error here better than the broken pipe does.
        let sent = writeln!(requests, "{text}").and_then(|()| requests.flush());
        match self.process.reply() {
            Ok(Reply::Times(times)) if !times.is_empty() => {
                Ok(times.into_iter().map(|time| time as f64 / 1e3).collect())
            }
            Ok(Reply::Failed(reason)) => {
                Err(failed(format!("{reason} (while measuring {:?})", request.what)))
            }
            Ok(other) => Err(failed(format!("it answered {other:?}"))),
            Err(reason) => Err(failed(sent.err().map_or(reason, |error| format!("asking it: {error}")))),
        }
    }
}

impl Process {
    fn reply(&mut self) -> Result<Reply, String> {
        let mut line = String::new();
        match self.replies.read_line(&mut line) {
            Ok(0) => {
                let ended =
                    self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(format!("the measuring process ended: {ended}"))
            }
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("it said {line:?}: {error}")),
            Err(error) => Err(format!("reading its answer: {error}")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends by itself when there are no more requests, and leaves its device in order.
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}
