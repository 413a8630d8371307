//! Arrays, and the textures and surfaces that show them.
//!
//! An array is rows of texels without gaps in memory of its own, beside the window. Textures and surfaces hold their
//! array's memory, so that destroying the array under them does no harm.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use cuda_types::{CUarray, CUmipmappedArray, CUstream, CuError, CuResult};
use proto::ArrayCalls;
use proto::param::{ArrayDesc, Copy3D, Resource, Side3D, TextureDesc};

use super::calls::length;
use super::{SoftGpu, bytes};
use crate::texture::format::Format;
use crate::texture::image::Image;
use crate::texture::object::{Object, ObjectTable, Objects, Shape};
use crate::texture::sample::{AddressMode, Texture};

/// The textures and surfaces that a launch can reach.
pub struct Reachable(Arc<Objects>);

impl Reachable {
    pub(super) fn now(table: &ObjectTable) -> Reachable {
        Reachable(table.snapshot())
    }

    pub(crate) fn objects(&self) -> &Arc<Objects> {
        &self.0
    }
}

/// The arrays of a device.
#[derive(Default)]
pub(super) struct Arrays {
    next: u64,
    arrays: HashMap<u64, Array>,
    mipmapped: HashMap<u64, Vec<Array>>,
    /// Textures of the window's memory: their range, and the flag that says it was freed.
    linear: Vec<(u64, u64, Weak<AtomicBool>)>,
}

#[derive(Clone)]
struct Array {
    image: Image,
    shape: Shape,
    flags: u32,
    /// A level counts with its whole.
    charged: u64,
}

impl Arrays {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next + 0x1000
    }

    fn get(&self, array: CUarray) -> CuResult<&Array> {
        self.arrays.get(&array.0).ok_or(CuError::INVALID_HANDLE)
    }
}

impl Array {
    /// An array, or a level of one, that is `level` times halved.
    fn new(desc: &ArrayDesc, level: u32) -> CuResult<Array> {
        let format = Format::new(desc.format, desc.channels).ok_or(CuError::INVALID_VALUE)?;
        let flag = |flag: u32| desc.flags & flag != 0;
        let (layered, cube) = (flag(ArrayDesc::LAYERED), flag(ArrayDesc::CUBEMAP));
        let shape = match (layered, cube) {
            (false, false) => Shape::Plain,
            (true, false) => Shape::Layered,
            (false, true) => Shape::Cube,
            (true, true) => Shape::LayeredCube,
        };
        // CUDA Driver API, cuArray3DCreate: cubes are square and have six faces; slices have rows.
        let faces = desc.width == desc.height && desc.depth.is_multiple_of(6) && (layered || desc.depth == 6);
        let flat = desc.depth == 0 || desc.height != 0 || layered;
        if desc.width == 0 || cube && !faces || !flat || layered && desc.depth == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        if [desc.width, desc.height, desc.depth].into_iter().any(|extent| extent > MOST_TEXELS) {
            return Err(CuError::INVALID_VALUE);
        }
        let halved = |extent: u64| (extent >> level.min(63)).max(1);
        let depth = if shape.is_layered() { desc.depth } else { halved(desc.depth) };
        let image = Image::new(format, halved(desc.width), halved(desc.height), depth);
        let image = image.ok_or(CuError::OUT_OF_MEMORY)?;
        let charged = image.bytes();
        Ok(Array { image, shape, flags: desc.flags, charged })
    }
}

/// One end of a copy, checked.
enum End {
    Memory { start: u64, pitch: u64, slice: u64 },
    Array { image: Image, x: u64, y: u64, z: u64 },
}

impl End {
    /// Where a row of the box begins, `width` bytes of which are there.
    fn row(&self, row: u64, slice: u64, width: u64) -> Option<u64> {
        match self {
            End::Memory { start, pitch, slice: step } => Some(start + slice * step + row * pitch),
            End::Array { image, x, y, z } => image.address(*x, y + row, z + slice, width),
        }
    }
}

impl SoftGpu {
    fn arrays(&self) -> MutexGuard<'_, Arrays> {
        self.arrays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After memory was freed: textures of it answer nothing any more.
    pub(super) fn forget_freed(&self) {
        self.arrays().linear.retain(|(address, bytes, freed)| {
            let Some(freed) = freed.upgrade() else { return false };
            let there = self.memory.check(*address, *bytes).is_ok();
            if !there {
                freed.store(true, Ordering::Relaxed);
            }
            there
        });
    }

    /// Checks one end of a copy.
    fn end(&self, side: &Side3D, copy: &Copy3D, is_written: bool) -> CuResult<End> {
        let last = |start: u64, extent: u64| start.checked_add(extent - 1);
        let end = match side.kind {
            Side3D::DEVICE => {
                let (pitch, height) = (side.pitch, side.height.max(1));
                let slice = pitch.checked_mul(height).ok_or(CuError::INVALID_VALUE)?;
                let offset = |z: u64, y: u64, x: u64| {
                    z.checked_mul(slice)?.checked_add(y.checked_mul(pitch)?)?.checked_add(x)
                };
                let start = offset(side.z, side.y, side.x).and_then(|at| side.address.0.checked_add(at));
                let bytes = offset(copy.depth - 1, copy.height - 1, copy.width);
                let (start, bytes) = start.zip(bytes).ok_or(CuError::INVALID_VALUE)?;
                let gaps = copy.height > 1 || copy.depth > 1;
                if gaps && pitch < copy.width || copy.depth > 1 && height < copy.height {
                    return Err(CuError::INVALID_VALUE);
                }
                match is_written {
                    true => self.memory.check_write(start, bytes)?,
                    false => self.memory.check(start, bytes)?,
                }
                End::Memory { start, pitch, slice }
            }
            Side3D::ARRAY => {
                let image = self.arrays().get(side.array)?.image.clone();
                End::Array { image, x: side.x, y: side.y, z: side.z }
            }
            _ => return Err(CuError::INVALID_VALUE),
        };
        // The last row is there, then all are.
        let (y, z) = match &end {
            End::Array { .. } => {
                last(side.y, copy.height).zip(last(side.z, copy.depth)).ok_or(CuError::INVALID_VALUE)?
            }
            End::Memory { .. } => (0, 0),
        };
        match &end {
            End::Array { image, x, .. } => {
                image.address(*x, y, z, copy.width).map(|_| end).ok_or(CuError::INVALID_VALUE)
            }
            End::Memory { .. } => Ok(end),
        }
    }

    /// The texels of device memory.
    fn window_image(
        &self,
        address: u64,
        (format, channels): (u32, u32),
        (width, height, pitch): (u64, u64, u64),
    ) -> CuResult<Image> {
        let format = Format::new(format, channels).ok_or(CuError::INVALID_VALUE)?;
        let row = width.checked_mul(format.bytes()).ok_or(CuError::INVALID_VALUE)?;
        let pitch = if pitch == 0 { row } else { pitch };
        let bytes = pitch.checked_mul(height.saturating_sub(1)).and_then(|rows| rows.checked_add(row));
        let bytes =
            bytes.filter(|_| width > 0 && height > 0 && row <= pitch).ok_or(CuError::INVALID_VALUE)?;
        self.memory.check(address, bytes)?;
        let (image, freed) = Image::in_window(format, address, (width, height, pitch));
        self.arrays().linear.push((address, bytes, Arc::downgrade(&freed)));
        Ok(image)
    }
}

impl ArrayCalls for SoftGpu {
    fn cuArray3DCreate_v2(&self, array: ArrayDesc) -> CuResult<CUarray> {
        self.queues.check()?;
        let array = Array::new(&array, 0)?;
        self.memory.charge(array.charged)?;
        let mut arrays = self.arrays();
        let number = arrays.number();
        arrays.arrays.insert(number, array);
        Ok(CUarray(number))
    }

    fn cuArrayDestroy(&self, array: CUarray) -> CuResult<()> {
        let array = self.arrays().arrays.remove(&array.0).ok_or(CuError::INVALID_HANDLE)?;
        self.memory.refund(array.charged);
        Ok(())
    }

    fn cuMipmappedArrayCreate(&self, array: ArrayDesc, levels: u32) -> CuResult<CUmipmappedArray> {
        self.queues.check()?;
        let largest = array.width.max(array.height).max(array.depth);
        let levels = levels.clamp(1, u64::BITS - largest.leading_zeros().min(u64::BITS - 1));
        let levels = (0..levels).map(|level| Array::new(&array, level)).collect::<CuResult<Vec<_>>>()?;
        self.memory.charge(levels.iter().map(|level| level.charged).sum())?;
        let mut arrays = self.arrays();
        let number = arrays.number();
        arrays.mipmapped.insert(number, levels);
        Ok(CUmipmappedArray(number))
    }

    fn cuMipmappedArrayDestroy(&self, array: CUmipmappedArray) -> CuResult<()> {
        let levels = self.arrays().mipmapped.remove(&array.0).ok_or(CuError::INVALID_HANDLE)?;
        self.memory.refund(levels.iter().map(|level| level.charged).sum());
        Ok(())
    }

    fn cuMipmappedArrayGetLevel(&self, array: CUmipmappedArray, level: u32) -> CuResult<CUarray> {
        let mut arrays = self.arrays();
        let levels = arrays.mipmapped.get(&array.0).ok_or(CuError::INVALID_HANDLE)?;
        let level = usize::try_from(level).ok().and_then(|level| levels.get(level));
        let level = Array { charged: 0, ..level.ok_or(CuError::INVALID_VALUE)?.clone() };
        let number = arrays.number();
        arrays.arrays.insert(number, level);
        Ok(CUarray(number))
    }

    fn cuMemcpy3DAsync_v2(&self, copy: Copy3D, stream: CUstream) -> CuResult<()> {
        if copy.width == 0 || copy.height == 0 || copy.depth == 0 {
            return Ok(());
        }
        let (dst, src) = (self.end(&copy.dst, &copy, true)?, self.end(&copy.src, &copy, false)?);
        let width = length(copy.width)?;
        let bytes = copy.width.saturating_mul(copy.height).saturating_mul(copy.depth);
        self.work(stream, length(bytes)?, move || {
            for (slice, row) in
                (0..copy.depth).flat_map(|slice| (0..copy.height).map(move |row| (slice, row)))
            {
                let rows = dst.row(row, slice, copy.width).zip(src.row(row, slice, copy.width));
                let (to, from) = rows.ok_or(CuError::ILLEGAL_ADDRESS)?;
                // SAFETY: memory of the window was checked above and stays until the stream has passed; an array's
                // is kept by its image, which answers addresses inside it only.
                unsafe { bytes::copy(to, from, width) };
            }
            Ok(())
        })
    }

    fn cuTexObjectCreate(&self, resource: Resource, texture: TextureDesc) -> CuResult<u64> {
        self.queues.check()?;
        let (levels, shape) = match resource {
            Resource::Array(array) => {
                let array = self.arrays().get(array)?.clone();
                (vec![array.image], array.shape)
            }
            Resource::Mipmapped(array) => {
                let arrays = self.arrays();
                let levels = arrays.mipmapped.get(&array.0).ok_or(CuError::INVALID_HANDLE)?;
                let shape = levels.first().ok_or(CuError::INVALID_HANDLE)?.shape;
                (levels.iter().map(|level| level.image.clone()).collect(), shape)
            }
            Resource::Linear { address, format, channels, bytes } => {
                let texel = Format::new(format, channels).ok_or(CuError::INVALID_VALUE)?.bytes();
                let image = self.window_image(address.0, (format, channels), (bytes / texel, 1, 0))?;
                (vec![image], Shape::Linear)
            }
            Resource::Pitch2D { address, format, channels, width, height, pitch } => {
                let image = self.window_image(address.0, (format, channels), (width, height, pitch))?;
                (vec![image], Shape::Plain)
            }
        };
        let has = |flag: u32| texture.flags & flag != 0;
        let mut modes = [AddressMode::Clamp; 3];
        for (mode, number) in modes.iter_mut().zip(texture.address_modes) {
            *mode = AddressMode::new(number).ok_or(CuError::INVALID_VALUE)?;
        }
        let object = Texture {
            levels,
            shape,
            modes,
            linear: texture.filter == 1,
            normalized: has(TextureDesc::NORMALIZED),
            as_integer: has(TextureDesc::READ_AS_INTEGER),
            srgb: has(TextureDesc::SRGB),
            border: texture.border,
            mipmap_linear: texture.mipmap_filter == 1,
            mipmap_bias: texture.mipmap_bias,
            mipmap_range: (texture.mipmap_min, texture.mipmap_max),
        };
        if object.linear && !object.reads_float() {
            // CUDA Driver API, cuTexObjectCreate: integers are not filtered.
            return Err(CuError::INVALID_VALUE);
        }
        Ok(self.shared.objects.insert(Object::Texture(object)))
    }

    fn cuTexObjectDestroy(&self, object: u64) -> CuResult<()> {
        let removed = self.shared.objects.remove(object, |object| matches!(object, Object::Texture(_)));
        removed.then_some(()).ok_or(CuError::INVALID_HANDLE)
    }

    fn cuSurfObjectCreate(&self, resource: Resource) -> CuResult<u64> {
        self.queues.check()?;
        let Resource::Array(array) = resource else { return Err(CuError::INVALID_VALUE) };
        let array = self.arrays().get(array)?.clone();
        if array.flags & ArrayDesc::SURFACE == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        Ok(self.shared.objects.insert(Object::Surface(array.image)))
    }

    fn cuSurfObjectDestroy(&self, object: u64) -> CuResult<()> {
        let removed = self.shared.objects.remove(object, |object| matches!(object, Object::Surface(_)));
        removed.then_some(()).ok_or(CuError::INVALID_HANDLE)
    }
}

/// The largest extent: more than any GPU has, and products of three stay far from overflow.
const MOST_TEXELS: u64 = 1 << 18;
