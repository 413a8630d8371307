//! Why bytes could not be read as a fatbin or cubin.

use std::fmt;

/// Bytes that do not follow the container format. The caller turns this into `CUDA_ERROR_INVALID_IMAGE`.
///
/// Offsets and lengths are in bytes, counted from the start of the fatbin or cubin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// the {what} ends early: {need} bytes are needed and {have} are there
    Truncated { what: &'static str, need: u64, have: usize },
    /// the {what} has the magic number {found:#x}
    Magic { what: &'static str, found: u32 },
    /// the {what} has an impossible value, {value:#x}, as its {field}
    Field { what: &'static str, field: &'static str, value: u64 },
    /// the image unpacks to {stated} bytes, and {limit} are the most that we accept
    TooLarge { stated: u64, limit: u64 },
    /// the {format} data of an image cannot be unpacked: {reason}
    Compression { format: &'static str, reason: String },
    /// the image unpacked to {found} bytes where its entry says {stated}
    UnpackedSize { stated: u64, found: u64 },
    /// the image is a {found}, where {wanted} was asked for
    Kind { wanted: &'static str, found: &'static str },
    /// the ELF structure of the cubin cannot be read: {0}
    Elf(String),
    /// the PTX text is not UTF-8
    NotText,
    /// the bytes are neither a fatbin, nor an ELF image, nor PTX text
    Unknown,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { what, need, have } => {
                write!(f, "the {what} ends early: {need} bytes are needed and {have} are there")
            }
            Self::Magic { what, found } => write!(f, "the {what} has the magic number {found:#x}"),
            Self::Field { what, field, value } => {
                write!(f, "the {what} has an impossible value, {value:#x}, as its {field}")
            }
            Self::TooLarge { stated, limit } => {
                write!(f, "the image unpacks to {stated} bytes, and {limit} are the most that we accept")
            }
            Self::Compression { format, reason } => {
                write!(f, "the {format} data of an image cannot be unpacked: {reason}")
            }
            Self::UnpackedSize { stated, found } => {
                write!(f, "the image unpacked to {found} bytes where its entry says {stated}")
            }
            Self::Kind { wanted, found } => {
                write!(f, "the image is a {found}, where {wanted} was asked for")
            }
            Self::Elf(reason) => write!(f, "the ELF structure of the cubin cannot be read: {reason}"),
            Self::NotText => f.write_str("the PTX text is not UTF-8"),
            Self::Unknown => f.write_str("the bytes are neither a fatbin, nor an ELF image, nor PTX text"),
        }
    }
}

impl std::error::Error for Malformed {}

/// What reading answers.
pub type Result<T> = std::result::Result<T, Malformed>;
