//! Conditional nodes: parts of a graph that run if, while or where a value says so, which kernels set.
//!
//! The value is a word of device memory, and its address is the handle that kernels give to `cudaGraphSetConditional`.
//! A launch posts what comes before the node, waits for the value, and posts what it chooses; so a launch of such a
//! graph returns when the last value is known, and not before.
//!
//! NVIDIA's driver has a `cudaGraphSetConditional` of its own, for handles of its own. A device is asked first, with a
//! module that calls the function under a name that only ours has: where that cannot be loaded, handles are refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use client::Session;
use cuda_types::{CUdeviceptr, CuError, CuResult};
use proto::{MemoryCalls, ModuleCalls};

use super::work::on_device;
use crate::handles::Resolved;
use crate::log;
use crate::runtime::memory::host_span;
use crate::state::Device;

/// The value of a conditional node.
pub(crate) struct Condition {
    /// What kernels are told: the address of the value.
    pub(crate) handle: u64,
    /// Assigned when the graph that it was made for begins to run: each time, or the first time.
    default: u32,
    each_time: bool,
    assigned: AtomicBool,
    ordinal: usize,
    session: Weak<Session>,
    /// A node has it.
    used: AtomicBool,
    /// The executable graph that has it.
    owner: Mutex<Weak<()>>,
}

/// A conditional node.
#[derive(Clone)]
pub(crate) struct Choice {
    pub(crate) condition: Arc<Condition>,
    pub(crate) kind: Kind,
    /// The graphs that the node owns. The program reads this list as long as there is the node.
    pub(crate) bodies: Arc<[u64]>,
}

/// `cudaGraphConditionalNodeType`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    If,
    While,
    Switch,
}

impl Condition {
    /// A value on `device`, the default until a kernel sets it.
    pub(crate) fn new(device: &Device, default: u32, each_time: bool) -> CuResult<Arc<Condition>> {
        let session = device.session()?;
        if !is_supported(device, &session)? {
            return Err(CuError::NOT_SUPPORTED);
        }
        Ok(Arc::new(Condition {
            handle: session.cuMemAlloc(4)?.0,
            default,
            each_time,
            assigned: AtomicBool::new(false),
            ordinal: device.ordinal,
            session: Arc::downgrade(&session),
            used: AtomicBool::new(false),
            owner: Mutex::default(),
        }))
    }

    /// Whether a node has it.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// A node has it, for good.
    pub(crate) fn take(&self) {
        self.used.store(true, Ordering::Release);
    }

    /// Gives it to an executable graph, as long as that holds the token.
    ///
    /// CUDA Runtime API, cudaGraphNodeTypeConditional: only one instantiation of the graph at any point in time. Two
    /// would set each other's value.
    pub(crate) fn claim(&self, token: &Arc<()>) -> CuResult<()> {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if owner.upgrade().is_some() {
            log::warn(format_args!(
                "a graph with conditional nodes is instantiated already: destroy that one first"
            ));
            return Err(CuError::INVALID_VALUE);
        }
        *owner = Arc::downgrade(token);
        Ok(())
    }

    /// Assigns the default in the order of `target`'s stream.
    pub(crate) fn assign(&self, target: &Resolved) -> CuResult<()> {
        if self.assigned.swap(true, Ordering::AcqRel) && !self.each_time {
            return Ok(());
        }
        on_device(target, self.ordinal, |target| {
            target.session.cuMemsetD32Async(CUdeviceptr(self.handle), self.default, 1, target.stream)
        })
    }

    /// The value behind all that was posted to `target`'s stream.
    pub(crate) fn value(&self, target: &Resolved) -> CuResult<u32> {
        let mut value = vec![0_u8; 4];
        let span = host_span(value.as_mut_ptr().cast(), value.len());
        on_device(target, self.ordinal, |target| {
            target.session.copy_to_host(span, CUdeviceptr(self.handle), target.stream, true)
        })?;
        Ok(value.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte)))
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        // With its session the memory is gone as well.
        if let Some(session) = self.session.upgrade() {
            let _ = session.cuMemFree(CUdeviceptr(self.handle));
        }
    }
}

impl Kind {
    /// The kind by its number, for a node with so many bodies.
    pub(crate) fn of(number: i32, bodies: u32) -> CuResult<Kind> {
        match (number, bodies) {
            (0, 1 | 2) => Ok(Kind::If),
            (1, 1) => Ok(Kind::While),
            (2, 1..) => Ok(Kind::Switch),
            _ => Err(CuError::INVALID_VALUE),
        }
    }

    /// The number of the header.
    pub(crate) fn number(self) -> i32 {
        match self {
            Kind::If => 0,
            Kind::While => 1,
            Kind::Switch => 2,
        }
    }

    /// The body that a value chooses, of so many.
    pub(crate) fn chosen(self, value: u32, bodies: usize) -> Option<usize> {
        let body = match self {
            Kind::If => usize::from(value == 0),
            Kind::While if value == 0 => return None,
            Kind::While => 0,
            Kind::Switch => usize::try_from(value).ok()?,
        };
        (body < bodies).then_some(body)
    }
}

/// Whether kernels of a device set values as we need it; asked once.
fn is_supported(device: &Device, session: &Session) -> CuResult<bool> {
    static KNOWN: Mutex<Option<HashMap<usize, bool>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(answer) = known.get(&device.ordinal) {
        return Ok(*answer);
    }
    let answer = match session.load_module(vec![PROBE.as_bytes()]) {
        Ok((module, facts)) => {
            session.cuModuleUnload(module)?;
            facts.functions.iter().all(|function| function.unsupported.is_none())
        }
        // What says nothing about the device.
        Err(error) if error.is_sticky() || error == CuError::OUT_OF_MEMORY => return Err(error),
        Err(_) => false,
    };
    if !answer {
        log::warn(format_args!(
            "conditional nodes of graphs are not supported on device {}: its driver keeps the values to itself; decide \
             on the host, and launch one graph for each part",
            device.ordinal
        ));
    }
    known.insert(device.ordinal, answer);
    Ok(answer)
}

/// A module that only devices load whose kernels can set our values.
const PROBE: &str = "
.version 7.0
.target sm_50
.address_size 64

.extern .func vgpu_set_conditional(.param .b64 handle, .param .b32 value);

.visible .entry vgpu_probe(.param .u64 place)
{
    .reg .b64 %place;
    ld.param.u64 %place, [place];
    {
        .param .b64 first;
        .param .b32 second;
        st.param.b64 [first], %place;
        st.param.b32 [second], 1;
        call.uni vgpu_set_conditional, (first, second);
    }
    ret;
}
";

#[cfg(test)]
impl Condition {
    /// A value on no device, for tests of books.
    pub(super) fn of_no_device(handle: u64) -> Arc<Condition> {
        let [assigned, used] = [false; 2].map(AtomicBool::new);
        let (session, owner) = (Weak::new(), Mutex::default());
        Arc::new(Condition {
            handle,
            default: 0,
            each_time: false,
            assigned,
            ordinal: 0,
            session,
            used,
            owner,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_chooses_a_body_or_none() {
        let chosen = |kind: Kind, bodies| [0, 1, 2, 9].map(|value| kind.chosen(value, bodies));
        assert_eq!(chosen(Kind::If, 1), [None, Some(0), Some(0), Some(0)]);
        assert_eq!(chosen(Kind::If, 2), [Some(1), Some(0), Some(0), Some(0)]);
        assert_eq!(chosen(Kind::While, 1), [None, Some(0), Some(0), Some(0)]);
        assert_eq!(chosen(Kind::Switch, 3), [Some(0), Some(1), Some(2), None]);
        assert_eq!(Kind::of(1, 2), Err(CuError::INVALID_VALUE));
        assert_eq!(Kind::of(0, 3), Err(CuError::INVALID_VALUE));
        assert_eq!(Kind::of(2, 0), Err(CuError::INVALID_VALUE));
    }
}
