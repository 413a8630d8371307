//! Both ends in one process, for tests and for a device in the client's own process.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::link::{Link, LinkError};
use crate::socket::readable;

/// One end of a connection within the process.
pub struct MemoryLink {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

/// Bytes in one direction, at most `CAPACITY` of them, so that a sender waits as it does on a socket.
struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
    /// Readable while `state.bytes` is not empty or the pipe is closed.
    signal: OwnedFd,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    closed: bool,
}

const CAPACITY: usize = 256 * 1024;

/// Makes the two ends.
///
/// # Errors
/// When the process may open no more descriptors.
pub fn pair() -> std::io::Result<(MemoryLink, MemoryLink)> {
    let (up, down) = (Arc::new(Pipe::new()?), Arc::new(Pipe::new()?));
    Ok((
        MemoryLink { incoming: Arc::clone(&down), outgoing: Arc::clone(&up) },
        MemoryLink { incoming: up, outgoing: down },
    ))
}

impl Pipe {
    fn new() -> std::io::Result<Pipe> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Pipe { state: Mutex::default(), changed: Condvar::new(), signal })
    }

    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the signal descriptor say what the state says; called with the lock held.
    fn announce(&self, state: &PipeState) {
        let mut count = [0; 8];
        // Both fail only with "would block", which means that the descriptor already says it.
        if state.bytes.is_empty() && !state.closed {
            let _ = rustix::io::read(&self.signal, &mut count);
        } else {
            let _ = rustix::io::write(&self.signal, &1_u64.to_ne_bytes());
        }
        self.changed.notify_all();
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.announce(&state);
    }
}

impl MemoryLink {
    fn closed(&self) -> LinkError {
        LinkError::Closed { peer: self.peer().to_owned() }
    }
}

impl Link for MemoryLink {
    fn send(&self, parts: &[&[u8]]) -> Result<(), LinkError> {
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let mut state = self.outgoing.lock();
                while state.bytes.len() >= CAPACITY && !state.closed {
                    state = self.outgoing.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.closed {
                    return Err(self.closed());
                }
                let (now, later) = rest.split_at(rest.len().min(CAPACITY - state.bytes.len()));
                state.bytes.extend(now);
                rest = later;
                self.outgoing.announce(&state);
            }
        }
        Ok(())
    }

    fn try_send(&self, parts: &[&[u8]]) -> Result<usize, LinkError> {
        let mut state = self.outgoing.lock();
        if state.closed {
            return Err(self.closed());
        }
        let room = CAPACITY.saturating_sub(state.bytes.len());
        let before = state.bytes.len();
        state.bytes.extend(parts.iter().flat_map(|part| part.iter()).take(room));
        let sent = state.bytes.len() - before;
        if sent > 0 {
            self.outgoing.announce(&state);
        }
        Ok(sent)
    }

    fn receive(&self, into: &mut [u8]) -> Result<usize, LinkError> {
        let mut state = self.incoming.lock();
        while state.bytes.is_empty() {
            if state.closed {
                return Err(self.closed());
            }
            state = self.incoming.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let count = into.len().min(state.bytes.len());
        for (slot, byte) in into.iter_mut().zip(state.bytes.drain(..count)) {
            *slot = byte;
        }
        self.incoming.announce(&state);
        Ok(count)
    }

    fn wait_readable(&self, timeout: Duration) -> Result<bool, LinkError> {
        readable(self.descriptor(), timeout)
            .map_err(|source| LinkError::Lost { peer: self.peer().to_owned(), source })
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.incoming.signal.as_fd()
    }

    fn shutdown(&self) {
        self.incoming.close();
        self.outgoing.close();
    }

    fn peer(&self) -> &str {
        "this process"
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.shutdown();
    }
}
