//! Arrays, textures and surfaces.

use std::ffi::c_uint;

use cuda_types::{CUarray, CUdeviceptr, CUmipmappedArray, CUstream, CuError, CuResult};
use proto::param::{ArrayDesc, Copy3D, Resource, Side3D, TextureDesc};

use crate::edge::current;
use crate::entries;
use crate::pointers::{In, Out};

/// `CUDA_ARRAY3D_DESCRIPTOR`
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Array3DDescriptor {
    width: usize,
    height: usize,
    depth: usize,
    format: c_uint,
    channels: c_uint,
    flags: c_uint,
}

/// `CUDA_MEMCPY3D`
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Memcpy3D {
    src: Side,
    dst: Side,
    width: usize,
    height: usize,
    depth: usize,
}

/// One side of a three-dimensional copy.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Side {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: c_uint,
    host: usize,
    device: u64,
    array: u64,
    reserved: usize,
    pitch: usize,
    height: usize,
}

/// `CUDA_RESOURCE_DESC` up to the end of what its union holds.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ResourceDescriptor {
    kind: c_uint,
    address: u64,
    format: c_uint,
    channels: c_uint,
    size: usize,
    height: usize,
    pitch: usize,
}

/// `CUDA_TEXTURE_DESC` without its reserved words.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TextureDescriptor {
    address_modes: [c_uint; 3],
    filter: c_uint,
    flags: c_uint,
    max_anisotropy: c_uint,
    mipmap_filter: c_uint,
    mipmap_bias: f32,
    mipmap_min: f32,
    mipmap_max: f32,
    border: [f32; 4],
}

impl Array3DDescriptor {
    fn desc(self) -> ArrayDesc {
        ArrayDesc {
            width: self.width as u64,
            height: self.height as u64,
            depth: self.depth as u64,
            format: self.format,
            channels: self.channels,
            flags: self.flags,
        }
    }
}

impl Side {
    fn end(self) -> CuResult<Side3D> {
        const UNIFIED: c_uint = 4;
        let kind = match self.kind {
            UNIFIED | Side3D::DEVICE => Side3D::DEVICE,
            Side3D::ARRAY => Side3D::ARRAY,
            // Host memory.
            _ => return Err(CuError::NOT_SUPPORTED),
        };
        Ok(Side3D {
            kind,
            address: CUdeviceptr(self.device),
            array: CUarray(self.array),
            x: self.x as u64,
            y: self.y as u64,
            z: self.z as u64,
            pitch: self.pitch as u64,
            height: self.height as u64,
        })
    }
}

impl Memcpy3D {
    fn copy(self) -> CuResult<Copy3D> {
        Ok(Copy3D {
            dst: self.dst.end()?,
            src: self.src.end()?,
            width: self.width as u64,
            height: self.height as u64,
            depth: self.depth as u64,
        })
    }
}

impl ResourceDescriptor {
    fn resource(self) -> CuResult<Resource> {
        let (address, format, channels) = (CUdeviceptr(self.address), self.format, self.channels);
        Ok(match self.kind {
            0 => Resource::Array(CUarray(self.address)),
            1 => Resource::Mipmapped(CUmipmappedArray(self.address)),
            2 => Resource::Linear { address, format, channels, bytes: self.size as u64 },
            3 => {
                let (width, height, pitch) = (self.size as u64, self.height as u64, self.pitch as u64);
                Resource::Pitch2D { address, format, channels, width, height, pitch }
            }
            _ => return Err(CuError::INVALID_VALUE),
        })
    }
}

entries! {
    fn cuArray3DCreate_v2(array: Out<u64>, descriptor: In<Array3DDescriptor>) {
        array.set(current()?.device.cuArray3DCreate_v2(descriptor.get()?.desc())?.0)
    }

    fn cuArrayDestroy(array: CUarray) {
        current()?.device.cuArrayDestroy(array)
    }

    fn cuMipmappedArrayCreate(array: Out<u64>, descriptor: In<Array3DDescriptor>, levels: c_uint) {
        array.set(current()?.device.cuMipmappedArrayCreate(descriptor.get()?.desc(), levels)?.0)
    }

    fn cuMipmappedArrayDestroy(array: CUmipmappedArray) {
        current()?.device.cuMipmappedArrayDestroy(array)
    }

    fn cuMipmappedArrayGetLevel(level_array: Out<u64>, array: CUmipmappedArray, level: c_uint) {
        level_array.set(current()?.device.cuMipmappedArrayGetLevel(array, level)?.0)
    }

    fn cuMemcpy3DAsync_v2(copy: In<Memcpy3D>, stream: CUstream) {
        current()?.device.cuMemcpy3DAsync_v2(copy.get()?.copy()?, stream)
    }

    fn cuTexObjectCreate(
        object: Out<u64>, resource: In<ResourceDescriptor>, texture: In<TextureDescriptor>, view: In<u32>,
    ) {
        if !view.is_null() {
            return Err(CuError::NOT_SUPPORTED);
        }
        let texture = texture.get()?;
        let desc = TextureDesc {
            address_modes: texture.address_modes,
            filter: texture.filter,
            flags: texture.flags,
            max_anisotropy: texture.max_anisotropy,
            mipmap_filter: texture.mipmap_filter,
            mipmap_bias: texture.mipmap_bias,
            mipmap_min: texture.mipmap_min,
            mipmap_max: texture.mipmap_max,
            border: texture.border,
        };
        object.set(current()?.device.cuTexObjectCreate(resource.get()?.resource()?, desc)?)
    }

    fn cuTexObjectDestroy(object: u64) {
        current()?.device.cuTexObjectDestroy(object)
    }

    fn cuSurfObjectCreate(object: Out<u64>, resource: In<ResourceDescriptor>) {
        object.set(current()?.device.cuSurfObjectCreate(resource.get()?.resource()?)?)
    }

    fn cuSurfObjectDestroy(object: u64) {
        current()?.device.cuSurfObjectDestroy(object)
    }
}
