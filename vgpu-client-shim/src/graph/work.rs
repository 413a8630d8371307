//! What a node does, and doing it on a stream.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult};
use proto::{MemoryCalls, StreamCalls};

use super::condition::Choice;
use super::memory::GraphMemory;
use super::values::Values;
use crate::handles::{self, EVENTS, Resolved};
use crate::managed;
use crate::runtime::copy::{Box3D, Timing, copy_3d};
use crate::runtime::error::{INVALID_MEMCPY_DIRECTION, INVALID_PITCH_VALUE};
use crate::runtime::launch::Launch;
use crate::runtime::stream::HostCall;
use crate::state::devices;

/// What a node does.
#[derive(Clone)]
pub(crate) enum Work {
    Kernel(KernelNode),
    Copy(Box3D),
    Set(Fill),
    Host(HostCall),
    /// The graph that this node owns.
    Child(u64),
    Empty,
    WaitEvent(u64),
    RecordEvent(u64),
    Allocate(Arc<GraphMemory>),
    Free(Arc<GraphMemory>),
    Choose(Choice),
    Values(Arc<Values>),
}

/// A launch as a node.
#[derive(Clone)]
pub(crate) struct KernelNode {
    pub(crate) launch: Arc<Launch>,
    /// The device that runs it.
    pub(crate) ordinal: usize,
    /// What the program named the kernel by.
    pub(crate) stub: u64,
    /// Attributes that the program may ask back.
    pub(crate) attributes: BTreeMap<u32, [u32; 16]>,
    /// The values as `cudaGraphKernelNodeGetParams` shows them, made when first asked for.
    pub(crate) shown: Option<Arc<Shown>>,
}

/// Parameter values, each aligned, and pointers to them: memory that the program reads until the node changes.
pub(crate) struct Shown {
    _values: Vec<u128>,
    pub(crate) pointers: Vec<usize>,
}

/// `cudaMemsetParams`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fill {
    pub(crate) dst: u64,
    pub(crate) pitch: usize,
    pub(crate) value: u32,
    pub(crate) element_bytes: u32,
    /// In elements.
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Work {
    /// `cudaGraphNodeType`.
    pub(crate) fn kind(&self) -> u32 {
        match self {
            Work::Kernel(_) => 0,
            Work::Copy(_) => 1,
            Work::Set(_) => 2,
            Work::Host(_) => 3,
            Work::Child(_) => 4,
            Work::Empty => 5,
            Work::WaitEvent(_) => 6,
            Work::RecordEvent(_) => 7,
            Work::Allocate(_) => 10,
            Work::Free(_) => 11,
            Work::Values(_) => 12,
            Work::Choose(_) => 13,
        }
    }

    /// The graphs that a node of this work owns.
    pub(crate) fn owned(&self) -> &[u64] {
        match self {
            Work::Child(child) => std::slice::from_ref(child),
            Work::Choose(choice) => &choice.bodies,
            _ => &[],
        }
    }

    /// The memory of an allocation or free node.
    pub(crate) fn memory(&self) -> Option<&Arc<GraphMemory>> {
        match self {
            Work::Allocate(memory) | Work::Free(memory) => Some(memory),
            _ => None,
        }
    }

    /// A copy whose faults are found when the node is made, as CUDA finds them.
    pub(crate) fn copy(copy: Box3D) -> CuResult<Work> {
        if !(0..=4).contains(&copy.kind) {
            return Err(INVALID_MEMCPY_DIRECTION);
        }
        let empty = copy.extent.width == 0 || copy.extent.height == 0 || copy.extent.depth == 0;
        if !empty && !copy.names_both_ends() {
            return Err(CuError::INVALID_VALUE);
        }
        Ok(Work::Copy(copy))
    }

    /// A set whose faults are found when the node is made.
    pub(crate) fn set(fill: Fill) -> CuResult<Work> {
        if !matches!(fill.element_bytes, 1 | 2 | 4) || fill.height == 0 || fill.width == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let row = fill.row_bytes()?;
        if fill.height > 1 && fill.pitch < row {
            return Err(INVALID_PITCH_VALUE);
        }
        devices().holding(fill.dst).ok_or(CuError::INVALID_VALUE)?;
        Ok(Work::Set(fill))
    }

    /// Does it in the order of `target`'s stream. Graphs inside it are its plan's affair.
    pub(crate) fn run(&self, target: &Resolved) -> CuResult<()> {
        match self {
            Work::Kernel(node) => on_device(target, node.ordinal, |target| node.launch.run(target)),
            Work::Copy(copy) => copy_3d(target, copy, Timing::Async),
            Work::Set(fill) => {
                let device = devices().holding(fill.dst).ok_or(CuError::INVALID_VALUE)?;
                on_device(target, device.ordinal, |target| fill.run(target))
            }
            Work::Host(call) => call.launch(target),
            Work::Child(_) | Work::Choose(_) | Work::Empty => Ok(()),
            Work::WaitEvent(event) => wait(target, *event),
            Work::RecordEvent(event) => record(target, *event),
            Work::Allocate(memory) => {
                memory.allocate();
                Ok(())
            }
            Work::Free(memory) => memory.free(),
            Work::Values(values) => on_device(target, values.ordinal(), |target| values.run(target)),
        }
    }
}

impl KernelNode {
    /// A launch on the device of an ordinal.
    pub(crate) fn new(launch: Launch, ordinal: usize, stub: *const c_void) -> KernelNode {
        let mut attributes = BTreeMap::new();
        if launch.cooperative {
            attributes.insert(2, one(1));
        }
        let stub = stub.expose_provenance() as u64;
        KernelNode { launch: Arc::new(launch), ordinal, stub, attributes, shown: None }
    }

    /// Sets an attribute; 2 = cooperative changes the launch.
    pub(crate) fn set_attribute(&mut self, id: u32, value: [u32; 16]) {
        if id == 2 {
            let mut launch = (*self.launch).clone();
            launch.cooperative = value[0] != 0;
            self.launch = Arc::new(launch);
        }
        self.attributes.insert(id, value);
    }
}

impl Shown {
    /// The values of `launch`, whose parameters have `sizes`.
    pub(crate) fn new(launch: &Launch, sizes: &[u32]) -> Shown {
        let rooms = sizes.iter().map(|size| (*size as usize).div_ceil(16).max(1));
        let mut values = vec![0_u128; rooms.clone().sum()];
        let (mut pointers, mut at, mut taken) = (Vec::new(), 0, 0);
        for (size, room) in sizes.iter().zip(rooms) {
            let size = *size as usize;
            let bytes = &launch.values[taken..taken + size];
            for (place, part) in values[at..at + room].iter_mut().zip(bytes.chunks(16)) {
                let mut whole = [0; 16];
                whole[..part.len()].copy_from_slice(part);
                *place = u128::from_ne_bytes(whole);
            }
            pointers.push(values[at..].as_ptr().expose_provenance());
            at += room;
            taken += size;
        }
        Shown { _values: values, pointers }
    }
}

impl Fill {
    fn row_bytes(&self) -> CuResult<usize> {
        self.width.checked_mul(self.element_bytes as usize).ok_or(CuError::INVALID_VALUE)
    }

    fn run(&self, target: &Resolved) -> CuResult<()> {
        let row = self.row_bytes()?;
        let bytes = self.pitch.checked_mul(self.height - 1).and_then(|rows| rows.checked_add(row));
        target.session.check_target(CUdeviceptr(self.dst), bytes.ok_or(CuError::INVALID_VALUE)? as u64)?;
        managed::to_device(target)?;
        let value = self.value.to_le_bytes();
        let same = value[..self.element_bytes as usize].iter().all(|byte| *byte == value[0]);
        if same && self.height > 1 {
            return target.session.cuMemsetD2D8Async(
                CUdeviceptr(self.dst),
                self.pitch as u64,
                value[0],
                row as u64,
                self.height as u64,
                target.stream,
            );
        }
        (0..self.height).try_for_each(|index| {
            let (dst, width) = (CUdeviceptr(self.dst + (index * self.pitch) as u64), self.width as u64);
            match self.element_bytes {
                2 => {
                    let value = u16::from_le_bytes([value[0], value[1]]);
                    target.session.cuMemsetD16Async(dst, value, width, target.stream)
                }
                4 => target.session.cuMemsetD32Async(dst, self.value, width, target.stream),
                _ => target.session.cuMemsetD8Async(dst, value[0], width, target.stream),
            }
        })
    }
}

/// An attribute value that starts with a number.
fn one(first: u32) -> [u32; 16] {
    let mut value = [0; 16];
    value[0] = first;
    value
}

/// Runs on a device that may be another than the stream's: then the stream's earlier work is waited for, and the work
/// is over on return.
pub(super) fn on_device(
    target: &Resolved,
    ordinal: usize,
    run: impl FnOnce(&Resolved) -> CuResult<()>,
) -> CuResult<()> {
    if target.device.ordinal == ordinal {
        return run(target);
    }
    let device = handles::device(ordinal)?;
    target.session.cuStreamSynchronize(target.stream)?;
    let other = Resolved { device, session: device.session()?, stream: CUstream::NULL };
    run(&other)?;
    other.session.cuStreamSynchronize(CUstream::NULL)
}

/// Has the stream wait for an event's last recording.
pub(crate) fn wait(target: &Resolved, event: u64) -> CuResult<()> {
    let event = EVENTS.get(event)?;
    if !event.recorded.load(Ordering::Acquire) {
        return target.session.check();
    }
    if event.ordinal == target.device.ordinal {
        return target.session.cuStreamWaitEvent(target.stream, event.name, 0);
    }
    let other = handles::device(event.ordinal)?.session()?;
    target.session.wait_for_other_device(target.stream, &other, event.name)
}

/// Records an event in the stream.
pub(crate) fn record(target: &Resolved, event: u64) -> CuResult<()> {
    let event = EVENTS.get(event)?;
    if event.ordinal != target.device.ordinal {
        return Err(CuError::INVALID_HANDLE);
    }
    target.session.cuEventRecord(event.name, target.stream)?;
    event.recorded.store(true, Ordering::Release);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<Fill>(), 40);
        assert_eq!(std::mem::offset_of!(Fill, width), 24);
    }
}
