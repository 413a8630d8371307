//! What the embedding program provides: this crate is loaded into foreign processes and must not decide for them.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

/// Starts a named thread.
pub type Spawn = fn(&'static str, Box<dyn FnOnce() + Send>) -> std::io::Result<()>;

/// Settings and services, given once with the first connection.
pub struct Environment {
    /// The longest wait for a connection and its greeting.
    pub connect_timeout: Duration,
    /// After how long without a sign of life a link counts as lost.
    pub link_timeout: Duration,
    /// The RDMA device to use, with an optional `:port`; chosen by address if not given.
    pub rdma_device: Option<String>,
    /// How long a waiting thread polls before it sleeps, where polling is possible; measured if not given.
    pub spin: Option<Duration>,
    /// Whether calls, waits and bytes are counted: [`Remote::account`](crate::Remote::account).
    pub keeps_account: bool,
    /// Starts a thread that no signal of the program reaches.
    pub spawn: Spawn,
    /// Takes what kernels print.
    pub print: fn(&[u8]),
    /// Takes a line for the person who runs the program.
    pub log: fn(Severity, &str),
}

/// How much a log line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    Error,
    Warn,
    Info,
    Debug,
}

impl Default for Environment {
    fn default() -> Self {
        Environment {
            connect_timeout: Duration::from_secs(2),
            link_timeout: Duration::from_secs(2),
            rdma_device: None,
            spin: None,
            keeps_account: false,
            spawn: |name, body| std::thread::Builder::new().name(name.into()).spawn(body).map(drop),
            print: |bytes| {
                use std::io::Write;
                // A program whose output is closed has nobody to tell.
                let _ = std::io::stdout().write_all(bytes);
            },
            log: |severity, line| {
                if severity <= Severity::Warn {
                    eprintln!("vgpu: {line}");
                }
            },
        }
    }
}

/// The links' descriptors, where a fork handler can find them without taking a lock.
static DESCRIPTORS: [AtomicI32; 256] = [const { AtomicI32::new(-1) }; 256];

/// Whether this process was forked off after its parent had begun a session.
static FORKED: AtomicBool = AtomicBool::new(false);
/// Whether a session was ever begun here: before that, a child may begin its own.
static HAS_SESSION: AtomicBool = AtomicBool::new(false);
/// How many forks lie between the first process that greeted a server and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// For the child's side of a fork: from now on every call is refused, if the parent had begun a session; if it had only
/// looked at its devices, the child greets them anew. Safe in a signal-like context.
///
/// Answers the descriptors of the parent's links, which the child must close, so that the parent's end of a link is
/// its end.
pub fn forget_after_fork() -> impl Iterator<Item = i32> {
    FORKED.store(HAS_SESSION.load(Ordering::SeqCst), Ordering::SeqCst);
    FORKS.fetch_add(1, Ordering::SeqCst);
    DESCRIPTORS.iter().map(|slot| slot.swap(-1, Ordering::SeqCst)).filter(|descriptor| *descriptor >= 0)
}

/// Whether the calls of this process belong to its parent.
pub fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Tells links that were greeted before a fork from those greeted after it.
pub(crate) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// A session begins in this process.
pub(crate) fn session_begins() {
    HAS_SESSION.store(true, Ordering::SeqCst);
}

/// Whether any link was ever made here.
pub fn has_links() -> bool {
    DESCRIPTORS.iter().any(|slot| slot.load(Ordering::SeqCst) >= 0)
}

pub(crate) fn remember_descriptor(descriptor: i32) {
    // With more links than slots the surplus stays open in forked children: a leak there, no error here.
    let _ = DESCRIPTORS
        .iter()
        .find(|slot| slot.compare_exchange(-1, descriptor, Ordering::SeqCst, Ordering::SeqCst).is_ok());
}

pub(crate) fn forget_descriptor(descriptor: i32) {
    for slot in &DESCRIPTORS {
        if slot.compare_exchange(descriptor, -1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
    }
}
