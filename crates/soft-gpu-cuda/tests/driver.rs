//! The code that drives an NVIDIA GPU, run on this library: through cudarc, the loader and the C entry points.
//!
//! cudarc finds its library by the loader, so each test starts itself again with `LD_LIBRARY_PATH` at a folder that
//! holds both names of a driver.

use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use cuda_types::{CUdeviceptr, CUstream, CuError};
use nvidia::NvidiaGpu;
use nvidia::api::Api;
use nvidia::plain::Driver;
use proto::{ContextCalls, Device, EventCalls, MemoryCalls, StreamCalls};

/// Runs `body` in a process where the software GPU is the only driver.
fn with_driver(test: &str, body: impl FnOnce()) {
    testkit::driver::with_driver(testkit::driver::Library::Soft, test, body);
}

const WINDOW: u64 = 0x2000_0000_0000;
const CHUNK: u64 = 2 << 20;

/// A device with one chunk of memory at `WINDOW`.
fn gpu() -> NvidiaGpu {
    let gpu = NvidiaGpu::open(0).unwrap();
    gpu.reserve_window(WINDOW, 512 << 30).unwrap();
    gpu.vgpuMemMap(WINDOW, CHUNK).unwrap();
    gpu.cuMemAlloc_v2(CUdeviceptr(WINDOW), CHUNK).unwrap();
    gpu
}

#[test]
fn every_function_that_we_call_is_exported() {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(testkit::driver::soft_library())
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let exported: Vec<&str> = table.lines().filter_map(|line| line.split(' ').next_back()).collect();
    let missing: Vec<_> = Api::NAMES.iter().filter(|name| !exported.contains(name)).collect();
    assert_eq!(missing, Vec::<&&str>::new());
    assert!(!exported.contains(&"vgpu_client_library"), "this is a driver, not the client");
}

#[test]
fn facts_are_read() {
    with_driver("facts_are_read", || {
        let facts = NvidiaGpu::open(0).unwrap().facts().unwrap();
        assert!(!facts.name.is_empty());
        assert!(facts.total_memory > 0 && facts.driver_version >= 12_000, "{facts:?}");
        assert!(
            facts.attribute(75).is_some_and(|major| major >= 5),
            "compute capability {:?}",
            facts.attribute(75)
        );
        assert_eq!(NvidiaGpu::open(77).err(), Some(CuError::INVALID_DEVICE));
    });
}

#[test]
fn bytes_go_up_across_and_down_again() {
    with_driver("bytes_go_up_across_and_down_again", || {
        let gpu = gpu();
        let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i * 7 + i / 256).to_le_bytes()[0]).collect();
        let half = CUdeviceptr(WINDOW + CHUNK / 2);
        gpu.cuMemcpyHtoD_v2(CUdeviceptr(WINDOW), &bytes, CUstream::NULL).unwrap();
        gpu.cuMemcpyDtoDAsync_v2(half, CUdeviceptr(WINDOW), 50_000, CUstream::NULL).unwrap();
        gpu.cuMemsetD8Async(half, 0xab, 10, CUstream::NULL).unwrap();
        let back = gpu.cuMemcpyDtoH_v2(half, 50_000, CUstream::NULL).unwrap();
        assert_eq!(back[..10], [0xab; 10]);
        assert_eq!(back[10..], bytes[10..]);

        // The same through pinned memory, in stream order.
        let stream = gpu.cuStreamCreateWithPriority(1, 0).unwrap();
        let mut staging = gpu.staging(1 << 20).unwrap();
        staging.write()[..50_000].copy_from_slice(&bytes);
        let (up, down) = (staging.slice(0, 50_000).unwrap(), staging.slice(1 << 19, 50_000).unwrap());
        gpu.cuMemcpyHtoDAsync_v2(half, up, stream).unwrap();
        gpu.cuMemcpyDtoHAsync_v2(down, half, stream).unwrap();
        gpu.cuStreamSynchronize(stream).unwrap();
        assert_eq!(down.read(), bytes);
    });
}

#[test]
fn a_stream_waits_at_a_gate_and_callbacks_run_behind_it() {
    with_driver("a_stream_waits_at_a_gate_and_callbacks_run_behind_it", || {
        let gpu = gpu();
        let stream = gpu.helper_stream().unwrap();
        let event = gpu.cuEventCreate(0).unwrap();
        let gate = gpu.gate_create().unwrap();
        gpu.gate_wait(gate, stream).unwrap();
        let (sender, arrived) = channel();
        gpu.cuStreamAddCallback(stream, Box::new(move |status| sender.send(status).unwrap())).unwrap();
        gpu.cuEventRecord(event, stream).unwrap();
        assert!(arrived.recv_timeout(Duration::from_millis(100)).is_err(), "the gate is closed");
        assert_eq!(gpu.cuStreamQuery(stream), Err(CuError::NOT_READY));
        assert_eq!(gpu.cuEventQuery(event), Err(CuError::NOT_READY));
        gpu.gate_open(gate).unwrap();
        assert_eq!(arrived.recv_timeout(Duration::from_secs(5)), Ok(Ok(())));
        gpu.cuEventSynchronize(event).unwrap();
        gpu.cuStreamSynchronize(stream).unwrap();
        assert_eq!(gpu.cuStreamQuery(stream), Ok(()));
        gpu.gate_destroy(gate);
        // A gate that is used again is closed again.
        assert_eq!(gpu.gate_create(), Ok(gate));
        gpu.gate_wait(gate, stream).unwrap();
        assert_eq!(gpu.cuStreamQuery(stream), Err(CuError::NOT_READY));
        gpu.gate_open(gate).unwrap();
        gpu.cuCtxSynchronize().unwrap();
    });
}

#[test]
fn a_module_that_is_loaded_before_the_first_allocation_sees_its_memory() {
    with_driver("a_module_that_is_loaded_before_the_first_allocation_sees_its_memory", || {
        let driver = Driver::open().unwrap();
        assert!(driver.devices().unwrap() > 0 && !driver.is_client());
        let device = driver.device(0).unwrap();
        let adder = device.adder().unwrap();
        let memory = device.allocate(8).unwrap();
        device.copy_to_device(&memory, &1_u64.to_le_bytes()).unwrap();
        device.launch(adder, &memory, 41).unwrap();
        let mut sum = [0; 8];
        device.copy_to_host(&mut sum, &memory).unwrap();
        assert_eq!(u64::from_le_bytes(sum), 42);
        assert_eq!(device.copy_to_host(&mut [0; 9], &memory), Err(CuError::INVALID_VALUE));

        let mut locked = device.page_locked(8).unwrap();
        locked.copy_from_slice(&7_u64.to_le_bytes());
        device.copy_to_device_by_stream(&memory, &locked).unwrap();
        device.launch(adder, &memory, 1).unwrap();
        device.synchronize().unwrap();
        device.copy_to_host_by_stream(&mut locked, &memory).unwrap();
        assert_eq!(locked[..], 8_u64.to_le_bytes());
    });
}

#[test]
fn errors_keep_their_numbers() {
    with_driver("errors_keep_their_numbers", || {
        let gpu = gpu();
        let outside = CUdeviceptr(WINDOW + 64 * CHUNK);
        assert_eq!(gpu.cuMemcpyHtoD_v2(outside, &[1, 2, 3], CUstream::NULL), Err(CuError::INVALID_VALUE));
        assert_eq!(gpu.vgpuMemUnmap(WINDOW + CHUNK, CHUNK), Err(CuError::INVALID_VALUE));
        assert_eq!(
            gpu.cuMemcpyDtoH_v2(CUdeviceptr(WINDOW), 1 << 20, CUstream::NULL),
            Err(CuError::INVALID_VALUE)
        );
    });
}
