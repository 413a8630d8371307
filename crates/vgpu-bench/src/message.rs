//! What the measuring process is asked, and what it answers: one line of JSON each, over its standard input and output.

use serde::{Deserialize, Serialize};

/// A part of a figure. `count` is the most repetitions; what has taken `limit_ms` stops earlier, but not before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) what: What,
    pub(crate) count: u32,
    pub(crate) limit_ms: u64,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// `cuCtxSynchronize` with nothing to wait for.
    Synchronize,
    /// `cuMemcpyDtoH` of four bytes.
    ReadWord,
    /// A launch and `cuCtxSynchronize`.
    LaunchAndSynchronize,
    /// Launches, and one `cuCtxSynchronize` behind all of them; the time of each.
    Launches,
    /// A copy up to its end.
    Copy { direction: Direction, memory: HostMemory, bytes: u64 },
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    ToDevice,
    ToHost,
}

/// Where bytes lie on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HostMemory {
    Pageable,
    PageLocked,
}

/// The answer to a request; the first one comes without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// The device can be measured.
    Ready(Facts),
    /// There is no such driver or device.
    Absent(String),
    /// The times of the repetitions, in nanoseconds. All work was found to have arrived.
    Times(Vec<u64>),
    /// A call failed, or work did not arrive as it was sent.
    Failed(String),
}

/// What a driver says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Of the device.
    pub(crate) device: String,
    /// As in 12.9.
    pub(crate) driver: String,
}

impl Direction {
    pub(crate) const ALL: [Direction; 2] = [Direction::ToDevice, Direction::ToHost];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Direction::ToDevice => "to the device",
            Direction::ToHost => "to the host",
        }
    }
}

impl HostMemory {
    pub(crate) const ALL: [HostMemory; 2] = [HostMemory::Pageable, HostMemory::PageLocked];

    pub(crate) fn name(self) -> &'static str {
        match self {
            HostMemory::Pageable => "pageable",
            HostMemory::PageLocked => "page-locked",
        }
    }
}
