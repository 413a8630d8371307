//! Gates: a word of pinned memory that a stream waits for, and that the worker writes.

use std::ffi::c_uint;
use std::sync::atomic::{AtomicU32, Ordering};

use cuda_types::{CUstream, CuError, CuResult, HostSpan};

use crate::api::call;
use crate::device::{NvidiaGpu, lock};

/// The words of all gates. A gate's number is its place plus one.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    pages: Vec<Page>,
    free: Vec<u64>,
}

/// Some words, pinned, where the host and where the device sees them.
#[derive(Debug)]
struct Page {
    host: HostSpan,
    device: u64,
}

impl Gates {
    /// The word of a gate, as the host writes it.
    fn word(&self, gate: u64) -> CuResult<&AtomicU32> {
        let (page, word) = self.place(gate)?;
        let address = page.host.address() + word * WORD_BYTES;
        // SAFETY: inside the pinned page, which lives as long as the process; all host access is atomic.
        Ok(unsafe { AtomicU32::from_ptr(std::ptr::with_exposed_provenance_mut(address)) })
    }

    fn device_address(&self, gate: u64) -> CuResult<u64> {
        let (page, word) = self.place(gate)?;
        Ok(page.device + (word * WORD_BYTES) as u64)
    }

    fn place(&self, gate: u64) -> CuResult<(&Page, usize)> {
        let index = gate.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let index = index.ok_or(CuError::INVALID_HANDLE)?;
        let page = self.pages.get(index / PAGE_WORDS).ok_or(CuError::INVALID_HANDLE)?;
        Ok((page, index % PAGE_WORDS))
    }

    pub(crate) fn open(&self, gate: u64) -> CuResult<()> {
        // What the host wrote before must be seen by the device behind the gate.
        self.word(gate)?.store(OPEN, Ordering::Release);
        Ok(())
    }

    pub(crate) fn destroy(&mut self, gate: u64) {
        if self.place(gate).is_ok() {
            self.free.push(gate);
        }
    }
}

impl NvidiaGpu {
    pub(crate) fn create_gate(&self) -> CuResult<u64> {
        let mut gates = lock(&self.gates);
        if gates.free.is_empty() {
            let host = self.pinned(PAGE_WORDS * WORD_BYTES)?;
            let api = self.enter()?;
            let mut device = 0;
            let address = std::ptr::with_exposed_provenance_mut(host.address());
            // SAFETY: `device` is writable, and the page was allocated by the driver.
            unsafe { call!(api, cuMemHostGetDevicePointer_v2(&raw mut device, address, 0)) }?;
            let first = (gates.pages.len() * PAGE_WORDS) as u64 + 1;
            gates.pages.push(Page { host, device });
            gates.free.extend((first..first + PAGE_WORDS as u64).rev());
        }
        let gate = gates.free.pop().ok_or(CuError::OUT_OF_MEMORY)?;
        gates.word(gate)?.store(CLOSED, Ordering::Relaxed);
        Ok(gate)
    }

    pub(crate) fn wait_at_gate(&self, gate: u64, stream: CUstream) -> CuResult<()> {
        let address = lock(&self.gates).device_address(gate)?;
        let api = self.enter()?;
        // SAFETY: the word is pinned and mapped for the device, and lives as long as the process.
        unsafe { call!(api, cuStreamWaitValue32_v2(stream.0, address, OPEN, WAIT_VALUE_EQUAL)) }
    }
}

const CLOSED: u32 = 0;
const OPEN: u32 = 1;
const WORD_BYTES: usize = 4;
const PAGE_WORDS: usize = 1024;

/// `CU_STREAM_WAIT_VALUE_EQ`.
const WAIT_VALUE_EQUAL: c_uint = 1;
