//! Events.

use super::as_the_runtime;
use crate::edge::Out;
use crate::runtime::event as runtime;

as_the_runtime! {
    /// Makes an event.
    fn cuEventCreate(event: Out<'_, u64>, flags: u32) = runtime::cudaEventCreateWithFlags;
    /// Ends an event; what waits for it is not disturbed.
    fn cuEventDestroy(event: u64) = runtime::cudaEventDestroy;
    /// Ends an event; what waits for it is not disturbed.
    fn cuEventDestroy_v2(event: u64) = runtime::cudaEventDestroy;
    /// Waits for the event's last recording.
    fn cuEventSynchronize(event: u64) = runtime::cudaEventSynchronize;
    /// Whether the event's last recording is complete.
    fn cuEventQuery(event: u64) = runtime::cudaEventQuery;
    /// Milliseconds between two recordings.
    fn cuEventElapsedTime(milliseconds: Out<'_, f32>, start: u64, end: u64) = runtime::cudaEventElapsedTime;
    /// Milliseconds between two recordings.
    fn cuEventElapsedTime_v2(milliseconds: Out<'_, f32>, start: u64, end: u64) = runtime::cudaEventElapsedTime_v2;
    /// Records the event in the stream.
    fn cuEventRecord(event: u64, stream: u64) = runtime::cudaEventRecord;
    /// Records the event in the stream.
    fn cuEventRecord_ptsz(event: u64, stream: u64) = runtime::cudaEventRecord_ptsz;
    /// Records the event in the stream; flag 1 makes a captured recording a node.
    fn cuEventRecordWithFlags(event: u64, stream: u64, flags: u32) = runtime::cudaEventRecordWithFlags;
    /// Records the event in the stream; flag 1 makes a captured recording a node.
    fn cuEventRecordWithFlags_ptsz(event: u64, stream: u64, flags: u32) = runtime::cudaEventRecordWithFlags_ptsz;
}
