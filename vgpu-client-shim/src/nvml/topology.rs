//! What lies between devices: a network, as far as is known.

use super::{NvmlError, device, entries, room};
use crate::edge::Out;

entries! {
    /// How far two devices are from each other: on different machines, as far as is known.
    fn nvmlDeviceGetTopologyCommonAncestor(one: u64, other: u64, level: Out<'_, u32>) {
        let level = room(level)?;
        let (one, other) = (device(one)?, device(other)?);
        // NVML_TOPOLOGY_INTERNAL and NVML_TOPOLOGY_SYSTEM.
        level.write(if one.number == other.number { 0 } else { 50 });
        Ok(())
    }

    /// Whether two devices reach each other's memory: not over a network.
    fn nvmlDeviceGetP2PStatus(one: u64, other: u64, capability: u32, status: Out<'_, u32>) {
        let status = room(status)?;
        device(one)?;
        device(other)?;
        if capability > 5 {
            return Err(NvmlError::INVALID_ARGUMENT);
        }
        // NVML_P2P_STATUS_NOT_SUPPORTED
        status.write(5);
        Ok(())
    }

    /// Whether a link between devices is active: none is.
    fn nvmlDeviceGetNvLinkState(handle: u64, link: u32, active: Out<'_, u32>) {
        let active = room(active)?;
        device(handle)?;
        if link >= LINKS {
            return Err(NvmlError::INVALID_ARGUMENT);
        }
        active.write(0);
        Ok(())
    }

    /// What is at the other end of a link: nothing.
    fn nvmlDeviceGetNvLinkRemoteDeviceType(handle: u64, link: u32, kind: Out<'_, u32>) {
        let kind = room(kind)?;
        device(handle)?;
        if link >= LINKS {
            return Err(NvmlError::INVALID_ARGUMENT);
        }
        // NVML_NVLINK_DEVICE_TYPE_UNKNOWN
        kind.write(255);
        Ok(())
    }
}

/// `NVML_NVLINK_MAX_LINKS`.
const LINKS: u32 = 18;
