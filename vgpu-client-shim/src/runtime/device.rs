//! Devices: the list, the current one, attributes, limits, preferences, peers.

use std::ffi::{CStr, c_char, c_int};

use cuda_types::attribute::DeviceAttribute;
use cuda_types::{CuError, CuResult};
use proto::{ContextCalls, DeviceFacts};

use super::error::{self, PEER_ACCESS_UNSUPPORTED};
use super::version::ChannelFormat;
use crate::edge::{Out, Required, entries};
use crate::graph::capture;
use crate::log;
use crate::managed;
use crate::state::{self, Current, Preferences, devices};

entries! {
    /// The number of devices.
    fn cudaGetDeviceCount(count: Out<'_, c_int>) {
        let count = count.required()?;
        let devices = devices().count();
        // CUDA Runtime API, cudaGetDeviceCount: programs read the number even when the call fails.
        count.write(c_int::try_from(devices.unwrap_or(0)).map_err(|_| CuError::UNKNOWN)?);
        devices.map(drop)
    }

    /// Makes a device this thread's own.
    fn cudaSetDevice(ordinal: c_int) {
        let device = devices().get(ordinal)?;
        device.facts()?;
        state::set_current(Current::of(device));
        device.hold();
        Ok(())
    }

    /// This thread's device.
    fn cudaGetDevice(ordinal: Out<'_, c_int>) {
        let ordinal = ordinal.required()?;
        ordinal.write(devices().current()?.program_number());
        Ok(())
    }

    /// Makes the context of a device, without making it this thread's own.
    fn cudaInitDevice(ordinal: c_int, device_flags: u32, flags: u32) {
        // CUDA Runtime API, cudaInitDevice: flags are 0 or cudaInitDeviceFlagsAreValid.
        if flags > 1 {
            return Err(CuError::INVALID_VALUE);
        }
        let device = devices().get(ordinal)?;
        if flags == 1 {
            device.prefer(|preferences| preferences.flags = device_flags);
        }
        device.session()?.check()
    }

    /// A device that meets wishes best: the first, as all wishes but its version are about speed.
    fn cudaChooseDevice(ordinal: Out<'_, c_int>, wishes: *const u8) {
        let ordinal = ordinal.required()?;
        if wishes.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        devices().count()?;
        ordinal.write(0);
        Ok(())
    }

    /// An attribute of a device.
    fn cudaDeviceGetAttribute(value: Out<'_, c_int>, attribute: c_int, ordinal: c_int) {
        let value = value.required()?;
        let facts = devices().get(ordinal)?.facts()?;
        value.write(super::device::attribute(facts, attribute).ok_or(CuError::INVALID_VALUE)?);
        Ok(())
    }

    /// Waits for everything on the current device.
    fn cudaDeviceSynchronize() {
        synchronize()
    }

    /// `cudaDeviceSynchronize` under its first name.
    fn cudaThreadSynchronize() {
        synchronize()
    }

    /// Ends the context of the current device.
    fn cudaDeviceReset() {
        reset()
    }

    /// `cudaDeviceReset` under its first name.
    fn cudaThreadExit() {
        reset()
    }

    /// A limit: stack size, printf buffer, device heap.
    fn cudaDeviceGetLimit(value: Out<'_, usize>, limit: u32) {
        get_limit(value, limit)
    }

    /// Sets a limit.
    fn cudaDeviceSetLimit(limit: u32, value: usize) {
        devices().current()?.session()?.cuCtxSetLimit(limit, value as u64)
    }

    /// `cudaDeviceGetLimit` under its first name.
    fn cudaThreadGetLimit(value: Out<'_, usize>, limit: u32) {
        get_limit(value, limit)
    }

    /// `cudaDeviceSetLimit` under its first name.
    fn cudaThreadSetLimit(limit: u32, value: usize) {
        devices().current()?.session()?.cuCtxSetLimit(limit, value as u64)
    }

    /// The preference between L1 and shared memory.
    fn cudaDeviceGetCacheConfig(config: Out<'_, u32>) {
        let found = preferences()?.cache_config;
        config.required()?.write(found);
        Ok(())
    }

    /// Prefers L1 or shared memory: a hint, which devices of today do not follow.
    fn cudaDeviceSetCacheConfig(config: u32) {
        set_cache_config(config)
    }

    /// `cudaDeviceGetCacheConfig` under its first name.
    fn cudaThreadGetCacheConfig(config: Out<'_, u32>) {
        let found = preferences()?.cache_config;
        config.required()?.write(found);
        Ok(())
    }

    /// `cudaDeviceSetCacheConfig` under its first name.
    fn cudaThreadSetCacheConfig(config: u32) {
        set_cache_config(config)
    }

    /// The width of shared memory banks.
    fn cudaDeviceGetSharedMemConfig(config: Out<'_, u32>) {
        let found = preferences()?.shared_memory_config;
        config.required()?.write(found);
        Ok(())
    }

    /// Prefers a width of shared memory banks: a hint, which devices of today do not follow.
    fn cudaDeviceSetSharedMemConfig(config: u32) {
        if config > 2 {
            return Err(CuError::INVALID_VALUE);
        }
        devices().current()?.prefer(|preferences| preferences.shared_memory_config = config);
        Ok(())
    }

    /// The flags of the current device.
    fn cudaGetDeviceFlags(flags: Out<'_, u32>) {
        let found = preferences()?.flags;
        flags.required()?.write(found);
        Ok(())
    }

    /// Says how threads should wait: kept and answered, our threads spin briefly and then block.
    fn cudaSetDeviceFlags(flags: u32) {
        // cudaDeviceMask of driver_types.h; bits 0 to 2 are one of four schedules.
        if flags & !0xff != 0 || !matches!(flags & 7, 0 | 1 | 2 | 4) {
            return Err(CuError::INVALID_VALUE);
        }
        devices().current()?.prefer(|preferences| preferences.flags = flags);
        Ok(())
    }

    /// The lowest and the highest stream priority of the current device.
    fn cudaDeviceGetStreamPriorityRange(lowest: Option<&mut c_int>, highest: Option<&mut c_int>) {
        let (low, high) = devices().current()?.facts()?.stream_priorities;
        // CUDA Runtime API: either pointer may be NULL.
        if let Some(lowest) = lowest {
            *lowest = low;
        }
        if let Some(highest) = highest {
            *highest = high;
        }
        Ok(())
    }

    /// The address of a device on its server's bus.
    fn cudaDeviceGetPCIBusId(text: *mut c_char, length: c_int, ordinal: c_int) {
        let facts = devices().get(ordinal)?.facts()?;
        let mut id = bus_id(facts).into_bytes();
        id.push(0);
        let length = usize::try_from(length).map_err(|_| CuError::INVALID_VALUE)?;
        if text.is_null() || length < id.len() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the caller's buffer has `length` bytes (module doc of `edge`), and the text is not longer.
        unsafe { std::ptr::copy_nonoverlapping(id.as_ptr().cast(), text, id.len()) };
        Ok(())
    }

    /// The device at an address on a bus; the first, if several servers have one there.
    fn cudaDeviceGetByPCIBusId(ordinal: Out<'_, c_int>, text: *const c_char) {
        let ordinal = ordinal.required()?;
        if text.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: a C string of the caller (module doc of `edge`).
        let wanted = unsafe { CStr::from_ptr(text) }.to_string_lossy().to_ascii_lowercase();
        let mut all = devices().iter();
        let found = all.find(|device| {
            device.facts().is_ok_and(|facts| {
                let id = bus_id(facts).to_ascii_lowercase();
                // The domain and the function may be left out.
                id == wanted || id.trim_end_matches(".0") == wanted || id.get(5..) == Some(wanted.as_str())
            })
        });
        let found = found.ok_or(CuError::INVALID_DEVICE)?;
        ordinal.write(found.program_number());
        Ok(())
    }

    /// Whether a device reaches another's memory: never, they are on different servers as far as we know.
    fn cudaDeviceCanAccessPeer(can: Out<'_, c_int>, ordinal: c_int, peer: c_int) {
        let can = can.required()?;
        devices().get(ordinal)?;
        devices().get(peer)?;
        can.write(0);
        Ok(())
    }

    /// Refused, as for every pair of devices that cannot reach each other. Copies between them work all the same.
    fn cudaDeviceEnablePeerAccess(peer: c_int, flags: u32) {
        let peer = devices().get(peer)?;
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let own = devices().current()?.ordinal == peer.ordinal;
        Err(if own { CuError::INVALID_DEVICE } else { PEER_ACCESS_UNSUPPORTED })
    }

    /// Never enabled, so there is nothing to disable.
    fn cudaDeviceDisablePeerAccess(peer: c_int) {
        devices().get(peer)?;
        Err(CuError::PEER_ACCESS_NOT_ENABLED)
    }

    /// What a pair of devices can do with each other: nothing directly.
    fn cudaDeviceGetP2PAttribute(value: Out<'_, c_int>, attribute: c_int, from: c_int, to: c_int) {
        let value = value.required()?;
        if devices().get(from)?.ordinal == devices().get(to)?.ordinal {
            return Err(CuError::INVALID_DEVICE);
        }
        // CUDA Runtime API, cudaDeviceP2PAttr: 1 performance rank to 4 array access.
        if !(1..=4).contains(&attribute) {
            return Err(CuError::INVALID_VALUE);
        }
        value.write(0);
        Ok(())
    }

    /// The devices to try first: the thread's own is the first of them that answers.
    fn cudaSetValidDevices(list: *const c_int, count: c_int) {
        let count = usize::try_from(count).map_err(|_| CuError::INVALID_VALUE)?;
        if count > devices().count()? || (count > 0 && list.is_null()) {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the caller's array of `count` ordinals (module doc of `edge`), read only if there is one.
        let list = unsafe { super::batch::list(list, count) }?;
        list.iter().try_for_each(|ordinal| devices().get(*ordinal).map(drop))?;
        let works = |ordinal: &&c_int| devices().get(**ordinal).is_ok_and(|device| device.facts().is_ok());
        let Some(first) = list.iter().find(works) else { return Ok(()) };
        if *first != 0 {
            log::warn(format_args!("cudaSetValidDevices: counts for this thread only; call cudaSetDevice in others"));
        }
        state::set_current(Current::of(devices().get(*first)?));
        Ok(())
    }

    /// Ends the persistence of lines in the device's cache: no access policy here makes lines persist.
    fn cudaCtxResetPersistingL2Cache() {
        devices().current()?.session()?.check()
    }

    /// Which atomic operations a device does on host memory: none, it does not reach it.
    fn cudaDeviceGetHostAtomicCapabilities(capabilities: *mut u32, operations: *const c_int, count: u32, ordinal: c_int) {
        devices().get(ordinal)?;
        // SAFETY: the caller's arrays of `count` entries (module doc of `edge`).
        unsafe { no_atomics(capabilities, operations, count) }
    }

    /// Which atomic operations a device does on another one's memory: none, it does not reach it.
    fn cudaDeviceGetP2PAtomicCapabilities(capabilities: *mut u32, operations: *const c_int, count: u32, from: c_int, to: c_int) {
        if devices().get(from)?.ordinal == devices().get(to)?.ordinal {
            return Err(CuError::INVALID_DEVICE);
        }
        // SAFETY: the caller's arrays of `count` entries (module doc of `edge`).
        unsafe { no_atomics(capabilities, operations, count) }
    }

    /// Elements that a texture over linear memory may have.
    fn cudaDeviceGetTexture1DLinearMaxWidth(width: Out<'_, usize>, format: Option<&ChannelFormat>, ordinal: c_int) {
        let width = width.required()?;
        super::array::driver_format(*format.required()?)?;
        // CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH
        let most = super::device::attribute(devices().get(ordinal)?.facts()?, 69);
        width.write(most.and_then(|most| usize::try_from(most).ok()).ok_or(CuError::NOT_SUPPORTED)?);
        Ok(())
    }

    /// Turns a number into one that devices without doubles take: every device of today has them.
    fn cudaSetDoubleForDevice(number: Option<&mut f64>) {
        number.required().map(drop)
    }

    /// Turns a number back into one of the host.
    fn cudaSetDoubleForHost(number: Option<&mut f64>) {
        number.required().map(drop)
    }

    /// Starts a profiler's collection; there is none to start, as without one natively.
    fn cudaProfilerStart() {
        devices().current()?.session()?.check()
    }

    /// Stops a profiler's collection; there is none.
    fn cudaProfilerStop() {
        devices().current()?.session()?.check()
    }
}

/// What holds for a device behind a network, whatever its driver says there: the device does not reach the memory of
/// this process, and what this release does not carry is not offered.
const REMOTE: [(i32, i32); 28] = [
    (DeviceAttribute::CAN_MAP_HOST_MEMORY.0, 1),
    (DeviceAttribute::INTEGRATED.0, 0),
    (DeviceAttribute::MANAGED_MEMORY.0, 1),
    (DeviceAttribute::PAGEABLE_MEMORY_ACCESS.0, 0),
    (DeviceAttribute::CONCURRENT_MANAGED_ACCESS.0, 0),
    (DeviceAttribute::CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM.0, 0),
    (DeviceAttribute::PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES.0, 0),
    (DeviceAttribute::DIRECT_MANAGED_MEM_ACCESS_FROM_HOST.0, 0),
    (DeviceAttribute::HOST_NATIVE_ATOMIC_SUPPORTED.0, 0),
    (DeviceAttribute::HOST_REGISTER_SUPPORTED.0, 1),
    (DeviceAttribute::UNIFIED_ADDRESSING.0, 1),
    (DeviceAttribute::MEMORY_POOLS_SUPPORTED.0, 1),
    (DeviceAttribute::CLUSTER_LAUNCH.0, 0),
    (116, 0), // GPUDirectRDMASupported
    (117, 0), // GPUDirectRDMAFlushWritesOptions
    (119, 0), // MemoryPoolSupportedHandleTypes
    (125, 0), // IpcEventSupport
    (103, 0), // HandleTypePosixFileDescriptorSupported
    (107, 0), // GenericCompressionSupported
    (112, 0), // SparseCudaArraySupported
    (114, 0), // TimelineSemaphoreInteropSupported
    (121, 0), // DeferredMappingCudaArraySupported
    (124, 0), // DmaBufSupported
    (128, 0), // HandleTypeFabricSupported
    (132, 0), // MulticastSupported
    (136, 0), // MemDecompressAlgorithmMask
    (137, 0), // MemDecompressMaximumLength
    (141, 0), // HostNumaMemoryPoolsSupported
];

/// An attribute as the program sees it; `None` for a number that the device's driver does not know.
pub(crate) fn attribute(facts: &DeviceFacts, number: i32) -> Option<i32> {
    let remote = REMOTE.iter().find(|(known, _)| *known == number);
    remote.map(|(_, value)| *value).or_else(|| facts.attribute(number))
}

/// Answers that no atomic operation is possible, for operations that there are.
///
/// # Safety
/// Both arrays are NULL or have `count` entries.
unsafe fn no_atomics(capabilities: *mut u32, operations: *const c_int, count: u32) -> CuResult<()> {
    let count = usize::try_from(count).map_err(|_| CuError::INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    let operations = unsafe { super::batch::list(operations, count) }?;
    // cudaAtomicOperation ends with FloatMax, 12.
    if count == 0
        || capabilities.is_null()
        || !operations.iter().all(|operation| (0..=12).contains(operation))
    {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { capabilities.write_bytes(0, count) };
    Ok(())
}

fn bus_id(facts: &DeviceFacts) -> String {
    let part = |attribute: DeviceAttribute| facts.attribute(attribute.0).unwrap_or(0);
    let (domain, bus) = (part(DeviceAttribute::PCI_DOMAIN_ID), part(DeviceAttribute::PCI_BUS_ID));
    format!("{domain:04X}:{bus:02X}:{:02X}.0", part(DeviceAttribute::PCI_DEVICE_ID))
}

/// Waits for the work of this thread's device, none of which may be captured.
fn synchronize() -> CuResult<()> {
    let device = devices().current()?;
    capture::refuse_device(device.ordinal)?;
    let session = device.session()?;
    session.cuCtxSynchronize()?;
    managed::synchronized(device, &session, true)
}

fn reset() -> CuResult<()> {
    let device = devices().current()?;
    if device.open_session().is_some() {
        log::debug(format_args!("device {}: reset", device.ordinal));
    }
    device.reset()?;
    error::forget();
    Ok(())
}

fn get_limit(value: Out<'_, usize>, limit: u32) -> CuResult<()> {
    let value = value.required()?;
    let found = devices().current()?.session()?.cuCtxGetLimit(limit)?;
    value.write(usize::try_from(found).map_err(|_| CuError::UNKNOWN)?);
    Ok(())
}

fn set_cache_config(config: u32) -> CuResult<()> {
    if config > 3 {
        return Err(CuError::INVALID_VALUE);
    }
    devices().current()?.prefer(|preferences| preferences.cache_config = config);
    Ok(())
}

fn preferences() -> CuResult<Preferences> {
    Ok(devices().current()?.preferences())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_network_makes_impossible_is_not_offered() {
        let attributes = vec![Some(1); 160];
        let facts = DeviceFacts {
            name: "test".into(),
            uuid: [0; 16],
            total_memory: 1,
            driver_version: 13000,
            attributes,
            stream_priorities: (0, -5),
        };
        assert_eq!(attribute(&facts, DeviceAttribute::CONCURRENT_MANAGED_ACCESS.0), Some(0));
        assert_eq!(attribute(&facts, DeviceAttribute::WARP_SIZE.0), Some(1));
        assert_eq!(attribute(&facts, 5000), None);
        assert_eq!(bus_id(&facts), "0001:01:01.0");
    }
}
