//! The last lines that the log has said, for programs that ask for them (`cudaLogs...`), whatever `VGPU_LOG` shows.
//!
//! Errors and warnings only, as CUDA has it, and 25600 bytes of them. A line has a number that grows; what a program
//! holds as a place in the log is the number of the next line.
//!
//! What must never happen: calling the program, or writing to its memory, under a lock, of this module or any other. So
//! lines that are said inside an entry point are told when the thread has left it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cuda_types::{CuError, CuResult};

/// `cudaLogsCallback_t`: data, level, message and its length.
pub(crate) type Callback = unsafe extern "C" fn(*mut c_void, c_int, *mut c_char, usize);

/// What is kept.
#[derive(Default)]
pub(crate) struct Journal {
    lines: VecDeque<String>,
    bytes: usize,
    /// The number of the line that comes next.
    next: u32,
    listeners: Vec<Listener>,
}

/// A function of the program that is told every line.
#[derive(Clone, Copy)]
struct Listener {
    handle: u64,
    callback: Callback,
    data: *mut c_void,
}

// SAFETY: never looked at on this side; the program gave it for a function that may run on any thread.
unsafe impl Send for Listener {}

static JOURNAL: Mutex<Option<Journal>> = Mutex::new(None);

thread_local! {
    /// This thread tells listeners a line: what they cause to be said is not told.
    static TELLING: Cell<bool> = const { Cell::new(false) };
    /// The entry points that this thread is in, one inside the other.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
    /// Whether there are lines to be told behind them, and which.
    static IS_WAITING: Cell<bool> = const { Cell::new(false) };
    static WAITING: RefCell<Vec<(c_int, String)>> = const { RefCell::new(Vec::new()) };
}

/// Looks at what was said, or changes who is told.
pub(crate) fn with<T>(look: impl FnOnce(&mut Journal) -> T) -> T {
    look(JOURNAL.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// Does all of an entry point, which does not unwind; then tells what it has said.
pub(crate) fn around<T>(entry_point: impl FnOnce() -> T) -> T {
    INSIDE.set(INSIDE.get() + 1);
    let result = entry_point();
    INSIDE.set(INSIDE.get() - 1);
    if INSIDE.get() == 0 && IS_WAITING.replace(false) {
        // A thread that ends may have no room for them any more.
        let lines = WAITING.try_with(RefCell::take).unwrap_or_default();
        lines.iter().for_each(|(level, line)| tell(*level, line));
    }
    result
}

/// Keeps a line, and tells it, now or when this thread leaves its entry point; level 0 = error, 1 = warning.
pub(crate) fn note(level: c_int, line: &str) {
    let is_heard = with(|journal| {
        journal.keep(line);
        !journal.listeners.is_empty()
    });
    if !is_heard || TELLING.get() {
        return;
    }
    if INSIDE.get() == 0 {
        return tell(level, line);
    }
    let kept = WAITING.try_with(|waiting| waiting.borrow_mut().push((level, line.to_owned())));
    IS_WAITING.set(kept.is_ok());
}

fn tell(level: c_int, line: &str) {
    let listeners = with(|journal| journal.listeners.clone());
    let mut message = line.as_bytes().to_vec();
    message.push(0);
    TELLING.set(true);
    for Listener { callback, data, .. } in listeners {
        // SAFETY: the function and data that the program gave, and a text that ends with zero.
        unsafe { callback(data, level, message.as_mut_ptr().cast(), line.len()) };
    }
    TELLING.set(false);
}

impl Journal {
    /// The place behind the last line.
    pub(crate) fn end(&self) -> u32 {
        self.next
    }

    /// Adds who is told; the handle.
    pub(crate) fn listen(&mut self, callback: Callback, data: *mut c_void) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0x102_0000_0000);
        let handle = NEXT.fetch_add(16, Ordering::Relaxed);
        self.listeners.push(Listener { handle, callback, data });
        handle
    }

    /// Takes back who is told.
    pub(crate) fn hush(&mut self, handle: u64) -> CuResult<()> {
        let before = self.listeners.len();
        self.listeners.retain(|listener| listener.handle != handle);
        if self.listeners.len() < before { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }

    /// The lines from a place on, at most `room` bytes: the last ones, and a line that says that others are missing.
    pub(crate) fn text(&self, from: Option<u32>, room: usize) -> CuResult<String> {
        const MISSING: &str = "earlier lines are missing\n";
        let wanted = from.map_or(self.lines.len(), |from| {
            usize::try_from(self.next.wrapping_sub(from)).unwrap_or(usize::MAX)
        });
        let kept = wanted.min(self.lines.len());
        let bytes =
            |lines: usize| self.lines.iter().rev().take(lines).map(|line| line.len() + 1).sum::<usize>();
        if kept == wanted && bytes(kept) <= room {
            return Ok(self.last(kept, String::new()));
        }
        let fits = (1..=kept).rev().find(|lines| MISSING.len() + bytes(*lines) <= room);
        // CUDA Runtime API, cudaLogsDumpToMemory: no room for any message.
        Ok(self.last(fits.ok_or(CuError::INVALID_VALUE)?, MISSING.to_owned()))
    }

    fn last(&self, lines: usize, head: String) -> String {
        self.lines.iter().skip(self.lines.len() - lines).fold(head, |text, line| text + line + "\n")
    }

    fn keep(&mut self, line: &str) {
        self.next = self.next.wrapping_add(1);
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > MOST_BYTES {
            let Some(gone) = self.lines.pop_front() else { break };
            self.bytes -= gone.len() + 1;
        }
    }
}

/// CUDA Runtime API, cudaLogsDumpToMemory: the size of the buffer.
pub(crate) const MOST_BYTES: usize = 25_600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_answered_from_a_place_on() {
        let mut journal = Journal::default();
        journal.keep("one");
        let place = journal.end();
        journal.keep("two");
        journal.keep("three");
        assert_eq!(journal.text(None, 99), Ok("one\ntwo\nthree\n".into()));
        assert_eq!(journal.text(Some(place), 99), Ok("two\nthree\n".into()));
        assert_eq!(journal.text(Some(journal.end()), 0), Ok(String::new()));
    }

    #[test]
    fn what_has_no_room_is_left_out_from_the_front_and_told() {
        let mut journal = Journal::default();
        ["a", "b", "c"].iter().for_each(|letter| journal.keep(&letter.repeat(20)));
        let last = "c".repeat(20);
        assert_eq!(journal.text(None, 62), Ok(format!("earlier lines are missing\n{last}\n")));
        assert_eq!(journal.text(None, 46), Err(CuError::INVALID_VALUE));
        let line = "x".repeat(9_999);
        (0..3).for_each(|_| journal.keep(&line));
        assert!(journal.bytes <= MOST_BYTES && journal.lines.len() == 2);
        assert!(journal.text(Some(0), 99_999).unwrap().starts_with("earlier lines are missing\nx"));
    }
}
