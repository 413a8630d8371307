//! Chapter 0x04: modules and their kernels.

use cuda_types::{CUfunction, CUmodule};

use crate::param::{InImages, InStr, Loaded, Named};

/// The opcode that ends a module's name.
pub(crate) const UNLOAD: u16 = 0x0402;
pub(crate) const GET_FUNCTION: u16 = 0x0403;

macro_rules! module_calls {
    ($reader:path) => {
        $reader! {
            /// Calls about modules and their kernels.
            trait ModuleCalls; rows ROWS;

            /// Loads a module from one image (fatbin, cubin, PTX text), or links several. Kernels, parameter layouts,
            /// attributes and variables come back as facts.
            0x0401 since 1 wait fn cuModuleLoadData(images: InImages) -> Loaded;
            /// Unloads a module, once its kernels are done.
            0x0402 since 1 post fn cuModuleUnload(module: CUmodule);
            /// A kernel by its name in the module's symbol table.
            0x0403 since 1 post fn cuModuleGetFunction(module: CUmodule, name: InStr) -> Named<CUfunction>;
            /// Sets a `CUfunction_attribute`: dynamic shared memory, carve-out.
            0x0404 since 1 post fn cuFuncSetAttribute(func: CUfunction, attribute: i32, value: i32);
            /// Reads a `CUfunction_attribute`.
            0x0405 since 1 wait fn cuFuncGetAttribute(func: CUfunction, attribute: i32) -> i32;
            /// Prefers L1 or shared memory (`CUfunc_cache`).
            0x0406 since 1 post fn cuFuncSetCacheConfig(func: CUfunction, config: u32);
            /// Blocks of `block_size` threads that fit on one multiprocessor.
            0x0407 since 1 wait fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                func: CUfunction, block_size: i32, dynamic_shared_bytes: u64, flags: u32,
            ) -> i32;
        }
    };
}

/// Bytes of the arguments of a `cuModuleLoadData`. More than [`MESSAGE_LIMIT`](crate::codec::MESSAGE_LIMIT) end the
/// session, so whoever makes the call compares them first.
pub fn load_bytes(images: &[&[u8]]) -> u64 {
    const NAME_BYTES: u64 = 8;
    const COUNT_BYTES: u64 = 8;
    const LENGTH_BYTES: u64 = 8;
    NAME_BYTES + COUNT_BYTES + images.iter().map(|image| LENGTH_BYTES + image.len() as u64).sum::<u64>()
}

module_calls!(crate::calls::declare);
module_calls!(crate::calls::remote);
module_calls!(crate::calls::serve);
#[cfg(test)]
module_calls!(crate::calls::tests::probe);
