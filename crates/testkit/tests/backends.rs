//! One body, every backend: the software GPU itself, a client over memory and over TCP, cudarc on the software GPU's
//! own `libcuda.so.1`, and an NVIDIA GPU where there is one.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use client::Session;
use cuda_types::{CUdeviceptr, CUfunction, CUmodule, CUstream, CuError, CuResult, Dim3};
use nvidia::NvidiaGpu;
use proto::param::{ArrayDesc, Copy2D, Copy3D, Resource, Side3D, TextureDesc};
use proto::{Device, Driver};
use soft_gpu::{SoftGpu, SoftOptions};
use testkit::driver::{Library, with_driver};
use testkit::{Harness, Wire, kernels};
use vgpu_server::worker::WorkerOptions;

/// A driver and a place in its window that nobody else uses.
struct Backend<'a> {
    driver: &'a dyn Driver,
    base: u64,
}

const CHUNK: u64 = 2 << 20;
const WINDOW_BYTES: u64 = 512 << 30;

fn x(x: u32) -> Dim3 {
    Dim3 { x, y: 1, z: 1 }
}

fn words(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}

impl Backend<'_> {
    /// One allocation of a whole chunk.
    fn memory(&self) -> CUdeviceptr {
        self.driver.vgpuMemMap(self.base, CHUNK).expect("memory");
        self.driver.cuMemAlloc_v2(CUdeviceptr(self.base), CHUNK).expect("the chunk");
        CUdeviceptr(self.base)
    }

    fn module(&self) -> CUmodule {
        self.driver.cuModuleLoadData(vec![kernels::MODULE.as_bytes()]).expect("PTX that every device takes").0
    }

    fn kernel(&self, name: &std::ffi::CStr) -> CUfunction {
        self.driver.cuModuleGetFunction(self.module(), name).expect("a kernel of the module")
    }

    fn read(&self, from: CUdeviceptr, bytes: u64) -> Vec<u8> {
        self.driver.cuMemcpyDtoH_v2(from, bytes, CUstream::NULL).expect("readable")
    }
}

fn memory_keeps_what_was_put_there(backend: &Backend<'_>) {
    let (driver, memory) = (backend.driver, backend.memory());
    let at = |offset: u64| CUdeviceptr(memory.0 + offset);
    driver.cuMemcpyHtoD_v2(memory, &words(0..1000), CUstream::NULL).expect("up");
    driver.cuMemcpyDtoDAsync_v2(at(8192), memory, 4000, CUstream::NULL).expect("across");
    driver.cuMemsetD32Async(at(8192), 0xdead_beef, 10, CUstream::NULL).expect("set");
    driver.cuMemsetD16Async(at(8192 + 40), 0x1234, 2, CUstream::NULL).expect("set");
    driver.cuMemsetD8Async(at(8192 + 44), 0x56, 4, CUstream::NULL).expect("set");
    let expected: Vec<u32> = (0..1000)
        .map(|i| match i {
            0..10 => 0xdead_beef,
            10 => 0x1234_1234,
            11 => 0x5656_5656,
            i => i,
        })
        .collect();
    assert_eq!(backend.read(at(8192), 4000), words(expected));
    // A rectangle of 3 rows of 8 bytes, out of rows of 64 into rows of 32.
    let copy = Copy2D { dst: at(65536), dst_pitch: 32, src: memory, src_pitch: 64, width: 8, height: 3 };
    driver.cuMemsetD2D8Async(at(65536), 32, 0, 32, 3, CUstream::NULL).expect("set");
    driver.cuMemcpy2DAsync_v2(copy, CUstream::NULL).expect("across");
    let mut expected = vec![0; 96];
    for row in 0..3_usize {
        let first = u32::try_from(row * 16).expect("small");
        expected[row * 32..row * 32 + 8].copy_from_slice(&words([first, first + 1]));
    }
    assert_eq!(backend.read(at(65536), 96), expected);
}

fn kernels_compute_and_meet_at_barriers(backend: &Backend<'_>) {
    let (driver, memory) = (backend.driver, backend.memory());
    let out = CUdeviceptr(memory.0 + 65536);
    driver.cuMemcpyHtoD_v2(memory, &words(0..1000), CUstream::NULL).expect("up");
    let arguments =
        [&out.0.to_le_bytes()[..], &memory.0.to_le_bytes(), &3_u32.to_le_bytes(), &1000_u32.to_le_bytes()];
    let scale = backend.kernel(c"scale");
    driver.cuLaunchKernel(scale, x(8), x(128), 0, CUstream::NULL, &arguments.concat()).expect("launched");
    assert_eq!(backend.read(out, 4000), words((0..1000).map(|i| i * 4)));
    let reverse = backend.kernel(c"reverse");
    driver.cuLaunchKernel(reverse, x(1), x(256), 0, CUstream::NULL, &out.0.to_le_bytes()).expect("launched");
    assert_eq!(backend.read(out, 1024), words((0..256).rev().map(|i| i * 4)));
}

fn variables_of_a_module_can_be_read_and_written(backend: &Backend<'_>) {
    let (_, facts) = backend.driver.cuModuleLoadData(vec![kernels::MODULE.as_bytes()]).expect("PTX");
    let counter =
        facts.globals.iter().find(|global| global.name == "counter").expect("a variable of the module");
    assert_eq!(counter.bytes, 16);
    assert_eq!(backend.read(CUdeviceptr(counter.address), 16), words([1, 2, 3, 4]));
    backend.driver.cuMemcpyHtoD_v2(CUdeviceptr(counter.address), &words([9, 8]), CUstream::NULL).expect("up");
    assert_eq!(backend.read(CUdeviceptr(counter.address), 16), words([9, 8, 3, 4]));
    let sizes = |name: &str| {
        facts.functions.iter().find(|kernel| kernel.name == name).map(|kernel| kernel.parameters.clone())
    };
    assert_eq!(sizes("scale"), Some(vec![8, 8, 4, 4]));
    assert_eq!(sizes("forever"), Some(vec![]));
}

fn a_module_tells_how_many_blocks_fit_on_a_multiprocessor(backend: &Backend<'_>) {
    let (module, facts) = backend
        .driver
        .cuModuleLoadData(vec![kernels::MODULE.as_bytes()])
        .expect("PTX that every device takes");
    for kernel in &facts.functions {
        let name = CString::new(kernel.name.clone()).expect("a name");
        let function = backend.driver.cuModuleGetFunction(module, &name).expect("a kernel");
        assert_eq!(i32::try_from(kernel.resident.len() * 32), Ok(kernel.attributes[0]), "{}", kernel.name);
        for (told, threads) in kernel.resident.iter().zip((32..).step_by(32)) {
            let fit =
                backend.driver.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(function, threads, 0, 0);
            assert_eq!(fit, Ok(i32::from(*told)), "{} with {threads} threads", kernel.name);
        }
    }
    assert!(!facts.functions.is_empty());
}

fn streams_and_events_keep_order(backend: &Backend<'_>) {
    let (driver, memory) = (backend.driver, backend.memory());
    let streams = [(); 2].map(|()| driver.cuStreamCreateWithPriority(1, 0).expect("a stream"));
    let [start, end] = [(); 2].map(|()| driver.cuEventCreate(0).expect("an event"));
    driver.cuEventRecord(start, streams[0]).expect("recorded");
    for round in 0..100 {
        let (this, other) = (streams[round % 2], streams[(round + 1) % 2]);
        driver.cuMemsetD32Async(memory, u32::try_from(round).expect("small"), 1000, this).expect("set");
        driver.cuEventRecord(end, this).expect("recorded");
        driver.cuStreamWaitEvent(other, end, 0).expect("waits");
    }
    driver.cuEventSynchronize(end).expect("done");
    assert_eq!(driver.cuEventQuery(end), Ok(()));
    assert!(driver.cuEventElapsedTime(start, end).expect("both recorded") >= 0.0);
    assert_eq!(driver.cuStreamQuery(streams[1]), Ok(()));
    assert_eq!(backend.read(memory, 4000), words([99; 1000]));
    for stream in streams {
        driver.cuStreamDestroy_v2(stream).expect("destroyed");
    }
}

fn a_name_that_does_not_exist_is_not_found(backend: &Backend<'_>) {
    let module = backend.module();
    let wanted = |name: &std::ffi::CStr| -> CuResult<i32> {
        let function = backend.driver.cuModuleGetFunction(module, name)?;
        backend.driver.cuFuncGetAttribute(function, 0)
    };
    assert_eq!(wanted(c"no_such_kernel"), Err(CuError::NOT_FOUND));
    assert!(wanted(c"scale").expect("it exists") >= 32);
    assert!(backend.driver.cuModuleLoadData(vec![b"this is no module"]).is_err());
}

fn a_fault_breaks_the_context_and_stays(backend: &Backend<'_>) {
    let driver = backend.driver;
    let poke = backend.kernel(c"poke");
    assert_eq!(driver.cuCtxSynchronize(), Ok(()));
    driver.cuLaunchKernel(poke, x(1), x(1), 0, CUstream::NULL, &0_u64.to_le_bytes()).expect("launched");
    assert_eq!(driver.cuCtxSynchronize(), Err(CuError::ILLEGAL_ADDRESS));
    assert_eq!(driver.cuCtxSynchronize(), Err(CuError::ILLEGAL_ADDRESS));
    assert_eq!(driver.cuMemGetInfo_v2(), Err(CuError::ILLEGAL_ADDRESS));
}

fn arrays_are_reached_through_textures_and_surfaces(backend: &Backend<'_>) {
    const WIDTH: u64 = 8;
    let (driver, memory) = (backend.driver, backend.memory());
    let desc =
        ArrayDesc { width: WIDTH, height: 2, depth: 0, format: 0x20, channels: 1, flags: ArrayDesc::SURFACE };
    let array = driver.cuArray3DCreate_v2(desc).expect("an array");
    let texels: Vec<u8> = (0..16_u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    driver.cuMemcpyHtoD_v2(memory, &texels, CUstream::NULL).expect("up");
    let pitch = WIDTH * 4;
    let device = |address| Side3D { kind: Side3D::DEVICE, address, pitch, height: 2, ..Side3D::default() };
    let part = Side3D { kind: Side3D::ARRAY, array, ..Side3D::default() };
    let copy = Copy3D { dst: part, src: device(memory), width: pitch, height: 2, depth: 1 };
    driver.cuMemcpy3DAsync_v2(copy, CUstream::NULL).expect("into the array");
    let linear = TextureDesc { address_modes: [1; 3], filter: 1, ..TextureDesc::default() };
    let texture = driver.cuTexObjectCreate(Resource::Array(array), linear).expect("a texture");
    let surface = driver.cuSurfObjectCreate(Resource::Array(array)).expect("a surface");
    let module = driver.cuModuleLoadData(vec![kernels::TEXTURES.as_bytes()]).expect("PTX").0;
    let blend = driver.cuModuleGetFunction(module, c"blend").expect("a kernel of the module");
    let out = CUdeviceptr(memory.0 + 4096);
    let arguments = [out.0, texture, surface].map(u64::to_le_bytes).concat();
    driver.cuLaunchKernel(blend, x(1), x(1), 0, CUstream::NULL, &arguments).expect("launched");
    // Between (2, 0), (3, 0), (2, 1) and (3, 1); then the kernel writes 99 at (5, 1).
    assert_eq!(backend.read(out, 4), 6.5_f32.to_le_bytes());
    let copy = Copy3D { dst: device(memory), src: part, width: pitch, height: 2, depth: 1 };
    driver.cuMemcpy3DAsync_v2(copy, CUstream::NULL).expect("out of the array");
    let mut expected = texels;
    expected[13 * 4..14 * 4].copy_from_slice(&99.0_f32.to_le_bytes());
    assert_eq!(backend.read(memory, 64), expected);
    driver.cuSurfObjectDestroy(surface).expect("made above");
    driver.cuTexObjectDestroy(texture).expect("made above");
    driver.cuArrayDestroy(array).expect("made above");

    let mipmapped = driver.cuMipmappedArrayCreate(ArrayDesc { flags: 0, ..desc }, 2).expect("levels");
    let level = driver.cuMipmappedArrayGetLevel(mipmapped, 1).expect("the second");
    let part = Side3D { array: level, ..part };
    let copy = Copy3D { dst: part, src: device(memory), width: pitch / 2, height: 1, depth: 1 };
    driver.cuMemcpy3DAsync_v2(copy, CUstream::NULL).expect("into the level");
    driver.cuMipmappedArrayDestroy(mipmapped).expect("made above");
    assert_eq!(driver.cuCtxSynchronize(), Ok(()));
}

fn physical_memory_is_the_same_wherever_it_is_mapped(backend: &Backend<'_>) {
    let driver = backend.driver;
    let at = |chunk: u64| backend.base + (64 + chunk) * CHUNK;
    let free = || driver.cuMemGetInfo_v2().expect("a device").0;
    let before = free();
    assert_eq!(driver.vgpuMemCreate(0x77, 1 << 50), Err(CuError::OUT_OF_MEMORY));
    driver.vgpuMemCreate(0x71, 2 * CHUNK).expect("memory");
    driver.vgpuMemCreate(0x72, CHUNK).expect("memory");
    assert!(free() <= before - 3 * CHUNK);
    // One behind the other, and the second half of the first once more.
    driver.vgpuMemMapPhysical(at(0), 2 * CHUNK, 0, 0x71).expect("free");
    driver.vgpuMemMapPhysical(at(2), CHUNK, 0, 0x72).expect("free");
    driver.vgpuMemMapPhysical(at(8), CHUNK, CHUNK, 0x71).expect("free");
    driver.vgpuMemSetAccess(at(0), 3 * CHUNK, 3).expect("mapped");
    driver.vgpuMemSetAccess(at(8), CHUNK, 1).expect("mapped");
    driver.vgpuMemRelease(0x71).expect("held");
    driver.vgpuMemRelease(0x72).expect("held");
    let border = CUdeviceptr(at(2) - 2000);
    driver.cuMemcpyHtoD_v2(border, &words(0..1000), CUstream::NULL).expect("up, across the border");
    assert_eq!(backend.read(border, 4000), words(0..1000));
    assert_eq!(backend.read(CUdeviceptr(at(9) - 2000), 2000), words(0..500), "by its other address");
    let (out, scale) = (CUdeviceptr(at(0)), backend.kernel(c"scale"));
    let source = CUdeviceptr(at(9) - 2000);
    let arguments =
        [&out.0.to_le_bytes()[..], &source.0.to_le_bytes(), &3_u32.to_le_bytes(), &500_u32.to_le_bytes()];
    driver.cuLaunchKernel(scale, x(4), x(128), 0, CUstream::NULL, &arguments.concat()).expect("launched");
    assert_eq!(backend.read(out, 2000), words((0..500).map(|i| i * 4)));
    driver.vgpuMemUnmapPhysical(at(0), 3 * CHUNK).expect("whole mappings");
    assert!(free() <= before - 2 * CHUNK, "a part is still mapped");
    assert_eq!(backend.read(CUdeviceptr(at(9) - 2000), 2000), words(0..500));
    assert!(driver.cuMemcpyDtoH_v2(border, 4, CUstream::NULL).is_err(), "nothing is there any more");
    // What a driver keeps for modules and launches comes on top.
    let held = free();
    driver.vgpuMemUnmapPhysical(at(8), CHUNK).expect("mapped");
    assert!(free() >= held + 2 * CHUNK, "all of it is back");
}

fn memory_without_access_is_out_of_reach_of_kernels(backend: &Backend<'_>) {
    let (driver, at) = (backend.driver, backend.base + 64 * CHUNK);
    driver.vgpuMemCreate(0x71, CHUNK).expect("memory");
    driver.vgpuMemMapPhysical(at, CHUNK, 0, 0x71).expect("free");
    driver.vgpuMemSetAccess(at, CHUNK, 3).expect("mapped");
    let poke = backend.kernel(c"poke");
    driver.cuLaunchKernel(poke, x(1), x(1), 0, CUstream::NULL, &at.to_le_bytes()).expect("launched");
    assert_eq!(driver.cuCtxSynchronize(), Ok(()));
    driver.vgpuMemSetAccess(at, CHUNK, 1).expect("mapped");
    assert_eq!(backend.read(CUdeviceptr(at), 4).len(), 4, "it can be read");
    driver.cuLaunchKernel(poke, x(1), x(1), 0, CUstream::NULL, &at.to_le_bytes()).expect("launched");
    assert!(driver.cuCtxSynchronize().is_err_and(CuError::is_sticky));
}

fn streams_wait_for_values_that_others_write(backend: &Backend<'_>) {
    const GEQ: u32 = 0;
    const EQUAL: u32 = 1;
    const COMMON_BITS: u32 = 2;
    const NOT_ALL_BITS: u32 = 3;
    let (driver, memory) = (backend.driver, backend.memory());
    let at = |offset: u64| CUdeviceptr(memory.0 + offset);
    let [waiting, writing] = [(); 2].map(|()| driver.cuStreamCreateWithPriority(1, 0).expect("a stream"));
    driver.cuMemsetD8Async(memory, 0, 4096, CUstream::NULL).expect("set");
    driver.cuCtxSynchronize().expect("zeros");
    driver.cuStreamWaitValue32_v2(waiting, at(0), 7, GEQ).expect("waits");
    driver.cuMemsetD32Async(at(1024), 1, 1, waiting).expect("behind it");
    driver.cuStreamWaitValue64_v2(waiting, at(8), 0x1_0000_0002, EQUAL).expect("waits");
    driver.cuMemsetD32Async(at(1028), 2, 1, waiting).expect("behind it");
    driver.cuStreamWaitValue32_v2(waiting, at(16), 0b0110, COMMON_BITS).expect("waits");
    driver.cuStreamWaitValue64_v2(waiting, at(24), u64::MAX - 1, NOT_ALL_BITS).expect("met at once");
    driver.cuMemsetD32Async(at(1032), 3, 1, waiting).expect("behind it");
    let seen = || {
        let bytes = driver.cuMemcpyDtoH_v2(at(1024), 12, writing).expect("readable");
        bytes.chunks(4).map(|word| word[0]).collect::<Vec<u8>>()
    };
    let end = Instant::now() + Duration::from_secs(60);
    let until = |wanted: [u8; 3]| {
        while seen() != wanted && Instant::now() < end {
            std::thread::yield_now();
        }
        seen() == wanted
    };
    driver.cuStreamWriteValue32_v2(writing, at(0), 6, 0).expect("written");
    assert_eq!(seen(), [0, 0, 0]);
    assert_eq!(driver.cuStreamQuery(waiting), Err(CuError::NOT_READY));
    driver.cuStreamWriteValue32_v2(writing, at(0), 9, 0).expect("written");
    driver.cuStreamWriteValue64_v2(writing, at(8), 2, 0).expect("half of it");
    assert!(until([1, 0, 0]), "{:?}", seen());
    driver.cuStreamWriteValue64_v2(writing, at(8), 0x1_0000_0002, 0).expect("written");
    assert!(until([1, 2, 0]), "{:?}", seen());
    // A set of one byte by another stream will do as well as a written value.
    driver.cuMemsetD8Async(at(16), 0b0100, 1, writing).expect("set");
    driver.cuStreamSynchronize(waiting).expect("met");
    assert_eq!(seen(), [1, 2, 3]);
}

fn soft() -> SoftGpu {
    SoftGpu::open(0, SoftOptions::default()).expect("a software GPU")
}

fn directly(body: fn(&Backend<'_>)) {
    let gpu = soft();
    // Tests of one process share the address space.
    let base = (0..64)
        .map(|slot| 0x2000_0000_0000 + slot * WINDOW_BYTES)
        .find(|base| gpu.reserve_window(*base, WINDOW_BYTES).is_ok())
        .expect("room for a window");
    body(&Backend { driver: &gpu, base });
}

fn remotely(wire: Wire, body: fn(&Backend<'_>)) {
    // Tests of one process share the address space, and a client proposes few places for a window.
    static ORDINAL: AtomicU32 = AtomicU32::new(0);
    let ordinal = ORDINAL.fetch_add(1, Ordering::Relaxed) % 64;
    let harness = Harness::new(wire, Arc::new(soft()), ordinal, WorkerOptions::default());
    let session: Arc<Session> = harness.remote.session().expect("a worker");
    // The session gives out its window from below; this test uses the upper half.
    let given = session.cuMemAlloc(1).expect("memory");
    body(&Backend { driver: &*session, base: given.0 / WINDOW_BYTES * WINDOW_BYTES + WINDOW_BYTES / 2 });
}

fn through_cudarc(library: Library, test: &str, body: fn(&Backend<'_>)) {
    with_driver(library, test, || match NvidiaGpu::open(0) {
        Ok(gpu) => {
            const BASE: u64 = 0x2000_0000_0000;
            gpu.reserve_window(BASE, WINDOW_BYTES).expect("a window at a fixed place");
            body(&Backend { driver: &gpu, base: BASE });
        }
        Err(error) if library == Library::Installed => eprintln!("skipped: no NVIDIA GPU here ({error})"),
        Err(error) => panic!("the software GPU's library does not open: {error}"),
    });
}

macro_rules! on_every_backend {
    ($($body:ident)*) => {
        mod on_soft_gpu { $(#[test] fn $body() { super::directly(super::$body) })* }
        mod over_memory { $(#[test] fn $body() { super::remotely(super::Wire::Memory, super::$body) })* }
        mod over_tcp { $(#[test] fn $body() { super::remotely(super::Wire::Tcp, super::$body) })* }
        mod on_soft_libcuda {
            $(#[test] fn $body() {
                let test = concat!("on_soft_libcuda::", stringify!($body));
                super::through_cudarc(super::Library::Soft, test, super::$body)
            })*
        }
        mod on_nvidia_gpu {
            $(#[test] fn $body() {
                let test = concat!("on_nvidia_gpu::", stringify!($body));
                super::through_cudarc(super::Library::Installed, test, super::$body)
            })*
        }
    };
}

on_every_backend! {
    memory_keeps_what_was_put_there
    kernels_compute_and_meet_at_barriers
    variables_of_a_module_can_be_read_and_written
    a_module_tells_how_many_blocks_fit_on_a_multiprocessor
    streams_and_events_keep_order
    a_name_that_does_not_exist_is_not_found
    a_fault_breaks_the_context_and_stays
    arrays_are_reached_through_textures_and_surfaces
    physical_memory_is_the_same_wherever_it_is_mapped
    memory_without_access_is_out_of_reach_of_kernels
    streams_wait_for_values_that_others_write
}
