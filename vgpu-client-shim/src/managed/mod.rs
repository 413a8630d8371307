//! Managed memory: device memory in the window, with pages of this process at the same addresses.
//!
//! Every block of a managed range has its newest bytes on one side or on both. The device's side counts whenever
//! work is given to it: [`to_device`] sends what the program has written and takes its access away. The program's
//! next access to a block faults; [`fault`] waits for the device, fetches the block and gives the access back, for
//! reading only if it was a read, so that unchanged blocks are not sent again.
//!
//! A new range is the program's, without faults: it is filled there, mostly, and also by `read(2)`, which does not
//! raise a fault but fails. Only pages that were touched are sent. For the same reason what the program has used before
//! is fetched when it has waited for the device ([`eager`]), as long as that is not too much.
//!
//! What must never happen: a fault inside our own code. So bytes travel by way of a second mapping of the same pages
//! ([`view::Pages`]), which is always accessible, and the lock of this module is never held while the program's
//! addresses are touched.

mod eager;
mod fault;
pub(crate) mod marks;
pub(crate) mod variable;
mod view;

pub(crate) use eager::synchronized;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use client::Session;
use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult};
use proto::{ContextCalls, StreamCalls};

use crate::handles::Resolved;
use crate::state::Device;
use eager::Shadow;
use marks::Marks;
use view::{Access, Pages};

/// What is fetched for one access, unless accesses follow each other.
const BLOCK_BYTES: usize = 64 * 1024;
/// The most that is fetched for one access.
const RUN_BYTES: usize = 8 * 1024 * 1024;
const PAGE_BYTES: usize = 4096;

/// Where a block's newest bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Newest {
    Device,
    /// On both sides: the program may read.
    Both,
    /// Here: the program may write.
    Here,
}

/// One managed allocation.
struct Range {
    ordinal: usize,
    /// What the device gave: starts up to a page before `pages`.
    allocation: CUdeviceptr,
    /// As asked for.
    bytes: usize,
    pages: Pages,
    blocks: Vec<Newest>,
    /// Not given to the device yet: untouched pages hold zeros on neither side.
    is_new: bool,
    /// The program has touched it.
    is_used_here: bool,
    /// What was fetched without being asked for.
    shadow: Option<Shadow>,
    /// Where the last fetch ended, and how long it was: the next one grows if it goes on there.
    last_fetch: (usize, usize),
    /// What the program has said about it.
    marks: Marks,
}

#[derive(Default)]
struct Managed {
    ranges: BTreeMap<usize, Range>,
    /// Devices that have got no work since they were last waited for.
    idle: Vec<usize>,
}

static MANAGED: Mutex<Option<Managed>> = Mutex::new(None);
/// The number of ranges, to pass by quickly where there is none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn managed() -> MutexGuard<'static, Option<Managed>> {
    MANAGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allocates managed memory on `device`.
pub(crate) fn allocate(device: &Device, bytes: usize) -> CuResult<u64> {
    let session = device.session()?;
    let length = bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(CuError::OUT_OF_MEMORY)?;
    // A page more than needed, so that no other allocation shares a page with this one.
    let allocation = session.cuMemAlloc((length + PAGE_BYTES) as u64)?;
    let start = usize::try_from(allocation.0).map_err(|_| CuError::UNKNOWN)?.next_multiple_of(PAGE_BYTES);
    let pages = fault::install().and_then(|()| Pages::new(start, length));
    let pages = match pages {
        Ok(pages) => pages,
        Err(error) => {
            crate::log::error(format_args!("managed memory: no pages at {start:#x}: {error}"));
            session.cuMemFree(allocation)?;
            return Err(CuError::OUT_OF_MEMORY);
        }
    };
    let blocks = vec![Newest::Here; length.div_ceil(BLOCK_BYTES)];
    let range = Range {
        ordinal: device.ordinal,
        allocation,
        bytes,
        pages,
        blocks,
        is_new: true,
        is_used_here: false,
        shadow: None,
        last_fetch: (0, 0),
        marks: Marks::default(),
    };
    managed().get_or_insert_default().ranges.insert(start, range);
    COUNT.fetch_add(1, Ordering::Release);
    Ok(start as u64)
}

/// Gives new managed memory its first bytes.
pub(crate) fn fill(address: u64, bytes: &[u8]) {
    let start = usize::try_from(address).unwrap_or(0);
    if let Some(range) = managed().as_ref().and_then(|managed| managed.ranges.get(&start)) {
        range.pages.span(0, bytes.len()).write().copy_from_slice(bytes);
    }
}

/// Frees managed memory; `None` if `pointer` does not start a managed range.
pub(crate) fn free(pointer: u64) -> Option<CuResult<()>> {
    if !is_used() {
        return None;
    }
    let range = managed().as_mut()?.ranges.remove(&usize::try_from(pointer).ok()?)?;
    COUNT.fetch_sub(1, Ordering::Release);
    let session = crate::handles::device(range.ordinal).and_then(Device::session);
    Some(session.and_then(|session| session.cuMemFree(range.allocation)))
}

/// The device whose managed memory holds `pointer`.
pub(crate) fn ordinal_of(pointer: u64) -> Option<usize> {
    if !is_used() {
        return None;
    }
    let pointer = usize::try_from(pointer).ok()?;
    let managed = managed();
    let (start, range) = managed.as_ref()?.ranges.range(..=pointer).next_back()?;
    (pointer - start < range.bytes).then_some(range.ordinal)
}

/// Looks at the marks of `bytes` bytes, which lie in one managed range, or changes them; `look` is told the offsets.
pub(crate) fn with_marks<T>(
    pointer: u64,
    bytes: usize,
    look: impl FnOnce(&mut Marks, usize, usize) -> T,
) -> CuResult<T> {
    let pointer = usize::try_from(pointer).map_err(|_| CuError::INVALID_VALUE)?;
    let mut managed = managed();
    let found = managed.as_mut().and_then(|managed| managed.ranges.range_mut(..=pointer).next_back());
    let (start, range) = found.ok_or(CuError::INVALID_VALUE)?;
    let from = pointer - start;
    let end = from.checked_add(bytes).filter(|end| bytes > 0 && *end <= range.bytes);
    Ok(look(&mut range.marks, from, end.ok_or(CuError::INVALID_VALUE)?))
}

/// Forgets the ranges of a device whose context is gone.
pub(crate) fn forget_device(ordinal: usize) {
    fault::forget_stream(ordinal);
    if let Some(managed) = managed().as_mut() {
        let before = managed.ranges.len();
        managed.ranges.retain(|_, range| range.ordinal != ordinal);
        COUNT.fetch_sub(before - managed.ranges.len(), Ordering::Release);
    }
}

/// Before work is given to a device: sends what the program has written and takes its access away.
#[inline(always)]
pub(crate) fn to_device(target: &Resolved) -> CuResult<()> {
    if is_used() { send_all(target) } else { Ok(()) }
}

#[cold]
fn send_all(target: &Resolved) -> CuResult<()> {
    let mut sent = false;
    if let Some(managed) = managed().as_mut() {
        let ordinal = target.device.ordinal;
        managed.idle.retain(|device| *device != ordinal);
        for range in managed.ranges.values_mut().filter(|range| range.ordinal == ordinal) {
            sent |= range.send(&target.session)?;
        }
    }
    if sent && !target.stream.is_null() {
        // The bytes went by the legacy default stream, which not every stream waits for.
        StreamCalls::cuStreamSynchronize(&*target.session, CUstream::NULL)?;
    }
    Ok(())
}

/// Fetches a range for the program: `cudaMemPrefetchAsync` to the host.
pub(crate) fn to_host(pointer: u64, bytes: usize) -> CuResult<()> {
    let start = usize::try_from(pointer).map_err(|_| CuError::INVALID_VALUE)?;
    let mut at = start;
    while at < start.saturating_add(bytes) {
        fault::resolve(at, false).ok_or(CuError::INVALID_VALUE)??;
        at = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
    }
    Ok(())
}

fn is_used() -> bool {
    COUNT.load(Ordering::Acquire) > 0
}

impl Range {
    /// Sends what is newest here; afterwards all of it is newest on the device. Answers whether anything was sent.
    fn send(&mut self, session: &Session) -> CuResult<bool> {
        if self.blocks.iter().all(|block| *block == Newest::Device) {
            return Ok(false);
        }
        self.pages.allow(0, self.pages.len(), Access::None).map_err(|_| CuError::UNKNOWN)?;
        let mut parts = Vec::new();
        let mut at = 0;
        while at < self.pages.len() {
            let end = self.run_end(at, |block| block == Newest::Here);
            if end > at {
                parts.extend(self.changed(at, end));
            }
            at = end.max(at + BLOCK_BYTES);
        }
        // Before anything can fail: what cannot be sent is lost with its context.
        self.blocks.fill(Newest::Device);
        self.is_new = false;
        self.is_used_here |= !parts.is_empty();
        self.shadow = None;
        for (from, to) in &parts {
            let address = CUdeviceptr((self.pages.start() + from) as u64);
            session.copy_to_device(address, self.pages.span(*from, *to), CUstream::NULL, false)?;
        }
        Ok(!parts.is_empty())
    }

    /// What must be sent of blocks that the program may have written.
    fn changed(&self, from: usize, to: usize) -> Vec<(usize, usize)> {
        match &self.shadow {
            Some(shadow) if !self.is_new => shadow.changed(&self.pages, from, to),
            _ => self.pages.touched(from, to, self.is_new),
        }
    }

    /// The end of the blocks from offset `at` that meet a condition.
    fn run_end(&self, at: usize, condition: impl Fn(Newest) -> bool) -> usize {
        let first = at / BLOCK_BYTES;
        let count = self.blocks[first..].iter().take_while(|block| condition(**block)).count();
        if count == 0 { at } else { ((first + count) * BLOCK_BYTES).min(self.pages.len()) }
    }

    /// Gives the program access to the block at `offset`; fetches it and what follows if it is on the device.
    fn fetch(
        &mut self,
        offset: usize,
        writes: bool,
        fetched: &mut dyn FnMut(&Pages, usize, usize) -> CuResult<()>,
    ) -> CuResult<()> {
        self.is_used_here = true;
        let first = offset / BLOCK_BYTES * BLOCK_BYTES;
        let (mut access, mut newest) =
            if writes { (Access::Write, Newest::Here) } else { (Access::Read, Newest::Both) };
        let mut end = (first + BLOCK_BYTES).min(self.pages.len());
        match self.blocks[offset / BLOCK_BYTES] {
            // Another thread was faster.
            Newest::Here => (access, newest) = (Access::Write, Newest::Here),
            // A write to what may be read.
            Newest::Both => {}
            Newest::Device => {
                let (last_end, last_bytes) = self.last_fetch;
                let bytes = if last_end == first {
                    (last_bytes * 2).clamp(BLOCK_BYTES, RUN_BYTES)
                } else {
                    BLOCK_BYTES
                };
                end = self.run_end(first, |block| block == Newest::Device).min(first + bytes);
                fetched(&self.pages, first, end)?;
                self.last_fetch = (end, bytes);
            }
        }
        self.pages.allow(first, end, access).map_err(|_| CuError::UNKNOWN)?;
        self.blocks[first / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)].fill(newest);
        Ok(())
    }
}

/// Waits for the device, unless it has got no work since it was last waited for.
fn wait_for(session: &Session, ordinal: usize, idle: &mut Vec<usize>) -> CuResult<()> {
    if !idle.contains(&ordinal) {
        // Not the method of the session, which would take an error that the program has yet to see.
        ContextCalls::cuCtxSynchronize(session)?;
        idle.push(ordinal);
    }
    Ok(())
}
