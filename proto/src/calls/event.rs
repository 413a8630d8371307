//! Chapter 0x06: events.

use cuda_types::{CUevent, CUstream};

use crate::param::Named;

/// The opcode that ends an event's name.
pub(crate) const DESTROY: u16 = 0x0602;

macro_rules! event_calls {
    ($reader:path) => {
        $reader! {
            /// Calls about events.
            trait EventCalls; rows ROWS;

            /// Makes an event; flags 2 = without timing.
            0x0601 since 1 post fn cuEventCreate(flags: u32) -> Named<CUevent>;
            /// Ends an event; work that waits for it is not disturbed.
            0x0602 since 1 post fn cuEventDestroy_v2(event: CUevent);
            /// Records the event in the stream.
            0x0603 since 1 post fn cuEventRecord(event: CUevent, stream: CUstream);
            /// Waits for the event's last recording.
            0x0604 since 1 wait fn cuEventSynchronize(event: CUevent);
            /// Whether the last recording is complete: `Ok`, or `CUDA_ERROR_NOT_READY`.
            0x0605 since 1 wait fn cuEventQuery(event: CUevent);
            /// Milliseconds between two recordings, to half a microsecond.
            0x0606 since 1 wait fn cuEventElapsedTime(start: CUevent, end: CUevent) -> f32;
        }
    };
}

event_calls!(crate::calls::declare);
event_calls!(crate::calls::remote);
event_calls!(crate::calls::serve);
#[cfg(test)]
event_calls!(crate::calls::tests::probe);
