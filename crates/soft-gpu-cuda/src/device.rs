//! Devices, versions, error texts.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_uint};
use std::sync::{Arc, Mutex, PoisonError};

use cuda_types::{CuError, CuResult};
use proto::Device;
use soft_gpu::{SoftGpu, SoftOptions};

use crate::edge::{Edge, edge, ordinal};
use crate::entries;
use crate::pointers::Out;

/// Opens the software GPU of this number.
pub(crate) fn open(ordinal: u32) -> CuResult<Arc<dyn Device>> {
    Ok(Arc::new(SoftGpu::open(ordinal, SoftOptions::default())?))
}

entries! {
    /// Sets up the driver.
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        Edge::init();
        Ok(())
    }

    /// The version of CUDA that is offered.
    fn cuDriverGetVersion(version: Out<c_int>) {
        Edge::init();
        version.set(edge()?.device(0)?.facts.driver_version)
    }

    fn cuDeviceGetCount(count: Out<c_int>) {
        count.set(c_int::try_from(edge()?.count()).unwrap_or(c_int::MAX))
    }

    fn cuDeviceGet(device: Out<c_int>, number: c_int) {
        ordinal(number)?;
        device.set(number)
    }

    fn cuDeviceGetName(name: Out<c_char>, room: c_int, device: c_int) {
        let opened = edge()?.device(ordinal(device)?)?;
        let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(CuError::INVALID_VALUE)?;
        let bytes = opened.facts.name.bytes().take(room - 1).chain([0]);
        name.set_all(bytes.map(|byte| c_char::from_ne_bytes([byte])))
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) {
        uuid.set(edge()?.device(ordinal(device)?)?.facts.uuid)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) {
        uuid.set(edge()?.device(ordinal(device)?)?.facts.uuid)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) {
        let total = edge()?.device(ordinal(device)?)?.facts.total_memory;
        bytes.set(usize::try_from(total).unwrap_or(usize::MAX))
    }

    fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) {
        let known = edge()?.device(ordinal(device)?)?.facts.attribute(attribute);
        value.set(known.ok_or(CuError::INVALID_VALUE)?)
    }

    /// CUDA's name of a result, such as `CUDA_ERROR_INVALID_VALUE`.
    fn cuGetErrorName(code: c_uint, text: Out<*const c_char>) {
        text.set(error_text(code, |error| error.name().map(|name| format!("CUDA_ERROR_{name}"))))
    }

    /// What a result means.
    fn cuGetErrorString(code: c_uint, text: Out<*const c_char>) {
        text.set(error_text(code, |error| error.meaning().map(str::to_owned)))
    }
}

/// A text about a result, kept as long as the process lives; null for an unknown one.
fn error_text(code: u32, describe: impl FnOnce(CuError) -> Option<String>) -> *const c_char {
    static TEXTS: Mutex<Option<HashMap<String, &'static CString>>> = Mutex::new(None);
    let text = if code == 0 { Some("CUDA_SUCCESS".to_owned()) } else { describe(CuError(code)) };
    let Some(text) = text else { return std::ptr::null() };
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = texts.get_or_insert_default().entry(text.clone());
    // There are as many texts as results, so this leaks a few kilobytes at most.
    kept.or_insert_with(|| Box::leak(Box::new(CString::new(text).unwrap_or_default()))).as_ptr()
}
