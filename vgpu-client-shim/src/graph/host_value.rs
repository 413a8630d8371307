//! Words of page-locked host memory that streams write and wait for. No device reaches them: a write is a host
//! function, and a wait is a gate that is opened from here when the word is there.
//!
//! One thread looks at the words of all closed gates while there are any. What must never happen: that it looks at
//! memory that is gone. So it looks under the lock, and memory is [forgotten](forget) before it is given back.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use client::event::Gate;
use cuda_types::wait_value::WaitCondition;
use cuda_types::{CuError, CuResult};

use crate::handles::Resolved;
use crate::process;

/// A word and what it is compared with, or becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Half(usize, u32),
    Whole(usize, u64),
}

/// A stream that waits.
struct Waiting {
    word: Word,
    condition: WaitCondition,
    gate: Gate,
}

static WAITING: Mutex<Vec<Waiting>> = Mutex::new(Vec::new());
static ADDED: Condvar = Condvar::new();

/// Short against a round trip, long against looking.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// Writes a word in stream order.
pub(super) fn write(target: &Resolved, word: Word) -> CuResult<()> {
    let function = move |error| {
        if error == 0 {
            word.store();
        }
    };
    target.session.launch_host_function(target.stream, Box::new(function))
}

/// Has later work of the stream wait for a word.
pub(super) fn wait(target: &Resolved, word: Word, flags: u32) -> CuResult<()> {
    static WATCHER: OnceLock<bool> = OnceLock::new();
    let condition = WaitCondition::of_flags(flags)?;
    let start = || process::spawn("vgpu-values", Box::new(watch)).is_ok();
    if !WATCHER.get_or_init(start) {
        return Err(CuError::OUT_OF_MEMORY);
    }
    let gate = target.session.gate(target.stream)?;
    waiting().push(Waiting { word, condition, gate });
    ADDED.notify_one();
    Ok(())
}

/// Host memory is about to be given back: nobody looks at it any more. Streams that still wait for it belong to
/// contexts that are broken, or the program has not waited for them.
pub(crate) fn forget(address: usize, bytes: usize) {
    waiting().retain(|waiting| !(address..address + bytes).contains(&waiting.word.address()));
}

fn waiting() -> MutexGuard<'static, Vec<Waiting>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    loop {
        let mut all = waiting();
        while all.is_empty() {
            all = ADDED.wait(all).unwrap_or_else(PoisonError::into_inner);
        }
        all.retain(|waiting| !waiting.gate.is_over());
        let (met, rest) = std::mem::take(&mut *all).into_iter().partition(Waiting::is_met);
        *all = rest;
        drop(all);
        let met: Vec<Waiting> = met;
        met.into_iter().for_each(|waiting| waiting.gate.open());
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Waiting {
    fn is_met(&self) -> bool {
        match self.word {
            Word::Half(address, value) => {
                self.condition.is_met_32(half(address).load(Ordering::Acquire), value)
            }
            Word::Whole(address, value) => {
                self.condition.is_met_64(whole(address).load(Ordering::Acquire), value)
            }
        }
    }
}

impl Word {
    fn address(self) -> usize {
        match self {
            Word::Half(address, _) | Word::Whole(address, _) => address,
        }
    }

    fn store(self) {
        match self {
            Word::Half(address, value) => half(address).store(value, Ordering::Release),
            Word::Whole(address, value) => whole(address).store(value, Ordering::Release),
        }
    }
}

fn half<'a>(address: usize) -> &'a AtomicU32 {
    // SAFETY: aligned, and page-locked memory of the program, which stays until it is forgotten (module's text).
    unsafe { AtomicU32::from_ptr(std::ptr::with_exposed_provenance_mut(address)) }
}

fn whole<'a>(address: usize) -> &'a AtomicU64 {
    // SAFETY: as above.
    unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(address)) }
}
