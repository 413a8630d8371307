//! Versions.

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
