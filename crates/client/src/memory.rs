//! Device memory: addresses are chosen here, inside the session's window.

use std::sync::PoisonError;

use cuda_types::{CUdeviceptr, CuError, CuResult};
use proto::MemoryCalls;
use proto::calls;
use proto::codec;
use window::Chunk;

use crate::session::Session;
use crate::virtual_memory::Access;

impl Session {
    /// `cuMemAlloc`: costs a round trip only when the device must map a further chunk.
    pub fn cuMemAlloc(&self, bytes: u64) -> CuResult<CUdeviceptr> {
        self.check()?;
        if bytes == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        if bytes > self.facts.total_memory {
            return Err(CuError::OUT_OF_MEMORY);
        }
        match self.place(bytes) {
            Err(CuError::OUT_OF_MEMORY) => {
                // What is freed but not yet known to be unused may be enough.
                self.cuMemGetInfo_v2()?;
                self.unmap_empty_chunks()?;
                self.place(bytes)
            }
            placed => placed,
        }
    }

    fn place(&self, bytes: u64) -> CuResult<CUdeviceptr> {
        // One at a time: nobody may be given a part of a chunk that is still being mapped.
        let _one = self.allocating.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = {
            let state = self.state();
            state.quarantine.iter().map(|(_, _, bytes)| bytes).sum::<u64>()
        };
        let mut state = self.state();
        let mut placement =
            state.window.allocate(bytes, window::GRANULE_BYTES).map_err(|_| CuError::OUT_OF_MEMORY)?;
        if placement.new_chunk.is_some() && waiting >= bytes {
            // A range that is only waiting to be released will do; ask how far the device is.
            state.window.undo(placement);
            drop(state);
            self.cuMemGetInfo_v2()?;
            state = self.state();
            placement =
                state.window.allocate(bytes, window::GRANULE_BYTES).map_err(|_| CuError::OUT_OF_MEMORY)?;
        }
        if let Some(chunk) = placement.new_chunk.as_ref().map(|chunk| (chunk.address, chunk.bytes)) {
            drop(state);
            let mapped = self.vgpuMemMap(chunk.0, chunk.1);
            if let Err(error) = mapped {
                self.state().window.undo(placement);
                return Err(error);
            }
        } else {
            drop(state);
        }
        let address = CUdeviceptr(placement.address);
        self.cuMemAlloc_v2(address, bytes)?;
        Ok(address)
    }

    pub(crate) fn unmap_empty_chunks(&self) -> CuResult<()> {
        let chunks: Vec<Chunk> = {
            let mut state = self.state();
            let chunks = state.window.empty_chunks();
            chunks.into_iter().filter(|chunk| state.window.remove_chunk(chunk.address)).collect()
        };
        chunks.iter().try_for_each(|chunk| self.vgpuMemUnmap(chunk.address, chunk.bytes))
    }

    /// `cuMemFree`: the range is given out again when the worker has issued the free, which waits for the device.
    pub fn cuMemFree(&self, address: CUdeviceptr) -> CuResult<()> {
        self.check()?;
        let freed = self.state().window.free(address.0).ok_or(CuError::INVALID_VALUE)?;
        let row = calls::row(0x0304).expect("cuMemFree_v2 is in the table");
        let call = self.post_call(row, |out| codec::put(out, address))?;
        self.state().quarantine.push_back((call, freed.ticket, freed.bytes));
        Ok(())
    }

    /// The allocation or the mapping that holds `address`: its start and length.
    pub fn allocation(&self, address: CUdeviceptr) -> Option<(CUdeviceptr, u64)> {
        let state = self.state();
        let found = state.window.containing(address.0).or_else(|| state.virtual_memory.containing(address.0));
        found.map(|(start, bytes)| (CUdeviceptr(start), bytes))
    }

    /// Whether `address` belongs to this device's window.
    pub fn owns(&self, address: CUdeviceptr) -> bool {
        self.state().window.holds(address.0)
    }

    /// A range inside the window must lie in one allocation, or in mappings side by side that can be read. What lies
    /// outside (variables of modules) the device itself checks.
    pub fn check_range(&self, address: CUdeviceptr, bytes: u64) -> CuResult<()> {
        self.check_access(address, bytes, Access::Read)
    }

    /// As [`check_range`](Session::check_range), for a range that will be written.
    pub fn check_target(&self, address: CUdeviceptr, bytes: u64) -> CuResult<()> {
        self.check_access(address, bytes, Access::ReadWrite)
    }

    fn check_access(&self, address: CUdeviceptr, bytes: u64, access: Access) -> CuResult<()> {
        let state = self.state();
        if !state.window.holds(address.0) {
            return if address.is_null() { Err(CuError::INVALID_VALUE) } else { Ok(()) };
        }
        let inside = match state.window.containing(address.0) {
            Some((start, length)) => bytes <= length - (address.0 - start),
            None => state.virtual_memory.allows(access, address.0, bytes),
        };
        inside.then_some(()).ok_or(CuError::INVALID_VALUE)
    }
}
