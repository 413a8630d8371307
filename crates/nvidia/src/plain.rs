//! The driver as a program uses it that knows nothing of us: for measuring it, be it NVIDIA's or our client's library.
//!
//! Everything runs on the default stream of a device's primary context, in one thread. Bytes are lent for the time of a call, so
//! an asynchronous copy is waited for before the call returns.

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::null_mut;

use cuda_types::{CuError, CuResult};

use crate::api::{self, Api, call};
use crate::library::{self, Unavailable};

/// A driver that was found and opened.
#[derive(Debug)]
pub struct Driver {
    api: Api,
    is_client: bool,
}

impl Driver {
    /// Opens what the loader finds.
    pub fn open() -> Result<Driver, Unavailable> {
        let (api, is_client) = library::open_any()?;
        Ok(Driver { api, is_client })
    }

    /// Whether it is our client's library, behind which a server is.
    pub fn is_client(&self) -> bool {
        self.is_client
    }

    /// `cuInit` and `cuDeviceGetCount`.
    pub fn devices(&self) -> CuResult<u32> {
        let mut count = 0;
        // SAFETY: takes a number.
        unsafe { call!(self.api, cuInit(0)) }?;
        // SAFETY: `count` is writable.
        unsafe { call!(self.api, cuDeviceGetCount(&raw mut count)) }?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// As `cuDriverGetVersion` answers it: 12090 is 12.9.
    pub fn version(&self) -> CuResult<i32> {
        let mut version = 0;
        // SAFETY: `version` is writable.
        unsafe { call!(self.api, cuDriverGetVersion(&raw mut version)) }?;
        Ok(version)
    }

    /// A device with its primary context, which is current in this thread from now on.
    pub fn device(&self, ordinal: u32) -> CuResult<Device<'_>> {
        let ordinal = c_int::try_from(ordinal).map_err(|_| CuError::INVALID_DEVICE)?;
        let (mut device, mut context) = (0, 0);
        // SAFETY: `device` is writable.
        unsafe { call!(self.api, cuDeviceGet(&raw mut device, ordinal)) }?;
        // SAFETY: `context` is writable.
        unsafe { call!(self.api, cuDevicePrimaryCtxRetain(&raw mut context, device)) }?;
        // SAFETY: the context was retained above and is never released.
        unsafe { call!(self.api, cuCtxSetCurrent(context)) }?;
        Ok(Device { api: &self.api, device, of_this_thread: PhantomData })
    }
}

/// A device of a driver.
#[derive(Debug)]
pub struct Device<'a> {
    api: &'a Api,
    device: c_int,
    /// Its context is current in one thread.
    of_this_thread: PhantomData<*const ()>,
}

/// Memory of a device. Freed when dropped.
#[derive(Debug)]
pub struct Memory<'a> {
    api: &'a Api,
    address: u64,
    bytes: usize,
}

/// Page-locked memory of the host. Freed when dropped.
#[derive(Debug)]
pub struct PageLocked<'a> {
    api: &'a Api,
    first: *mut u8,
    bytes: usize,
}

/// A kernel that adds a number to a sum in a device's memory: the least that shows that a launch has arrived as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Adder(u64);

impl<'a> Device<'a> {
    /// Its name.
    pub fn name(&self) -> CuResult<String> {
        let mut name = [0; 256];
        let bytes = c_int::try_from(name.len()).unwrap_or(0);
        // SAFETY: `name` is writable for `bytes`, and the driver ends it with NUL.
        unsafe { call!(self.api, cuDeviceGetName(name.as_mut_ptr(), bytes, self.device)) }?;
        // SAFETY: a C string, see above.
        Ok(unsafe { api::string(name.as_ptr()) }.unwrap_or_default())
    }

    /// `cuCtxSynchronize`.
    pub fn synchronize(&self) -> CuResult<()> {
        // SAFETY: takes nothing.
        unsafe { call!(self.api, cuCtxSynchronize()) }
    }

    /// `cuMemAlloc`.
    pub fn allocate(&self, bytes: usize) -> CuResult<Memory<'a>> {
        let mut address = 0;
        // SAFETY: `address` is writable.
        unsafe { call!(self.api, cuMemAlloc_v2(&raw mut address, bytes)) }?;
        Ok(Memory { api: self.api, address, bytes })
    }

    /// `cuMemHostAlloc`; the bytes are zero.
    pub fn page_locked(&self, bytes: usize) -> CuResult<PageLocked<'a>> {
        let mut first = null_mut();
        // SAFETY: `first` is writable.
        unsafe { call!(self.api, cuMemHostAlloc(&raw mut first, bytes, 0)) }?;
        let first = first.cast::<u8>();
        // SAFETY: the driver answered memory of this length.
        unsafe { first.write_bytes(0, bytes) };
        Ok(PageLocked { api: self.api, first, bytes })
    }

    /// `cuMemcpyHtoD`: to the first bytes of `memory`. A program that lends pageable bytes copies like this.
    pub fn copy_to_device(&self, memory: &Memory<'_>, from: &[u8]) -> CuResult<()> {
        memory.holds(from.len())?;
        // SAFETY: `from` is readable for its length; what the call still needs of it is captured before it returns.
        unsafe { call!(self.api, cuMemcpyHtoD_v2(memory.address, from.as_ptr().cast(), from.len())) }
    }

    /// `cuMemcpyDtoH`: from the first bytes of `memory`.
    pub fn copy_to_host(&self, to: &mut [u8], memory: &Memory<'_>) -> CuResult<()> {
        memory.holds(to.len())?;
        // SAFETY: `to` is writable for its length, and the call waits for the bytes.
        unsafe { call!(self.api, cuMemcpyDtoH_v2(to.as_mut_ptr().cast(), memory.address, to.len())) }
    }

    /// `cuMemcpyHtoDAsync` and `cuStreamSynchronize`.
    pub fn copy_to_device_by_stream(&self, memory: &Memory<'_>, from: &[u8]) -> CuResult<()> {
        memory.holds(from.len())?;
        let first = from.as_ptr().cast();
        // SAFETY: `from` is readable for its length until the stream has been waited for below.
        let posted = unsafe { call!(self.api, cuMemcpyHtoDAsync_v2(memory.address, first, from.len(), 0)) };
        // SAFETY: the default stream.
        let done = unsafe { call!(self.api, cuStreamSynchronize(0)) };
        posted.and(done)
    }

    /// `cuMemcpyDtoHAsync` and `cuStreamSynchronize`.
    pub fn copy_to_host_by_stream(&self, to: &mut [u8], memory: &Memory<'_>) -> CuResult<()> {
        memory.holds(to.len())?;
        let first = to.as_mut_ptr().cast();
        // SAFETY: `to` is writable for its length until the stream has been waited for below.
        let posted = unsafe { call!(self.api, cuMemcpyDtoHAsync_v2(first, memory.address, to.len(), 0)) };
        // SAFETY: the default stream.
        let done = unsafe { call!(self.api, cuStreamSynchronize(0)) };
        posted.and(done)
    }

    /// Loads the kernel that [`launch`](Device::launch) takes. It stays loaded.
    ///
    /// Why not any kernel: one with other parameters would have the driver read beyond the values of a launch.
    pub fn adder(&self) -> CuResult<Adder> {
        let (mut module, mut function) = (0, 0);
        let image = ADDER.as_ptr().cast::<c_void>();
        // SAFETY: `module` is writable and the image ends with NUL; there are no options.
        unsafe { call!(self.api, cuModuleLoadDataEx(&raw mut module, image, 0, null_mut(), null_mut())) }?;
        // SAFETY: `function` is writable, the module is loaded, and the name ends with NUL.
        unsafe { call!(self.api, cuModuleGetFunction(&raw mut function, module, c"add".as_ptr())) }?;
        Ok(Adder(function))
    }

    /// Launches one thread that adds `number` to the first eight bytes of `memory`.
    pub fn launch(&self, adder: Adder, memory: &Memory<'_>, number: u64) -> CuResult<()> {
        memory.holds(size_of::<u64>())?;
        let (mut address, mut number) = (memory.address, number);
        let mut values = [(&raw mut address).cast::<c_void>(), (&raw mut number).cast::<c_void>()];
        let values = values.as_mut_ptr();
        // SAFETY: a loaded kernel, and a readable value for each of its two parameters, copied before the call returns.
        unsafe { call!(self.api, cuLaunchKernel(adder.0, 1, 1, 1, 1, 1, 1, 0, 0, values, null_mut())) }
    }
}

impl Memory<'_> {
    fn holds(&self, bytes: usize) -> CuResult<()> {
        if bytes <= self.bytes { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated by `allocate` and freed once; the driver waits for work that uses it. Nobody hears an error.
        let _ = unsafe { call!(self.api, cuMemFree_v2(self.address)) };
    }
}

impl Deref for PageLocked<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: made with this length by `page_locked`, and written there.
        unsafe { std::slice::from_raw_parts(self.first, self.bytes) }
    }
}

impl DerefMut for PageLocked<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: made with this length by `page_locked`, written there, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.bytes) }
    }
}

impl Drop for PageLocked<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated by `page_locked` and freed once; no copy outlives its call. Nobody hears an error.
        let _ = unsafe { call!(self.api, cuMemFreeHost(self.first.cast())) };
    }
}

/// The oldest target that drivers still compile for every device.
const ADDER: &CStr = c"
.version 6.0
.target sm_50
.address_size 64
.visible .entry add(.param .u64 sum, .param .u64 number)
{
    .reg .u64 %rd<4>;
    ld.param.u64 %rd1, [sum];
    ld.param.u64 %rd2, [number];
    cvta.to.global.u64 %rd1, %rd1;
    atom.global.add.u64 %rd3, [%rd1], %rd2;
    ret;
}
";
