//! Arrays, textures and surfaces.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{null, null_mut};

use cuda_types::{CUarray, CUmipmappedArray, CUstream, CuError, CuResult};
use proto::ArrayCalls;
use proto::param::{ArrayDesc, Copy3D, Resource, Side3D, TextureDesc};

use crate::api::call;
use crate::device::NvidiaGpu;

/// `CUDA_ARRAY3D_DESCRIPTOR`, with integers for the format.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Array3DDescriptor {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    pub format: c_uint,
    pub channels: c_uint,
    pub flags: c_uint,
}

/// One side of `CUDA_MEMCPY3D`, with integers for the memory type.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Memcpy3DSide {
    pub x: usize,
    pub y: usize,
    pub z: usize,
    pub level: usize,
    pub kind: c_uint,
    pub host: *const c_void,
    pub device: u64,
    pub array: u64,
    pub reserved: *mut c_void,
    pub pitch: usize,
    pub height: usize,
}

/// `CUDA_MEMCPY3D`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Memcpy3D {
    pub src: Memcpy3DSide,
    pub dst: Memcpy3DSide,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// `CUDA_RESOURCE_DESC`. What the fields of the union hold depends on the kind: an array's handle stands where memory
/// has its address; linear memory has its length in bytes where rows have their width.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ResourceDescriptor {
    pub kind: c_uint,
    pub address: u64,
    pub format: c_uint,
    pub channels: c_uint,
    pub size: usize,
    pub height: usize,
    pub pitch: usize,
    /// The union has room for 32 integers.
    pub rest: [c_int; 22],
    pub flags: c_uint,
}

/// `CUDA_TEXTURE_DESC`, with integers for modes and filters.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TextureDescriptor {
    pub address_modes: [c_uint; 3],
    pub filter: c_uint,
    pub flags: c_uint,
    pub max_anisotropy: c_uint,
    pub mipmap_filter: c_uint,
    pub mipmap_bias: f32,
    pub mipmap_min: f32,
    pub mipmap_max: f32,
    pub border: [f32; 4],
    pub reserved: [c_int; 12],
}

fn size(extent: u64) -> CuResult<usize> {
    usize::try_from(extent).map_err(|_| CuError::INVALID_VALUE)
}

fn descriptor(array: &ArrayDesc) -> CuResult<Array3DDescriptor> {
    Ok(Array3DDescriptor {
        width: size(array.width)?,
        height: size(array.height)?,
        depth: size(array.depth)?,
        format: array.format,
        channels: array.channels,
        flags: array.flags,
    })
}

fn side(side: &Side3D) -> CuResult<Memcpy3DSide> {
    // Host memory never goes this way: only what is named here is passed on.
    if !matches!(side.kind, Side3D::DEVICE | Side3D::ARRAY) {
        return Err(CuError::INVALID_VALUE);
    }
    Ok(Memcpy3DSide {
        x: size(side.x)?,
        y: size(side.y)?,
        z: size(side.z)?,
        level: 0,
        kind: side.kind,
        host: null(),
        device: side.address.0,
        array: side.array.0,
        reserved: null_mut(),
        pitch: size(side.pitch)?,
        height: size(side.height)?,
    })
}

fn resource(resource: Resource) -> CuResult<ResourceDescriptor> {
    let nothing = ResourceDescriptor {
        kind: 0,
        address: 0,
        format: 0,
        channels: 0,
        size: 0,
        height: 0,
        pitch: 0,
        rest: [0; 22],
        flags: 0,
    };
    // `CUresourcetype`: array, mipmapped array, linear, pitch2D.
    Ok(match resource {
        Resource::Array(array) => ResourceDescriptor { kind: 0, address: array.0, ..nothing },
        Resource::Mipmapped(array) => ResourceDescriptor { kind: 1, address: array.0, ..nothing },
        Resource::Linear { address, format, channels, bytes } => ResourceDescriptor {
            kind: 2,
            address: address.0,
            format,
            channels,
            size: size(bytes)?,
            ..nothing
        },
        Resource::Pitch2D { address, format, channels, width, height, pitch } => ResourceDescriptor {
            kind: 3,
            address: address.0,
            format,
            channels,
            size: size(width)?,
            height: size(height)?,
            pitch: size(pitch)?,
            ..nothing
        },
    })
}

impl ArrayCalls for NvidiaGpu {
    fn cuArray3DCreate_v2(&self, array: ArrayDesc) -> CuResult<CUarray> {
        let api = self.enter()?;
        let (mut made, array) = (0, descriptor(&array)?);
        // SAFETY: `made` is writable and `array` is readable.
        unsafe { call!(api, cuArray3DCreate_v2(&raw mut made, &raw const array)) }?;
        Ok(CUarray(made))
    }

    fn cuArrayDestroy(&self, array: CUarray) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the session hands out each array once for its end.
        unsafe { call!(api, cuArrayDestroy(array.0)) }
    }

    fn cuMipmappedArrayCreate(&self, array: ArrayDesc, levels: u32) -> CuResult<CUmipmappedArray> {
        let api = self.enter()?;
        let (mut made, array) = (0, descriptor(&array)?);
        // SAFETY: `made` is writable and `array` is readable.
        unsafe { call!(api, cuMipmappedArrayCreate(&raw mut made, &raw const array, levels)) }?;
        Ok(CUmipmappedArray(made))
    }

    fn cuMipmappedArrayDestroy(&self, array: CUmipmappedArray) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the session hands out each array once for its end.
        unsafe { call!(api, cuMipmappedArrayDestroy(array.0)) }
    }

    fn cuMipmappedArrayGetLevel(&self, array: CUmipmappedArray, level: u32) -> CuResult<CUarray> {
        let api = self.enter()?;
        let mut found = 0;
        // SAFETY: `found` is writable, and the array was made by this device.
        unsafe { call!(api, cuMipmappedArrayGetLevel(&raw mut found, array.0, level)) }?;
        Ok(CUarray(found))
    }

    fn cuMemcpy3DAsync_v2(&self, copy: Copy3D, stream: CUstream) -> CuResult<()> {
        let api = self.enter()?;
        let copy = Memcpy3D {
            src: side(&copy.src)?,
            dst: side(&copy.dst)?,
            width: size(copy.width)?,
            height: size(copy.height)?,
            depth: size(copy.depth)?,
        };
        // SAFETY: `copy` is readable and read before the call returns; it names arrays of this device and device memory.
        unsafe { call!(api, cuMemcpy3DAsync_v2(&raw const copy, stream.0)) }
    }

    fn cuTexObjectCreate(&self, shown: Resource, texture: TextureDesc) -> CuResult<u64> {
        let api = self.enter()?;
        let shown = resource(shown)?;
        let texture = TextureDescriptor {
            address_modes: texture.address_modes,
            filter: texture.filter,
            flags: texture.flags,
            max_anisotropy: texture.max_anisotropy,
            mipmap_filter: texture.mipmap_filter,
            mipmap_bias: texture.mipmap_bias,
            mipmap_min: texture.mipmap_min,
            mipmap_max: texture.mipmap_max,
            border: texture.border,
            reserved: [0; 12],
        };
        let mut object = 0;
        // SAFETY: `object` is writable, both descriptions are readable, and no view is given.
        unsafe {
            call!(api, cuTexObjectCreate(&raw mut object, &raw const shown, &raw const texture, null()))
        }?;
        Ok(object)
    }

    fn cuTexObjectDestroy(&self, object: u64) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: a handle that is none is the driver's to refuse, as for any program.
        unsafe { call!(api, cuTexObjectDestroy(object)) }
    }

    fn cuSurfObjectCreate(&self, shown: Resource) -> CuResult<u64> {
        let api = self.enter()?;
        let (mut object, shown) = (0, resource(shown)?);
        // SAFETY: `object` is writable and `shown` is readable.
        unsafe { call!(api, cuSurfObjectCreate(&raw mut object, &raw const shown)) }?;
        Ok(object)
    }

    fn cuSurfObjectDestroy(&self, object: u64) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: as in `cuTexObjectDestroy`.
        unsafe { call!(api, cuSurfObjectDestroy(object)) }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use cudarc::driver::sys;

    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_headers() {
        assert_eq!(size_of::<Array3DDescriptor>(), size_of::<sys::CUDA_ARRAY3D_DESCRIPTOR_st>());
        assert_eq!(size_of::<Memcpy3D>(), size_of::<sys::CUDA_MEMCPY3D_st>());
        assert_eq!(offset_of!(Memcpy3D, dst), offset_of!(sys::CUDA_MEMCPY3D_st, dstXInBytes));
        assert_eq!(
            offset_of!(Memcpy3D, src) + offset_of!(Memcpy3DSide, array),
            offset_of!(sys::CUDA_MEMCPY3D_st, srcArray)
        );
        assert_eq!(size_of::<ResourceDescriptor>(), size_of::<sys::CUDA_RESOURCE_DESC_st>());
        assert_eq!(offset_of!(ResourceDescriptor, flags), offset_of!(sys::CUDA_RESOURCE_DESC_st, flags));
        assert_eq!(size_of::<TextureDescriptor>(), size_of::<sys::CUDA_TEXTURE_DESC_st>());
        assert_eq!(offset_of!(TextureDescriptor, border), offset_of!(sys::CUDA_TEXTURE_DESC_st, borderColor));
    }
}
