//! Both sides of a connection, driven through the exported table as `transport::verbs` drives it.

use std::ffi::{CStr, CString};
use std::mem::zeroed;
use std::net::Ipv4Addr;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use verbs_abi::{
    Address, Completion, Counts, Endpoint, Info, Listener, Problem, QueueSizes, Receive, Region, Send, Table,
    access,
};
use vgpu_verbs::vgpu_verbs_v1;

/// Where the tests listen: the second of two Soft-RoCE devices.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(crate) static SIZES: QueueSizes =
    QueueSizes { sends: 64, receives: 64, inline_bytes: 220, timeout_ms: 4000 };
pub(crate) const TIMEOUT_MS: u32 = 5000;
pub(crate) const ALL: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ;

/// One test at a time: the counts are the process's.
static TURN: Mutex<()> = Mutex::new(());

/// One side of a connection.
pub(crate) struct Side(pub(crate) *mut Endpoint);

/// A listener and its port.
pub(crate) struct Listening(pub(crate) *mut Listener, pub(crate) u16);

/// Registered bytes.
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    pub(crate) region: Region,
}

// SAFETY: the table's functions may be called by any thread.
unsafe impl std::marker::Send for Side {}
// SAFETY: as above.
unsafe impl Sync for Listening {}

/// A turn, or `None` with a printed reason where there is no RDMA device.
pub(crate) fn turn() -> Option<MutexGuard<'static, ()>> {
    let mut problem = Problem::NONE;
    // SAFETY: no names are written with capacity 0.
    let count = unsafe { (table().devices)(null_mut(), 0, &raw mut problem) };
    assert!(count >= 0, "{}", problem.message());
    if count == 0 {
        println!("skipped: no RDMA device here");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn table() -> &'static Table {
    &vgpu_verbs_v1
}

pub(crate) fn address(ip: Ipv4Addr, port: u16) -> Address {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&ip.octets());
    Address { family: 4, port, scope: 0, bytes }
}

pub(crate) fn counts() -> Counts {
    let mut counts = Counts::default();
    // SAFETY: `counts` is writable.
    unsafe { (table().counts)(&raw mut counts) };
    counts
}

pub(crate) fn status_text(status: u32) -> String {
    // SAFETY: any number has a text.
    let text = unsafe { (table().status_text)(status) };
    // SAFETY: zero-terminated and never freed.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

impl Listening {
    pub(crate) fn new() -> Listening {
        let (mut raw, mut port, mut problem) = (null_mut(), 0, Problem::NONE);
        let at = address(SERVER, 0);
        // SAFETY: all pointers are valid for the call.
        let status =
            unsafe { (table().listen)(&raw const at, &raw mut raw, &raw mut port, &raw mut problem) };
        assert_eq!(status, 0, "{}", problem.message());
        Listening(raw, port)
    }

    /// Waits for a request; answers it with what the peer sent.
    pub(crate) fn request(&self) -> (Side, [u8; 64]) {
        let (mut raw, mut data, mut bytes, mut problem) = (null_mut(), [0; 64], 0, Problem::NONE);
        let deadline = Instant::now() + Duration::from_millis(TIMEOUT_MS.into());
        loop {
            // SAFETY: all pointers are valid for the call.
            let status = unsafe {
                (table().next_request)(
                    self.0,
                    &raw const SIZES,
                    &raw mut raw,
                    &raw mut data,
                    &raw mut bytes,
                    &raw mut problem,
                )
            };
            assert!(status >= 0, "{}", problem.message());
            if status == 1 {
                return (Side(raw), data);
            }
            assert!(Instant::now() < deadline, "no request came");
            // SAFETY: the listener lives.
            readable(unsafe { (table().listener_descriptor)(self.0) }, 100);
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // SAFETY: made by `listen`.
        unsafe { (table().listener_destroy)(self.0) };
    }
}

impl Side {
    pub(crate) fn resolve(port: u16, device: Option<&str>) -> Result<Side, Problem> {
        let device = device.map(|name| CString::new(name).unwrap());
        let device = device.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        let (mut raw, mut problem) = (null_mut(), Problem::NONE);
        let peer = address(SERVER, port);
        // SAFETY: all pointers are valid for the call.
        let status = unsafe {
            (table().resolve)(
                &raw const peer,
                device,
                &raw const SIZES,
                TIMEOUT_MS,
                &raw mut raw,
                &raw mut problem,
            )
        };
        if status < 0 { Err(problem) } else { Ok(Side(raw)) }
    }

    pub(crate) fn connect(&self, data: &[u8]) -> Result<Vec<u8>, Problem> {
        let (mut answer, mut problem) = ([0; 196], Problem::NONE);
        let bytes = u32::try_from(data.len()).unwrap();
        // SAFETY: all pointers are valid for the call.
        let status = unsafe {
            (table().connect)(self.0, data.as_ptr(), bytes, TIMEOUT_MS, &raw mut answer, &raw mut problem)
        };
        usize::try_from(status).map(|used| answer[..used].to_vec()).map_err(|_| problem)
    }

    pub(crate) fn accept(&self, data: &[u8]) {
        let mut problem = Problem::NONE;
        let bytes = u32::try_from(data.len()).unwrap();
        // SAFETY: all pointers are valid for the call.
        let status = unsafe { (table().accept)(self.0, data.as_ptr(), bytes, TIMEOUT_MS, &raw mut problem) };
        assert_eq!(status, 0, "{}", problem.message());
    }

    pub(crate) fn reject(self, reason: &str) {
        let bytes = u32::try_from(reason.len()).unwrap();
        // SAFETY: made by `next_request`, and forgotten below.
        unsafe { (table().reject)(self.0, reason.as_ptr(), bytes) };
        std::mem::forget(self);
    }

    pub(crate) fn info(&self) -> Info {
        // SAFETY: all zeros is a valid structure of numbers.
        let mut info: Info = unsafe { zeroed() };
        // SAFETY: `info` is writable.
        unsafe { (table().info)(self.0, &raw mut info) };
        info
    }

    pub(crate) fn register(&self, bytes: Vec<u8>, rights: u32) -> Memory {
        let mut region = Region { handle: null_mut(), lkey: 0, rkey: 0 };
        let mut problem = Problem::NONE;
        let start = u64::try_from(bytes.as_ptr().expose_provenance()).unwrap();
        let length = u64::try_from(bytes.len()).unwrap();
        // SAFETY: the bytes stay where they are as long as `Memory` lives.
        let status =
            unsafe { (table().register)(self.0, start, length, rights, &raw mut region, &raw mut problem) };
        assert_eq!(status, 0, "{}", problem.message());
        Memory { bytes, region }
    }

    pub(crate) fn send(&self, sends: &[Send]) {
        let mut problem = Problem::NONE;
        let count = u32::try_from(sends.len()).unwrap();
        // SAFETY: all pointers are valid for the call.
        let posted = unsafe { (table().post_sends)(self.0, sends.as_ptr(), count, &raw mut problem) };
        assert_eq!(posted, count.cast_signed(), "{}", problem.message());
    }

    pub(crate) fn receive(&self, receives: &[Receive]) {
        let mut problem = Problem::NONE;
        let count = u32::try_from(receives.len()).unwrap();
        // SAFETY: all pointers are valid for the call.
        let posted = unsafe { (table().post_receives)(self.0, receives.as_ptr(), count, &raw mut problem) };
        assert_eq!(posted, count.cast_signed(), "{}", problem.message());
    }

    pub(crate) fn poll(&self, queue: u32) -> Option<Completion> {
        let (mut completion, mut problem) = (Completion::default(), Problem::NONE);
        // SAFETY: room for one completion.
        let taken = unsafe { (table().poll)(self.0, queue, &raw mut completion, 1, &raw mut problem) };
        assert!(taken >= 0, "{}", problem.message());
        (taken == 1).then_some(completion)
    }

    /// Waits for a completion.
    pub(crate) fn completion(&self, queue: u32) -> Completion {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(completion) = self.poll(queue) {
                return completion;
            }
            assert!(Instant::now() < deadline, "queue {queue} has no completion");
            sleep(Duration::from_micros(50));
        }
    }

    pub(crate) fn arm(&self, queue: u32) {
        let mut problem = Problem::NONE;
        // SAFETY: the endpoint lives.
        let status = unsafe { (table().arm)(self.0, queue, &raw mut problem) };
        assert_eq!(status, 0, "{}", problem.message());
    }

    /// Whether a queue's descriptor becomes readable in time.
    pub(crate) fn wakes(&self, queue: u32, millis: i32) -> bool {
        // SAFETY: the endpoint lives.
        readable(unsafe { (table().descriptor)(self.0, queue) }, millis)
    }

    pub(crate) fn take_events(&self, queue: u32) {
        // SAFETY: the endpoint lives.
        unsafe { (table().take_events)(self.0, queue) };
    }

    pub(crate) fn is_connected(&self) -> bool {
        // SAFETY: the endpoint lives.
        unsafe { (table().is_connected)(self.0) == 1 }
    }

    /// Whether rdma_cm's descriptor becomes readable in time.
    pub(crate) fn connection_wakes(&self, millis: i32) -> bool {
        // SAFETY: the endpoint lives.
        readable(unsafe { (table().connection_descriptor)(self.0) }, millis)
    }

    pub(crate) fn disconnect(&self) {
        // SAFETY: the endpoint lives.
        unsafe { (table().disconnect)(self.0) };
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // SAFETY: made by `resolve` or `next_request`; its memory is deregistered, since the tests make it later.
        unsafe { (table().destroy)(self.0) };
    }
}

impl Memory {
    pub(crate) fn address(&self) -> u64 {
        u64::try_from(self.bytes.as_ptr().expose_provenance()).unwrap()
    }

    /// What the device has written.
    pub(crate) fn read(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        // SAFETY: within the bytes; volatile, because the device writes them unseen by the compiler.
        range.map(|index| unsafe { self.bytes.as_ptr().add(index).read_volatile() }).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: registered once, ended once.
        unsafe { (table().deregister)(&raw const self.region) };
    }
}

/// A connected pair, client first.
pub(crate) fn pair() -> (Side, Side) {
    let listening = Listening::new();
    pair_at(&listening)
}

pub(crate) fn pair_at(listening: &Listening) -> (Side, Side) {
    scope(|threads| {
        let server = threads.spawn(|| {
            let (side, data) = listening.request();
            assert_eq!(&data[..5], b"hello");
            side.accept(b"welcome");
            side
        });
        let client =
            Side::resolve(listening.1, None).unwrap_or_else(|problem| panic!("{}", problem.message()));
        let answer = client.connect(b"hello").unwrap_or_else(|problem| panic!("{}", problem.message()));
        assert_eq!(&answer[..7], b"welcome");
        (client, server.join().unwrap())
    })
}

fn readable(descriptor: i32, millis: i32) -> bool {
    let mut entry = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    unsafe { libc::poll(&raw mut entry, 1, millis) == 1 }
}
