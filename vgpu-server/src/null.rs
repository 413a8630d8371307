//! A device that computes nothing: it keeps order, counts and checks, so that everything around a device can be
//! measured and tested by itself.
//!
//! In *copy* mode it has real memory, and copies cost what a copy costs. In *dma-free* mode copies to the device only
//! sample the staging and copies from the device send whatever lies there, as a copy engine would cost the CPU
//! nothing. Kernels never run: a program that checks its results must fail here.

mod array;
mod tally;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cuda_types::attribute::DeviceAttribute;
use cuda_types::{CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream, CuError, CuResult, Dim3, HostSpan};
use fatbin::{Cubin, Image, Kind, Variable};
use proto::device::Callback;
use proto::param::Copy2D;
use proto::{
    ContextCalls, Device, DeviceFacts, EventCalls, FunctionFacts, GlobalFacts, LaunchCalls, MemoryCalls,
    ModuleCalls, ModuleFacts, StreamCalls,
};

pub use tally::{TALLY, Tally, sample, word_sum};

/// See the module's text.
pub struct NullGpu {
    state: Mutex<State>,
    changed: Condvar,
    dma_free: bool,
}

#[derive(Default)]
struct State {
    next_handle: u64,
    chunks: BTreeMap<u64, Vec<u8>>,
    used: u64,
    /// Physical memory by number; what is mapped has a chunk besides.
    physical: HashMap<u64, Physical>,
    /// Mappings: address -> number.
    mapped: BTreeMap<u64, u64>,
    streams: HashMap<u64, Stream>,
    /// Event -> stream position that its last recording stands for, and when it was recorded.
    events: HashMap<u64, (u64, u64, Instant)>,
    open_gates: HashMap<u64, bool>,
    tally: Tally,
}

/// Physical memory of the client's making. Only its bytes are counted: a mapping has a chunk of its own.
struct Physical {
    bytes: u64,
    mappings: usize,
    is_released: bool,
}

/// Work that waits behind a closed gate.
#[derive(Default)]
struct Stream {
    pending: VecDeque<Work>,
    done: u64,
    given: u64,
    /// Whether a thread is running the stream's work.
    running: bool,
}

enum Work {
    Copy { to: Place, from: Place, bytes: usize },
    Gate(u64),
    Event { stream: u64, position: u64 },
    Callback(Callback),
}

#[derive(Clone, Copy)]
enum Place {
    Device(u64),
    Host(HostSpan),
}

impl NullGpu {
    /// A device with `dma_free` copies or real ones.
    pub fn new(dma_free: bool) -> NullGpu {
        let state = State { next_handle: 0x1000, ..State::default() };
        NullGpu { state: Mutex::new(state), changed: Condvar::new(), dma_free }
    }

    /// What has arrived so far.
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self) -> u64 {
        let mut state = self.lock();
        state.next_handle += 1;
        state.next_handle
    }

    /// Adds work to a stream and runs what can run.
    fn submit(&self, stream: CUstream, work: Work) {
        let stream = stream.0.max(1);
        let mut state = self.lock();
        let queue = state.streams.entry(stream).or_default();
        queue.given += 1;
        queue.pending.push_back(work);
        drop(self.run(state));
    }

    /// Runs work until every stream is empty or waits. Callbacks run without the lock.
    fn run<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while let Some(id) = state.runnable() {
            let queue = state.streams.get_mut(&id).expect("found just now");
            let work = queue.pending.pop_front().expect("runnable");
            match work {
                Work::Callback(callback) => {
                    queue.running = true;
                    drop(state);
                    callback(Ok(()));
                    state = self.lock();
                    state.streams.get_mut(&id).expect("streams in use stay").running = false;
                }
                Work::Copy { to, from, bytes } => state.copy(to, from, bytes, self.dma_free),
                Work::Gate(_) | Work::Event { .. } => {}
            }
            state.streams.get_mut(&id).expect("streams in use stay").done += 1;
            self.changed.notify_all();
        }
        state
    }

    fn wait_until(&self, done: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !done(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn memset(&self, dst: CUdeviceptr, bytes: u64, fill: impl Fn(&mut [u8])) -> CuResult<()> {
        let bytes = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        let mut state = self.lock();
        fill(state.bytes(dst.0, bytes).ok_or(CuError::INVALID_VALUE)?);
        Ok(())
    }
}

impl State {
    /// A stream whose next work can run.
    fn runnable(&self) -> Option<u64> {
        let ready = |stream: &Stream| {
            !stream.running
                && match stream.pending.front() {
                    None => false,
                    Some(Work::Gate(gate)) => self.open_gates.get(gate).copied().unwrap_or(true),
                    Some(Work::Event { stream, position }) => self.reached(*stream, *position),
                    Some(_) => true,
                }
        };
        self.streams.iter().find(|(_, stream)| ready(stream)).map(|(id, _)| *id)
    }

    fn reached(&self, stream: u64, position: u64) -> bool {
        self.streams.get(&stream).is_none_or(|stream| stream.done >= position)
    }

    fn idle(&self) -> bool {
        self.streams.values().all(|stream| stream.done == stream.given)
    }

    fn bytes(&mut self, address: u64, bytes: usize) -> Option<&mut [u8]> {
        let (base, chunk) = self.chunks.range_mut(..=address).next_back()?;
        let from = usize::try_from(address - base).ok()?;
        chunk.get_mut(from..from.checked_add(bytes)?)
    }

    /// Frees physical memory that nobody holds and that is mapped nowhere.
    fn drop_unused(&mut self, number: u64) {
        let unused = |physical: &Physical| physical.is_released && physical.mappings == 0;
        if self.physical.get(&number).is_some_and(unused)
            && let Some(physical) = self.physical.remove(&number)
        {
            self.used -= physical.bytes;
        }
    }

    fn copy(&mut self, to: Place, from: Place, bytes: usize, dma_free: bool) {
        match (to, from) {
            (Place::Device(to), Place::Host(from)) => {
                self.tally.bytes_up += bytes as u64;
                if dma_free {
                    self.tally.sampled_sum = self.tally.sampled_sum.wrapping_add(sample(from.read()));
                } else if let Some(target) = self.bytes(to, bytes) {
                    target.copy_from_slice(&from.read()[..bytes]);
                }
            }
            (Place::Host(mut to), Place::Device(from)) => {
                self.tally.bytes_down += bytes as u64;
                if let Some(source) = self.bytes(from, bytes).filter(|_| !dma_free) {
                    to.write()[..bytes].copy_from_slice(source);
                }
            }
            (Place::Device(to), Place::Device(from)) => {
                let source = self.bytes(from, bytes).map(|bytes| bytes.to_vec());
                if let (Some(source), Some(target)) = (source, self.bytes(to, bytes)) {
                    target.copy_from_slice(&source);
                }
            }
            (Place::Host(_), Place::Host(_)) => {}
        }
    }
}

impl ContextCalls for NullGpu {
    fn cuCtxSynchronize(&self) -> CuResult<()> {
        self.wait_until(State::idle);
        Ok(())
    }
    /// No limits, but from [`TALLY`] on what has arrived, for a benchmark on the other side of the link.
    fn cuCtxGetLimit(&self, limit: u32) -> CuResult<u64> {
        let tally = self.tally();
        let fields = [
            tally.launches,
            tally.argument_sum,
            tally.grid_sum,
            tally.bytes_up,
            tally.bytes_down,
            tally.sampled_sum,
        ];
        let index = limit.checked_sub(TALLY).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| fields.get(index).copied()).ok_or(CuError::NOT_SUPPORTED)
    }
    fn cuCtxSetLimit(&self, _: u32, _: u64) -> CuResult<()> {
        Ok(())
    }
}

const TOTAL_BYTES: u64 = 4 << 30;

impl MemoryCalls for NullGpu {
    fn vgpuMemMap(&self, address: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        let bytes = usize::try_from(bytes).map_err(|_| CuError::OUT_OF_MEMORY)?;
        if state.used + bytes as u64 > TOTAL_BYTES {
            return Err(CuError::OUT_OF_MEMORY);
        }
        state.used += bytes as u64;
        state.chunks.insert(address, vec![0; bytes]);
        Ok(())
    }
    fn vgpuMemUnmap(&self, address: u64, _: u64) -> CuResult<()> {
        let mut state = self.lock();
        let chunk = state.chunks.remove(&address).ok_or(CuError::INVALID_VALUE)?;
        state.used -= chunk.len() as u64;
        Ok(())
    }
    fn cuMemAlloc_v2(&self, dptr: CUdeviceptr, bytesize: u64) -> CuResult<()> {
        let bytes = usize::try_from(bytesize).map_err(|_| CuError::INVALID_VALUE)?;
        self.lock().bytes(dptr.0, bytes).map(drop).ok_or(CuError::INVALID_VALUE)
    }
    fn cuMemFree_v2(&self, _: CUdeviceptr) -> CuResult<()> {
        self.cuCtxSynchronize()
    }
    fn cuMemGetInfo_v2(&self) -> CuResult<(u64, u64)> {
        Ok((TOTAL_BYTES - self.lock().used, TOTAL_BYTES))
    }
    fn vgpuMemCreate(&self, physical: u64, bytes: u64) -> CuResult<()> {
        let mut state = self.lock();
        if bytes > TOTAL_BYTES - state.used {
            return Err(CuError::OUT_OF_MEMORY);
        }
        state.used += bytes;
        state.physical.insert(physical, Physical { bytes, mappings: 0, is_released: false });
        Ok(())
    }
    fn vgpuMemRelease(&self, physical: u64) -> CuResult<()> {
        let mut state = self.lock();
        state.physical.get_mut(&physical).ok_or(CuError::INVALID_HANDLE)?.is_released = true;
        state.drop_unused(physical);
        Ok(())
    }
    fn vgpuMemMapPhysical(&self, address: u64, bytes: u64, _: u64, physical: u64) -> CuResult<()> {
        let mut state = self.lock();
        let room = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        state.physical.get_mut(&physical).ok_or(CuError::INVALID_HANDLE)?.mappings += 1;
        state.chunks.insert(address, vec![0; room]);
        state.mapped.insert(address, physical);
        Ok(())
    }
    fn vgpuMemUnmapPhysical(&self, address: u64, bytes: u64) -> CuResult<()> {
        self.cuCtxSynchronize()?;
        let mut state = self.lock();
        let end = address.saturating_add(bytes);
        let ended: Vec<(u64, u64)> =
            state.mapped.range(address..end).map(|(at, number)| (*at, *number)).collect();
        for (at, number) in ended {
            state.mapped.remove(&at);
            state.chunks.remove(&at);
            if let Some(physical) = state.physical.get_mut(&number) {
                physical.mappings -= 1;
            }
            state.drop_unused(number);
        }
        Ok(())
    }
    fn vgpuMemSetAccess(&self, address: u64, _: u64, _: u32) -> CuResult<()> {
        self.lock().mapped.contains_key(&address).then_some(()).ok_or(CuError::INVALID_VALUE)
    }
    fn cuMemcpyHtoD_v2(&self, dst: CUdeviceptr, src: &[u8], _: CUstream) -> CuResult<()> {
        let mut state = self.lock();
        state.tally.bytes_up += src.len() as u64;
        if self.dma_free {
            state.tally.sampled_sum = state.tally.sampled_sum.wrapping_add(sample(src));
        } else {
            state.bytes(dst.0, src.len()).ok_or(CuError::INVALID_VALUE)?.copy_from_slice(src);
        }
        Ok(())
    }
    fn cuMemcpyDtoH_v2(&self, src: CUdeviceptr, bytes: u64, stream: CUstream) -> CuResult<Vec<u8>> {
        self.cuStreamSynchronize(stream)?;
        let bytes = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        let mut state = self.lock();
        state.tally.bytes_down += bytes as u64;
        state.bytes(src.0, bytes).map(|bytes| bytes.to_vec()).ok_or(CuError::INVALID_VALUE)
    }
    fn cuMemcpyDtoDAsync_v2(
        &self,
        dst: CUdeviceptr,
        src: CUdeviceptr,
        bytes: u64,
        stream: CUstream,
    ) -> CuResult<()> {
        let bytes = usize::try_from(bytes).map_err(|_| CuError::INVALID_VALUE)?;
        self.submit(stream, Work::Copy { to: Place::Device(dst.0), from: Place::Device(src.0), bytes });
        Ok(())
    }
    fn cuMemcpy2DAsync_v2(&self, copy: Copy2D, stream: CUstream) -> CuResult<()> {
        for row in 0..copy.height {
            let (dst, src) = (copy.dst.0 + row * copy.dst_pitch, copy.src.0 + row * copy.src_pitch);
            self.cuMemcpyDtoDAsync_v2(CUdeviceptr(dst), CUdeviceptr(src), copy.width, stream)?;
        }
        Ok(())
    }
    fn cuMemsetD8Async(&self, dst: CUdeviceptr, value: u8, count: u64, _: CUstream) -> CuResult<()> {
        self.memset(dst, count, |bytes| bytes.fill(value))
    }
    fn cuMemsetD16Async(&self, dst: CUdeviceptr, value: u16, count: u64, _: CUstream) -> CuResult<()> {
        self.memset(dst, count * 2, |bytes| {
            bytes.as_chunks_mut().0.iter_mut().for_each(|word| *word = value.to_le_bytes());
        })
    }
    fn cuMemsetD32Async(&self, dst: CUdeviceptr, value: u32, count: u64, _: CUstream) -> CuResult<()> {
        self.memset(dst, count * 4, |bytes| {
            bytes.as_chunks_mut().0.iter_mut().for_each(|word| *word = value.to_le_bytes());
        })
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
        (0..height)
            .try_for_each(|row| self.cuMemsetD8Async(CUdeviceptr(dst.0 + row * pitch), value, width, stream))
    }
}

impl ModuleCalls for NullGpu {
    /// Any image is a module with the kernels that it names, and with the variables of its machine code, all zero.
    fn cuModuleLoadData(&self, images: Vec<&[u8]>) -> CuResult<(CUmodule, ModuleFacts)> {
        let functions = images.iter().flat_map(|image| kernels(image)).collect();
        let module = self.handle();
        let globals = self.globals(module, images.iter().flat_map(|image| variables(image)).collect());
        Ok((CUmodule(module), ModuleFacts { functions, globals }))
    }
    fn cuModuleUnload(&self, _: CUmodule) -> CuResult<()> {
        Ok(())
    }
    fn cuModuleGetFunction(&self, _: CUmodule, _: &std::ffi::CStr) -> CuResult<CUfunction> {
        Ok(CUfunction(self.handle()))
    }
    fn cuFuncSetAttribute(&self, _: CUfunction, _: i32, _: i32) -> CuResult<()> {
        Ok(())
    }
    fn cuFuncGetAttribute(&self, _: CUfunction, _: i32) -> CuResult<i32> {
        Err(CuError::NOT_SUPPORTED)
    }
    fn cuFuncSetCacheConfig(&self, _: CUfunction, _: u32) -> CuResult<()> {
        Ok(())
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        &self,
        _: CUfunction,
        block_size: i32,
        _: u64,
        _: u32,
    ) -> CuResult<i32> {
        (block_size > 0).then(|| 2048 / block_size).ok_or(CuError::INVALID_VALUE)
    }
}

impl NullGpu {
    /// Gives the variables of a module a place, outside every window.
    fn globals(&self, module: u64, variables: Vec<Variable>) -> Vec<GlobalFacts> {
        let (base, mut bytes) = (GLOBALS_BASE + (module << 32), 0);
        let globals = variables.into_iter().map(|variable| {
            let address = base + bytes;
            bytes = (bytes + variable.bytes.min(TOTAL_BYTES).next_multiple_of(256)).min(TOTAL_BYTES);
            GlobalFacts { name: variable.name, address, bytes: variable.bytes }
        });
        let globals = globals.collect();
        let room = usize::try_from(bytes).unwrap_or(0);
        self.lock().chunks.insert(base, vec![0; room]);
        globals
    }
}

const GLOBALS_BASE: u64 = 0x4000_0000_0000;

/// Variables of an image's machine code.
fn variables(image: &[u8]) -> Vec<Variable> {
    let of_cubin = |bytes: &[u8]| Cubin::parse(bytes).map(|cubin| cubin.variables).unwrap_or_default();
    match Image::classify(image) {
        Ok(Image::Elf(bytes)) => of_cubin(bytes),
        Ok(Image::Fatbin(fatbin)) => {
            let elf = fatbin.entries().iter().find(|entry| entry.kind() == Kind::ELF);
            elf.and_then(|entry| entry.payload().ok()).map(|bytes| of_cubin(&bytes)).unwrap_or_default()
        }
        Ok(Image::Ptx(_)) | Err(_) => Vec::new(),
    }
}

/// Kernels of an image: by the records of machine code, or else by PTX text.
fn kernels(image: &[u8]) -> Vec<FunctionFacts> {
    let of_cubin = |bytes: &[u8]| match Cubin::parse(bytes) {
        Ok(cubin) => cubin
            .kernels
            .into_iter()
            .map(|kernel| {
                let layout = kernel.params.iter().map(|param| (param.size, param.offset));
                function(kernel.name, layout.unzip())
            })
            .collect(),
        Err(_) => Vec::new(),
    };
    match Image::classify(image) {
        Ok(Image::Fatbin(fatbin)) => match (fatbin.ptx_images().next(), fatbin.entries().first()) {
            (Some(entry), _) => entries(&entry.ptx().unwrap_or_default()),
            (None, Some(entry)) => entry.payload().map(|bytes| of_cubin(&bytes)).unwrap_or_default(),
            (None, None) => Vec::new(),
        },
        Ok(Image::Elf(bytes)) => of_cubin(bytes),
        Ok(Image::Ptx(_)) | Err(_) => entries(&String::from_utf8_lossy(image)),
    }
}

fn function(name: String, (parameters, offsets): (Vec<u32>, Vec<u32>)) -> FunctionFacts {
    let attributes = vec![1024, 0, 0, 0, 32, 90, 90, 0, 49152, 0, 0, 0, 0, 0, 0, 0];
    FunctionFacts { name, parameters, offsets, attributes, unsupported: None }
}

/// Kernels of a PTX text and the sizes of their parameters.
fn entries(text: &str) -> Vec<FunctionFacts> {
    let parsed = ptx::Module::parse(text).map(|module| module.functions).unwrap_or_default();
    let kernels = parsed.into_iter().filter(|function| function.is_kernel);
    kernels
        .map(|kernel| {
            let layout =
                kernel.param_layout().into_iter().map(|parameter| (parameter.size, parameter.offset));
            function(kernel.name.into(), layout.unzip())
        })
        .collect()
}

impl StreamCalls for NullGpu {
    fn cuStreamCreateWithPriority(&self, _: u32, _: i32) -> CuResult<CUstream> {
        Ok(CUstream(self.handle()))
    }
    fn cuStreamDestroy_v2(&self, _: CUstream) -> CuResult<()> {
        Ok(())
    }
    fn cuStreamSynchronize(&self, stream: CUstream) -> CuResult<()> {
        let position = self.lock().streams.get(&stream.0.max(1)).map_or(0, |stream| stream.given);
        self.wait_until(|state| state.reached(stream.0.max(1), position));
        Ok(())
    }
    fn cuStreamQuery(&self, stream: CUstream) -> CuResult<()> {
        let idle = self.lock().streams.get(&stream.0.max(1)).is_none_or(|stream| stream.done == stream.given);
        idle.then_some(()).ok_or(CuError::NOT_READY)
    }
    fn cuStreamWaitEvent(&self, stream: CUstream, event: CUevent, _: u32) -> CuResult<()> {
        let recorded = self.lock().events.get(&event.0).copied();
        if let Some((source, position, _)) = recorded {
            self.submit(stream, Work::Event { stream: source, position });
        }
        Ok(())
    }
    fn cuStreamWaitValue32_v2(&self, _: CUstream, _: CUdeviceptr, _: u32, _: u32) -> CuResult<()> {
        Ok(())
    }
    fn cuStreamWaitValue64_v2(&self, _: CUstream, _: CUdeviceptr, _: u64, _: u32) -> CuResult<()> {
        Ok(())
    }
    fn cuStreamWriteValue32_v2(&self, _: CUstream, addr: CUdeviceptr, value: u32, _: u32) -> CuResult<()> {
        self.word(addr, &value.to_le_bytes())
    }
    fn cuStreamWriteValue64_v2(&self, _: CUstream, addr: CUdeviceptr, value: u64, _: u32) -> CuResult<()> {
        self.word(addr, &value.to_le_bytes())
    }
}

impl NullGpu {
    /// Writes a word of memory. Nothing computes here, so what streams wait for never comes: they wait for no words.
    fn word(&self, address: CUdeviceptr, value: &[u8]) -> CuResult<()> {
        let mut state = self.lock();
        state.bytes(address.0, value.len()).ok_or(CuError::INVALID_VALUE)?.copy_from_slice(value);
        Ok(())
    }
}

impl EventCalls for NullGpu {
    fn cuEventCreate(&self, _: u32) -> CuResult<CUevent> {
        Ok(CUevent(self.handle()))
    }
    fn cuEventDestroy_v2(&self, event: CUevent) -> CuResult<()> {
        self.lock().events.remove(&event.0);
        Ok(())
    }
    fn cuEventRecord(&self, event: CUevent, stream: CUstream) -> CuResult<()> {
        let mut state = self.lock();
        let position = state.streams.get(&stream.0.max(1)).map_or(0, |stream| stream.given);
        state.events.insert(event.0, (stream.0.max(1), position, Instant::now()));
        Ok(())
    }
    fn cuEventSynchronize(&self, event: CUevent) -> CuResult<()> {
        let Some((stream, position, _)) = self.lock().events.get(&event.0).copied() else { return Ok(()) };
        self.wait_until(|state| state.reached(stream, position));
        Ok(())
    }
    fn cuEventQuery(&self, event: CUevent) -> CuResult<()> {
        let state = self.lock();
        let done =
            state.events.get(&event.0).is_none_or(|(stream, position, _)| state.reached(*stream, *position));
        done.then_some(()).ok_or(CuError::NOT_READY)
    }
    /// The time between the calls that recorded: work takes none here.
    fn cuEventElapsedTime(&self, start: CUevent, end: CUevent) -> CuResult<f32> {
        let state = self.lock();
        let recorded = |event: CUevent| state.events.get(&event.0).map(|(_, _, when)| *when);
        let (start, end) = recorded(start).zip(recorded(end)).ok_or(CuError::INVALID_HANDLE)?;
        Ok(end.saturating_duration_since(start).as_secs_f32() * 1000.0)
    }
}

impl LaunchCalls for NullGpu {
    fn cuLaunchKernel(
        &self,
        _: CUfunction,
        grid: Dim3,
        _: Dim3,
        _: u32,
        _: CUstream,
        arguments: &[u8],
    ) -> CuResult<()> {
        let mut state = self.lock();
        state.tally.launches += 1;
        state.tally.grid_sum += u64::from(grid.x);
        state.tally.argument_sum = state.tally.argument_sum.wrapping_add(word_sum(arguments));
        Ok(())
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
        self.cuLaunchKernel(func, grid, block, shared_bytes, stream, arguments)
    }
}

impl Device for NullGpu {
    fn facts(&self) -> CuResult<DeviceFacts> {
        let mut attributes = vec![Some(0); DeviceAttribute::COUNT as usize];
        for (attribute, value) in [
            (DeviceAttribute::MAX_THREADS_PER_BLOCK, 1024),
            (DeviceAttribute::MAX_BLOCK_DIM_X, 1024),
            (DeviceAttribute::MAX_BLOCK_DIM_Y, 1024),
            (DeviceAttribute::MAX_BLOCK_DIM_Z, 64),
            (DeviceAttribute::MAX_GRID_DIM_X, i32::MAX),
            (DeviceAttribute::MAX_GRID_DIM_Y, 65535),
            (DeviceAttribute::MAX_GRID_DIM_Z, 65535),
            (DeviceAttribute::MAX_SHARED_MEMORY_PER_BLOCK, 49152),
            (DeviceAttribute::WARP_SIZE, 32),
            (DeviceAttribute::MULTIPROCESSOR_COUNT, 1),
            (DeviceAttribute::UNIFIED_ADDRESSING, 1),
            (DeviceAttribute::COMPUTE_CAPABILITY_MAJOR, 9),
        ] {
            attributes[usize::try_from(attribute.0).expect("attribute numbers are small")] = Some(value);
        }
        Ok(DeviceFacts {
            name: format!("vgpu null device ({})", if self.dma_free { "dma-free" } else { "copy" }),
            uuid: *b"vgpu null device",
            total_memory: TOTAL_BYTES,
            driver_version: 13000,
            attributes,
            stream_priorities: (0, 0),
        })
    }
    fn reserve_window(&self, _: u64, _: u64) -> CuResult<()> {
        Ok(())
    }
    fn staging(&self, bytes: usize) -> CuResult<HostSpan> {
        Ok(HostSpan::leak(vec![0; bytes]))
    }
    fn cuMemcpyHtoDAsync_v2(&self, dst: CUdeviceptr, src: HostSpan, stream: CUstream) -> CuResult<()> {
        self.submit(
            stream,
            Work::Copy { to: Place::Device(dst.0), from: Place::Host(src), bytes: src.len() },
        );
        Ok(())
    }
    fn cuMemcpyDtoHAsync_v2(&self, dst: HostSpan, src: CUdeviceptr, stream: CUstream) -> CuResult<()> {
        self.submit(
            stream,
            Work::Copy { to: Place::Host(dst), from: Place::Device(src.0), bytes: dst.len() },
        );
        Ok(())
    }
    fn cuStreamAddCallback(&self, stream: CUstream, callback: Callback) -> CuResult<()> {
        self.submit(stream, Work::Callback(callback));
        Ok(())
    }
    fn gate_create(&self) -> CuResult<u64> {
        let gate = self.handle();
        self.lock().open_gates.insert(gate, false);
        Ok(gate)
    }
    fn gate_wait(&self, gate: u64, stream: CUstream) -> CuResult<()> {
        self.submit(stream, Work::Gate(gate));
        Ok(())
    }
    fn gate_open(&self, gate: u64) -> CuResult<()> {
        let mut state = self.lock();
        state.open_gates.insert(gate, true);
        drop(self.run(state));
        Ok(())
    }
    fn gate_destroy(&self, gate: u64) {
        self.lock().open_gates.remove(&gate);
    }
    fn helper_stream(&self) -> CuResult<CUstream> {
        Ok(CUstream(self.handle()))
    }
}
