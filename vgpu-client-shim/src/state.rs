//! All state of the process that outlives a call: the devices, and what each thread remembers.
//!
//! Nothing here is made before the first call that needs it; registration, which runs before `main`, touches only
//! [`crate::registry`].

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult, Dim3};
use proto::{DeviceFacts, StreamCalls};

use crate::config::{Target, config};
use crate::globals::GLOBALS;
use crate::handles::{EVENTS, STREAMS};
use crate::{graph, log, managed, process, registry, runtime};
use client::{Remote, Session};

/// The devices of this process, in order of their ordinals.
pub(crate) struct Devices {
    all: Vec<Device>,
    /// Why there are none.
    refused: Option<CuError>,
}

/// One device of the program: a server, and what is kept on this side about it.
pub(crate) struct Device {
    pub(crate) ordinal: usize,
    target: Target,
    link: OnceLock<CuResult<Remote>>,
    /// Per-thread default streams whose threads have ended, for the next threads.
    idle_streams: Mutex<Vec<CUstream>>,
    /// What `cudaSetDeviceFlags` and the like have set: preferences that only this side remembers.
    pub(crate) preferences: Mutex<Preferences>,
}

/// What a program has asked for and may ask back.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Preferences {
    pub(crate) flags: u32,
    pub(crate) cache_config: u32,
    pub(crate) shared_memory_config: u32,
}

static DEVICES: OnceLock<Devices> = OnceLock::new();

/// Says farewell to every server, if there is one.
pub(crate) fn close_all(patience: std::time::Duration) {
    let connected = DEVICES.get().into_iter().flat_map(Devices::iter).filter_map(|device| device.link.get());
    for remote in connected.flatten() {
        remote.close(patience);
    }
}

/// The devices; read from the environment at the first call.
pub(crate) fn devices() -> &'static Devices {
    DEVICES.get_or_init(|| match &config().devices {
        Ok(targets) => {
            let all =
                targets.iter().enumerate().map(|(ordinal, target)| Device::new(ordinal, target.clone()));
            Devices { all: all.collect(), refused: None }
        }
        Err(reason) => {
            log::error(format_args!("{reason}"));
            Devices { all: Vec::new(), refused: Some(CuError::NO_DEVICE) }
        }
    })
}

impl Devices {
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

    /// The device of an ordinal.
    pub(crate) fn get(&self, ordinal: i32) -> CuResult<&Device> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        if self.all.is_empty() {
            return Err(CuError::NO_DEVICE);
        }
        let index = usize::try_from(ordinal).map_err(|_| CuError::INVALID_DEVICE)?;
        self.all.get(index).ok_or(CuError::INVALID_DEVICE)
    }

    /// The device of this thread.
    pub(crate) fn current(&self) -> CuResult<&Device> {
        self.get(CURRENT.get())
    }

    /// Every device.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.all.iter()
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

    /// The first device that meets a condition, beginning with this thread's.
    fn find(&self, condition: impl Fn(&&Device) -> bool) -> Option<&Device> {
        self.current().ok().into_iter().chain(self.all.iter()).find(condition)
    }
}

impl Device {
    fn new(ordinal: usize, target: Target) -> Device {
        Device {
            ordinal,
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

    /// The device's primary context, made at the first call that needs it.
    pub(crate) fn session(&self) -> CuResult<Arc<Session>> {
        if IN_HOST_FUNCTION.get() {
            // CUDA Runtime API, cudaLaunchHostFunc: a host function must not make CUDA calls.
            return Err(CuError::NOT_PERMITTED);
        }
        if process::has_ended() {
            return Err(CuError::DEINITIALIZED);
        }
        self.remote()?.session()
    }

    /// The primary context, if there is one already.
    pub(crate) fn open_session(&self) -> Option<Arc<Session>> {
        self.link.get()?.as_ref().ok()?.active()
    }

    /// Ends the primary context: everything that was made in it is gone. The next call makes a new one.
    pub(crate) fn reset(&self) -> CuResult<()> {
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
    /// The device of this thread, by ordinal.
    static CURRENT: Cell<i32> = const { Cell::new(0) };
    /// Launches between `<<<` and the kernel's stub.
    static CONFIGURATIONS: RefCell<Vec<LaunchConfiguration>> = const { RefCell::new(Vec::new()) };
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

/// The ordinal of this thread's device.
pub(crate) fn current_ordinal() -> i32 {
    CURRENT.get()
}

/// Makes a device that exists this thread's own.
pub(crate) fn set_current(ordinal: i32) {
    CURRENT.set(ordinal);
}

/// Keeps a launch configuration for the stub that is called next.
pub(crate) fn push_configuration(configuration: LaunchConfiguration) {
    CONFIGURATIONS.with_borrow_mut(|stack| stack.push(configuration));
}

/// The configuration kept last.
pub(crate) fn pop_configuration() -> Option<LaunchConfiguration> {
    CONFIGURATIONS.with_borrow_mut(Vec::pop)
}

/// A thread's default streams. They are ordinary blocking streams, made at first use (CUDA Runtime API, "Stream
/// synchronization behavior": the per-thread default stream synchronizes with the legacy one).
struct OwnStreams(Vec<(usize, std::sync::Weak<Session>, CUstream)>);

impl Drop for OwnStreams {
    /// The thread ends: its streams are kept for the next one, because a call could not wait here.
    fn drop(&mut self) {
        for (ordinal, session, stream) in self.0.drain(..) {
            let device = devices().all.get(ordinal);
            if let (Some(device), Some(_)) = (device, session.upgrade()) {
                device.idle_streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            }
        }
    }
}

/// The stream that `CU_STREAM_PER_THREAD` means for this thread on `device`.
pub(crate) fn per_thread_stream(device: &Device) -> CuResult<CUstream> {
    let session = device.session()?;
    OWN_STREAMS.with_borrow_mut(|streams| {
        streams.0.retain(|(_, session, _)| session.strong_count() > 0);
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
