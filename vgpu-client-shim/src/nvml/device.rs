//! Devices: handles, names, places on the bus, what they are.

use std::ffi::{CStr, c_char, c_int};

use cuda_types::attribute::DeviceAttribute;
use proto::DeviceFacts;

use super::{NvmlError, Outcome, device, entries, handle, reached, room, write_text};
use crate::edge::Out;
use crate::runtime::device as runtime;
use crate::state::devices;

entries! {
    /// The number of devices that answer.
    fn nvmlDeviceGetCount(count: Out<'_, u32>) {
        tell_count(count)
    }

    /// The number of devices of the list.
    fn nvmlDeviceGetCount_v2(count: Out<'_, u32>) {
        tell_count(count)
    }

    /// The device of a number.
    fn nvmlDeviceGetHandleByIndex(index: u32, found: Out<'_, u64>) {
        by_index(index, found)
    }

    /// The device of a number.
    fn nvmlDeviceGetHandleByIndex_v2(index: u32, found: Out<'_, u64>) {
        by_index(index, found)
    }

    /// The device of a UUID, as `nvmlDeviceGetUUID` writes it.
    fn nvmlDeviceGetHandleByUUID(text: *const c_char, found: Out<'_, u64>) {
        let wanted = text_of(text)?;
        by_facts(found, |facts| facts.uuid_text() == wanted)
    }

    /// The device at a place on a bus; the first, if several servers have one there.
    fn nvmlDeviceGetHandleByPciBusId(text: *const c_char, found: Out<'_, u64>) {
        by_bus_id(text, found)
    }

    /// The device at a place on a bus; the first, if several servers have one there.
    fn nvmlDeviceGetHandleByPciBusId_v2(text: *const c_char, found: Out<'_, u64>) {
        by_bus_id(text, found)
    }

    /// The number of a device.
    fn nvmlDeviceGetIndex(handle: u64, index: Out<'_, u32>) {
        room(index)?.write(u32::try_from(device(handle)?.number).map_err(|_| NvmlError::UNKNOWN)?);
        Ok(())
    }

    /// The number in the name of a device file: there is none, so the device's own number stands for it.
    fn nvmlDeviceGetMinorNumber(handle: u64, number: Out<'_, u32>) {
        room(number)?.write(u32::try_from(device(handle)?.number).map_err(|_| NvmlError::UNKNOWN)?);
        Ok(())
    }

    /// The name of a device.
    fn nvmlDeviceGetName(handle: u64, name: *mut c_char, length: u32) {
        write_text(&facts(handle)?.name, name, length)
    }

    /// The UUID of a device.
    fn nvmlDeviceGetUUID(handle: u64, text: *mut c_char, length: u32) {
        write_text(&facts(handle)?.uuid_text(), text, length)
    }

    /// Where a device is on its server's bus, in the structure of the first version, which ends before the longer text.
    fn nvmlDeviceGetPciInfo(handle: u64, info: Out<'_, PciInfo1>) {
        room(info)?.write(PciInfo::of(facts(handle)?).first);
        Ok(())
    }

    /// Where a device is on its server's bus, in the structure of the second version, which ends before the longer text.
    fn nvmlDeviceGetPciInfo_v2(handle: u64, info: Out<'_, PciInfo1>) {
        room(info)?.write(PciInfo::of(facts(handle)?).first);
        Ok(())
    }

    /// Where a device is on its server's bus.
    fn nvmlDeviceGetPciInfo_v3(handle: u64, info: Out<'_, PciInfo>) {
        room(info)?.write(PciInfo::of(facts(handle)?));
        Ok(())
    }

    /// The compute capability.
    fn nvmlDeviceGetCudaComputeCapability(handle: u64, major: Out<'_, c_int>, minor: Out<'_, c_int>) {
        let (major, minor) = (room(major)?, room(minor)?);
        let facts = facts(handle)?;
        major.write(value(facts, DeviceAttribute::COMPUTE_CAPABILITY_MAJOR)?);
        minor.write(value(facts, DeviceAttribute::COMPUTE_CAPABILITY_MINOR)?);
        Ok(())
    }

    /// Who may use the device.
    fn nvmlDeviceGetComputeMode(handle: u64, mode: Out<'_, u32>) {
        const COMPUTE_MODE: DeviceAttribute = DeviceAttribute(20);
        let found = value(facts(handle)?, COMPUTE_MODE)?;
        room(mode)?.write(u32::try_from(found).map_err(|_| NvmlError::UNKNOWN)?);
        Ok(())
    }

    /// The generation: numbers of the compute capability stand for it.
    fn nvmlDeviceGetArchitecture(handle: u64, architecture: Out<'_, u32>) {
        let facts = facts(handle)?;
        let capability = (
            value(facts, DeviceAttribute::COMPUTE_CAPABILITY_MAJOR)?,
            value(facts, DeviceAttribute::COMPUTE_CAPABILITY_MINOR)?,
        );
        // NVML_DEVICE_ARCH_*: Kepler 2 to Blackwell 10; Turing is 7.5, Ada 8.9.
        room(architecture)?.write(match capability {
            (3, _) => 2,
            (5, _) => 3,
            (6, _) => 4,
            (7, 5) => 6,
            (7, _) => 5,
            (8, 9) => 8,
            (8, _) => 7,
            (9, _) => 9,
            (10.., _) => 10,
            _ => u32::MAX,
        });
        Ok(())
    }

    /// The brand: not told by the device.
    fn nvmlDeviceGetBrand(handle: u64, brand: Out<'_, u32>) {
        let brand = room(brand)?;
        device(handle)?;
        // NVML_BRAND_UNKNOWN
        brand.write(0);
        Ok(())
    }

    /// The cores of all multiprocessors, as far as the compute capability tells.
    fn nvmlDeviceGetNumGpuCores(handle: u64, cores: Out<'_, u32>) {
        let facts = facts(handle)?;
        let processors = value(facts, DeviceAttribute::MULTIPROCESSOR_COUNT)?;
        let each = match (
            value(facts, DeviceAttribute::COMPUTE_CAPABILITY_MAJOR)?,
            value(facts, DeviceAttribute::COMPUTE_CAPABILITY_MINOR)?,
        ) {
            (6, 0) | (7, _) | (8, 0) => 64,
            _ => 128,
        };
        room(cores)?.write(u32::try_from(processors * each).map_err(|_| NvmlError::UNKNOWN)?);
        Ok(())
    }

    /// Bits of the memory's bus.
    fn nvmlDeviceGetMemoryBusWidth(handle: u64, bits: Out<'_, u32>) {
        const BUS_WIDTH: DeviceAttribute = DeviceAttribute(37);
        room(bits)?.write(u32::try_from(value(facts(handle)?, BUS_WIDTH)?).map_err(|_| NvmlError::UNKNOWN)?);
        Ok(())
    }

    /// Whether the memory corrects errors, now and after a restart.
    fn nvmlDeviceGetEccMode(handle: u64, present: Out<'_, u32>, pending: Out<'_, u32>) {
        const ECC_ENABLED: DeviceAttribute = DeviceAttribute(32);
        let (present, pending) = (room(present)?, room(pending)?);
        let found = u32::try_from(value(facts(handle)?, ECC_ENABLED)?).map_err(|_| NvmlError::UNKNOWN)?;
        present.write(found);
        pending.write(found);
        Ok(())
    }

    /// The highest clock of the processor (0, 1) or of the memory (2), in MHz.
    fn nvmlDeviceGetMaxClockInfo(handle: u64, kind: u32, clock: Out<'_, u32>) {
        highest_clock(handle, kind, clock)
    }

    /// A clock, in MHz: the highest, as the present one is known on the device's machine only.
    fn nvmlDeviceGetClockInfo(handle: u64, kind: u32, clock: Out<'_, u32>) {
        highest_clock(handle, kind, clock)
    }

    /// Whether the driver stays loaded without programs: servers hold nothing while nobody uses them.
    fn nvmlDeviceGetPersistenceMode(handle: u64, mode: Out<'_, u32>) {
        let mode = room(mode)?;
        device(handle)?;
        mode.write(0);
        Ok(())
    }

    /// Whether a display hangs on the device: on its server, not here.
    fn nvmlDeviceGetDisplayMode(handle: u64, mode: Out<'_, u32>) {
        let mode = room(mode)?;
        device(handle)?;
        mode.write(0);
        Ok(())
    }

    /// Whether a display is active on the device: on its server, not here.
    fn nvmlDeviceGetDisplayActive(handle: u64, active: Out<'_, u32>) {
        let active = room(active)?;
        device(handle)?;
        active.write(0);
        Ok(())
    }

    /// Whether the device is a part of one.
    fn nvmlDeviceIsMigDeviceHandle(handle: u64, is_part: Out<'_, u32>) {
        let is_part = room(is_part)?;
        device(handle)?;
        is_part.write(0);
        Ok(())
    }

    /// How many parts the device can have.
    fn nvmlDeviceGetMaxMigDeviceCount(handle: u64, count: Out<'_, u32>) {
        let count = room(count)?;
        device(handle)?;
        count.write(0);
        Ok(())
    }
}

/// `nvmlPciInfo_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PciInfo {
    first: PciInfo1,
    bus_id: [u8; 32],
}

/// What all versions of it begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PciInfo1 {
    bus_id_legacy: [u8; 16],
    domain: u32,
    bus: u32,
    device: u32,
    /// Not told by CUDA: 0.
    pci_device_id: u32,
    pci_subsystem_id: u32,
}

impl PciInfo {
    fn of(facts: &DeviceFacts) -> PciInfo {
        let part = |attribute: DeviceAttribute| {
            u32::try_from(facts.attribute(attribute.0).unwrap_or(0)).unwrap_or(0)
        };
        let domain = part(DeviceAttribute::PCI_DOMAIN_ID);
        let (bus, device) = (part(DeviceAttribute::PCI_BUS_ID), part(DeviceAttribute::PCI_DEVICE_ID));
        let first = PciInfo1 {
            bus_id_legacy: filled(&format!("{domain:04X}:{bus:02X}:{device:02X}.0")),
            domain,
            bus,
            device,
            pci_device_id: 0,
            pci_subsystem_id: 0,
        };
        PciInfo { first, bus_id: filled(&format!("{domain:08X}:{bus:02X}:{device:02X}.0")) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bus_id).trim_end_matches('\0').to_owned()
    }
}

fn filled<const BYTES: usize>(text: &str) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let shown = text.len().min(BYTES - 1);
    bytes[..shown].copy_from_slice(&text.as_bytes()[..shown]);
    bytes
}

fn highest_clock(handle: u64, kind: u32, clock: Out<'_, u32>) -> Outcome {
    let attribute = match kind {
        0 | 1 => DeviceAttribute(13),
        2 => DeviceAttribute(36),
        3 => return Err(NvmlError::NOT_SUPPORTED),
        _ => return Err(NvmlError::INVALID_ARGUMENT),
    };
    let kilohertz = value(facts(handle)?, attribute)?;
    room(clock)?.write(u32::try_from(kilohertz / 1000).map_err(|_| NvmlError::UNKNOWN)?);
    Ok(())
}

fn tell_count(count: Out<'_, u32>) -> Outcome {
    let found = devices().count().unwrap_or(0);
    room(count)?.write(u32::try_from(found).map_err(|_| NvmlError::UNKNOWN)?);
    Ok(())
}

fn by_index(index: u32, found: Out<'_, u64>) -> Outcome {
    let number = i32::try_from(index).map_err(|_| NvmlError::INVALID_ARGUMENT)?;
    let device = devices().get(number).map_err(|_| NvmlError::INVALID_ARGUMENT)?;
    reached(device.facts())?;
    room(found)?.write(handle(device));
    Ok(())
}

fn by_facts(found: Out<'_, u64>, is_wanted: impl Fn(&DeviceFacts) -> bool) -> Outcome {
    let found = room(found)?;
    let mut all = devices().iter().filter(|device| device.is_primary());
    let device = all.find(|device| device.facts().is_ok_and(&is_wanted)).ok_or(NvmlError::NOT_FOUND)?;
    found.write(handle(device));
    Ok(())
}

/// The domain may have four or eight digits, and may be left out, as may the function.
fn by_bus_id(text: *const c_char, found: Out<'_, u64>) -> Outcome {
    let wanted = text_of(text)?.to_ascii_uppercase();
    let wanted = wanted.trim_end_matches(".0");
    let wanted = match wanted.split_once(':') {
        Some((domain, rest)) if rest.contains(':') => format!("{domain:0>8}:{rest}"),
        _ => format!("00000000:{wanted}"),
    };
    by_facts(found, |facts| PciInfo::of(facts).text().trim_end_matches(".0") == wanted)
}

fn text_of(text: *const c_char) -> Outcome<String> {
    if text.is_null() {
        return Err(NvmlError::INVALID_ARGUMENT);
    }
    // SAFETY: a C string of the caller (module doc of `edge`).
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

fn facts(handle: u64) -> Outcome<&'static DeviceFacts> {
    reached(device(handle)?.facts())
}

fn value(facts: &DeviceFacts, attribute: DeviceAttribute) -> Outcome<c_int> {
    runtime::attribute(facts, attribute.0).ok_or(NvmlError::NOT_SUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!((size_of::<PciInfo>(), std::mem::offset_of!(PciInfo, bus_id)), (68, 36));
    }

    #[test]
    fn texts_are_cut_to_their_room_with_a_zero_byte() {
        assert_eq!(filled::<4>("abcdef"), *b"abc\0");
        assert_eq!(filled::<4>("a"), *b"a\0\0\0");
    }
}
