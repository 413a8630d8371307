//! Streams, host functions and captures.

use std::ffi::{c_int, c_void};

use super::{as_the_runtime, context, twins};
use crate::edge::{Out, Required};
use crate::handles::resolve;
use crate::runtime::{capture, stream as runtime, stream_attributes};

as_the_runtime! {
    /// Makes a stream.
    fn cuStreamCreate(stream: Out<'_, u64>, flags: u32) = runtime::cudaStreamCreateWithFlags;
    /// Makes a stream with a priority.
    fn cuStreamCreateWithPriority(stream: Out<'_, u64>, flags: u32, priority: c_int) = runtime::cudaStreamCreateWithPriority;
    /// Ends a stream; what it still has to do is done.
    fn cuStreamDestroy(stream: u64) = runtime::cudaStreamDestroy;
    /// Ends a stream; what it still has to do is done.
    fn cuStreamDestroy_v2(stream: u64) = runtime::cudaStreamDestroy;
    /// Waits until the stream's work is done.
    fn cuStreamSynchronize(stream: u64) = runtime::cudaStreamSynchronize;
    /// Waits until the stream's work is done.
    fn cuStreamSynchronize_ptsz(stream: u64) = runtime::cudaStreamSynchronize_ptsz;
    /// Whether the stream's work is done.
    fn cuStreamQuery(stream: u64) = runtime::cudaStreamQuery;
    /// Whether the stream's work is done.
    fn cuStreamQuery_ptsz(stream: u64) = runtime::cudaStreamQuery_ptsz;
    /// Later work of the stream waits for the event's last recording.
    fn cuStreamWaitEvent(stream: u64, event: u64, flags: u32) = runtime::cudaStreamWaitEvent;
    /// Later work of the stream waits for the event's last recording.
    fn cuStreamWaitEvent_ptsz(stream: u64, event: u64, flags: u32) = runtime::cudaStreamWaitEvent_ptsz;
    /// The flags that the stream was made with.
    fn cuStreamGetFlags(stream: u64, flags: Out<'_, u32>) = runtime::cudaStreamGetFlags;
    /// The flags that the stream was made with.
    fn cuStreamGetFlags_ptsz(stream: u64, flags: Out<'_, u32>) = runtime::cudaStreamGetFlags_ptsz;
    /// The priority that the stream has.
    fn cuStreamGetPriority(stream: u64, priority: Out<'_, c_int>) = runtime::cudaStreamGetPriority;
    /// The priority that the stream has.
    fn cuStreamGetPriority_ptsz(stream: u64, priority: Out<'_, c_int>) = runtime::cudaStreamGetPriority_ptsz;
    /// A number that no other stream of the process has.
    fn cuStreamGetId(stream: u64, id: Out<'_, u64>) = runtime::cudaStreamGetId;
    /// A number that no other stream of the process has.
    fn cuStreamGetId_ptsz(stream: u64, id: Out<'_, u64>) = runtime::cudaStreamGetId_ptsz;
    /// The device of the stream.
    fn cuStreamGetDevice(stream: u64, device: Out<'_, c_int>) = runtime::cudaStreamGetDevice;
    /// The device of the stream.
    fn cuStreamGetDevice_ptsz(stream: u64, device: Out<'_, c_int>) = runtime::cudaStreamGetDevice_ptsz;
    /// Runs a host function in stream order.
    fn cuLaunchHostFunc(stream: u64, function: Option<runtime::HostFunction>, data: *mut c_void) = runtime::cudaLaunchHostFunc;
    /// Runs a host function in stream order.
    fn cuLaunchHostFunc_ptsz(stream: u64, function: Option<runtime::HostFunction>, data: *mut c_void) = runtime::cudaLaunchHostFunc_ptsz;
    /// Runs a host function in stream order; how it is waited for is a wish.
    fn cuLaunchHostFunc_v2(stream: u64, function: Option<runtime::HostFunction>, data: *mut c_void, mode: u32) = runtime::cudaLaunchHostFunc_v2;
    /// Runs a host function in stream order; how it is waited for is a wish.
    fn cuLaunchHostFunc_v2_ptsz(stream: u64, function: Option<runtime::HostFunction>, data: *mut c_void, mode: u32) = runtime::cudaLaunchHostFunc_v2_ptsz;
    /// An attribute of a stream.
    fn cuStreamGetAttribute(stream: u64, attribute: u32, value: Out<'_, stream_attributes::Value>) = stream_attributes::cudaStreamGetAttribute;
    /// An attribute of a stream.
    fn cuStreamGetAttribute_ptsz(stream: u64, attribute: u32, value: Out<'_, stream_attributes::Value>) = stream_attributes::cudaStreamGetAttribute_ptsz;
    /// Sets an attribute of a stream.
    fn cuStreamSetAttribute(stream: u64, attribute: u32, value: Option<&stream_attributes::Value>) = stream_attributes::cudaStreamSetAttribute;
    /// Sets an attribute of a stream.
    fn cuStreamSetAttribute_ptsz(stream: u64, attribute: u32, value: Option<&stream_attributes::Value>) = stream_attributes::cudaStreamSetAttribute_ptsz;
    /// Sets the attributes of a stream to those of another one.
    fn cuStreamCopyAttributes(dst: u64, src: u64) = stream_attributes::cudaStreamCopyAttributes;
    /// Sets the attributes of a stream to those of another one.
    fn cuStreamCopyAttributes_ptsz(dst: u64, src: u64) = stream_attributes::cudaStreamCopyAttributes_ptsz;
    /// Runs a callback in stream order, also after an error.
    fn cuStreamAddCallback(stream: u64, callback: Option<runtime::Callback>, data: *mut c_void, flags: u32) = runtime::cudaStreamAddCallback;
    /// Runs a callback in stream order, also after an error.
    fn cuStreamAddCallback_ptsz(stream: u64, callback: Option<runtime::Callback>, data: *mut c_void, flags: u32) = runtime::cudaStreamAddCallback_ptsz;
    /// Begins to capture the stream's work as a graph.
    fn cuStreamBeginCapture_v2(stream: u64, mode: u32) = capture::cudaStreamBeginCapture;
    /// Begins to capture the stream's work as a graph.
    fn cuStreamBeginCapture_v2_ptsz(stream: u64, mode: u32) = capture::cudaStreamBeginCapture_ptsz;
    /// Ends a capture.
    fn cuStreamEndCapture(stream: u64, graph: Out<'_, u64>) = capture::cudaStreamEndCapture;
    /// Ends a capture.
    fn cuStreamEndCapture_ptsz(stream: u64, graph: Out<'_, u64>) = capture::cudaStreamEndCapture_ptsz;
    /// Whether the stream is captured.
    fn cuStreamIsCapturing(stream: u64, status: Out<'_, u32>) = capture::cudaStreamIsCapturing;
    /// Whether the stream is captured.
    fn cuStreamIsCapturing_ptsz(stream: u64, status: Out<'_, u32>) = capture::cudaStreamIsCapturing_ptsz;
    /// Sets how this thread treats captures of others.
    fn cuThreadExchangeStreamCaptureMode(mode: Option<&mut u32>) = capture::cudaThreadExchangeStreamCaptureMode;
}

twins! {
    /// The context of a stream.
    fn cuStreamGetCtx, cuStreamGetCtx_ptsz(default; stream: u64, handle: Out<'_, u64>) {
        let handle = handle.required()?;
        context::current()?;
        handle.write(context::handle_of_device(resolve(default, stream)?.device)?);
        Ok(())
    }

    /// The context of a stream, which is no green one.
    fn cuStreamGetCtx_v2, cuStreamGetCtx_v2_ptsz(default; stream: u64, handle: Out<'_, u64>, green: Out<'_, u64>) {
        let (handle, green) = (handle.required()?, green.required()?);
        context::current()?;
        handle.write(context::handle_of_device(resolve(default, stream)?.device)?);
        green.write(0);
        Ok(())
    }
}
