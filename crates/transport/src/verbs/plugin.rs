//! Opens `libvgpu_verbs.so` and calls its table.
//!
//! The plug-in is looked for beside the library or program that this code is part of, then in the system's folder.
//! Opened once, on first use, and never closed: rdma_cm keeps threads of control in it.
//!
//! Everything here may assume that the plug-in keeps the contract of [`verbs_abi`]; its version and size are checked.

#![allow(unsafe_code, reason = "calls through the plug-in's C table (docs/adr/0008)")]

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use cuda_types::HostSpan;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use verbs_abi::{Address, Completion, Counts, Info, Problem, QueueSizes, Receive, Send, Table};

use super::error::VerbsError;

/// The open plug-in.
#[derive(Clone, Copy)]
pub(crate) struct Plugin {
    table: &'static Table,
}

/// Where a site may install plug-ins.
const SYSTEM_FOLDER: &str = "/usr/lib/vgpu";
const FILE: &str = "libvgpu_verbs.so";

impl Plugin {
    /// The plug-in of this process, opened now if it is not yet.
    pub(crate) fn open() -> Result<Plugin, VerbsError> {
        static OPENED: OnceLock<Result<Plugin, String>> = OnceLock::new();
        OPENED.get_or_init(Plugin::load).clone().map_err(VerbsError::NoPlugin)
    }

    fn load() -> Result<Plugin, String> {
        let mut folders = own_folder().into_iter().collect::<Vec<_>>();
        folders.push(PathBuf::from(SYSTEM_FOLDER));
        let Some(path) = folders.iter().map(|folder| folder.join(FILE)).find(|path| path.is_file()) else {
            let places: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            return Err(format!("{FILE} lies neither in {}", places.join(" nor in ")));
        };
        Plugin::from_file(&path)
    }

    fn from_file(path: &Path) -> Result<Plugin, String> {
        // SAFETY: the file is our own plug-in by name and place; its initializers are those of libibverbs and librdmacm.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| format!("{} cannot be opened: {}", path.display(), reason(&error)))?;
        // SAFETY: the symbol, if it is there, is a `Table` that begins with version and size, which are checked below.
        let symbol = unsafe { library.get::<*const Table>(verbs_abi::SYMBOL.to_bytes_with_nul()) }
            .map_err(|error| format!("{}: {}", path.display(), reason(&error)))?;
        let address: *const Table = *symbol;
        // The library is never closed, so the table lives as long as the process.
        std::mem::forget(library);
        // SAFETY: every version of the table begins with these two words.
        let (abi, bytes) = unsafe { ((*address).abi, (*address).bytes) };
        if abi != verbs_abi::ABI || bytes as usize != size_of::<Table>() {
            return Err(format!(
                "{} is of another release (version {abi}, {bytes} bytes; wanted {}, {}): install the same release of both",
                path.display(),
                verbs_abi::ABI,
                size_of::<Table>()
            ));
        }
        // SAFETY: version and size are ours, and the library stays.
        Ok(Plugin { table: unsafe { &*address } })
    }

    /// The names of this machine's RDMA devices.
    pub(crate) fn devices(self) -> Result<Vec<String>, VerbsError> {
        let mut names = [[0_u8; 64]; 16];
        // SAFETY: the array has as many entries as is said.
        let found = self.call(|problem| unsafe { (self.table.devices)(names.as_mut_ptr(), 16, problem) })?;
        Ok(names.iter().take(found).map(|name| text(name)).collect())
    }

    pub(crate) fn counts(self) -> Counts {
        let mut counts = Counts::default();
        // SAFETY: writes the value that is lent.
        unsafe { (self.table.counts)(&raw mut counts) };
        counts
    }

    pub(crate) fn status_text(self, status: u32) -> String {
        // SAFETY: takes any number; answers a text that is never freed, or null.
        let found = unsafe { (self.table.status_text)(status) };
        if found.is_null() {
            return format!("status {status}");
        }
        // SAFETY: not null, and zero-terminated by the contract.
        unsafe { CStr::from_ptr(found) }.to_string_lossy().into_owned()
    }

    /// Resolves the way to `peer` and makes the queues.
    pub(crate) fn resolve(
        self,
        peer: &Address,
        device: Option<&str>,
        sizes: &QueueSizes,
        timeout_ms: u32,
    ) -> Result<Endpoint, VerbsError> {
        let device = device.map(CString::new).transpose().map_err(|_| VerbsError::Failed {
            step: verbs_abi::step::DEVICE,
            text: "a device name has no zero byte".into(),
        })?;
        let name = device.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        let mut endpoint = std::ptr::null_mut();
        // SAFETY: all pointers are to values that live through the call; `name` is null or zero-terminated.
        self.call(|problem| unsafe {
            (self.table.resolve)(peer, name, sizes, timeout_ms, &raw mut endpoint, problem)
        })?;
        self.endpoint(endpoint)
    }

    fn endpoint(self, raw: *mut verbs_abi::Endpoint) -> Result<Endpoint, VerbsError> {
        let raw = NonNull::new(raw)
            .ok_or_else(|| VerbsError::Failed { step: 0, text: "the plug-in made no endpoint".into() })?;
        Ok(Endpoint { raw, plugin: self })
    }

    /// Runs a call of the table; a negative answer is the problem that it describes.
    fn call(self, call: impl FnOnce(*mut Problem) -> i32) -> Result<usize, VerbsError> {
        let mut problem = Problem::NONE;
        let answer = call(&raw mut problem);
        usize::try_from(answer)
            .map_err(|_| VerbsError::Failed { step: problem.step, text: problem.message() })
    }
}

/// libloading's own text is only "dlopen failed"; the loader's is behind it.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The folder of the library or program that this code was linked into.
fn own_folder() -> Option<PathBuf> {
    let own = (own_folder as fn() -> Option<PathBuf>) as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        (start <= own && own < end).then(|| rest.find('/').map(|at| rest[at..].to_owned()))?
    })?;
    Path::new(&path).parent().map(Path::to_path_buf)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A listener; requests come one by one.
pub(crate) struct Listener {
    raw: NonNull<verbs_abi::Listener>,
    plugin: Plugin,
    pub(crate) port: u16,
}

// SAFETY: the table's functions on a listener may be called from any thread, one at a time, as `&mut` and ownership ensure.
unsafe impl std::marker::Send for Listener {}

impl Listener {
    pub(crate) fn new(plugin: Plugin, address: &Address) -> Result<Listener, VerbsError> {
        let (mut raw, mut port) = (std::ptr::null_mut(), 0);
        // SAFETY: all pointers are to values that live through the call.
        plugin.call(|problem| unsafe {
            (plugin.table.listen)(address, &raw mut raw, &raw mut port, problem)
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::Failed {
            step: verbs_abi::step::LISTEN,
            text: "the plug-in made no listener".into(),
        })?;
        Ok(Listener { raw, plugin, port })
    }

    /// Readable when a request may have come.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the listener lives; its descriptor lives as long.
        let raw = unsafe { (self.plugin.table.listener_descriptor)(self.raw.as_ptr()) };
        borrow(raw)
    }

    /// The next request, if one is there, and what its maker sent with it.
    pub(crate) fn next_request(
        &mut self,
        sizes: &QueueSizes,
    ) -> Result<Option<(Endpoint, Vec<u8>)>, VerbsError> {
        let (mut endpoint, mut data, mut bytes) = (std::ptr::null_mut(), [0; 64], 0);
        let plugin = self.plugin;
        // SAFETY: all pointers are to values that live through the call, and nobody else uses the listener.
        let found = plugin.call(|problem| unsafe {
            (plugin.table.next_request)(
                self.raw.as_ptr(),
                sizes,
                &raw mut endpoint,
                &raw mut data,
                &raw mut bytes,
                problem,
            )
        })?;
        if found == 0 {
            return Ok(None);
        }
        let used = usize::try_from(bytes).map_or(data.len(), |bytes| bytes.min(data.len()));
        Ok(Some((plugin.endpoint(endpoint)?, data[..used].to_vec())))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // SAFETY: made by `listen`, destroyed once.
        unsafe { (self.plugin.table.listener_destroy)(self.raw.as_ptr()) };
    }
}

/// A connection: queue pair, completion queues and what belongs to them.
pub(crate) struct Endpoint {
    raw: NonNull<verbs_abi::Endpoint>,
    pub(crate) plugin: Plugin,
}

// SAFETY: the table's functions may be called from any thread; which of them not at once, `post_sends` and the others say.
unsafe impl std::marker::Send for Endpoint {}
// SAFETY: as above; callers hold the lock of the side that they post to or poll.
unsafe impl Sync for Endpoint {}

impl Endpoint {
    pub(crate) fn info(&self) -> Info {
        let mut info = Info {
            device: [0; 64],
            port: 0,
            mtu_bytes: 0,
            inline_bytes: 0,
            reads: 0,
            local: Address::default(),
            peer: Address::default(),
        };
        // SAFETY: writes the value that is lent.
        unsafe { (self.plugin.table.info)(self.raw.as_ptr(), &raw mut info) };
        info
    }

    /// Connects a resolved endpoint; answers what the peer sent back.
    pub(crate) fn connect(&self, private_data: &[u8], timeout_ms: u32) -> Result<Vec<u8>, VerbsError> {
        let mut answer = [0; 196];
        let length = u32::try_from(private_data.len()).unwrap_or(u32::MAX);
        let data = private_data.as_ptr();
        // SAFETY: `data` has `length` bytes, and the answer's capacity is the contract's.
        let bytes = self.plugin.call(|problem| unsafe {
            let connect = self.plugin.table.connect;
            connect(self.raw.as_ptr(), data, length, timeout_ms, &raw mut answer, problem)
        })?;
        Ok(answer[..bytes.min(answer.len())].to_vec())
    }

    /// Accepts an endpoint that a listener gave.
    pub(crate) fn accept(&self, private_data: &[u8], timeout_ms: u32) -> Result<(), VerbsError> {
        let length = u32::try_from(private_data.len()).unwrap_or(u32::MAX);
        // SAFETY: the data has `length` bytes.
        let accepted = self.plugin.call(|problem| unsafe {
            let accept = self.plugin.table.accept;
            accept(self.raw.as_ptr(), private_data.as_ptr(), length, timeout_ms, problem)
        });
        accepted.map(drop)
    }

    /// Refuses an endpoint that a listener gave.
    pub(crate) fn reject(self, reason: &str) {
        let bytes = u32::try_from(reason.len()).unwrap_or(0);
        // SAFETY: the reason has `bytes` bytes; the endpoint is destroyed by this call, and not again.
        unsafe { (self.plugin.table.reject)(self.raw.as_ptr(), reason.as_ptr(), bytes) };
        std::mem::forget(self);
    }

    /// Posts a chain of sends. Only one thread at a time.
    ///
    /// Keys guard what is not inline: a range that no region covers completes with an error.
    ///
    /// # Safety
    /// The local memory of inline sends is readable; that of others stays mapped until their completion.
    pub(crate) unsafe fn post_sends(&self, sends: &[Send]) -> Result<(), VerbsError> {
        let count = u32::try_from(sends.len()).unwrap_or(u32::MAX);
        // SAFETY: the slice has `count` entries; the memory is the caller's promise.
        let posted = self.plugin.call(|problem| unsafe {
            (self.plugin.table.post_sends)(self.raw.as_ptr(), sends.as_ptr(), count, problem)
        })?;
        if posted == sends.len() { Ok(()) } else { Err(VerbsError::post("fewer sends than wanted")) }
    }

    /// Posts receives. Only one thread at a time.
    ///
    /// # Safety
    /// Their memory stays mapped until their completion.
    pub(crate) unsafe fn post_receives(&self, receives: &[Receive]) -> Result<(), VerbsError> {
        let count = u32::try_from(receives.len()).unwrap_or(u32::MAX);
        // SAFETY: the slice has `count` entries; the memory is the caller's promise.
        let posted = self.plugin.call(|problem| unsafe {
            (self.plugin.table.post_receives)(self.raw.as_ptr(), receives.as_ptr(), count, problem)
        })?;
        if posted == receives.len() { Ok(()) } else { Err(VerbsError::post("fewer receives than wanted")) }
    }

    /// Takes completions of a queue. Only one thread at a time for each queue.
    pub(crate) fn poll(&self, queue: u32, completions: &mut [Completion]) -> Result<usize, VerbsError> {
        let capacity = u32::try_from(completions.len()).unwrap_or(u32::MAX);
        // SAFETY: the slice has `capacity` entries.
        self.plugin.call(|problem| unsafe {
            (self.plugin.table.poll)(self.raw.as_ptr(), queue, completions.as_mut_ptr(), capacity, problem)
        })
    }

    /// Asks for one event with the next completion of a queue.
    pub(crate) fn arm(&self, queue: u32) -> Result<(), VerbsError> {
        // SAFETY: the endpoint lives.
        let armed =
            self.plugin.call(|problem| unsafe { (self.plugin.table.arm)(self.raw.as_ptr(), queue, problem) });
        armed.map(drop)
    }

    /// Readable when an armed queue has had a completion.
    pub(crate) fn descriptor(&self, queue: u32) -> BorrowedFd<'_> {
        // SAFETY: the endpoint lives; its descriptors live as long.
        borrow(unsafe { (self.plugin.table.descriptor)(self.raw.as_ptr(), queue) })
    }

    /// Takes the events of a queue.
    pub(crate) fn take_events(&self, queue: u32) {
        // SAFETY: the endpoint lives.
        unsafe { (self.plugin.table.take_events)(self.raw.as_ptr(), queue) };
    }

    /// Ends the connection; outstanding work completes with an error.
    pub(crate) fn disconnect(&self) {
        // SAFETY: the endpoint lives; any thread may call this.
        unsafe { (self.plugin.table.disconnect)(self.raw.as_ptr()) };
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // SAFETY: made by the plug-in, destroyed once; regions hold the endpoint, so none is left.
        unsafe { (self.plugin.table.destroy)(self.raw.as_ptr()) };
    }
}

/// Registered memory; ends with the last one that holds it.
pub(crate) struct Region {
    raw: verbs_abi::Region,
    // Dropped after `drop` below: the endpoint outlives its regions.
    endpoint: Arc<Endpoint>,
}

// SAFETY: a handle that is only given back, once.
unsafe impl std::marker::Send for Region {}
// SAFETY: nothing is changed through it.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn new(endpoint: &Arc<Endpoint>, span: HostSpan, access: u32) -> Result<Region, VerbsError> {
        Region::make(endpoint, |table, raw, problem| {
            let (address, bytes) = (span.address() as u64, span.len() as u64);
            // SAFETY: the kernel checks the range; that it stays mapped is what the span's maker promised.
            unsafe { (table.register)(endpoint.raw.as_ptr(), address, bytes, access, raw, problem) }
        })
    }

    /// Registers `bytes` of the device memory behind a dma-buf, from `offset`, as if they lay at `address`.
    pub(crate) fn of_dmabuf(
        endpoint: &Arc<Endpoint>,
        descriptor: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
        address: u64,
        access: u32,
    ) -> Result<Region, VerbsError> {
        use std::os::fd::AsRawFd;
        let descriptor = descriptor.as_raw_fd();
        Region::make(endpoint, |table, raw, problem| {
            let endpoint = endpoint.raw.as_ptr();
            // SAFETY: the descriptor is open; the kernel checks the rest.
            unsafe {
                (table.register_dmabuf)(endpoint, descriptor, offset, bytes, address, access, raw, problem)
            }
        })
    }

    fn make(
        endpoint: &Arc<Endpoint>,
        register: impl FnOnce(&Table, *mut verbs_abi::Region, *mut Problem) -> i32,
    ) -> Result<Region, VerbsError> {
        let mut raw = verbs_abi::Region { handle: std::ptr::null_mut(), lkey: 0, rkey: 0 };
        endpoint.plugin.call(|problem| register(endpoint.plugin.table, &raw mut raw, problem))?;
        Ok(Region { raw, endpoint: Arc::clone(endpoint) })
    }

    pub(crate) fn local_key(&self) -> u32 {
        self.raw.lkey
    }

    pub(crate) fn remote_key(&self) -> u32 {
        self.raw.rkey
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: made by `register`, ended once, before the endpoint that it holds.
        unsafe { (self.endpoint.plugin.table.deregister)(&raw const self.raw) };
    }
}

fn borrow<'a>(raw: RawFd) -> BorrowedFd<'a> {
    assert!(raw >= 0, "the plug-in's descriptors live as long as their owner");
    // SAFETY: open as long as its owner, whose borrow the callers' signatures tie the result to.
    unsafe { BorrowedFd::borrow_raw(raw) }
}
