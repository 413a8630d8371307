//! What a device behind a network cannot do: each name says so once, with the reason and a way round, and answers
//! `CUDA_ERROR_NOT_SUPPORTED`.
//!
//! The arguments are not looked at; in the C calling convention the caller removes them.

use std::sync::atomic::AtomicBool;

use cuda_types::CuError;

use crate::runtime::unavailable::say;

macro_rules! unavailable {
    ($($reason:literal: $($name:ident)*;)*) => {$($(
        pub(crate) extern "C" fn $name() -> u32 {
            static SAID: AtomicBool = AtomicBool::new(false);
            say(stringify!($name), $reason, &SAID);
            CuError::NOT_SUPPORTED.0
        }
    )*)*};
}

unavailable! {
    "its processes share no memory on the server; pass bytes through the host, for example with MPI":
        cuIpcCloseMemHandle cuIpcGetEventHandle cuIpcGetMemHandle cuIpcOpenEventHandle cuIpcOpenMemHandle
        cuIpcOpenMemHandle_v2 cuMemExportToShareableHandle cuMemGetHandleForAddressRange
        cuMemImportFromShareableHandle cuMemPoolExportPointer cuMemPoolExportToShareableHandle
        cuMemPoolImportFromShareableHandle cuMemPoolImportPointer;
    "memory and semaphores of this machine's drivers are not on the device's; copy through host memory, use events":
        cuDestroyExternalMemory cuDestroyExternalSemaphore cuDeviceGetNvSciSyncAttributes
        cuExternalMemoryGetMappedBuffer cuExternalMemoryGetMappedMipmappedArray
        cuGraphAddExternalSemaphoresSignalNode cuGraphAddExternalSemaphoresWaitNode
        cuGraphExecExternalSemaphoresSignalNodeSetParams cuGraphExecExternalSemaphoresWaitNodeSetParams
        cuGraphExternalSemaphoresSignalNodeGetParams cuGraphExternalSemaphoresSignalNodeSetParams
        cuGraphExternalSemaphoresWaitNodeGetParams cuGraphExternalSemaphoresWaitNodeSetParams
        cuImportExternalMemory cuImportExternalSemaphore cuSignalExternalSemaphoresAsync
        cuSignalExternalSemaphoresAsync_ptsz cuStreamBeginCaptureToCig cuStreamBeginCaptureToCig_ptsz
        cuStreamEndCaptureToCig cuStreamEndCaptureToCig_ptsz cuWaitExternalSemaphoresAsync
        cuWaitExternalSemaphoresAsync_ptsz;
    "the device does not draw on this machine; copy results to the host and draw them from there":
        cuEGLStreamConsumerAcquireFrame cuEGLStreamConsumerConnect cuEGLStreamConsumerConnectWithFlags
        cuEGLStreamConsumerDisconnect cuEGLStreamConsumerReleaseFrame cuEGLStreamProducerConnect
        cuEGLStreamProducerDisconnect cuEGLStreamProducerPresentFrame cuEGLStreamProducerReturnFrame
        cuEventCreateFromEGLSync cuGLCtxCreate cuGLCtxCreate_v2 cuGLGetDevices cuGLGetDevices_v2 cuGLInit
        cuGLMapBufferObject cuGLMapBufferObjectAsync cuGLMapBufferObjectAsync_v2 cuGLMapBufferObject_v2
        cuGLRegisterBufferObject cuGLSetBufferObjectMapFlags cuGLUnmapBufferObject cuGLUnmapBufferObjectAsync
        cuGLUnregisterBufferObject cuGraphicsEGLRegisterImage cuGraphicsGLRegisterBuffer
        cuGraphicsGLRegisterImage cuGraphicsMapResources cuGraphicsMapResources_ptsz
        cuGraphicsResourceGetMappedEglFrame cuGraphicsResourceGetMappedMipmappedArray
        cuGraphicsResourceGetMappedPointer cuGraphicsResourceGetMappedPointer_v2 cuGraphicsResourceSetMapFlags
        cuGraphicsResourceSetMapFlags_v2 cuGraphicsSubResourceGetMappedArray cuGraphicsUnmapResources
        cuGraphicsUnmapResources_ptsz cuGraphicsUnregisterResource cuGraphicsVDPAURegisterOutputSurface
        cuGraphicsVDPAURegisterVideoSurface cuVDPAUCtxCreate cuVDPAUCtxCreate_v2 cuVDPAUGetDevice cuWGLGetDevice;
    "no other device of this machine writes to the device's memory, so there is nothing to flush":
        cuFlushGPUDirectRDMAWrites;
    "devices on servers have no fabric between them; copy through the host, for example with MPI":
        cuDeviceGetCliqueCount cuDeviceGetCliqueInfo cuDeviceGetFabricClusterUuid cuFabricCpyBatchAsync
        cuFabricCpyBatchAsync_ptsz cuLogicalEndpointAddDevice cuLogicalEndpointBindAddr cuLogicalEndpointBindMem
        cuLogicalEndpointCreate cuLogicalEndpointDestroy cuLogicalEndpointExport cuLogicalEndpointGetLimits
        cuLogicalEndpointIdRelease cuLogicalEndpointIdReserve cuLogicalEndpointImport cuLogicalEndpointQuery
        cuLogicalEndpointUnbind cuMulticastAddDevice cuMulticastBindAddr cuMulticastBindAddr_v2
        cuMulticastBindMem cuMulticastBindMem_v2 cuMulticastCreate cuMulticastGetGranularity cuMulticastUnbind;
    "a context has all of its device; use streams with priorities":
        cuCtxFromGreenCtx cuCtxGetDevResource cuDevResourceGenerateDesc cuDevSmResourceSplit
        cuDevSmResourceSplitByCount cuDeviceGetDevResource cuGreenCtxCreate cuGreenCtxDestroy
        cuGreenCtxGetDevResource cuGreenCtxGetId cuGreenCtxRecordEvent cuGreenCtxStreamCreate
        cuGreenCtxWaitEvent cuStreamGetDevResource cuStreamGetDevResource_ptsz cuStreamGetGreenCtx;
    "the program runs on this machine and its kernels on another; save what is to be kept in the program":
        cuCheckpointOperationComplete cuCheckpointProcessCheckpoint cuCheckpointProcessGetRestoreThreadId
        cuCheckpointProcessGetState cuCheckpointProcessLock cuCheckpointProcessRestore cuCheckpointProcessUnlock
        cuCoredumpDeregisterCompleteCallback cuCoredumpDeregisterStartCallback cuCoredumpGetAttribute
        cuCoredumpGetAttributeGlobal cuCoredumpRegisterCompleteCallback cuCoredumpRegisterStartCallback
        cuCoredumpSetAttribute cuCoredumpSetAttributeGlobal;
    "devices here have no sparse arrays; make dense ones":
        cuMemMapArrayAsync cuMemMapArrayAsync_ptsz;
    "devices here have no decompression engine, as the attribute says; decompress in a kernel":
        cuMemBatchDecompressAsync cuMemBatchDecompressAsync_ptsz;
    "only drivers of Windows have these numbers":
        cuDeviceGetLuid;
    "no device has attribute concurrentManagedAccess; managed memory is where it was used last":
        cuMemGetLocationInfo;
    "no kernel runs on two servers at once; launch one on each device":
        cuLaunchCooperativeKernelMultiDevice;
    "the profiler that it configured is gone from CUDA; use cuProfilerStart and cuProfilerStop":
        cuProfilerInitialize;
    "the server's driver tells nothing unasked; ask cuMemGetInfo":
        cuDeviceRegisterAsyncNotification cuDeviceUnregisterAsyncNotification;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::error;

    #[test]
    fn the_answer_is_no_error_of_the_runtime() {
        error::restore(0);
        assert_eq!(cuIpcGetMemHandle(), CuError::NOT_SUPPORTED.0);
        assert_eq!(error::cudaPeekAtLastError(), 0);
    }
}
