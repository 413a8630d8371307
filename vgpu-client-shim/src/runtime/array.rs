//! CUDA arrays: making them, ending them, and what they are.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cuda_types::{CUarray, CUmipmappedArray, CuError, CuResult};
use proto::ArrayCalls;
use proto::param::ArrayDesc;

use super::copy::Extent;
use super::version::ChannelFormat;
use crate::edge::{Out, Required, entries};
use crate::handles::{Table, device};
use crate::state::devices;

/// An array that the program made, or a level of one.
#[derive(Debug)]
pub(crate) struct Array {
    pub(crate) ordinal: usize,
    pub(crate) name: CUarray,
    pub(crate) desc: ArrayDesc,
    format: ChannelFormat,
    is_level: bool,
}

/// A mipmapped array that the program made.
#[derive(Debug)]
pub(crate) struct Mipmapped {
    pub(crate) ordinal: usize,
    pub(crate) name: CUmipmappedArray,
    pub(crate) desc: ArrayDesc,
    format: ChannelFormat,
    levels: u32,
    /// The handles of levels that were asked for.
    known: Mutex<HashMap<u32, u64>>,
}

/// The arrays of the process.
pub(crate) static ARRAYS: Table<Array> = Table::new();
/// The mipmapped arrays of the process.
pub(crate) static MIPMAPPED: Table<Mipmapped> = Table::new();

/// A device was reset: its arrays are gone.
pub(crate) fn forget_device(ordinal: usize) {
    ARRAYS.remove_where(|array| array.ordinal == ordinal);
    MIPMAPPED.remove_where(|array| array.ordinal == ordinal);
}

entries! {
    /// Makes an array of one or two dimensions.
    fn cudaMallocArray(array: Out<'_, u64>, format: Option<&ChannelFormat>, width: usize, height: usize, flags: c_uint) {
        let extent = Extent { width, height, depth: 0 };
        let desc = described(*format.required()?, extent, flags)?;
        array.required()?.write(make(*format.required()?, desc)?);
        Ok(())
    }

    /// Makes an array of up to three dimensions, or with layers or faces.
    fn cudaMalloc3DArray(array: Out<'_, u64>, format: Option<&ChannelFormat>, extent: Extent, flags: c_uint) {
        let desc = described(*format.required()?, extent, flags)?;
        array.required()?.write(make(*format.required()?, desc)?);
        Ok(())
    }

    /// Ends an array; NULL is none.
    fn cudaFreeArray(array: u64) {
        if array == 0 {
            return devices().current()?.session()?.check();
        }
        if ARRAYS.get(array)?.is_level {
            return Err(CuError::INVALID_HANDLE);
        }
        let array = ARRAYS.remove(array)?;
        device(array.ordinal)?.session()?.cuArrayDestroy(array.name)
    }

    /// What an array is: any answer may be NULL.
    fn cudaArrayGetInfo(format: Out<'_, ChannelFormat>, extent: Out<'_, Extent>, flags: Out<'_, c_uint>, array: u64) {
        let array = ARRAYS.get(array)?;
        if let Some(format) = format {
            format.write(array.format);
        }
        if let Some(extent) = extent {
            extent.write(array.extent());
        }
        if let Some(flags) = flags {
            flags.write(array.desc.flags);
        }
        Ok(())
    }

    /// The channels of an array.
    fn cudaGetChannelDesc(format: Out<'_, ChannelFormat>, array: u64) {
        format.required()?.write(ARRAYS.get(array)?.format);
        Ok(())
    }

    /// Makes an array of levels, each half as large as the one before.
    fn cudaMallocMipmappedArray(array: Out<'_, u64>, format: Option<&ChannelFormat>, extent: Extent, levels: c_uint, flags: c_uint) {
        let format = *format.required()?;
        let desc = described(format, extent, flags)?;
        let largest = desc.width.max(desc.height).max(if desc.flags & ArrayDesc::LAYERED != 0 { 0 } else { desc.depth });
        // CUDA Runtime API, cudaMallocMipmappedArray: clamped to 1 + floor(log2(largest extent)).
        let levels = levels.clamp(1, u64::BITS - largest.leading_zeros());
        let array = array.required()?;
        let device = devices().current()?;
        let name = device.session()?.cuMipmappedArrayCreate(desc, levels)?;
        let known = Mutex::default();
        array.write(MIPMAPPED.insert(Mipmapped { ordinal: device.ordinal, name, desc, format, levels, known }));
        Ok(())
    }

    /// Ends a mipmapped array and its levels; NULL is none.
    fn cudaFreeMipmappedArray(array: u64) {
        if array == 0 {
            return devices().current()?.session()?.check();
        }
        let array = MIPMAPPED.remove(array)?;
        for level in array.known.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = ARRAYS.remove(*level);
        }
        device(array.ordinal)?.session()?.cuMipmappedArrayDestroy(array.name)
    }

    /// A level of a mipmapped array, as an array that is not freed by itself.
    fn cudaGetMipmappedArrayLevel(level_array: Out<'_, u64>, array: u64, level: c_uint) {
        let level_array = level_array.required()?;
        let array = MIPMAPPED.get(array)?;
        level_array.write(array.level(level)?);
        Ok(())
    }
}

entries! {
    /// Memory that an array would need: told for deferred arrays only, which there are none of.
    fn cudaArrayGetMemoryRequirements(_requirements: *mut c_void, array: u64, ordinal: c_int) {
        devices().get(ordinal)?;
        ARRAYS.get(array)?;
        Err(CuError::INVALID_VALUE)
    }

    /// Memory that a mipmapped array would need: told for deferred arrays only, which there are none of.
    fn cudaMipmappedArrayGetMemoryRequirements(_requirements: *mut c_void, array: u64, ordinal: c_int) {
        devices().get(ordinal)?;
        MIPMAPPED.get(array)?;
        Err(CuError::INVALID_VALUE)
    }

    /// Tiles of a sparse array, which there are none of.
    fn cudaArrayGetSparseProperties(_properties: *mut c_void, array: u64) {
        ARRAYS.get(array)?;
        Err(CuError::INVALID_VALUE)
    }

    /// Tiles of a sparse mipmapped array, which there are none of.
    fn cudaMipmappedArrayGetSparseProperties(_properties: *mut c_void, array: u64) {
        MIPMAPPED.get(array)?;
        Err(CuError::INVALID_VALUE)
    }

    /// A plane of an array with several, which there are none of.
    fn cudaArrayGetPlane(_plane: Out<'_, u64>, array: u64, _index: c_uint) {
        ARRAYS.get(array)?;
        Err(CuError::INVALID_VALUE)
    }
}

impl Array {
    /// An array by the program's handle: one that is unknown is no resource handle.
    pub(crate) fn of(handle: u64) -> CuResult<Arc<Array>> {
        ARRAYS.get(handle)
    }

    /// Bytes of an element.
    pub(crate) fn element_bytes(&self) -> u64 {
        let channel = ArrayDesc::channel_bytes(self.desc.format).unwrap_or(1);
        channel * u64::from(self.desc.channels)
    }

    /// Bytes of a row, rows, slices, none of them 0.
    pub(crate) fn bounds(&self) -> [u64; 3] {
        [self.desc.width * self.element_bytes(), self.desc.height.max(1), self.desc.depth.max(1)]
    }

    fn extent(&self) -> Extent {
        let size = |extent: u64| usize::try_from(extent).unwrap_or(usize::MAX);
        let ArrayDesc { width, height, depth, .. } = self.desc;
        Extent { width: size(width), height: size(height), depth: size(depth) }
    }
}

impl Mipmapped {
    fn level(&self, level: u32) -> CuResult<u64> {
        if level >= self.levels {
            return Err(CuError::INVALID_VALUE);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = known.get(&level) {
            return Ok(*handle);
        }
        let name = device(self.ordinal)?.session()?.cuMipmappedArrayGetLevel(self.name, level)?;
        // An axis that is not there stays away.
        let halved = |extent: u64| if extent == 0 { 0 } else { (extent >> level).max(1) };
        let mut desc = self.desc;
        (desc.width, desc.height) = (halved(desc.width), halved(desc.height));
        if desc.flags & (ArrayDesc::LAYERED | ArrayDesc::CUBEMAP) == 0 {
            desc.depth = halved(desc.depth);
        }
        let array = Array { ordinal: self.ordinal, name, desc, format: self.format, is_level: true };
        let handle = ARRAYS.insert(array);
        known.insert(level, handle);
        Ok(handle)
    }
}

/// `CUarray_format` and the number of channels; what has another layout is no invalid value but not supported.
pub(crate) fn driver_format(format: ChannelFormat) -> CuResult<(u32, u32)> {
    let [x, y, z, w] = format.bits;
    let channels: u32 = match (x, y, z, w) {
        (1.., 0, 0, 0) => 1,
        (1.., _, 0, 0) if y == x => 2,
        (1.., ..) if y == x && z == x && w == x => 4,
        _ => return Err(INVALID_CHANNEL_DESCRIPTOR),
    };
    const SIGNED: c_int = 0;
    const UNSIGNED: c_int = 1;
    const FLOAT: c_int = 2;
    let number = match (format.kind, x) {
        (UNSIGNED, 8) => 0x01,
        (UNSIGNED, 16) => 0x02,
        (UNSIGNED, 32) => 0x03,
        (SIGNED, 8) => 0x08,
        (SIGNED, 16) => 0x09,
        (SIGNED, 32) => 0x0a,
        (FLOAT, 16) => 0x10,
        (FLOAT, 32) => 0x20,
        (4.., _) => {
            crate::log::warn(format_args!("channel kind {} of an array is not supported", format.kind));
            return Err(CuError::NOT_SUPPORTED);
        }
        _ => return Err(INVALID_CHANNEL_DESCRIPTOR),
    };
    Ok((number, channels))
}

/// The description of an array, checked as far as this side knows: creating is posted.
fn described(format: ChannelFormat, extent: Extent, flags: c_uint) -> CuResult<ArrayDesc> {
    const KNOWN: u32 = ArrayDesc::LAYERED | ArrayDesc::SURFACE | ArrayDesc::CUBEMAP | ArrayDesc::GATHER;
    let (format, channels) = driver_format(format)?;
    if flags & !KNOWN != 0 {
        crate::log::warn(format_args!(
            "array flags {flags:#x}: sparse and deferred arrays are not supported"
        ));
        return Err(CuError::NOT_SUPPORTED);
    }
    let Extent { width, height, depth } = extent;
    let (layered, cube) = (flags & ArrayDesc::LAYERED != 0, flags & ArrayDesc::CUBEMAP != 0);
    let faces = width == height && depth.is_multiple_of(6) && (layered || depth == 6);
    let flat = height == 0 && depth != 0 && !layered;
    let gathered = flags & ArrayDesc::GATHER != 0 && (height == 0 || depth != 0);
    if width == 0 || flat || cube && !faces || layered && depth == 0 || gathered {
        return Err(CuError::INVALID_VALUE);
    }
    // The largest of any dimension on a GPU of compute capability 9.0.
    let most = if depth != 0 && !layered && !cube { 16 * 1024 } else { 128 * 1024 };
    if [width, height, depth].into_iter().any(|extent| extent > most) {
        return Err(CuError::INVALID_VALUE);
    }
    let (width, height, depth) = (width as u64, height as u64, depth as u64);
    Ok(ArrayDesc { width, height, depth, format, channels, flags })
}

fn make(format: ChannelFormat, desc: ArrayDesc) -> CuResult<u64> {
    let device = devices().current()?;
    let session = device.session()?;
    session.check()?;
    let name = session.cuArray3DCreate_v2(desc)?;
    Ok(ARRAYS.insert(Array { ordinal: device.ordinal, name, desc, format, is_level: false }))
}

/// `cudaErrorInvalidChannelDescriptor`
const INVALID_CHANNEL_DESCRIPTOR: CuError = CuError(20);

#[cfg(test)]
mod tests {
    use super::*;

    const FLOAT4: ChannelFormat = ChannelFormat { bits: [32, 32, 32, 32], kind: 2 };

    #[test]
    fn channels_are_one_two_or_four_of_one_size() {
        let format = |bits, kind| driver_format(ChannelFormat { bits, kind });
        assert_eq!(driver_format(FLOAT4), Ok((0x20, 4)));
        assert_eq!(format([8, 8, 0, 0], 1), Ok((0x01, 2)));
        assert_eq!(format([16, 0, 0, 0], 2), Ok((0x10, 1)));
        assert_eq!(format([8, 8, 8, 0], 1), Err(INVALID_CHANNEL_DESCRIPTOR));
        assert_eq!(format([8, 16, 0, 0], 1), Err(INVALID_CHANNEL_DESCRIPTOR));
        assert_eq!(format([8, 0, 0, 0], 2), Err(INVALID_CHANNEL_DESCRIPTOR));
        assert_eq!(format([0, 0, 0, 0], 0), Err(INVALID_CHANNEL_DESCRIPTOR));
    }

    #[test]
    fn cubes_are_square_with_six_faces() {
        let desc = |width, height, depth, flags| {
            described(FLOAT4, Extent { width, height, depth }, flags).map(|desc| desc.depth)
        };
        assert_eq!(desc(8, 8, 6, ArrayDesc::CUBEMAP), Ok(6));
        assert_eq!(desc(8, 8, 12, ArrayDesc::CUBEMAP | ArrayDesc::LAYERED), Ok(12));
        assert_eq!(desc(8, 8, 12, ArrayDesc::CUBEMAP), Err(CuError::INVALID_VALUE));
        assert_eq!(desc(8, 4, 6, ArrayDesc::CUBEMAP), Err(CuError::INVALID_VALUE));
        assert_eq!(desc(8, 0, 3, 0), Err(CuError::INVALID_VALUE), "slices have rows");
        assert_eq!(desc(8, 0, 3, ArrayDesc::LAYERED), Ok(3));
        assert_eq!(desc(0, 0, 0, 0), Err(CuError::INVALID_VALUE));
    }
}
