//! The fatbin container: a header of 16 bytes, then entries, each one image for one architecture.
//!
//! NVIDIA does not document the format; the offsets here were read off files made by nvcc 12 and 13.

use std::borrow::Cow;

use crate::bytes::Bytes;
use crate::compress;
use crate::error::{Malformed, Result};

/// A fatbin, with its entries checked for extent. Payloads are unpacked when they are asked for.
#[derive(Debug, Clone)]
pub struct Fatbin<'a> {
    entries: Vec<Entry<'a>>,
}

/// What an entry holds. An unknown number is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

/// One image of a fatbin.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    kind: Kind,
    arch: u32,
    flags: u64,
    version: (u16, u16),
    unpacked_bytes: u64,
    stored: &'a [u8],
    name: &'a [u8],
    options: &'a [u8],
}

/// The number of bytes of a whole fatbin, told by its first 16. The runtime's registration calls pass a pointer
/// without a length, so this is the only way to know how much may be read.
pub fn header_len(header: &[u8; HEADER_BYTES]) -> Result<usize> {
    let fields = Bytes::new("fatbin header", header);
    let magic = fields.u32(0)?;
    if magic != MAGIC {
        return Err(Malformed::Magic { what: "fatbin", found: magic });
    }
    let version = fields.u16(4)?;
    if version != 1 {
        return Err(Malformed::Field { what: "fatbin header", field: "version", value: version.into() });
    }
    let header_bytes = fields.u16(6)?;
    if usize::from(header_bytes) < HEADER_BYTES {
        return Err(Malformed::Field { what: "fatbin header", field: "size", value: header_bytes.into() });
    }
    let body_bytes = fields.u64(8)?;
    let total = u64::from(header_bytes).checked_add(body_bytes).and_then(|sum| usize::try_from(sum).ok());
    match total {
        Some(total) if body_bytes <= MAX_FATBIN_BYTES => Ok(total),
        _ => Err(Malformed::TooLarge { stated: body_bytes, limit: MAX_FATBIN_BYTES }),
    }
}

impl<'a> Fatbin<'a> {
    /// Reads header and entry headers. Bytes behind the stated length are left alone: containers stand one after the
    /// other in `.nv_fatbin`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let outer = Bytes::new("fatbin", bytes);
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(outer.slice(0, HEADER_BYTES as u64)?);
        let total = header_len(&header)?;
        let whole = outer.slice(0, total as u64)?;
        let header_bytes = usize::from(outer.u16(6)?);
        let mut rest = &whole[header_bytes..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (entry, used) = Entry::parse(rest)?;
            entries.push(entry);
            rest = &rest[used..];
        }
        Ok(Self { entries })
    }

    /// All images, in file order.
    pub fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// The PTX images, in file order.
    pub fn ptx_images(&self) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(|entry| entry.kind == Kind::PTX)
    }

    /// The PTX image that a driver would compile for a device of this compute capability (75 stands for 7.5): the
    /// newest that the device can run. `None` means `CUDA_ERROR_NO_BINARY_FOR_GPU`, if no ELF image fits either.
    pub fn best_ptx(&self, capability: u32) -> Option<&Entry<'a>> {
        self.ptx_images().filter(|entry| entry.ptx_runs_on(capability)).max_by_key(|entry| entry.arch)
    }

    /// The machine code image for this compute capability: same major number and the highest minor number that is
    /// not above the device's.
    pub fn best_elf(&self, capability: u32) -> Option<&Entry<'a>> {
        let fits = |entry: &&Entry<'a>| entry.kind == Kind::ELF && entry.elf_runs_on(capability);
        self.entries.iter().filter(fits).max_by_key(|entry| entry.arch)
    }
}

impl Kind {
    /// PTX text.
    pub const PTX: Kind = Kind(1);
    /// Machine code: a cubin.
    pub const ELF: Kind = Kind(2);
    /// Input of the link-time optimizer.
    pub const LTO_IR: Kind = Kind(8);

    fn name(self) -> &'static str {
        match self {
            Kind::PTX => "PTX image",
            Kind::ELF => "ELF image",
            Kind::LTO_IR => "LTO-IR image",
            _ => "image of unknown kind",
        }
    }
}

impl<'a> Entry<'a> {
    /// Reads the entry at the start of `bytes`; answers it and the number of bytes that it takes.
    fn parse(bytes: &'a [u8]) -> Result<(Self, usize)> {
        let fields = Bytes::new("fatbin entry", bytes);
        let header_bytes = fields.u32(4)?;
        if header_bytes < ENTRY_HEADER_BYTES || header_bytes % 8 != 0 {
            return Err(Malformed::Field {
                what: "fatbin entry",
                field: "header size",
                value: header_bytes.into(),
            });
        }
        let header = Bytes::new("fatbin entry header", fields.slice(0, header_bytes.into())?);
        let payload_bytes = header.u64(8)?;
        let payload = fields.slice(header_bytes.into(), payload_bytes)?;
        let packed_bytes = u64::from(header.u32(16)?);
        let stored = match packed_bytes {
            0 => payload,
            _ => Bytes::new("compressed image", payload).slice(0, packed_bytes)?,
        };
        let name = match header.u32(32)? {
            0 => &[][..],
            offset => header.slice(offset.into(), header.u32(36)?.into())?,
        };
        let options = match header.u32(20)? {
            0 => &[][..],
            record => {
                let record = u64::from(record);
                header.slice(header.u32(record)?.into(), header.u32(record + 4)?.into())?
            }
        };
        let entry = Self {
            kind: Kind(header.u16(0)?),
            arch: header.u32(28)?,
            flags: header.u64(40)?,
            version: (header.u16(26)?, header.u16(24)?),
            unpacked_bytes: if packed_bytes == 0 { payload_bytes } else { header.u64(56)? },
            stored,
            name,
            options,
        };
        Ok((entry, u32_to_usize(header_bytes) + payload.len()))
    }

    /// What the entry holds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The architecture as a number: 75 stands for `sm_75` or `compute_75`.
    pub fn arch(&self) -> u32 {
        self.arch
    }

    /// All flag bits, as stored.
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// Major and minor version: of the PTX language, or of the cubin format.
    pub fn version(&self) -> (u16, u16) {
        self.version
    }

    /// The name of the source file, where it was recorded.
    pub fn name(&self) -> Option<Cow<'a, str>> {
        (!self.name.is_empty()).then(|| String::from_utf8_lossy(self.name))
    }

    /// The options record: text for ptxas with a PTX image, compatibility attributes (binary) with newer ELF images.
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// Whether the image is for exactly one architecture (`sm_90a`).
    pub fn is_arch_specific(&self) -> bool {
        self.flags & FLAG_ARCH_SPECIFIC != 0
    }

    /// Whether the image is for one family of architectures (`sm_100f`).
    pub fn is_family_specific(&self) -> bool {
        self.flags & FLAG_FAMILY != 0
    }

    /// How many bytes [`Entry::payload`] will have.
    pub fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes
    }

    /// The image, unpacked if need be. PTX keeps the NUL byte and the padding that the container gave it; use
    /// [`Entry::ptx`] for text.
    pub fn payload(&self) -> Result<Cow<'a, [u8]>> {
        match self.flags & (FLAG_LZ4 | FLAG_ZSTD) {
            0 if self.stored.len() as u64 == self.unpacked_bytes => Ok(Cow::Borrowed(self.stored)),
            FLAG_LZ4 => compress::lz4(self.stored, self.unpacked_bytes).map(Cow::Owned),
            FLAG_ZSTD => compress::zstd(self.stored, self.unpacked_bytes).map(Cow::Owned),
            both => Err(Malformed::Field { what: "fatbin entry", field: "compression flags", value: both }),
        }
    }

    /// The PTX text, up to its NUL byte.
    pub fn ptx(&self) -> Result<String> {
        if self.kind != Kind::PTX {
            return Err(Malformed::Kind { wanted: Kind::PTX.name(), found: self.kind.name() });
        }
        let mut bytes = self.payload()?.into_owned();
        if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            bytes.truncate(end);
        }
        String::from_utf8(bytes).map_err(|_| Malformed::NotText)
    }

    fn ptx_runs_on(&self, capability: u32) -> bool {
        if self.is_arch_specific() {
            self.arch == capability
        } else if self.is_family_specific() {
            self.arch / 10 == capability / 10 && self.arch <= capability
        } else {
            self.arch <= capability
        }
    }

    fn elf_runs_on(&self, capability: u32) -> bool {
        if self.is_arch_specific() {
            self.arch == capability
        } else {
            self.arch / 10 == capability / 10 && self.arch <= capability
        }
    }
}

fn u32_to_usize(value: u32) -> usize {
    usize::try_from(value).expect("usize has at least 32 bits on every CUDA platform")
}

/// Bytes of the container's header, and what [`header_len`] needs to see.
pub const HEADER_BYTES: usize = 16;

/// The largest container that is read. The largest in NVIDIA's libraries (cuDNN, cuBLASLt) are several hundred MB.
pub const MAX_FATBIN_BYTES: u64 = 4 * 1024 * 1024 * 1024;

pub(crate) const MAGIC: u32 = 0xBA55_ED50;
const ENTRY_HEADER_BYTES: u32 = 64;

const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_ARCH_SPECIFIC: u64 = 0x10_0000;
const FLAG_FAMILY: u64 = 0x20_0000;
