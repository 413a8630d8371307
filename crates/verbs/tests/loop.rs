//! Two endpoints in one process, through the exported table, over whatever RDMA device has the address 10.9.0.2.
//!
//! Without a device every test says so and passes.

mod side;

use std::ptr::{null, null_mut};
use std::thread::scope;

use side::{ALL, Listening, SERVER, Side, address, counts, pair, pair_at, status_text, table, turn};
use verbs_abi::{ABI, Counts, Problem, Receive, Send, Table, access, flag, opcode, queue, step};

/// A send request of which nothing is set.
const NOTHING: Send = Send {
    id: 0,
    opcode: opcode::SEND,
    flags: flag::SIGNALED,
    local_address: 0,
    local_key: 0,
    bytes: 0,
    remote_address: 0,
    remote_key: 0,
    immediate: 0,
};

#[test]
fn table_says_its_version_and_size() {
    assert_eq!(table().abi, ABI);
    assert_eq!(usize::try_from(table().bytes).unwrap(), size_of::<Table>());
}

#[test]
fn null_pointers_are_failures() {
    let mut problem = Problem::NONE;
    // SAFETY: null pointers are what this is about.
    let status = unsafe { (table().listen)(null(), null_mut(), null_mut(), &raw mut problem) };
    assert_eq!((status, problem.step), (-1, step::LISTEN), "{}", problem.message());
    // SAFETY: as above.
    let status = unsafe { (table().resolve)(null(), null(), null(), 1, null_mut(), null_mut()) };
    assert_eq!(status, -1);
    // SAFETY: as above.
    let status = unsafe { (table().post_sends)(null_mut(), null(), 1, &raw mut problem) };
    assert_eq!((status, problem.step), (-1, step::POST));
    // SAFETY: as above.
    unsafe { (table().destroy)(null_mut()) };
    // SAFETY: as above.
    unsafe { (table().deregister)(null()) };
    // SAFETY: as above.
    unsafe { (table().counts)(null_mut()) };
}

#[test]
fn missing_device_is_named() {
    let problem = Side::resolve(1, Some("no_such_device")).err().unwrap();
    assert_eq!(problem.step, step::DEVICE);
    assert!(problem.message().contains("RDMA device"), "{}", problem.message());
}

#[test]
fn sends_arrive() {
    let Some(_turn) = turn() else { return };
    let (client, server) = pair();
    let info = client.info();
    let device = String::from_utf8_lossy(&info.device);
    println!("{} from {:?}", device.trim_end_matches('\0'), &info.local.bytes[..4]);
    println!("mtu {} inline {} reads {}", info.mtu_bytes, info.inline_bytes, info.reads);
    assert!(info.inline_bytes >= 64 && info.mtu_bytes >= 256 && info.reads >= 1);
    assert_eq!(info.peer.bytes[..4], SERVER.octets());
    let taken = server.register(vec![0; 4096], access::LOCAL_WRITE);
    server.receive(&[Receive {
        id: 7,
        local_address: taken.address(),
        local_key: taken.region.lkey,
        bytes: 4096,
    }]);
    let words = [0x5a; 64];
    let at = u64::try_from(words.as_ptr().expose_provenance()).unwrap();
    client.send(&[Send {
        id: 9,
        flags: flag::SIGNALED | flag::INLINE,
        local_address: at,
        bytes: 64,
        ..NOTHING
    }]);
    let sent = client.completion(queue::SENDS);
    assert_eq!((sent.id, sent.status), (9, 0), "{}", status_text(sent.status));
    let received = server.completion(queue::RECEIVES);
    assert_eq!((received.id, received.status, received.bytes, received.has_immediate), (7, 0, 64, 0));
    assert_eq!(taken.read(0..65)[..], [vec![0x5a; 64], vec![0]].concat()[..]);
}

#[test]
fn more_requests_than_one_chain_arrive_in_order() {
    let Some(_turn) = turn() else { return };
    let (client, server) = pair();
    let receives: Vec<Receive> =
        (0..40).map(|id| Receive { id, local_address: 0, local_key: 0, bytes: 0 }).collect();
    server.receive(&receives);
    let one = Send { opcode: opcode::WRITE_WITH_IMMEDIATE, flags: 0, ..NOTHING };
    let sends: Vec<Send> = (0..40).map(|number| Send { immediate: number, ..one }).collect();
    client.send(&sends);
    for number in 0..40 {
        let received = server.completion(queue::RECEIVES);
        assert_eq!((received.id, received.status, received.immediate), (number.into(), 0, number));
    }
    assert!(client.poll(queue::SENDS).is_none(), "unsignalled sends complete silently");
}

#[test]
fn write_with_immediate_and_read_move_bytes() {
    let Some(_turn) = turn() else { return };
    let (client, server) = pair();
    let pattern: Vec<u8> =
        (0..1 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mine = client.register(pattern.clone(), ALL);
    let theirs = server.register(vec![0; 1 << 20], ALL);
    server.receive(&[Receive { id: 1, local_address: 0, local_key: 0, bytes: 0 }]);
    let whole = Send {
        local_address: mine.address(),
        local_key: mine.region.lkey,
        bytes: 1 << 20,
        remote_address: theirs.address(),
        remote_key: theirs.region.rkey,
        ..NOTHING
    };
    client.send(&[Send { opcode: opcode::WRITE_WITH_IMMEDIATE, immediate: 0x1234_5678, ..whole }]);
    let received = server.completion(queue::RECEIVES);
    assert_eq!((received.status, received.has_immediate, received.immediate), (0, 1, 0x1234_5678));
    assert_eq!(client.completion(queue::SENDS).status, 0);
    assert!(theirs.read(0..1 << 20) == pattern, "the write arrived whole");

    let back = client.register(vec![0; 1 << 20], access::LOCAL_WRITE);
    let into = Send { local_address: back.address(), local_key: back.region.lkey, ..whole };
    client.send(&[Send { id: 3, opcode: opcode::READ, ..into }]);
    let read = client.completion(queue::SENDS);
    assert_eq!((read.id, read.status), (3, 0), "{}", status_text(read.status));
    assert!(back.read(0..1 << 20) == pattern, "the read brought the same back");
}

#[test]
fn armed_queue_wakes_once() {
    let Some(_turn) = turn() else { return };
    let (client, server) = pair();
    server.receive(&[Receive { id: 1, local_address: 0, local_key: 0, bytes: 0 }; 2]);
    let nudge = Send { opcode: opcode::WRITE_WITH_IMMEDIATE, ..NOTHING };
    server.arm(queue::RECEIVES);
    assert!(!server.wakes(queue::RECEIVES, 0));
    client.send(&[nudge]);
    assert!(server.wakes(queue::RECEIVES, 5000));
    server.take_events(queue::RECEIVES);
    assert!(!server.wakes(queue::RECEIVES, 0), "the event is taken");
    assert_eq!(server.completion(queue::RECEIVES).status, 0);
    client.send(&[nudge]);
    assert_eq!(server.completion(queue::RECEIVES).status, 0);
    assert!(!server.wakes(queue::RECEIVES, 0), "not armed again");
}

#[test]
fn wrong_key_completes_with_a_status_and_a_text() {
    let Some(_turn) = turn() else { return };
    let (client, server) = pair();
    let mine = client.register(vec![1; 64], ALL);
    let theirs = server.register(vec![0; 64], ALL);
    let wrong = Send {
        opcode: opcode::WRITE,
        local_address: mine.address(),
        local_key: mine.region.lkey,
        bytes: 64,
        remote_address: theirs.address(),
        remote_key: theirs.region.rkey ^ 0x00ff_0000,
        ..NOTHING
    };
    client.send(&[wrong]);
    let completion = client.completion(queue::SENDS);
    assert_ne!(completion.status, 0);
    println!("status {}: {}", completion.status, status_text(completion.status));
    assert!(status_text(completion.status).contains("access"), "{}", status_text(completion.status));
}

#[test]
fn reason_of_a_rejection_arrives() {
    let Some(_turn) = turn() else { return };
    let listening = Listening::new();
    scope(|threads| {
        threads.spawn(|| listening.request().0.reject("the token is not known here"));
        let client = Side::resolve(listening.1, None).ok().unwrap();
        let problem = client.connect(b"hello").unwrap_err();
        assert_eq!(problem.step, step::REJECTED, "{}", problem.message());
        assert_eq!(problem.message(), "the token is not known here");
    });
}

#[test]
fn port_without_listener_is_refused() {
    let Some(_turn) = turn() else { return };
    let client = Side::resolve(9, None).ok().unwrap();
    let problem = client.connect(b"hello").unwrap_err();
    println!("{}", problem.message());
    assert_eq!(problem.step, step::REFUSED, "{}", problem.message());
}

#[test]
fn wanted_device_is_used() {
    let Some(_turn) = turn() else { return };
    let listening = Listening::new();
    let first = Side::resolve(listening.1, None).ok().unwrap();
    let info = first.info();
    let name = String::from_utf8_lossy(&info.device).trim_end_matches('\0').to_owned();
    for wanted in [name.clone(), format!("{name}:{}", info.port)] {
        let side =
            Side::resolve(listening.1, Some(&wanted)).unwrap_or_else(|why| panic!("{}", why.message()));
        assert_eq!((side.info().device, side.info().port), (info.device, info.port));
    }
    let problem = Side::resolve(listening.1, Some(&format!("{name}:99"))).err().unwrap();
    assert_eq!(problem.step, step::DEVICE, "{}", problem.message());
}

#[test]
fn address_of_no_device_says_so() {
    let Some(_turn) = turn() else { return };
    let (mut raw, mut port, mut problem) = (null_mut(), 0, Problem::NONE);
    let nowhere = address([192, 0, 2, 1].into(), 0);
    // SAFETY: all pointers are valid for the call.
    let status =
        unsafe { (table().listen)(&raw const nowhere, &raw mut raw, &raw mut port, &raw mut problem) };
    println!("{}", problem.message());
    assert_eq!((status, problem.step), (-1, step::ADDRESS), "{}", problem.message());
}

#[test]
fn peer_sees_a_disconnect_and_work_is_flushed() {
    let Some(_turn) = turn() else { return };
    let (client, server) = pair();
    server.receive(&[Receive { id: 5, local_address: 0, local_key: 0, bytes: 0 }]);
    client.receive(&[Receive { id: 6, local_address: 0, local_key: 0, bytes: 0 }]);
    assert!(client.is_connected() && server.is_connected());
    client.disconnect();
    client.disconnect();
    assert!(!client.is_connected());
    let flushed = client.completion(queue::RECEIVES);
    assert_eq!(flushed.id, 6);
    assert_ne!(flushed.status, 0);
    assert!(server.connection_wakes(5000));
    assert!(!server.is_connected());
    let flushed = server.completion(queue::RECEIVES);
    assert_eq!(flushed.id, 5);
    println!("status {}: {}", flushed.status, status_text(flushed.status));
}

#[test]
fn two_hundred_connections_leave_nothing_behind() {
    let Some(_turn) = turn() else { return };
    let before = counts();
    assert_eq!(Counts { registrations: 0, ..before }, Counts::default());
    let listening = Listening::new();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    drop(pair_at(&listening));
    let open = descriptors();
    for _ in 0..200 {
        let (client, _server) = pair_at(&listening);
        let _memory = client.register(vec![0; 4096], ALL);
        let now = counts();
        assert_eq!((now.endpoints, now.listeners, now.regions), (2, 1, 1));
    }
    assert_eq!(descriptors(), open);
    drop(listening);
    let after = counts();
    assert_eq!(after.registrations, before.registrations + 200);
    assert_eq!(Counts { registrations: 0, ..after }, Counts::default());
}
