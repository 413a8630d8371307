//! A client and a worker in one process, over any link and any device.
//!
//! The worker is the server's own (`vgpu_server::worker`), only without a process around it. Device and client share
//! the address space, so the device reserves the window and the client borrows it.
//!
//! Layout: the harness is here; [`driver`] starts tests under a CUDA driver of choice; [`kernels`] has PTX for them.

#![forbid(unsafe_code)]

pub mod driver;
pub mod kernels;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use client::connect::Greeted;
use client::server_list::Transport;
use client::{Environment, Remote};
use proto::Device;
use proto::frame::Header;
use proto::frames::FrameReader;
use proto::handshake::{Begin, Hello, Welcome};
use transport::verbs::VerbsOptions;
use transport::{Address, Link, SocketLink, memory};
use vgpu_server::worker::{self, CallCounts, SessionEnd, WorkerOptions};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than anything in a test takes, shorter than a person's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something holds, for [`PATIENCE`]; `false` if it does not.
pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// How the two ends are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Memory,
    Tcp,
    Unix,
    /// RDMA between two addresses of this machine, where it has devices for them; see [`verbs_address`].
    Verbs,
}

/// The address that tests over verbs use, given by `VGPU_TEST_VERBS`; without it they say that they are skipped.
pub fn verbs_address() -> Option<IpAddr> {
    let text = std::env::var("VGPU_TEST_VERBS").ok();
    if text.is_none() {
        println!("skipped: VGPU_TEST_VERBS names no address of an RDMA device");
    }
    text.map(|text| text.parse().expect("VGPU_TEST_VERBS is an IP address"))
}

/// A device of a client, and the end of its session when it comes.
pub struct Harness {
    pub remote: Remote,
    ended: Receiver<(SessionEnd, CallCounts)>,
    far: Arc<dyn Link>,
}

/// Makes tests of functions that take a [`Wire`], in one module for each link; those over verbs skip where there is no
/// device for them: `over_links! { over_tcp: Tcp, over_verbs: Verbs => { one_story another_story } }`.
#[macro_export]
macro_rules! over_links {
    ($($link:ident: $wire:ident),+ => $stories:tt) => {
        $($crate::over_links! { @ $link $wire $stories })+
    };
    (@ $link:ident $wire:ident { $($story:ident)+ }) => {
        mod $link {
            $(#[test] fn $story() {
                let wire = $crate::Wire::$wire;
                if wire != $crate::Wire::Verbs || $crate::verbs_address().is_some() {
                    super::$story(wire);
                }
            })+
        }
    };
}

impl Harness {
    /// Connects a client to `device` as device `ordinal` of its list.
    pub fn new(wire: Wire, device: Arc<dyn Device>, ordinal: u32, options: WorkerOptions) -> Harness {
        Harness::with(wire, device, ordinal, options, Environment::default())
    }

    /// The same for a client in an environment of choice.
    pub fn with(
        wire: Wire,
        device: Arc<dyn Device>,
        ordinal: u32,
        mut options: WorkerOptions,
        environment: Environment,
    ) -> Harness {
        let transport = if wire == Wire::Verbs {
            options.verbs.get_or_insert_with(verbs_options);
            Transport::Verbs
        } else {
            Transport::Tcp
        };
        let (near, far) = links(wire);
        let (sender, ended) = channel();
        let end = Arc::clone(&far);
        std::thread::spawn(move || {
            let outcome = accept(end, device, &options);
            // The test may not care how the session ended.
            let _ = sender.send(outcome);
        });
        let greeted = Greeted::new(near, TIMEOUT).expect("the harness answers");
        // A reset would need a listener; the harness has none.
        let address = Address::Tcp { host: "localhost".into(), port: 9 };
        let remote =
            Remote::greeted(greeted, address, transport, ordinal, Arc::new(environment), |_, _| true);
        Harness { remote, ended, far }
    }

    /// Ends the link as a dead peer would.
    pub fn cut(&self) {
        self.far.shutdown();
    }

    /// Says farewell and answers how the session ended at the worker.
    pub fn finish(self) -> (SessionEnd, CallCounts) {
        self.remote.close(TIMEOUT);
        self.ended.recv_timeout(TIMEOUT).expect("the session ends after a farewell")
    }
}

fn verbs_options() -> VerbsOptions {
    VerbsOptions { device: None, spin: None, connect_timeout: TIMEOUT, link_timeout: TIMEOUT }
}

/// A connected pair of links. Verbs begin with TCP, as they always do.
pub fn links(wire: Wire) -> (Box<dyn Link>, Arc<dyn Link>) {
    let server = |descriptor: OwnedFd| -> Arc<dyn Link> {
        Arc::new(
            SocketLink::from_descriptor(descriptor, "client".into(), TIMEOUT).expect("a connected socket"),
        )
    };
    match wire {
        Wire::Memory => {
            let (near, far) = memory::pair().expect("descriptors");
            (Box::new(near), Arc::new(far))
        }
        Wire::Tcp | Wire::Verbs => {
            let host = match wire {
                Wire::Verbs => verbs_address().expect("tests over verbs ask for it first"),
                _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            let listener = std::net::TcpListener::bind((host, 0)).expect("a port");
            let port = listener.local_addr().expect("bound").port();
            let address = Address::Tcp { host: host.to_string(), port };
            let near = SocketLink::connect(&address, TIMEOUT, TIMEOUT).expect("the listener is there");
            let (far, _) = listener.accept().expect("a client");
            (Box::new(near), server(far.into()))
        }
        Wire::Unix => {
            let (near, far) = std::os::unix::net::UnixStream::pair().expect("descriptors");
            let near = SocketLink::from_descriptor(near.into(), "worker".into(), TIMEOUT).expect("a socket");
            (Box::new(near), server(far.into()))
        }
    }
}

/// What the daemon and a worker process do for one client, on this thread.
fn accept(link: Arc<dyn Link>, device: Arc<dyn Device>, options: &WorkerOptions) -> (SessionEnd, CallCounts) {
    let mut frames = FrameReader::default();
    let mut greeting = |opcode: u16| -> Option<Vec<u8>> {
        let mut read = |into: &mut [u8]| link.receive(into);
        let header: Header = frames.header(&mut read).ok()?;
        assert_eq!(header.opcode, opcode, "a greeting out of turn");
        let mut arguments = Vec::new();
        frames.arguments(header.length, &mut arguments, &mut read).ok()?;
        Some(arguments)
    };
    let gone = || (SessionEnd::Farewell, CallCounts::default());
    let Some(hello) = greeting(Hello::OPCODE) else { return gone() };
    let version = Hello::read(&hello).expect("our own greeting").agree().expect("our own version");
    let facts = device.facts().expect("a device that can be described");
    if link.send(&[&Welcome { version, facts }.frame()]).is_err() {
        return gone();
    }
    let Some(begin) = greeting(Begin::OPCODE) else { return gone() };
    worker::serve(Arc::clone(&link), device, Begin::read(&begin).expect("our own greeting"), options)
}
