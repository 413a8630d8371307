//! The driver's functions, by name, with integers for every enumeration.
//!
//! What is not there when the library is opened is `None`, and using it answers `CUDA_ERROR_NOT_SUPPORTED`: drivers of
//! different age differ by a few functions, and one of them must not cost the whole device.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cuda_types::{CuError, CuResult};
use cudarc::driver::sys;

use crate::array::{Array3DDescriptor, Memcpy3D, ResourceDescriptor, TextureDescriptor};

/// `CUstreamCallback`.
pub type StreamCallback = unsafe extern "C" fn(stream: u64, status: u32, data: *mut c_void);

/// `CUDA_MEMCPY2D`, with integers for the memory types.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Memcpy2D {
    pub src_x: usize,
    pub src_y: usize,
    pub src_kind: c_uint,
    pub src_host: *const c_void,
    pub src_device: u64,
    pub src_array: *mut c_void,
    pub src_pitch: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_kind: c_uint,
    pub dst_host: *mut c_void,
    pub dst_device: u64,
    pub dst_array: *mut c_void,
    pub dst_pitch: usize,
    pub width: usize,
    pub height: usize,
}

/// `CUmemAllocationProp`: pinned memory of one device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AllocationProp {
    pub kind: c_int,
    pub handle_types: c_int,
    pub location_kind: c_int,
    pub location_id: c_int,
    pub win32: *mut c_void,
    pub compression: u8,
    pub gpu_direct_rdma: u8,
    pub usage: u16,
    pub reserved: [u8; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AccessDesc {
    pub location_kind: c_int,
    pub location_id: c_int,
    pub flags: c_int,
}

macro_rules! api {
    ($($name:ident($($arg:ty),* $(,)?);)*) => {
        /// The functions that this crate calls.
        #[derive(Debug)]
        pub struct Api {
            $(pub $name: Option<unsafe extern "C" fn($($arg),*) -> u32>,)*
        }

        impl Api {
            /// The names of all functions, for whoever offers a driver to this crate.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Looks all functions up in the library that cudarc has opened.
            ///
            /// # Safety
            /// The library is a CUDA driver: a function of CUDA's name has CUDA's signature.
            pub(crate) unsafe fn load() -> Self {
                // SAFETY: the caller has made sure that a library is there, so this does not panic.
                let library = unsafe { sys::culib() };
                Self {
                    $(
                        // SAFETY: by the caller's promise the symbol has this signature; the library is never closed.
                        $name: unsafe {
                            library
                                .get::<unsafe extern "C" fn($($arg),*) -> u32>(concat!(stringify!($name), "\0").as_bytes())
                                .ok()
                                .map(|symbol| *symbol)
                        },
                    )*
                }
            }
        }
    };
}

api! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceGetUuid_v2(*mut [u8; 16], c_int);
    cuDeviceTotalMem_v2(*mut usize, c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDevicePrimaryCtxRetain(*mut u64, c_int);
    cuCtxSetCurrent(u64);
    cuCtxGetStreamPriorityRange(*mut c_int, *mut c_int);
    cuCtxSynchronize();
    cuCtxGetLimit(*mut usize, c_uint);
    cuCtxSetLimit(c_uint, usize);
    cuMemAddressReserve(*mut u64, usize, usize, u64, u64);
    cuMemAddressFree(u64, usize);
    cuMemCreate(*mut u64, usize, *const AllocationProp, u64);
    cuMemRelease(u64);
    cuMemMap(u64, usize, usize, u64, u64);
    cuMemUnmap(u64, usize);
    cuMemSetAccess(u64, usize, *const AccessDesc, usize);
    cuMemGetHandleForAddressRange(*mut c_void, u64, usize, c_int, u64);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemHostGetDevicePointer_v2(*mut u64, *mut c_void, c_uint);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut u64, usize);
    cuMemFree_v2(u64);
    cuMemcpyHtoD_v2(u64, *const c_void, usize);
    cuMemcpyDtoH_v2(*mut c_void, u64, usize);
    cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, u64);
    cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, u64);
    cuMemcpyDtoDAsync_v2(u64, u64, usize, u64);
    cuMemcpy2DAsync_v2(*const Memcpy2D, u64);
    cuMemsetD8Async(u64, u8, usize, u64);
    cuMemsetD16Async(u64, u16, usize, u64);
    cuMemsetD32Async(u64, c_uint, usize, u64);
    cuMemsetD2D8Async(u64, usize, u8, usize, usize, u64);
    cuArray3DCreate_v2(*mut u64, *const Array3DDescriptor);
    cuArrayDestroy(u64);
    cuMipmappedArrayCreate(*mut u64, *const Array3DDescriptor, c_uint);
    cuMipmappedArrayDestroy(u64);
    cuMipmappedArrayGetLevel(*mut u64, u64, c_uint);
    cuMemcpy3DAsync_v2(*const Memcpy3D, u64);
    cuTexObjectCreate(*mut u64, *const ResourceDescriptor, *const TextureDescriptor, *const c_void);
    cuTexObjectDestroy(u64);
    cuSurfObjectCreate(*mut u64, *const ResourceDescriptor);
    cuSurfObjectDestroy(u64);
    cuModuleLoadDataEx(*mut u64, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
    cuModuleUnload(u64);
    cuModuleGetFunction(*mut u64, u64, *const c_char);
    cuModuleGetGlobal_v2(*mut u64, *mut usize, u64, *const c_char);
    cuModuleGetFunctionCount(*mut c_uint, u64);
    cuModuleEnumerateFunctions(*mut u64, c_uint, u64);
    cuLinkCreate_v2(c_uint, *mut c_int, *mut *mut c_void, *mut u64);
    cuLinkAddData_v2(u64, c_uint, *mut c_void, usize, *const c_char, c_uint, *mut c_int, *mut *mut c_void);
    cuLinkComplete(u64, *mut *mut c_void, *mut usize);
    cuLinkDestroy(u64);
    cuFuncLoad(u64);
    cuFuncGetName(*mut *const c_char, u64);
    cuFuncGetParamInfo(u64, usize, *mut usize, *mut usize);
    cuFuncGetAttribute(*mut c_int, c_int, u64);
    cuFuncSetAttribute(u64, c_int, c_int);
    cuFuncSetCacheConfig(u64, c_uint);
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(*mut c_int, u64, c_int, usize, c_uint);
    cuStreamCreateWithPriority(*mut u64, c_uint, c_int);
    cuStreamDestroy_v2(u64);
    cuStreamSynchronize(u64);
    cuStreamQuery(u64);
    cuStreamWaitEvent(u64, u64, c_uint);
    cuStreamWaitValue32_v2(u64, u64, c_uint, c_uint);
    cuStreamWaitValue64_v2(u64, u64, u64, c_uint);
    cuStreamWriteValue32_v2(u64, u64, c_uint, c_uint);
    cuStreamWriteValue64_v2(u64, u64, u64, c_uint);
    cuStreamAddCallback(u64, StreamCallback, *mut c_void, c_uint);
    cuEventCreate(*mut u64, c_uint);
    cuEventDestroy_v2(u64);
    cuEventRecord(u64, u64);
    cuEventSynchronize(u64);
    cuEventQuery(u64);
    cuEventElapsedTime(*mut f32, u64, u64);
    cuLaunchKernel(
        u64, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, u64, *mut *mut c_void, *mut *mut c_void,
    );
    cuLaunchCooperativeKernel(
        u64, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, u64, *mut *mut c_void,
    );
}

/// A driver's answer as a result.
pub(crate) fn check(code: u32) -> CuResult<()> {
    if code == 0 { Ok(()) } else { Err(CuError(code)) }
}

/// Calls a function of the driver: `call!(self.api.cuMemFree_v2(pointer))`. One that the driver lacks answers
/// `CUDA_ERROR_NOT_SUPPORTED`.
///
/// The expansion is the unsafe operation itself, so it stands in an `unsafe` block with its reason.
macro_rules! call {
    ($api:expr, $name:ident($($argument:expr),* $(,)?)) => {
        match $api.$name {
            Some(function) => $crate::api::check(function($($argument),*)),
            None => Err($crate::api::lacking(stringify!($name))),
        }
    };
}
pub(crate) use call;

/// Says once for each call that the driver lacks it.
pub(crate) fn lacking(name: &'static str) -> CuError {
    tracing::warn!("this driver has no {name}");
    CuError::NOT_SUPPORTED
}

/// The string at `text`, or nothing for a null pointer.
///
/// # Safety
/// `text` is null or a C string.
pub(crate) unsafe fn string(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and by the caller's promise a C string.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The layouts of cuda.h on a 64-bit machine.
    #[test]
    fn structures_have_the_sizes_of_the_headers() {
        assert_eq!(size_of::<Memcpy2D>(), size_of::<sys::CUDA_MEMCPY2D_st>());
        assert_eq!(
            std::mem::offset_of!(Memcpy2D, dst_device),
            std::mem::offset_of!(sys::CUDA_MEMCPY2D_st, dstDevice)
        );
        assert_eq!(size_of::<AllocationProp>(), size_of::<sys::CUmemAllocationProp_st>());
        assert_eq!(size_of::<AccessDesc>(), size_of::<sys::CUmemAccessDesc_st>());
    }

    #[test]
    fn results_keep_their_numbers() {
        assert_eq!(check(0), Ok(()));
        assert_eq!(check(0x7fff_0001), Err(CuError(0x7fff_0001)));
    }
}
