//! The process that serves one client: its own address space, its own context, gone when the client is gone.

use std::sync::Arc;
use std::time::Duration;

use proto::handshake::Begin;
use rustix::process::Signal;
use transport::{Link, SocketLink};

use crate::options::Options;
use crate::worker::{self, SessionEnd};

/// Serves the client whose socket is standard input, then ends.
pub fn run(options: &Options) -> Result<(), String> {
    // The daemon's death ends its clients' sessions too: nobody would answer for them.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("tying the worker to its daemon: {error}"))?;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|error| format!("taking over the client's socket: {error}"))?;
    let null = std::fs::File::open("/dev/null").map_err(|error| format!("opening /dev/null: {error}"))?;
    rustix::stdio::dup2_stdin(&null).map_err(|error| format!("closing standard input: {error}"))?;
    // The daemon asks over standard output; what libraries print there goes where the log goes.
    let questions = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
        .map_err(|error| format!("taking over the daemon's socket: {error}"))?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())
        .map_err(|error| format!("redirecting standard output: {error}"))?;
    let link: Arc<dyn Link> = Arc::new(
        SocketLink::from_descriptor(socket, options.client.clone(), super::link_timeout())
            .map_err(|error| error.to_string())?
            .polling(options.spin_us.map(Duration::from_micros)),
    );
    let device = options.driver.open(options.device).map_err(|error| {
        format!("opening device {} of driver {}: {error}", options.device, options.driver)
    })?;
    tracing::info!(client = options.client, "worker {} started", std::process::id());
    let begin = Begin {
        window_base: options.window_base,
        window_bytes: options.window_bytes,
        verbs: options.verbs_wanted,
    };
    let worker_options = options.worker_options();
    let usage = Arc::clone(&worker_options.usage);
    std::thread::spawn(move || usage.answer(questions.into()));
    let (end, counts) = worker::serve(link, device, begin, &worker_options);
    let quiet = matches!(end, SessionEnd::Farewell | SessionEnd::Link(transport::LinkError::Closed { .. }));
    if quiet {
        tracing::info!(client = options.client, "worker {} ended: {end}; {counts}", std::process::id());
    } else {
        tracing::warn!(client = options.client, "worker {} ended: {end}; {counts}", std::process::id());
    }
    // Streams may still run kernels for a client that is gone: no destructor may wait for them.
    std::process::exit(0);
}

/// How long a drained worker may take; used by the daemon.
pub(crate) fn drain_time(options: &Options) -> Duration {
    Duration::from_secs(options.drain_seconds)
}
