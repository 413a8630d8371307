//! Small PTX modules for tests, and how their kernels are launched.

use std::sync::Arc;

use client::Session;
use client::launch::{Function, LaunchConfig};
use cuda_types::{CUstream, Dim3};

/// `scale(out, in, factor, count)`: `out[i] = in[i] * factor + i`, of 32-bit words. `reverse(data)`: reverses 256 words
/// through shared memory, across a barrier. `poke(address)`: stores a word there. `forever()`: never ends.
/// `counter`: a variable of 16 bytes, initially 1, 2, 3, 4.
pub const MODULE: &str = r"
.version 7.0
.target sm_52
.address_size 64

.visible .global .align 4 .u32 counter[4] = {1, 2, 3, 4};

.visible .entry scale(.param .u64 out, .param .u64 in, .param .u32 factor, .param .u32 count)
{
    .reg .pred %p;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    ld.param.u32 %r5, [count];
    setp.ge.u32 %p, %r4, %r5;
    @%p bra done;
    ld.param.u64 %rd1, [in];
    ld.param.u64 %rd2, [out];
    ld.param.u32 %r6, [factor];
    cvta.to.global.u64 %rd3, %rd1;
    cvta.to.global.u64 %rd4, %rd2;
    mul.wide.u32 %rd5, %r4, 4;
    add.s64 %rd6, %rd3, %rd5;
    ld.global.u32 %r7, [%rd6];
    mad.lo.s32 %r7, %r7, %r6, %r4;
    add.s64 %rd7, %rd4, %rd5;
    st.global.u32 [%rd7], %r7;
done:
    ret;
}

.visible .entry reverse(.param .u64 data)
{
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    .shared .align 4 .b8 held[1024];
    ld.param.u64 %rd1, [data];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r2, [%rd3];
    shl.b32 %r3, %r1, 2;
    mov.u32 %r4, held;
    add.s32 %r5, %r4, %r3;
    st.shared.u32 [%r5], %r2;
    bar.sync 0;
    sub.s32 %r6, 1020, %r3;
    add.s32 %r6, %r4, %r6;
    ld.shared.u32 %r7, [%r6];
    st.global.u32 [%rd3], %r7;
    ret;
}

.visible .entry poke(.param .u64 address)
{
    .reg .b32 %r1;
    .reg .b64 %rd1;
    ld.param.u64 %rd1, [address];
    mov.u32 %r1, 77;
    st.global.u32 [%rd1], %r1;
    ret;
}

.visible .entry forever()
{
again:
    bra again;
}
";

/// `blend(out, texture, surface)`: reads between four texels, then writes 99 at (5, 1).
pub const TEXTURES: &str = "
.version 7.0
.target sm_52
.address_size 64

.visible .entry blend(.param .u64 blend_0, .param .u64 blend_1, .param .u64 blend_2)
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<4>;
    .reg .f32 %f<8>;
    ld.param.u64 %rd1, [blend_0];
    ld.param.u64 %rd2, [blend_1];
    ld.param.u64 %rd3, [blend_2];
    mov.f32 %f0, 0f40400000;
    mov.f32 %f1, 0f3F800000;
    tex.2d.v4.f32.f32 {%f2, %f3, %f4, %f5}, [%rd2, {%f0, %f1}];
    st.global.f32 [%rd1], %f2;
    mov.u32 %r0, 20;
    mov.u32 %r1, 1;
    mov.u32 %r2, 0x42C60000;
    sust.b.2d.b32.trap [%rd3, {%r0, %r1}], {%r2};
    ret;
}
";

/// `late(out, in, turns)`: goes round `turns` times, then `out[0] = in[0] + 1`, of 32-bit words.
pub const LATE: &str = r"
.version 7.0
.target sm_52
.address_size 64

.visible .entry late(.param .u64 out, .param .u64 in, .param .u32 turns)
{
    .reg .pred %p;
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [in];
    ld.param.u32 %r1, [turns];
again:
    setp.eq.u32 %p, %r1, 0;
    @%p bra done;
    sub.u32 %r1, %r1, 1;
    bra again;
done:
    ld.global.u32 %r2, [%rd2];
    add.u32 %r2, %r2, 1;
    st.global.u32 [%rd1], %r2;
    ret;
}
";

/// A kernel of a module that is loaded for it.
pub fn kernel(session: &Session, source: &str, name: &str) -> Arc<Function> {
    let (module, facts) = session.load_module(vec![source.as_bytes()]).expect("PTX");
    let facts =
        facts.functions.into_iter().find(|kernel| kernel.name == name).expect("a kernel of the module");
    session.function(module, Arc::new(facts)).expect("a kernel")
}

/// A launch of `grid` blocks of `block` threads in the default stream.
pub fn shape(grid: u32, block: u32) -> LaunchConfig {
    let x = |x| Dim3 { x, y: 1, z: 1 };
    LaunchConfig {
        grid: x(grid),
        block: x(block),
        shared_bytes: 0,
        stream: CUstream::NULL,
        cooperative: false,
    }
}
