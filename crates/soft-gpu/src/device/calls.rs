//! The chapters of the call table on the software GPU.

use std::borrow::Cow;
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};

use cuda_types::{CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream, CuError, CuResult, Dim3, HostSpan};
use fatbin::Image;
use proto::device::{Callback, NetworkMemory, NetworkUnit};
use proto::param::Copy2D;
use proto::{
    ContextCalls, Device, DeviceFacts, EventCalls, LaunchCalls, MemoryCalls, ModuleCalls, ModuleFacts,
    StreamCalls,
};

use super::array::Reachable;
use super::engine::{Launch, RunContext};
use super::memory::Access;
use super::queue::Operation;
use super::value::Word;
use super::{SoftGpu, bytes, facts};

/// Up to here an operation on an idle stream runs on the thread that submits it.
const SHORT_BYTES: usize = 64 * 1024;

/// `CUlimit`.
const LIMIT_STACK: u32 = 0;
const LIMIT_PRINTF: u32 = 1;
const LIMIT_HEAP: u32 = 2;

impl ContextCalls for SoftGpu {
    fn cuCtxSynchronize(&self) -> CuResult<()> {
        self.queues.synchronize()
    }

    fn cuCtxGetLimit(&self, limit: u32) -> CuResult<u64> {
        match limit {
            LIMIT_STACK => Ok(self.shared.stack_bytes.load(Ordering::Relaxed)),
            LIMIT_PRINTF => Ok(self.shared.printf_bytes.load(Ordering::Relaxed)),
            LIMIT_HEAP => Ok(self.shared.heap_bytes.load(Ordering::Relaxed)),
            _ => Err(CuError::NOT_SUPPORTED),
        }
    }

    fn cuCtxSetLimit(&self, limit: u32, value: u64) -> CuResult<()> {
        let slot = match limit {
            LIMIT_STACK => &self.shared.stack_bytes,
            LIMIT_PRINTF => &self.shared.printf_bytes,
            LIMIT_HEAP => &self.shared.heap_bytes,
            _ => return Err(CuError::NOT_SUPPORTED),
        };
        slot.store(value, Ordering::Relaxed);
        Ok(())
    }
}

pub(super) fn length(bytes: u64) -> CuResult<usize> {
    usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)
}

impl SoftGpu {
    /// Queues work that takes about as long as moving `bytes` bytes.
    pub(super) fn work(
        &self,
        stream: CUstream,
        bytes: usize,
        work: impl FnOnce() -> CuResult<()> + Send + 'static,
    ) -> CuResult<()> {
        self.queues.submit(stream, Operation::Work(Box::new(work)), bytes <= SHORT_BYTES)
    }

    fn fill<const N: usize>(
        &self,
        dst: CUdeviceptr,
        value: [u8; N],
        count: u64,
        stream: CUstream,
    ) -> CuResult<()> {
        let bytes = count.checked_mul(N as u64).ok_or(CuError::INVALID_VALUE)?;
        if bytes == 0 {
            return Ok(());
        }
        self.memory.check_write(dst.0, bytes)?;
        if !dst.0.is_multiple_of(N as u64) {
            return Err(CuError::INVALID_VALUE);
        }
        let count = length(count)?;
        self.work(stream, length(bytes)?, move || {
            // SAFETY: the range was checked above and stays until the stream has passed; `dst` is aligned.
            unsafe { bytes::fill(dst.0, &value, count) };
            Ok(())
        })
    }
}

impl MemoryCalls for SoftGpu {
    fn vgpuMemMap(&self, address: u64, bytes: u64) -> CuResult<()> {
        self.queues.check()?;
        self.memory.map(address, bytes)
    }

    fn vgpuMemUnmap(&self, address: u64, bytes: u64) -> CuResult<()> {
        self.memory.unmap(address, bytes)
    }

    fn cuMemAlloc_v2(&self, dptr: CUdeviceptr, bytesize: u64) -> CuResult<()> {
        self.queues.check()?;
        self.memory.allocate(dptr.0, bytesize)
    }

    fn cuMemFree_v2(&self, dptr: CUdeviceptr) -> CuResult<()> {
        // CUDA Driver API, cuMemFree: waits for the work that may still use the range.
        let done = self.queues.synchronize();
        self.memory.free(dptr.0)?;
        self.forget_freed();
        done
    }

    fn cuMemGetInfo_v2(&self) -> CuResult<(u64, u64)> {
        self.queues.check()?;
        Ok(self.memory.info())
    }

    fn vgpuMemCreate(&self, physical: u64, bytes: u64) -> CuResult<()> {
        self.queues.check()?;
        self.memory.create_physical(physical, bytes)
    }

    fn vgpuMemRelease(&self, physical: u64) -> CuResult<()> {
        self.memory.release_physical(physical)
    }

    fn vgpuMemMapPhysical(&self, address: u64, bytes: u64, offset: u64, physical: u64) -> CuResult<()> {
        self.queues.check()?;
        self.memory.map_physical(address, bytes, offset, physical)
    }

    fn vgpuMemUnmapPhysical(&self, address: u64, bytes: u64) -> CuResult<()> {
        // Nothing may use the range any more; if the context is broken, nothing runs.
        let done = self.queues.synchronize();
        self.memory.unmap_physical(address, bytes)?;
        self.forget_freed();
        done
    }

    fn vgpuMemSetAccess(&self, address: u64, bytes: u64, access: u32) -> CuResult<()> {
        let access = match access {
            0 => Access::None,
            1 => Access::Read,
            3 => Access::Write,
            _ => return Err(CuError::INVALID_VALUE),
        };
        if !self.memory.loses_access(address, bytes, access)? {
            return self.memory.set_access(address, bytes, access);
        }
        // What was posted before has been checked for the access that it is about to lose.
        let done = self.queues.synchronize();
        self.memory.set_access(address, bytes, access)?;
        self.forget_freed();
        done
    }

    fn cuMemcpyHtoD_v2(&self, dst: CUdeviceptr, src: &[u8], stream: CUstream) -> CuResult<()> {
        self.memory.check_write(dst.0, src.len() as u64)?;
        let captured = src.to_vec();
        self.work(stream, src.len(), move || {
            // SAFETY: the range was checked above and stays until the stream has passed.
            unsafe { bytes::store(dst.0, &captured) };
            Ok(())
        })
    }

    fn cuMemcpyDtoH_v2(&self, src: CUdeviceptr, bytes: u64, stream: CUstream) -> CuResult<Vec<u8>> {
        self.memory.check(src.0, bytes)?;
        let length = length(bytes)?;
        let (sender, copied) = channel();
        self.work(stream, length, move || {
            let mut into = vec![0; length];
            // SAFETY: the range was checked above and stays until the stream has passed.
            unsafe { bytes::load(&mut into, src.0) };
            // The receiver waits below, unless the context has broken meanwhile.
            let _ = sender.send(into);
            Ok(())
        })?;
        // Work that is dropped because the context broke drops its sender.
        match copied.recv() {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(self.queues.check().err().unwrap_or(CuError::UNKNOWN)),
        }
    }

    fn cuMemcpyDtoDAsync_v2(
        &self,
        dst: CUdeviceptr,
        src: CUdeviceptr,
        bytes: u64,
        stream: CUstream,
    ) -> CuResult<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.memory.check_write(dst.0, bytes)?;
        self.memory.check(src.0, bytes)?;
        let length = length(bytes)?;
        self.work(stream, length, move || {
            // SAFETY: both ranges were checked above and stay until the stream has passed.
            unsafe { bytes::copy(dst.0, src.0, length) };
            Ok(())
        })
    }

    fn cuMemcpy2DAsync_v2(&self, copy: Copy2D, stream: CUstream) -> CuResult<()> {
        if copy.width == 0 || copy.height == 0 {
            return Ok(());
        }
        if copy.width > copy.dst_pitch || copy.width > copy.src_pitch {
            return Err(CuError::INVALID_VALUE);
        }
        let extent = |pitch: u64| pitch.checked_mul(copy.height - 1)?.checked_add(copy.width);
        self.memory.check_write(copy.dst.0, extent(copy.dst_pitch).ok_or(CuError::INVALID_VALUE)?)?;
        self.memory.check(copy.src.0, extent(copy.src_pitch).ok_or(CuError::INVALID_VALUE)?)?;
        let width = length(copy.width)?;
        self.work(stream, length(copy.width.saturating_mul(copy.height))?, move || {
            for row in 0..copy.height {
                // SAFETY: both extents were checked above and stay until the stream has passed.
                unsafe {
                    bytes::copy(copy.dst.0 + row * copy.dst_pitch, copy.src.0 + row * copy.src_pitch, width)
                };
            }
            Ok(())
        })
    }

    fn cuMemsetD8Async(&self, dst: CUdeviceptr, value: u8, count: u64, stream: CUstream) -> CuResult<()> {
        self.fill(dst, [value], count, stream)
    }

    fn cuMemsetD16Async(&self, dst: CUdeviceptr, value: u16, count: u64, stream: CUstream) -> CuResult<()> {
        self.fill(dst, value.to_le_bytes(), count, stream)
    }

    fn cuMemsetD32Async(&self, dst: CUdeviceptr, value: u32, count: u64, stream: CUstream) -> CuResult<()> {
        self.fill(dst, value.to_le_bytes(), count, stream)
    }

    fn cuMemsetD2D8Async(
        &self,
        dst: CUdeviceptr,
        pitch: u64,
        value: u8,
        width: u64,
        height: u64,
        stream: CUstream,
    ) -> CuResult<()> {
        if width == 0 || height == 0 {
            return Ok(());
        }
        let extent = pitch.checked_mul(height - 1).and_then(|bytes| bytes.checked_add(width));
        self.memory.check_write(dst.0, extent.filter(|_| width <= pitch).ok_or(CuError::INVALID_VALUE)?)?;
        let bytes = length(width)?;
        self.work(stream, length(width.saturating_mul(height))?, move || {
            for row in 0..height {
                // SAFETY: the extent was checked above and stays until the stream has passed.
                unsafe { bytes::fill(dst.0 + row * pitch, &[value], bytes) };
            }
            Ok(())
        })
    }
}

impl SoftGpu {
    /// The PTX text of an image that this device can run.
    fn text<'a>(&self, image: &'a [u8]) -> CuResult<Cow<'a, str>> {
        match Image::classify(image).map_err(|_| CuError::INVALID_IMAGE)? {
            Image::Ptx(text) => Ok(text.into()),
            Image::Fatbin(container) => {
                // Text for newer devices runs here too, as far as its instructions are known: of several the oldest.
                let newer = || container.ptx_images().min_by_key(|entry| entry.arch());
                let entry = container.best_ptx(self.options.capability).or_else(newer);
                let entry = entry.ok_or(CuError::NO_BINARY_FOR_GPU)?;
                Ok(entry.ptx().map_err(|_| CuError::INVALID_IMAGE)?.into())
            }
            // Machine code of a real GPU: nothing here can run it.
            Image::Elf(_) => Err(CuError::NO_BINARY_FOR_GPU),
        }
    }
}

impl ModuleCalls for SoftGpu {
    fn cuModuleLoadData(&self, images: Vec<&[u8]>) -> CuResult<(CUmodule, ModuleFacts)> {
        self.queues.check()?;
        let texts = images.iter().map(|image| self.text(image)).collect::<CuResult<Vec<_>>>()?;
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        let program = self.engine.load(&texts, self.memory.window())?;
        let functions = program.functions().into_iter().map(facts::with_residence).collect();
        let facts = ModuleFacts { functions, globals: program.globals() };
        for global in &facts.globals {
            self.memory.add_variable(global.address, global.bytes);
        }
        let mut objects = self.objects();
        let number = objects.number();
        objects.modules.insert(number, program);
        Ok((CUmodule(number), facts))
    }

    fn cuModuleUnload(&self, module: CUmodule) -> CuResult<()> {
        let done = self.queues.synchronize();
        let program = self.objects().modules.remove(&module.0).ok_or(CuError::INVALID_HANDLE)?;
        for global in program.globals() {
            self.memory.remove_variable(global.address);
        }
        done
    }

    fn cuModuleGetFunction(&self, module: CUmodule, name: &CStr) -> CuResult<CUfunction> {
        let kernel = self.module(module)?.kernel(name.to_str().map_err(|_| CuError::NOT_FOUND)?)?;
        let mut objects = self.objects();
        let number = objects.number();
        objects.functions.insert(number, kernel);
        Ok(CUfunction(number))
    }

    fn cuFuncSetAttribute(&self, func: CUfunction, _: i32, _: i32) -> CuResult<()> {
        // The client judges launches by what was set; a grid here may use what its launch asks for.
        self.kernel(func).map(drop)
    }

    fn cuFuncGetAttribute(&self, func: CUfunction, attribute: i32) -> CuResult<i32> {
        let kernel = self.kernel(func)?;
        let facts = kernel.facts();
        usize::try_from(attribute)
            .ok()
            .and_then(|index| facts.attributes.get(index).copied())
            .ok_or(CuError::INVALID_VALUE)
    }

    fn cuFuncSetCacheConfig(&self, func: CUfunction, _: u32) -> CuResult<()> {
        // A preference; there is no cache to split.
        self.kernel(func).map(drop)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        &self,
        func: CUfunction,
        block_size: i32,
        dynamic_shared_bytes: u64,
        _: u32,
    ) -> CuResult<i32> {
        let kernel = self.kernel(func)?;
        let facts = kernel.facts();
        if block_size <= 0 {
            return Err(CuError::INVALID_VALUE);
        }
        Ok(facts::resident_blocks(facts, block_size, dynamic_shared_bytes))
    }
}

impl StreamCalls for SoftGpu {
    fn cuStreamCreateWithPriority(&self, flags: u32, _: i32) -> CuResult<CUstream> {
        self.queues.create_stream(flags)
    }

    fn cuStreamDestroy_v2(&self, stream: CUstream) -> CuResult<()> {
        self.queues.destroy_stream(stream)
    }

    fn cuStreamSynchronize(&self, stream: CUstream) -> CuResult<()> {
        self.queues.synchronize_stream(stream)
    }

    fn cuStreamQuery(&self, stream: CUstream) -> CuResult<()> {
        self.queues.query_stream(stream)
    }

    fn cuStreamWaitEvent(&self, stream: CUstream, event: CUevent, _: u32) -> CuResult<()> {
        self.queues.wait_event(stream, event)
    }

    fn cuStreamWaitValue32_v2(
        &self,
        stream: CUstream,
        addr: CUdeviceptr,
        value: u32,
        flags: u32,
    ) -> CuResult<()> {
        self.await_word(stream, addr, Word::Half(value), flags)
    }

    fn cuStreamWaitValue64_v2(
        &self,
        stream: CUstream,
        addr: CUdeviceptr,
        value: u64,
        flags: u32,
    ) -> CuResult<()> {
        self.await_word(stream, addr, Word::Whole(value), flags)
    }

    fn cuStreamWriteValue32_v2(
        &self,
        stream: CUstream,
        addr: CUdeviceptr,
        value: u32,
        flags: u32,
    ) -> CuResult<()> {
        self.write_word(stream, addr, Word::Half(value), flags)
    }

    fn cuStreamWriteValue64_v2(
        &self,
        stream: CUstream,
        addr: CUdeviceptr,
        value: u64,
        flags: u32,
    ) -> CuResult<()> {
        self.write_word(stream, addr, Word::Whole(value), flags)
    }
}

impl EventCalls for SoftGpu {
    fn cuEventCreate(&self, flags: u32) -> CuResult<CUevent> {
        self.queues.create_event(flags)
    }

    fn cuEventDestroy_v2(&self, event: CUevent) -> CuResult<()> {
        self.queues.destroy_event(event)
    }

    fn cuEventRecord(&self, event: CUevent, stream: CUstream) -> CuResult<()> {
        self.queues.record(event, stream)
    }

    fn cuEventSynchronize(&self, event: CUevent) -> CuResult<()> {
        self.queues.synchronize_event(event)
    }

    fn cuEventQuery(&self, event: CUevent) -> CuResult<()> {
        self.queues.query_event(event)
    }

    fn cuEventElapsedTime(&self, start: CUevent, end: CUevent) -> CuResult<f32> {
        self.queues.elapsed(start, end)
    }
}

impl SoftGpu {
    fn launch(&self, func: CUfunction, launch: Launch, stream: CUstream, arguments: &[u8]) -> CuResult<()> {
        let kernel = self.kernel(func)?;
        let expected: u64 = kernel.facts().parameters.iter().map(|bytes| u64::from(*bytes)).sum();
        if arguments.len() as u64 != expected {
            return Err(CuError::INVALID_VALUE);
        }
        let (arguments, shared) = (arguments.to_vec(), Arc::clone(&self.shared));
        let memory = Arc::clone(&self.memory);
        let run = move || {
            let print = |text: &[u8]| {
                shared.printed.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text);
            };
            let exact = |address: u64, bytes: u64| memory.check(address, bytes).is_ok();
            let context = RunContext {
                print: &print,
                abort: &shared.abort,
                timeout: shared.timeout,
                threads: shared.threads,
                stack_bytes: shared.stack_bytes.load(Ordering::Relaxed),
                heap_bytes: shared.heap_bytes.load(Ordering::Relaxed),
                exact: &exact,
                objects: Reachable::now(&shared.objects),
            };
            kernel.run(&launch, &arguments, &context)
        };
        self.queues.submit(stream, Operation::Work(Box::new(run)), false)
    }
}

impl LaunchCalls for SoftGpu {
    fn cuLaunchKernel(
        &self,
        func: CUfunction,
        grid: Dim3,
        block: Dim3,
        shared_bytes: u32,
        stream: CUstream,
        arguments: &[u8],
    ) -> CuResult<()> {
        self.launch(func, Launch { grid, block, shared_bytes, cooperative: false }, stream, arguments)
    }

    fn cuLaunchCooperativeKernel(
        &self,
        func: CUfunction,
        grid: Dim3,
        block: Dim3,
        shared_bytes: u32,
        stream: CUstream,
        arguments: &[u8],
    ) -> CuResult<()> {
        self.launch(func, Launch { grid, block, shared_bytes, cooperative: true }, stream, arguments)
    }
}

impl Device for SoftGpu {
    fn facts(&self) -> CuResult<DeviceFacts> {
        Ok(facts::device(&self.options, self.ordinal))
    }

    fn reserve_window(&self, base: u64, bytes: u64) -> CuResult<()> {
        self.memory.reserve(base, bytes)
    }

    fn network_unit(&self) -> NetworkUnit {
        NetworkUnit::Allocation
    }

    fn network_memory(&self, address: u64, bytes: u64) -> CuResult<NetworkMemory> {
        self.memory.check(address, bytes)?;
        let length = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        // SAFETY: an allocation, which stays mapped until `cuMemFree`; before that the caller ends its use.
        Ok(NetworkMemory::Mapped(unsafe { bytes::span(address, length) }))
    }

    fn staging(&self, bytes: usize) -> CuResult<HostSpan> {
        Ok(HostSpan::leak(vec![0; bytes]))
    }

    fn cuMemcpyHtoDAsync_v2(&self, dst: CUdeviceptr, src: HostSpan, stream: CUstream) -> CuResult<()> {
        self.memory.check_write(dst.0, src.len() as u64)?;
        self.work(stream, src.len(), move || {
            // SAFETY: the range was checked above and stays until the stream has passed.
            unsafe { bytes::store(dst.0, src.read()) };
            Ok(())
        })
    }

    fn cuMemcpyDtoHAsync_v2(&self, mut dst: HostSpan, src: CUdeviceptr, stream: CUstream) -> CuResult<()> {
        self.memory.check(src.0, dst.len() as u64)?;
        self.work(stream, dst.len(), move || {
            // SAFETY: the range was checked above and stays until the stream has passed.
            unsafe { bytes::load(dst.write(), src.0) };
            Ok(())
        })
    }

    fn cuStreamAddCallback(&self, stream: CUstream, callback: Callback) -> CuResult<()> {
        self.queues.submit(stream, Operation::Callback(callback), true)
    }

    fn gate_create(&self) -> CuResult<u64> {
        Ok(self.queues.create_gate())
    }

    fn gate_wait(&self, gate: u64, stream: CUstream) -> CuResult<()> {
        self.queues.submit(stream, Operation::Gate(gate), true)
    }

    fn gate_open(&self, gate: u64) -> CuResult<()> {
        self.queues.open_gate(gate)
    }

    fn gate_destroy(&self, gate: u64) {
        self.queues.destroy_gate(gate);
    }

    fn helper_stream(&self) -> CuResult<CUstream> {
        self.queues.create_stream(1)
    }

    fn take_printed(&self) -> Vec<u8> {
        std::mem::take(&mut *self.shared.printed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
