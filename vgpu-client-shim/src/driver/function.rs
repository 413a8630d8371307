//! Functions and kernels: attributes, occupancy, parameters.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use client::Session;
use cuda_types::attribute::{DeviceAttribute, FunctionAttribute};
use cuda_types::{CuError, CuResult};

use super::launch::LaunchConfig;
use super::{context, entries, module, of_runtime};
use crate::edge::{Out, Required};
use crate::registry::Function;
use crate::runtime::function::{self as runtime, parameter_info};
use crate::state::{Device, devices};

entries! {
    /// An attribute of a function.
    fn cuFuncGetAttribute(value: Out<'_, c_int>, attribute: c_int, function: u64) {
        let value = value.required()?;
        let (session, function) = find(function, context::current()?)?;
        value.write(session.function_attribute(&function, FunctionAttribute(attribute))?);
        Ok(())
    }

    /// Sets an attribute of a function.
    fn cuFuncSetAttribute(function: u64, attribute: c_int, value: c_int) {
        let (session, function) = find(function, context::current()?)?;
        session.set_function_attribute(&function, FunctionAttribute(attribute), value)
    }

    /// An attribute of a kernel on a device.
    fn cuKernelGetAttribute(value: Out<'_, c_int>, attribute: c_int, kernel: u64, device: c_int) {
        let value = value.required()?;
        let (session, function) = find(kernel, on_device(device)?)?;
        value.write(session.function_attribute(&function, FunctionAttribute(attribute))?);
        Ok(())
    }

    /// Sets an attribute of a kernel on a device.
    fn cuKernelSetAttribute(attribute: c_int, value: c_int, kernel: u64, device: c_int) {
        let (session, function) = find(kernel, on_device(device)?)?;
        session.set_function_attribute(&function, FunctionAttribute(attribute), value)
    }

    /// Prefers L1 or shared memory for a function.
    fn cuFuncSetCacheConfig(function: u64, config: u32) {
        set_cache_config(function, config, context::current()?)
    }

    /// Prefers L1 or shared memory for a kernel on a device.
    fn cuKernelSetCacheConfig(kernel: u64, config: u32, device: c_int) {
        set_cache_config(kernel, config, on_device(device)?)
    }

    /// Prefers a width of shared memory banks: a hint that devices of today do not follow.
    fn cuFuncSetSharedMemConfig(function: u64, config: u32) {
        find(function, context::current()?)?;
        if config > 2 { Err(CuError::INVALID_VALUE) } else { Ok(()) }
    }

    /// Whether a function is loaded: all are, with their module.
    fn cuFuncIsLoaded(state: Out<'_, u32>, function: u64) {
        let state = state.required()?;
        find(function, context::current()?)?;
        state.write(1);
        Ok(())
    }

    /// Loads a function: it is.
    fn cuFuncLoad(function: u64) {
        find(function, context::current()?).map(drop)
    }

    /// Where a parameter of a function lies in a buffer that holds them all, and its size.
    fn cuFuncGetParamInfo(function: u64, index: usize, offset: Out<'_, usize>, size: Out<'_, usize>) {
        let (_, function) = find(function, context::current()?)?;
        parameter_info(&function, index, offset, size)
    }

    /// Where a parameter of a kernel lies in a buffer that holds them all, and its size.
    fn cuKernelGetParamInfo(kernel: u64, index: usize, offset: Out<'_, usize>, size: Out<'_, usize>) {
        let (_, function) = find(kernel, module::here()?)?;
        parameter_info(&function, index, offset, size)
    }

    /// The number of a function's parameters.
    fn cuFuncGetParamCount(function: u64, count: Out<'_, usize>) {
        parameter_count(function, count)
    }

    /// The number of a kernel's parameters.
    fn cuKernelGetParamCount(kernel: u64, count: Out<'_, usize>) {
        parameter_count(kernel, count)
    }

    /// Blocks of a function that fit on one multiprocessor.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<'_, c_int>, function: u64, block_size: c_int, shared: usize) {
        occupancy(blocks, function, block_size, shared, 0)
    }

    /// Blocks of a function that fit on one multiprocessor; flag 1 concerns caching.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: Out<'_, c_int>, function: u64, block_size: c_int, shared: usize, flags: u32) {
        occupancy(blocks, function, block_size, shared, flags)
    }

    /// The block size with which most threads fit on a multiprocessor, and the grid that fills the device with it.
    fn cuOccupancyMaxPotentialBlockSize(grid: Out<'_, c_int>, block: Out<'_, c_int>, function: u64, shared_for: Option<SharedForBlock>, shared: usize, limit: c_int) {
        potential_block_size(grid, block, function, shared_for, shared, limit, 0)
    }

    /// The same; flag 1 concerns caching.
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(grid: Out<'_, c_int>, block: Out<'_, c_int>, function: u64, shared_for: Option<SharedForBlock>, shared: usize, limit: c_int, flags: u32) {
        potential_block_size(grid, block, function, shared_for, shared, limit, flags)
    }

    /// Dynamic shared memory that blocks may have so that this many fit on one multiprocessor.
    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<'_, usize>, function: u64, blocks: c_int, block_size: c_int) {
        context::current()?;
        of_runtime(|| runtime::cudaOccupancyAvailableDynamicSMemPerBlock(bytes, stub(function), blocks, block_size))
    }

    /// Clusters of a launch that a device runs at once.
    fn cuOccupancyMaxActiveClusters(clusters: Out<'_, c_int>, function: u64, configuration: Option<&LaunchConfig>) {
        context::current()?;
        let configuration = configuration.required()?.as_the_runtimes();
        of_runtime(|| runtime::cudaOccupancyMaxActiveClusters(clusters, stub(function), Some(&configuration)))
    }

    /// Blocks that a cluster of a launch may have.
    fn cuOccupancyMaxPotentialClusterSize(size: Out<'_, c_int>, function: u64, configuration: Option<&LaunchConfig>) {
        context::current()?;
        let configuration = configuration.required()?.as_the_runtimes();
        of_runtime(|| runtime::cudaOccupancyMaxPotentialClusterSize(size, stub(function), Some(&configuration)))
    }
}

/// `CUoccupancyB2DSize`: dynamic shared memory that a block of a size needs.
type SharedForBlock = unsafe extern "C" fn(c_int) -> usize;

/// A function as the runtime takes it: in the place of a host stub.
fn stub(function: u64) -> *const c_void {
    std::ptr::without_provenance(usize::try_from(function).unwrap_or(0))
}

/// A function in a context.
fn find(handle: u64, device: &Device) -> CuResult<(Arc<Session>, Arc<Function>)> {
    let function = module::kernel(handle)?.on(device)?;
    Ok((device.session()?, function))
}

/// Where a kernel is on a device: in this thread's context if that is on the device, else in the primary one.
fn on_device(number: c_int) -> CuResult<&'static Device> {
    match context::current() {
        Ok(current) if current.program_number() == number => Ok(current),
        _ => devices().get(number),
    }
}

fn set_cache_config(handle: u64, config: u32, device: &Device) -> CuResult<()> {
    if config > 3 {
        return Err(CuError::INVALID_VALUE);
    }
    let (session, function) = find(handle, device)?;
    session.set_cache_config(&function, config)
}

fn parameter_count(handle: u64, count: Out<'_, usize>) -> CuResult<()> {
    let count = count.required()?;
    let (_, function) = find(handle, module::here()?)?;
    count.write(function.facts.parameters.len());
    Ok(())
}

fn occupancy(
    blocks: Out<'_, c_int>,
    handle: u64,
    block_size: c_int,
    shared: usize,
    flags: u32,
) -> CuResult<()> {
    let blocks = blocks.required()?;
    if block_size <= 0 || flags > 1 {
        return Err(CuError::INVALID_VALUE);
    }
    let (session, function) = find(handle, context::current()?)?;
    let found = session.resident_blocks(&function, block_size, shared as u64, flags)?;
    blocks.write(found);
    Ok(())
}

/// CUDA Driver API, cuOccupancyMaxPotentialBlockSize; among equals the largest block.
fn potential_block_size(
    grid: Out<'_, c_int>,
    block: Out<'_, c_int>,
    handle: u64,
    shared_for: Option<SharedForBlock>,
    shared: usize,
    limit: c_int,
    flags: u32,
) -> CuResult<()> {
    let (grid, block) = (grid.required()?, block.required()?);
    if flags > 1 || limit < 0 {
        return Err(CuError::INVALID_VALUE);
    }
    let device = context::current()?;
    let facts = device.facts()?;
    let attribute = |attribute: DeviceAttribute| facts.attribute(attribute.0).ok_or(CuError::UNKNOWN);
    let warp = attribute(DeviceAttribute::WARP_SIZE)?.max(1);
    let processors = attribute(DeviceAttribute::MULTIPROCESSOR_COUNT)?;
    let (session, function) = find(handle, device)?;
    let most = session.function_attribute(&function, FunctionAttribute::MAX_THREADS_PER_BLOCK)?;
    let most = if limit == 0 { most } else { most.min(limit) };
    let mut best = (0, 0, 0);
    // From the largest multiple of a warp down, after the limit itself.
    let below = (1..=most / warp).rev().map(|warps| warps * warp).filter(|size| *size != most);
    for size in std::iter::once(most).chain(below) {
        let shared = match shared_for {
            // SAFETY: the program's own function, called with a block size as the manual says.
            Some(shared_for) => unsafe { shared_for(size) },
            None => shared,
        };
        let blocks = session.resident_blocks(&function, size, shared as u64, flags)?;
        if blocks * size > best.0 {
            best = (blocks * size, size, blocks);
        }
        if best.0 >= attribute(DeviceAttribute::MAX_THREADS_PER_MULTIPROCESSOR)? {
            break;
        }
    }
    grid.write(best.2 * processors);
    block.write(best.1);
    Ok(())
}
