//! A kernel that keeps more values at once than a usual stack holds: unrolled tensor kernels are like that.

use std::fmt::Write;

use cuda_types::{CUdeviceptr, CUstream, Dim3};
use proto::{ContextCalls, Device, LaunchCalls, MemoryCalls, ModuleCalls};
use soft_gpu::{SoftGpu, SoftOptions};

const WINDOW_BYTES: u64 = 1 << 30;
const BYTES: u64 = 2 << 20;
const THREADS: u64 = 32;
/// Of 8 bytes each, all alive at the barrier: 72 KB of stack for each thread.
const VALUES: u64 = 9_000;

/// `out[thread]` becomes a polynomial in 3 whose coefficients are `in[thread .. thread + VALUES]`, last to first.
fn text() -> String {
    let mut text = String::from(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry keeps(.param .u64 out, .param .u64 in)\n{\n",
    );
    write!(text, ".reg .u32 %r<3>;\n.reg .u64 %rd<9>;\n.reg .u64 %v<{}>;\n", VALUES + 1)
        .expect("a string grows");
    text.push_str("ld.param.u64 %rd1, [out];\nld.param.u64 %rd2, [in];\nmov.u32 %r1, %tid.x;\n");
    text.push_str("mul.wide.u32 %rd3, %r1, 8;\nadd.u64 %rd1, %rd1, %rd3;\nadd.u64 %rd2, %rd2, %rd3;\n");
    for value in 0..VALUES {
        writeln!(text, "ld.volatile.global.u64 %v{value}, [%rd2+{}];", value * 8).expect("a string grows");
    }
    text.push_str("bar.sync 0;\nmov.u64 %rd4, 0;\n");
    for value in (0..VALUES).rev() {
        writeln!(text, "mad.lo.u64 %rd4, %rd4, 3, %v{value};").expect("a string grows");
    }
    text.push_str("st.global.u64 [%rd1], %rd4;\nret;\n}\n");
    text
}

#[test]
fn a_kernel_with_a_large_frame_has_room_for_it() {
    // With checks every kernel's threads have stacks of their own.
    let gpu =
        SoftGpu::open(0, SoftOptions { check: true, ..SoftOptions::default() }).expect("a software GPU");
    let base = (0..64)
        .map(|slot| 0x2b00_0000_0000 + slot * WINDOW_BYTES)
        .find(|base| gpu.reserve_window(*base, WINDOW_BYTES).is_ok())
        .expect("room for a window");
    gpu.vgpuMemMap(base, BYTES).expect("memory");
    gpu.cuMemAlloc_v2(CUdeviceptr(base), BYTES).expect("the buffer");
    let (module, _) = gpu.cuModuleLoadData(vec![text().as_bytes()]).expect("it loads");
    let function = gpu.cuModuleGetFunction(module, c"keeps").expect("the kernel is there");
    let input: Vec<u64> = (0..VALUES + THREADS).map(|at| at * at + 7).collect();
    let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
    let from = base + THREADS * 8;
    gpu.cuMemcpyHtoD_v2(CUdeviceptr(from), &bytes, CUstream::NULL).expect("the input");
    let one = Dim3 { x: 1, y: 1, z: 1 };
    let block = Dim3 { x: u32::try_from(THREADS).expect("few"), y: 1, z: 1 };
    let params: Vec<u8> = [base, from].iter().flat_map(|pointer| pointer.to_le_bytes()).collect();
    gpu.cuLaunchKernel(function, one, block, 0, CUstream::NULL, &params).expect("a launch");
    gpu.cuCtxSynchronize().expect("it ends without a fault");
    let sums = gpu.cuMemcpyDtoH_v2(CUdeviceptr(base), THREADS * 8, CUstream::NULL).expect("the sums");
    for (thread, sum) in sums.chunks(8).enumerate() {
        let values = &input[thread..][..usize::try_from(VALUES).expect("few")];
        let expected = values.iter().rev().fold(0_u64, |sum, value| sum.wrapping_mul(3).wrapping_add(*value));
        assert_eq!(u64::from_le_bytes(sum.try_into().expect("8 bytes")), expected, "thread {thread}");
    }
}
