//! Initialization, and devices: the list, names, attributes, primary contexts, peers.

use std::ffi::{c_char, c_int};

use cuda_types::attribute::DeviceAttribute;
use cuda_types::{CuError, CuResult};
use proto::DeviceFacts;

use super::{answer_always, context, entries, of_runtime};
use crate::edge::{Out, Required};
use crate::runtime::device as runtime;
use crate::state::{Device, devices};

/// What the driver says of itself when no server can be asked.
const DRIVER_VERSION: c_int = 13000;

/// Begins: reads the environment and greets the servers.
pub(crate) extern "C" fn cuInit(flags: u32) -> u32 {
    answer_always("cuInit", || {
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        devices().count()?;
        super::initialized();
        Ok(())
    })
}

/// The version of the first device's driver.
pub(crate) extern "C" fn cuDriverGetVersion(version: Out<'_, c_int>) -> u32 {
    answer_always("cuDriverGetVersion", || {
        let version = version.required()?;
        let first = devices().iter().find_map(|device| device.facts().ok());
        version.write(first.map_or(DRIVER_VERSION, |facts| facts.driver_version));
        Ok(())
    })
}

entries! {
    /// Elements that a texture over linear memory may have.
    fn cuDeviceGetTexture1DLinearMaxWidth(width: Out<'_, usize>, format: u32, channels: u32, device: c_int) {
        let format = super::array::channel_format(format, channels)?;
        of_runtime(|| runtime::cudaDeviceGetTexture1DLinearMaxWidth(width, Some(&format), device))
    }

    /// Which atomic operations a device does on host memory.
    fn cuDeviceGetHostAtomicCapabilities(capabilities: *mut u32, operations: *const c_int, count: u32, device: c_int) {
        of_runtime(|| runtime::cudaDeviceGetHostAtomicCapabilities(capabilities, operations, count, device))
    }

    /// Which atomic operations a device does on another one's memory.
    fn cuDeviceGetP2PAtomicCapabilities(capabilities: *mut u32, operations: *const c_int, count: u32, from: c_int, to: c_int) {
        of_runtime(|| runtime::cudaDeviceGetP2PAtomicCapabilities(capabilities, operations, count, from, to))
    }
}

entries! {
    /// The number of devices.
    fn cuDeviceGetCount(count: Out<'_, c_int>) {
        let count = count.required()?;
        let found = match devices().count() {
            Err(CuError::NO_DEVICE) => 0,
            other => other?,
        };
        count.write(c_int::try_from(found).map_err(|_| CuError::UNKNOWN)?);
        Ok(())
    }

    /// The device of a number: the number itself.
    fn cuDeviceGet(device: Out<'_, c_int>, number: c_int) {
        let device = device.required()?;
        devices().get(number)?;
        device.write(number);
        Ok(())
    }

    /// The name of a device, cut to the room for it.
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) {
        let facts = facts(device)?;
        let length = usize::try_from(length).map_err(|_| CuError::INVALID_VALUE)?;
        if name.is_null() || length == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let shown = facts.name.len().min(length - 1);
        // SAFETY: the caller's buffer has `length` bytes (module doc of `edge`), of which `shown` and one are written.
        unsafe {
            std::ptr::copy_nonoverlapping(facts.name.as_ptr().cast(), name, shown);
            name.add(shown).write(0);
        }
        Ok(())
    }

    /// The UUID of a device.
    fn cuDeviceGetUuid(uuid: Out<'_, [u8; 16]>, device: c_int) {
        uuid.required()?.write(facts(device)?.uuid);
        Ok(())
    }

    /// The UUID of a device; of a part of it where the server gives out a part.
    fn cuDeviceGetUuid_v2(uuid: Out<'_, [u8; 16]>, device: c_int) {
        uuid.required()?.write(facts(device)?.uuid);
        Ok(())
    }

    /// Bytes of memory.
    fn cuDeviceTotalMem_v2(bytes: Out<'_, usize>, device: c_int) {
        let found = facts(device)?.total_memory;
        bytes.required()?.write(usize::try_from(found).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Bytes of memory in the 32 bits of the first version: as many as fit.
    fn cuDeviceTotalMem(bytes: Out<'_, u32>, device: c_int) {
        let found = facts(device)?.total_memory;
        bytes.required()?.write(u32::try_from(found).unwrap_or(u32::MAX));
        Ok(())
    }

    /// An attribute.
    fn cuDeviceGetAttribute(value: Out<'_, c_int>, attribute: c_int, device: c_int) {
        let value = value.required()?;
        value.write(runtime::attribute(facts(device)?, attribute).ok_or(CuError::INVALID_VALUE)?);
        Ok(())
    }

    /// The properties that the first version of CUDA had.
    fn cuDeviceGetProperties(properties: Out<'_, Properties>, device: c_int) {
        let properties = properties.required()?;
        let facts = facts(device)?;
        let value = |attribute: DeviceAttribute| runtime::attribute(facts, attribute.0).unwrap_or(0);
        properties.write(Properties {
            max_threads_per_block: value(DeviceAttribute::MAX_THREADS_PER_BLOCK),
            max_threads_dim: [DeviceAttribute(2), DeviceAttribute(3), DeviceAttribute(4)].map(value),
            max_grid_size: [DeviceAttribute(5), DeviceAttribute(6), DeviceAttribute(7)].map(value),
            shared_bytes_per_block: value(DeviceAttribute(8)),
            total_constant_bytes: value(DeviceAttribute(9)),
            simd_width: value(DeviceAttribute::WARP_SIZE),
            mem_pitch: value(DeviceAttribute(11)),
            regs_per_block: value(DeviceAttribute(12)),
            clock_rate: value(DeviceAttribute(13)),
            texture_align: value(DeviceAttribute(14)),
        });
        Ok(())
    }

    /// The compute capability.
    fn cuDeviceComputeCapability(major: Out<'_, c_int>, minor: Out<'_, c_int>, device: c_int) {
        let (major, minor) = (major.required()?, minor.required()?);
        let facts = facts(device)?;
        let value = |attribute: DeviceAttribute| facts.attribute(attribute.0).ok_or(CuError::UNKNOWN);
        let found = (value(DeviceAttribute::COMPUTE_CAPABILITY_MAJOR)?, value(DeviceAttribute::COMPUTE_CAPABILITY_MINOR)?);
        major.write(found.0);
        minor.write(found.1);
        Ok(())
    }

    /// The device at an address on a bus.
    fn cuDeviceGetByPCIBusId(device: Out<'_, c_int>, text: *const c_char) {
        of_runtime(|| runtime::cudaDeviceGetByPCIBusId(device, text))
    }

    /// The address of a device on its server's bus.
    fn cuDeviceGetPCIBusId(text: *mut c_char, length: c_int, device: c_int) {
        of_runtime(|| runtime::cudaDeviceGetPCIBusId(text, length, device))
    }

    /// Whether a device reaches another's memory.
    fn cuDeviceCanAccessPeer(can: Out<'_, c_int>, device: c_int, peer: c_int) {
        of_runtime(|| runtime::cudaDeviceCanAccessPeer(can, device, peer))
    }

    /// What a pair of devices can do with each other.
    fn cuDeviceGetP2PAttribute(value: Out<'_, c_int>, attribute: c_int, from: c_int, to: c_int) {
        of_runtime(|| runtime::cudaDeviceGetP2PAttribute(value, attribute, from, to))
    }

    /// Whether contexts can be confined to some multiprocessors: not to a number of them.
    fn cuDeviceGetExecAffinitySupport(supported: Out<'_, c_int>, kind: c_int, device: c_int) {
        let supported = supported.required()?;
        facts(device)?;
        // CU_EXEC_AFFINITY_TYPE_SM_COUNT is the only one.
        if kind != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        supported.write(0);
        Ok(())
    }

    /// Retains the primary context of a device, which is made by the first who does.
    fn cuDevicePrimaryCtxRetain(handle: Out<'_, u64>, device: c_int) {
        let handle = handle.required()?;
        let device = devices().get(device)?;
        device.session()?.check()?;
        device.retain();
        handle.write(context::primary_handle(device));
        Ok(())
    }

    /// Releases the primary context, which the last one ends.
    fn cuDevicePrimaryCtxRelease(device: c_int) {
        release(device)
    }

    /// Releases the primary context, which the last one ends.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        release(device)
    }

    /// Ends the primary context, whoever retains it.
    fn cuDevicePrimaryCtxReset(device: c_int) {
        devices().get(device)?.reset()
    }

    /// Ends the primary context, whoever retains it.
    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        devices().get(device)?.reset()
    }

    /// The flags of the primary context, and whether it exists.
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<'_, u32>, active: Out<'_, c_int>) {
        let (flags, active) = (flags.required()?, active.required()?);
        let device = devices().get(device)?;
        flags.write(device.preferences().flags);
        active.write(c_int::from(device.open_session().is_some()));
        Ok(())
    }

    /// Sets the flags of the primary context: how its threads wait, which ours do as they do.
    fn cuDevicePrimaryCtxSetFlags(device: c_int, flags: u32) {
        set_primary_flags(device, flags)
    }

    /// Sets the flags of the primary context.
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: u32) {
        set_primary_flags(device, flags)
    }
}

/// `CUdevprop`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    max_threads_per_block: c_int,
    max_threads_dim: [c_int; 3],
    max_grid_size: [c_int; 3],
    shared_bytes_per_block: c_int,
    total_constant_bytes: c_int,
    simd_width: c_int,
    mem_pitch: c_int,
    regs_per_block: c_int,
    clock_rate: c_int,
    texture_align: c_int,
}

/// The bits that context flags may have: schedules, mapped host memory, local memory, core dumps, memory operations.
pub(super) const CONTEXT_FLAGS: u32 = 0xff;

fn facts(device: c_int) -> CuResult<&'static DeviceFacts> {
    devices().get(device)?.facts()
}

fn release(device: c_int) -> CuResult<()> {
    let device: &Device = devices().get(device)?;
    let left = device.release().ok_or(CuError::INVALID_CONTEXT)?;
    if left == 0 && !device.is_held_by_the_runtime() { device.reset() } else { Ok(()) }
}

fn set_primary_flags(device: c_int, flags: u32) -> CuResult<()> {
    let device = devices().get(device)?;
    if !are_context_flags(flags) {
        return Err(CuError::INVALID_VALUE);
    }
    device.prefer(|preferences| preferences.flags = flags);
    Ok(())
}

/// Whether these are flags of a context: at most one schedule.
pub(super) fn are_context_flags(flags: u32) -> bool {
    flags & !CONTEXT_FLAGS == 0 && matches!(flags & 7, 0 | 1 | 2 | 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<Properties>(), 56);
        assert_eq!(std::mem::offset_of!(Properties, clock_rate), 48);
    }

    #[test]
    fn flags_have_one_schedule() {
        assert!(are_context_flags(0) && are_context_flags(4 | 8) && are_context_flags(0x80));
        assert!(!are_context_flags(3) && !are_context_flags(0x100));
    }
}
