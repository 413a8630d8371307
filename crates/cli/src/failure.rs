//! What ends this program.

use std::fmt;
use std::process::ExitCode;

/// What a task answers: its exit status, or why it could not be done.
pub type Outcome<T = ExitCode> = Result<T, Failure>;

/// Why a task could not be done: one clear line, and a status that a script can tell from the program's own.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    /// This program itself failed. As with env(1), the status is 125.
    pub fn own(message: impl fmt::Display) -> Failure {
        Failure { message: message.to_string(), status: 125 }
    }

    /// The command is there and cannot be run: 126.
    pub fn unusable(message: impl fmt::Display) -> Failure {
        Failure { message: message.to_string(), status: 126 }
    }

    /// There is no such command: 127.
    pub fn missing(message: impl fmt::Display) -> Failure {
        Failure { message: message.to_string(), status: 127 }
    }

    /// What `main` ends with.
    pub fn status(&self) -> ExitCode {
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
