//! The one thread that serves all links while no program thread does, and the one that runs host functions.
//!
//! It is started with the first session. It reads links that nobody waits for, sends what messages ask for and what
//! posts left in the send buffers. A link that a program thread waits for is left to that thread; the progress thread
//! looks again after a few milliseconds instead of being told, which would cost every waiting call a system call. Only
//! who still waits then has to tell it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use std::os::fd::{AsFd, OwnedFd};

use proto::control::{GateOpen, RunHostFunction};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use smallvec::{SmallVec, smallvec};
use transport::Urgency;

use crate::environment::Environment;
use crate::outgoing::Look;
use crate::session::Session;

pub(crate) struct Progress {
    sessions: Mutex<Vec<Weak<Session>>>,
    signal: OwnedFd,
    /// The signal has been given and not yet seen.
    signalled: AtomicBool,
    host_functions: Sender<Box<dyn FnOnce() + Send>>,
}

/// One for each session of a process: mostly few.
type Few<T> = SmallVec<[T; 8]>;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// How soon a send buffer is looked at again that is being filled.
const LOOK_SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000 };
/// And while its posters send whole buffers.
const LOOK_LATER: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000 };
/// How soon a link that was awaited is looked at again.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// The process's own, once it is started.
static SHARED: OnceLock<Arc<Progress>> = OnceLock::new();

impl Progress {
    /// Visits the sessions of this process.
    pub(crate) fn each_session(visit: impl Fn(&Session)) {
        let Some(progress) = SHARED.get() else { return };
        let sessions: Vec<Arc<Session>> = progress.sessions().iter().filter_map(Weak::upgrade).collect();
        sessions.iter().for_each(|session| visit(session));
    }

    /// The process's progress thread, started now if it is not running.
    pub(crate) fn shared(environment: &Environment) -> std::io::Result<Arc<Progress>> {
        static STARTING: Mutex<()> = Mutex::new(());
        let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = SHARED.get() {
            return Ok(Arc::clone(progress));
        }
        let (host_functions, jobs) = channel::<Box<dyn FnOnce() + Send>>();
        let progress = Arc::new(Progress {
            sessions: Mutex::default(),
            signal: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            signalled: AtomicBool::new(false),
            host_functions,
        });
        let running = Arc::clone(&progress);
        (environment.spawn)("vgpu-progress", Box::new(move || running.run()))?;
        (environment.spawn)("vgpu-hostfunc", Box::new(move || jobs.into_iter().for_each(|job| job())))?;
        Ok(Arc::clone(SHARED.get_or_init(|| progress)))
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Weak<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a session from now on.
    pub(crate) fn watch(&self, session: &Arc<Session>) {
        self.sessions().push(Arc::downgrade(session));
        self.wake();
    }

    /// There is something to send or to look at.
    pub(crate) fn wake(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is full, and then the signal is there.
            let _ = rustix::io::write(&self.signal, &1_u64.to_ne_bytes());
        }
    }

    fn run(&self) {
        let (mut look, mut urgency) = (Look::Never, Urgency::of_this_thread());
        // Whether it has slept a little beside threads that wait.
        let mut has_slept = false;
        loop {
            // Whoever sends whole buffers does so without this thread, and needs the processor more.
            urgency.set(look != Look::Later);
            let sessions = self.living();
            // Those that stream are read when they are looked at.
            let (idle, others): (Few<&Session>, Few<&Session>) = sessions
                .iter()
                .map(|session| &**session)
                .partition(|session| !session.is_awaited() && !session.streams.load(Ordering::Relaxed));
            let are_left = has_slept && others.iter().all(|session| session.leave_to_waiter());
            has_slept = look == Look::Never && !others.is_empty() && !are_left;
            let patience = match look {
                Look::Soon => Some(&LOOK_SOON),
                Look::Later => Some(&LOOK_LATER),
                Look::Never => has_slept.then_some(&LOOK_AGAIN),
            };
            let readable = self.wait(&idle, patience);
            for (session, readable) in idle.iter().zip(readable) {
                if readable && !session.is_awaited() {
                    session.read_available();
                }
            }
            drop((idle, others));
            drop(sessions);
            // Anew: the signal may have been for a session that came while this thread slept.
            look = self.living().iter().map(|session| session.serve()).max().unwrap_or(Look::Never);
        }
    }

    fn living(&self) -> Few<Arc<Session>> {
        let mut watched = self.sessions();
        watched.retain(|session| session.strong_count() > 0);
        watched.iter().filter_map(Weak::upgrade).filter(|session| !session.is_lost()).collect()
    }

    /// Waits for the signal or for one of the links; which of them can be read.
    fn wait(&self, idle: &[&Session], patience: Option<&Timespec>) -> Few<bool> {
        let mut descriptors: Few<PollFd<'_>> =
            smallvec![PollFd::from_borrowed_fd(self.signal.as_fd(), PollFlags::IN)];
        descriptors.extend(
            idle.iter().map(|session| PollFd::from_borrowed_fd(session.link.descriptor(), PollFlags::IN)),
        );
        // A link that fails here says so when it is read.
        let mut ready: Few<bool> =
            idle.iter().map(|session| session.link.prepare_sleep().unwrap_or(true)).collect();
        let timeout = if ready.contains(&true) { Some(&AT_ONCE) } else { patience };
        // Interrupted or failed: look at everything, none is readable.
        let _ = poll(&mut descriptors, timeout);
        let signalled = !descriptors[0].revents().is_empty();
        for (entry, ready) in descriptors[1..].iter().zip(&mut ready) {
            *ready |= !entry.revents().is_empty();
        }
        drop(descriptors);
        if signalled {
            let _ = rustix::io::read(&self.signal, &mut [0; 8]);
            // Whoever finds it set from here on has left its work before, where the caller sees it.
            self.signalled.swap(false, Ordering::AcqRel);
        }
        ready
    }

    /// Has a host function run on its own thread, which may block, and its gate opened.
    pub(crate) fn run_host_function(&self, session: &Session, message: RunHostFunction) {
        let Some(function) = session.state().host_functions.remove(&message.gate) else { return };
        let opener = self.opener(session);
        let job = Box::new(move || {
            (function.run)(message.error);
            drop(function.pending);
            if let Some(session) = opener.upgrade() {
                // On a lost link there is no stream that waits.
                let _ = session.send_control(|out| GateOpen { gate: message.gate }.append(out, 0));
            }
        });
        // The thread lives as long as the process.
        let _ = self.host_functions.send(job);
    }

    fn opener(&self, session: &Session) -> Weak<Session> {
        self.sessions()
            .iter()
            .find(|watched| std::ptr::eq(watched.as_ptr(), session))
            .cloned()
            .unwrap_or_default()
    }
}

impl Session {
    /// Sends what is due: pulled bytes, control messages, what posts left behind. When to look again.
    fn serve(&self) -> Look {
        // Before what has been heard is answered.
        if self.streams.load(Ordering::Relaxed) && !self.is_awaited() {
            self.read_available();
        }
        let look = self.write_leftovers();
        // The next bytes will be asked for as soon as these have arrived.
        let look = if self.send_pulled() && look == Look::Later { Look::Soon } else { look };
        self.streams.store(look == Look::Later, Ordering::Relaxed);
        look
    }
}
