//! The images behind a fatbin wrapper, found through the pointers that a program registers.
//!
//! A wrapper (24 bytes) points to a container that states its own length; version 2, from `-rdc=true`, also points to
//! a list of containers with what was linked. Container and list belong to the program's constant data.

use std::ffi::c_void;

/// What a wrapper leads to.
pub(crate) struct Images {
    own: &'static [u8],
    parts: Vec<&'static [u8]>,
}

/// `fatBinaryCtrl.h`: the number at the start of a wrapper.
const WRAPPER_MAGIC: u32 = 0x4662_43B1;
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
                parts.push(unsafe { self::container(part) }?);
            }
        }
        Some(Images { own, parts })
    }

    /// The registered image; `None` if it holds no entry, as with `-rdc=true -arch=compute_XX`.
    pub(crate) fn own(&self) -> Option<&'static [u8]> {
        (self.own.len() > HEADER_BYTES || self.parts.is_empty()).then_some(self.own)
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
    pub(crate) fn parts_for(&self, capability: u32, ptx_only: bool) -> Vec<&'static [u8]> {
        let is_usable = |part: &&[u8]| {
            // What we cannot read is for the server to judge.
            fatbin::Fatbin::parse(part).map_or(true, |container| {
                container.best_ptx(capability).is_some()
                    || !ptx_only && container.best_elf(capability).is_some()
            })
        };
        self.parts.iter().copied().filter(is_usable).collect()
    }

    #[cfg(test)]
    pub(crate) fn of_bytes(own: &'static [u8], parts: &[&'static [u8]]) -> Images {
        Images { own, parts: parts.to_vec() }
    }
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
        assert_eq!(images.parts, parts);
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
