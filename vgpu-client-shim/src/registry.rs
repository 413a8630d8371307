//! What programs and libraries have registered: fatbins, kernels, variables.
//!
//! Registration runs in constructors, before `main`: nothing here connects, starts a thread or reads the environment.
//! A fatbin becomes a module on a device when the first of its kernels or variables is used there.
//!
//! The images lie in the memory of whoever registered them and are read in place, until they are unregistered.
//!
//! A library or a module that the program loads itself (`cuLibraryLoadData`, `cuModuleLoadData`) is a fatbin like the
//! others, but [adopted](adopt): nobody registered it, and its kernels are found by name. So every kernel of the
//! process is a [`Kernel`], whether the program calls it `cudaKernel_t`, `CUkernel` or `CUfunction`.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use client::Session;
pub(crate) use client::launch::Function;
use cuda_types::attribute::DeviceAttribute;
use cuda_types::{CUmodule, CuError, CuResult};
use proto::{FunctionFacts, GlobalFacts, ModuleFacts};
use rustc_hash::FxHashMap;

use crate::globals::GLOBALS;
use crate::images::Images;
use crate::managed::variable::{self, Placed};
use crate::runtime::error::{INVALID_DEVICE_FUNCTION, INVALID_SYMBOL};
use crate::runtime::launch::Values;
use crate::state::Device;
use crate::{log, managed, shortcut};

/// One fatbin and its modules, by context.
pub(crate) struct Fatbin {
    /// None when it is unloaded: kernels keep it, because the program may still hold them.
    images: Mutex<Option<Arc<Images>>>,
    /// The only context that it may be loaded in: that of `cuModuleLoad`.
    only: Option<usize>,
    /// Kernels that were asked for by name.
    named: Mutex<HashMap<CString, &'static Kernel>>,
    /// Its `__managed__` variables.
    managed: Mutex<Vec<Managed>>,
    /// The program loads it itself, and registers no variables: its PTX tells of managed ones.
    is_adopted: bool,
    modules: Mutex<HashMap<usize, CuResult<Arc<Module>>>>,
}

/// A `__managed__` variable.
struct Managed {
    name: CString,
    bytes: usize,
    /// The program's pointer to it, which is set when the variable has a place; 0 in a module that it loads itself.
    pointer: usize,
    /// Device and address.
    place: Option<(usize, u64)>,
}

/// A fatbin loaded on a device.
pub(crate) struct Module {
    handle: CUmodule,
    pub(crate) functions: HashMap<String, Arc<FunctionFacts>>,
    pub(crate) globals: HashMap<String, GlobalFacts>,
}

/// A kernel. Its address is the `cudaKernel_t`, `CUkernel` or `CUfunction` of the program, so it is never freed.
pub(crate) struct Kernel {
    pub(crate) name: CString,
    pub(crate) fatbin: Arc<Fatbin>,
    loaded: RwLock<FxHashMap<usize, Arc<Function>>>,
}

/// A registered variable.
struct Variable {
    name: CString,
    fatbin: Arc<Fatbin>,
    bytes: usize,
}

#[derive(Default)]
struct Registry {
    /// By the handle that `__cudaRegisterFatBinary` answered.
    fatbins: HashMap<usize, Arc<Fatbin>>,
    /// By the address of the host stub.
    kernels: FxHashMap<usize, &'static Kernel>,
    /// By their own address.
    handles: FxHashMap<usize, &'static Kernel>,
    /// Loaded by the program itself.
    adopted: Vec<Arc<Fatbin>>,
    /// By the address of the host variable.
    variables: HashMap<usize, Variable>,
}

static REGISTRY: RwLock<Option<Registry>> = RwLock::new(None);

/// Registers the images behind a wrapper; the answer is the handle for what belongs to it.
pub(crate) fn add_fatbin(images: Images) -> usize {
    let fatbin = Arc::new(Fatbin::new(images, None));
    // The handle is an address of our own, so that no two fatbins share it; programs never look behind it.
    let handle = Arc::as_ptr(&fatbin).expose_provenance();
    change(|registry| registry.fatbins.insert(handle, fatbin));
    handle
}

/// Forgets a fatbin and what belongs to it; unknown and repeated handles are ignored, as NVIDIA's runtime does.
pub(crate) fn remove_fatbin(handle: usize) {
    let fatbin = change(|registry| {
        let fatbin = registry.fatbins.remove(&handle)?;
        registry.kernels.retain(|_, kernel| !Arc::ptr_eq(&kernel.fatbin, &fatbin));
        registry.handles.retain(|_, kernel| !Arc::ptr_eq(&kernel.fatbin, &fatbin));
        registry.variables.retain(|_, variable| !Arc::ptr_eq(&variable.fatbin, &fatbin));
        Some(fatbin)
    });
    if let Some(fatbin) = fatbin {
        unload(&fatbin);
    }
}

/// Takes a fatbin that the program loads itself; with `only`, for that context alone.
pub(crate) fn adopt(images: Images, only: Option<usize>) -> Arc<Fatbin> {
    let fatbin = Arc::new(Fatbin { is_adopted: true, ..Fatbin::new(images, only) });
    change(|registry| registry.adopted.push(fatbin.clone()));
    fatbin
}

/// Forgets a fatbin that the program has unloaded.
pub(crate) fn discard(fatbin: &Arc<Fatbin>) {
    change(|registry| {
        registry.adopted.retain(|adopted| !Arc::ptr_eq(adopted, fatbin));
        registry.handles.retain(|_, kernel| !Arc::ptr_eq(&kernel.fatbin, fatbin));
    });
    unload(fatbin);
    lock(&fatbin.images).take();
    lock(&fatbin.named).clear();
    for variable in std::mem::take(&mut *lock(&fatbin.managed)) {
        // Behind the unloading, which waits for the device; with the context, its memory is gone already.
        let _ = variable.place.map(|(_, address)| managed::free(address));
    }
}

fn unload(fatbin: &Fatbin) {
    // Only loaded modules cost the server something; at exit the session's end frees them all.
    let modules = std::mem::take(&mut *lock(&fatbin.modules));
    for (ordinal, module) in modules {
        let device = crate::handles::device(ordinal);
        let session = device.ok().and_then(Device::open_session);
        for global in module.iter().flat_map(|module| module.globals.values()) {
            GLOBALS.remove(ordinal, global.address);
        }
        if let (Ok(module), Some(session)) = (module, session) {
            // The link may be gone already: then the module is, too.
            let _ = session.unload_module(module.handle);
        }
    }
}

/// Registers a kernel under the address of its host stub.
pub(crate) fn add_kernel(handle: usize, stub: usize, name: &CStr) {
    change(|registry| {
        let Some(fatbin) = registry.fatbins.get(&handle) else {
            return log::warn(format_args!("kernel {name:?} belongs to no registered fatbin"));
        };
        let kernel = Kernel::new(name, fatbin);
        registry.kernels.insert(stub, kernel);
        registry.handles.insert(kernel.address(), kernel);
    });
}

/// Registers a variable under the address of its host shadow.
pub(crate) fn add_variable(handle: usize, shadow: usize, name: &CStr, bytes: usize) {
    change(|registry| {
        let Some(fatbin) = registry.fatbins.get(&handle).cloned() else {
            return log::warn(format_args!("variable {name:?} belongs to no registered fatbin"));
        };
        registry.variables.insert(shadow, Variable { name: name.to_owned(), fatbin, bytes });
    });
}

/// Registers a managed variable, which the program reaches through the pointer at `pointer`.
///
/// # Safety
/// `pointer` is that of nvcc's own code: a pointer variable that stays as long as the fatbin is registered.
pub(crate) unsafe fn add_managed(handle: usize, pointer: usize, name: &CStr, bytes: usize) {
    let fatbin = read(|registry| registry.fatbins.get(&handle).cloned());
    if let Some(fatbin) = fatbin {
        lock(&fatbin.managed).push(Managed { name: name.to_owned(), bytes, pointer, place: None });
    }
}

/// Gives the managed variables of a fatbin their places, on `device` if they have none yet.
pub(crate) fn place_managed(handle: usize, device: &Device) -> CuResult<()> {
    let fatbin = read(|registry| registry.fatbins.get(&handle).cloned());
    fatbin.map_or(Ok(()), |fatbin| fatbin.place_managed(device).map(drop))
}

/// Whether a fatbin has managed variables.
pub(crate) fn has_managed(handle: usize) -> bool {
    let fatbin = read(|registry| registry.fatbins.get(&handle).cloned());
    fatbin.is_some_and(|fatbin| !lock(&fatbin.managed).is_empty())
}

/// The kernel behind a host stub, or behind a `cudaKernel_t` that was given in its place.
pub(crate) fn kernel(stub: *const c_void) -> CuResult<&'static Kernel> {
    let address = stub.addr();
    let found =
        read(|registry| registry.handles.get(&address).or_else(|| registry.kernels.get(&address)).copied());
    found.ok_or(INVALID_DEVICE_FUNCTION)
}

/// Where the variable behind a host shadow lies on `device`, and its size.
pub(crate) fn variable(shadow: *const c_void, device: &Device) -> CuResult<(u64, u64)> {
    let (fatbin, name, bytes) = read(|registry| {
        let variable = registry.variables.get(&shadow.addr())?;
        Some((variable.fatbin.clone(), variable.name.clone(), variable.bytes))
    })
    .ok_or(INVALID_SYMBOL)?;
    let module = fatbin.module(device)?;
    let global = module.globals.get(&*name.to_string_lossy()).ok_or(INVALID_SYMBOL)?;
    if global.bytes < bytes as u64 {
        log::error(format_args!(
            "variable {name:?} has {bytes} bytes in the program but {} in its module",
            global.bytes
        ));
        return Err(INVALID_SYMBOL);
    }
    Ok((global.address, bytes as u64))
}

/// Forgets what is loaded on a device: its context is gone.
pub(crate) fn forget_device(ordinal: usize) {
    GLOBALS.remove_device(ordinal);
    // Outside of the registry's lock: a module that is being loaded in another context keeps its own for long.
    let (fatbins, kernels): (Vec<Arc<Fatbin>>, Vec<&'static Kernel>) = read(|registry| {
        let fatbins = registry.fatbins.values().chain(&registry.adopted).cloned().collect();
        (fatbins, registry.handles.values().copied().collect())
    });
    for fatbin in fatbins {
        lock(&fatbin.modules).remove(&ordinal);
        for variable in lock(&fatbin.managed).iter_mut() {
            variable.place = variable.place.filter(|(device, _)| *device != ordinal);
        }
    }
    for kernel in kernels {
        kernel.loaded.write().unwrap_or_else(PoisonError::into_inner).remove(&ordinal);
    }
    shortcut::forget();
}

impl Fatbin {
    fn new(images: Images, only: Option<usize>) -> Fatbin {
        let (named, managed, modules) = (Mutex::default(), Mutex::default(), Mutex::default());
        let images = Mutex::new(Some(Arc::new(images)));
        Fatbin { images, only, named, managed, is_adopted: false, modules }
    }

    /// The kernel of a name, as an object: whether a context's module has it shows when it is [used](Kernel::on).
    pub(crate) fn kernel(self: &Arc<Fatbin>, name: &CStr) -> &'static Kernel {
        let mut named = lock(&self.named);
        if let Some(kernel) = named.get(name) {
            return kernel;
        }
        let kernel = Kernel::new(name, self);
        named.insert(name.to_owned(), kernel);
        change(|registry| registry.handles.insert(kernel.address(), kernel));
        kernel
    }

    fn images(&self) -> CuResult<Arc<Images>> {
        lock(&self.images).clone().ok_or(CuError::INVALID_HANDLE)
    }

    /// The module of this fatbin on `device`, loaded at the first call. An image that the device cannot run stays so.
    pub(crate) fn module(&self, device: &Device) -> CuResult<Arc<Module>> {
        if self.only.is_some_and(|only| only != device.ordinal) {
            return Err(CuError::INVALID_HANDLE);
        }
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(&device.ordinal) {
            return module.clone();
        }
        let module = self.load(device).map(Arc::new);
        // What else goes wrong may go better next time: memory can be freed, a link be restored.
        let lasting = [CuError::NO_BINARY_FOR_GPU, CuError::INVALID_IMAGE, CuError::INVALID_PTX];
        if module.as_ref().map_or_else(|error| lasting.contains(error), |_| true) {
            modules.insert(device.ordinal, module.clone());
        }
        module
    }

    fn load(&self, device: &Device) -> CuResult<Module> {
        let session = device.session()?;
        let images = self.images()?;
        self.find_managed(device)?;
        let own = images.own();
        // A program compiled with -rdc=true: the linked image is ELF only, for some architectures; what a device of
        // another one runs is linked from the parts.
        let loaded = match own {
            _ if !lock(&self.managed).is_empty() => self.load_with_managed(device, &session),
            Some(own) => match session.load_module(vec![own]) {
                Err(CuError::NO_BINARY_FOR_GPU) if images.has_parts() => self.link(device, &session),
                other => other,
            },
            None => self.link(device, &session),
        };
        let (handle, facts) = loaded.inspect_err(|error| {
            let hint = match *error {
                CuError::NO_BINARY_FOR_GPU => format!("; it holds {}", images.contents()),
                _ => String::new(),
            };
            log::error(format_args!("device {}: a module cannot be loaded: {error}{hint}", device.number));
        })?;
        log::info(format_args!(
            "device {}: module with {} kernels and {} variables",
            device.ordinal,
            facts.functions.len(),
            facts.globals.len()
        ));
        for global in &facts.globals {
            GLOBALS.add(device.ordinal, global.address, global.bytes);
        }
        let functions = facts.functions.into_iter().map(bounded);
        let functions = functions.map(|function| (function.name.clone(), Arc::new(function)));
        let globals = facts.globals.into_iter().map(|global| (global.name.clone(), global));
        Ok(Module { handle, functions: functions.collect(), globals: globals.collect() })
    }

    /// Loads PTX in which the addresses of managed variables stand for their names.
    fn load_with_managed(&self, device: &Device, session: &Session) -> CuResult<(CUmodule, ModuleFacts)> {
        let placed = self.place_managed(device)?;
        let texts: Vec<String> =
            self.texts(device)?.iter().map(|text| variable::place(text, &placed)).collect();
        let (handle, mut facts) = session.load_module(texts.iter().map(String::as_bytes).collect())?;
        // What the module has under their names is not what the program calls so.
        facts.globals.retain(|global| placed.iter().all(|variable| variable.name != global.name));
        Ok((handle, facts))
    }

    /// Finds the managed variables of a module that the program loads itself.
    fn find_managed(&self, device: &Device) -> CuResult<()> {
        let mut variables = lock(&self.managed);
        if !self.is_adopted || !variables.is_empty() {
            return Ok(());
        }
        for text in self.all_texts(device)? {
            for (name, bytes) in variable::managed_variables(&text) {
                let name = CString::new(name).map_err(|_| CuError::INVALID_PTX)?;
                let bytes = usize::try_from(bytes).map_err(|_| CuError::OUT_OF_MEMORY)?;
                variables.push(Managed { name, bytes, pointer: 0, place: None });
            }
        }
        Ok(())
    }

    /// Where a managed variable lies, and its length; its module must have been [loaded](Fatbin::module).
    pub(crate) fn managed_variable(&self, name: &CStr) -> Option<(u64, usize)> {
        let variables = lock(&self.managed);
        let found = variables.iter().find(|variable| variable.name.as_c_str() == name)?;
        Some((found.place?.1, found.bytes))
    }

    /// The PTX of the image, or of the parts that it is linked from, if it has any.
    fn all_texts(&self, device: &Device) -> CuResult<Vec<String>> {
        let capability = capability(device)?;
        let text = |image: &&[u8]| match fatbin::Image::classify(image).ok()? {
            fatbin::Image::Ptx(text) => Some(text.to_owned()),
            fatbin::Image::Fatbin(container) => container.best_ptx(capability)?.ptx().ok(),
            fatbin::Image::Elf(_) => None,
        };
        let images = self.images()?;
        let own: Vec<String> = images.own().iter().filter_map(text).collect();
        if own.is_empty() {
            return Ok(images.parts_for(capability, true).iter().filter_map(text).collect());
        }
        Ok(own)
    }

    /// See [`all_texts`](Fatbin::all_texts); without any it is an error.
    fn texts(&self, device: &Device) -> CuResult<Vec<String>> {
        let texts = self.all_texts(device)?;
        if texts.is_empty() {
            log::error(format_args!(
                "a module with __managed__ variables needs PTX: compile it with -arch=compute_XX or sm_XX"
            ));
            return Err(CuError::NO_BINARY_FOR_GPU);
        }
        Ok(texts)
    }

    fn place_managed(&self, device: &Device) -> CuResult<Vec<Placed>> {
        let mut variables = lock(&self.managed);
        if variables.iter().any(|variable| variable.place.is_none()) {
            let texts = self.texts(device)?;
            for variable in variables.iter_mut().filter(|variable| variable.place.is_none()) {
                variable.settle(device, &texts)?;
            }
        }
        let placed = variables.iter().filter_map(|variable| {
            let (ordinal, address) = variable.place?;
            Some((ordinal, Placed { name: variable.name.to_string_lossy().into_owned(), address }))
        });
        let (ordinals, placed): (Vec<usize>, Vec<Placed>) = placed.unzip();
        if ordinals.iter().any(|ordinal| *ordinal != device.ordinal) {
            log::error(format_args!(
                "__managed__ variables are on the device that used them first; device {} cannot reach them",
                device.ordinal
            ));
            return Err(CuError::NOT_SUPPORTED);
        }
        Ok(placed)
    }

    /// Links the parts of the image on `device`: first with machine code where they have it, then from PTX alone,
    /// for a device that compiles everything itself.
    fn link(&self, device: &Device, session: &Session) -> CuResult<(CUmodule, ModuleFacts)> {
        let capability = capability(device)?;
        let images = self.images()?;
        match session.load_module(images.parts_for(capability, false)) {
            Err(CuError::NO_BINARY_FOR_GPU) => session.load_module(images.parts_for(capability, true)),
            other => other,
        }
    }
}

impl Managed {
    /// Takes managed memory for the variable, fills it, and tells the program where it is.
    fn settle(&mut self, device: &Device, texts: &[String]) -> CuResult<()> {
        let name = self.name.to_string_lossy();
        let mut initial = Vec::new();
        for text in texts {
            if let Some(bytes) = variable::initial_bytes(text, &name)? {
                initial = bytes;
            }
        }
        if initial.len() > self.bytes {
            log::error(format_args!("{name:?} is longer in its module than in the program"));
            return Err(INVALID_SYMBOL);
        }
        let address = managed::allocate(device, self.bytes.max(1))?;
        managed::fill(address, &initial);
        self.place = Some((device.ordinal, address));
        if self.pointer == 0 {
            return Ok(());
        }
        let pointer = std::ptr::with_exposed_provenance_mut::<u64>(self.pointer);
        // SAFETY: the program's own pointer variable, as `add_managed`'s caller vouched.
        unsafe { pointer.write(address) };
        Ok(())
    }
}

impl Kernel {
    fn new(name: &CStr, fatbin: &Arc<Fatbin>) -> &'static Kernel {
        let kernel = Kernel { name: name.to_owned(), fatbin: fatbin.clone(), loaded: RwLock::default() };
        Box::leak(Box::new(kernel))
    }

    fn address(&'static self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The handle that programs hold.
    pub(crate) fn handle(&'static self) -> u64 {
        std::ptr::from_ref(self).expose_provenance() as u64
    }

    /// The kernel on `device`; its module is loaded at the first call.
    pub(crate) fn on(&self, device: &Device) -> CuResult<Arc<Function>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.get(&device.ordinal) {
            return Ok(function.clone());
        }
        drop(loaded);
        let module = self.fatbin.module(device)?;
        let name = self.name.to_string_lossy();
        let facts = module.functions.get(&*name).ok_or(INVALID_DEVICE_FUNCTION)?;
        let function = device.session()?.function(module.handle, facts.clone())?;
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        Ok(loaded.entry(device.ordinal).or_insert(function).clone())
    }
}

/// The parameter values by ordinal, from a buffer that has them as the kernel's own code sees them.
pub(crate) fn unpack(function: &Function, packed: &[u8]) -> CuResult<Values> {
    let mut values = Values::with_capacity(packed.len());
    for (size, offset) in function.facts.parameters.iter().zip(&function.facts.offsets) {
        let (size, offset) = (*size as usize, *offset as usize);
        let value = offset.checked_add(size).and_then(|end| packed.get(offset..end));
        values.extend_from_slice(value.ok_or(CuError::INVALID_VALUE)?);
    }
    Ok(values)
}

/// A kernel of a module. The sizes of its parameters say how much of the program's memory a launch reads, so they are not
/// simply believed.
fn bounded(mut function: FunctionFacts) -> FunctionFacts {
    let bytes: u64 = function.parameters.iter().map(|size| u64::from(*size)).sum();
    if bytes > MOST_PARAMETER_BYTES {
        function
            .unsupported
            .get_or_insert(format!("{bytes} bytes of parameters are more than a kernel can have"));
    }
    function
}

/// CUDA C++ Programming Guide, "__global__ function parameters".
const MOST_PARAMETER_BYTES: u64 = 32_764;

/// The compute capability of a device: 75 for 7.5.
fn capability(device: &Device) -> CuResult<u32> {
    let facts = device.facts()?;
    let part = |attribute: DeviceAttribute| {
        facts.attribute(attribute.0).and_then(|value| u32::try_from(value).ok()).ok_or(CuError::UNKNOWN)
    };
    Ok(part(DeviceAttribute::COMPUTE_CAPABILITY_MAJOR)? * 10
        + part(DeviceAttribute::COMPUTE_CAPABILITY_MINOR)?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T: Default>(look: impl FnOnce(&Registry) -> T) -> T {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.as_ref().map(look).unwrap_or_default()
}

fn change<T>(change: impl FnOnce(&mut Registry) -> T) -> T {
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    let changed = change(registry.get_or_insert_default());
    shortcut::forget();
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_impossible_parameters_cannot_be_launched() {
        let unsupported = |parameters: Vec<u32>| {
            let offsets = vec![0; parameters.len()];
            let (name, attributes, resident) = ("kernel".into(), Vec::new(), Vec::new());
            let facts = FunctionFacts { name, parameters, offsets, attributes, resident, unsupported: None };
            bounded(facts).unsupported
        };
        assert_eq!(unsupported(vec![8; 4095]), None);
        assert!(unsupported(vec![8; 4096]).is_some() && unsupported(vec![u32::MAX; 3]).is_some());
    }

    #[test]
    fn a_kernel_is_found_by_its_stub_and_by_its_handle_until_its_fatbin_goes() {
        let handle = add_fatbin(Images::of_bytes(b"own").unwrap());
        add_kernel(handle, 0x5000, c"_Z6vecadd");
        let by_stub = kernel(std::ptr::without_provenance(0x5000)).unwrap();
        let as_stub = std::ptr::with_exposed_provenance(usize::try_from(by_stub.handle()).unwrap());
        assert!(std::ptr::eq(kernel(as_stub).unwrap(), by_stub));
        assert_eq!(by_stub.name.as_c_str(), c"_Z6vecadd");
        remove_fatbin(handle);
        assert!(kernel(std::ptr::without_provenance(0x5000)).is_err());
        remove_fatbin(handle);
    }
}
