//! The images of a module: those behind a fatbin wrapper that a program registered, or a copy of what it loads.
//!
//! A wrapper (24 bytes) points to a container that states its own length; version 2, from `-rdc=true`, also points to
//! a list of containers with what was linked. Container and list belong to the program's constant data. What is given
//! to `cuModuleLoadData` and the like has no length: a wrapper, a container, machine code (ELF) or PTX text, each of
//! which tells where it ends.

use std::ffi::{CStr, c_void};
use std::ops::Deref;
use std::sync::Arc;

use cuda_types::{CuError, CuResult};

/// What a module is made from.
#[derive(Debug)]
pub(crate) struct Images {
    own: Image,
    parts: Vec<Image>,
}

/// The bytes of one image.
#[derive(Clone, Debug)]
pub(crate) enum Image {
    /// In the constant data of the program.
    InPlace(&'static [u8]),
    /// A copy, because the program may free what it gave.
    Copy(Arc<[u8]>),
}

impl Deref for Image {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Image::InPlace(bytes) => bytes,
            Image::Copy(bytes) => bytes,
        }
    }
}

impl Image {
    fn into_copy(self) -> Image {
        match self {
            Image::InPlace(bytes) => Image::Copy(bytes.into()),
            copy @ Image::Copy(_) => copy,
        }
    }
}

/// `fatBinaryCtrl.h`: the number at the start of a wrapper.
const WRAPPER_MAGIC: u32 = 0x4662_43B1;
/// The number at the start of [`linked`] images: "VGPU".
const LINKED_MAGIC: u32 = u32::from_le_bytes(*b"VGPU");
/// The first four bytes of an ELF image.
const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");
/// The number at the start of a container.
const CONTAINER_MAGIC: u32 = 0xBA55_ED50;
/// A container's header.
const HEADER_BYTES: usize = 16;
/// More parts than any program has: a list without an end is one we do not understand.
const PART_LIMIT: usize = 4096;

impl Images {
    /// Follows a wrapper; `None` if it is not one.
    ///
    /// # Safety
    /// `wrapper` is NULL or points to what nvcc gave to `__cudaRegisterFatBinary`, which stays in place and unchanged
    /// until it is unregistered.
    pub(crate) unsafe fn of_wrapper(wrapper: *const c_void) -> Option<Images> {
        if wrapper.is_null() {
            return None;
        }
        // SAFETY: a wrapper has 24 bytes, as the caller vouches.
        let [head, container, list] = unsafe { wrapper.cast::<[u64; 3]>().read_unaligned() };
        let (magic, version) = (head & 0xffff_ffff, head >> 32);
        if magic != u64::from(WRAPPER_MAGIC) || !(version == 1 || version == 2) {
            return None;
        }
        // SAFETY: the wrapper's pointer to its container.
        let own = unsafe { self::container(container) }?;
        let mut parts = Vec::new();
        if version == 2 && list != 0 {
            for index in 0..PART_LIMIT {
                let entry = std::ptr::with_exposed_provenance::<u64>(usize::try_from(list).ok()?);
                // SAFETY: the list ends with NULL, and we have not met it yet.
                let part = unsafe { entry.add(index).read_unaligned() };
                if part == 0 {
                    break;
                }
                // SAFETY: an entry of the list is a pointer to a container.
                parts.push(Image::InPlace(unsafe { self::container(part) }?));
            }
        }
        Some(Images { own: Image::InPlace(own), parts })
    }

    /// What a program gives to be loaded: a wrapper, a container, machine code, or text that ends with a zero byte.
    ///
    /// With `is_lasting` the bytes are read in place: the program promises to keep them until it unloads the library.
    ///
    /// # Safety
    /// `start` is NULL or points to one of these.
    pub(crate) unsafe fn of_data(start: *const c_void, is_lasting: bool) -> CuResult<Images> {
        if start.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the shortest of all is an empty text, which is known by its first byte; the others begin with four.
        let head = unsafe { head(start.cast()) };
        let images = match head {
            // SAFETY: a wrapper, as its number says.
            Some(WRAPPER_MAGIC) => unsafe { Images::of_wrapper(start) }.ok_or(CuError::INVALID_IMAGE)?,
            Some(CONTAINER_MAGIC) => {
                // SAFETY: a container, as its number says.
                let own = unsafe { container(start.expose_provenance() as u64) };
                Images { own: Image::InPlace(own.ok_or(CuError::INVALID_IMAGE)?), parts: Vec::new() }
            }
            Some(ELF_MAGIC) => {
                // SAFETY: an ELF image, as its number says.
                let own = unsafe { elf(start.cast()) }.ok_or(CuError::INVALID_IMAGE)?;
                Images { own: Image::InPlace(own), parts: Vec::new() }
            }
            Some(LINKED_MAGIC) => {
                // SAFETY: what `linked` has written: the number is followed by the length of the whole.
                let bytes = unsafe { start.cast::<u8>().add(8).cast::<u64>().read_unaligned() };
                let length = usize::try_from(bytes).map_err(|_| CuError::INVALID_IMAGE)?;
                // SAFETY: as above.
                return Images::of_bytes(unsafe { std::slice::from_raw_parts(start.cast(), length) });
            }
            _ => {
                // SAFETY: CUDA Driver API, cuModuleLoadData: text ends with a zero byte.
                let text = unsafe { CStr::from_ptr(start.cast()) }.to_bytes();
                return Images::of_bytes(text);
            }
        };
        if is_lasting {
            return Ok(images);
        }
        let parts = images.parts.into_iter().map(Image::into_copy).collect();
        Ok(Images { own: images.own.into_copy(), parts })
    }

    /// What a file holds: a container, machine code, text, or [`linked`] images.
    pub(crate) fn of_bytes(bytes: &[u8]) -> CuResult<Images> {
        if bytes.is_empty() {
            return Err(CuError::INVALID_IMAGE);
        }
        if bytes.starts_with(&LINKED_MAGIC.to_le_bytes()) {
            let parts = parts_of(bytes).ok_or(CuError::INVALID_IMAGE)?;
            return Ok(Images { own: Image::InPlace(&[]), parts });
        }
        Ok(Images { own: Image::Copy(bytes.into()), parts: Vec::new() })
    }

    /// The registered image; `None` if it holds no entry, as with `-rdc=true -arch=compute_XX`.
    pub(crate) fn own(&self) -> Option<&[u8]> {
        (self.own.len() > HEADER_BYTES || self.parts.is_empty()).then_some(&self.own)
    }

    /// What the image, or what it was linked from, holds, for a message.
    pub(crate) fn contents(&self) -> String {
        let mut machine_code = std::collections::BTreeSet::new();
        let mut text = std::collections::BTreeSet::new();
        for image in std::iter::once(&self.own).chain(&self.parts) {
            let container = fatbin::Fatbin::parse(image);
            for entry in container.iter().flat_map(fatbin::Fatbin::entries) {
                match entry.kind() {
                    fatbin::Kind::PTX => text.insert(entry.arch()),
                    fatbin::Kind::ELF => machine_code.insert(entry.arch()),
                    _ => false,
                };
            }
        }
        let listed = |what: &str, all: &std::collections::BTreeSet<u32>| {
            let all: Vec<String> = all.iter().map(u32::to_string).collect();
            if all.is_empty() { format!("no {what}") } else { format!("{what} for {}", all.join(", ")) }
        };
        if machine_code.is_empty() && text.is_empty() && self.own.starts_with(b"\x7fELF") {
            return "machine code of one architecture and no PTX; a software GPU needs PTX".to_owned();
        }
        let both = format!("{}, {}", listed("machine code", &machine_code), listed("PTX", &text));
        if text.is_empty() { format!("{both}; a software GPU needs PTX") } else { both }
    }

    /// Whether the image was linked from parts.
    pub(crate) fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// What the image was linked from, as far as a device of this compute capability can use it; with `ptx_only`,
    /// one that cannot use machine code.
    ///
    /// NVIDIA's device runtime library is a part of every such program, with PTX for the newest devices only. Few
    /// programs need it; those that do miss it when they are linked.
    pub(crate) fn parts_for(&self, capability: u32, ptx_only: bool) -> Vec<&[u8]> {
        let is_usable = |part: &&[u8]| {
            // What we cannot read is for the server to judge.
            fatbin::Fatbin::parse(part).map_or(true, |container| {
                container.best_ptx(capability).is_some()
                    || !ptx_only && container.best_elf(capability).is_some()
            })
        };
        self.parts.iter().map(|part| &**part).filter(is_usable).collect()
    }
}

/// The first four bytes, if there are as many before a zero byte: of text that is shorter nothing more may be read.
///
/// # Safety
/// `start` points to a text that ends with a zero byte, or to at least four bytes.
unsafe fn head(start: *const u8) -> Option<u32> {
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: no zero byte has come yet, as the caller vouches.
        *byte = unsafe { start.add(index).read() };
        if *byte == 0 {
            return None;
        }
    }
    Some(u32::from_le_bytes(bytes))
}

/// The bytes of an ELF image: up to the last of its headers and sections.
///
/// # Safety
/// `start` is that of an ELF image that stays in place and unchanged.
unsafe fn elf(start: *const u8) -> Option<&'static [u8]> {
    // ELF-64, "File header": type and offsets of the tables; little-endian, as every GPU's.
    const HEADER: usize = 64;
    const SECTION: usize = 64;
    // SAFETY: an ELF image begins with its header.
    let header = unsafe { std::slice::from_raw_parts(start, HEADER) };
    let word = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(header.get(at..at + 2)?.try_into().ok()?)));
    let table = |offset: u64, size: usize, count: usize| {
        usize::try_from(offset).ok()?.checked_add(size.checked_mul(count)?)
    };
    if header[4] != 2 || header[5] != 1 {
        return None;
    }
    let (programs, sections) = (word(header, 32)?, word(header, 40)?);
    let (section_size, section_count) = (half(58)?, half(60)?);
    let mut end = HEADER.max(table(programs, half(54)?, half(56)?)?);
    if section_count > 0 {
        if section_size != SECTION {
            return None;
        }
        let sections_end = table(sections, section_size, section_count)?;
        end = end.max(sections_end);
        // SAFETY: the header says that the image reaches to the end of this table.
        let all = unsafe { std::slice::from_raw_parts(start, sections_end) };
        for section in all[usize::try_from(sections).ok()?..].chunks_exact(SECTION) {
            const SHT_NOBITS: u32 = 8;
            let kind = u32::from_le_bytes(section[4..8].try_into().ok()?);
            if kind != SHT_NOBITS {
                end = end.max(usize::try_from(word(section, 24)?.checked_add(word(section, 32)?)?).ok()?);
            }
        }
    }
    // SAFETY: the tables say that the image reaches to here.
    Some(unsafe { std::slice::from_raw_parts(start, end) })
}

/// Images that are to be linked, as one: what `cuLinkComplete` answers. They are linked where they are loaded.
pub(crate) fn linked(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = LINKED_MAGIC.to_le_bytes().to_vec();
    bytes.extend(u32::try_from(parts.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend([0; 8]);
    for part in parts {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part);
    }
    let length = (bytes.len() as u64).to_le_bytes();
    bytes[8..16].copy_from_slice(&length);
    bytes
}

/// The images behind [`linked`].
fn parts_of(bytes: &[u8]) -> Option<Vec<Image>> {
    let count = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    let mut rest = bytes.get(16..)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let (length, behind) = rest.split_first_chunk::<8>()?;
        let (part, next) = behind.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        parts.push(Image::Copy(part.into()));
        rest = next;
    }
    (!parts.is_empty() && rest.is_empty()).then_some(parts)
}

/// The bytes of a container.
///
/// # Safety
/// `address` is that of a container that stays in place and unchanged.
unsafe fn container(address: u64) -> Option<&'static [u8]> {
    let start = std::ptr::with_exposed_provenance::<u8>(usize::try_from(address).ok()?);
    if start.is_null() {
        return None;
    }
    // SAFETY: a container begins with a header of 16 bytes.
    let [head, bytes] = unsafe { start.cast::<[u64; 2]>().read_unaligned() };
    let header_bytes = usize::from(u16::try_from(head >> 48).ok()?);
    if head & 0xffff_ffff != u64::from(CONTAINER_MAGIC) || header_bytes < HEADER_BYTES {
        return None;
    }
    let length = usize::try_from(bytes).ok()?.checked_add(header_bytes)?;
    // SAFETY: the header states the bytes of all entries behind it.
    Some(unsafe { std::slice::from_raw_parts(start, length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container_of(entries: &[u8]) -> &'static [u8] {
        let mut bytes = CONTAINER_MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0, 16, 0]);
        bytes.extend((entries.len() as u64).to_le_bytes());
        bytes.extend(entries);
        bytes.leak()
    }

    fn wrapper(version: u64, container: &[u8], list: u64) -> *const c_void {
        let head = version << 32 | u64::from(WRAPPER_MAGIC);
        let words = Box::new([head, container.as_ptr().expose_provenance() as u64, list]);
        std::ptr::from_ref(Box::leak(words)).cast()
    }

    #[test]
    fn a_plain_wrapper_leads_to_its_container() {
        let container = container_of(b"entries!");
        // SAFETY: leaked, so it stays.
        let images = unsafe { Images::of_wrapper(wrapper(1, container, 0)) }.unwrap();
        assert_eq!(images.own(), Some(container));
        assert!(!images.has_parts());
    }

    #[test]
    fn version_two_leads_to_its_parts_as_well() {
        let parts = [container_of(b"first"), container_of(b"second")];
        let mut list: Vec<u64> = parts.iter().map(|part| part.as_ptr().expose_provenance() as u64).collect();
        list.push(0);
        let list = list.leak().as_ptr().expose_provenance() as u64;
        // SAFETY: leaked, so it stays.
        let images = unsafe { Images::of_wrapper(wrapper(2, container_of(b""), list)) }.unwrap();
        assert_eq!(images.own(), None);
        assert_eq!(images.parts.iter().map(|part| &**part).collect::<Vec<_>>(), parts);
    }

    #[test]
    fn what_is_loaded_tells_where_it_ends() {
        let loaded = |bytes: &[u8]| {
            // SAFETY: each is one of the forms, as far as its first bytes tell.
            unsafe { Images::of_data(bytes.as_ptr().cast(), false) }
                .map(|images| images.own().unwrap().to_vec())
        };
        assert_eq!(loaded(b".version 8.0\0behind"), Ok(b".version 8.0".to_vec()));
        assert_eq!(loaded(b".v\0"), Ok(b".v".to_vec()));
        assert_eq!(loaded(b"\0"), Err(CuError::INVALID_IMAGE));
        let mut two = container_of(b"entries!").to_vec();
        two.extend(b"behind");
        assert_eq!(loaded(&two), Ok(container_of(b"entries!").to_vec()));
        // A header, 8 bytes of a section, and a table with an empty and this section.
        let mut elf = vec![0_u8; 64 + 8 + 2 * 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[40] = 72;
        elf[58] = 64;
        elf[60] = 2;
        elf[72 + 64 + 4] = 1;
        elf[72 + 64 + 24] = 64;
        elf[72 + 64 + 32] = 8;
        let length = elf.len();
        elf.extend(b"behind");
        assert_eq!(loaded(&elf).unwrap().len(), length);
        let linked = linked(&[b"one".to_vec(), b"three".to_vec()]);
        // SAFETY: written by `linked`.
        let images = unsafe { Images::of_data(linked.as_ptr().cast(), false) }.unwrap();
        assert!(images.own().is_none());
        assert_eq!(images.parts.iter().map(|part| &**part).collect::<Vec<_>>(), [&b"one"[..], b"three"]);
        assert!(Images::of_bytes(&linked[..linked.len() - 1]).is_err());
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { Images::of_data(std::ptr::null(), false) }.err(), Some(CuError::INVALID_VALUE));
    }

    #[test]
    fn other_bytes_are_refused() {
        let wrong: &[u64; 3] = &[0, 0, 0];
        // SAFETY: 24 readable bytes.
        assert!(unsafe { Images::of_wrapper(std::ptr::from_ref(wrong).cast()) }.is_none());
        // SAFETY: NULL is allowed.
        assert!(unsafe { Images::of_wrapper(std::ptr::null()) }.is_none());
        let text: &'static [u8] = b"no container at all here";
        // SAFETY: 24 readable bytes behind the wrapper's pointer.
        assert!(unsafe { Images::of_wrapper(wrapper(1, text, 0)) }.is_none());
    }
}
