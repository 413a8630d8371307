//! Copies and moves of managed memory in batches, and copies with attributes. Their structures are the runtime's.

use std::ffi::{c_int, c_void};

use super::as_the_runtime;
use crate::edge::Out;
use crate::runtime::batch::{self as runtime, CopyAttributes, Operation};
use crate::runtime::managed::{self, Location};

as_the_runtime! {
    /// Copies bytes in a batch; which copy was refused is told.
    fn cuMemcpyBatchAsync(dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, attributes: *const CopyAttributes, firsts: *const usize, kinds: usize, failed: Out<'_, usize>, stream: u64) = runtime::batch_12;
    /// Copies bytes in a batch; which copy was refused is told.
    fn cuMemcpyBatchAsync_ptsz(dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, attributes: *const CopyAttributes, firsts: *const usize, kinds: usize, failed: Out<'_, usize>, stream: u64) = runtime::batch_12_ptsz;
    /// Copies bytes in a batch.
    fn cuMemcpyBatchAsync_v2(dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, attributes: *const CopyAttributes, firsts: *const usize, kinds: usize, stream: u64) = runtime::batch_13;
    /// Copies bytes in a batch.
    fn cuMemcpyBatchAsync_v2_ptsz(dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, attributes: *const CopyAttributes, firsts: *const usize, kinds: usize, stream: u64) = runtime::batch_13_ptsz;
    /// Copies boxes in a batch; which copy was refused is told.
    fn cuMemcpy3DBatchAsync(count: usize, operations: *const Operation, failed: Out<'_, usize>, flags: u64, stream: u64) = runtime::boxes_12;
    /// Copies boxes in a batch; which copy was refused is told.
    fn cuMemcpy3DBatchAsync_ptsz(count: usize, operations: *const Operation, failed: Out<'_, usize>, flags: u64, stream: u64) = runtime::boxes_12_ptsz;
    /// Copies boxes in a batch.
    fn cuMemcpy3DBatchAsync_v2(count: usize, operations: *const Operation, flags: u64, stream: u64) = runtime::boxes_13;
    /// Copies boxes in a batch.
    fn cuMemcpy3DBatchAsync_v2_ptsz(count: usize, operations: *const Operation, flags: u64, stream: u64) = runtime::boxes_13_ptsz;
    /// Copies bytes, with what a copy of a batch can be told.
    fn cuMemcpyWithAttributesAsync(dst: u64, src: u64, bytes: usize, attributes: Option<&CopyAttributes>, stream: u64) = runtime::cudaMemcpyWithAttributesAsync;
    /// Copies bytes, with what a copy of a batch can be told.
    fn cuMemcpyWithAttributesAsync_ptsz(dst: u64, src: u64, bytes: usize, attributes: Option<&CopyAttributes>, stream: u64) = runtime::cudaMemcpyWithAttributesAsync_ptsz;
    /// Copies a box, as an operation of a batch has it.
    fn cuMemcpy3DWithAttributesAsync(operation: Option<&Operation>, flags: u64, stream: u64) = runtime::cudaMemcpy3DWithAttributesAsync;
    /// Copies a box, as an operation of a batch has it.
    fn cuMemcpy3DWithAttributesAsync_ptsz(operation: Option<&Operation>, flags: u64, stream: u64) = runtime::cudaMemcpy3DWithAttributesAsync_ptsz;
    /// Moves managed memory to locations, in a batch.
    fn cuMemPrefetchBatchAsync(pointers: *const u64, sizes: *const usize, count: usize, locations: *const Location, firsts: *const usize, kinds: usize, flags: u64, stream: u64) = managed::cudaMemPrefetchBatchAsync;
    /// Moves managed memory to locations, in a batch.
    fn cuMemPrefetchBatchAsync_ptsz(pointers: *const u64, sizes: *const usize, count: usize, locations: *const Location, firsts: *const usize, kinds: usize, flags: u64, stream: u64) = managed::cudaMemPrefetchBatchAsync_ptsz;
    /// Moves managed memory whose bytes are no longer wanted.
    fn cuMemDiscardAndPrefetchBatchAsync(pointers: *const u64, sizes: *const usize, count: usize, locations: *const Location, firsts: *const usize, kinds: usize, flags: u64, stream: u64) = managed::cudaMemDiscardAndPrefetchBatchAsync;
    /// Moves managed memory whose bytes are no longer wanted.
    fn cuMemDiscardAndPrefetchBatchAsync_ptsz(pointers: *const u64, sizes: *const usize, count: usize, locations: *const Location, firsts: *const usize, kinds: usize, flags: u64, stream: u64) = managed::cudaMemDiscardAndPrefetchBatchAsync_ptsz;
    /// Says that the bytes of managed memory are no longer wanted.
    fn cuMemDiscardBatchAsync(pointers: *const u64, sizes: *const usize, count: usize, flags: u64, stream: u64) = managed::cudaMemDiscardBatchAsync;
    /// Says that the bytes of managed memory are no longer wanted.
    fn cuMemDiscardBatchAsync_ptsz(pointers: *const u64, sizes: *const usize, count: usize, flags: u64, stream: u64) = managed::cudaMemDiscardBatchAsync_ptsz;
    /// What was said about a range of managed memory.
    fn cuMemRangeGetAttribute(data: *mut c_void, data_bytes: usize, attribute: c_int, pointer: u64, bytes: usize) = managed::cudaMemRangeGetAttribute;
    /// Several things that were said about a range of managed memory.
    fn cuMemRangeGetAttributes(data: *const *mut c_void, data_bytes: *const usize, attributes: *const c_int, count: usize, pointer: u64, bytes: usize) = managed::cudaMemRangeGetAttributes;
}
