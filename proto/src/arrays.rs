//! What the calls about arrays carry: CUDA's descriptions with the fields that a device needs, integers throughout.

use bincode::{Decode, Encode};
use cuda_types::{CUarray, CUdeviceptr, CUmipmappedArray, CuResult};

use crate::codec::{self, Malformed, Reader};
use crate::names::Names;
use crate::param::Param;

/// `CUDA_ARRAY3D_DESCRIPTOR`: extents in elements, 0 for an axis that the array does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ArrayDesc {
    pub width: u64,
    pub height: u64,
    /// Slices, or layers with [`LAYERED`](ArrayDesc::LAYERED); six faces for a cubemap.
    pub depth: u64,
    /// `CUarray_format`.
    pub format: u32,
    /// 1, 2 or 4.
    pub channels: u32,
    pub flags: u32,
}

impl ArrayDesc {
    /// `CUDA_ARRAY3D_LAYERED`
    pub const LAYERED: u32 = 1;
    /// `CUDA_ARRAY3D_SURFACE_LDST`
    pub const SURFACE: u32 = 2;
    /// `CUDA_ARRAY3D_CUBEMAP`
    pub const CUBEMAP: u32 = 4;
    /// `CUDA_ARRAY3D_TEXTURE_GATHER`
    pub const GATHER: u32 = 8;

    /// Bytes of a channel, for the formats that there are: integers of 8, 16 and 32 bits, half and float.
    pub fn channel_bytes(format: u32) -> Option<u64> {
        match format {
            0x01 | 0x08 => Some(1),
            0x02 | 0x09 | 0x10 => Some(2),
            0x03 | 0x0a | 0x20 => Some(4),
            _ => None,
        }
    }
}

/// One end of a box copy: `kind` says whether `address` or `array` is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Side3D {
    /// `CUmemorytype`: [`DEVICE`](Side3D::DEVICE) or [`ARRAY`](Side3D::ARRAY).
    pub kind: u32,
    pub address: CUdeviceptr,
    pub array: CUarray,
    /// Where the box begins: bytes, rows, slices.
    pub x: u64,
    pub y: u64,
    pub z: u64,
    /// Bytes from row to row and rows from slice to slice, of device memory.
    pub pitch: u64,
    pub height: u64,
}

impl Side3D {
    /// `CU_MEMORYTYPE_DEVICE`
    pub const DEVICE: u32 = 2;
    /// `CU_MEMORYTYPE_ARRAY`
    pub const ARRAY: u32 = 3;

    fn resolve(mut self, names: &Names) -> CuResult<Self> {
        if self.kind == Side3D::ARRAY {
            self.array = names.resolve(self.array)?;
        }
        Ok(self)
    }
}

/// A box of bytes, rows and slices copied within one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Copy3D {
    pub dst: Side3D,
    pub src: Side3D,
    /// Bytes, rows, slices.
    pub width: u64,
    pub height: u64,
    pub depth: u64,
}

/// `CUDA_RESOURCE_DESC`: what a texture or surface shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Resource {
    Array(CUarray),
    Mipmapped(CUmipmappedArray),
    /// Device memory as one row of texels.
    Linear {
        address: CUdeviceptr,
        format: u32,
        channels: u32,
        bytes: u64,
    },
    /// Device memory as rows of texels.
    Pitch2D {
        address: CUdeviceptr,
        format: u32,
        channels: u32,
        width: u64,
        height: u64,
        pitch: u64,
    },
}

/// `CUDA_TEXTURE_DESC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
pub struct TextureDesc {
    /// `CUaddress_mode` of each axis: wrap, clamp, mirror, border.
    pub address_modes: [u32; 3],
    /// `CUfilter_mode`: 0 point, 1 linear.
    pub filter: u32,
    pub flags: u32,
    pub max_anisotropy: u32,
    pub mipmap_filter: u32,
    pub mipmap_bias: f32,
    pub mipmap_min: f32,
    pub mipmap_max: f32,
    pub border: [f32; 4],
}

impl TextureDesc {
    /// `CU_TRSF_READ_AS_INTEGER`
    pub const READ_AS_INTEGER: u32 = 1;
    /// `CU_TRSF_NORMALIZED_COORDINATES`
    pub const NORMALIZED: u32 = 2;
    /// `CU_TRSF_SRGB`
    pub const SRGB: u32 = 0x10;
    /// `CU_TRSF_DISABLE_TRILINEAR_OPTIMIZATION`
    pub const EXACT_MIPMAPS: u32 = 0x20;
    /// `CU_TRSF_SEAMLESS_CUBEMAP`
    pub const SEAMLESS: u32 = 0x40;
}

macro_rules! carried {
    ($($type:ty, $arg:ident, $names:ident => $resolved:expr, $sample:expr;)*) => {$(
        impl Param for $type {
            type Arg<'a> = $type;
            fn write(arg: $type, out: &mut Vec<u8>) { codec::put(out, arg); }
            fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<$type, Malformed> { reader.take(name) }
            fn resolve<'a>($arg: Self::Arg<'a>, $names: &Names) -> CuResult<Self::Arg<'a>> { $resolved }
            fn sample() -> $type { $sample }
        }
    )*};
}

carried! {
    ArrayDesc, arg, _names => Ok(arg),
        ArrayDesc { width: 9, height: 5, depth: 0, format: 0x20, channels: 4, flags: ArrayDesc::SURFACE };
    TextureDesc, arg, _names => Ok(arg), TextureDesc { filter: 1, border: [0.5; 4], ..TextureDesc::default() };
    Copy3D, arg, names => Ok(Copy3D { dst: arg.dst.resolve(names)?, src: arg.src.resolve(names)?, ..arg }),
        Copy3D { width: 64, height: 3, depth: 2, ..Copy3D::default() };
    Resource, arg, names => Ok(match arg {
        Resource::Array(array) => Resource::Array(names.resolve(array)?),
        Resource::Mipmapped(array) => Resource::Mipmapped(names.resolve(array)?),
        memory => memory,
    }), Resource::Linear { address: CUdeviceptr(0x2000_0000_0100), format: 0x20, channels: 1, bytes: 400 };
}
