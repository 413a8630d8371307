//! A server process with the null device, and a session with it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::launch::{Function, LaunchConfig};
use client::server_list::Transport;
use client::{Environment, Remote, Session, hazards};
use cuda_types::attribute::FunctionAttribute;
use cuda_types::{CUdeviceptr, CUstream, CuError, Dim3, HostSpan};
use proto::{ContextCalls, StreamCalls};
use transport::Address;
use vgpu_server::null::{TALLY, sample, word_sum};

use crate::server::Server;
use crate::table::median;

pub(crate) struct Product {
    /// None if it is another's.
    server: Option<Server>,
    remote: Remote,
    pub(crate) session: Arc<Session>,
    pub(crate) function: Arc<Function>,
    dma_free: bool,
    pub(crate) memory: CUdeviceptr,
    pageable: HostSpan,
    registered: HostSpan,
    /// Differs from run to run, so that no two runs send the same bytes.
    seed: Cell<u64>,
}

/// How client and server are connected.
pub(crate) struct Settings {
    /// Where the server listens.
    pub(crate) ip: IpAddr,
    pub(crate) transport: Transport,
    /// How long both ends poll, where they can.
    pub(crate) spin: Option<Duration>,
    /// The longest copy.
    pub(crate) buffer_bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            transport: Transport::Tcp,
            spin: None,
            buffer_bytes: 256 << 20,
        }
    }
}

/// A kernel with four pointers and a counter, as the null device reads it.
pub(crate) const IMAGE: &[u8] = b".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry work(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 n)\n{ ret; }\n";

/// A count that is far below what a float holds exactly.
fn number(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

pub(crate) fn cuda(doing: &str) -> impl Fn(CuError) -> String + '_ {
    move |error| format!("{doing}: {error}")
}

impl Product {
    pub(crate) fn start(server: &str, driver: &str) -> Result<Product, String> {
        Product::with(server, driver, &Settings::default())
    }

    pub(crate) fn with(server: &str, driver: &str, settings: &Settings) -> Result<Product, String> {
        Product::of(Server::start(server, driver, settings.ip, settings.spin)?, settings)
    }

    /// A session with a server that is there.
    pub(crate) fn of(server: Server, settings: &Settings) -> Result<Product, String> {
        let mut product = Product::connect(server.address(), settings)?;
        product.server = Some(server);
        Ok(product)
    }

    /// A session with a server that someone else has started.
    pub(crate) fn connect(address: Address, settings: &Settings) -> Result<Product, String> {
        let environment = Environment { spin: settings.spin, ..Environment::default() };
        let remote = Remote::connect(address, settings.transport, 0, Arc::new(environment), |_, _| true)
            .map_err(|error| error.to_string())?;
        let session = remote.session().map_err(cuda("a worker"))?;
        let (module, facts) = session.load_module(vec![IMAGE]).map_err(cuda("the module"))?;
        let kernel = facts.functions.into_iter().next().ok_or("the null device found no kernel")?;
        let function = session.function(module, Arc::new(kernel)).map_err(cuda("the kernel"))?;
        let memory = session.cuMemAlloc(settings.buffer_bytes as u64).map_err(cuda("device memory"))?;
        let (pageable, registered) =
            (HostSpan::leak(vec![1; settings.buffer_bytes]), HostSpan::leak(vec![1; settings.buffer_bytes]));
        hazards::register(registered);
        let dma_free = remote.facts().name.contains("dma-free");
        Ok(Product {
            server: None,
            remote,
            session,
            function,
            dma_free,
            memory,
            pageable,
            registered,
            seed: Cell::new(1),
        })
    }

    /// The process that serves it.
    pub(crate) fn worker(&self) -> Result<u32, String> {
        self.server.as_ref().ok_or("the server is another's")?.worker()
    }

    /// What the link is, for people.
    pub(crate) fn link(&self) -> String {
        self.session.link_summary()
    }

    /// Memory registrations of this process so far.
    pub(crate) fn registrations(&self) -> u64 {
        self.session.registrations()
    }

    pub(crate) fn tally(&self, field: u32) -> Result<u64, String> {
        ContextCalls::cuCtxGetLimit(&*self.session, TALLY + field).map_err(cuda("the tally"))
    }

    /// The median of a call that only waits for its reply.
    pub(crate) fn synchronous_calls(&self, count: usize) -> Result<Duration, String> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
            times.push(start.elapsed());
        }
        Ok(median(times))
    }

    /// Launches that all differ, then a synchronize; checks that each has arrived as it was sent.
    pub(crate) fn launches(&self, count: u32) -> Result<Duration, String> {
        let before = (self.tally(0)?, self.tally(1)?, self.tally(2)?);
        let (mut arguments_sum, mut grid_sum) = (0_u64, 0_u64);
        let mut arguments = [0; 32];
        let start = Instant::now();
        for index in 0..count {
            let values = [self.memory.0, self.memory.0 + 4096, self.memory.0 + 8192, u64::from(index)];
            for (slot, value) in arguments.chunks_exact_mut(8).zip(values) {
                slot.copy_from_slice(&value.to_le_bytes());
                arguments_sum = arguments_sum.wrapping_add(value);
            }
            let grid = Dim3 { x: 1 + index % 1000, y: 1, z: 1 };
            grid_sum += u64::from(grid.x);
            let config = LaunchConfig {
                grid,
                block: Dim3 { x: 256, y: 1, z: 1 },
                shared_bytes: 0,
                stream: CUstream::NULL,
                cooperative: false,
            };
            self.session
                .launch(&self.function, &config, &arguments)
                .map_err(|refusal| format!("launch: {refusal:?}"))?;
        }
        self.session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
        let took = start.elapsed();
        let arrived = (
            self.tally(0)? - before.0,
            self.tally(1)?.wrapping_sub(before.1),
            self.tally(2)?.wrapping_sub(before.2),
        );
        if arrived != (u64::from(count), arguments_sum, grid_sum) {
            return Err(format!("{count} launches were sent, but {arrived:?} arrived"));
        }
        Ok(took)
    }

    pub(crate) fn launch_rate(&self, count: u32) -> Result<String, String> {
        let rate = self.launches_a_second(count)? / 1e6;
        Ok(format!("{rate:.2} M/s ({count} launches, all different, counted by the device)"))
    }

    /// Launches a second.
    pub(crate) fn launches_a_second(&self, count: u32) -> Result<f64, String> {
        Ok(f64::from(count) / self.launches(count)?.as_secs_f64())
    }

    /// Round trips from a connection to the first launch: `start` greeted, began, and loaded the module.
    pub(crate) fn first_launch_round_trips(&self) -> f64 {
        number(self.session.statistics().round_trips + 2)
    }

    /// What a launch costs on the link: sends, bytes.
    pub(crate) fn launch_costs(&self) -> Result<(f64, f64), String> {
        const COUNT: u32 = 100_000;
        let before = self.session.statistics();
        self.launches(COUNT)?;
        let after = self.session.statistics();
        let each = |count: u64| number(count) / f64::from(COUNT);
        Ok((each(after.sends - before.sends), each(after.bytes_sent - before.bytes_sent)))
    }

    /// Round trips of looking at the device: its facts came with the greeting.
    pub(crate) fn enumeration_round_trips(&self) -> Result<f64, String> {
        let before = self.session.statistics().round_trips;
        let facts = self.remote.facts();
        let known = facts.attributes.iter().flatten().count();
        if known == 0 || facts.name.is_empty() || facts.total_memory == 0 {
            return Err("the device says nothing of itself".into());
        }
        Ok(number(self.session.statistics().round_trips - before))
    }

    /// Round trips of what programs do all the time between their launches.
    pub(crate) fn local_calls_round_trips(&self) -> Result<f64, String> {
        let session = &self.session;
        session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
        let stream = session.cuStreamCreateWithPriority(0, 0).map_err(cuda("a stream"))?;
        let event = session.cuEventCreate(0).map_err(cuda("an event"))?;
        session.cuEventRecord(event, stream).map_err(cuda("recording"))?;
        session.cuStreamSynchronize(stream).map_err(cuda("synchronize"))?;
        let before = session.statistics().round_trips;
        // The device's own answers, whole warps of all sizes and twice.
        for threads in (32..=1024).step_by(32).chain([128]) {
            let resident =
                session.resident_blocks(&self.function, threads, 0, 0).map_err(cuda("occupancy"))?;
            if resident != 2048 / threads {
                return Err(format!("{resident} blocks of {threads} threads fit on a multiprocessor"));
            }
        }
        let memory = session.cuMemAlloc(1000).map_err(cuda("device memory"))?;
        let found = session.allocation(memory).ok_or("an allocation is not known")?;
        if found != (memory, 1000) {
            return Err(format!("an allocation of 1000 bytes is known as {found:?}"));
        }
        // Covered by the synchronize above.
        session.cuEventQuery(event).map_err(cuda("a query"))?;
        session.cuEventRecord(event, stream).map_err(cuda("recording"))?;
        let other = session.cuStreamCreateWithPriority(1, 0).map_err(cuda("a stream"))?;
        session.cuStreamDestroy(other).map_err(cuda("ending a stream"))?;
        session
            .function_attribute(&self.function, FunctionAttribute::MAX_THREADS_PER_BLOCK)
            .map_err(cuda("an attribute"))?;
        session.cuEventDestroy(event).map_err(cuda("ending an event"))?;
        session.cuStreamDestroy(stream).map_err(cuda("ending a stream"))?;
        session.cuMemFree(memory).map_err(cuda("freeing"))?;
        Ok(number(session.statistics().round_trips - before))
    }

    /// One upload, 200 launches on two streams with events between them, a download into registered memory, and one
    /// synchronize: round trips and sends. The launches are counted by the device.
    pub(crate) fn inference_step(&self) -> Result<(f64, f64), String> {
        const LAUNCHES: u64 = 200;
        let session = &self.session;
        let streams = [0, 1].map(|_| session.cuStreamCreateWithPriority(1, 0));
        let [first, second] = streams.map(|stream| stream.map_err(cuda("a stream")));
        let (streams, event) = ([first?, second?], session.cuEventCreate(2).map_err(cuda("an event"))?);
        session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
        let launched = self.tally(0)?;
        let span = self.buffer(16 << 10, true)?;
        let before = session.statistics();
        session.copy_to_device(self.memory, span, streams[0], false).map_err(cuda("to the device"))?;
        for index in 0..LAUNCHES {
            let stream = streams[usize::from(!index.is_multiple_of(2))];
            let config = LaunchConfig {
                grid: Dim3 { x: 1 + u32::try_from(index).unwrap_or(0), y: 1, z: 1 },
                block: Dim3 { x: 128, y: 1, z: 1 },
                shared_bytes: 0,
                stream,
                cooperative: false,
            };
            let refused = |refusal| format!("launch: {refusal:?}");
            session.launch(&self.function, &config, &[0; 32]).map_err(refused)?;
            if index.is_multiple_of(50) {
                session.cuEventRecord(event, stream).map_err(cuda("recording"))?;
                session.cuStreamWaitEvent(streams[1], event, 0).map_err(cuda("waiting in a stream"))?;
            }
        }
        session.copy_to_host(span, self.memory, streams[0], false).map_err(cuda("to the host"))?;
        session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
        let after = session.statistics();
        if self.tally(0)? - launched != LAUNCHES {
            return Err("the device counted other launches than were sent".into());
        }
        Ok((number(after.round_trips - before.round_trips), number(after.sends - before.sends)))
    }

    fn fill(&self, mut span: HostSpan) {
        let mut value = self.seed.get();
        for word in span.write().chunks_exact_mut(8) {
            value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&value.to_le_bytes());
        }
        self.seed.set(value | 1);
    }

    pub(crate) fn buffer(&self, bytes: u64, locked: bool) -> Result<HostSpan, String> {
        let span = if locked { self.registered } else { self.pageable };
        usize::try_from(bytes)
            .ok()
            .and_then(|bytes| span.slice(0, bytes))
            .ok_or_else(|| "the buffer is smaller".into())
    }

    /// To the device, up to a synchronize; fresh bytes each time, checked on the device.
    pub(crate) fn up(&self, bytes: u64, locked: bool) -> Result<Duration, String> {
        let span = self.buffer(bytes, locked)?;
        self.fill(span);
        let before = (self.tally(3)?, self.tally(5)?);
        let start = Instant::now();
        self.session
            .copy_to_device(self.memory, span, CUstream::NULL, false)
            .map_err(cuda("to the device"))?;
        self.session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
        let took = start.elapsed();
        let arrived = (self.tally(3)? - before.0, self.tally(5)?.wrapping_sub(before.1));
        if arrived.0 != bytes {
            return Err(format!("{bytes} bytes were sent, {} arrived", arrived.0));
        }
        if self.dma_free {
            // Sampled per part, each of which starts a fresh run of pages.
            if arrived.1 != sample(span.read()) {
                return Err("the device sampled other bytes than were sent".into());
            }
        } else {
            let back = HostSpan::leak(vec![0; 64 << 10]);
            let last = CUdeviceptr(self.memory.0 + bytes - back.len() as u64);
            self.session.copy_to_host(back, last, CUstream::NULL, true).map_err(cuda("checking"))?;
            if word_sum(back.read()) != word_sum(&span.read()[span.len() - back.len()..]) {
                return Err("the device holds other bytes than were sent".into());
            }
        }
        Ok(took)
    }

    /// To the host, up to a synchronize. On the copying device the bytes are compared with what was put there.
    pub(crate) fn down(&self, bytes: u64, locked: bool) -> Result<Duration, String> {
        let mut span = self.buffer(bytes, locked)?;
        let expected = if self.dma_free {
            None
        } else {
            self.fill(span);
            self.session.copy_to_device(self.memory, span, CUstream::NULL, true).map_err(cuda("filling"))?;
            self.session.cuCtxSynchronize().map_err(cuda("filling"))?;
            let sum = word_sum(span.read());
            span.write().fill(0);
            Some(sum)
        };
        let before = self.tally(4)?;
        let start = Instant::now();
        self.session.copy_to_host(span, self.memory, CUstream::NULL, false).map_err(cuda("to the host"))?;
        self.session.cuCtxSynchronize().map_err(cuda("synchronize"))?;
        let took = start.elapsed();
        if self.tally(4)? - before != bytes || expected.is_some_and(|sum| sum != word_sum(span.read())) {
            return Err("other bytes landed than lie on the device".into());
        }
        Ok(took)
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        hazards::unregister(self.registered.address());
        self.remote.close(Duration::from_secs(1));
    }
}
