//! What a device behind a network cannot do: each name says so once, with the reason and a way round, and answers
//! `cudaErrorNotSupported`.
//!
//! The arguments are not looked at; in the C calling convention the caller removes them.

use std::sync::atomic::{AtomicBool, Ordering};

use cuda_types::CuError;

use super::error;

macro_rules! unavailable {
    ($($reason:literal: $($name:ident)*;)*) => {$($(
        pub(crate) extern "C" fn $name() -> u32 {
            static SAID: AtomicBool = AtomicBool::new(false);
            refuse(stringify!($name), $reason, &SAID)
        }
    )*)*};
}

unavailable! {
    "its processes share no memory on the server; pass bytes through the host, for example with MPI":
        cudaIpcCloseMemHandle cudaIpcGetEventHandle cudaIpcGetMemHandle cudaIpcOpenEventHandle cudaIpcOpenMemHandle
        cudaMemPoolExportPointer cudaMemPoolExportToShareableHandle cudaMemPoolImportFromShareableHandle
        cudaMemPoolImportPointer;
    "memory and semaphores of this machine's drivers are not on the device's; copy through host memory, use events":
        cudaImportExternalMemory cudaImportExternalSemaphore cudaDestroyExternalMemory cudaDestroyExternalSemaphore
        cudaExternalMemoryGetMappedBuffer cudaExternalMemoryGetMappedMipmappedArray
        cudaSignalExternalSemaphoresAsync cudaSignalExternalSemaphoresAsync_ptsz
        cudaSignalExternalSemaphoresAsync_v2 cudaSignalExternalSemaphoresAsync_v2_ptsz
        cudaWaitExternalSemaphoresAsync cudaWaitExternalSemaphoresAsync_ptsz
        cudaWaitExternalSemaphoresAsync_v2 cudaWaitExternalSemaphoresAsync_v2_ptsz
        cudaGraphAddExternalSemaphoresSignalNode cudaGraphAddExternalSemaphoresWaitNode
        cudaGraphExecExternalSemaphoresSignalNodeSetParams cudaGraphExecExternalSemaphoresWaitNodeSetParams
        cudaGraphExternalSemaphoresSignalNodeGetParams cudaGraphExternalSemaphoresSignalNodeSetParams
        cudaGraphExternalSemaphoresWaitNodeGetParams cudaGraphExternalSemaphoresWaitNodeSetParams
        cudaDeviceGetNvSciSyncAttributes;
    "the device does not draw on this machine; copy results to the host and draw them from there":
        cudaGLGetDevices cudaGLMapBufferObject cudaGLMapBufferObjectAsync cudaGLRegisterBufferObject
        cudaGLSetBufferObjectMapFlags cudaGLSetGLDevice cudaGLUnmapBufferObject cudaGLUnmapBufferObjectAsync
        cudaGLUnregisterBufferObject
        cudaEGLStreamConsumerAcquireFrame cudaEGLStreamConsumerConnect cudaEGLStreamConsumerConnectWithFlags
        cudaEGLStreamConsumerDisconnect cudaEGLStreamConsumerReleaseFrame cudaEGLStreamProducerConnect
        cudaEGLStreamProducerDisconnect cudaEGLStreamProducerPresentFrame cudaEGLStreamProducerReturnFrame
        cudaEventCreateFromEGLSync
        cudaGraphicsEGLRegisterImage cudaGraphicsGLRegisterBuffer cudaGraphicsGLRegisterImage
        cudaGraphicsMapResources cudaGraphicsResourceGetMappedEglFrame cudaGraphicsResourceGetMappedMipmappedArray
        cudaGraphicsResourceGetMappedPointer cudaGraphicsResourceSetMapFlags cudaGraphicsSubResourceGetMappedArray
        cudaGraphicsUnmapResources cudaGraphicsUnregisterResource cudaGraphicsVDPAURegisterOutputSurface
        cudaGraphicsVDPAURegisterVideoSurface cudaVDPAUGetDevice cudaVDPAUSetVDPAUDevice;
    "no other device of this machine writes to the device's memory, so there is nothing to flush":
        cudaDeviceFlushGPUDirectRDMAWrites;
    "no device has attribute concurrentManagedAccess; managed memory is where it was used last":
        cudaMemGetLocationInfo;
    "no kernel runs on two servers at once; launch one on each device":
        cudaLaunchCooperativeKernelMultiDevice;
}

fn refuse(name: &str, reason: &str, said: &AtomicBool) -> u32 {
    say(name, reason, said);
    error::record(CuError::NOT_SUPPORTED)
}

/// Says once why a call is not available.
pub(crate) fn say(name: &str, reason: &str, said: &AtomicBool) {
    // The line obeys VGPU_LOG, which is read with the rest of the environment.
    crate::config::config();
    if !said.swap(true, Ordering::Relaxed) {
        crate::log::warn(format_args!("{name} is not available: {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_an_error_that_stays_to_be_fetched() {
        assert_eq!(cudaIpcGetMemHandle(), CuError::NOT_SUPPORTED.0);
        assert_eq!(error::cudaGetLastError(), CuError::NOT_SUPPORTED.0);
    }
}
