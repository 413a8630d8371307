//! What is told without a device: versions, channel descriptions.

use std::ffi::c_int;

use crate::edge::{Out, Required, entries};
use crate::state::devices;

entries! {
    /// The version of the runtime that `libcudart.so.12` stands in for.
    fn runtime_version_12(version: Out<'_, c_int>) {
        version.required()?.write(12090);
        Ok(())
    }

    /// The version of the runtime that `libcudart.so.13` stands in for.
    fn runtime_version_13(version: Out<'_, c_int>) {
        version.required()?.write(13050);
        Ok(())
    }

    /// The version of the current device's driver; 0 without a device, as natively without a driver.
    fn cudaDriverGetVersion(version: Out<'_, c_int>) {
        let version = version.required()?;
        let current = devices().current().and_then(|device| device.facts());
        version.write(current.map_or(0, |facts| facts.driver_version));
        Ok(())
    }
}

/// `cudaChannelFormatDesc`: bits of each component, and their kind.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ChannelFormat {
    pub(crate) bits: [c_int; 4],
    pub(crate) kind: c_int,
}

/// Puts a channel description together. No error to answer, so it is not an entry like the others.
pub(crate) extern "C" fn cudaCreateChannelDesc(
    x: c_int,
    y: c_int,
    z: c_int,
    w: c_int,
    kind: c_int,
) -> ChannelFormat {
    ChannelFormat { bits: [x, y, z, w], kind }
}
