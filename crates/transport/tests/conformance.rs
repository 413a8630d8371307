//! What every link promises, run on each of them. Over verbs where `VGPU_TEST_VERBS` names an RDMA address.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use transport::verbs::{Host, Offer, VerbsError, VerbsOptions, dial};
use transport::{Address, Link, LinkError, SocketLink, memory};

const TIMEOUT: Duration = Duration::from_secs(2);

fn memory_pair() -> (Arc<dyn Link>, Arc<dyn Link>) {
    let (a, b) = memory::pair().expect("descriptors");
    (Arc::new(a), Arc::new(b))
}

fn tcp_pair() -> (Arc<dyn Link>, Arc<dyn Link>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let client = SocketLink::connect(&Address::Tcp { host: "localhost".into(), port }, TIMEOUT, TIMEOUT)
        .expect("the listener is there");
    let (accepted, _) = listener.accept().expect("a client");
    let server =
        SocketLink::from_descriptor(OwnedFd::from(accepted), "client".into(), TIMEOUT).expect("a socket");
    (Arc::new(client), Arc::new(server))
}

fn unix_pair() -> (Arc<dyn Link>, Arc<dyn Link>) {
    let folder = tempfile_folder();
    let path = folder.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket file");
    let client = SocketLink::connect(&Address::Unix(path), TIMEOUT, TIMEOUT).expect("the listener is there");
    let (accepted, _) = listener.accept().expect("a client");
    let server =
        SocketLink::from_descriptor(OwnedFd::from(accepted), "client".into(), TIMEOUT).expect("a socket");
    std::fs::remove_dir_all(folder).expect("our own folder");
    (Arc::new(client), Arc::new(server))
}

/// `None`, and a line, where there is no RDMA device.
fn verbs_pair() -> Option<(Arc<dyn Link>, Arc<dyn Link>)> {
    let Ok(ip) = std::env::var("VGPU_TEST_VERBS") else {
        println!("skipped: VGPU_TEST_VERBS names no address of an RDMA device");
        return None;
    };
    let ip: IpAddr = ip.parse().expect("VGPU_TEST_VERBS is an IP address");
    let listener = std::net::TcpListener::bind((ip, 0)).expect("a port");
    let address = Address::Tcp { host: ip.to_string(), port: listener.local_addr().expect("bound").port() };
    let near = SocketLink::connect(&address, TIMEOUT, TIMEOUT).expect("the listener is there");
    let (far, _) = listener.accept().expect("a client");
    let far = SocketLink::from_descriptor(OwnedFd::from(far), "client".into(), TIMEOUT).expect("a socket");
    let (near, far): (Arc<dyn Link>, Arc<dyn Link>) = (Arc::new(near), Arc::new(far));
    let options = VerbsOptions { device: None, spin: None, connect_timeout: TIMEOUT, link_timeout: TIMEOUT };
    let mut host = Host::open(options.clone()).expect("a listener for RDMA connections");
    let offer = host.offer();
    let peer = near.peer_address().expect("a TCP connection");
    std::thread::scope(|scope| {
        let dialing = scope.spawn(|| dial(peer, &offer, &options).expect("a connection").over(near));
        let accepted = loop {
            if let Some(accepted) = host.next_client().expect("a good request") {
                break accepted;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let far = accepted.over(far).expect("a link");
        let near = dialing.join().expect("no panic").expect("a link");
        println!("{} and {}", near.peer(), far.peer());
        Some((Arc::new(near) as Arc<dyn Link>, Arc::new(far) as Arc<dyn Link>))
    })
}

fn tempfile_folder() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!(
        "vgpu-link-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&folder).expect("a writable temporary folder");
    folder
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..253).cycle().take(bytes).collect()
}

fn receive_exactly(link: &dyn Link, bytes: usize) -> Vec<u8> {
    let mut got = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        filled += link.receive(&mut got[filled..]).expect("bytes are on their way");
    }
    got
}

fn parts_arrive_in_order(a: Arc<dyn Link>, b: Arc<dyn Link>) {
    a.send(&[b"one ", b"", b"two ", b"three"]).expect("an open link");
    assert_eq!(receive_exactly(&*b, 13), b"one two three");
}

fn both_ways_at_once_without_waiting_for_each_other(a: Arc<dyn Link>, b: Arc<dyn Link>) {
    const BYTES: usize = 8 * 1024 * 1024;
    std::thread::scope(|scope| {
        for (from, to) in [(&a, &b), (&b, &a)] {
            scope.spawn(move || from.send(&[&pattern(BYTES)]).expect("an open link"));
            scope.spawn(move || assert_eq!(receive_exactly(&**to, BYTES), pattern(BYTES)));
        }
    });
}

fn readable_says_whether_bytes_wait(a: Arc<dyn Link>, b: Arc<dyn Link>) {
    assert!(!b.wait_readable(Duration::ZERO).expect("an open link"));
    a.send(&[b"x"]).expect("an open link");
    assert!(b.wait_readable(TIMEOUT).expect("an open link"));
    assert_eq!(receive_exactly(&*b, 1), b"x");
    assert!(!b.wait_readable(Duration::ZERO).expect("an open link"));
}

fn a_shutdown_ends_a_receive_that_waits(a: Arc<dyn Link>, b: Arc<dyn Link>) {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| b.receive(&mut [0; 8]));
        a.shutdown();
        let ended = waiting.join().expect("no panic");
        assert!(matches!(ended, Err(LinkError::Closed { .. })), "{ended:?}");
    });
    assert!(a.send(&[b"x"]).is_err());
}

fn what_was_sent_before_a_shutdown_arrives(a: Arc<dyn Link>, b: Arc<dyn Link>) {
    a.send(&[&pattern(100_000)]).expect("an open link");
    a.shutdown();
    assert_eq!(receive_exactly(&*b, 100_000), pattern(100_000));
    assert!(matches!(b.receive(&mut [0; 8]), Err(LinkError::Closed { .. })));
}

fn a_send_without_waiting_takes_what_there_is_room_for(a: Arc<dyn Link>, b: Arc<dyn Link>) {
    let bytes = pattern(64 * 1024 * 1024);
    let mut sent = 0;
    loop {
        let now = a.try_send(&[&bytes[sent..sent + 1], &bytes[sent + 1..]]).expect("an open link");
        if now == 0 {
            break;
        }
        sent += now;
    }
    assert!(sent > 0 && sent < bytes.len(), "{sent} of {} bytes", bytes.len());
    assert_eq!(receive_exactly(&*b, sent), bytes[..sent]);
    assert!(!b.wait_readable(Duration::ZERO).expect("an open link"), "no byte more");
}

fn the_descriptor_shows_what_comes_while_a_thread_sleeps(a: Arc<dyn Link>, b: Arc<dyn Link>) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    for round in 0..20_u8 {
        assert!(!b.prepare_sleep().expect("an open link"), "nothing was sent yet");
        a.send(&[&[round]]).expect("an open link");
        let mut descriptors = [PollFd::from_borrowed_fd(b.descriptor(), PollFlags::IN)];
        let ready = poll(&mut descriptors, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).expect("a descriptor");
        assert_eq!(ready, 1);
        assert_eq!(receive_exactly(&*b, 1), [round]);
        // What the descriptor shows once more was seen already, or nothing.
        b.wait_readable(Duration::ZERO).expect("an open link");
    }
}

macro_rules! on_every_link {
    ($($body:ident)*) => {
        mod on_memory { $(#[test] fn $body() { let (a, b) = super::memory_pair(); super::$body(a, b) })* }
        mod on_tcp { $(#[test] fn $body() { let (a, b) = super::tcp_pair(); super::$body(a, b) })* }
        mod on_unix { $(#[test] fn $body() { let (a, b) = super::unix_pair(); super::$body(a, b) })* }
        mod on_verbs {
            $(#[test] fn $body() {
                if let Some((a, b)) = super::verbs_pair() {
                    super::$body(a, b);
                }
            })*
        }
    };
}

on_every_link! {
    parts_arrive_in_order
    both_ways_at_once_without_waiting_for_each_other
    readable_says_whether_bytes_wait
    a_shutdown_ends_a_receive_that_waits
    what_was_sent_before_a_shutdown_arrives
    a_send_without_waiting_takes_what_there_is_room_for
    the_descriptor_shows_what_comes_while_a_thread_sleeps
}

#[test]
fn a_port_where_nobody_listens_is_refused_by_name() {
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let refused =
        SocketLink::connect(&Address::Tcp { host: "127.0.0.1".into(), port: free }, TIMEOUT, TIMEOUT);
    let Err(error @ LinkError::Refused { .. }) = refused else { panic!("connected to nobody") };
    assert!(error.to_string().contains(&format!("127.0.0.1:{free}")), "{error}");
}

#[test]
fn a_name_without_an_address_is_unresolved() {
    let unknown =
        SocketLink::connect(&Address::Tcp { host: "no-such-host.invalid".into(), port: 1 }, TIMEOUT, TIMEOUT);
    assert!(matches!(unknown, Err(LinkError::Unresolved { .. })));
}

#[test]
fn verbs_direct_transfers_carry_the_right_bytes_both_ways() {
    let Some((a, b)) = verbs_pair() else { return };
    let (near, far) = (a.direct().expect("verbs"), b.direct().expect("verbs"));
    let (ours, theirs) = (near.pinned(1 << 20).expect("memory"), far.pinned(1 << 20).expect("memory"));
    let registrations = near.statistics().registrations;
    ours.span().write().copy_from_slice(&pattern(1 << 20));
    let all = ours.local(0, 1 << 20).expect("inside");
    let ticket = near.write(all, theirs.remote(), None).expect("posted");
    // What is sent behind a write arrives behind it.
    a.send(&[b"!"]).expect("an open link");
    assert_eq!(receive_exactly(&*b, 1), b"!");
    assert_eq!(theirs.span().read(), pattern(1 << 20));
    near.wait_for(ticket).expect("complete");
    ours.span().write().fill(0);
    let (sender, done) = std::sync::mpsc::channel();
    let said = Box::new(move |succeeded| sender.send(succeeded).expect("the test listens"));
    let ticket = near.read(all, theirs.remote(), Some(said)).expect("posted");
    near.wait_for(ticket).expect("complete");
    assert_eq!(done.recv_timeout(TIMEOUT), Ok(true));
    assert_eq!(ours.span().read(), pattern(1 << 20));
    assert_eq!(near.statistics().registrations, registrations, "none for a transfer");
}

#[test]
fn verbs_a_write_with_a_wrong_key_ends_the_link_with_its_cause() {
    let Some((a, b)) = verbs_pair() else { return };
    let (near, far) = (a.direct().expect("verbs"), b.direct().expect("verbs"));
    let (ours, theirs) = (near.pinned(4096).expect("memory"), far.pinned(4096).expect("memory"));
    let wrong = transport::direct::RemoteAddress { key: theirs.remote().key ^ 0x5555, ..theirs.remote() };
    let ticket = near.write(ours.local(0, 4096).expect("inside"), wrong, None).expect("posted");
    let error = near.wait_for(ticket).expect_err("the peer's adapter refuses").to_string();
    assert!(error.contains("refuses access"), "{error}");
    assert!(a.send(&[b"x"]).is_err());
}

#[test]
fn verbs_a_stranger_without_the_token_is_refused() {
    if verbs_pair().is_none() {
        return;
    }
    let ip: IpAddr = std::env::var("VGPU_TEST_VERBS").expect("set").parse().expect("an address");
    let options = VerbsOptions { device: None, spin: None, connect_timeout: TIMEOUT, link_timeout: TIMEOUT };
    let mut host = Host::open(options.clone()).expect("a listener");
    let offer = Offer { token: [7; 16], ..host.offer() };
    std::thread::scope(|scope| {
        let dialing = scope.spawn(|| dial((ip, 0).into(), &offer, &options).map(|_| ()));
        let end = std::time::Instant::now() + TIMEOUT;
        while !dialing.is_finished() && std::time::Instant::now() < end {
            assert!(host.next_client().expect("no failure of ours").is_none());
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = dialing.join().expect("no panic").expect_err("refused");
        assert!(matches!(error, VerbsError::Failed { .. }), "{error}");
        assert!(error.to_string().contains("token"), "{error}");
    });
}

#[test]
fn verbs_a_thousand_connections_leave_nothing_behind() {
    let Some(pair) = verbs_pair() else { return };
    drop(pair);
    let before = transport::verbs::resources().expect("the plug-in is open");
    for _ in 0..1000 {
        let (a, b) = verbs_pair().expect("as before");
        a.send(&[b"hello"]).expect("an open link");
        assert_eq!(receive_exactly(&*b, 5), b"hello");
    }
    assert_eq!(transport::verbs::resources().expect("still open"), before);
}
