//! What each thread found for its latest launches, so that the next launch of a kernel into a stream looks into no table.
//!
//! A launch asks four tables, each behind a lock: which kernel, on which device, in which session, as which function of its
//! module. The answers stay the same until something is unloaded, destroyed, reset or registered; whatever does that
//! calls [`forget`], and every answer that was found before is looked for again. What a thread's own state decides is a
//! part of the question ([`Key`]).

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use client::Session;
use client::launch::Function;
use cuda_types::{CUstream, CuResult};

use crate::edge::DefaultStream;
use crate::handles::Resolved;
use crate::registry::Kernel;
use crate::state::{self, Current, Device};

/// Where a launch goes.
pub(crate) struct Place {
    pub(crate) kernel: &'static Kernel,
    pub(crate) function: Arc<Function>,
    pub(crate) device: &'static Device,
    pub(crate) stream: CUstream,
    /// Without a hold on the session, which ends with its context and not with this thread.
    session: Weak<Session>,
    key: Key,
    /// As many changes as there were before it was looked for.
    changes: u64,
}

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    named: *const c_void,
    stream: u64,
    default: DefaultStream,
    /// Whether the driver API asks, which refuses what the runtime begins by itself.
    of_driver: bool,
    current: Current,
}

/// How many launches a thread keeps; each has one slot that it may be in.
const SLOTS: usize = 64;

static CHANGES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static KEPT: RefCell<[Option<Rc<Place>>; SLOTS]> = const { RefCell::new([const { None }; SLOTS]) };
}

/// Something is not what it was: nothing that was found before counts any more. Safe in a forked child.
pub(crate) fn forget() {
    CHANGES.fetch_add(1, Ordering::AcqRel);
}

impl Key {
    /// A launch by this thread of what `named` names.
    pub(crate) fn new(default: DefaultStream, named: *const c_void, stream: u64, of_driver: bool) -> Key {
        Key { named, stream, default, of_driver, current: state::current() }
    }

    fn slot(&self) -> usize {
        // Kernels and streams are at least 16 bytes apart.
        let mixed = (self.named.addr() >> 4).wrapping_add((self.stream >> 4) as usize);
        (mixed ^ (mixed >> 6)) % SLOTS
    }
}

/// Where a launch goes, as kept or as `find` says: the kernel as a function of its module, and the stream.
#[inline(always)]
pub(crate) fn place(
    key: Key,
    find: impl FnOnce() -> CuResult<(&'static Kernel, Resolved)>,
) -> CuResult<(Rc<Place>, Resolved)> {
    let (slot, changes) = (key.slot(), CHANGES.load(Ordering::Acquire));
    // A thread that is ending keeps nothing any more.
    let kept = KEPT.try_with(|kept| kept.borrow()[slot].clone()).ok().flatten();
    if let Some(place) = kept
        && place.changes == changes
        && place.key == key
        && let Some(session) = place.session.upgrade()
    {
        let target = Resolved { device: place.device, session, stream: place.stream };
        return Ok((place, target));
    }
    let (kernel, target) = find()?;
    let place = Rc::new(Place {
        kernel,
        function: kernel.on(target.device)?,
        device: target.device,
        stream: target.stream,
        session: Arc::downgrade(&target.session),
        // The search may have bound the thread to its device.
        key: Key { current: state::current(), ..key },
        changes,
    });
    let _ = KEPT.try_with(|kept| kept.borrow_mut()[slot] = Some(Rc::clone(&place)));
    Ok((place, target))
}
