//! Texture and surface objects. A handle is the device's own, because kernels read it; what it was made of is kept here.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{PoisonError, RwLock};

use cuda_types::{CUdeviceptr, CuError, CuResult};
use proto::ArrayCalls;
use proto::param::{ArrayDesc, Resource, TextureDesc};

use super::array::{Array, MIPMAPPED, driver_format};
use super::version::ChannelFormat;
use crate::edge::{DefaultStream, Out, Required, entries};
use crate::handles::resolve;
use crate::managed;
use crate::state::{Device, devices};

entries! {
    /// Makes a texture object of an array, a mipmapped array or device memory.
    fn cudaCreateTextureObject(object: Out<'_, u64>, resource: Option<&ResourceDesc>, texture: Option<&RuntimeTexture>, view: Option<&[u64; 6]>) {
        let object = object.required()?;
        let (resource, texture) = (*resource.required()?, *texture.required()?);
        if view.is_some() {
            crate::log::warn(format_args!("cudaCreateTextureObject: resource views are not supported"));
            return Err(CuError::NOT_SUPPORTED);
        }
        let device = devices().current()?;
        managed::to_device(&resolve(DefaultStream::Legacy, 0)?)?;
        let handle = device.session()?.cuTexObjectCreate(resource.lowered(device)?, texture.lowered(&resource)?)?;
        remember(device, handle, Made { resource, texture: Some(texture) });
        object.write(handle);
        Ok(())
    }

    /// Ends a texture object; 0 is none.
    fn cudaDestroyTextureObject(object: u64) {
        let device = devices().current()?;
        let session = device.session()?;
        if object == 0 { session.check() } else {
            forget(device, object, true)?;
            session.cuTexObjectDestroy(object)
        }
    }

    /// The view of a texture: none was made with one (CUDA Runtime API, cudaGetTextureObjectResourceViewDesc).
    fn cudaGetTextureObjectResourceViewDesc(_view: *mut c_void, object: u64) {
        made(object)?;
        Err(CuError::INVALID_VALUE)
    }

    /// How a texture is read.
    fn cudaGetTextureObjectTextureDesc(texture: Out<'_, RuntimeTexture>, object: u64) {
        let texture = texture.required()?;
        texture.write(made(object)?.texture.ok_or(CuError::INVALID_VALUE)?);
        Ok(())
    }

    /// What a texture shows, for major 12.
    fn texture_resource_12(resource: Out<'_, ResourceDesc>, object: u64) {
        let resource = resource.required()?;
        resource.write(made(object)?.resource_of(true)?);
        Ok(())
    }

    /// What a texture shows, for major 13, whose structure has room for more.
    fn texture_resource_13(resource: Out<'_, ResourceDesc13>, object: u64) {
        let resource = resource.required()?;
        resource.write(ResourceDesc13 { known: made(object)?.resource_of(true)?, reserved: [0; 10] });
        Ok(())
    }

    /// Makes a surface object of an array.
    fn cudaCreateSurfaceObject(object: Out<'_, u64>, resource: Option<&ResourceDesc>) {
        let object = object.required()?;
        let resource = *resource.required()?;
        let device = devices().current()?;
        let lowered = match resource.kind {
            ARRAY => resource.lowered(device)?,
            _ => return Err(CuError::INVALID_VALUE),
        };
        if Array::of(resource.address)?.desc.flags & ArrayDesc::SURFACE == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let handle = device.session()?.cuSurfObjectCreate(lowered)?;
        remember(device, handle, Made { resource, texture: None });
        object.write(handle);
        Ok(())
    }

    /// Ends a surface object; 0 is none.
    fn cudaDestroySurfaceObject(object: u64) {
        let device = devices().current()?;
        let session = device.session()?;
        if object == 0 { session.check() } else {
            forget(device, object, false)?;
            session.cuSurfObjectDestroy(object)
        }
    }

    /// What a surface shows, for major 12.
    fn surface_resource_12(resource: Out<'_, ResourceDesc>, object: u64) {
        let resource = resource.required()?;
        resource.write(made(object)?.resource_of(false)?);
        Ok(())
    }

    /// What a surface shows, for major 13.
    fn surface_resource_13(resource: Out<'_, ResourceDesc13>, object: u64) {
        let resource = resource.required()?;
        resource.write(ResourceDesc13 { known: made(object)?.resource_of(false)?, reserved: [0; 10] });
        Ok(())
    }
}

/// `cudaResourceDesc` of major 12, and the start of that of major 13. What a field holds depends on the kind.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ResourceDesc {
    /// `cudaResourceType`
    pub(crate) kind: u32,
    /// An array's handle, or the device pointer.
    pub(crate) address: u64,
    pub(crate) format: ChannelFormat,
    /// Bytes of linear memory, or texels of a row.
    pub(crate) size: usize,
    pub(crate) height: usize,
    pub(crate) pitch: usize,
}

/// `cudaResourceDesc` of major 13.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ResourceDesc13 {
    known: ResourceDesc,
    reserved: [u64; 10],
}

/// `cudaTextureDesc`
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct RuntimeTexture {
    pub(crate) address_modes: [u32; 3],
    pub(crate) filter: u32,
    /// `cudaTextureReadMode`: 0 as the elements are, 1 as normalized floats.
    pub(crate) read_mode: u32,
    pub(crate) srgb: c_int,
    pub(crate) border: [f32; 4],
    pub(crate) normalized: c_int,
    pub(crate) max_anisotropy: u32,
    pub(crate) mipmap_filter: u32,
    pub(crate) mipmap_bias: f32,
    pub(crate) mipmap_min: f32,
    pub(crate) mipmap_max: f32,
    pub(crate) exact_mipmaps: c_int,
    pub(crate) seamless: c_int,
}

/// What an object was made of.
#[derive(Clone, Copy, Debug)]
struct Made {
    resource: ResourceDesc,
    /// A surface has none.
    texture: Option<RuntimeTexture>,
}

/// Device and handle -> what the object was made of.
static MADE: RwLock<Option<HashMap<(usize, u64), Made>>> = RwLock::new(None);

/// A device was reset: its objects are gone.
pub(crate) fn forget_device(ordinal: usize) {
    let mut all = MADE.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(all) = all.as_mut() {
        all.retain(|(device, _), _| *device != ordinal);
    }
}

fn remember(device: &Device, handle: u64, made: Made) {
    let mut all = MADE.write().unwrap_or_else(PoisonError::into_inner);
    all.get_or_insert_default().insert((device.ordinal, handle), made);
}

/// Forgets an object; a texture is no surface, and one that is unknown is an invalid value.
fn forget(device: &Device, handle: u64, is_texture: bool) -> CuResult<()> {
    let mut all = MADE.write().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_default();
    let key = (device.ordinal, handle);
    if all.get(&key).is_none_or(|made| made.texture.is_some() != is_texture) {
        return Err(CuError::INVALID_VALUE);
    }
    all.remove(&key);
    Ok(())
}

fn made(handle: u64) -> CuResult<Made> {
    let key = (devices().current()?.ordinal, handle);
    let all = MADE.read().unwrap_or_else(PoisonError::into_inner);
    all.as_ref().and_then(|all| all.get(&key)).copied().ok_or(CuError::INVALID_VALUE)
}

/// What a texture, or a surface, shows.
pub(crate) fn resource_of(object: u64, is_texture: bool) -> CuResult<ResourceDesc> {
    made(object)?.resource_of(is_texture)
}

/// How a texture is read.
pub(crate) fn texture_of(object: u64) -> CuResult<RuntimeTexture> {
    made(object)?.texture.ok_or(CuError::INVALID_VALUE)
}

impl Made {
    fn resource_of(&self, is_texture: bool) -> CuResult<ResourceDesc> {
        (self.texture.is_some() == is_texture).then_some(self.resource).ok_or(CuError::INVALID_VALUE)
    }
}

impl ResourceDesc {
    /// As the device has it, on which everything must lie.
    fn lowered(&self, device: &Device) -> CuResult<Resource> {
        let here = |ordinal: usize| (ordinal == device.ordinal).then_some(()).ok_or(CuError::INVALID_VALUE);
        let session = device.session()?;
        let memory = |bytes: usize| {
            if self.address == 0 || bytes == 0 {
                return Err(CuError::INVALID_VALUE);
            }
            let holder = devices().holding(self.address).ok_or(CuError::INVALID_VALUE)?;
            here(holder.ordinal)?;
            session.check_range(CUdeviceptr(self.address), bytes as u64)
        };
        let address = CUdeviceptr(self.address);
        match self.kind {
            ARRAY => {
                let array = Array::of(self.address)?;
                here(array.ordinal)?;
                Ok(Resource::Array(array.name))
            }
            MIPMAPPED_ARRAY => {
                let array = MIPMAPPED.get(self.address)?;
                here(array.ordinal)?;
                Ok(Resource::Mipmapped(array.name))
            }
            LINEAR => {
                let (format, channels) = driver_format(self.format)?;
                memory(self.size)?;
                Ok(Resource::Linear { address, format, channels, bytes: self.size as u64 })
            }
            PITCH_2D => {
                let (format, channels) = driver_format(self.format)?;
                let texel = ArrayDesc::channel_bytes(format).unwrap_or(1) * u64::from(channels);
                let texel = usize::try_from(texel).map_err(|_| CuError::INVALID_VALUE)?;
                let row = self.size.checked_mul(texel).filter(|row| *row <= self.pitch);
                let rows = self.height.checked_sub(1).and_then(|rows| rows.checked_mul(self.pitch));
                let bytes = row.zip(rows).and_then(|(row, rows)| row.checked_add(rows));
                memory(bytes.ok_or(CuError::INVALID_VALUE)?)?;
                let (width, height, pitch) = (self.size as u64, self.height as u64, self.pitch as u64);
                Ok(Resource::Pitch2D { address, format, channels, width, height, pitch })
            }
            _ => Err(CuError::INVALID_VALUE),
        }
    }

    /// The channels of what the texture shows.
    fn channels(&self) -> CuResult<u32> {
        Ok(match self.kind {
            ARRAY => Array::of(self.address)?.desc.format,
            MIPMAPPED_ARRAY => MIPMAPPED.get(self.address)?.desc.format,
            _ => driver_format(self.format)?.0,
        })
    }
}

impl RuntimeTexture {
    fn lowered(&self, resource: &ResourceDesc) -> CuResult<TextureDesc> {
        if self.address_modes.iter().any(|mode| *mode > 3) || self.filter > 1 || self.mipmap_filter > 1 {
            return Err(CuError::INVALID_VALUE);
        }
        let format = resource.channels()?;
        let is_float = matches!(format, 0x10 | 0x20);
        let is_word = matches!(format, 0x03 | 0x0a);
        if self.filter == 1 && !is_float && self.read_mode == 0 {
            return Err(INVALID_FILTER_SETTING);
        }
        if self.read_mode > 1 || self.read_mode == 1 && is_word {
            return Err(INVALID_NORM_SETTING);
        }
        let mut flags = 0;
        for (flag, is_set) in [
            (TextureDesc::READ_AS_INTEGER, self.read_mode == 0 && !is_float),
            (TextureDesc::NORMALIZED, self.normalized != 0),
            (TextureDesc::SRGB, self.srgb != 0),
            (TextureDesc::EXACT_MIPMAPS, self.exact_mipmaps != 0),
            (TextureDesc::SEAMLESS, self.seamless != 0),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        Ok(TextureDesc {
            address_modes: self.address_modes,
            filter: self.filter,
            flags,
            max_anisotropy: self.max_anisotropy,
            mipmap_filter: self.mipmap_filter,
            mipmap_bias: self.mipmap_bias,
            mipmap_min: self.mipmap_min,
            mipmap_max: self.mipmap_max,
            border: self.border,
        })
    }
}

/// `cudaResourceType`
const ARRAY: u32 = 0;
const MIPMAPPED_ARRAY: u32 = 1;
const LINEAR: u32 = 2;
const PITCH_2D: u32 = 3;

/// `cudaErrorInvalidFilterSetting` and `cudaErrorInvalidNormSetting`
const INVALID_FILTER_SETTING: CuError = CuError(26);
const INVALID_NORM_SETTING: CuError = CuError(27);

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structures_have_the_layout_of_each_major() {
        assert_eq!(size_of::<ResourceDesc>(), 64);
        assert_eq!(size_of::<ResourceDesc13>(), 144);
        assert_eq!((offset_of!(ResourceDesc, address), offset_of!(ResourceDesc, format)), (8, 16));
        assert_eq!(offset_of!(ResourceDesc, size), 40);
        assert_eq!(offset_of!(ResourceDesc, pitch), 56);
        assert_eq!(size_of::<RuntimeTexture>(), 72);
        assert_eq!(offset_of!(RuntimeTexture, normalized), 40);
        assert_eq!(offset_of!(RuntimeTexture, seamless), 68);
    }
}
