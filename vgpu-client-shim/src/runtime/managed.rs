//! Managed memory: allocation and hints; how it works is told in [`crate::managed`].

use std::ffi::{c_int, c_void};

use cuda_types::{CuError, CuResult};

use super::batch::{list, of_batch, spread};
use crate::edge::{DefaultStream, Out, Required, entries, twins};
use crate::graph::capture;
use crate::graph::work::Work;
use crate::handles::{Resolved, resolve};
use crate::managed;
use crate::managed::marks::{Mark, Marks, Place};
use crate::state::devices;

entries! {
    /// Allocates memory that the device and the program reach at the same address.
    fn cudaMallocManaged(pointer: Out<'_, u64>, bytes: usize, flags: u32) {
        capture::refuse_unsafe()?;
        let pointer = pointer.required()?;
        // cudaMemAttachGlobal or cudaMemAttachHost.
        if bytes == 0 || !(flags == 1 || flags == 2) {
            return Err(CuError::INVALID_VALUE);
        }
        pointer.write(managed::allocate(devices().current()?, bytes)?);
        Ok(())
    }

    /// Says how memory will be used: nothing that would change where it should lie here, and kept to be asked back.
    fn advise_12(pointer: u64, bytes: usize, advice: c_int, device: c_int) {
        advise(pointer, bytes, advice, Location::of_device(device))
    }

    /// The same, with a location.
    fn advise_13(pointer: u64, bytes: usize, advice: c_int, location: Location) {
        advise(pointer, bytes, advice, location)
    }

    /// What was said about a range.
    fn cudaMemRangeGetAttribute(data: *mut c_void, data_bytes: usize, attribute: c_int, pointer: u64, bytes: usize) {
        // SAFETY: the caller's room of `data_bytes` bytes (module doc of `edge`).
        unsafe { attribute_of(data.cast(), data_bytes, attribute, pointer, bytes) }
    }

    /// Several things that were said about a range.
    fn cudaMemRangeGetAttributes(data: *const *mut c_void, data_bytes: *const usize, attributes: *const c_int, count: usize, pointer: u64, bytes: usize) {
        // SAFETY: the caller's arrays of `count` entries (module doc of `edge`).
        let (data, sizes, attributes) = unsafe { (list(data, count)?, list(data_bytes, count)?, list(attributes, count)?) };
        if count == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        attributes.iter().zip(data.iter().zip(sizes)).try_for_each(|(attribute, (data, size))| {
            // SAFETY: each is room for as many bytes as the caller says.
            unsafe { attribute_of(data.cast(), *size, *attribute, pointer, bytes) }
        })
    }
}

twins! {
    /// Moves managed memory to a device, or to the host (-1).
    fn prefetch_12, prefetch_12_ptsz(default; pointer: u64, bytes: usize, device: c_int, stream: u64) {
        prefetch(&resolve(default, stream)?, pointer, bytes, Location::of_device(device))
    }

    /// Moves managed memory to a location.
    fn prefetch_13, prefetch_13_ptsz(default; pointer: u64, bytes: usize, location: Location, flags: u32, stream: u64) {
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        prefetch(&resolve(default, stream)?, pointer, bytes, location)
    }

    /// Moves managed memory to locations, in a batch.
    fn cudaMemPrefetchBatchAsync, cudaMemPrefetchBatchAsync_ptsz(default; pointers: *const u64, sizes: *const usize, count: usize, locations: *const Location, firsts: *const usize, kinds: usize, flags: u64, stream: u64) {
        // SAFETY: the caller's arrays (module doc of `edge`).
        unsafe { prefetches(default, (pointers, sizes, count), (locations, firsts, kinds), flags, stream) }
    }

    /// The same for memory whose bytes are no longer wanted; here they move with it, which costs time and no more.
    fn cudaMemDiscardAndPrefetchBatchAsync, cudaMemDiscardAndPrefetchBatchAsync_ptsz(default; pointers: *const u64, sizes: *const usize, count: usize, locations: *const Location, firsts: *const usize, kinds: usize, flags: u64, stream: u64) {
        // SAFETY: the caller's arrays (module doc of `edge`).
        unsafe { prefetches(default, (pointers, sizes, count), (locations, firsts, kinds), flags, stream) }
    }

    /// Says that the bytes of managed memory are no longer wanted: they may have any value from here on, so they keep
    /// theirs.
    fn cudaMemDiscardBatchAsync, cudaMemDiscardBatchAsync_ptsz(default; pointers: *const u64, sizes: *const usize, count: usize, flags: u64, stream: u64) {
        // SAFETY: the caller's arrays (module doc of `edge`).
        let ranges = unsafe { ranges(pointers, sizes, count, flags) }?;
        let target = of_batch(default, stream)?;
        ranges.iter().try_for_each(|(pointer, bytes)| managed::with_marks(*pointer, *bytes, |_, _, _| ()))?;
        target.session.check()
    }

    /// Says which stream uses managed memory: every one may, so there is nothing to restrict.
    fn cudaStreamAttachMemAsync, cudaStreamAttachMemAsync_ptsz(default; stream: u64, pointer: u64, _bytes: usize, flags: u32) {
        resolve(default, stream)?;
        managed::ordinal_of(pointer).ok_or(CuError::INVALID_VALUE)?;
        if matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }
}

/// `cudaMemLocation`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    pub(crate) kind: c_int,
    pub(crate) id: c_int,
}

impl Location {
    /// `cudaMemLocationTypeHost`.
    pub(crate) const HOST: Location = Location { kind: 2, id: 0 };

    /// What major 12 names by a number: a device, or the host (-1).
    fn of_device(device: c_int) -> Location {
        if device == CPU { Location::HOST } else { Location { kind: LOCATION_DEVICE, id: device } }
    }

    /// Refuses a location that is not there.
    fn check(self) -> CuResult<()> {
        match self.kind {
            LOCATION_DEVICE => devices().get(self.id).map(drop),
            // The host, one of its NUMA nodes, or the nearest of them.
            2..=4 => Ok(()),
            _ => Err(CuError::INVALID_VALUE),
        }
    }
}

/// `cudaMemLocationTypeDevice`.
pub(crate) const LOCATION_DEVICE: c_int = 1;
/// `cudaCpuDeviceId`.
const CPU: c_int = -1;
/// `cudaInvalidDeviceId`.
const NO_DEVICE: c_int = -2;

fn advise(pointer: u64, bytes: usize, advice: c_int, location: Location) -> CuResult<()> {
    let place = (location.kind, location.id);
    // cudaMemoryAdvise: the location counts for 3 and 5; 5 and 6 are about devices.
    if matches!(advice, 3 | 5) {
        location.check()?;
    }
    let device = (location.kind == LOCATION_DEVICE).then_some(location.id);
    let change = |change: &dyn Fn(&mut Mark)| {
        managed::with_marks(pointer, bytes, |marks, from, to| marks.change(from, to, change))
    };
    match advice {
        1 | 2 => change(&|mark| mark.read_mostly = advice == 1),
        3 => change(&|mark| mark.preferred = Some(place)),
        4 => change(&|mark| mark.preferred = None),
        5 => change(&|mark| mark.accessed_by.extend(device)),
        6 => change(&|mark| mark.accessed_by.retain(|known| Some(*known) != device)),
        _ => Err(CuError::INVALID_VALUE),
    }
}

fn prefetch(target: &Resolved, pointer: u64, bytes: usize, location: Location) -> CuResult<()> {
    let owner = managed::ordinal_of(pointer).ok_or(CuError::INVALID_VALUE)?;
    managed::with_marks(pointer, bytes, |_, _, _| ())?;
    location.check()?;
    // A hint: a captured one would only repeat what launches do anyway, so the capture goes on without it.
    if capture::record(target, || Ok(Work::Empty))? {
        return Ok(());
    }
    if location.kind == LOCATION_DEVICE {
        let device = devices().get(location.id)?;
        // To another device than its own it cannot go: CUDA answers so for devices without managed memory.
        if device.ordinal != owner || target.device.ordinal != owner {
            return Err(CuError::INVALID_DEVICE);
        }
        managed::to_device(target)?;
    } else {
        target.session.cuStreamSynchronize(target.stream)?;
        managed::to_host(pointer, bytes)?;
    }
    let place = (location.kind, location.id);
    managed::with_marks(pointer, bytes, |marks, from, to| {
        marks.change(from, to, |mark| mark.moved_to = Some(place));
    })
}

/// # Safety
/// The first two arrays are NULL or have as many entries as the number beside them says, and so the next two.
unsafe fn prefetches(
    default: DefaultStream,
    (pointers, sizes, count): (*const u64, *const usize, usize),
    (locations, firsts, kinds): (*const Location, *const usize, usize),
    flags: u64,
    stream: u64,
) -> CuResult<()> {
    // SAFETY: the caller's promise.
    let ranges = unsafe { ranges(pointers, sizes, count, flags) }?;
    // SAFETY: the caller's promise.
    let (locations, firsts) = unsafe { (list(locations, kinds)?, list(firsts, kinds)?) };
    let which = spread(firsts, count)?;
    let target = of_batch(default, stream)?;
    let mut all = ranges.iter().zip(which);
    all.try_for_each(|((pointer, bytes), which)| prefetch(&target, *pointer, *bytes, locations[which]))
}

/// # Safety
/// Both arrays are NULL or have `count` entries.
unsafe fn ranges(
    pointers: *const u64,
    sizes: *const usize,
    count: usize,
    flags: u64,
) -> CuResult<Vec<(u64, usize)>> {
    if count == 0 || flags != 0 {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    let (pointers, sizes) = unsafe { (list(pointers, count)?, list(sizes, count)?) };
    Ok(pointers.iter().copied().zip(sizes.iter().copied()).collect())
}

/// Answers an attribute of `cudaMemRangeAttribute`.
///
/// # Safety
/// `data` is NULL or room for `data_bytes` bytes.
unsafe fn attribute_of(
    data: *mut c_int,
    data_bytes: usize,
    attribute: c_int,
    pointer: u64,
    bytes: usize,
) -> CuResult<()> {
    let room = data_bytes / size_of::<c_int>();
    if data.is_null() || !data_bytes.is_multiple_of(4) || room == 0 || (attribute != 3 && room != 1) {
        return Err(CuError::INVALID_VALUE);
    }
    let values =
        managed::with_marks(pointer, bytes, |marks, from, to| attribute_values(marks, from, to, attribute))?;
    let mut values = values?.into_iter();
    for place in 0..room {
        // SAFETY: inside the caller's room.
        unsafe { data.add(place).write_unaligned(values.next().unwrap_or(NO_DEVICE)) };
    }
    Ok(())
}

/// The numbers that answer an attribute for a part of a range.
fn attribute_values(marks: &Marks, from: usize, to: usize, attribute: c_int) -> CuResult<Vec<c_int>> {
    let common = |pick: fn(&Mark) -> Option<Place>| marks.common(from, to, pick).flatten();
    let device = |place| match place {
        Some((LOCATION_DEVICE, id)) => id,
        Some((2, _)) => CPU,
        _ => NO_DEVICE,
    };
    let (preferred, moved) = (common(|mark| mark.preferred), common(|mark| mark.moved_to));
    Ok(match attribute {
        1 => vec![(marks.common(from, to, |mark| mark.read_mostly) == Some(true)).into()],
        2 => vec![device(preferred)],
        3 => marks.accessed_by(from, to).into_iter().collect(),
        4 => vec![device(moved)],
        5 => vec![preferred.map_or(0, |(kind, _)| kind)],
        6 => vec![preferred.map_or(NO_DEVICE, |(_, id)| id)],
        7 => vec![moved.map_or(0, |(kind, _)| kind)],
        8 => vec![moved.map_or(NO_DEVICE, |(_, id)| id)],
        _ => return Err(CuError::INVALID_VALUE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_tell_what_all_of_a_range_has() {
        let mut marks = Marks::default();
        marks.change(0, 100, |mark| mark.preferred = Some((LOCATION_DEVICE, 0)));
        marks.change(0, 50, |mark| mark.moved_to = Some((2, 0)));
        let values = |to, attribute| attribute_values(&marks, 0, to, attribute);
        assert_eq!(
            [1, 2, 5, 6].map(|attribute| values(100, attribute)),
            [0, 0, 1, 0].map(|value| Ok(vec![value]))
        );
        assert_eq!([4, 7].map(|attribute| values(50, attribute)), [CPU, 2].map(|value| Ok(vec![value])));
        assert_eq!(
            [4, 7].map(|attribute| values(51, attribute)),
            [NO_DEVICE, 0].map(|value| Ok(vec![value]))
        );
        assert_eq!(values(50, 3), Ok(vec![]));
        assert_eq!(values(50, 9), Err(CuError::INVALID_VALUE));
    }
}
