//! Texture and surface objects.

use std::ffi::c_void;

use cuda_types::{CuError, CuResult};
use proto::param::TextureDesc;

use super::array::channel_format;
use super::{as_the_runtime, context, entries, of_runtime};
use crate::edge::{Out, Required};
use crate::runtime::array::Array;
use crate::runtime::array::{MIPMAPPED, driver_format};
use crate::runtime::texture::{self as runtime, ResourceDesc, RuntimeTexture};
use crate::runtime::version::ChannelFormat;

entries! {
    /// The view of a texture: none is made with one.
    fn cuTexObjectGetResourceViewDesc(view: *mut c_void, object: u64) {
        context::current()?;
        of_runtime(|| runtime::cudaGetTextureObjectResourceViewDesc(view, object))
    }

    /// Makes a texture object of an array, a mipmapped array or device memory.
    fn cuTexObjectCreate(object: Out<'_, u64>, resource: Option<&Resource>, texture: Option<&Texture>, view: Option<&[u64; 14]>) {
        context::current()?;
        if view.is_some() {
            crate::log::warn(format_args!("cuTexObjectCreate: resource views are not supported"));
            return Err(CuError::NOT_SUPPORTED);
        }
        let (resource, texture) = (resource.required()?, texture.required()?);
        let lowered = resource.lowered()?;
        let texture = texture.lowered(resource.format()?);
        of_runtime(|| runtime::cudaCreateTextureObject(object, Some(&lowered), Some(&texture), None))
    }

    /// What a texture shows.
    fn cuTexObjectGetResourceDesc(resource: Out<'_, Resource>, object: u64) {
        let resource = resource.required()?;
        context::current()?;
        resource.write(Resource::of(&runtime::resource_of(object, true)?)?);
        Ok(())
    }

    /// How a texture is read.
    fn cuTexObjectGetTextureDesc(texture: Out<'_, Texture>, object: u64) {
        let texture = texture.required()?;
        context::current()?;
        let format = Resource::of(&runtime::resource_of(object, true)?)?.format()?;
        texture.write(Texture::of(&runtime::texture_of(object)?, format));
        Ok(())
    }

    /// Makes a surface object of an array.
    fn cuSurfObjectCreate(object: Out<'_, u64>, resource: Option<&Resource>) {
        context::current()?;
        let lowered = resource.required()?.lowered()?;
        of_runtime(|| runtime::cudaCreateSurfaceObject(object, Some(&lowered)))
    }

    /// What a surface shows.
    fn cuSurfObjectGetResourceDesc(resource: Out<'_, Resource>, object: u64) {
        let resource = resource.required()?;
        context::current()?;
        resource.write(Resource::of(&runtime::resource_of(object, false)?)?);
        Ok(())
    }
}

as_the_runtime! {
    /// Ends a texture object.
    fn cuTexObjectDestroy(object: u64) = runtime::cudaDestroyTextureObject;
    /// Ends a surface object.
    fn cuSurfObjectDestroy(object: u64) = runtime::cudaDestroySurfaceObject;
}

/// `CUDA_RESOURCE_DESC`. What a field holds depends on the kind.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resource {
    /// `CUresourcetype`.
    kind: u32,
    /// An array's handle, or the device pointer.
    address: u64,
    format: u32,
    channels: u32,
    /// Bytes of linear memory, or texels of a row.
    size: usize,
    height: usize,
    pitch: usize,
    reserved: [u64; 11],
    flags: u32,
}

/// `CUDA_TEXTURE_DESC`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texture {
    address_modes: [u32; 3],
    filter: u32,
    /// `CU_TRSF_*`.
    flags: u32,
    max_anisotropy: u32,
    mipmap_filter: u32,
    mipmap_bias: f32,
    mipmap_min: f32,
    mipmap_max: f32,
    border: [f32; 4],
    reserved: [u32; 12],
}

/// `CUresourcetype`.
const ARRAY: u32 = 0;
const MIPMAPPED_ARRAY: u32 = 1;
const PITCH_2D: u32 = 3;

impl Resource {
    /// As the runtime has it.
    fn lowered(&self) -> CuResult<ResourceDesc> {
        if self.flags != 0 || self.kind > PITCH_2D {
            return Err(CuError::INVALID_VALUE);
        }
        let format = match self.kind {
            ARRAY | MIPMAPPED_ARRAY => ChannelFormat::default(),
            _ => channel_format(self.format, self.channels)?,
        };
        let Resource { kind, address, size, height, pitch, .. } = *self;
        Ok(ResourceDesc { kind, address, format, size, height, pitch })
    }

    fn of(resource: &ResourceDesc) -> CuResult<Resource> {
        let (format, channels) = match resource.kind {
            ARRAY | MIPMAPPED_ARRAY => (0, 0),
            _ => driver_format(resource.format)?,
        };
        let ResourceDesc { kind, address, size, height, pitch, .. } = *resource;
        Ok(Resource { kind, address, format, channels, size, height, pitch, reserved: [0; 11], flags: 0 })
    }

    /// `CUarray_format` of what is shown.
    fn format(&self) -> CuResult<u32> {
        Ok(match self.kind {
            ARRAY => Array::of(self.address)?.desc.format,
            MIPMAPPED_ARRAY => MIPMAPPED.get(self.address)?.desc.format,
            _ => self.format,
        })
    }
}

impl Texture {
    /// As the runtime has it. The runtime says that integers are to be read as normalized floats, the driver that they
    /// are not (CUDA Driver API, CU_TRSF_READ_AS_INTEGER: 32-bit integers never are).
    fn lowered(&self, format: u32) -> RuntimeTexture {
        let is_small_integer = matches!(format, 0x01 | 0x02 | 0x08 | 0x09);
        let has = |flag| i32::from(self.flags & flag != 0);
        RuntimeTexture {
            address_modes: self.address_modes,
            filter: self.filter,
            read_mode: u32::from(is_small_integer && self.flags & TextureDesc::READ_AS_INTEGER == 0),
            srgb: has(TextureDesc::SRGB),
            border: self.border,
            normalized: has(TextureDesc::NORMALIZED),
            max_anisotropy: self.max_anisotropy,
            mipmap_filter: self.mipmap_filter,
            mipmap_bias: self.mipmap_bias,
            mipmap_min: self.mipmap_min,
            mipmap_max: self.mipmap_max,
            exact_mipmaps: has(TextureDesc::EXACT_MIPMAPS),
            seamless: has(TextureDesc::SEAMLESS),
        }
    }

    fn of(texture: &RuntimeTexture, format: u32) -> Texture {
        let is_integer = !matches!(format, 0x10 | 0x20);
        let flags = [
            (TextureDesc::READ_AS_INTEGER, is_integer && texture.read_mode == 0),
            (TextureDesc::NORMALIZED, texture.normalized != 0),
            (TextureDesc::SRGB, texture.srgb != 0),
            (TextureDesc::EXACT_MIPMAPS, texture.exact_mipmaps != 0),
            (TextureDesc::SEAMLESS, texture.seamless != 0),
        ];
        Texture {
            address_modes: texture.address_modes,
            filter: texture.filter,
            flags: flags.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).sum(),
            max_anisotropy: texture.max_anisotropy,
            mipmap_filter: texture.mipmap_filter,
            mipmap_bias: texture.mipmap_bias,
            mipmap_min: texture.mipmap_min,
            mipmap_max: texture.mipmap_max,
            border: texture.border,
            reserved: [0; 12],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!((size_of::<Resource>(), offset_of!(Resource, flags)), (144, 136));
        assert_eq!((offset_of!(Resource, size), offset_of!(Resource, pitch)), (24, 40));
        assert_eq!((size_of::<Texture>(), offset_of!(Texture, border)), (104, 40));
    }

    #[test]
    fn small_integers_are_normalized_unless_they_are_read_as_they_are() {
        let texture =
            |flags| Texture { flags, ..Texture::of(&Texture { flags: 0, ..zero() }.lowered(0x20), 0x20) };
        assert_eq!(texture(0).lowered(0x01).read_mode, 1);
        assert_eq!(texture(TextureDesc::READ_AS_INTEGER).lowered(0x01).read_mode, 0);
        assert_eq!(texture(0).lowered(0x0a).read_mode, 0);
        assert_eq!(texture(0).lowered(0x20).read_mode, 0);
        let flags = TextureDesc::READ_AS_INTEGER | TextureDesc::NORMALIZED;
        assert_eq!(Texture::of(&texture(flags).lowered(0x02), 0x02).flags, flags);
    }

    fn zero() -> Texture {
        Texture {
            address_modes: [0; 3],
            filter: 0,
            flags: 0,
            max_anisotropy: 0,
            mipmap_filter: 0,
            mipmap_bias: 0.0,
            mipmap_min: 0.0,
            mipmap_max: 0.0,
            border: [0.0; 4],
            reserved: [0; 12],
        }
    }
}
