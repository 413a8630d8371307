//! Chapter 0x09: arrays, and the texture and surface objects through which kernels reach them.

use cuda_types::{CUarray, CUmipmappedArray, CUstream};

use crate::param::{ArrayDesc, Copy3D, Named, Resource, TextureDesc};

/// The opcodes that end an array's name.
pub(crate) const DESTROY: u16 = 0x0902;
pub(crate) const DESTROY_MIPMAPPED: u16 = 0x0904;

macro_rules! array_calls {
    ($reader:path) => {
        $reader! {
            /// Calls about arrays, textures and surfaces.
            trait ArrayCalls; rows ROWS;

            /// Makes an array.
            0x0901 since 1 post fn cuArray3DCreate_v2(array: ArrayDesc) -> Named<CUarray>;
            /// Ends an array, once the work that was given before is done.
            0x0902 since 1 post fn cuArrayDestroy(array: CUarray);
            /// Makes `levels` arrays, each half as large as the one before.
            0x0903 since 1 post fn cuMipmappedArrayCreate(array: ArrayDesc, levels: u32) -> Named<CUmipmappedArray>;
            /// Ends a mipmapped array and its levels.
            0x0904 since 1 post fn cuMipmappedArrayDestroy(array: CUmipmappedArray);
            /// Names a level; it lives as long as the whole.
            0x0905 since 1 post fn cuMipmappedArrayGetLevel(array: CUmipmappedArray, level: u32) -> Named<CUarray>;
            /// Copies a box between arrays, or between an array and device memory, in stream order.
            0x0910 since 1 post fn cuMemcpy3DAsync_v2(copy: Copy3D, stream: CUstream);
            /// Makes a texture object. Kernels read its handle as bits, so it is the device's own.
            0x0920 since 1 wait fn cuTexObjectCreate(resource: Resource, texture: TextureDesc) -> u64;
            /// Ends a texture object.
            0x0921 since 1 post fn cuTexObjectDestroy(object: u64);
            /// Makes a surface object, whose handle is the device's own.
            0x0922 since 1 wait fn cuSurfObjectCreate(resource: Resource) -> u64;
            /// Ends a surface object.
            0x0923 since 1 post fn cuSurfObjectDestroy(object: u64);
        }
    };
}

array_calls!(crate::calls::declare);
array_calls!(crate::calls::remote);
array_calls!(crate::calls::serve);
#[cfg(test)]
array_calls!(crate::calls::tests::probe);
