//! Kernels: attributes and occupancy, from the facts that came with the module.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use client::Session;
use cuda_types::attribute::{DeviceAttribute, FunctionAttribute};
use cuda_types::{CuError, CuResult};

use super::error::INVALID_CONFIGURATION;
use super::launch::LaunchConfig;
use crate::edge::{Out, Required, entries};
use crate::registry::{self, Function};
use crate::state::devices;

entries! {
    /// What a kernel needs and may use.
    fn cudaFuncGetAttributes(attributes: Out<'_, Attributes>, stub: *const c_void) {
        let attributes = attributes.required()?;
        let (session, function) = find(stub)?;
        let value = |attribute| session.function_attribute(&function, attribute);
        let bytes = |attribute| value(attribute).map(|value| usize::try_from(value).unwrap_or(0));
        attributes.write(Attributes {
            shared_bytes: bytes(FunctionAttribute::SHARED_SIZE_BYTES)?,
            constant_bytes: bytes(FunctionAttribute::CONST_SIZE_BYTES)?,
            local_bytes: bytes(FunctionAttribute::LOCAL_SIZE_BYTES)?,
            max_threads_per_block: value(FunctionAttribute::MAX_THREADS_PER_BLOCK)?,
            registers: value(FunctionAttribute::NUM_REGS)?,
            ptx_version: value(FunctionAttribute::PTX_VERSION)?,
            binary_version: value(FunctionAttribute::BINARY_VERSION)?,
            cache_mode_ca: value(FunctionAttribute::CACHE_MODE_CA)?,
            max_dynamic_shared_bytes: value(FunctionAttribute::MAX_DYNAMIC_SHARED_SIZE_BYTES)?,
            preferred_carveout: value(FunctionAttribute::PREFERRED_SHARED_MEMORY_CARVEOUT)?,
            // A driver that does not know these has no clusters.
            cluster: CLUSTER.map(|attribute| value(FunctionAttribute(attribute)).unwrap_or(0)),
            reserved: [0; 17],
        });
        Ok(())
    }

    /// Sets what a kernel may use: 8 = dynamic shared memory, 9 = carve-out.
    fn cudaFuncSetAttribute(stub: *const c_void, attribute: c_int, value: c_int) {
        let (session, function) = find(stub)?;
        session.set_function_attribute(&function, FunctionAttribute(attribute), value)
    }

    /// Prefers L1 or shared memory for a kernel.
    fn cudaFuncSetCacheConfig(stub: *const c_void, config: u32) {
        if config > 3 {
            return Err(CuError::INVALID_VALUE);
        }
        let (session, function) = find(stub)?;
        session.set_cache_config(&function, config)
    }

    /// Prefers a width of shared memory banks for a kernel: a hint that devices of today do not follow.
    fn cudaFuncSetSharedMemConfig(stub: *const c_void, config: u32) {
        find(stub)?;
        if config > 2 { Err(CuError::INVALID_VALUE) } else { Ok(()) }
    }

    /// The name of a kernel in its module.
    fn cudaFuncGetName(name: Out<'_, *const c_char>, stub: *const c_void) {
        let name = name.required()?;
        name.write(registry::kernel(stub)?.name.as_ptr());
        Ok(())
    }

    /// The number of a kernel's parameters.
    fn cudaFuncGetParamCount(stub: *const c_void, count: Out<'_, usize>) {
        let count = count.required()?;
        let (_, function) = find(stub)?;
        count.write(function.facts.parameters.len());
        Ok(())
    }

    /// Where a parameter of a kernel lies in a buffer that holds them all, and its size, which may not be wanted.
    fn cudaFuncGetParamInfo(stub: *const c_void, index: usize, offset: Out<'_, usize>, size: Out<'_, usize>) {
        let (_, function) = find(stub)?;
        parameter_info(&function, index, offset, size)
    }

    /// Blocks of a kernel that fit on one multiprocessor.
    fn cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<'_, c_int>, stub: *const c_void, block_size: c_int, shared: usize) {
        occupancy(blocks, stub, block_size, shared, 0)
    }

    /// Blocks of a kernel that fit on one multiprocessor; flag 1 concerns caching.
    fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: Out<'_, c_int>, stub: *const c_void, block_size: c_int, shared: usize, flags: u32) {
        occupancy(blocks, stub, block_size, shared, flags)
    }

    /// Dynamic shared memory that blocks of a kernel may have so that this many fit on one multiprocessor.
    fn cudaOccupancyAvailableDynamicSMemPerBlock(bytes: Out<'_, usize>, stub: *const c_void, blocks: c_int, block_size: c_int) {
        let bytes = bytes.required()?;
        if blocks <= 0 || block_size <= 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let (session, function) = find(stub)?;
        let fits = |shared: u64| {
            let resident = session.resident_blocks(&function, block_size, shared, 0)?;
            CuResult::Ok(resident >= blocks)
        };
        if !fits(0)? {
            return Err(CuError::INVALID_VALUE);
        }
        let most = session.function_attribute(&function, FunctionAttribute::MAX_DYNAMIC_SHARED_SIZE_BYTES)?;
        // The device's own rule, asked by halves: it always fits below, and never from `end` on.
        let (mut start, mut end) = (0, u64::try_from(most).unwrap_or(0) + 1);
        while end - start > 1 {
            let middle = start.midpoint(end);
            if fits(middle)? { start = middle } else { end = middle }
        }
        bytes.write(usize::try_from(start).map_err(|_| CuError::UNKNOWN)?);
        Ok(())
    }

    /// Clusters of a launch that a device runs at once: clusters here are single blocks.
    fn cudaOccupancyMaxActiveClusters(clusters: Out<'_, c_int>, stub: *const c_void, configuration: Option<&LaunchConfig>) {
        let (clusters, configuration) = (clusters.required()?, configuration.required()?);
        configuration.kind()?;
        let (session, function) = find(stub)?;
        let threads = c_int::try_from(configuration.block.count()).map_err(|_| INVALID_CONFIGURATION)?;
        let shared = configuration.shared_bytes as u64;
        let blocks = session.resident_blocks(&function, threads, shared, 0)?;
        let processors = devices().current()?.facts()?.attribute(DeviceAttribute::MULTIPROCESSOR_COUNT.0).unwrap_or(1);
        clusters.write(blocks.saturating_mul(processors));
        Ok(())
    }

    /// Blocks that a cluster of a launch may have: one, devices here have no larger ones.
    fn cudaOccupancyMaxPotentialClusterSize(size: Out<'_, c_int>, stub: *const c_void, configuration: Option<&LaunchConfig>) {
        let size = size.required()?;
        configuration.required()?;
        find(stub)?;
        size.write(1);
        Ok(())
    }

    /// Sets what a kernel may use, on one device.
    fn cudaKernelSetAttributeForDevice(kernel: *const c_void, attribute: c_int, value: c_int, ordinal: c_int) {
        let device = devices().get(ordinal)?;
        let function = registry::kernel(kernel)?.on(device)?;
        device.session()?.set_function_attribute(&function, FunctionAttribute(attribute), value)
    }
}

/// `cudaFuncAttributes`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Attributes {
    shared_bytes: usize,
    constant_bytes: usize,
    local_bytes: usize,
    max_threads_per_block: c_int,
    registers: c_int,
    ptx_version: c_int,
    binary_version: c_int,
    cache_mode_ca: c_int,
    max_dynamic_shared_bytes: c_int,
    preferred_carveout: c_int,
    /// In the order of [`CLUSTER`].
    cluster: [c_int; 6],
    reserved: [c_int; 17],
}

/// `CUfunction_attribute` of the cluster fields: must be set, width, height, depth, scheduling policy, non-portable.
const CLUSTER: [i32; 6] = [10, 11, 12, 13, 15, 14];

/// Tells offset and size of a parameter.
pub(crate) fn parameter_info(
    function: &Function,
    index: usize,
    offset: Out<'_, usize>,
    size: Out<'_, usize>,
) -> CuResult<()> {
    let offset = offset.required()?;
    let facts = &function.facts;
    let found = facts.offsets.get(index).zip(facts.parameters.get(index)).ok_or(CuError::INVALID_VALUE)?;
    offset.write(*found.0 as usize);
    if let Some(size) = size {
        size.write(*found.1 as usize);
    }
    Ok(())
}

/// The kernel behind a stub on the current device.
fn find(stub: *const c_void) -> CuResult<(Arc<Session>, Arc<Function>)> {
    let kernel = registry::kernel(stub)?;
    let device = devices().current()?;
    Ok((device.session()?, kernel.on(device)?))
}

fn occupancy(
    blocks: Out<'_, c_int>,
    stub: *const c_void,
    block_size: c_int,
    shared: usize,
    flags: u32,
) -> CuResult<()> {
    let blocks = blocks.required()?;
    if block_size <= 0 || flags > 1 {
        return Err(CuError::INVALID_VALUE);
    }
    let (session, function) = find(stub)?;
    let shared = shared as u64;
    blocks.write(session.resident_blocks(&function, block_size, shared, flags)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_the_layout_of_the_header() {
        assert_eq!(size_of::<Attributes>(), 144);
        assert_eq!(std::mem::offset_of!(Attributes, max_threads_per_block), 24);
        assert_eq!(std::mem::offset_of!(Attributes, max_dynamic_shared_bytes), 44);
        assert_eq!(std::mem::offset_of!(Attributes, cluster), 52);
    }
}
