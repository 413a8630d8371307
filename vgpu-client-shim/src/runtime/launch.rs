//! Launches: the configuration between `<<<` and the stub, and the values of the parameters.
//!
//! The program hands over `void** args`, one pointer per parameter, and no sizes. Those come from the facts of the
//! loaded module, by ordinal; a value travels as its bytes, the device lays them out as its own ABI wants.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use client::LaunchRefusal;
use cuda_types::attribute::DeviceAttribute;
use cuda_types::{CuError, CuResult, Dim3};
use smallvec::SmallVec;

use super::error::{self, INVALID_CONFIGURATION, MISSING_CONFIGURATION};
use crate::config::config;
use crate::edge::{DefaultStream, Out, Required, entries, twins};
use crate::graph::capture;
use crate::graph::work::{KernelNode, Work};
use crate::handles::{Resolved, resolve};
use crate::registry::{self, Function, Kernel};
use crate::shortcut::{self, Key, Place};
use crate::state::{self, Device, LaunchConfiguration};

entries! {
    /// Hands the configuration kept last to the kernel's stub.
    fn __cudaPopCallConfiguration(grid: Out<'_, Dim3>, block: Out<'_, Dim3>, shared: Out<'_, usize>, stream: Out<'_, u64>) {
        let (grid, block) = (grid.required()?, block.required()?);
        let (shared, stream) = (shared.required()?, stream.required()?);
        let configuration = state::pop_configuration().ok_or(MISSING_CONFIGURATION)?;
        grid.write(configuration.grid);
        block.write(configuration.block);
        shared.write(configuration.shared_bytes);
        stream.write(configuration.stream);
        Ok(())
    }

    /// Finds the kernel behind a host stub.
    fn __cudaGetKernel(kernel: Out<'_, u64>, stub: *const c_void) {
        kernel.required()?.write(registry::kernel(stub)?.handle());
        Ok(())
    }

    /// Finds the kernel behind a host stub.
    fn cudaGetKernel(kernel: Out<'_, u64>, stub: *const c_void) {
        kernel.required()?.write(registry::kernel(stub)?.handle());
        Ok(())
    }
}

twins! {
    /// Starts a kernel by its handle.
    fn __cudaLaunchKernel, __cudaLaunchKernel_ptsz(default; kernel: *const c_void, grid: Dim3, block: Dim3, args: *const *const c_void, shared: usize, stream: u64) {
        launch_stub(default, kernel, (grid, block), args, shared, stream, Kind::Plain)
    }

    /// Starts a kernel by its host stub.
    fn cudaLaunchKernel, cudaLaunchKernel_ptsz(default; stub: *const c_void, grid: Dim3, block: Dim3, args: *const *const c_void, shared: usize, stream: u64) {
        launch_stub(default, stub, (grid, block), args, shared, stream, Kind::Plain)
    }

    /// Starts a kernel whose blocks are all resident at once.
    fn cudaLaunchCooperativeKernel, cudaLaunchCooperativeKernel_ptsz(default; stub: *const c_void, grid: Dim3, block: Dim3, args: *const *const c_void, shared: usize, stream: u64) {
        launch_stub(default, stub, (grid, block), args, shared, stream, Kind::Cooperative)
    }

    /// Starts a kernel with attributes.
    fn cudaLaunchKernelExC, cudaLaunchKernelExC_ptsz(default; configuration: Option<&LaunchConfig>, stub: *const c_void, args: *const *const c_void) {
        let configuration = configuration.required()?;
        let kind = configuration.kind()?;
        let LaunchConfig { grid, block, shared_bytes, stream, .. } = *configuration;
        launch_stub(default, stub, (grid, block), args, shared_bytes, stream, kind)
    }
}

/// Keeps a configuration for the stub that is called next; 0 means that the stub is to be called.
pub(crate) extern "C" fn __cudaPushCallConfiguration(
    grid: Dim3,
    block: Dim3,
    shared_bytes: usize,
    stream: u64,
) -> u32 {
    error::answer("__cudaPushCallConfiguration", || {
        state::push_configuration(LaunchConfiguration { grid, block, shared_bytes, stream });
        Ok(())
    })
}

/// `cudaLaunchConfig_t`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: Dim3,
    pub(crate) block: Dim3,
    pub(crate) shared_bytes: usize,
    pub(crate) stream: u64,
    pub(crate) attributes: *const LaunchAttribute,
    pub(crate) attribute_count: u32,
}

/// `cudaLaunchAttribute`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchAttribute {
    id: u32,
    pad: u32,
    value: [u32; 16],
}

/// How the blocks of a grid are started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Plain,
    Cooperative,
}

impl LaunchConfig {
    /// What the attributes ask for; `NOT_SUPPORTED` for what would change the result.
    pub(super) fn kind(&self) -> CuResult<Kind> {
        // SAFETY: the caller's array of `attribute_count` attributes (module doc of `edge`).
        unsafe { Kind::of_attributes("cudaLaunchKernelExC", self.attributes, self.attribute_count) }
    }
}

impl Kind {
    /// What the attributes of a launch ask for; `NOT_SUPPORTED` for what would change the result.
    ///
    /// # Safety
    /// `attributes` has `count` elements.
    pub(crate) unsafe fn of_attributes(
        call: &str,
        attributes: *const LaunchAttribute,
        count: u32,
    ) -> CuResult<Kind> {
        if count == 0 {
            return Ok(Kind::Plain);
        }
        if attributes.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        let attributes = unsafe { std::slice::from_raw_parts(attributes, count as usize) };
        let mut kind = Kind::Plain;
        for attribute in attributes {
            match (attribute.id, attribute.value) {
                (ATTRIBUTE_COOPERATIVE, [on, ..]) if on != 0 => kind = Kind::Cooperative,
                (ATTRIBUTE_COOPERATIVE, _) => {}
                (ATTRIBUTE_CLUSTER_DIMENSION, [1, 1, 1, ..]) => {}
                (id, _) if HINTS.contains(&id) => {}
                (id, _) => {
                    crate::log::warn(format_args!("{call}: launch attribute {id} is not supported"));
                    return Err(CuError::NOT_SUPPORTED);
                }
            }
        }
        Ok(kind)
    }
}

const ATTRIBUTE_COOPERATIVE: u32 = 2;
const ATTRIBUTE_CLUSTER_DIMENSION: u32 = 4;

/// Attributes that may speed a launch up and never change what it does: ignore, access policy, synchronization
/// policy, programmatic serialization (it permits an overlap), priority, memory domains, carve-out.
const HINTS: [u32; 8] = [0, 1, 3, 6, 8, 9, 10, 14];

/// A launch with everything that it needs: run at once, or kept by a graph.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) kernel: &'static Kernel,
    pub(crate) grid: Dim3,
    pub(crate) block: Dim3,
    pub(crate) shared_bytes: u32,
    pub(crate) cooperative: bool,
    pub(crate) values: Values,
}

/// The parameter values by ordinal, one behind the other; those of most kernels fit where the launch itself is.
pub(crate) type Values = SmallVec<[u8; 64]>;

impl Launch {
    /// A launch to be kept, with the values of the parameters, as `function`'s module has them.
    ///
    /// # Safety
    /// `args` is NULL or has one pointer per parameter of the kernel, each to a value of its size.
    pub(crate) unsafe fn new(
        kernel: &'static Kernel,
        function: &Function,
        (grid, block): (Dim3, Dim3),
        shared: usize,
        args: *const *const c_void,
    ) -> CuResult<Launch> {
        let mut room = vec![MaybeUninit::uninit(); function.argument_bytes()];
        // SAFETY: the caller's promise.
        let values = unsafe { gather(&mut room, &function.facts.parameters, args) }?.into();
        let shared_bytes = u32::try_from(shared).map_err(|_| CuError::INVALID_VALUE)?;
        Ok(Launch { kernel, grid, block, shared_bytes, cooperative: false, values })
    }

    /// Refuses a grid or block that the device cannot have: for launches that are kept, whose other faults show when
    /// they are run.
    pub(crate) fn check(&self, device: &Device) -> CuResult<()> {
        let facts = device.facts()?;
        let within = |extent: u32, limit: DeviceAttribute| {
            extent > 0 && facts.attribute(limit.0).is_some_and(|limit| i64::from(extent) <= i64::from(limit))
        };
        let (grid, block) = (self.grid, self.block);
        let threads = u32::try_from(block.count()).unwrap_or(u32::MAX);
        let fits = within(grid.x, DeviceAttribute::MAX_GRID_DIM_X)
            && within(grid.y, DeviceAttribute::MAX_GRID_DIM_Y)
            && within(grid.z, DeviceAttribute::MAX_GRID_DIM_Z)
            && within(threads, DeviceAttribute::MAX_THREADS_PER_BLOCK);
        if fits { Ok(()) } else { Err(INVALID_CONFIGURATION) }
    }

    /// Starts it in `target`'s stream.
    pub(crate) fn run(&self, target: &Resolved) -> CuResult<()> {
        let function = self.kernel.on(target.device)?;
        let asked = self.asked(target);
        run(self.kernel, &function, target, &asked, &self.values)
    }

    fn asked(&self, target: &Resolved) -> client::launch::LaunchConfig {
        client::launch::LaunchConfig {
            grid: self.grid,
            block: self.block,
            shared_bytes: self.shared_bytes,
            stream: target.stream,
            cooperative: self.cooperative,
        }
    }
}

#[inline(always)]
fn run(
    kernel: &Kernel,
    function: &Function,
    target: &Resolved,
    asked: &client::launch::LaunchConfig,
    values: &[u8],
) -> CuResult<()> {
    super::host_memory::warn_of_plain(kernel, function, values);
    crate::managed::to_device(target)?;
    let session = &target.session;
    session.launch(function, asked, values).map_err(|refusal| match refusal {
        LaunchRefusal::Configuration => INVALID_CONFIGURATION,
        other => other.into(),
    })?;
    if config().launch_blocking { session.cuStreamSynchronize(target.stream) } else { Ok(()) }
}

#[inline(always)]
fn launch_stub(
    default: DefaultStream,
    stub: *const c_void,
    extents: (Dim3, Dim3),
    args: *const *const c_void,
    shared: usize,
    stream: u64,
    kind: Kind,
) -> CuResult<()> {
    let (place, target) = shortcut::place(Key::new(default, stub, stream, false), || {
        Ok((registry::kernel(stub)?, resolve(default, stream)?))
    })?;
    launch((&place, &target), stub, extents, args, shared, kind)
}

/// Starts a kernel that the program has named by `named`.
#[inline(always)]
pub(crate) fn launch(
    (place, target): (&Place, &Resolved),
    named: *const c_void,
    extents: (Dim3, Dim3),
    args: *const *const c_void,
    shared: usize,
    kind: Kind,
) -> CuResult<()> {
    let shared_bytes = u32::try_from(shared).map_err(|_| CuError::INVALID_VALUE)?;
    let sizes = &place.function.facts.parameters;
    let (mut here, mut elsewhere) = ([MaybeUninit::uninit(); VALUE_BYTES], Vec::new());
    let room = match place.function.argument_bytes() {
        ..=VALUE_BYTES => &mut here[..],
        bytes => {
            elsewhere.resize(bytes, MaybeUninit::uninit());
            &mut elsewhere[..]
        }
    };
    // SAFETY: the caller's array has one pointer per parameter of this kernel (CUDA Runtime API, cudaLaunchKernel).
    let values = unsafe { gather(room, sizes, args) }?;
    start((place, target), named, extents, shared_bytes, kind, values)
}

/// Starts a kernel whose parameters lie in a buffer as the kernel's own code sees them.
pub(crate) fn launch_packed(
    (place, target): (&Place, &Resolved),
    extents: (Dim3, Dim3),
    packed: &[u8],
    shared_bytes: u32,
    kind: Kind,
) -> CuResult<()> {
    let values = registry::unpack(&place.function, packed)?;
    start((place, target), std::ptr::from_ref(place.kernel).cast(), extents, shared_bytes, kind, &values)
}

#[inline(always)]
fn start(
    (place, target): (&Place, &Resolved),
    named: *const c_void,
    (grid, block): (Dim3, Dim3),
    shared_bytes: u32,
    kind: Kind,
    values: &[u8],
) -> CuResult<()> {
    let cooperative = kind == Kind::Cooperative;
    let asked =
        client::launch::LaunchConfig { grid, block, shared_bytes, stream: target.stream, cooperative };
    if capture::is_active() && record(place.kernel, target, named, &asked, values)? {
        return Ok(());
    }
    run(place.kernel, &place.function, target, &asked, values)
}

/// Makes a node of a launch, if its stream is captured.
#[cold]
fn record(
    kernel: &'static Kernel,
    target: &Resolved,
    named: *const c_void,
    asked: &client::launch::LaunchConfig,
    values: &[u8],
) -> CuResult<bool> {
    let client::launch::LaunchConfig { grid, block, shared_bytes, cooperative, .. } = *asked;
    capture::record(target, || {
        let launch = Launch { kernel, grid, block, shared_bytes, cooperative, values: values.into() };
        launch.check(target.device)?;
        Ok(Work::Kernel(KernelNode::new(launch, target.device.ordinal, named)))
    })
}

/// The buffer behind `extra`.
///
/// # Safety
/// `extra` is a list of names and values that ends with `CU_LAUNCH_PARAM_END`.
pub(crate) unsafe fn packed<'a>(extra: *const *const c_void) -> CuResult<&'a [u8]> {
    const END: usize = 0;
    const BUFFER_POINTER: usize = 1;
    const BUFFER_SIZE: usize = 2;
    let (mut start, mut size) = (std::ptr::null::<u8>(), None);
    let mut entry = extra;
    loop {
        // SAFETY: the list has not ended yet.
        let name = unsafe { *entry }.addr();
        if name == END {
            break;
        }
        // SAFETY: each name but the last has a value behind it.
        let value = unsafe { *entry.add(1) };
        match name {
            BUFFER_POINTER => start = value.cast(),
            // SAFETY: the manual has a pointer to a size_t here.
            BUFFER_SIZE if !value.is_null() => size = Some(unsafe { value.cast::<usize>().read() }),
            _ => return Err(CuError::INVALID_VALUE),
        }
        // SAFETY: the next name.
        entry = unsafe { entry.add(2) };
    }
    match (start.is_null(), size) {
        (_, Some(0)) => Ok(&[]),
        // SAFETY: the caller's buffer has as many bytes as it says.
        (false, Some(size)) => Ok(unsafe { std::slice::from_raw_parts(start, size) }),
        _ => Err(CuError::INVALID_VALUE),
    }
}

/// How many bytes of values a launch has room for without asking for memory.
const VALUE_BYTES: usize = 256;

/// The parameter values by ordinal, one behind the other, in `room`; values that do not fit are invalid.
///
/// # Safety
/// `args` is NULL or has one pointer per entry of `sizes`, each to a value of that size.
#[inline(always)]
unsafe fn gather<'a>(
    room: &'a mut [MaybeUninit<u8>],
    sizes: &[u32],
    args: *const *const c_void,
) -> CuResult<&'a [u8]> {
    if !sizes.is_empty() && args.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    let (start, mut left) = (room.as_mut_ptr(), room.len());
    let mut to = start;
    for (ordinal, size) in sizes.iter().enumerate() {
        let size = *size as usize;
        // SAFETY: `args` has an entry for every size.
        let value = unsafe { args.add(ordinal).read() };
        if value.is_null() || left < size {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: the value of this parameter has `size` bytes, for which there is room; padding inside it may be
        // uninitialised and is copied as such.
        unsafe {
            let from = value.cast::<MaybeUninit<u8>>();
            match size {
                8 => std::ptr::copy_nonoverlapping(from, to, 8),
                _ => std::ptr::copy_nonoverlapping(from, to, size),
            }
            to = to.add(size);
        }
        left -= size;
    }
    // SAFETY: this much has been written; the bytes are those of the caller's values, whatever their padding holds.
    Ok(unsafe { std::slice::from_raw_parts(start.cast(), room.len() - left) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<LaunchConfig>(), 56);
        assert_eq!(std::mem::offset_of!(LaunchConfig, shared_bytes), 24);
        assert_eq!(std::mem::offset_of!(LaunchConfig, attributes), 40);
        assert_eq!(std::mem::offset_of!(LaunchConfig, attribute_count), 48);
        assert_eq!((size_of::<LaunchAttribute>(), std::mem::offset_of!(LaunchAttribute, value)), (72, 8));
    }

    #[test]
    fn values_are_read_by_ordinal_with_the_sizes_of_the_module() {
        let (a, b, c) = (1_u8, 0x0506_0708_u32, [9_u16, 10, 11]);
        let args: [*const c_void; 3] = [(&raw const a).cast(), (&raw const b).cast(), (&raw const c).cast()];
        let mut room = [MaybeUninit::uninit(); 12];
        // SAFETY: three pointers, to one, four and six bytes.
        let values = unsafe { gather(&mut room, &[1, 4, 6], args.as_ptr()) };
        assert_eq!(values, Ok(&[1, 8, 7, 6, 5, 9, 0, 10, 0, 11, 0][..]));
        // SAFETY: as above; what does not fit is refused.
        let values = unsafe { gather(&mut room[..10], &[1, 4, 6], args.as_ptr()) };
        assert_eq!(values, Err(CuError::INVALID_VALUE));
        // SAFETY: no parameters, so nothing is read.
        assert_eq!(unsafe { gather(&mut room, &[], std::ptr::null()) }, Ok(&[][..]));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { gather(&mut room, &[4], std::ptr::null()) }, Err(CuError::INVALID_VALUE));
    }

    #[test]
    fn configurations_are_a_stack_per_thread() {
        let dim = |x| Dim3 { x, y: 1, z: 1 };
        assert_eq!(__cudaPushCallConfiguration(dim(1), dim(2), 3, 4), 0);
        assert_eq!(__cudaPushCallConfiguration(dim(5), dim(6), 7, 8), 0);
        assert_eq!(state::pop_configuration().map(|top| (top.grid.x, top.stream)), Some((5, 8)));
        assert!(std::thread::spawn(state::pop_configuration).join().unwrap().is_none());
        assert_eq!(state::pop_configuration().map(|top| top.shared_bytes), Some(3));
        assert_eq!(__cudaPopCallConfiguration(None, None, None, None), 1);
    }

    #[test]
    fn hints_are_ignored_and_what_would_change_the_result_is_refused() {
        let with = |attributes: &[LaunchAttribute]| {
            let dim = Dim3 { x: 1, y: 1, z: 1 };
            let attribute_count = u32::try_from(attributes.len()).unwrap();
            let attributes = attributes.as_ptr();
            LaunchConfig { grid: dim, block: dim, shared_bytes: 0, stream: 0, attributes, attribute_count }
                .kind()
        };
        let attribute = |id, first: [u32; 3]| {
            let mut value = [0; 16];
            value[..3].copy_from_slice(&first);
            LaunchAttribute { id, pad: 0, value }
        };
        assert_eq!(with(&[]), Ok(Kind::Plain));
        assert_eq!(with(&[attribute(2, [1, 0, 0])]), Ok(Kind::Cooperative));
        assert_eq!(with(&[attribute(6, [1, 0, 0]), attribute(4, [1, 1, 1])]), Ok(Kind::Plain));
        assert_eq!(with(&[attribute(4, [2, 1, 1])]), Err(CuError::NOT_SUPPORTED));
    }

    #[test]
    fn extra_is_a_list_of_names_and_values() {
        let (bytes, size) = ([1_u8, 2, 3], 3_usize);
        let name = std::ptr::without_provenance::<c_void>;
        let list = [name(1), bytes.as_ptr().cast(), name(2), (&raw const size).cast(), name(0)];
        // SAFETY: a list with its end.
        assert_eq!(unsafe { packed(list.as_ptr()) }, Ok(&bytes[..]));
        let list = [name(7), name(1), name(0)];
        // SAFETY: a list with its end.
        assert_eq!(unsafe { packed(list.as_ptr()) }, Err(CuError::INVALID_VALUE));
    }
}
