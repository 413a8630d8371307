//! A program over cudarc with nothing of this project in it: scales and adds vectors on two streams, and checks every
//! element. `vgpu run --soft -- cudarc-saxpy` runs it without a GPU.

use std::error::Error;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const KERNEL: &str = "
.version 7.0
.target sm_75
.address_size 64
.visible .entry saxpy(.param .f32 a, .param .u64 x, .param .u64 y, .param .u64 n)
{
    .reg .pred %p<2>;
    .reg .f32 %f<5>;
    .reg .u32 %r<4>;
    .reg .u64 %rd<10>;
    ld.param.f32 %f1, [a];
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    ld.param.u64 %rd3, [n];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.wide.u32 %rd4, %r1, %r2, 0;
    cvt.u64.u32 %rd5, %r3;
    add.u64 %rd4, %rd4, %rd5;
    setp.ge.u64 %p1, %rd4, %rd3;
    @%p1 bra done;
    cvta.to.global.u64 %rd6, %rd1;
    cvta.to.global.u64 %rd7, %rd2;
    shl.b64 %rd8, %rd4, 2;
    add.u64 %rd6, %rd6, %rd8;
    add.u64 %rd7, %rd7, %rd8;
    ld.global.f32 %f2, [%rd6];
    ld.global.f32 %f3, [%rd7];
    fma.rn.f32 %f4, %f1, %f2, %f3;
    st.global.f32 [%rd7], %f4;
done:
    ret;
}
";

fn main() -> Result<(), Box<dyn Error>> {
    let context = CudaContext::new(0)?;
    let kernel = context.load_module(Ptx::from_src(KERNEL))?.load_function("saxpy")?;
    let count: usize = 100_003;
    let number = |index: usize| f32::from(u16::try_from(index % 1000).unwrap_or(0));
    let x: Vec<f32> = (0..count).map(number).collect();
    let y: Vec<f32> = (0..count).map(|index| 0.5 - number(index * 7)).collect();

    let streams = [context.default_stream(), context.new_stream()?];
    for (stream, factor) in streams.iter().zip([2.0_f32, -0.75]) {
        let device_x = stream.clone_htod(&x)?;
        let mut device_y = stream.clone_htod(&y)?;
        let elements = u64::try_from(count)?;
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&factor).arg(&device_x).arg(&mut device_y).arg(&elements);
        // SAFETY: the arguments are those of the kernel, which checks its index.
        unsafe { launch.launch(LaunchConfig::for_num_elems(u32::try_from(count)?)) }?;
        let found = stream.clone_dtoh(&device_y)?;
        let wrong = (0..count).find(|&index| found[index] != factor.mul_add(x[index], y[index]));
        if let Some(index) = wrong {
            let expected = factor.mul_add(x[index], y[index]);
            eprintln!("saxpy: expected {expected} at {index}, found {}", found[index]);
            std::process::exit(1);
        }
    }
    println!("cudarc_saxpy: ok");
    Ok(())
}
