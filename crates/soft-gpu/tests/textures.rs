//! Texture and surface instructions over arrays of a device of their own: the forms that nvcc does not make of the
//! programs in `examples/tests`, and what goes wrong.

use std::ffi::CString;

use cuda_types::{CUarray, CUdeviceptr, CUstream, CuError, CuResult, Dim3};
use proto::param::{ArrayDesc, Copy3D, Resource, Side3D, TextureDesc};
use proto::{ArrayCalls, ContextCalls, Device, LaunchCalls, MemoryCalls, ModuleCalls};
use soft_gpu::{SoftGpu, SoftOptions};

const CHUNK: u64 = 2 << 20;
const WINDOW_BYTES: u64 = 1 << 30;
const U8: u32 = 0x01;
const U32: u32 = 0x03;
const F32: u32 = 0x20;

struct Bench {
    gpu: SoftGpu,
    memory: CUdeviceptr,
}

impl Bench {
    fn new(slot: u64) -> Bench {
        let gpu = SoftGpu::open(0, SoftOptions::default()).expect("a software GPU");
        let base = 0x2100_0000_0000 + slot * WINDOW_BYTES;
        gpu.reserve_window(base, WINDOW_BYTES).expect("each test has its own place");
        gpu.vgpuMemMap(base, CHUNK).expect("memory");
        gpu.cuMemAlloc_v2(CUdeviceptr(base), 64 * 1024).expect("an allocation");
        Bench { gpu, memory: CUdeviceptr(base) }
    }

    /// An array with these bytes, one row behind the other.
    fn array(&self, desc: ArrayDesc, bytes: &[u8]) -> CUarray {
        let array = self.gpu.cuArray3DCreate_v2(desc).expect("an array");
        let (height, depth) = (desc.height.max(1), desc.depth.max(1));
        let width = bytes.len() as u64 / height / depth;
        let at = CUdeviceptr(self.memory.0 + 32 * 1024);
        self.gpu.cuMemcpyHtoD_v2(at, bytes, CUstream::NULL).expect("up");
        let src = Side3D { kind: Side3D::DEVICE, address: at, pitch: width, height, ..Side3D::default() };
        let dst = Side3D { kind: Side3D::ARRAY, array, ..Side3D::default() };
        self.gpu.cuMemcpy3DAsync_v2(Copy3D { dst, src, width, height, depth }, CUstream::NULL).expect("in");
        array
    }

    fn texture(&self, array: CUarray, texture: TextureDesc) -> u64 {
        self.gpu.cuTexObjectCreate(Resource::Array(array), texture).expect("a texture")
    }

    /// Runs `body` with `%out` and `%t`, the object, and answers the first `count` words that it wrote.
    fn run(&self, body: &str, object: u64, count: u64) -> CuResult<Vec<u32>> {
        let text = format!(
            ".version 7.0\n.target sm_52\n.address_size 64\n\
             .visible .entry k(.param .u64 p0, .param .u64 p1)\n{{ .reg .b64 %out, %t; .reg .b64 %d<8>;\n\
             .reg .b32 %r<16>; .reg .f32 %f<16>; .reg .b16 %h<8>; .reg .pred %p<4>;\n\
             ld.param.u64 %out, [p0]; ld.param.u64 %t, [p1];\n{body}\nret; }}"
        );
        let (module, facts) = self.gpu.cuModuleLoadData(vec![text.as_bytes()])?;
        if let Some(reason) = &facts.functions[0].unsupported {
            println!("{reason}");
        }
        let name = CString::new("k").expect("a name");
        let function = self.gpu.cuModuleGetFunction(module, &name)?;
        let one = Dim3 { x: 1, y: 1, z: 1 };
        let arguments = [self.memory.0.to_le_bytes(), object.to_le_bytes()].concat();
        self.gpu.cuMemsetD8Async(self.memory, 0xee, 256, CUstream::NULL)?;
        self.gpu.cuLaunchKernel(function, one, one, 0, CUstream::NULL, &arguments)?;
        self.gpu.cuCtxSynchronize()?;
        let bytes = self.gpu.cuMemcpyDtoH_v2(self.memory, count * 4, CUstream::NULL)?;
        Ok(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }
}

fn desc(width: u64, height: u64, depth: u64, format: u32, channels: u32, flags: u32) -> ArrayDesc {
    ArrayDesc { width, height, depth, format, channels, flags }
}

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn clamped(flags: u32) -> TextureDesc {
    TextureDesc { address_modes: [1; 3], flags, ..TextureDesc::default() }
}

#[test]
fn layers_of_rows_and_derivatives_are_read() {
    let bench = Bench::new(0);
    let array = bench.array(
        desc(4, 0, 2, F32, 1, ArrayDesc::LAYERED),
        &floats([0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]),
    );
    let texture = bench.texture(array, clamped(0));
    let body = "mov.u32 %r0, 1; mov.f32 %f0, 0f40200000;\n\
        tex.a1d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%t, {%r0, %f0}]; st.global.f32 [%out], %f1;\n\
        tex.grad.a1d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%t, {%r0, %f0}], {%f0}, {%f0};\n\
        st.global.v2.f32 [%out+8], {%f1, %f4};\n\
        tex.level.a1d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%t, {9, %f0}], 0f00000000; st.global.f32 [%out+4], %f1;";
    let found = bench.run(body, texture, 4).expect("it runs");
    assert_eq!(found, [12.0, 12.0, 12.0, 1.0].map(f32::to_bits), "a layer too many is the last");
}

#[test]
fn layered_cubes_and_halves_are_read() {
    let bench = Bench::new(1);
    let flags = ArrayDesc::LAYERED | ArrayDesc::CUBEMAP;
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let values = (0..12).map(|face| face as f32);
    let texture = bench.texture(bench.array(desc(1, 1, 12, F32, 1, flags), &floats(values)), clamped(2));
    let body = "mov.u32 %r0, 1; mov.f32 %f0, 0f00000000; mov.f32 %f1, 0fBF800000;\n\
        tex.acube.v4.f32.f32 {%f2, %f3, %f4, %f5}, [%t, {%r0, %f0, %f0, %f1}]; st.global.f32 [%out], %f2;\n\
        tex.acube.v4.f16.f32 {%h0, %h1, %h2, %h3}, [%t, {%r0, %f0, %f0, %f1}]; st.global.b16 [%out+4], %h0;\n\
        st.global.b16 [%out+6], %h3;";
    let found = bench.run(body, texture, 2).expect("it runs");
    assert_eq!(found, [11.0_f32.to_bits(), 0x3c00_4980], "11 and, of a channel that is not there, 1");
}

#[test]
fn gathers_answer_the_channel_that_is_asked_for() {
    let bench = Bench::new(2);
    let texels: Vec<u8> = (0..4 * 2 * 2).collect();
    let array = bench.array(desc(2, 2, 0, U8, 4, 0), &texels);
    let texture = bench.texture(array, clamped(TextureDesc::READ_AS_INTEGER));
    let body = "mov.f32 %f0, 0f3F800000;\n\
        tld4.b.2d.v4.u32.f32 {%r0, %r1, %r2, %r3}, [%t, {%f0, %f0}]; st.global.v4.u32 [%out], {%r0, %r1, %r2, %r3};\n\
        tex.2d.v4.u32.s32 {%r0, %r1, %r2, %r3}, [%t, {1, 0}]; st.global.v4.u32 [%out+16], {%r0, %r1, %r2, %r3};";
    let found = bench.run(body, texture, 8).expect("it runs");
    assert_eq!(found, [10, 14, 6, 2, 4, 5, 6, 7]);
}

#[test]
fn queries_tell_the_extents_and_the_format() {
    let bench = Bench::new(3);
    let desc = desc(8, 4, 3, U8, 2, ArrayDesc::LAYERED | ArrayDesc::SURFACE);
    let array = bench.array(desc, &[0; 8 * 4 * 3 * 2]);
    let texture = bench.texture(array, clamped(TextureDesc::NORMALIZED));
    let body = |name: &str| {
        let queries = ["width", "height", "channel_data_type", "channel_order"];
        let lines = (0..).zip(queries).map(|(at, query): (u32, _)| {
            format!("{name}.{query}.b32 %r0, [%t]; st.global.u32 [%out+{}], %r0;\n", at * 4)
        });
        lines.collect::<String>()
    };
    let expected = [8, 4, 0x10da, 0x10b2];
    assert_eq!(bench.run(&body("txq"), texture, 4).expect("it runs"), expected);
    let more = "txq.array_size.b32 %r0, [%t]; st.global.u32 [%out], %r0;\n\
        txq.normalized_coords.b32 %r0, [%t]; st.global.u32 [%out+4], %r0;";
    assert_eq!(bench.run(more, texture, 2).expect("it runs"), [3, 1]);
    let surface = bench.gpu.cuSurfObjectCreate(Resource::Array(array)).expect("a surface");
    assert_eq!(bench.run(&body("suq"), surface, 4).expect("it runs"), expected);
}

#[test]
fn formatted_stores_and_reductions_change_texels() {
    let bench = Bench::new(4);
    let array = bench.array(desc(4, 2, 0, U8, 4, ArrayDesc::SURFACE), &[0; 32]);
    let surface = bench.gpu.cuSurfObjectCreate(Resource::Array(array)).expect("a surface");
    let body = "mov.u32 %r0, 0x101; mov.u32 %r1, 2; mov.u32 %r2, 3; mov.u32 %r3, 4;\n\
        sust.p.2d.v4.b32.trap [%t, {2, 1}], {%r0, %r1, %r2, %r3};\n\
        suld.b.2d.b32.trap {%r4}, [%t, {8, 1}]; st.global.u32 [%out], %r4;\n\
        suld.b.2d.v2.b16.clamp {%h0, %h1}, [%t, {8, 9}]; st.global.b16 [%out+4], %h0; st.global.b16 [%out+6], %h1;";
    assert_eq!(bench.run(body, surface, 2).expect("it runs"), [0x0403_0201; 2]);

    let array = bench.array(desc(4, 0, 0, U32, 1, ArrayDesc::SURFACE), &[0; 16]);
    let surface = bench.gpu.cuSurfObjectCreate(Resource::Array(array)).expect("a surface");
    let body = "mov.u32 %r0, 5; mov.u32 %r1, -3;\n\
        sured.b.add.1d.u32.trap [%t, {4}], %r0; sured.b.add.1d.u32.trap [%t, {4}], %r0;\n\
        sured.p.min.1d.s32.zero [%t, {2}], %r1; sured.b.or.1d.b32.zero [%t, {99996}], %r0;\n\
        suld.b.1d.v4.b32.trap {%r2, %r3, %r4, %r5}, [%t, {0}]; st.global.v4.u32 [%out], {%r2, %r3, %r4, %r5};\n\
        suld.b.1d.b64.zero {%d0}, [%t, {8}]; st.global.u64 [%out+16], %d0;";
    let found = bench.run(body, surface, 6).expect("it runs");
    assert_eq!(found, [0, 10, 3_u32.wrapping_neg(), 0, 3_u32.wrapping_neg(), 0]);
}

#[test]
fn a_handle_that_is_gone_ends_the_grid() {
    let bench = Bench::new(5);
    let array = bench.array(desc(4, 0, 0, F32, 1, 0), &floats([1.0; 4]));
    let texture = bench.texture(array, clamped(0));
    // The array may go before its texture.
    bench.gpu.cuArrayDestroy(array).expect("made above");
    let body = "tex.1d.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%t, {0}]; st.global.f32 [%out], %f0;";
    assert_eq!(bench.run(body, texture, 1), Ok(vec![1.0_f32.to_bits()]));
    bench.gpu.cuTexObjectDestroy(texture).expect("made above");
    assert_eq!(bench.gpu.cuTexObjectDestroy(texture), Err(CuError::INVALID_HANDLE));
    assert_eq!(bench.run(body, texture, 1), Err(CuError::ILLEGAL_ADDRESS));
}

#[test]
fn a_texture_of_freed_memory_ends_the_grid() {
    let bench = Bench::new(6);
    let address = CUdeviceptr(bench.memory.0 + 128 * 1024);
    bench.gpu.cuMemAlloc_v2(address, 4096).expect("room");
    let linear = Resource::Linear { address, format: F32, channels: 1, bytes: 4096 };
    let texture = bench.gpu.cuTexObjectCreate(linear, clamped(0)).expect("a texture");
    bench.gpu.cuMemFree_v2(address).expect("allocated");
    let body = "tex.1d.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%t, {0}]; st.global.f32 [%out], %f0;";
    assert_eq!(bench.run(body, texture, 1), Err(CuError::ILLEGAL_ADDRESS));
}

#[test]
fn outside_a_surface_that_traps_the_grid_ends() {
    let bench = Bench::new(7);
    let array = bench.array(desc(4, 0, 0, F32, 1, ArrayDesc::SURFACE), &[0; 16]);
    let surface = bench.gpu.cuSurfObjectCreate(Resource::Array(array)).expect("a surface");
    let body = "suld.b.1d.b32.trap {%r0}, [%t, {16}]; st.global.u32 [%out], %r0;";
    assert_eq!(bench.run(body, surface, 1), Err(CuError::ILLEGAL_ADDRESS));
}

#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::new(8);
    let gpu = &bench.gpu;
    assert_eq!(
        gpu.cuArray3DCreate_v2(desc(4, 4, 0, F32, 3, 0)),
        Err(CuError::INVALID_VALUE),
        "three channels"
    );
    assert_eq!(
        gpu.cuArray3DCreate_v2(desc(4, 4, 5, F32, 1, ArrayDesc::CUBEMAP)),
        Err(CuError::INVALID_VALUE)
    );
    let array = bench.array(desc(4, 4, 0, U32, 1, 0), &[0; 64]);
    assert_eq!(
        gpu.cuSurfObjectCreate(Resource::Array(array)),
        Err(CuError::INVALID_VALUE),
        "no surface flag"
    );
    let linear = TextureDesc { filter: 1, ..clamped(TextureDesc::READ_AS_INTEGER) };
    assert_eq!(gpu.cuTexObjectCreate(Resource::Array(array), linear), Err(CuError::INVALID_VALUE));
    let beyond = Resource::Linear { address: bench.memory, format: F32, channels: 1, bytes: 1 << 20 };
    assert_eq!(gpu.cuTexObjectCreate(beyond, clamped(0)), Err(CuError::INVALID_VALUE));
    let side = |array| Side3D { kind: Side3D::ARRAY, array, y: 3, ..Side3D::default() };
    let copy = Copy3D { dst: side(array), src: side(array), width: 16, height: 2, depth: 1 };
    assert_eq!(gpu.cuMemcpy3DAsync_v2(copy, CUstream::NULL), Err(CuError::INVALID_VALUE), "a row too many");
    let offset = "tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%t, {%f0, %f0}], {%r0, %r0};";
    assert_eq!(bench.run(offset, 0, 1), Err(CuError::NOT_SUPPORTED));
}
