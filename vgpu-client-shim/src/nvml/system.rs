//! Beginning and end, versions, errors.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::Ordering;

use super::{INITIALIZED, NvmlError, Outcome, answer, entries, room, write_text};
use crate::edge::Out;
use crate::state::devices;

/// Begins: greets the servers.
pub(crate) extern "C" fn nvmlInit_v2() -> u32 {
    answer("nvmlInit_v2", initialize)
}

/// Begins: greets the servers.
pub(crate) extern "C" fn nvmlInit() -> u32 {
    answer("nvmlInit", initialize)
}

/// Begins; flag 1: a machine without devices is no error, 2: devices that cannot be reached are left alone, as always here.
pub(crate) extern "C" fn nvmlInitWithFlags(flags: u32) -> u32 {
    answer("nvmlInitWithFlags", || match (initialize(), flags & 1) {
        (Err(NvmlError::DRIVER_NOT_LOADED), 1) => {
            INITIALIZED.fetch_add(1, Ordering::AcqRel);
            Ok(())
        }
        (outcome, _) => outcome,
    })
}

/// Ends what an `nvmlInit` began.
pub(crate) extern "C" fn nvmlShutdown() -> u32 {
    answer("nvmlShutdown", || {
        let less = |count: u32| count.checked_sub(1);
        let before = INITIALIZED.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        before.map(drop).map_err(|_| NvmlError::UNINITIALIZED)
    })
}

/// The text of an error.
pub(crate) extern "C" fn nvmlErrorString(error: u32) -> *const c_char {
    let found = usize::try_from(error).ok().and_then(|index| TEXTS.get(index)).copied();
    found.unwrap_or(c"Unknown Error").as_ptr()
}

entries! {
    /// The version of the driver: of the device's CUDA driver, in the words of the display driver's versions.
    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: u32) {
        let (major, minor) = driver_version()?;
        write_text(&format!("{major}.{minor}.0 (vgpu)"), version, length)
    }

    /// The version of this library: that of its list of names.
    fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: u32) {
        let (major, minor) = driver_version()?;
        write_text(&format!("{major}.{minor}.0.vgpu"), version, length)
    }

    /// The version of CUDA that the first device's driver has.
    fn nvmlSystemGetCudaDriverVersion(version: Out<'_, c_int>) {
        let (major, minor) = driver_version()?;
        room(version)?.write(major * 1000 + minor * 10);
        Ok(())
    }

    /// The version of CUDA that the first device's driver has.
    fn nvmlSystemGetCudaDriverVersion_v2(version: Out<'_, c_int>) {
        let (major, minor) = driver_version()?;
        room(version)?.write(major * 1000 + minor * 10);
        Ok(())
    }

    /// The name of a process of this machine.
    fn nvmlSystemGetProcessName(pid: u32, name: *mut c_char, length: u32) {
        let path = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => NvmlError(4),
            _ => NvmlError::NOT_FOUND,
        })?;
        write_text(&path.to_string_lossy(), name, length)
    }

    /// S-class systems: there are none.
    fn nvmlUnitGetCount(count: Out<'_, u32>) {
        room(count)?.write(0);
        Ok(())
    }
}

fn initialize() -> Outcome {
    // NVML Reference, nvmlInit: a machine without a driver is told so.
    devices().count().map_err(|_| NvmlError::DRIVER_NOT_LOADED)?;
    INITIALIZED.fetch_add(1, Ordering::AcqRel);
    Ok(())
}

/// Major and minor version of the first device that answers.
fn driver_version() -> Outcome<(c_int, c_int)> {
    let first = devices().iter().find_map(|device| device.facts().ok());
    let version = first.ok_or(NvmlError::GPU_IS_LOST)?.driver_version;
    Ok((version / 1000, version % 1000 / 10))
}

/// `nvmlErrorString`, by number.
const TEXTS: [&CStr; 29] = [
    c"Success",
    c"Uninitialized",
    c"Invalid Argument",
    c"Not Supported",
    c"Insufficient Permissions",
    c"Already Initialized",
    c"Not Found",
    c"Insufficient Size",
    c"Insufficient External Power",
    c"Driver Not Loaded",
    c"Timeout",
    c"Interrupt Request Issue",
    c"NVML Shared Library Not Found",
    c"Function Not Found",
    c"Corrupted infoROM",
    c"GPU is lost",
    c"GPU requires restart",
    c"The operating system has blocked the request.",
    c"RM has detected an NVML/RM version mismatch.",
    c"GPU in use",
    c"Insufficient Memory",
    c"No data",
    c"The requested vgpu operation is not available on target device, because ECC is enabled.",
    c"Insufficient resources",
    c"Frequency not supported",
    c"Argument version mismatch",
    c"Deprecated",
    c"Not ready",
    c"No GPUs were found",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_texts_and_unknown_ones_do_too() {
        let text = |error| {
            // SAFETY: a constant C string.
            unsafe { CStr::from_ptr(nvmlErrorString(error)) }.to_str().unwrap()
        };
        assert_eq!(
            (text(0), text(3), text(15), text(999)),
            ("Success", "Not Supported", "GPU is lost", "Unknown Error")
        );
    }

    #[test]
    fn nothing_is_answered_before_it_begins() {
        assert_eq!(nvmlSystemGetCudaDriverVersion(None), NvmlError::UNINITIALIZED.0);
        assert_eq!(nvmlShutdown(), NvmlError::UNINITIALIZED.0);
    }
}
