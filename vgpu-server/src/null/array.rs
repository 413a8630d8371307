//! Arrays of a device that computes nothing: names without texels.

use cuda_types::{CUarray, CUmipmappedArray, CUstream, CuResult};
use proto::ArrayCalls;
use proto::param::{ArrayDesc, Copy3D, Resource, TextureDesc};

use super::NullGpu;

impl ArrayCalls for NullGpu {
    fn cuArray3DCreate_v2(&self, _: ArrayDesc) -> CuResult<CUarray> {
        Ok(CUarray(self.handle()))
    }
    fn cuArrayDestroy(&self, _: CUarray) -> CuResult<()> {
        Ok(())
    }
    fn cuMipmappedArrayCreate(&self, _: ArrayDesc, _: u32) -> CuResult<CUmipmappedArray> {
        Ok(CUmipmappedArray(self.handle()))
    }
    fn cuMipmappedArrayDestroy(&self, _: CUmipmappedArray) -> CuResult<()> {
        Ok(())
    }
    fn cuMipmappedArrayGetLevel(&self, _: CUmipmappedArray, _: u32) -> CuResult<CUarray> {
        Ok(CUarray(self.handle()))
    }
    fn cuMemcpy3DAsync_v2(&self, _: Copy3D, _: CUstream) -> CuResult<()> {
        Ok(())
    }
    fn cuTexObjectCreate(&self, _: Resource, _: TextureDesc) -> CuResult<u64> {
        Ok(self.handle())
    }
    fn cuTexObjectDestroy(&self, _: u64) -> CuResult<()> {
        Ok(())
    }
    fn cuSurfObjectCreate(&self, _: Resource) -> CuResult<u64> {
        Ok(self.handle())
    }
    fn cuSurfObjectDestroy(&self, _: u64) -> CuResult<()> {
        Ok(())
    }
}
