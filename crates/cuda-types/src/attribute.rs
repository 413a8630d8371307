//! Attribute numbers of devices and functions (`CUdevice_attribute`, `CUfunction_attribute` of cuda.h).

/// `CUfunction_attribute`: what a kernel needs and may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct FunctionAttribute(pub i32);

impl FunctionAttribute {
    pub const MAX_THREADS_PER_BLOCK: Self = Self(0);
    pub const SHARED_SIZE_BYTES: Self = Self(1);
    pub const CONST_SIZE_BYTES: Self = Self(2);
    pub const LOCAL_SIZE_BYTES: Self = Self(3);
    pub const NUM_REGS: Self = Self(4);
    pub const PTX_VERSION: Self = Self(5);
    pub const BINARY_VERSION: Self = Self(6);
    pub const CACHE_MODE_CA: Self = Self(7);
    pub const MAX_DYNAMIC_SHARED_SIZE_BYTES: Self = Self(8);
    pub const PREFERRED_SHARED_MEMORY_CARVEOUT: Self = Self(9);
    /// One past the last attribute that travels with the module facts.
    pub const COUNT: i32 = 16;
}

/// `CUdevice_attribute`: the numbers that code of this project names; all others travel by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct DeviceAttribute(pub i32);

impl DeviceAttribute {
    pub const MAX_THREADS_PER_BLOCK: Self = Self(1);
    pub const MAX_BLOCK_DIM_X: Self = Self(2);
    pub const MAX_BLOCK_DIM_Y: Self = Self(3);
    pub const MAX_BLOCK_DIM_Z: Self = Self(4);
    pub const MAX_GRID_DIM_X: Self = Self(5);
    pub const MAX_GRID_DIM_Y: Self = Self(6);
    pub const MAX_GRID_DIM_Z: Self = Self(7);
    pub const MAX_SHARED_MEMORY_PER_BLOCK: Self = Self(8);
    pub const TOTAL_CONSTANT_MEMORY: Self = Self(9);
    pub const WARP_SIZE: Self = Self(10);
    pub const MAX_PITCH: Self = Self(11);
    pub const MAX_REGISTERS_PER_BLOCK: Self = Self(12);
    pub const CLOCK_RATE: Self = Self(13);
    pub const TEXTURE_ALIGNMENT: Self = Self(14);
    pub const GPU_OVERLAP: Self = Self(15);
    pub const MULTIPROCESSOR_COUNT: Self = Self(16);
    pub const KERNEL_EXEC_TIMEOUT: Self = Self(17);
    pub const INTEGRATED: Self = Self(18);
    pub const CAN_MAP_HOST_MEMORY: Self = Self(19);
    pub const COMPUTE_MODE: Self = Self(20);
    pub const CONCURRENT_KERNELS: Self = Self(31);
    pub const ECC_ENABLED: Self = Self(32);
    pub const PCI_BUS_ID: Self = Self(33);
    pub const PCI_DEVICE_ID: Self = Self(34);
    pub const TCC_DRIVER: Self = Self(35);
    pub const MEMORY_CLOCK_RATE: Self = Self(36);
    pub const GLOBAL_MEMORY_BUS_WIDTH: Self = Self(37);
    pub const L2_CACHE_SIZE: Self = Self(38);
    pub const MAX_THREADS_PER_MULTIPROCESSOR: Self = Self(39);
    pub const ASYNC_ENGINE_COUNT: Self = Self(40);
    pub const UNIFIED_ADDRESSING: Self = Self(41);
    pub const PCI_DOMAIN_ID: Self = Self(50);
    pub const TEXTURE_PITCH_ALIGNMENT: Self = Self(51);
    pub const COMPUTE_CAPABILITY_MAJOR: Self = Self(75);
    pub const COMPUTE_CAPABILITY_MINOR: Self = Self(76);
    pub const STREAM_PRIORITIES_SUPPORTED: Self = Self(78);
    pub const GLOBAL_L1_CACHE_SUPPORTED: Self = Self(79);
    pub const LOCAL_L1_CACHE_SUPPORTED: Self = Self(80);
    pub const MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: Self = Self(81);
    pub const MAX_REGISTERS_PER_MULTIPROCESSOR: Self = Self(82);
    pub const MANAGED_MEMORY: Self = Self(83);
    pub const MULTI_GPU_BOARD: Self = Self(84);
    pub const HOST_NATIVE_ATOMIC_SUPPORTED: Self = Self(86);
    pub const SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO: Self = Self(87);
    pub const PAGEABLE_MEMORY_ACCESS: Self = Self(88);
    pub const CONCURRENT_MANAGED_ACCESS: Self = Self(89);
    pub const COMPUTE_PREEMPTION_SUPPORTED: Self = Self(90);
    pub const CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM: Self = Self(91);
    pub const COOPERATIVE_LAUNCH: Self = Self(95);
    pub const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: Self = Self(97);
    pub const CAN_FLUSH_REMOTE_WRITES: Self = Self(98);
    pub const HOST_REGISTER_SUPPORTED: Self = Self(99);
    pub const PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES: Self = Self(100);
    pub const DIRECT_MANAGED_MEM_ACCESS_FROM_HOST: Self = Self(101);
    pub const VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: Self = Self(102);
    pub const MAX_BLOCKS_PER_MULTIPROCESSOR: Self = Self(106);
    pub const RESERVED_SHARED_MEMORY_PER_BLOCK: Self = Self(111);
    pub const MEMORY_POOLS_SUPPORTED: Self = Self(115);
    pub const CLUSTER_LAUNCH: Self = Self(120);
    pub const UNIFIED_FUNCTION_POINTERS: Self = Self(123);
    /// One past the last attribute of cuda.h that travels with the device facts.
    pub const COUNT: i32 = 160;
}
