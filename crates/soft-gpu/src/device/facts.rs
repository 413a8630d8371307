//! What the software GPU says of itself, so that programs which choose by it choose well.

use cuda_types::attribute::DeviceAttribute as A;
use proto::{DeviceFacts, FunctionFacts};

use super::SoftOptions;

/// Bytes of shared memory: of a multiprocessor, of a block by default, and reserved in each block.
const SHARED_PER_MULTIPROCESSOR: i32 = 228 * 1024;
const SHARED_RESERVED: i32 = 1024;
const SHARED_PER_BLOCK: i32 = 48 * 1024;
const THREADS_PER_MULTIPROCESSOR: i32 = 2048;
const BLOCKS_PER_MULTIPROCESSOR: i32 = 32;
const REGISTERS: i32 = 64 * 1024;
const WARP: i32 = 32;

/// Extents of textures and surfaces by `CUdevice_attribute`, as of compute capability 9.0 (CUDA Programming Guide,
/// "Technical Specifications per Compute Capability").
const TEXTURES: [(usize, i32); 41] = [
    (21, 131_072), // 1D
    (22, 131_072),
    (23, 65_536), // 2D
    (24, 16_384),
    (25, 16_384),
    (26, 16_384), // 3D
    (27, 32_768),
    (28, 32_768),
    (29, 2_048), // layers of 2D
    (30, 512),   // alignment of surfaces
    (42, 32_768),
    (43, 2_048), // layers of 1D
    (45, 32_768),
    (46, 32_768), // gathers
    (47, 8_192),
    (48, 8_192),
    (49, 32_768), // 3D, the other way
    (52, 32_768), // cube
    (53, 32_768),
    (54, 2_046),  // layers of cubes
    (55, 32_768), // surfaces, in the same order
    (56, 131_072),
    (57, 65_536),
    (58, 16_384),
    (59, 16_384),
    (60, 16_384),
    (61, 32_768),
    (62, 2_048),
    (63, 32_768),
    (64, 32_768),
    (65, 2_048),
    (66, 32_768),
    (67, 32_768),
    (68, 2_046),
    (69, 1 << 28), // linear memory
    (70, 131_072),
    (71, 65_000),
    (72, 2_097_120), // rows of memory and their pitch
    (73, 32_768),
    (74, 32_768),
    (77, 32_768), // mipmaps
];

/// Streams write and wait for values of 32 and 64 bits, with every condition; the numbers of both versions of these calls.
const STREAM_VALUES: [(usize, i32); 5] = [(92, 1), (93, 1), (94, 1), (122, 1), (123, 1)];

fn multiprocessors(options: &SoftOptions) -> i32 {
    i32::try_from(options.threads.max(2)).unwrap_or(i32::MAX)
}

/// The description of a device.
pub(super) fn device(options: &SoftOptions, ordinal: u32) -> DeviceFacts {
    let mut attributes = vec![Some(0); usize::try_from(A::COUNT).unwrap_or(0)];
    let capability = |number: u32| i32::try_from(number).unwrap_or(0);
    for (attribute, value) in [
        (A::MAX_THREADS_PER_BLOCK, 1024),
        (A::MAX_BLOCK_DIM_X, 1024),
        (A::MAX_BLOCK_DIM_Y, 1024),
        (A::MAX_BLOCK_DIM_Z, 64),
        (A::MAX_GRID_DIM_X, i32::MAX),
        (A::MAX_GRID_DIM_Y, 65535),
        (A::MAX_GRID_DIM_Z, 65535),
        (A::MAX_SHARED_MEMORY_PER_BLOCK, SHARED_PER_BLOCK),
        (A::TOTAL_CONSTANT_MEMORY, 64 * 1024),
        (A::WARP_SIZE, WARP),
        (A::MAX_PITCH, i32::MAX),
        (A::MAX_REGISTERS_PER_BLOCK, REGISTERS),
        (A::CLOCK_RATE, 1_000_000),
        (A::TEXTURE_ALIGNMENT, 512),
        (A::GPU_OVERLAP, 1),
        (A::MULTIPROCESSOR_COUNT, multiprocessors(options)),
        (A::CAN_MAP_HOST_MEMORY, 0),
        (A::CONCURRENT_KERNELS, 1),
        // The server's number makes devices of one host differ.
        (A::PCI_BUS_ID, capability(ordinal % 256)),
        (A::MEMORY_CLOCK_RATE, 1_000_000),
        (A::GLOBAL_MEMORY_BUS_WIDTH, 64),
        (A::L2_CACHE_SIZE, 4 << 20),
        (A::MAX_THREADS_PER_MULTIPROCESSOR, THREADS_PER_MULTIPROCESSOR),
        (A::ASYNC_ENGINE_COUNT, 2),
        (A::UNIFIED_ADDRESSING, 1),
        (A::TEXTURE_PITCH_ALIGNMENT, 32),
        (A::COMPUTE_CAPABILITY_MAJOR, capability(options.capability / 10)),
        (A::COMPUTE_CAPABILITY_MINOR, capability(options.capability % 10)),
        (A::STREAM_PRIORITIES_SUPPORTED, 1),
        (A::GLOBAL_L1_CACHE_SUPPORTED, 1),
        (A::LOCAL_L1_CACHE_SUPPORTED, 1),
        (A::MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, SHARED_PER_MULTIPROCESSOR),
        (A::MAX_REGISTERS_PER_MULTIPROCESSOR, REGISTERS),
        (A::SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO, 2),
        (A::COMPUTE_PREEMPTION_SUPPORTED, 1),
        (A::COOPERATIVE_LAUNCH, 1),
        (A::MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, SHARED_PER_MULTIPROCESSOR - SHARED_RESERVED),
        (A::HOST_REGISTER_SUPPORTED, 1),
        (A::VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1),
        (A::MAX_BLOCKS_PER_MULTIPROCESSOR, BLOCKS_PER_MULTIPROCESSOR),
        (A::RESERVED_SHARED_MEMORY_PER_BLOCK, SHARED_RESERVED),
    ] {
        if let Some(slot) = usize::try_from(attribute.0).ok().and_then(|index| attributes.get_mut(index)) {
            *slot = Some(value);
        }
    }
    for (attribute, value) in TEXTURES.into_iter().chain(STREAM_VALUES) {
        if let Some(slot) = attributes.get_mut(attribute) {
            *slot = Some(value);
        }
    }
    // Random-looking but equal for the same server and device, so that a device keeps its name.
    let mut uuid = *b"vgpu-soft-gpu-00";
    uuid[12..16].copy_from_slice(&ordinal.to_be_bytes());
    DeviceFacts {
        name: "vgpu software GPU".into(),
        uuid,
        total_memory: options.memory_bytes,
        driver_version: 13000,
        attributes,
        stream_priorities: (0, -5),
    }
}

/// Tells how many blocks of each number of whole warps fit on one multiprocessor.
pub(super) fn with_residence(mut facts: FunctionFacts) -> FunctionFacts {
    let blocks = (WARP..=1024).step_by(WARP as usize).map(|threads| resident_blocks(&facts, threads, 0));
    facts.resident = blocks.map_while(|blocks| u16::try_from(blocks).ok()).collect();
    facts
}

/// Blocks of `block_size` threads that fit on one multiprocessor.
pub(super) fn resident_blocks(facts: &FunctionFacts, block_size: i32, dynamic_shared_bytes: u64) -> i32 {
    let attribute = |number: usize| facts.attributes.get(number).copied().unwrap_or(0);
    let (max_threads, shared, registers) = (attribute(0), attribute(1), attribute(4).max(16));
    if block_size <= 0 || block_size > max_threads {
        return 0;
    }
    let threads = block_size.saturating_add(WARP - 1) / WARP * WARP;
    let bytes = i64::from(shared)
        + i64::try_from(dynamic_shared_bytes).unwrap_or(i64::MAX / 2)
        + i64::from(SHARED_RESERVED);
    let by_shared = i32::try_from(i64::from(SHARED_PER_MULTIPROCESSOR) / bytes.max(1)).unwrap_or(i32::MAX);
    let by_registers = REGISTERS / threads.saturating_mul(registers);
    (THREADS_PER_MULTIPROCESSOR / threads).min(by_shared).min(by_registers).min(BLOCKS_PER_MULTIPROCESSOR)
}
