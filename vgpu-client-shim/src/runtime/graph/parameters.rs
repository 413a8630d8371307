//! The structures of node parameters, and the work that they ask for.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cuda_types::{CuError, CuResult, Dim3};

use crate::graph::memory::GraphMemory;
use crate::graph::work::{Fill, KernelNode, Shown, Work};
use crate::registry;
use crate::runtime::copy::Box3D;
use crate::runtime::launch::{Launch, packed};
use crate::runtime::pool::Properties;
use crate::runtime::stream::{HostCall, HostFunction};
use crate::runtime::symbol;
use crate::state::devices;

/// `cudaKernelNodeParams`, and the start of `cudaKernelNodeParamsV2`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelParameters {
    pub(crate) function: *const c_void,
    pub(super) grid: Dim3,
    pub(super) block: Dim3,
    pub(super) shared_bytes: u32,
    pub(super) values: *const *const c_void,
    pub(super) extra: *const *const c_void,
}

/// `cudaHostNodeParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostParameters {
    pub(super) function: Option<HostFunction>,
    pub(super) data: *mut c_void,
}

/// `cudaMemAllocNodeParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AllocationParameters {
    pub(super) pool: Properties,
    pub(super) access: *const c_void,
    pub(super) access_count: usize,
    pub(super) bytes: usize,
    pub(super) address: u64,
}

impl KernelParameters {
    /// The launch, with the values of the parameters as they are now.
    pub(super) fn work(&self) -> CuResult<Work> {
        let device = devices().current()?;
        let kernel = registry::kernel(self.function)?;
        let shared = usize::try_from(self.shared_bytes).map_err(|_| CuError::INVALID_VALUE)?;
        if !self.extra.is_null() {
            if !self.values.is_null() {
                return Err(CuError::INVALID_VALUE);
            }
            // SAFETY: the caller's list of names and values, up to its end (cudaGraphAddKernelNode).
            let packed = unsafe { packed(self.extra) }?;
            let values = registry::unpack(&*kernel.on(device)?, packed)?;
            let (grid, block, shared_bytes) = (self.grid, self.block, self.shared_bytes);
            let launch = Launch { kernel, grid, block, shared_bytes, cooperative: false, values };
            launch.check(device)?;
            return Ok(Work::Kernel(KernelNode::new(launch, device.ordinal, self.function)));
        }
        // SAFETY: the caller's array has one pointer per parameter of this kernel (cudaGraphAddKernelNode).
        let launch = unsafe {
            Launch::new(kernel, &*kernel.on(device)?, (self.grid, self.block), shared, self.values)
        }?;
        launch.check(device)?;
        Ok(Work::Kernel(KernelNode::new(launch, device.ordinal, self.function)))
    }

    /// What a kernel node has, whose module's parameters have `sizes`.
    pub(super) fn of(node: &mut KernelNode, sizes: &[u32]) -> KernelParameters {
        let launch = &node.launch;
        let shown = node.shown.get_or_insert_with(|| Arc::new(Shown::new(launch, sizes)));
        KernelParameters {
            function: std::ptr::with_exposed_provenance(usize::try_from(node.stub).unwrap_or(0)),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            values: shown.pointers.as_ptr().cast(),
            extra: std::ptr::null(),
        }
    }
}

impl HostParameters {
    pub(super) fn work(&self) -> CuResult<Work> {
        let function = self.function.ok_or(CuError::INVALID_VALUE)?;
        Ok(Work::Host(HostCall { function, data: self.data }))
    }
}

impl AllocationParameters {
    /// Allocates, and says where.
    pub(super) fn work(&mut self) -> CuResult<Work> {
        let device = self.pool.device()?;
        let memory = GraphMemory::new(device, self.bytes)?;
        self.address = memory.address;
        Ok(Work::Allocate(memory))
    }

    /// What an allocation node was made with.
    pub(super) fn of(memory: &GraphMemory) -> AllocationParameters {
        AllocationParameters {
            pool: Properties::of_device(memory.ordinal),
            access: std::ptr::null(),
            access_count: 0,
            bytes: memory.bytes,
            address: memory.address,
        }
    }
}

/// A copy of bytes in a row.
pub(super) fn copy_1d(dst: u64, src: u64, bytes: usize, kind: c_int) -> CuResult<Work> {
    Work::copy(Box3D::of_bytes(dst, src, bytes, kind))
}

/// A copy to a variable of the program, on this thread's device.
pub(super) fn to_symbol(
    symbol: *const c_void,
    src: u64,
    bytes: usize,
    offset: usize,
    kind: c_int,
) -> CuResult<Work> {
    let variable = symbol::part(devices().current()?, symbol, bytes, offset)?;
    copy_1d(variable, src, bytes, symbol::known(kind, src, 1))
}

/// A copy from a variable of the program, on this thread's device.
pub(super) fn from_symbol(
    dst: u64,
    symbol: *const c_void,
    bytes: usize,
    offset: usize,
    kind: c_int,
) -> CuResult<Work> {
    let variable = symbol::part(devices().current()?, symbol, bytes, offset)?;
    copy_1d(dst, variable, bytes, symbol::known(kind, dst, 2))
}

/// A free node for memory of an allocation node.
pub(super) fn free(address: u64) -> CuResult<Work> {
    Ok(Work::Free(GraphMemory::find(address).ok_or(CuError::INVALID_VALUE)?))
}

/// A set.
pub(super) fn set(fill: &Fill) -> CuResult<Work> {
    Work::set(*fill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<KernelParameters>(), 56);
        assert_eq!(std::mem::offset_of!(KernelParameters, values), 40);
        assert_eq!(size_of::<HostParameters>(), 16);
        assert_eq!(size_of::<AllocationParameters>(), 120);
        assert_eq!(std::mem::offset_of!(AllocationParameters, bytes), 104);
    }
}
