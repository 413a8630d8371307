//! All state of the process that outlives a call: the devices, and what each thread remembers.
//!
//! A [`Device`] is a context on a device. Each device of the list has its primary context; a program that calls
//! `cuCtxCreate` makes further ones, each with a worker of its own on the server, so that they are as separate as
//! CUDA's. Handles, modules and books are kept by the context's *ordinal*: that of a primary context is the number of
//! its device, the others follow.
//!
//! Nothing here is made before the first call that needs it; registration, which runs before `main`, touches only
//! [`crate::registry`].

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult, Dim3};
use proto::{DeviceFacts, StreamCalls};

use crate::config::{Target, config};
use crate::globals::GLOBALS;
use crate::handles::{EVENTS, STREAMS};
use crate::{driver, graph, log, managed, process, registry, runtime, shortcut, summary};
use client::{Remote, Session};

/// The devices of this process, in order of their ordinals.
pub(crate) struct Devices {
    /// Their primary contexts.
    all: Vec<Device>,
    /// Contexts that the program has made, in order of their ordinals; they stay when they are destroyed, and are
    /// used again.
    ///
    /// Every call looks at them, so they have places from the start and no lock.
    further: [OnceLock<Device>; CONTEXT_LIMIT],
    /// Why there are none.
    refused: Option<CuError>,
}

/// A context on a device of the program: a server, and what is kept on this side about it.
pub(crate) struct Device {
    /// The number of the device in the program's list.
    pub(crate) number: usize,
    /// By which everything that belongs to this context is kept.
    pub(crate) ordinal: usize,
    /// Counts the contexts that were destroyed here: who remembers another count remembers one of them.
    generation: AtomicU32,
    /// A call of the runtime has used it, so it stays when the program releases it.
    is_held: AtomicBool,
    /// How often the driver API has retained it, if it is a primary context.
    retained: AtomicU32,
    target: Target,
    link: OnceLock<CuResult<Remote>>,
    /// Per-thread default streams whose threads have ended, for the next threads.
    idle_streams: Mutex<Vec<CUstream>>,
    preferences: Mutex<Preferences>,
}

/// What a program has asked for and may ask back.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Preferences {
    pub(crate) flags: u32,
    pub(crate) cache_config: u32,
    pub(crate) shared_memory_config: u32,
}

static DEVICES: OnceLock<Devices> = OnceLock::new();

/// The most contexts that a program may make beside the primary ones: each has a window of addresses.
const CONTEXT_LIMIT: usize = 48;

/// Says farewell to every server, if there is one.
pub(crate) fn close_all(patience: std::time::Duration) {
    let connected = DEVICES.get().into_iter().flat_map(Devices::iter).filter_map(|device| device.link.get());
    for remote in connected.flatten() {
        remote.close(patience);
    }
}

/// What the devices have cost so far, where that is counted.
pub(crate) fn accounts() -> Vec<summary::Entry> {
    let devices = DEVICES.get().into_iter().flat_map(Devices::iter);
    let entry = |device: &Device| {
        let remote = device.link.get()?.as_ref().ok()?;
        let own = if device.is_primary() { "" } else { " (a context of its own)" };
        let (name, address) = (&remote.facts().name, remote.address());
        let verbs = remote.active().filter(|session| session.is_over_verbs());
        Some(summary::Entry {
            device: format!("device {}: {name} at {address}{own}", device.number),
            account: remote.account()?,
            verbs: verbs.map(|session| session.link_summary()),
        })
    };
    devices.filter_map(entry).collect()
}

/// The devices; read from the environment at the first call.
pub(crate) fn devices() -> &'static Devices {
    DEVICES.get_or_init(|| match &config().devices {
        Ok(targets) => {
            let all = targets
                .iter()
                .enumerate()
                .map(|(number, target)| Device::new(number, number, target.clone()));
            Devices::new(all.collect(), None)
        }
        Err(reason) => {
            log::error(format_args!("{reason}"));
            Devices::new(Vec::new(), Some(CuError::NO_DEVICE))
        }
    })
}

impl Devices {
    fn new(all: Vec<Device>, refused: Option<CuError>) -> Devices {
        Devices { all, further: [const { OnceLock::new() }; CONTEXT_LIMIT], refused }
    }

    /// The number of devices; `NO_DEVICE` when there are none, or when no server of any can be reached.
    pub(crate) fn count(&self) -> CuResult<usize> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        // One dead server fails its own ordinal only, so one that answers is enough.
        if self.all.iter().any(|device| device.facts().is_ok()) {
            Ok(self.all.len())
        } else {
            Err(CuError::NO_DEVICE)
        }
    }

    /// The device of a number: its primary context.
    pub(crate) fn get(&self, number: i32) -> CuResult<&Device> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        if self.all.is_empty() {
            return Err(CuError::NO_DEVICE);
        }
        let index = usize::try_from(number).map_err(|_| CuError::INVALID_DEVICE)?;
        self.all.get(index).ok_or(CuError::INVALID_DEVICE)
    }

    /// The context of an ordinal that a handle remembers.
    pub(crate) fn at(&self, ordinal: usize) -> CuResult<&Device> {
        if let Some(device) = self.all.get(ordinal) {
            return Ok(device);
        }
        let index = ordinal.checked_sub(self.all.len());
        let found = index.and_then(|index| self.further.get(index)?.get());
        found.ok_or(self.refused.unwrap_or(if self.all.is_empty() {
            CuError::NO_DEVICE
        } else {
            CuError::INVALID_DEVICE
        }))
    }

    /// The context of this thread; that of the first device if it has never chosen one.
    pub(crate) fn current(&self) -> CuResult<&Device> {
        let current = CURRENT.get();
        let device = self.at(current.ordinal)?;
        if device.generation() == current.generation {
            Ok(device)
        } else {
            Err(CuError::CONTEXT_IS_DESTROYED)
        }
    }

    /// Every context.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.all.iter().chain(self.further.iter().map_while(OnceLock::get))
    }

    /// A context beside the primary one on the device of a number, for `cuCtxCreate`. `is_free` tells of a context
    /// that was made before whether it was destroyed.
    pub(crate) fn add_context(&self, number: i32, is_free: impl Fn(&Device) -> bool) -> CuResult<&Device> {
        let primary = self.get(number)?;
        let mut made = self.further.iter().map_while(OnceLock::get);
        if let Some(free) = made.find(|device| device.number == primary.number && is_free(device)) {
            return Ok(free);
        }
        for (place, ordinal) in self.further.iter().zip(self.all.len()..) {
            let device = Device::new(primary.number, ordinal, primary.target.clone());
            if place.set(device).is_ok() {
                return self.at(ordinal);
            }
        }
        log::error(format_args!("cuCtxCreate: {CONTEXT_LIMIT} contexts are the most that there can be"));
        Err(CuError::OUT_OF_MEMORY)
    }

    /// The device in whose window `address` lies; `None` for host memory and for variables of modules.
    pub(crate) fn owner(&self, address: u64) -> Option<&Device> {
        self.find(|device| device.open_session().is_some_and(|session| session.owns(CUdeviceptr(address))))
    }

    /// The device whose memory holds an address that the program says is a device's.
    pub(crate) fn holding(&self, address: u64) -> Option<&Device> {
        self.owner(address).or_else(|| self.find(|device| GLOBALS.holds(device.ordinal, address, false)))
    }

    /// The device whose memory holds an address of which the program says nothing.
    pub(crate) fn guess(&self, address: u64) -> Option<&Device> {
        self.owner(address).or_else(|| self.find(|device| GLOBALS.holds(device.ordinal, address, true)))
    }

    /// The first context that meets a condition, beginning with this thread's.
    fn find(&self, condition: impl Fn(&&Device) -> bool) -> Option<&Device> {
        self.current().ok().into_iter().chain(self.iter()).find(condition)
    }
}

impl Device {
    fn new(number: usize, ordinal: usize, target: Target) -> Device {
        Device {
            number,
            ordinal,
            generation: AtomicU32::new(0),
            is_held: AtomicBool::new(false),
            retained: AtomicU32::new(0),
            target,
            link: OnceLock::new(),
            idle_streams: Mutex::default(),
            preferences: Mutex::default(),
        }
    }

    /// The server of this device, greeted at the first call.
    ///
    /// A failure is said once; every later call answers the same without waiting again.
    fn remote(&self) -> CuResult<&Remote> {
        let link = self.link.get_or_init(|| {
            self.connect().map_err(|reason| {
                log::error(format_args!("{reason}"));
                CuError::NO_DEVICE
            })
        });
        link.as_ref().map_err(|error| *error)
    }

    /// What the server said about the device. Costs no context there.
    pub(crate) fn facts(&self) -> CuResult<&DeviceFacts> {
        Ok(self.remote()?.facts())
    }

    /// How busy the device is; costs no context there. `None` if it cannot be reached or its server does not tell.
    pub(crate) fn status(&self) -> Option<proto::handshake::Status> {
        self.remote().ok()?.status()
    }

    /// The number of the device, as the program writes it.
    pub(crate) fn program_number(&self) -> std::ffi::c_int {
        std::ffi::c_int::try_from(self.number).unwrap_or(std::ffi::c_int::MAX)
    }

    /// Whether this is the context that the runtime uses.
    pub(crate) fn is_primary(&self) -> bool {
        self.number == self.ordinal
    }

    /// Whether a call of the runtime has used this context since it was made.
    pub(crate) fn is_held_by_the_runtime(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    /// Counts one more who retains this primary context.
    pub(crate) fn retain(&self) {
        self.retained.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one less; how many are left, or `None` if nobody retained it.
    pub(crate) fn release(&self) -> Option<u32> {
        let less = |count: u32| count.checked_sub(1);
        self.retained.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok().and_then(less)
    }

    /// Whether somebody retains this primary context.
    pub(crate) fn is_retained(&self) -> bool {
        self.retained.load(Ordering::Acquire) > 0
    }

    /// What `cudaSetDeviceFlags` and the like have set: preferences that only this side remembers.
    pub(crate) fn preferences(&self) -> Preferences {
        *self.preferences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is preferred here.
    pub(crate) fn prefer(&self, change: impl FnOnce(&mut Preferences)) {
        change(&mut self.preferences.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Which of the contexts that were here one after the other this is.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Ends a context that the program has made; threads that have it as their own are told at their next call.
    pub(crate) fn destroy(&self) -> CuResult<()> {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.reset()
    }

    /// The context's session, made at the first call that needs it.
    pub(crate) fn session(&self) -> CuResult<Arc<Session>> {
        if IN_HOST_FUNCTION.get() {
            // CUDA Runtime API, cudaLaunchHostFunc: a host function must not make CUDA calls.
            return Err(CuError::NOT_PERMITTED);
        }
        if process::has_ended() {
            return Err(CuError::DEINITIALIZED);
        }
        if !driver::is_calling() {
            self.hold();
        }
        self.remote()?.session()
    }

    /// The runtime uses the context: from now on it is what `cuCtxGetCurrent` answers, if this thread has chosen none.
    pub(crate) fn hold(&self) {
        let current = CURRENT.get();
        if !current.is_bound && current.ordinal == self.ordinal {
            CURRENT.set(Current { is_bound: true, ..current });
        }
        if !self.is_held.load(Ordering::Relaxed) {
            driver::initialized();
            self.is_held.store(true, Ordering::Relaxed);
        }
    }

    /// The session, if there is one already.
    pub(crate) fn open_session(&self) -> Option<Arc<Session>> {
        self.link.get()?.as_ref().ok()?.active()
    }

    /// Ends the primary context: everything that was made in it is gone. The next call makes a new one.
    pub(crate) fn reset(&self) -> CuResult<()> {
        shortcut::forget();
        self.remote()?.reset()?;
        self.idle_streams.lock().unwrap_or_else(PoisonError::into_inner).clear();
        graph::capture::forget_device(self.ordinal);
        graph::memory::forget_device(self.ordinal);
        STREAMS.remove_where(|stream| stream.ordinal == self.ordinal);
        EVENTS.remove_where(|event| event.ordinal == self.ordinal);
        registry::forget_device(self.ordinal);
        managed::forget_device(self.ordinal);
        runtime::pool::forget_device(self.ordinal);
        runtime::array::forget_device(self.ordinal);
        runtime::texture::forget_device(self.ordinal);
        runtime::stream_attributes::forget_device(self.ordinal);
        driver::forget_device(self.ordinal);
        self.is_held.store(false, Ordering::Relaxed);
        shortcut::forget();
        Ok(())
    }

    fn connect(&self) -> Result<Remote, String> {
        if let Some(reason) = &self.target.refused {
            return Err(reason.clone());
        }
        let Target { address, transport, named_by, .. } = &self.target;
        let ordinal = u32::try_from(self.ordinal).map_err(|error| error.to_string())?;
        let environment = process::environment();
        let remote = Remote::connect(address.clone(), *transport, ordinal, environment, process::reserve)
            .map_err(|error| format!("{named_by}: {error}"))?;
        process::watch_fork();
        log::info(format_args!("device {}: {} at {address}", self.ordinal, remote.facts().name));
        Ok(remote)
    }
}

thread_local! {
    /// This thread runs a host function of the program.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
    /// The context of this thread.
    static CURRENT: Cell<Current> = const { Cell::new(Current { ordinal: 0, generation: 0, is_bound: false }) };
    /// The contexts below it on the thread's stack, which only the driver API has.
    static PUSHED: RefCell<Vec<Current>> = const { RefCell::new(Vec::new()) };
    /// The launch between `<<<` and the kernel's stub.
    static CONFIGURATION: Configuration = const { Configuration::new() };
    /// Those below it: launches among the arguments of a launch, which hardly a program has.
    static OUTER_CONFIGURATIONS: RefCell<Vec<LaunchConfiguration>> = const { RefCell::new(Vec::new()) };
    /// This thread's default streams, by device.
    static OWN_STREAMS: RefCell<OwnStreams> = const { RefCell::new(OwnStreams(Vec::new())) };
}

/// Whether this thread runs a host function of the program.
pub(crate) fn is_in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

/// While it lives, this thread's CUDA calls are refused.
pub(crate) struct HostFunctionGuard;

impl HostFunctionGuard {
    pub(crate) fn enter() -> HostFunctionGuard {
        IN_HOST_FUNCTION.set(true);
        HostFunctionGuard
    }
}

impl Drop for HostFunctionGuard {
    fn drop(&mut self) {
        IN_HOST_FUNCTION.set(false);
    }
}

/// What stands between `<<<` and `>>>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LaunchConfiguration {
    pub(crate) grid: Dim3,
    pub(crate) block: Dim3,
    pub(crate) shared_bytes: usize,
    pub(crate) stream: u64,
}

/// The configurations of a thread's launches.
struct Configuration {
    /// The last one, if there is any.
    top: Cell<LaunchConfiguration>,
    count: Cell<usize>,
}

impl Configuration {
    const fn new() -> Configuration {
        let none = Dim3 { x: 0, y: 0, z: 0 };
        let top = LaunchConfiguration { grid: none, block: none, shared_bytes: 0, stream: 0 };
        Configuration { top: Cell::new(top), count: Cell::new(0) }
    }

    #[cold]
    fn keep_outer(&self) {
        OUTER_CONFIGURATIONS.with_borrow_mut(|stack| stack.push(self.top.get()));
    }

    #[cold]
    fn restore_outer(&self) {
        let outer = OUTER_CONFIGURATIONS.with_borrow_mut(Vec::pop);
        outer.into_iter().for_each(|outer| self.top.set(outer));
    }
}

/// What a thread remembers of its context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Current {
    pub(crate) ordinal: usize,
    /// See [`Device::generation`].
    pub(crate) generation: u32,
    /// Whether the thread has a context: until then the runtime uses the first device, and the driver refuses.
    pub(crate) is_bound: bool,
}

impl Current {
    /// A thread without a context.
    pub(crate) const NONE: Current = Current { ordinal: 0, generation: 0, is_bound: false };

    /// A context as a thread remembers it.
    pub(crate) fn of(device: &Device) -> Current {
        Current { ordinal: device.ordinal, generation: device.generation(), is_bound: true }
    }
}

/// This thread's context.
pub(crate) fn current() -> Current {
    CURRENT.get()
}

/// Makes a context this thread's own, in the place of the present one.
pub(crate) fn set_current(current: Current) {
    CURRENT.set(current);
}

/// Makes a context this thread's own, until it is popped.
pub(crate) fn push_current(current: Current) {
    let below = CURRENT.replace(current);
    PUSHED.with_borrow_mut(|stack| stack.push(below));
}

/// Takes this thread's context off its stack; `None` if it has none.
pub(crate) fn pop_current() -> Option<Current> {
    let top = CURRENT.get();
    if !top.is_bound {
        return None;
    }
    CURRENT.set(PUSHED.with_borrow_mut(Vec::pop).unwrap_or(Current::NONE));
    Some(top)
}

/// Keeps a launch configuration for the stub that is called next.
#[inline(always)]
pub(crate) fn push_configuration(configuration: LaunchConfiguration) {
    CONFIGURATION.with(|own| {
        if own.count.get() > 0 {
            own.keep_outer();
        }
        own.top.set(configuration);
        own.count.set(own.count.get() + 1);
    });
}

/// The configuration kept last.
#[inline(always)]
pub(crate) fn pop_configuration() -> Option<LaunchConfiguration> {
    CONFIGURATION.with(|own| {
        let below = own.count.get().checked_sub(1)?;
        let top = own.top.get();
        own.count.set(below);
        if below > 0 {
            own.restore_outer();
        }
        Some(top)
    })
}

/// A thread's default streams. They are ordinary blocking streams, made at first use (CUDA Runtime API, "Stream
/// synchronization behavior": the per-thread default stream synchronizes with the legacy one).
struct OwnStreams(Vec<(usize, std::sync::Weak<Session>, CUstream)>);

impl Drop for OwnStreams {
    /// The thread ends: its streams are kept for the next one, because a call could not wait here.
    fn drop(&mut self) {
        for (ordinal, session, stream) in self.0.drain(..) {
            let device = devices().at(ordinal);
            if let (Ok(device), Some(_)) = (device, session.upgrade()) {
                device.idle_streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            }
        }
    }
}

/// The stream that `CU_STREAM_PER_THREAD` means for this thread on `device`.
pub(crate) fn per_thread_stream(device: &Device) -> CuResult<CUstream> {
    let session = device.session()?;
    OWN_STREAMS.with_borrow_mut(|streams| {
        // After a reset somebody may still hold the session that was.
        let present = Arc::downgrade(&session);
        streams.0.retain(|(ordinal, known, _)| {
            known.strong_count() > 0 && (*ordinal != device.ordinal || known.ptr_eq(&present))
        });
        if let Some((.., stream)) = streams.0.iter().find(|(ordinal, ..)| *ordinal == device.ordinal) {
            return Ok(*stream);
        }
        let idle = device.idle_streams.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let stream = match idle {
            Some(stream) => stream,
            None => session.cuStreamCreateWithPriority(0, 0)?,
        };
        streams.0.push((device.ordinal, Arc::downgrade(&session), stream));
        Ok(stream)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(count: usize) -> Devices {
        let target = Target {
            address: transport::Address::Unix("/nowhere".into()),
            transport: client::server_list::Transport::Auto,
            named_by: "test".into(),
            refused: None,
        };
        Devices::new((0..count).map(|number| Device::new(number, number, target.clone())).collect(), None)
    }

    #[test]
    fn contexts_get_further_ordinals_and_the_places_of_those_that_are_gone() {
        let devices = devices(2);
        for (number, ordinal) in [(1, 2), (0, 3), (1, 4)] {
            let made = devices.add_context(number, |_| false).unwrap();
            assert_eq!((made.program_number(), made.ordinal, made.is_primary()), (number, ordinal, false));
        }
        assert_eq!(devices.iter().map(|device| device.ordinal).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(devices.at(4).map(Device::program_number), Ok(1));
        assert_eq!(devices.at(5).err(), Some(CuError::INVALID_DEVICE));
        assert_eq!(
            devices.add_context(1, |device| device.ordinal >= 3).unwrap().ordinal,
            4,
            "of the same device"
        );
        assert_eq!(devices.add_context(2, |_| true).err(), Some(CuError::INVALID_DEVICE));
        for _ in 3..CONTEXT_LIMIT {
            devices.add_context(0, |_| false).unwrap();
        }
        assert_eq!(devices.add_context(0, |_| false).err(), Some(CuError::OUT_OF_MEMORY));
        assert_eq!(devices.add_context(0, |_| true).unwrap().ordinal, 3);
    }
}
