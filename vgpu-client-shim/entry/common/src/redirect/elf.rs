//! A minimal reader of 64-bit little-endian ELF files: section headers, symbol tables, string tables.
//!
//! Every access is checked: a file that lies about its sizes is one in which nothing is found.

/// A file whose ELF header has been checked.
pub(super) struct Elf<'a> {
    bytes: &'a [u8],
    sections: &'a [u8],
    names: &'a [u8],
}

/// A function of a symbol table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// Relative to where the object was loaded.
    pub(super) address: u64,
}

impl<'a> Elf<'a> {
    /// Checks the header; `None` for any other kind of file and for one without section headers.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Elf<'a>> {
        // System V ABI, "ELF Header": class 2 = 64-bit, data 1 = little-endian.
        if bytes.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let offset = usize::try_from(u64_at(bytes, 0x28)?).ok()?;
        let count = usize::from(u16_at(bytes, 0x3c)?);
        let names_index = usize::from(u16_at(bytes, 0x3e)?);
        if usize::from(u16_at(bytes, 0x3a)?) != SECTION_BYTES {
            return None;
        }
        let sections = part(bytes, offset, count.checked_mul(SECTION_BYTES)?)?;
        let mut elf = Elf { bytes, sections, names: &[] };
        elf.names = elf.contents(elf.sections.chunks_exact(SECTION_BYTES).nth(names_index)?)?;
        Some(elf)
    }

    /// The contents of a section.
    pub(super) fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.contents(self.header(name)?)
    }

    /// Whether there is a section of this name.
    pub(super) fn has_section(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    /// The functions that `.symtab` defines, in its order.
    pub(super) fn functions(&self) -> impl Iterator<Item = Function<'a>> {
        let table = self.section(".symtab").unwrap_or_default();
        let strings = self.section(".strtab").unwrap_or_default();
        table.chunks_exact(SYMBOL_BYTES).filter_map(move |symbol| {
            // System V ABI, "Symbol Table": type in the low half of st_info, 2 = function; section 0 = undefined.
            let is_function = symbol[4] & 0xf == 2 && u16_at(symbol, 6)? != 0;
            let name = is_function.then(|| string_at(strings, u32_at(symbol, 0)?))??;
            Some(Function { name, address: u64_at(symbol, 8)? })
        })
    }

    fn header(&self, name: &str) -> Option<&'a [u8]> {
        let matches =
            |header: &&[u8]| u32_at(header, 0).and_then(|at| string_at(self.names, at)) == Some(name);
        self.sections.chunks_exact(SECTION_BYTES).find(matches)
    }

    fn contents(&self, header: &[u8]) -> Option<&'a [u8]> {
        let offset = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let bytes = usize::try_from(u64_at(header, 0x20)?).ok()?;
        // Type 8 = NOBITS: takes no room in the file.
        (u32_at(header, 4)? != 8).then(|| part(self.bytes, offset, bytes))?
    }
}

const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;

/// Whether `needle` stands anywhere in `bytes`.
pub(super) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    // SAFETY: both pointers and lengths are those of slices.
    let found =
        unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), needle.as_ptr().cast(), needle.len()) };
    !found.is_null()
}

fn part(bytes: &[u8], offset: usize, length: usize) -> Option<&[u8]> {
    bytes.get(offset..offset.checked_add(length)?)
}

fn string_at(strings: &[u8], at: u32) -> Option<&str> {
    let from = strings.get(usize::try_from(at).ok()?..)?;
    let end = from.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&from[..end]).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(part(bytes, at, 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(part(bytes, at, 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(part(bytes, at, 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_itself_is_read() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let elf = Elf::read(&bytes).unwrap();
        assert!(elf.has_section(".text") && !elf.has_section(".nvFatBinSegment"));
        assert!(elf.functions().any(|function| function.name == "main" && function.address != 0));
    }

    #[test]
    fn other_files_and_cut_ones_are_refused_without_panic() {
        assert!(Elf::read(b"#!/bin/sh\n").is_none());
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        for length in [0, 5, 6, 63, 64, 4096, bytes.len() / 2, bytes.len() - 1] {
            if let Some(elf) = Elf::read(&bytes[..length]) {
                elf.functions().count();
            }
        }
        let mut wild = bytes[..64].to_vec();
        wild[0x28..0x30].fill(0xff);
        assert!(Elf::read(&wild).is_none());
    }
}
