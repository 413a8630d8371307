//! One device of the list: greeted at start, given a session at the first call that needs a context.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cuda_types::{CuError, CuResult};
use proto::DeviceFacts;
use proto::handshake::{Begin, Status};
use transport::{Address, SocketLink};
use window::Window;

use crate::connect::{ConnectError, Greeted};
use crate::environment::{self, Environment, Severity, is_forked};
use crate::ledger::{Account, Ledger};
use crate::server_list::Transport;
use crate::session::Session;
use crate::verbs;

/// The first address of the first device's window.
pub const WINDOW_BASE: u64 = 0x2000_0000_0000;
/// Bytes of address space for each device.
pub const WINDOW_BYTES: u64 = 512 << 30;
/// The most places that are proposed for a window.
const PROPOSALS: u64 = 8;
/// How far apart the proposals lie: beyond the windows of all devices that a list may have. Those of contexts that the
/// program makes may lie there; who comes second goes on to its next proposal.
const PROPOSAL_STRIDE: u64 = 64 * WINDOW_BYTES;

/// Where the window of device `ordinal` of a list may begin, in the order in which the places are proposed.
pub fn window_bases(ordinal: u64) -> impl Iterator<Item = u64> {
    (0..PROPOSALS).map(move |proposal| WINDOW_BASE + proposal * PROPOSAL_STRIDE + ordinal * WINDOW_BYTES)
}

/// Reserves address space of this process, so that nothing else is put there and stray accesses fault: base, bytes.
/// `false` if something lies there already.
pub type Reserve = fn(u64, u64) -> bool;

/// See the module's text.
pub struct Remote {
    address: Address,
    transport: Transport,
    ordinal: u64,
    environment: Arc<Environment>,
    facts: Arc<DeviceFacts>,
    reserve: Reserve,
    /// Where windows of this device were reserved: they stay so, for its next session.
    windows: Mutex<Vec<u64>>,
    /// Where calls are counted, if they are.
    ledger: Option<Arc<Ledger>>,
    /// How many forks there were when it was greeted.
    forks: u32,
    state: Mutex<Link>,
}

enum Link {
    /// Greeted, no context yet.
    Idle(Greeted),
    /// To be greeted again at the next use: the device was reset.
    Reset,
    Active(Arc<Session>),
    /// Lost before or during the start of its worker: what every call answers.
    Failed(CuError),
}

impl Remote {
    /// Greets the server at `address`. Nothing is started there; facts are known afterwards.
    pub fn connect(
        address: Address,
        transport: Transport,
        ordinal: u32,
        environment: Arc<Environment>,
        reserve: Reserve,
    ) -> Result<Remote, ConnectError> {
        let greeted = greet(&address, &environment)?;
        Ok(Remote::greeted(greeted, address, transport, ordinal, environment, reserve))
    }

    /// A device behind a link that is greeted already; after a reset it is reached at `address`.
    pub fn greeted(
        greeted: Greeted,
        address: Address,
        transport: Transport,
        ordinal: u32,
        environment: Arc<Environment>,
        reserve: Reserve,
    ) -> Remote {
        let facts = Arc::new(greeted.welcome.facts.clone());
        let ledger = environment.keeps_account.then(Arc::default);
        Remote {
            address,
            transport,
            ordinal: u64::from(ordinal),
            environment,
            facts,
            reserve,
            windows: Mutex::default(),
            ledger,
            forks: environment::forks(),
            state: Mutex::new(Link::Idle(greeted)),
        }
    }

    /// What the server said about the device.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// How busy the device is, over a link of its own: it needs no context. `None` if the server does not tell.
    pub fn status(&self) -> Option<Status> {
        let mut greeted = greet(&self.address, &self.environment).ok()?;
        greeted.status(self.environment.connect_timeout).ok()
    }

    /// Where the device is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session, if there is one already.
    pub fn active(&self) -> Option<Arc<Session>> {
        match &*self.lock() {
            Link::Active(session) => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// What the device has cost so far, over all its sessions; `None` if that is not counted or belongs to the parent of
    /// this process.
    pub fn account(&self) -> Option<Account> {
        self.ledger.as_ref().filter(|_| !is_forked()).map(|ledger| ledger.account())
    }

    /// The session, begun now if there is none: the server starts a worker.
    pub fn session(&self) -> CuResult<Arc<Session>> {
        if is_forked() {
            return Err(CuError::NOT_INITIALIZED);
        }
        let mut state = self.lock();
        match &*state {
            Link::Active(session) => return Ok(Arc::clone(session)),
            Link::Failed(error) => return Err(*error),
            Link::Idle(_) | Link::Reset => {}
        }
        let greeted = match std::mem::replace(&mut *state, Link::Failed(CuError::DEVICE_UNAVAILABLE)) {
            // A link from before a fork is the parent's.
            Link::Idle(greeted) if self.forks == environment::forks() => Ok(greeted),
            _ => greet(&self.address, &self.environment),
        };
        environment::session_begins();
        match greeted.and_then(|greeted| self.begin(greeted)) {
            Ok(session) => {
                *state = Link::Active(Arc::clone(&session));
                Ok(session)
            }
            Err(error) => {
                (self.environment.log)(
                    Severity::Error,
                    &format!("device {} of VGPU_SERVER ({}): {error}", self.ordinal, self.address),
                );
                Err(CuError::DEVICE_UNAVAILABLE)
            }
        }
    }

    /// Has a worker started, with a window that both sides can reserve.
    fn begin(&self, mut greeted: Greeted) -> Result<Arc<Session>, ConnectError> {
        // Starting a worker and opening a device takes longer than a greeting.
        let patience = self.environment.connect_timeout.max(Duration::from_secs(60));
        let wanted = verbs::wanted(self.transport, &*greeted.link, &self.environment).map_err(|error| {
            ConnectError::Verbs { peer: self.address.to_string(), reason: error.to_string() }
        })?;
        for base in window_bases(self.ordinal) {
            if !self.has_window(base) {
                continue;
            }
            let begin = Begin { window_base: base, window_bytes: WINDOW_BYTES, verbs: wanted };
            if let Some(began) = greeted.begin(&begin, patience)? {
                let mut window = Window::new(base, WINDOW_BYTES);
                if began.mapped_bytes > 0 && !window.add_mapped(base, began.mapped_bytes) {
                    let reason =
                        format!("the server has mapped {} bytes, which is no chunk", began.mapped_bytes);
                    return Err(ConnectError::Refused { peer: self.address.to_string(), reason });
                }
                let peer = self.address.to_string();
                let ready = verbs::change(greeted, &began, self.transport, &self.environment)?;
                return Session::new(
                    ready,
                    Arc::clone(&self.facts),
                    &began,
                    window,
                    Arc::clone(&self.environment),
                    self.ledger.clone(),
                )
                .map_err(|source| ConnectError::Link(transport::LinkError::Lost { peer, source }));
            }
        }
        Err(ConnectError::Refused {
            peer: self.address.to_string(),
            reason: format!("no address range of {} GiB is free on both sides", WINDOW_BYTES >> 30),
        })
    }

    /// Whether a window of this device can lie at `base`, and of nobody else.
    fn has_window(&self, base: u64) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if !windows.contains(&base) {
            if !(self.reserve)(base, WINDOW_BYTES) {
                return false;
            }
            windows.push(base);
        }
        true
    }

    /// Ends the context: memory, streams and modules are gone, errors are forgotten. The next use begins anew.
    pub fn reset(&self) -> CuResult<()> {
        if is_forked() {
            return Err(CuError::NOT_INITIALIZED);
        }
        let mut state = self.lock();
        if let Link::Active(session) = &*state {
            session.close(Duration::from_secs(2));
            *state = Link::Reset;
        } else if let Link::Failed(_) = &*state {
            *state = Link::Reset;
        }
        Ok(())
    }

    /// Sends what is posted, says farewell and waits up to `patience`.
    pub fn close(&self, patience: Duration) {
        if let Some(session) = self.active() {
            session.close(patience);
        }
    }
}

fn greet(address: &Address, environment: &Environment) -> Result<Greeted, ConnectError> {
    let link = SocketLink::connect(address, environment.connect_timeout, environment.link_timeout)
        .map_err(ConnectError::Link)?
        .polling(environment.spin);
    Greeted::new(Box::new(link), environment.connect_timeout)
}
