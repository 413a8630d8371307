//! Streams and events as the program names them.
//!
//! A session names what it makes by numbers of its own, so two devices use the same ones. The program's handles are
//! unique in the process, and know their device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cuda_types::{CUevent, CUstream, CuError, CuResult};
use rustc_hash::FxHashMap;

use crate::edge::DefaultStream;
use crate::state::{self, Device, devices};
use client::Session;

/// A stream that the program made.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) ordinal: usize,
    pub(crate) name: CUstream,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
}

/// An event that the program made.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) ordinal: usize,
    pub(crate) name: CUevent,
    pub(crate) flags: u32,
    /// Whether it was ever recorded: until then every wait for it passes.
    pub(crate) recorded: AtomicBool,
}

/// A stream handle, looked up: where a call goes.
pub(crate) struct Resolved {
    pub(crate) device: &'static Device,
    pub(crate) session: Arc<Session>,
    pub(crate) stream: CUstream,
}

/// Handles to what stands behind them.
pub(crate) struct Table<T> {
    all: RwLock<Option<FxHashMap<u64, Arc<T>>>>,
}

/// The streams of the process.
pub(crate) static STREAMS: Table<Stream> = Table::new();
/// The events of the process.
pub(crate) static EVENTS: Table<Event> = Table::new();

impl<T> Table<T> {
    /// An empty table.
    pub(crate) const fn new() -> Table<T> {
        Table { all: RwLock::new(None) }
    }

    /// Gives `thing` a handle.
    pub(crate) fn insert(&self, thing: T) -> u64 {
        // Looks like a pointer, as programs expect, and is none: address 0 to 64 KiB above 1 TiB is never mapped by
        // anyone, and small numbers are the default streams.
        static NEXT: AtomicU64 = AtomicU64::new(0x100_0000_0000);
        let handle = NEXT.fetch_add(16, Ordering::Relaxed);
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.get_or_insert_default().insert(handle, Arc::new(thing));
        handle
    }

    /// What a handle stands for; `INVALID_HANDLE` if it was never given out or is gone.
    pub(crate) fn get(&self, handle: u64) -> CuResult<Arc<T>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.as_ref().and_then(|all| all.get(&handle)).cloned().ok_or(CuError::INVALID_HANDLE)
    }

    /// Takes a handle back.
    pub(crate) fn remove(&self, handle: u64) -> CuResult<Arc<T>> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.as_mut().and_then(|all| all.remove(&handle)).ok_or(CuError::INVALID_HANDLE)
    }

    /// Whether a handle stands for something that meets a condition.
    pub(crate) fn any(&self, condition: impl Fn(&T) -> bool) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.as_ref().is_some_and(|all| all.values().any(|thing| condition(thing)))
    }

    /// The handle of something that meets a condition.
    pub(crate) fn find(&self, condition: impl Fn(&T) -> bool) -> Option<u64> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.as_ref()?.iter().find(|(_, thing)| condition(thing)).map(|(handle, _)| *handle)
    }

    /// Shows all of them.
    pub(crate) fn each(&self, mut show: impl FnMut(&T)) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().flat_map(FxHashMap::values).for_each(|thing| show(thing));
    }

    /// Takes back every handle that `gone` names: its device was reset.
    pub(crate) fn remove_where(&self, mut gone: impl FnMut(&T) -> bool) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = all.as_mut() {
            all.retain(|_, thing| !gone(thing));
        }
    }
}

/// Finds the device and the session behind a stream handle of the program.
pub(crate) fn resolve(default: DefaultStream, handle: u64) -> CuResult<Resolved> {
    let own = || {
        let device = devices().current()?;
        Ok(Resolved { device, session: device.session()?, stream: state::per_thread_stream(device)? })
    };
    match (handle, default) {
        (0, DefaultStream::PerThread) | (2, _) => own(),
        (0, DefaultStream::Legacy) | (1, _) => {
            let device = devices().current()?;
            Ok(Resolved { device, session: device.session()?, stream: CUstream::NULL })
        }
        _ => {
            let stream = STREAMS.get(handle)?;
            let device = device(stream.ordinal)?;
            Ok(Resolved { device, session: device.session()?, stream: stream.name })
        }
    }
}

/// The device of an ordinal that a handle remembers.
pub(crate) fn device(ordinal: usize) -> CuResult<&'static Device> {
    devices().at(ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_unique_and_end_with_removal() {
        let table: Table<u8> = Table::new();
        assert_eq!(table.get(16), Err(CuError::INVALID_HANDLE));
        let (first, second) = (table.insert(1), table.insert(2));
        assert_ne!(first, second);
        assert_eq!(table.get(second).as_deref(), Ok(&2));
        assert!(table.remove(first).is_ok());
        assert_eq!(table.remove(first), Err(CuError::INVALID_HANDLE));
        table.remove_where(|value| *value == 2);
        assert_eq!(table.get(second), Err(CuError::INVALID_HANDLE));
    }
}
