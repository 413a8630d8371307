//! One device: opening it, its facts, and the context of each thread.
//!
//! The primary context is made when it is first needed: reading the name of a device must not cost its memory. It is
//! never released, because the process that owns it lives exactly as long as the client's session.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cuda_types::attribute::DeviceAttribute;
use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult, HostSpan};
use proto::device::{Callback, NetworkMemory};
use proto::{ContextCalls, Device, DeviceFacts};

use crate::api::{Api, call};
use crate::gate::Gates;
use crate::library::{self, Unavailable};
use crate::printed::Printed;

/// An NVIDIA GPU, or whatever stands behind the installed `libcuda`.
#[derive(Debug)]
pub struct NvidiaGpu {
    pub(crate) api: Api,
    ordinal: c_int,
    device: c_int,
    context: OnceLock<CuResult<u64>>,
    /// The parameter sizes of every function that was handed out.
    pub(crate) parameters: Mutex<HashMap<u64, Arc<[u32]>>>,
    pub(crate) gates: Mutex<Gates>,
    /// Physical memory that the client made: its number -> the driver's handle.
    pub(crate) physical: Mutex<HashMap<u64, u64>>,
    pub(crate) captures_printed: bool,
    pub(crate) printed: Mutex<Option<Printed>>,
}

thread_local! {
    /// The context that this thread has made current. Only one device is open in a process of ours.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

impl NvidiaGpu {
    /// Opens device `ordinal` of the installed driver. A missing driver is `CUDA_ERROR_NO_DEVICE`, with the reason in the
    /// log: whether it is an error is for the caller to say.
    pub fn open(ordinal: u32) -> CuResult<Self> {
        let api = library::open().map_err(|reason: Unavailable| {
            tracing::info!("{reason}");
            CuError::NO_DEVICE
        })?;
        let ordinal = c_int::try_from(ordinal).map_err(|_| CuError::INVALID_DEVICE)?;
        let mut device = 0;
        // SAFETY: takes a number.
        unsafe { call!(api, cuInit(0)) }?;
        // SAFETY: `device` is writable.
        unsafe { call!(api, cuDeviceGet(&raw mut device, ordinal)) }?;
        Ok(Self {
            api,
            ordinal,
            device,
            context: OnceLock::new(),
            parameters: Mutex::default(),
            gates: Mutex::default(),
            physical: Mutex::default(),
            captures_printed: false,
            printed: Mutex::default(),
        })
    }

    /// Hands out what kernels print through `take_printed`, for a process whose standard output is nobody's: with the
    /// first module it becomes a file in memory.
    pub fn capturing_printed(mut self) -> Self {
        self.captures_printed = true;
        self
    }

    /// Makes the device's context current in this thread. Every call starts with this.
    pub(crate) fn enter(&self) -> CuResult<&Api> {
        let context = *self.context.get_or_init(|| {
            let mut context = 0;
            // SAFETY: `context` is writable.
            unsafe { call!(self.api, cuDevicePrimaryCtxRetain(&raw mut context, self.device)) }?;
            Ok(context)
        });
        let context = context?;
        if CURRENT.get() != context {
            // SAFETY: the context was retained above and is never released.
            unsafe { call!(self.api, cuCtxSetCurrent(context)) }?;
            CURRENT.set(context);
        }
        Ok(&self.api)
    }

    /// The device's number for allocations.
    pub(crate) fn location(&self) -> c_int {
        self.device
    }

    /// A device attribute; `None` where the driver does not know it.
    pub(crate) fn attribute(&self, number: i32) -> Option<i32> {
        let mut value = 0;
        // SAFETY: `value` is writable.
        unsafe { call!(self.api, cuDeviceGetAttribute(&raw mut value, number, self.device)) }.ok()?;
        Some(value)
    }

    fn name(&self) -> CuResult<String> {
        let mut name = [0; 256];
        let bytes = c_int::try_from(name.len()).unwrap_or(0);
        // SAFETY: `name` is writable for `bytes`, and the driver ends it with NUL.
        unsafe { call!(self.api, cuDeviceGetName(name.as_mut_ptr(), bytes, self.device)) }?;
        // SAFETY: a C string, see above.
        Ok(unsafe { crate::api::string(name.as_ptr()) }.unwrap_or_default())
    }
}

/// Locks; a thread that died while it held the lock left whole entries.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ContextCalls for NvidiaGpu {
    fn cuCtxSynchronize(&self) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: takes nothing.
        unsafe { call!(api, cuCtxSynchronize()) }
    }

    fn cuCtxGetLimit(&self, limit: u32) -> CuResult<u64> {
        let api = self.enter()?;
        let mut value = 0;
        // SAFETY: `value` is writable; an unknown limit is an error.
        unsafe { call!(api, cuCtxGetLimit(&raw mut value, limit)) }?;
        Ok(value as u64)
    }

    fn cuCtxSetLimit(&self, limit: u32, value: u64) -> CuResult<()> {
        let api = self.enter()?;
        let value = usize::try_from(value).map_err(|_| CuError::INVALID_VALUE)?;
        // SAFETY: takes numbers.
        unsafe { call!(api, cuCtxSetLimit(limit, value)) }
    }
}

impl Device for NvidiaGpu {
    fn network_memory(&self, address: u64, bytes: u64) -> CuResult<NetworkMemory> {
        self.exported(address, bytes)
    }

    fn facts(&self) -> CuResult<DeviceFacts> {
        let api = self.enter()?;
        let mut uuid = [0; 16];
        // SAFETY: `uuid` is writable.
        if unsafe { call!(api, cuDeviceGetUuid_v2(&raw mut uuid, self.device)) }.is_err() {
            uuid[0] = u8::try_from(self.ordinal).unwrap_or(u8::MAX);
        }
        let mut total = 0;
        // SAFETY: `total` is writable.
        unsafe { call!(api, cuDeviceTotalMem_v2(&raw mut total, self.device)) }?;
        let mut driver_version = 0;
        // SAFETY: `driver_version` is writable.
        unsafe { call!(api, cuDriverGetVersion(&raw mut driver_version)) }?;
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: both are writable.
        unsafe { call!(api, cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest)) }?;
        Ok(DeviceFacts {
            name: self.name()?,
            uuid,
            total_memory: total as u64,
            driver_version,
            attributes: (0..DeviceAttribute::COUNT).map(|number| self.attribute(number)).collect(),
            stream_priorities: (least, greatest),
        })
    }

    fn reserve_window(&self, base: u64, bytes: u64) -> CuResult<()> {
        self.reserve(base, bytes)
    }

    fn staging(&self, bytes: usize) -> CuResult<HostSpan> {
        self.pinned(bytes)
    }

    fn cuMemcpyHtoDAsync_v2(&self, dst: CUdeviceptr, src: HostSpan, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        let from = std::ptr::with_exposed_provenance(src.address());
        // SAFETY: the maker of the span promised that it is readable until the stream has passed.
        unsafe { call!(api, cuMemcpyHtoDAsync_v2(dst.0, from, src.len(), stream.0)) }
    }

    fn cuMemcpyDtoHAsync_v2(&self, dst: HostSpan, src: CUdeviceptr, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        let to = std::ptr::with_exposed_provenance_mut(dst.address());
        // SAFETY: the maker of the span promised that it is writable until the stream has passed.
        unsafe { call!(api, cuMemcpyDtoHAsync_v2(to, src.0, dst.len(), stream.0)) }
    }

    fn cuStreamAddCallback(&self, stream: CUstream, callback: Callback) -> CuResult<()> {
        self.add_callback(stream, callback)
    }

    fn gate_create(&self) -> CuResult<u64> {
        self.create_gate()
    }

    fn gate_wait(&self, gate: u64, stream: CUstream) -> CuResult<()> {
        self.wait_at_gate(gate, stream)
    }

    fn gate_open(&self, gate: u64) -> CuResult<()> {
        lock(&self.gates).open(gate)
    }

    fn gate_destroy(&self, gate: u64) {
        lock(&self.gates).destroy(gate);
    }

    fn take_printed(&self) -> Vec<u8> {
        lock(&self.printed).as_mut().map(Printed::take).unwrap_or_default()
    }

    fn helper_stream(&self) -> CuResult<CUstream> {
        let api = self.enter()?;
        let mut stream = 0;
        // SAFETY: `stream` is writable.
        unsafe { call!(api, cuStreamCreateWithPriority(&raw mut stream, STREAM_NON_BLOCKING, 0)) }?;
        Ok(CUstream(stream))
    }
}

/// `CU_STREAM_NON_BLOCKING`.
const STREAM_NON_BLOCKING: c_uint = 1;
