//! Chapter 0x05: streams.

use cuda_types::{CUdeviceptr, CUevent, CUstream};

use crate::param::Named;

/// The opcode that ends a stream's name.
pub(crate) const DESTROY: u16 = 0x0502;

macro_rules! stream_calls {
    ($reader:path) => {
        $reader! {
            /// Calls about streams. Handle 0 and 1 are the legacy default stream.
            trait StreamCalls; rows ROWS;

            /// Makes a stream; flags 1 = does not synchronize with the legacy default stream.
            0x0501 since 1 post fn cuStreamCreateWithPriority(flags: u32, priority: i32) -> Named<CUstream>;
            /// Ends a stream, once its work is done; does not wait.
            0x0502 since 1 post fn cuStreamDestroy_v2(stream: CUstream);
            /// Waits until the stream's work is done.
            0x0503 since 1 wait fn cuStreamSynchronize(stream: CUstream);
            /// Whether the stream's work is done: `Ok`, or `CUDA_ERROR_NOT_READY`.
            0x0504 since 1 wait fn cuStreamQuery(stream: CUstream);
            /// Later work of the stream waits for the event's last recording.
            0x0505 since 1 post fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: u32);
            /// Later work of the stream waits until a word of device memory meets a condition (`CUstreamWaitValue_flags`).
            /// It waits on the device: the call itself returns at once. But one behind it that waits for the whole device,
            /// as `cuMemFree_v2` does, holds up all others until the word is there.
            0x0506 since 3 post fn cuStreamWaitValue32_v2(stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32);
            /// As `cuStreamWaitValue32_v2`, for 64 bits.
            0x0507 since 3 post fn cuStreamWaitValue64_v2(stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32);
            /// Writes a word of device memory in one piece, when all earlier work of the stream can be seen.
            0x0508 since 3 post fn cuStreamWriteValue32_v2(stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32);
            /// As `cuStreamWriteValue32_v2`, for 64 bits.
            0x0509 since 3 post fn cuStreamWriteValue64_v2(stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32);
        }
    };
}

stream_calls!(crate::calls::declare);
stream_calls!(crate::calls::remote);
stream_calls!(crate::calls::serve);
#[cfg(test)]
stream_calls!(crate::calls::tests::probe);
