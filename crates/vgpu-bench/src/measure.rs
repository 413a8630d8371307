//! Inside the measuring process: does what the requests say, and checks that all of it arrived.

use std::fmt;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use cuda_types::{CuError, CuResult};
use nvidia::plain::Driver;

use crate::error::BenchError;
use crate::fresh::Fresh;
use crate::message::{Direction, HostMemory, Reply, Request, What};
use crate::options;
use crate::subject::{Gpu, Subject};

/// Answers requests until there are no more.
pub(crate) fn run(options: &options::Measure) -> Result<(), BenchError> {
    let driver = match open(options) {
        Ok(driver) => driver,
        Err(reason) => return send(&Reply::Absent(reason)),
    };
    let gpu = usize::try_from(options.largest).map_err(|_| CuError::OUT_OF_MEMORY);
    let gpu = gpu.and_then(|largest| Gpu::new(driver.device(options.device)?, largest));
    let ready = gpu.and_then(|gpu| Ok((gpu.facts(&driver)?, gpu)));
    let mut gpu = match ready {
        Ok((facts, gpu)) => {
            send(&Reply::Ready(facts))?;
            gpu
        }
        Err(error) => return send(&Reply::Failed(format!("making it ready: {error}"))),
    };
    let mut meter = Meter::new(&mut gpu);
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| BenchError::io("reading a request", error))?;
        let request: Request =
            serde_json::from_str(&line).map_err(|error| BenchError::io("understanding a request", error))?;
        send(&match meter.measure(&request) {
            Ok(times) => Reply::Times(times.iter().map(|time| nanoseconds(*time)).collect()),
            Err(wrong) => Reply::Failed(wrong.to_string()),
        })?;
    }
    Ok(())
}

/// The driver, if it is the one that shall be measured; else why not.
fn open(options: &options::Measure) -> Result<Driver, String> {
    let driver = Driver::open().map_err(|reason| reason.to_string())?;
    match (options.remote, driver.is_client()) {
        (true, false) => return Err("the loader found another libcuda than vgpu's".to_owned()),
        (false, true) => return Err("the only libcuda found is vgpu's own".to_owned()),
        _ => {}
    }
    match driver.devices() {
        Ok(count) if options.device < count => Ok(driver),
        Ok(count) => {
            Err(format!("the driver has {count} devices, and number {} is asked for", options.device))
        }
        Err(error) => Err(format!("the driver does not start: {error}")),
    }
}

fn send(reply: &Reply) -> Result<(), BenchError> {
    let text = serde_json::to_string(reply).map_err(|error| BenchError::io("writing a reply", error))?;
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(|error| BenchError::io("writing a reply", error))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Measures a device, and keeps in mind what must be on it.
#[derive(Debug)]
struct Meter<'a, S> {
    subject: &'a mut S,
    /// What the kernels have been told to add so far.
    sum: u64,
    fresh: Fresh,
}

/// Why a measurement is none.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    /// {doing}: {error}
    Call { doing: &'static str, error: CuError },
    /// the device's sum is {found} and must be {expected}: launches were lost, changed or repeated
    Sum { expected: u64, found: u64 },
    /// byte {at} of {bytes} is not what was sent
    Bytes { direction: Direction, memory: HostMemory, bytes: usize, at: usize },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { doing, error } => write!(f, "{doing}: {error}"),
            Self::Sum { expected, found } => write!(
                f,
                "the sum on the device is {found} and must be {expected}: launches were lost, changed or repeated"
            ),
            Self::Bytes { direction, memory, bytes, at } => write!(
                f,
                "byte {at} of {bytes}, copied {} ({}), is not what was sent",
                direction.name(),
                memory.name()
            ),
        }
    }
}

/// Says what was being done when a call failed.
fn doing<T>(doing: &'static str, result: CuResult<T>) -> Result<T, Wrong> {
    result.map_err(|error| Wrong::Call { doing, error })
}

impl<'a, S: Subject> Meter<'a, S> {
    /// The sum on the device is zero.
    fn new(subject: &'a mut S) -> Meter<'a, S> {
        Meter { subject, sum: 0, fresh: Fresh::new() }
    }

    fn measure(&mut self, request: &Request) -> Result<Vec<Duration>, Wrong> {
        match request.what {
            What::Synchronize => Self::repeated(request, || self.synchronize()),
            What::ReadWord => Self::repeated(request, || self.read_word()),
            What::LaunchAndSynchronize => {
                let times = Self::repeated(request, || self.launch_and_synchronize())?;
                self.check_sum().map(|()| times)
            }
            What::Launches => self.launches(request).map(|time| vec![time]),
            What::Copy { direction, memory, bytes } => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                if bytes > self.subject.host(memory).len() {
                    return Err(Wrong::Call { doing: "copying", error: CuError::INVALID_VALUE });
                }
                Self::repeated(request, || match direction {
                    Direction::ToDevice => self.copy_to_device(memory, bytes),
                    Direction::ToHost => self.copy_to_host(memory, bytes),
                })
            }
        }
    }

    fn repeated(
        request: &Request,
        mut once: impl FnMut() -> Result<Duration, Wrong>,
    ) -> Result<Vec<Duration>, Wrong> {
        let (start, limit) = (Instant::now(), Duration::from_millis(request.limit_ms));
        let mut times = Vec::new();
        while times.is_empty() || (times.len() < repetitions(request) && start.elapsed() < limit) {
            times.push(once()?);
        }
        Ok(times)
    }

    fn synchronize(&mut self) -> Result<Duration, Wrong> {
        let start = Instant::now();
        doing("cuCtxSynchronize", self.subject.synchronize())?;
        Ok(start.elapsed())
    }

    fn read_word(&mut self) -> Result<Duration, Wrong> {
        let mut word = [0xff; 4];
        let start = Instant::now();
        doing("cuMemcpyDtoH", self.subject.read_sum(&mut word))?;
        let took = start.elapsed();
        let expected = self.sum & u64::from(u32::MAX);
        let found = u64::from(u32::from_le_bytes(word));
        if found == expected { Ok(took) } else { Err(Wrong::Sum { expected, found }) }
    }

    fn launch_and_synchronize(&mut self) -> Result<Duration, Wrong> {
        let number = self.fresh.next();
        let start = Instant::now();
        self.add(number)?;
        doing("cuCtxSynchronize", self.subject.synchronize())?;
        Ok(start.elapsed())
    }

    /// The time of one of many launches, each with another number.
    fn launches(&mut self, request: &Request) -> Result<Duration, Wrong> {
        let limit = Duration::from_millis(request.limit_ms);
        let mut done: u32 = 0;
        let start = Instant::now();
        while done < request.count.max(1) {
            let number = self.fresh.next();
            self.add(number)?;
            done += 1;
            // Asking for the time costs as much as a launch.
            if done.is_multiple_of(256) && start.elapsed() > limit {
                break;
            }
        }
        doing("cuCtxSynchronize", self.subject.synchronize())?;
        let took = start.elapsed();
        self.check_sum()?;
        Ok(took / done)
    }

    fn add(&mut self, number: u64) -> Result<(), Wrong> {
        doing("cuLaunchKernel", self.subject.add(number))?;
        self.sum = self.sum.wrapping_add(number);
        Ok(())
    }

    fn check_sum(&mut self) -> Result<(), Wrong> {
        let mut bytes = [0xff; 8];
        doing("reading the sum", self.subject.read_sum(&mut bytes))?;
        let (expected, found) = (self.sum, u64::from_le_bytes(bytes));
        if found == expected { Ok(()) } else { Err(Wrong::Sum { expected, found }) }
    }

    fn copy_to_device(&mut self, memory: HostMemory, bytes: usize) -> Result<Duration, Wrong> {
        self.fresh.fill(&mut self.subject.host(memory)[..bytes]);
        let start = Instant::now();
        doing("copying to the device", self.subject.copy_to_device(memory, bytes))?;
        let took = start.elapsed();
        let mut back = vec![0; bytes];
        doing("reading back", self.subject.take(&mut back))?;
        self.compare((Direction::ToDevice, memory), &back).map(|()| took)
    }

    fn copy_to_host(&mut self, memory: HostMemory, bytes: usize) -> Result<Duration, Wrong> {
        let mut sent = vec![0; bytes];
        self.fresh.fill(&mut sent);
        doing("putting bytes there", self.subject.put(&sent))?;
        self.subject.host(memory)[..bytes].fill(0);
        let start = Instant::now();
        doing("copying to the host", self.subject.copy_to_host(memory, bytes))?;
        let took = start.elapsed();
        self.compare((Direction::ToHost, memory), &sent).map(|()| took)
    }

    /// Whether the buffer of the host and `other` hold the same.
    fn compare(&mut self, (direction, memory): (Direction, HostMemory), other: &[u8]) -> Result<(), Wrong> {
        let ours = &self.subject.host(memory)[..other.len()];
        if ours == other {
            return Ok(());
        }
        let at = ours.iter().zip(other).position(|(one, other)| one != other).unwrap_or(0);
        Err(Wrong::Bytes { direction, memory, bytes: other.len(), at })
    }
}

fn repetitions(request: &Request) -> usize {
    usize::try_from(request.count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that works, but for what it is told to get wrong.
    #[derive(Default)]
    struct Faulty {
        sum: u64,
        launches: u32,
        loses_launch: Option<u32>,
        repeats_launch: Option<u32>,
        stale: bool,
        spoils_byte: Option<usize>,
        memory: Vec<u8>,
        host: [Vec<u8>; 2],
    }

    impl Faulty {
        fn new() -> Faulty {
            Faulty { memory: vec![0; 4096], host: [vec![0; 4096], vec![0; 4096]], ..Faulty::default() }
        }

        fn arrives(&mut self, to_device: bool, memory: HostMemory, bytes: usize) {
            if self.stale {
                return;
            }
            let spoils = self.spoils_byte;
            let host = &mut self.host[usize::from(memory == HostMemory::PageLocked)];
            let (to, from) = if to_device { (&mut self.memory, host) } else { (host, &mut self.memory) };
            to[..bytes].copy_from_slice(&from[..bytes]);
            spoils.into_iter().for_each(|at| to[at] ^= 1);
        }
    }

    impl Subject for Faulty {
        fn synchronize(&mut self) -> CuResult<()> {
            Ok(())
        }
        fn add(&mut self, number: u64) -> CuResult<()> {
            let launch = Some(self.launches);
            self.launches += 1;
            let times = u64::from(self.loses_launch != launch) + u64::from(self.repeats_launch == launch);
            self.sum = self.sum.wrapping_add(number.wrapping_mul(times));
            Ok(())
        }
        fn read_sum(&mut self, to: &mut [u8]) -> CuResult<()> {
            to.copy_from_slice(&self.sum.to_le_bytes()[..to.len()]);
            Ok(())
        }
        fn host(&mut self, memory: HostMemory) -> &mut [u8] {
            &mut self.host[usize::from(memory == HostMemory::PageLocked)]
        }
        fn copy_to_device(&mut self, memory: HostMemory, bytes: usize) -> CuResult<()> {
            self.arrives(true, memory, bytes);
            Ok(())
        }
        fn copy_to_host(&mut self, memory: HostMemory, bytes: usize) -> CuResult<()> {
            self.arrives(false, memory, bytes);
            Ok(())
        }
        fn put(&mut self, bytes: &[u8]) -> CuResult<()> {
            self.memory[..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
        fn take(&mut self, bytes: &mut [u8]) -> CuResult<()> {
            bytes.copy_from_slice(&self.memory[..bytes.len()]);
            Ok(())
        }
    }

    fn everything() -> Vec<What> {
        let copies = Direction::ALL.into_iter().flat_map(|direction| {
            HostMemory::ALL.map(|memory| What::Copy { direction, memory, bytes: 4096 })
        });
        let others = [What::Launches, What::LaunchAndSynchronize, What::ReadWord, What::Synchronize];
        others.into_iter().chain(copies).collect()
    }

    fn measured(subject: &mut Faulty, what: &[What]) -> Result<(), Wrong> {
        let mut meter = Meter::new(subject);
        what.iter().try_for_each(|what| {
            let times = meter.measure(&Request { what: *what, count: 20, limit_ms: 60_000 })?;
            assert_eq!(times.len(), if *what == What::Launches { 1 } else { 20 }, "{what:?}");
            Ok(())
        })
    }

    #[test]
    fn a_device_that_works_is_measured() {
        assert_eq!(measured(&mut Faulty::new(), &everything()), Ok(()));
    }

    #[test]
    fn a_device_that_loses_or_repeats_a_launch_is_detected() {
        for what in [What::Launches, What::LaunchAndSynchronize] {
            for at in [0, 7, 19] {
                let mut loses = Faulty { loses_launch: Some(at), ..Faulty::new() };
                let wrong = measured(&mut loses, &[what]).unwrap_err();
                assert!(matches!(wrong, Wrong::Sum { expected, found } if expected != found), "{wrong}");
                let mut repeats = Faulty { repeats_launch: Some(at), ..Faulty::new() };
                assert!(measured(&mut repeats, &[what]).is_err());
            }
        }
    }

    #[test]
    fn a_byte_that_is_wrong_or_old_is_detected_in_every_kind_of_copy() {
        for what in everything().into_iter().filter(|what| matches!(what, What::Copy { .. })) {
            let wrong = measured(&mut Faulty { spoils_byte: Some(4095), ..Faulty::new() }, &[what]);
            assert!(matches!(wrong, Err(Wrong::Bytes { at: 4095, bytes: 4096, .. })), "{wrong:?}");
            let old = measured(&mut Faulty { stale: true, ..Faulty::new() }, &[what]);
            assert!(matches!(old, Err(Wrong::Bytes { .. })), "{old:?}");
        }
    }

    #[test]
    fn what_takes_too_long_stops_after_the_first() {
        let mut subject = Faulty::new();
        let request = Request { what: What::Synchronize, count: 1000, limit_ms: 0 };
        assert_eq!(Meter::new(&mut subject).measure(&request).unwrap().len(), 1);
    }

    #[test]
    fn a_copy_beyond_the_buffers_is_refused() {
        let mut subject = Faulty::new();
        let what = What::Copy { direction: Direction::ToDevice, memory: HostMemory::Pageable, bytes: 4097 };
        assert!(Meter::new(&mut subject).measure(&Request { what, count: 1, limit_ms: 0 }).is_err());
    }
}
