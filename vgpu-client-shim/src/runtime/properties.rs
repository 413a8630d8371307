//! `cudaDeviceProp`: two layouts, filled from the attributes that came with the handshake.
//!
//! A row names an attribute of cuda.h, where its value lies in the structure of major 12 and of 13, and how wide it
//! is there. What no attribute tells (name, UUID, memory) is written by hand.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use cuda_types::{CuError, CuResult};
use proto::DeviceFacts;

use super::device::attribute;
use crate::edge::{Out, Required, entries};
use crate::state::devices;

entries! {
    /// Properties in the layout of 13, as far as its fields go.
    fn properties_13(properties: Out<'_, Properties<784>>, ordinal: c_int) {
        write(properties, ordinal, |row| row.at_13)
    }

    /// Properties in the layout of 12: its headers call this under the name with `_v2`.
    fn properties_12(properties: Out<'_, Properties<780>>, ordinal: c_int) {
        write(properties, ordinal, |row| row.at_12)
    }

    /// The plain name in 12 is for programs of 11, whose structure ends after 728 bytes.
    fn properties_11(properties: Out<'_, Properties<728>>, ordinal: c_int) {
        write(properties, ordinal, |row| row.at_12)
    }
}

/// The bytes of a `cudaDeviceProp` that are ours to write; reserved words behind them are not touched.
#[repr(C, align(8))]
pub(crate) struct Properties<const BYTES: usize>([u8; BYTES]);

struct Row {
    /// `CUdevice_attribute`.
    attribute: i32,
    at_12: Option<usize>,
    at_13: Option<usize>,
    /// 4 or 8.
    width: usize,
}

const fn row(attribute: i32, at_12: usize, at_13: usize) -> Row {
    Row { attribute, at_12: Some(at_12), at_13: Some(at_13), width: 4 }
}

const fn wide(attribute: i32, at_12: usize, at_13: usize) -> Row {
    Row { attribute, at_12: Some(at_12), at_13: Some(at_13), width: 8 }
}

const fn only_12(attribute: i32, at: usize) -> Row {
    Row { attribute, at_12: Some(at), at_13: None, width: 4 }
}

const fn only_13(attribute: i32, at: usize) -> Row {
    Row { attribute, at_12: None, at_13: Some(at), width: 4 }
}

/// In the order of the structure of 13. Attribute numbers: cuda.h, `CUdevice_attribute`.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    wide(8, 296, 296),   // sharedMemPerBlock
    row(12, 304, 304),   // regsPerBlock
    row(10, 308, 308),   // warpSize
    wide(11, 312, 312),  // memPitch
    row(1, 320, 320),    // maxThreadsPerBlock
    row(2, 324, 324), row(3, 328, 328), row(4, 332, 332), // maxThreadsDim
    row(5, 336, 336), row(6, 340, 340), row(7, 344, 344), // maxGridSize
    only_12(13, 348),    // clockRate
    wide(9, 352, 352),   // totalConstMem
    row(75, 360, 360), row(76, 364, 364), // major, minor
    wide(14, 368, 368),  // textureAlignment
    wide(51, 376, 376),  // texturePitchAlignment
    only_12(15, 384),    // deviceOverlap
    row(16, 388, 384),   // multiProcessorCount
    only_12(17, 392),    // kernelExecTimeoutEnabled
    row(18, 396, 388),   // integrated
    row(19, 400, 392),   // canMapHostMemory
    only_12(20, 404),    // computeMode
    row(21, 408, 396),   // maxTexture1D
    row(77, 412, 400),   // maxTexture1DMipmap
    only_12(69, 416),    // maxTexture1DLinear
    row(22, 420, 404), row(23, 424, 408), // maxTexture2D
    row(73, 428, 412), row(74, 432, 416), // maxTexture2DMipmap
    row(70, 436, 420), row(71, 440, 424), row(72, 444, 428), // maxTexture2DLinear
    row(45, 448, 432), row(46, 452, 436), // maxTexture2DGather
    row(24, 456, 440), row(25, 460, 444), row(26, 464, 448), // maxTexture3D
    row(47, 468, 452), row(48, 472, 456), row(49, 476, 460), // maxTexture3DAlt
    row(52, 480, 464),   // maxTextureCubemap
    row(42, 484, 468), row(43, 488, 472), // maxTexture1DLayered
    row(27, 492, 476), row(28, 496, 480), row(29, 500, 484), // maxTexture2DLayered
    row(53, 504, 488), row(54, 508, 492), // maxTextureCubemapLayered
    row(55, 512, 496),   // maxSurface1D
    row(56, 516, 500), row(57, 520, 504), // maxSurface2D
    row(58, 524, 508), row(59, 528, 512), row(60, 532, 516), // maxSurface3D
    row(61, 536, 520), row(62, 540, 524), // maxSurface1DLayered
    row(63, 544, 528), row(64, 548, 532), row(65, 552, 536), // maxSurface2DLayered
    row(66, 556, 540),   // maxSurfaceCubemap
    row(67, 560, 544), row(68, 564, 548), // maxSurfaceCubemapLayered
    wide(30, 568, 552),  // surfaceAlignment
    row(31, 576, 560),   // concurrentKernels
    row(32, 580, 564),   // ECCEnabled
    row(33, 584, 568), row(34, 588, 572), row(50, 592, 576), // pciBusID, pciDeviceID, pciDomainID
    row(35, 596, 580),   // tccDriver
    row(40, 600, 584),   // asyncEngineCount
    row(41, 604, 588),   // unifiedAddressing
    only_12(36, 608),    // memoryClockRate
    row(37, 612, 592),   // memoryBusWidth
    row(38, 616, 596),   // l2CacheSize
    row(108, 620, 600),  // persistingL2CacheMaxSize
    row(39, 624, 604),   // maxThreadsPerMultiProcessor
    row(78, 628, 608),   // streamPrioritiesSupported
    row(79, 632, 612), row(80, 636, 616), // globalL1CacheSupported, localL1CacheSupported
    wide(81, 640, 624),  // sharedMemPerMultiprocessor
    row(82, 648, 632),   // regsPerMultiprocessor
    row(83, 652, 636),   // managedMemory
    row(84, 656, 640), row(85, 660, 644), // isMultiGpuBoard, multiGpuBoardGroupID
    row(86, 664, 648),   // hostNativeAtomicSupported
    only_12(87, 668),    // singleToDoublePrecisionPerfRatio
    row(88, 672, 652),   // pageableMemoryAccess
    row(89, 676, 656),   // concurrentManagedAccess
    row(90, 680, 660),   // computePreemptionSupported
    row(91, 684, 664),   // canUseHostPointerForRegisteredMem
    row(95, 688, 668),   // cooperativeLaunch
    only_12(96, 692),    // cooperativeMultiDeviceLaunch
    wide(97, 696, 672),  // sharedMemPerBlockOptin
    row(100, 704, 680),  // pageableMemoryAccessUsesHostPageTables
    row(101, 708, 684),  // directManagedMemAccessFromHost
    row(106, 712, 688),  // maxBlocksPerMultiProcessor
    row(109, 716, 692),  // accessPolicyMaxWindowSize
    wide(111, 720, 696), // reservedSharedMemPerBlock
    row(99, 728, 704),   // hostRegisterSupported
    row(112, 732, 708),  // sparseCudaArraySupported
    row(113, 736, 712),  // hostRegisterReadOnlySupported
    row(114, 740, 716),  // timelineSemaphoreInteropSupported
    row(115, 744, 720),  // memoryPoolsSupported
    row(116, 748, 724), row(117, 752, 728), row(118, 756, 732), // gpuDirectRDMA...
    row(119, 760, 736),  // memoryPoolSupportedHandleTypes
    row(121, 764, 740),  // deferredMappingCudaArraySupported
    row(125, 768, 744),  // ipcEventSupported
    row(120, 772, 748),  // clusterLaunch
    row(123, 776, 752),  // unifiedFunctionPointers
    only_13(130, 756), only_13(131, 760), // deviceNumaConfig, deviceNumaId
    only_13(133, 764),   // mpsEnabled
    only_13(134, 768),   // hostNumaId
    only_13(139, 772), only_13(140, 776), // gpuPciDeviceID, gpuPciSubsystemID
    only_13(143, 780),   // hostNumaMultinodeIpcSupported
];

fn write<const BYTES: usize>(
    properties: Option<&mut MaybeUninit<Properties<BYTES>>>,
    ordinal: c_int,
    at: fn(&Row) -> Option<usize>,
) -> CuResult<()> {
    let properties = properties.required()?;
    properties.write(fill(devices().get(ordinal)?.facts()?, at)?);
    Ok(())
}

fn fill<const BYTES: usize>(
    facts: &DeviceFacts,
    at: fn(&Row) -> Option<usize>,
) -> CuResult<Properties<BYTES>> {
    let mut bytes = [0; BYTES];
    let mut put = |at: usize, value: &[u8]| {
        // What lies behind the end belongs to a later version of the structure.
        if let Some(room) = bytes.get_mut(at..at + value.len()) {
            room.copy_from_slice(value);
        }
    };
    // The name ends with a zero inside its 256 bytes.
    let name = facts.name.as_bytes();
    put(0, &name[..name.len().min(255)]);
    put(256, &facts.uuid);
    put(288, &facts.total_memory.to_le_bytes());
    for row in ROWS {
        let Some(at) = at(row) else { continue };
        let value = attribute(facts, row.attribute).unwrap_or(0);
        match row.width {
            4 => put(at, &value.to_le_bytes()),
            _ => put(at, &u64::try_from(value).map_err(|_| CuError::UNKNOWN)?.to_le_bytes()),
        }
    }
    Ok(Properties(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> DeviceFacts {
        DeviceFacts {
            name: "A device".into(),
            uuid: [7; 16],
            total_memory: 0x1_2345_6789,
            driver_version: 13000,
            attributes: (0..160).map(|number| Some(1000 + number)).collect(),
            stream_priorities: (0, -5),
        }
    }

    #[test]
    fn no_two_fields_overlap_and_all_lie_inside() {
        for (at, end) in [((|row| row.at_12) as fn(&Row) -> Option<usize>, 780), (|row| row.at_13, 784)] {
            let mut fields: Vec<_> = ROWS.iter().filter_map(|row| Some((at(row)?, row.width))).collect();
            fields.sort_unstable();
            assert!(fields.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{fields:?}");
            assert!(fields.iter().all(|(at, width)| at % width == 0 && at + width <= end));
        }
    }

    #[test]
    fn fields_lie_where_each_major_has_them() {
        let twelve: Properties<780> = fill(&facts(), |row| row.at_12).ok().unwrap();
        let thirteen: Properties<784> = fill(&facts(), |row| row.at_13).ok().unwrap();
        assert_eq!(&twelve.0[..9], b"A device\0");
        assert_eq!(twelve.0[288..296], 0x1_2345_6789_u64.to_le_bytes());
        // multiProcessorCount, sharedMemPerBlockOptin.
        assert_eq!(twelve.0[388..392], 1016_u32.to_le_bytes());
        assert_eq!(thirteen.0[384..388], 1016_u32.to_le_bytes());
        assert_eq!(twelve.0[696..704], 1097_u64.to_le_bytes());
        assert_eq!(thirteen.0[672..680], 1097_u64.to_le_bytes());
        // concurrentManagedAccess is not what the driver says.
        assert_eq!(thirteen.0[656..660], [0; 4]);
    }

    #[test]
    fn the_old_layout_ends_before_the_newer_fields() {
        let eleven: Properties<728> = fill(&facts(), |row| row.at_12).ok().unwrap();
        assert_eq!(eleven.0[720..728], 1111_u64.to_le_bytes());
        assert_eq!(size_of::<Properties<728>>(), 728);
    }
}
