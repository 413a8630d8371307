//! What ends this program.

use std::fmt;
use std::path::Path;

use vgpu_cli::failure::Failure;

/// Why there are no figures.
#[derive(Debug)]
pub(crate) enum BenchError {
    /// what starts programs on devices said why it cannot
    Start(Failure),
    /// device {device} is asked for, and the list has {count}
    NoSuchDevice { device: u32, count: usize },
    /// the server at {address} cannot be used: {reason}
    Server { address: String, reason: String },
    /// there is nothing to measure: {reason}
    NoDriver { reason: String },
    /// the {side} device: {reason}
    Side { side: &'static str, reason: String },
    /// {doing} failed: {reason}
    Io { doing: String, reason: String },
}

impl BenchError {
    /// Something could not be done to a file.
    pub(crate) fn file(doing: &str, path: &Path, reason: impl fmt::Display) -> BenchError {
        BenchError::Io { doing: format!("{doing} {}", path.display()), reason: reason.to_string() }
    }

    /// Something could not be done.
    pub(crate) fn io(doing: &str, reason: impl fmt::Display) -> BenchError {
        BenchError::Io { doing: doing.to_owned(), reason: reason.to_string() }
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(failure) => failure.fmt(f),
            Self::NoSuchDevice { device, count } => {
                write!(f, "device {device} is asked for, and the list has {count} (the first is 0)")
            }
            Self::Server { address, reason } => {
                write!(f, "the server at {address} cannot be used: {reason}; `vgpu doctor` says more")
            }
            Self::NoDriver { reason } => write!(f, "there is no local device to measure: {reason}"),
            Self::Side { side, reason } => write!(f, "the {side} device: {reason}"),
            Self::Io { doing, reason } => write!(f, "{doing} failed: {reason}"),
        }
    }
}

impl std::error::Error for BenchError {}

impl From<Failure> for BenchError {
    fn from(failure: Failure) -> BenchError {
        BenchError::Start(failure)
    }
}
