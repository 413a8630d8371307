//! Allocation inside an address window: arithmetic only, no memory is touched.
//!
//! The client chooses device addresses itself, inside one range per device that both sides have reserved
//! (design.md section 6), so that creating an allocation needs no round trip. The device maps *chunks*, multiples
//! of 2 MiB; an allocation is a part of one chunk, at a multiple of 256 bytes.
//!
//! What must never happen: a freed range is given out again while work posted before the free may still use it.
//! So [`Window::free`] only puts the range into quarantine and hands out a [`Ticket`]; whoever learns that all that
//! work is complete redeems it with [`Window::release`].
//!
//! Layout:
//! * [`Window`]: the allocator
//! * `ranges`: free ranges by address and by size

#![forbid(unsafe_code)]

mod ranges;

use std::collections::{BTreeMap, HashMap};

use ranges::FreeRanges;

/// Every allocation starts at a multiple of this, as CUDA promises for `cuMemAlloc`.
pub const GRANULE_BYTES: u64 = 256;

/// Chunks start at, and are, multiples of this: the granularity of `cuMemCreate` on every device seen.
pub const CHUNK_BYTES: u64 = 2 * 1024 * 1024;

/// One device's addresses: which are mapped, which are given out, which wait in quarantine.
#[derive(Debug)]
pub struct Window {
    base: u64,
    bytes: u64,
    /// Address space of the window that no chunk occupies.
    unmapped: FreeRanges,
    /// Mapped and not given out. Ranges of two chunks are never merged, so a chunk can be unmapped alone.
    free: FreeRanges,
    chunks: BTreeMap<u64, ChunkState>,
    allocations: BTreeMap<u64, Allocation>,
    /// Addresses that were taken without memory: start -> bytes.
    reservations: BTreeMap<u64, u64>,
    quarantine: HashMap<Ticket, Quarantined>,
    used_bytes: u64,
    next_ticket: u64,
}

/// Where an allocation went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The device address.
    pub address: u64,
    /// The chunk that the device must map before the allocation is used; `None` if it lies in a mapped one.
    pub new_chunk: Option<Chunk>,
}

/// A range that the device maps and unmaps as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub address: u64,
    pub bytes: u64,
}

/// The claim on a freed range, redeemed with [`Window::release`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(u64);

/// What [`Window::free`] took back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freed {
    /// The bytes that the program had asked for.
    pub bytes: u64,
    /// Redeem it when all work posted before the free is complete.
    pub ticket: Ticket,
}

/// No range of the window is large enough.
///
/// Redeeming tickets may make room: synchronize, [`Window::release`], try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

#[derive(Debug)]
struct ChunkState {
    bytes: u64,
    /// Bytes given out or in quarantine.
    occupied_bytes: u64,
}

#[derive(Debug)]
struct Allocation {
    /// As asked for: what bounds checks and `cuMemGetAddressRange` speak of.
    bytes: u64,
    /// Rounded up to granules: what comes back to the free ranges.
    reserved: u64,
}

#[derive(Debug)]
struct Quarantined {
    address: u64,
    reserved: u64,
}

impl Window {
    /// An empty window of `bytes` bytes from `base`; both are rounded inward to multiples of [`CHUNK_BYTES`].
    pub fn new(base: u64, bytes: u64) -> Window {
        let end = base.saturating_add(bytes) / CHUNK_BYTES * CHUNK_BYTES;
        let base = base.checked_next_multiple_of(CHUNK_BYTES).unwrap_or(end).min(end);
        let mut unmapped = FreeRanges::default();
        unmapped.insert(base, end - base);
        Window {
            base,
            bytes: end - base,
            unmapped,
            free: FreeRanges::default(),
            chunks: BTreeMap::new(),
            allocations: BTreeMap::new(),
            reservations: BTreeMap::new(),
            quarantine: HashMap::new(),
            used_bytes: 0,
            next_ticket: 1,
        }
    }

    /// Gives out `bytes` bytes at a multiple of `align`, at least [`GRANULE_BYTES`].
    ///
    /// Zero bytes occupy one granule, so that the address is unique; callers that must refuse them do so before.
    /// `align` must be a power of two; another value is refused as [`Full`].
    pub fn allocate(&mut self, bytes: u64, align: u64) -> Result<Placement, Full> {
        if !align.is_power_of_two() {
            return Err(Full);
        }
        let align = align.max(GRANULE_BYTES);
        let reserved = bytes.max(1).checked_next_multiple_of(GRANULE_BYTES).ok_or(Full)?;
        let (address, new_chunk) = match self.free.take(reserved, align) {
            Some(address) => (address, None),
            None => {
                let chunk = self.new_chunk(reserved, align)?;
                self.free.remove(chunk.address);
                let address = chunk.address;
                if chunk.bytes > reserved {
                    self.free.insert(address + reserved, chunk.bytes - reserved);
                }
                (address, Some(chunk))
            }
        };
        if let Some((_, chunk)) = self.chunks.range_mut(..=address).next_back() {
            chunk.occupied_bytes += reserved;
        }
        self.allocations.insert(address, Allocation { bytes, reserved });
        self.used_bytes += bytes;
        Ok(Placement { address, new_chunk })
    }

    /// Notes a chunk that the device has mapped by itself; `false` if it is none, or if its addresses are taken.
    pub fn add_mapped(&mut self, address: u64, bytes: u64) -> bool {
        let is_chunk = bytes > 0 && bytes.is_multiple_of(CHUNK_BYTES) && address.is_multiple_of(CHUNK_BYTES);
        if !is_chunk || !self.unmapped.take_at(address, bytes) {
            return false;
        }
        self.chunks.insert(address, ChunkState { bytes, occupied_bytes: 0 });
        self.free.insert(address, bytes);
        true
    }

    /// Ends the allocation that starts at `address` and puts its range into quarantine; `None` if there is none.
    pub fn free(&mut self, address: u64) -> Option<Freed> {
        let allocation = self.allocations.remove(&address)?;
        self.used_bytes -= allocation.bytes;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.quarantine.insert(ticket, Quarantined { address, reserved: allocation.reserved });
        Some(Freed { bytes: allocation.bytes, ticket })
    }

    /// Makes a freed range available again: all work posted before its free is complete.
    ///
    /// Answers the chunk that became empty, if it did: it may now be unmapped with [`Window::remove_chunk`], or
    /// kept mapped for later. A ticket redeemed twice does nothing.
    pub fn release(&mut self, ticket: Ticket) -> Option<Chunk> {
        let Quarantined { address, reserved } = self.quarantine.remove(&ticket)?;
        let (&start, chunk) = self.chunks.range_mut(..=address).next_back()?;
        chunk.occupied_bytes -= reserved;
        let chunk = Chunk { address: start, bytes: chunk.bytes };
        let empty = self.chunks[&start].occupied_bytes == 0;
        self.free.insert_merged(address, reserved, start, start + chunk.bytes);
        empty.then_some(chunk)
    }

    /// Forgets the chunk at `address`, which the device is about to unmap; `false` if it is not mapped or not empty.
    pub fn remove_chunk(&mut self, address: u64) -> bool {
        let Some(chunk) = self.chunks.get(&address).filter(|chunk| chunk.occupied_bytes == 0) else {
            return false;
        };
        let bytes = chunk.bytes;
        self.chunks.remove(&address);
        self.free.remove(address);
        self.unmapped.insert_merged(address, bytes, self.base, self.base + self.bytes);
        true
    }

    /// Takes back an allocation whose chunk the device could not map: both vanish at once, without quarantine.
    ///
    /// Only for a [`Placement`] with a new chunk, before anything else was allocated.
    pub fn undo(&mut self, placement: Placement) {
        if let Some(freed) = self.free(placement.address) {
            self.release(freed.ticket);
        }
        if let Some(chunk) = placement.new_chunk {
            self.remove_chunk(chunk.address);
        }
    }

    /// Takes addresses without memory: `bytes` bytes at a multiple of `align`, at `hint` if that is free.
    ///
    /// `bytes` is a multiple of [`CHUNK_BYTES`], and `align` a power of two; others are refused as [`Full`]. The range
    /// is as free again as it was after [`unreserve`](Window::unreserve).
    pub fn reserve(&mut self, bytes: u64, align: u64, hint: u64) -> Result<u64, Full> {
        if bytes == 0 || !bytes.is_multiple_of(CHUNK_BYTES) || !align.is_power_of_two() {
            return Err(Full);
        }
        let align = align.max(CHUNK_BYTES);
        let address = if hint.is_multiple_of(align) && self.unmapped.take_at(hint, bytes) {
            hint
        } else {
            self.unmapped.take(bytes, align).ok_or(Full)?
        };
        self.reservations.insert(address, bytes);
        Ok(address)
    }

    /// Gives back the range that [`reserve`](Window::reserve) took; `false` if it is not exactly one.
    pub fn unreserve(&mut self, address: u64, bytes: u64) -> bool {
        if self.reservations.get(&address) != Some(&bytes) {
            return false;
        }
        self.reservations.remove(&address);
        self.unmapped.insert_merged(address, bytes, self.base, self.base + self.bytes);
        true
    }

    /// Whether a range lies in one reservation.
    pub fn is_reserved(&self, address: u64, bytes: u64) -> bool {
        let before = self.reservations.range(..=address).next_back();
        before.is_some_and(|(start, length)| bytes <= *length && address - start <= length - bytes)
    }

    /// The allocation that holds `address`, as start and bytes asked for; `None` outside of all.
    pub fn containing(&self, address: u64) -> Option<(u64, u64)> {
        let (&start, allocation) = self.allocations.range(..=address).next_back()?;
        (address - start < allocation.bytes.max(1)).then_some((start, allocation.bytes))
    }

    /// Whether `address` lies in the window, given out or not.
    pub fn holds(&self, address: u64) -> bool {
        address >= self.base && address - self.base < self.bytes
    }

    /// The sum of all allocations, as asked for.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The sum of all mapped chunks.
    pub fn mapped_bytes(&self) -> u64 {
        self.chunks.values().map(|chunk| chunk.bytes).sum()
    }

    /// The chunks in which nothing is given out or in quarantine: what can be unmapped when memory is short.
    pub fn empty_chunks(&self) -> Vec<Chunk> {
        let empty = self.chunks.iter().filter(|(_, chunk)| chunk.occupied_bytes == 0);
        empty.map(|(&address, chunk)| Chunk { address, bytes: chunk.bytes }).collect()
    }

    /// All allocations in order of address, as start and bytes asked for.
    pub fn allocations(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.allocations.iter().map(|(&start, allocation)| (start, allocation.bytes))
    }

    fn new_chunk(&mut self, reserved: u64, align: u64) -> Result<Chunk, Full> {
        let bytes = reserved.checked_next_multiple_of(CHUNK_BYTES).ok_or(Full)?;
        let address = self.unmapped.take(bytes, align.max(CHUNK_BYTES)).ok_or(Full)?;
        self.chunks.insert(address, ChunkState { bytes, occupied_bytes: 0 });
        self.free.insert(address, bytes);
        Ok(Chunk { address, bytes })
    }
}

#[cfg(test)]
mod tests;
