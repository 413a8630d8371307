//! Chapter 0x08: what concerns the link itself: bytes that travel beside the calls, and signals between streams and
//! the client. The worker implements these, for every device alike.

use cuda_types::{CUdeviceptr, CUevent, CUstream};

macro_rules! transfer_calls {
    ($reader:path) => {
        $reader! {
            /// Calls about bytes and signals between client and worker (docs/architecture.md, "Bulk bytes").
            trait TransferCalls; rows ROWS;

            /// Copies bytes that came with a bulk frame, from the upload staging at `staging`, to the device. The
            /// range is granted again when the copy is done.
            0x0801 since 1 post fn vgpuStagedHtoD(dst: CUdeviceptr, staging: u64, bytes: u64, stream: CUstream);
            /// Copies client memory to the device in stream order: when the stream arrives here, the worker asks for
            /// the bytes of `copy`; the stream goes on when they are on the device.
            0x0802 since 1 post fn vgpuPullHtoD(copy: u64, dst: CUdeviceptr, bytes: u64, stream: CUstream);
            /// Copies device memory to the client in stream order; the bytes land in the client memory that it named
            /// `copy`, before any reply or notice that covers them.
            0x0803 since 1 post fn vgpuLandDtoH(copy: u64, src: CUdeviceptr, bytes: u64, stream: CUstream);
            /// When the stream arrives here, tells the client to run host function `gate`; the stream waits until the
            /// client opens the gate of that name.
            0x0804 since 1 post fn vgpuHostFunction(gate: u64, stream: CUstream);
            /// The stream waits until the client opens `gate`.
            0x0805 since 1 post fn vgpuGateWait(gate: u64, stream: CUstream);
            /// Sends a notice when the event's last recording is complete.
            0x0806 since 1 post fn vgpuAnnounceEvent(notice: u64, event: CUevent);
            /// Sends a notice when all work posted to the stream so far is complete.
            0x0807 since 1 post fn vgpuAnnounceStream(notice: u64, stream: CUstream);
        }
    };
}

transfer_calls!(crate::calls::declare);
transfer_calls!(crate::calls::remote);
transfer_calls!(crate::calls::serve);
#[cfg(test)]
transfer_calls!(crate::calls::tests::probe);
