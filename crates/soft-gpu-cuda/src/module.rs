//! Modules and their functions. All questions are answered from the facts that loading gave.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use cuda_types::attribute::FunctionAttribute;
use cuda_types::{CUfunction, CUmodule, CuError, CuResult};
use fatbin::{Image, cubin, header_len};

use crate::edge::{Function, Module, Opened, current};
use crate::entries;
use crate::link;
use crate::memory;
use crate::pointers::{Host, Out, Text};

/// The bytes of an image of which only the address is known.
pub(crate) fn image_bytes(image: Host) -> CuResult<Vec<u8>> {
    let head = image.bytes(0, 4)?;
    let malformed = |_| CuError::INVALID_IMAGE;
    let length = if head == WRAPPER {
        // The structure that nvcc makes: magic, version, and the address of the container.
        let address =
            image.bytes(8, 8)?.try_into().map(u64::from_ne_bytes).map_err(|_| CuError::INVALID_IMAGE)?;
        return image_bytes(Host::at(usize::try_from(address).map_err(|_| CuError::INVALID_IMAGE)?));
    } else if head == FATBIN {
        let header = image.bytes(0, 16)?.first_chunk().ok_or(CuError::INVALID_IMAGE)?;
        header_len(header).map_err(malformed)?
    } else if head == *b"\x7fELF" {
        let header = image.bytes(0, cubin::ELF_HEADER_BYTES)?.first_chunk().ok_or(CuError::INVALID_IMAGE)?;
        let tables = cubin::elf_header_len(header).map_err(malformed)?;
        cubin::elf_len(image.bytes(0, tables)?).map_err(malformed)?
    } else {
        return Ok(image.text()?.into_bytes());
    };
    Ok(image.bytes(0, length)?.to_vec())
}

/// Loads one image, or several as one module.
fn load(opened: &Opened, images: &[Vec<u8>]) -> CuResult<u64> {
    for image in images {
        Image::classify(image).map_err(|_| CuError::INVALID_IMAGE)?;
    }
    match memory::take_window(opened) {
        // The program has reserved addresses of its own choice.
        Ok(()) | Err(CuError::ILLEGAL_STATE) => {}
        Err(error) => return Err(error),
    }
    let images = images.iter().map(Vec::as_slice).collect();
    let (module, facts) = opened.device.cuModuleLoadData(images)?;
    opened.books().modules.insert(module.0, Module { facts, functions: Default::default() });
    Ok(module.0)
}

fn load_image(module: Out<u64>, image: Host) -> CuResult<()> {
    if module.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    let opened = current()?;
    let images = match link::linked(image) {
        Some(state) => opened.books().links.get(&state).cloned().ok_or(CuError::INVALID_IMAGE)?,
        None => vec![image_bytes(image)?],
    };
    module.set(load(&opened, &images)?)
}

/// The handle of a module's function, made when it is first asked for.
fn function(opened: &Opened, module: u64, name: CString) -> CuResult<CUfunction> {
    let text = name.to_string_lossy().into_owned();
    let mut books = opened.books();
    let known = books.modules.get_mut(&module).ok_or(CuError::INVALID_HANDLE)?;
    if let Some(function) = known.functions.get(&text) {
        return Ok(*function);
    }
    let facts =
        known.facts.functions.iter().find(|facts| facts.name == text).cloned().ok_or(CuError::NOT_FOUND)?;
    let handle = opened.device.cuModuleGetFunction(CUmodule(module), &name)?;
    known.functions.insert(text, handle);
    // CUDA Driver API, cuFuncGetName: the text lives as long as the module; modules are few, so it lives on.
    let name: &'static CString = Box::leak(Box::new(name));
    books.functions.insert(handle.0, Function { facts, name, module: CUmodule(module) });
    Ok(handle)
}

entries! {
    fn cuModuleLoadData(module: Out<u64>, image: Host) {
        load_image(module, image)
    }

    /// Options tune the compiler of NVIDIA's driver; here there is nothing to tune.
    fn cuModuleLoadDataEx(
        module: Out<u64>, image: Host, _count: c_uint, _options: Out<c_int>, _values: Out<*mut c_void>,
    ) {
        load_image(module, image)
    }

    fn cuModuleUnload(module: u64) {
        let opened = current()?;
        {
            let mut books = opened.books();
            books.modules.remove(&module).ok_or(CuError::INVALID_HANDLE)?;
            books.functions.retain(|_, function| function.module.0 != module);
        }
        opened.device.cuModuleUnload(CUmodule(module))
    }

    fn cuModuleGetFunction(handle: Out<u64>, module: u64, name: Text) {
        handle.set(function(&*current()?, module, name.get()?)?.0)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: u64, name: Text) {
        let opened = current()?;
        let books = opened.books();
        let module = books.modules.get(&module).ok_or(CuError::INVALID_HANDLE)?;
        let name = name.get()?;
        let global = module.facts.globals.iter().find(|global| global.name.as_bytes() == name.as_bytes());
        let global = global.ok_or(CuError::NOT_FOUND)?;
        address.set_if_wanted(global.address);
        bytes.set_if_wanted(usize::try_from(global.bytes).unwrap_or(usize::MAX));
        Ok(())
    }

    fn cuModuleGetFunctionCount(count: Out<c_uint>, module: u64) {
        let opened = current()?;
        let books = opened.books();
        let module = books.modules.get(&module).ok_or(CuError::INVALID_HANDLE)?;
        count.set(c_uint::try_from(module.facts.functions.len()).unwrap_or(c_uint::MAX))
    }

    fn cuModuleEnumerateFunctions(functions: Out<u64>, room: c_uint, module: u64) {
        let opened = current()?;
        let names: Vec<String> = {
            let books = opened.books();
            let module = books.modules.get(&module).ok_or(CuError::INVALID_HANDLE)?;
            module.facts.functions.iter().map(|facts| facts.name.clone()).collect()
        };
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let handles = names.into_iter().take(room).map(|name| {
            let name = CString::new(name).map_err(|_| CuError::INVALID_IMAGE)?;
            function(&opened, module, name).map(|handle| handle.0)
        });
        functions.set_all(handles.collect::<CuResult<Vec<u64>>>()?)
    }

    /// Everything is loaded with its module.
    fn cuFuncLoad(function: u64) {
        current()?.books().functions.get(&function).map(drop).ok_or(CuError::INVALID_HANDLE)
    }

    fn cuFuncGetName(name: Out<*const c_char>, function: u64) {
        let opened = current()?;
        let books = opened.books();
        name.set(books.functions.get(&function).ok_or(CuError::INVALID_HANDLE)?.name.as_ptr())
    }

    fn cuFuncGetParamInfo(function: u64, index: usize, offset: Out<usize>, size: Out<usize>) {
        let opened = current()?;
        let books = opened.books();
        let facts = &books.functions.get(&function).ok_or(CuError::INVALID_HANDLE)?.facts;
        let of = |list: &[u32]| {
            let found = list.get(index).ok_or(CuError::INVALID_VALUE)?;
            usize::try_from(*found).map_err(|_| CuError::UNKNOWN)
        };
        let (at, bytes) = (of(&facts.offsets)?, of(&facts.parameters)?);
        offset.set_if_wanted(at);
        size.set_if_wanted(bytes);
        Ok(())
    }

    /// What can be set is asked of the device; the rest came with the module.
    fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_int, function: u64) {
        let opened = current()?;
        if [FunctionAttribute::MAX_DYNAMIC_SHARED_SIZE_BYTES, FunctionAttribute::PREFERRED_SHARED_MEMORY_CARVEOUT]
            .contains(&FunctionAttribute(attribute))
        {
            return value.set(opened.device.cuFuncGetAttribute(CUfunction(function), attribute)?);
        }
        let books = opened.books();
        let attributes = &books.functions.get(&function).ok_or(CuError::INVALID_HANDLE)?.facts.attributes;
        let known = usize::try_from(attribute).ok().and_then(|number| attributes.get(number));
        value.set(*known.ok_or(CuError::INVALID_VALUE)?)
    }

    fn cuFuncSetAttribute(function: u64, attribute: c_int, value: c_int) {
        current()?.device.cuFuncSetAttribute(CUfunction(function), attribute, value)
    }

    fn cuFuncSetCacheConfig(function: u64, config: c_uint) {
        current()?.device.cuFuncSetCacheConfig(CUfunction(function), config)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<c_int>, function: u64, size: c_int, shared: usize) {
        let device = &current()?.device;
        let function = CUfunction(function);
        blocks.set(device.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(function, size, shared as u64, 0)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>, function: u64, size: c_int, shared: usize, flags: c_uint,
    ) {
        let device = &current()?.device;
        let function = CUfunction(function);
        blocks.set(device.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(function, size, shared as u64, flags)?)
    }
}

const FATBIN: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();
const WRAPPER: [u8; 4] = 0x4662_43B1_u32.to_le_bytes();
