//! Memory of a device that computes nothing: chunks of the host's.

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult};
use proto::param::Copy2D;
use proto::{ContextCalls, MemoryCalls, StreamCalls};

use super::{NullGpu, Place, State, TOTAL_BYTES, Work, sample};

/// Physical memory of the client's making. Only its bytes are counted: a mapping has a chunk of its own.
pub(super) struct Physical {
    bytes: u64,
    mappings: usize,
    is_released: bool,
}

impl MemoryCalls for NullGpu {
    fn vgpuMemMap(&self, address: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        let bytes = usize::try_from(bytes).map_err(|_| CuError::OUT_OF_MEMORY)?;
        if state.used + bytes as u64 > TOTAL_BYTES {
            return Err(CuError::OUT_OF_MEMORY);
        }
        state.used += bytes as u64;
        state.chunks.insert(address, vec![0; bytes]);
        Ok(())
    }
    fn vgpuMemUnmap(&self, address: u64, _: u64) -> CuResult<()> {
        let mut state = self.lock();
        let chunk = state.chunks.remove(&address).ok_or(CuError::INVALID_VALUE)?;
        state.used -= chunk.len() as u64;
        Ok(())
    }
    fn cuMemAlloc_v2(&self, dptr: CUdeviceptr, bytesize: u64) -> CuResult<()> {
        let bytes = usize::try_from(bytesize).map_err(|_| CuError::INVALID_VALUE)?;
        self.lock().bytes(dptr.0, bytes).map(drop).ok_or(CuError::INVALID_VALUE)
    }
    fn cuMemFree_v2(&self, _: CUdeviceptr) -> CuResult<()> {
        self.cuCtxSynchronize()
    }
    fn cuMemGetInfo_v2(&self) -> CuResult<(u64, u64)> {
        Ok((TOTAL_BYTES - self.lock().used, TOTAL_BYTES))
    }
    fn vgpuMemCreate(&self, physical: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        if bytes > TOTAL_BYTES - state.used {
            return Err(CuError::OUT_OF_MEMORY);
        }
        state.used += bytes;
        state.physical.insert(physical, Physical { bytes, mappings: 0, is_released: false });
        Ok(())
    }
    fn vgpuMemRelease(&self, physical: u64) -> CuResult<()> {
        let mut state = self.lock();
        state.physical.get_mut(&physical).ok_or(CuError::INVALID_HANDLE)?.is_released = true;
        state.drop_unused(physical);
        Ok(())
    }
    fn vgpuMemMapPhysical(&self, address: u64, bytes: u64, _: u64, physical: u64) -> CuResult<()> {
        let mut state = self.lock();
        let room = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        state.physical.get_mut(&physical).ok_or(CuError::INVALID_HANDLE)?.mappings += 1;
        state.chunks.insert(address, vec![0; room]);
        state.mapped.insert(address, physical);
        Ok(())
    }
    fn vgpuMemUnmapPhysical(&self, address: u64, bytes: u64) -> CuResult<()> {
        self.cuCtxSynchronize()?;
        let mut state = self.lock();
        let end = address.saturating_add(bytes);
        let ended: Vec<(u64, u64)> =
            state.mapped.range(address..end).map(|(at, number)| (*at, *number)).collect();
        for (at, number) in ended {
            state.mapped.remove(&at);
            state.chunks.remove(&at);
            if let Some(physical) = state.physical.get_mut(&number) {
                physical.mappings -= 1;
            }
            state.drop_unused(number);
        }
        Ok(())
    }
    fn vgpuMemSetAccess(&self, address: u64, _: u64, _: u32) -> CuResult<()> {
        self.lock().mapped.contains_key(&address).then_some(()).ok_or(CuError::INVALID_VALUE)
    }
    fn cuMemcpyHtoD_v2(&self, dst: CUdeviceptr, src: &[u8], _: CUstream) -> CuResult<()> {
        let mut state = self.lock();
        state.tally.bytes_up += src.len() as u64;
        if self.dma_free {
            state.tally.sampled_sum = state.tally.sampled_sum.wrapping_add(sample(src));
        } else {
            state.bytes(dst.0, src.len()).ok_or(CuError::INVALID_VALUE)?.copy_from_slice(src);
        }
        Ok(())
    }
    fn cuMemcpyDtoH_v2(&self, src: CUdeviceptr, bytes: u64, stream: CUstream) -> CuResult<Vec<u8>> {
        self.cuStreamSynchronize(stream)?;
        let bytes = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        let mut state = self.lock();
        state.tally.bytes_down += bytes as u64;
        state.bytes(src.0, bytes).map(|bytes| bytes.to_vec()).ok_or(CuError::INVALID_VALUE)
    }
    fn cuMemcpyDtoDAsync_v2(
        &self,
        dst: CUdeviceptr,
        src: CUdeviceptr,
        bytes: u64,
        stream: CUstream,
    ) -> CuResult<()> {
        let bytes = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        self.submit(stream, Work::Copy { to: Place::Device(dst.0), from: Place::Device(src.0), bytes });
        Ok(())
    }
    fn cuMemcpy2DAsync_v2(&self, copy: Copy2D, stream: CUstream) -> CuResult<()> {
        for row in 0..copy.height {
            let (dst, src) = (copy.dst.0 + row * copy.dst_pitch, copy.src.0 + row * copy.src_pitch);
            self.cuMemcpyDtoDAsync_v2(CUdeviceptr(dst), CUdeviceptr(src), copy.width, stream)?;
        }
        Ok(())
    }
    fn cuMemsetD8Async(&self, dst: CUdeviceptr, value: u8, count: u64, _: CUstream) -> CuResult<()> {
        self.memset(dst, count, |bytes| bytes.fill(value))
    }
    fn cuMemsetD16Async(&self, dst: CUdeviceptr, value: u16, count: u64, _: CUstream) -> CuResult<()> {
        self.memset(dst, count * 2, |bytes| {
            bytes.as_chunks_mut().0.iter_mut().for_each(|word| *word = value.to_le_bytes());
        })
    }
    fn cuMemsetD32Async(&self, dst: CUdeviceptr, value: u32, count: u64, _: CUstream) -> CuResult<()> {
        self.memset(dst, count * 4, |bytes| {
            bytes.as_chunks_mut().0.iter_mut().for_each(|word| *word = value.to_le_bytes());
        })
    }
    fn cuMemsetD2D8Async(
        &self,
        dst: CUdeviceptr,
        pitch: u64,
        value: u8,
        width: u64,
        height: u64,
        stream: CUstream,
    ) -> CuResult<()> {
        (0..height)
            .try_for_each(|row| self.cuMemsetD8Async(CUdeviceptr(dst.0 + row * pitch), value, width, stream))
    }
}

impl NullGpu {
    fn memset(&self, dst: CUdeviceptr, bytes: u64, fill: impl Fn(&mut [u8])) -> CuResult<()> {
        let bytes = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        let mut state = self.lock();
        fill(state.bytes(dst.0, bytes).ok_or(CuError::INVALID_VALUE)?);
        Ok(())
    }
}

impl State {
    /// Frees physical memory that nobody holds and that is mapped nowhere.
    fn drop_unused(&mut self, number: u64) {
        let unused = |physical: &Physical| physical.is_released && physical.mappings == 0;
        if self.physical.get(&number).is_some_and(unused)
            && let Some(physical) = self.physical.remove(&number)
        {
            self.used -= physical.bytes;
        }
    }
}
