//! A server process with the null device, and a session with it.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::launch::LaunchConfig;
use client::server_list::Transport;
use client::{Environment, Remote, Session, hazards};
use cuda_types::{CUdeviceptr, CUfunction, CUstream, CuError, Dim3, HostSpan};
use proto::ContextCalls;
use transport::Address;
use vgpu_server::null::{TALLY, sample, word_sum};

use crate::table::Table;

pub(crate) struct Product {
    process: Child,
    remote: Remote,
    session: Arc<Session>,
    function: CUfunction,
    dma_free: bool,
    memory: CUdeviceptr,
    pageable: HostSpan,
    registered: HostSpan,
    /// Differs from run to run, so that no two runs send the same bytes.
    seed: Cell<u64>,
}

const BUFFER_BYTES: usize = 256 << 20;

/// A kernel with four pointers and a counter, as the null device reads it.
const IMAGE: &[u8] = b".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry work(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 n)\n{ ret; }\n";

fn cuda(doing: &str) -> impl Fn(CuError) -> String + '_ {
    move |error| format!("{doing}: {error}")
}

impl Product {
    pub(crate) fn start(server: &str, driver: &str) -> Result<Product, String> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| format!("finding a port: {error}"))?
            .port()
            .min(65000);
        let mut process = Command::new(server)
            .args(["--driver", driver, "--log", "error", "--port", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting {server}: {error}"))?;
        let mut ready = String::new();
        let output = process.stdout.take().ok_or("the server's output is not piped")?;
        BufReader::new(output)
            .read_line(&mut ready)
            .map_err(|error| format!("the server said nothing: {error}"))?;
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        let remote =
            Remote::connect(address, Transport::Tcp, 0, Arc::new(Environment::default()), |_, _| true)
                .map_err(|error| error.to_string())?;
        let session = remote.session().map_err(cuda("a worker"))?;
        let (module, facts) = session.load_module(vec![IMAGE]).map_err(cuda("the module"))?;
        let kernel = facts.functions.into_iter().next().ok_or("the null device found no kernel")?;
        let function = session.function(module, Arc::new(kernel)).map_err(cuda("the kernel"))?;
        let memory = session.cuMemAlloc(BUFFER_BYTES as u64).map_err(cuda("device memory"))?;
        let (pageable, registered) =
            (HostSpan::leak(vec![1; BUFFER_BYTES]), HostSpan::leak(vec![1; BUFFER_BYTES]));
        hazards::register(registered);
        let dma_free = driver.contains("dma-free");
        Ok(Product {
            process,
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

    fn tally(&self, field: u32) -> Result<u64, String> {
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
        times.sort();
        Ok(times[times.len() / 2])
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
                .launch(self.function, &config, &arguments)
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
        let took = self.launches(count)?;
        Ok(format!(
            "{:.2} M/s ({count} launches, all different, counted by the device)",
            f64::from(count) / took.as_secs_f64() / 1e6
        ))
    }

    /// Round trips from a connection to the first launch.
    pub(crate) fn count_first_launch(&self, table: &mut Table) -> Result<(), String> {
        // start() greeted, began, loaded the module and mapped a chunk.
        let waits = self.session.statistics().round_trips;
        table.note(
            "round trips from connect to the first launch",
            &format!("{} (greeting, begin, module load, one chunk of memory)", waits + 2),
        );
        Ok(())
    }

    /// What a launch costs on the link.
    pub(crate) fn count_launches(&self, table: &mut Table) -> Result<(), String> {
        const COUNT: u32 = 100_000;
        let before = self.session.statistics();
        self.launches(COUNT)?;
        let after = self.session.statistics();
        let each = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(COUNT);
        table.note("sends per launch", &format!("{:.4}", each(after.sends - before.sends)));
        table.note(
            "bytes sent per launch with 4 arguments",
            &format!("{:.1}", each(after.bytes_sent - before.bytes_sent)),
        );
        Ok(())
    }

    fn fill(&self, mut span: HostSpan) {
        let mut value = self.seed.get();
        for word in span.write().chunks_exact_mut(8) {
            value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&value.to_le_bytes());
        }
        self.seed.set(value | 1);
    }

    fn buffer(&self, bytes: u64, locked: bool) -> Result<HostSpan, String> {
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
        // It may have ended with an error of its own.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
