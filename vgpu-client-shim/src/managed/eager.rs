//! Managed memory and system calls: `write(2)` of memory that is on the device does not fault but fails with `EFAULT`,
//! as do `read(2)` and what MPI does with them. So what the program has used before is fetched at once when it has
//! waited for the device, while that is little; it may be written, and only pages that were are sent again.

use cuda_types::{CUdeviceptr, CUstream, CuResult};
use proto::StreamCalls;

use super::view::{Access, Pages};
use super::{BLOCK_BYTES, Managed, Newest, PAGE_BYTES, Range, is_used, managed};
use crate::handles::STREAMS;
use crate::runtime::stream::NON_BLOCKING;
use crate::state::Device;
use client::Session;

/// The most that is fetched at a time; the smallest ranges come first. What is beyond comes when it is touched.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// The device's bytes of blocks that were fetched, to find the pages that the program has written.
pub(super) struct Shadow {
    bytes: Vec<u8>,
    /// By block.
    is_known: Vec<bool>,
}

/// The program has waited for the device, for all of it or for one stream or event, or has asked and found it done.
pub(crate) fn synchronized(device: &Device, session: &Session, is_whole: bool) -> CuResult<()> {
    if !is_used() {
        return Ok(());
    }
    let mut managed = managed();
    let Some(Managed { ranges, idle }) = managed.as_mut() else { return Ok(()) };
    let is_wanted = |range: &&mut Range| {
        range.ordinal == device.ordinal && range.is_used_here && range.blocks.contains(&Newest::Device)
    };
    let mut wanted: Vec<&mut Range> = ranges.values_mut().filter(is_wanted).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    if !idle.contains(&device.ordinal) {
        // Other streams may still write what would be fetched.
        if !is_whole && !is_idle(device, session)? {
            return Ok(());
        }
        idle.push(device.ordinal);
    }
    wanted.sort_by_key(|range| range.pages.len());
    let mut left = MOST_BYTES;
    for range in wanted {
        let Some(rest) = left.checked_sub(range.pages.len()) else { break };
        left = rest;
        range.fetch_all(session)?;
    }
    Ok(())
}

/// Whether no stream of a device has anything to do.
fn is_idle(device: &Device, session: &Session) -> CuResult<bool> {
    let is_done = |stream| match session.cuStreamQuery(stream) {
        Ok(()) => Ok(true),
        Err(cuda_types::CuError::NOT_READY) => Ok(false),
        // Ended by another thread since it was listed: what it had to do is done.
        Err(cuda_types::CuError::INVALID_HANDLE) => Ok(true),
        Err(error) => Err(error),
    };
    // The legacy default stream's work includes that of all blocking streams.
    if !is_done(CUstream::NULL)? {
        return Ok(false);
    }
    let mut free = Vec::new();
    STREAMS.each(|stream| {
        if stream.ordinal == device.ordinal && stream.flags & NON_BLOCKING != 0 {
            free.push(stream.name);
        }
    });
    for stream in free {
        if !is_done(stream)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Range {
    /// Fetches every block that is on the device; the program may read and write them.
    fn fetch_all(&mut self, session: &Session) -> CuResult<()> {
        let length = self.pages.len();
        let mut shadow = self
            .shadow
            .take()
            .unwrap_or_else(|| Shadow { bytes: vec![0; length], is_known: vec![false; self.blocks.len()] });
        let mut at = 0;
        while at < length {
            let end = self.run_end(at, |block| block == Newest::Device);
            if end > at {
                let address = CUdeviceptr((self.pages.start() + at) as u64);
                session.copy_to_host(self.pages.span(at, end), address, CUstream::NULL, true)?;
                shadow.bytes[at..end].copy_from_slice(self.pages.span(at, end).read());
                shadow.is_known[at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)].fill(true);
                self.pages.allow(at, end, Access::Write).map_err(|_| cuda_types::CuError::UNKNOWN)?;
                self.blocks[at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)].fill(Newest::Here);
            }
            at = end.max(at + BLOCK_BYTES);
        }
        self.shadow = Some(shadow);
        Ok(())
    }
}

impl Shadow {
    /// The parts of `from..to` that differ from the device's bytes, by pages; all of a block that is not known.
    pub(super) fn changed(&self, pages: &Pages, from: usize, to: usize) -> Vec<(usize, usize)> {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for page in (from..to).step_by(PAGE_BYTES) {
            let end = (page + PAGE_BYTES).min(to);
            let is_same =
                self.is_known[page / BLOCK_BYTES] && self.bytes[page..end] == *pages.span(page, end).read();
            match parts.last_mut() {
                _ if is_same => {}
                Some(last) if last.1 == page => last.1 = end,
                _ => parts.push((page, end)),
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_written_pages_of_known_blocks_are_sent() {
        let length = 3 * BLOCK_BYTES;
        // An address that this test alone maps: pages replace what is there.
        let reserved = HostPages::new(length);
        let pages = Pages::new(reserved.start, length).expect("memory");
        let shadow = Shadow { bytes: vec![0; length], is_known: vec![true, false, true] };
        assert_eq!(shadow.changed(&pages, 0, BLOCK_BYTES), []);
        assert_eq!(shadow.changed(&pages, 0, 2 * BLOCK_BYTES), [(BLOCK_BYTES, 2 * BLOCK_BYTES)]);
        pages.span(2 * BLOCK_BYTES + PAGE_BYTES + 7, 2 * BLOCK_BYTES + PAGE_BYTES + 8).write()[0] = 1;
        let page = 2 * BLOCK_BYTES + PAGE_BYTES;
        assert_eq!(shadow.changed(&pages, 2 * BLOCK_BYTES, length), [(page, page + PAGE_BYTES)]);
    }

    /// Addresses that nobody uses.
    struct HostPages {
        start: usize,
        bytes: usize,
    }

    impl HostPages {
        fn new(bytes: usize) -> HostPages {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: a new mapping wherever the kernel likes.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
            assert_ne!(start, libc::MAP_FAILED);
            HostPages { start: start.expose_provenance(), bytes }
        }
    }

    impl Drop for HostPages {
        fn drop(&mut self) {
            // SAFETY: exactly the mapping made above.
            unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(self.start), self.bytes) };
        }
    }
}
