//! What the client crate needs of this process: threads that no signal reaches, address space, fork and exit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use client::Environment;
use client::environment::{Severity, forget_after_fork};

use crate::{log, shortcut, summary};

/// How long the exit of the program waits for what it has posted.
const FAREWELL: Duration = Duration::from_secs(2);

/// Settings and services for the client crate.
pub(crate) fn environment() -> Arc<Environment> {
    static ENVIRONMENT: OnceLock<Arc<Environment>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let plain = Environment::default();
            let timeout = std::env::var("VGPU_LINK_TIMEOUT_MS").ok();
            let link_timeout = match timeout.as_deref().map(|text| (text, text.trim().parse())) {
                None => plain.link_timeout,
                Some((_, Ok(milliseconds))) => Duration::from_millis(milliseconds),
                Some((text, Err(_))) => {
                    log::warn(format_args!("VGPU_LINK_TIMEOUT_MS={text}: expected a number of milliseconds"));
                    plain.link_timeout
                }
            };
            let rdma_device = std::env::var("VGPU_IB_DEVICE").ok().filter(|name| !name.trim().is_empty());
            let spin = std::env::var("VGPU_SPIN_US").ok().and_then(|text| {
                let microseconds = text.trim().parse().map(Duration::from_micros);
                microseconds
                    .inspect_err(|_| {
                        log::warn(format_args!("VGPU_SPIN_US={text}: expected a number of microseconds"));
                    })
                    .ok()
            });
            let keeps_account = log::enabled(log::Level::Summary);
            Arc::new(Environment {
                link_timeout,
                rdma_device,
                spin,
                keeps_account,
                spawn,
                print,
                log: line,
                ..plain
            })
        })
        .clone()
}

/// Reserves address space that nothing occupies, so that a stray access of the program faults as with a real device.
pub(crate) fn reserve(base: u64, bytes: u64) -> bool {
    let (Ok(address), Ok(length)) = (usize::try_from(base), usize::try_from(bytes)) else { return false };
    let wanted = std::ptr::without_provenance_mut(address);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: new address space without rights; `MAP_FIXED_NOREPLACE` touches nothing that is mapped.
    let got = unsafe { libc::mmap(wanted, length, libc::PROT_NONE, flags, -1, 0) };
    if got == libc::MAP_FAILED {
        return false;
    }
    if got.addr() != address {
        // Kernels before 4.17 take the address as a hint.
        // SAFETY: exactly the mapping just made.
        unsafe { libc::munmap(got, length) };
        return false;
    }
    true
}

/// Set when this library's end has begun: what is called after it answers `DEINITIALIZED`.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Whether the program has ended but for destructors that run after ours.
pub(crate) fn has_ended() -> bool {
    ENDED.load(Ordering::Relaxed)
}

/// From the first connection on, a forked child gives the links up.
pub(crate) fn watch_fork() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler only touches atomics and closes descriptors, which a forked child may do.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if failed != 0 {
            log::warn(format_args!("no handler for fork: a forked child must not use CUDA"));
        }
    });
}

extern "C" fn in_child() {
    shortcut::forget();
    for descriptor in forget_after_fork() {
        // SAFETY: a descriptor of the parent's link, which the client crate has just given up in this process.
        unsafe { libc::close(descriptor) };
    }
}

/// Sends what is posted and a farewell when the program ends.
///
/// Not `atexit`: the program's own handlers and the destructors of its globals still free memory, and run after a
/// handler that the first CUDA call registers, but before the destructors of libraries.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_END: extern "C" fn() = at_end;

extern "C" fn at_end() {
    // The links are the parent's, and locks may be held by its threads, which are not here.
    if client::environment::is_forked() {
        return;
    }
    // A panic cannot leave a destructor; the program ends anyway.
    let _ = std::panic::catch_unwind(|| {
        ENDED.store(true, Ordering::Relaxed);
        shortcut::forget();
        if log::enabled(log::Level::Summary) {
            let used = crate::state::accounts();
            log::summary(&summary::text(std::process::id(), summary::run_time(), &used));
        }
        crate::state::close_all(FAREWELL);
    });
}

/// Starts a thread with every signal blocked: handlers of the program run on its own threads.
pub(crate) fn spawn(name: &'static str, body: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
    let (mut all, mut before) = (std::mem::MaybeUninit::uninit(), std::mem::MaybeUninit::uninit());
    // SAFETY: room for a signal set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was filled above; the former mask goes to `before`.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    if blocked != 0 {
        return Err(std::io::Error::from_raw_os_error(blocked));
    }
    // The new thread inherits the mask.
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop);
    // SAFETY: `before` was written when the mask was set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    spawned
}

/// What kernels print goes through C's `stdout`, in order with what the program prints itself.
fn print(bytes: &[u8]) {
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
    }
    // SAFETY: C's own stream, which locks itself.
    unsafe { libc::fwrite(bytes.as_ptr().cast(), 1, bytes.len(), stdout) };
}

fn line(severity: Severity, text: &str) {
    match severity {
        Severity::Error => log::error(format_args!("{text}")),
        Severity::Warn => log::warn(format_args!("{text}")),
        Severity::Info => log::info(format_args!("{text}")),
        Severity::Debug => log::debug(format_args!("{text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_space_is_reserved_once() {
        let base = 0x3000_0000_0000;
        assert!(reserve(base, 1 << 21));
        assert!(!reserve(base, 1 << 21) && !reserve(base, 1 << 22), "something lies there");
    }

    #[test]
    fn spawned_threads_have_every_signal_blocked_and_this_one_keeps_its_mask() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let blocked = || {
            let mut mask = std::mem::MaybeUninit::uninit();
            // SAFETY: asks for the mask only.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), mask.as_mut_ptr()) };
            // SAFETY: written by the call above.
            unsafe { libc::sigismember(mask.as_ptr(), libc::SIGINT) }
        };
        let before = blocked();
        spawn("test", Box::new(move || sender.send(blocked()).unwrap())).unwrap();
        assert_eq!(receiver.recv().unwrap(), 1);
        assert_eq!(blocked(), before);
    }
}
