//! Copies in batches, copies with attributes, and boxes between devices.
//!
//! A batch as a whole keeps its place in the stream; its copies may run in any order, so they run in the one given.
//! What a batch refuses is found before the first copy is posted.

use std::ffi::{c_int, c_uint, c_void};

use cuda_types::{CuError, CuResult};

use super::array::Array;
use super::copy::{self, Box3D, Extent, PitchedPointer, Position, Timing};
use super::managed::Location;
use crate::edge::{DefaultStream, Out, Required, twins};
use crate::graph::capture;
use crate::graph::work::Work;
use crate::handles::{Resolved, resolve};
use crate::managed;
use crate::state::devices;

twins! {
    /// Copies a box between two devices.
    fn cudaMemcpy3DPeer, cudaMemcpy3DPeer_ptds(default; parameters: Option<&PeerBox>) {
        let target = resolve(default, 0)?;
        copy::copy_3d(&target, &parameters.required()?.between()?, Timing::Sync)
    }

    /// Copies a box between two devices, in stream order.
    fn cudaMemcpy3DPeerAsync, cudaMemcpy3DPeerAsync_ptsz(default; parameters: Option<&PeerBox>, stream: u64) {
        let target = resolve(default, stream)?;
        copy::copy_3d(&target, &parameters.required()?.between()?, Timing::Async)
    }

    /// Copies bytes in a batch, for major 12, which says which copy was refused.
    fn batch_12, batch_12_ptsz(default; dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, attributes: *const CopyAttributes, firsts: *const usize, kinds: usize, failed: Out<'_, usize>, stream: u64) {
        // SAFETY: the caller's arrays (module doc of `edge`).
        let batch = unsafe { Batch::read(dsts, srcs, sizes, count, attributes, firsts, kinds) };
        told(failed, batch.and_then(|batch| batch.run(&of_batch(default, stream)?)))
    }

    /// Copies bytes in a batch.
    fn batch_13, batch_13_ptsz(default; dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, attributes: *const CopyAttributes, firsts: *const usize, kinds: usize, stream: u64) {
        // SAFETY: the caller's arrays (module doc of `edge`).
        let batch = unsafe { Batch::read(dsts, srcs, sizes, count, attributes, firsts, kinds) };
        told(None, batch.and_then(|batch| batch.run(&of_batch(default, stream)?)))
    }

    /// Copies boxes in a batch, for major 12, which says which copy was refused.
    fn boxes_12, boxes_12_ptsz(default; count: usize, operations: *const Operation, failed: Out<'_, usize>, flags: u64, stream: u64) {
        // SAFETY: the caller's array of `count` operations (module doc of `edge`).
        told(failed, unsafe { boxes(default, count, operations, flags, stream) })
    }

    /// Copies boxes in a batch.
    fn boxes_13, boxes_13_ptsz(default; count: usize, operations: *const Operation, flags: u64, stream: u64) {
        // SAFETY: the caller's array of `count` operations (module doc of `edge`).
        told(None, unsafe { boxes(default, count, operations, flags, stream) })
    }

    /// Copies bytes, with what a copy of a batch can be told.
    fn cudaMemcpyWithAttributesAsync, cudaMemcpyWithAttributesAsync_ptsz(default; dst: u64, src: u64, bytes: usize, attributes: Option<&CopyAttributes>, stream: u64) {
        let order = attributes.required()?.order()?;
        one(&resolve(default, stream)?, dst, src, bytes, order)
    }

    /// Copies a box, as an operation of a batch has it.
    fn cudaMemcpy3DWithAttributesAsync, cudaMemcpy3DWithAttributesAsync_ptsz(default; operation: Option<&Operation>, flags: u64, stream: u64) {
        let operation = operation.required()?;
        let (order, parameters) = (operation.order()?, operation.parameters()?);
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        one_box(&resolve(default, stream)?, parameters, order)
    }
}

/// `cudaMemcpy3DPeerParms`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerBox {
    src_array: *const c_void,
    src_position: Position,
    src: PitchedPointer,
    src_device: c_int,
    dst_array: *const c_void,
    dst_position: Position,
    dst: PitchedPointer,
    dst_device: c_int,
    extent: Extent,
}

/// `cudaMemcpyAttributes`. Hints of locations are for memory that moves by itself; ours lies with its device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyAttributes {
    order: c_int,
    src_hint: Location,
    dst_hint: Location,
    flags: c_uint,
}

/// `cudaMemcpy3DBatchOp`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    src: Operand,
    dst: Operand,
    extent: Extent,
    order: c_int,
    flags: c_uint,
}

/// `cudaMemcpy3DOperand`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Operand {
    /// 1 = a pointer, row length, layer height and location; 2 = an array and a place in it.
    kind: c_int,
    first: u64,
    rest: [usize; 3],
}

/// `cudaMemcpySrcAccessOrder`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Stream,
    /// The source is read before the call returns.
    DuringCall,
    Any,
}

/// Copies of bytes: destination, source, length, order.
struct Batch(Vec<(u64, u64, usize, Order)>);

/// Why a batch was refused, and by which of its copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Refused {
    error: CuError,
    place: Option<usize>,
}

impl From<CuError> for Refused {
    fn from(error: CuError) -> Refused {
        Refused { error, place: None }
    }
}

impl PeerBox {
    /// As a copy whose ends are on the devices that the program names.
    fn between(&self) -> CuResult<Box3D> {
        let ends = [
            (self.src_array, self.src.address, self.src_device),
            (self.dst_array, self.dst.address, self.dst_device),
        ];
        for (array, address, ordinal) in ends {
            let ordinal = devices().get(ordinal)?.ordinal;
            let holder = match array.addr() {
                0 => devices().holding(address).map(|device| device.ordinal),
                handle => Some(Array::of(handle as u64)?.ordinal),
            };
            if holder != Some(ordinal) {
                return Err(CuError::INVALID_VALUE);
            }
        }
        Ok(Box3D {
            src_array: self.src_array,
            src_position: self.src_position,
            src: self.src,
            dst_array: self.dst_array,
            dst_position: self.dst_position,
            dst: self.dst,
            extent: self.extent,
            kind: copy::DEVICE_TO_DEVICE,
        })
    }
}

impl CopyAttributes {
    fn order(&self) -> CuResult<Order> {
        order(self.order, self.flags)
    }
}

impl Operation {
    fn order(&self) -> CuResult<Order> {
        order(self.order, self.flags)
    }

    /// As the box that the other calls take: lengths of rows in bytes, the width in elements of the array, if any.
    fn parameters(&self) -> CuResult<Box3D> {
        let Extent { width, height, depth } = self.extent;
        if width == 0 || height == 0 || depth == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let arrays: Vec<u64> =
            [self.src, self.dst].iter().filter(|end| end.kind == ARRAY).map(|end| end.first).collect();
        let element = match arrays.first() {
            Some(array) => usize::try_from(Array::of(*array)?.element_bytes()).unwrap_or(1),
            None => 1,
        };
        let (src_array, src, src_position) = self.src.end(self.extent, element)?;
        let (dst_array, dst, dst_position) = self.dst.end(self.extent, element)?;
        let kind = copy::DEFAULT;
        Ok(Box3D { src_array, src_position, src, dst_array, dst_position, dst, extent: self.extent, kind })
    }
}

impl Operand {
    fn end(&self, extent: Extent, element: usize) -> CuResult<(*const c_void, PitchedPointer, Position)> {
        match self.kind {
            POINTER => {
                let [row, layer, _] = self.rest;
                // 0 means packed as the copy is.
                let row = if row == 0 { extent.width } else { row };
                let height = if layer == 0 { extent.height } else { layer };
                if self.first == 0 || row < extent.width || height < extent.height {
                    return Err(CuError::INVALID_VALUE);
                }
                let pitch = row.checked_mul(element).ok_or(CuError::INVALID_VALUE)?;
                let pointer = PitchedPointer { address: self.first, pitch, width: row, height };
                Ok((std::ptr::null(), pointer, Position::default()))
            }
            ARRAY => {
                let [x, y, z] = self.rest;
                Array::of(self.first)?;
                // A handle is told as a pointer and never looked behind.
                let handle = usize::try_from(self.first).map_err(|_| CuError::INVALID_VALUE)?;
                let nowhere = PitchedPointer { address: 0, pitch: 0, width: 0, height: 0 };
                Ok((std::ptr::without_provenance(handle), nowhere, Position { x, y, z }))
            }
            _ => Err(CuError::INVALID_VALUE),
        }
    }
}

impl Batch {
    /// Reads a batch and refuses what no copy can be.
    ///
    /// # Safety
    /// The first three arrays are NULL or have `count` entries, the next two `kinds`.
    unsafe fn read(
        dsts: *const u64,
        srcs: *const u64,
        sizes: *const usize,
        count: usize,
        attributes: *const CopyAttributes,
        firsts: *const usize,
        kinds: usize,
    ) -> Result<Batch, Refused> {
        // SAFETY: the caller's promise.
        let (dsts, srcs, sizes, attributes, firsts) = unsafe {
            (
                list(dsts, count)?,
                list(srcs, count)?,
                list(sizes, count)?,
                list(attributes, kinds)?,
                list(firsts, kinds)?,
            )
        };
        let which = spread(firsts, count)?;
        let mut copies = Vec::with_capacity(count);
        for (place, which) in which.into_iter().enumerate() {
            let refused = |error| Refused { error, place: Some(place) };
            let (dst, src, bytes) = (dsts[place], srcs[place], sizes[place]);
            let order = attributes[which].order().map_err(refused)?;
            if bytes > 0 && (dst == 0 || src == 0) {
                return Err(refused(CuError::INVALID_VALUE));
            }
            copies.push((dst, src, bytes, order));
        }
        Ok(Batch(copies))
    }

    fn run(&self, target: &Resolved) -> Result<(), Refused> {
        self.0.iter().enumerate().try_for_each(|(place, (dst, src, bytes, order))| {
            one(target, *dst, *src, *bytes, *order).map_err(|error| Refused { error, place: Some(place) })
        })
    }
}

/// Which of several settings counts for each of `count` things; each counts from its first one on.
pub(super) fn spread(firsts: &[usize], count: usize) -> CuResult<Vec<usize>> {
    let rises = firsts.windows(2).all(|pair| pair[0] < pair[1]);
    if firsts.first() != Some(&0) || !rises || firsts.last().is_none_or(|last| *last >= count) {
        return Err(CuError::INVALID_VALUE);
    }
    let ends = firsts.iter().skip(1).copied().chain([count]);
    Ok(firsts
        .iter()
        .zip(ends)
        .enumerate()
        .flat_map(|(which, (first, end))| (*first..end).map(move |_| which))
        .collect())
}

/// The stream of a batch, which the legacy one cannot be (CUDA Runtime API, cudaMemcpyBatchAsync).
pub(super) fn of_batch(default: DefaultStream, stream: u64) -> CuResult<Resolved> {
    let target = resolve(default, stream)?;
    if target.stream.is_null() { Err(CuError::INVALID_VALUE) } else { Ok(target) }
}

/// The caller's array; an empty one for a count of 0.
///
/// # Safety
/// `first` is NULL or points to `count` values, which stay unchanged while the slice is used.
pub(super) unsafe fn list<'a, T>(first: *const T, count: usize) -> CuResult<&'a [T]> {
    match (count, first.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err(CuError::INVALID_VALUE),
        // SAFETY: the caller's promise.
        (_, false) => Ok(unsafe { std::slice::from_raw_parts(first, count) }),
    }
}

fn order(order: c_int, flags: c_uint) -> CuResult<Order> {
    // cudaMemcpyFlagPreferOverlapWithCompute, a hint.
    if flags > 1 {
        return Err(CuError::INVALID_VALUE);
    }
    match order {
        1 => Ok(Order::Stream),
        2 => Ok(Order::DuringCall),
        3 => Ok(Order::Any),
        _ => Err(CuError::INVALID_VALUE),
    }
}

/// Tells major 12 which copy was refused; `usize::MAX` for the batch as a whole.
fn told(failed: Out<'_, usize>, outcome: Result<(), Refused>) -> CuResult<()> {
    outcome.map_err(|Refused { error, place }| {
        if let Some(failed) = failed {
            failed.write(place.unwrap_or(usize::MAX));
        }
        error
    })
}

/// # Safety
/// `operations` is NULL or has `count` entries.
unsafe fn boxes(
    default: DefaultStream,
    count: usize,
    operations: *const Operation,
    flags: u64,
    stream: u64,
) -> Result<(), Refused> {
    // SAFETY: the caller's promise.
    let operations = unsafe { list(operations, count) }?;
    let target = of_batch(default, stream)?;
    if operations.is_empty() || flags != 0 {
        return Err(CuError::INVALID_VALUE.into());
    }
    let at = |place| move |error| Refused { error, place: Some(place) };
    let mut known = Vec::with_capacity(count);
    for (place, operation) in operations.iter().enumerate() {
        let found = operation.order().and_then(|order| Ok((operation.parameters()?, order)));
        known.push(found.map_err(at(place))?);
    }
    known
        .into_iter()
        .enumerate()
        .try_for_each(|(place, (parameters, order))| one_box(&target, parameters, order).map_err(at(place)))
}

/// Copies bytes in stream order; a source that is gone when the call returns is read now.
fn one(target: &Resolved, dst: u64, src: u64, bytes: usize, order: Order) -> CuResult<()> {
    let default = copy::DEFAULT;
    if order != Order::DuringCall || bytes == 0 {
        return copy::copy(target, dst, src, bytes, default, Timing::Async);
    }
    // A captured copy reads its source when the graph runs, whatever the order says.
    if capture::record(target, || Work::copy(Box3D::of_bytes(dst, src, bytes, default)))? {
        return Ok(());
    }
    if is_host(src) {
        let kept = keep(src, bytes);
        return copy::copy(
            target,
            dst,
            kept.as_ptr().expose_provenance() as u64,
            bytes,
            default,
            Timing::Async,
        );
    }
    copy::copy(target, dst, src, bytes, default, Timing::Async)?;
    target.session.cuStreamSynchronize(target.stream)
}

/// The same for a box.
fn one_box(target: &Resolved, mut parameters: Box3D, order: Order) -> CuResult<()> {
    if order != Order::DuringCall {
        return copy::copy_3d(target, &parameters, Timing::Async);
    }
    if capture::record(target, || Work::copy(parameters))? {
        return Ok(());
    }
    if parameters.src_array.is_null() && is_host(parameters.src.address) {
        let PitchedPointer { pitch, width, height, .. } = parameters.src;
        let Extent { width: columns, height: rows, depth } = parameters.extent;
        let before = height.checked_mul(depth - 1).and_then(|whole| whole.checked_add(rows - 1));
        let bytes = before.and_then(|before| before.checked_mul(pitch)).and_then(|bytes| {
            // The last row of the last layer may end with the copy.
            bytes.checked_add(columns * (pitch / width))
        });
        let kept = keep(parameters.src.address, bytes.ok_or(CuError::INVALID_VALUE)?);
        parameters.src.address = kept.as_ptr().expose_provenance() as u64;
        return copy::copy_3d(target, &parameters, Timing::Async);
    }
    copy::copy_3d(target, &parameters, Timing::Async)?;
    target.session.cuStreamSynchronize(target.stream)
}

/// Whether an address is memory of the program that does not move to a device by itself.
fn is_host(address: u64) -> bool {
    managed::ordinal_of(address).is_none() && devices().guess(address).is_none()
}

/// The bytes of a source as they are now. Memory that is not registered is read before a copy from it returns.
fn keep(src: u64, bytes: usize) -> Vec<u8> {
    let mut kept = vec![0_u8; bytes];
    // SAFETY: the program's memory, mapped for `bytes` bytes (module doc of `edge`).
    unsafe { std::ptr::copy_nonoverlapping(copy::pointer(src).cast::<u8>(), kept.as_mut_ptr(), bytes) };
    kept
}

const POINTER: c_int = 1;
const ARRAY: c_int = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<PeerBox>(), 168);
        assert_eq!(std::mem::offset_of!(PeerBox, dst_array), 72);
        assert_eq!(std::mem::offset_of!(PeerBox, extent), 144);
        assert_eq!(size_of::<CopyAttributes>(), 24);
        assert_eq!(std::mem::offset_of!(CopyAttributes, flags), 20);
        assert_eq!(size_of::<Operand>(), 40);
        assert_eq!((size_of::<Operation>(), std::mem::offset_of!(Operation, order)), (112, 104));
    }

    #[test]
    fn settings_count_from_their_first_copy_to_the_next_ones() {
        assert_eq!(spread(&[0, 3], 5), Ok(vec![0, 0, 0, 1, 1]));
        for wrong in [&[][..], &[1], &[0, 0], &[0, 5]] {
            assert_eq!(spread(wrong, 5), Err(CuError::INVALID_VALUE), "{wrong:?}");
        }
    }

    #[test]
    fn a_batch_says_which_copy_cannot_be() {
        let attributes = [(1, 0), (2, 0), (0, 0), (1, 2)].map(|(order, flags)| CopyAttributes {
            order,
            src_hint: Location::HOST,
            dst_hint: Location::HOST,
            flags,
        });
        let read = |kinds: &[CopyAttributes], src: u64| {
            let (dsts, srcs, sizes, firsts) = ([8, 8, 8], [8, src, 8], [1, 1, 1], [0, 2]);
            // SAFETY: arrays of three and of up to two entries.
            unsafe {
                Batch::read(
                    dsts.as_ptr(),
                    srcs.as_ptr(),
                    sizes.as_ptr(),
                    3,
                    kinds.as_ptr(),
                    firsts.as_ptr(),
                    kinds.len(),
                )
            }
            .map(|batch| batch.0.iter().map(|copy| copy.3).collect::<Vec<_>>())
        };
        let refused = |place| Err(Refused { error: CuError::INVALID_VALUE, place });
        assert_eq!(read(&attributes[..2], 8), Ok(vec![Order::Stream, Order::Stream, Order::DuringCall]));
        assert_eq!(read(&attributes[..2], 0), refused(Some(1)));
        assert_eq!(read(&attributes[1..3], 8), refused(Some(2)), "no order at all");
        assert_eq!(read(&attributes[3..], 8), refused(Some(0)), "an unknown flag");
        assert_eq!(read(&[], 8), refused(None));
    }

    #[test]
    fn rows_and_layers_of_an_operation_are_packed_unless_they_say_otherwise() {
        let extent = Extent { width: 10, height: 4, depth: 3 };
        let pointer = |rest| Operand { kind: POINTER, first: 0x1000, rest }.end(extent, 1).map(|end| end.1);
        let pitched = |pitch, height| PitchedPointer { address: 0x1000, pitch, width: pitch, height };
        assert_eq!(pointer([0, 0, 0]), Ok(pitched(10, 4)));
        assert_eq!(pointer([16, 5, 0]), Ok(pitched(16, 5)));
        assert_eq!(pointer([9, 0, 0]), Err(CuError::INVALID_VALUE));
        assert_eq!(pointer([0, 3, 0]), Err(CuError::INVALID_VALUE));
    }
}
