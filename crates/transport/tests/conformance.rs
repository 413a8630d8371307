//! What every link promises, run on each of them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

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

macro_rules! on_every_link {
    ($($body:ident)*) => {
        mod on_memory { $(#[test] fn $body() { let (a, b) = super::memory_pair(); super::$body(a, b) })* }
        mod on_tcp { $(#[test] fn $body() { let (a, b) = super::tcp_pair(); super::$body(a, b) })* }
        mod on_unix { $(#[test] fn $body() { let (a, b) = super::unix_pair(); super::$body(a, b) })* }
    };
}

on_every_link! {
    parts_arrive_in_order
    both_ways_at_once_without_waiting_for_each_other
    readable_says_whether_bytes_wait
    a_shutdown_ends_a_receive_that_waits
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
