//! Kernels that never end, on a device with a limit (`VGPU_SOFT_TIMEOUT`): each ends with CUDA's error for that, whatever it
//! is doing, and kernels that do end are left alone.

use std::time::Duration;

use cuda_types::{CUdeviceptr, CUstream, CuError, Dim3};
use proto::{ContextCalls, Device, LaunchCalls, MemoryCalls, ModuleCalls};
use soft_gpu::{SoftGpu, SoftOptions};

const WINDOW_BYTES: u64 = 1 << 30;
const BYTES: u64 = 2 << 20;

const TEXT: &[u8] = b"
.version 8.0
.target sm_80
.address_size 64
.visible .entry computes(.param .u64 out)
{
    .reg .u32 %r<3>;
    mov.u32 %r1, 1;
again:
    mad.lo.u32 %r1, %r1, 1664525, 1013904223;
    bra again;
}
.visible .entry computes_behind_a_barrier(.param .u64 out)
{
    .reg .u32 %r<3>;
    mov.u32 %r1, 1;
    bar.sync 0;
again:
    mad.lo.u32 %r1, %r1, 1664525, 1013904223;
    bra again;
}
.visible .entry waits(.param .u64 out)
{
    .reg .pred %p<2>;
    .reg .u32 %r<3>;
    .reg .u64 %rd<3>;
    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd2, %rd1;
again:
    ld.volatile.global.u32 %r1, [%rd2];
    setp.ne.u32 %p1, %r1, 77;
    @%p1 bra again;
    ret;
}
.visible .entry ends(.param .u64 out)
{
    .reg .u32 %r<4>;
    .reg .u64 %rd<5>;
    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.u32 %r1, %r1, %r2, %r3;
    mul.wide.u32 %rd3, %r1, 4;
    add.u64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r1;
    ret;
}
";

/// Runs a kernel on a device whose kernels may take `timeout`; what it has written, or how it ended.
fn run(kernel: &std::ffi::CStr, blocks: u32, timeout: Option<Duration>) -> Result<Vec<u8>, CuError> {
    let gpu = SoftGpu::open(0, SoftOptions { timeout, ..SoftOptions::default() }).expect("a software GPU");
    let base = (0..64)
        .map(|slot| 0x2300_0000_0000 + slot * WINDOW_BYTES)
        .find(|base| gpu.reserve_window(*base, WINDOW_BYTES).is_ok())
        .expect("room for a window");
    gpu.vgpuMemMap(base, BYTES).expect("memory");
    gpu.cuMemAlloc_v2(CUdeviceptr(base), BYTES).expect("the buffer");
    let (module, _) = gpu.cuModuleLoadData(vec![TEXT]).expect("it loads");
    let function = gpu.cuModuleGetFunction(module, kernel).expect("the kernel is there");
    let (grid, block) = (Dim3 { x: blocks, y: 1, z: 1 }, Dim3 { x: 128, y: 1, z: 1 });
    gpu.cuMemsetD8Async(CUdeviceptr(base), 0, BYTES, CUstream::NULL).expect("a memset");
    gpu.cuLaunchKernel(function, grid, block, 0, CUstream::NULL, &base.to_le_bytes()).expect("a launch");
    gpu.cuCtxSynchronize()?;
    gpu.cuMemcpyDtoH_v2(CUdeviceptr(base), u64::from(blocks) * 512, CUstream::NULL)
}

#[test]
fn kernels_that_never_end_are_ended() {
    let timeout = Some(Duration::from_millis(200));
    for kernel in [c"computes", c"computes_behind_a_barrier", c"waits"] {
        // One block on one CPU thread, and many on all.
        for blocks in [1, 400] {
            assert_eq!(
                run(kernel, blocks, timeout),
                Err(CuError::LAUNCH_TIMEOUT),
                "{kernel:?}, {blocks} blocks"
            );
        }
    }
}

#[test]
fn kernels_that_end_are_left_alone() {
    for timeout in [None, Some(Duration::from_secs(3600))] {
        let found = run(c"ends", 400, timeout).expect("it ends");
        let words =
            found.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        assert!(words.eq(0..400 * 128));
    }
}
