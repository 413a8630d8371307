//! Modules: loading, and the facts that save the client every later question.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use cuda_types::attribute::FunctionAttribute;
use cuda_types::{CUfunction, CUmodule, CuError, CuResult};
use fatbin::Image;
use proto::{FunctionFacts, GlobalFacts, ModuleCalls, ModuleFacts};

use crate::api::{call, string};
use crate::device::{NvidiaGpu, lock};
use crate::names;

impl NvidiaGpu {
    fn load(&self, image: &[u8]) -> CuResult<u64> {
        let api = self.enter()?;
        let image = Aligned::new(image)?;
        let mut module = 0;
        // SAFETY: `module` is writable. The image is a container whose stated length was checked against its bytes, or
        // text that ends with NUL, and the driver copies it.
        unsafe {
            call!(api, cuModuleLoadDataEx(&raw mut module, image.pointer(), 0, null_mut(), null_mut()))
        }?;
        Ok(module)
    }

    /// Links relocatable images (of `nvcc -rdc=true`) and loads the result.
    fn link(&self, images: &[&[u8]]) -> CuResult<u64> {
        let api = self.enter()?;
        let mut state = 0;
        // SAFETY: `state` is writable; there are no options.
        unsafe { call!(api, cuLinkCreate_v2(0, null_mut(), null_mut(), &raw mut state)) }?;
        let linked = self.link_into(state, images);
        // SAFETY: the state was made above and ends here; the image inside it has been copied by the driver.
        let ended = unsafe { call!(api, cuLinkDestroy(state)) };
        linked.and_then(|module| ended.map(|()| module))
    }

    fn link_into(&self, state: u64, images: &[&[u8]]) -> CuResult<u64> {
        let api = self.enter()?;
        for bytes in images {
            let kind = match Image::classify(bytes) {
                Ok(Image::Elf(_)) => INPUT_CUBIN,
                Ok(Image::Ptx(_)) => INPUT_PTX,
                Ok(Image::Fatbin(_)) => INPUT_FATBIN,
                Err(_) => return Err(CuError::INVALID_IMAGE),
            };
            let image = Aligned::new(bytes)?;
            let data = image.pointer().cast_mut();
            // SAFETY: the data is readable for its length, and the driver copies it; there are no options.
            unsafe {
                call!(
                    api,
                    cuLinkAddData_v2(
                        state,
                        kind,
                        data,
                        image.bytes,
                        c"image".as_ptr(),
                        0,
                        null_mut(),
                        null_mut()
                    )
                )
            }?;
        }
        let (mut image, mut bytes) = (null_mut(), 0);
        // SAFETY: both are writable.
        unsafe { call!(api, cuLinkComplete(state, &raw mut image, &raw mut bytes)) }?;
        let mut module = 0;
        // SAFETY: `module` is writable; the image belongs to the state, which lives until after this call.
        unsafe { call!(api, cuModuleLoadDataEx(&raw mut module, image, 0, null_mut(), null_mut())) }?;
        Ok(module)
    }

    fn facts_of(&self, module: u64, variables: BTreeSet<String>) -> CuResult<ModuleFacts> {
        let functions = self.functions(module)?;
        let globals = variables.into_iter().filter_map(|name| self.global(module, name)).collect();
        // A library with thousands of kernels would wait for answers that nobody wants.
        let asks_residence = functions.len() <= RESIDENCE_FUNCTIONS;
        let described = functions.into_iter().map(|function| {
            let mut facts = self.describe(function)?;
            if asks_residence {
                facts.resident = self.residence(function, &facts.attributes);
            }
            Ok(facts)
        });
        Ok(ModuleFacts { functions: described.collect::<CuResult<_>>()?, globals })
    }

    /// CUDA 12.4 and newer can list functions; without that a client cannot be told parameter layouts.
    fn functions(&self, module: u64) -> CuResult<Vec<u64>> {
        let api = self.enter()?;
        let mut count: c_uint = 0;
        // SAFETY: `count` is writable and the module is loaded.
        unsafe { call!(api, cuModuleGetFunctionCount(&raw mut count, module)) }?;
        let mut functions = vec![0; usize::try_from(count).unwrap_or(0)];
        if count > 0 {
            // SAFETY: `functions` has room for `count` handles.
            unsafe { call!(api, cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module)) }?;
        }
        Ok(functions)
    }

    fn describe(&self, function: u64) -> CuResult<FunctionFacts> {
        let api = self.enter()?;
        let mut name = null();
        // SAFETY: `name` is writable.
        unsafe { call!(api, cuFuncGetName(&raw mut name, function)) }?;
        // SAFETY: the driver answered with a C string that lives as long as the module.
        let name = unsafe { string(name) }.ok_or(CuError::UNKNOWN)?;
        let limit = self.cuFuncGetAttribute(CUfunction(function), FunctionAttribute::MAX_THREADS_PER_BLOCK.0);
        if limit.is_err() {
            // CUDA Driver API, cuFuncLoad: a driver that loads lazily may know nothing of a function before.
            // SAFETY: the function belongs to a loaded module.
            unsafe { call!(api, cuFuncLoad(function)) }?;
        }
        let attributes = (0..FunctionAttribute::COUNT).map(|number| {
            // An attribute that this driver does not know counts as zero, CUDA's default for all of them.
            self.cuFuncGetAttribute(CUfunction(function), number).unwrap_or(0)
        });
        let attributes = attributes.collect();
        let (parameters, offsets) = self.layout(function)?;
        Ok(FunctionFacts { name, parameters, offsets, attributes, resident: Vec::new(), unsupported: None })
    }

    /// [`FunctionFacts::resident`]: as far as the driver answers.
    fn residence(&self, function: u64, attributes: &[i32]) -> Vec<u16> {
        let most = attributes.first().copied().unwrap_or(0).min(MOST_THREADS);
        let of = |threads| {
            let blocks = self.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                CUfunction(function),
                threads,
                0,
                0,
            );
            blocks.ok().and_then(|blocks| u16::try_from(blocks).ok())
        };
        (32..=most).step_by(32).map_while(of).collect()
    }

    /// Sizes and offsets of a function's parameters, by ordinal.
    fn layout(&self, function: u64) -> CuResult<(Vec<u32>, Vec<u32>)> {
        let api = self.enter()?;
        let (mut sizes, mut offsets) = (Vec::new(), Vec::new());
        loop {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: both are writable. CUDA Driver API, cuFuncGetParamInfo: an index beyond the last is an error.
            match unsafe {
                call!(api, cuFuncGetParamInfo(function, sizes.len(), &raw mut offset, &raw mut size))
            } {
                Ok(()) => {
                    sizes.push(u32::try_from(size).map_err(|_| CuError::UNKNOWN)?);
                    offsets.push(u32::try_from(offset).map_err(|_| CuError::UNKNOWN)?);
                }
                Err(CuError::INVALID_VALUE) => return Ok((sizes, offsets)),
                Err(error) => return Err(error),
            }
        }
    }

    fn global(&self, module: u64, name: String) -> Option<GlobalFacts> {
        let api = self.enter().ok()?;
        let symbol = CString::new(name.as_str()).ok()?;
        let (mut address, mut bytes) = (0, 0);
        // SAFETY: both are writable, and the name is a C string.
        unsafe {
            call!(api, cuModuleGetGlobal_v2(&raw mut address, &raw mut bytes, module, symbol.as_ptr()))
        }
        .ok()?;
        Some(GlobalFacts { name, address, bytes: bytes as u64 })
    }
}

impl ModuleCalls for NvidiaGpu {
    fn cuModuleLoadData(&self, images: Vec<&[u8]>) -> CuResult<(CUmodule, ModuleFacts)> {
        // Kernels may print; nothing before the first module can.
        self.capture_printed();
        let module = match images.as_slice() {
            [] => return Err(CuError::INVALID_VALUE),
            [image] => self.load(image)?,
            several => self.link(several)?,
        };
        let variables = images.iter().flat_map(|image| names::variables(image)).collect();
        match self.facts_of(module, variables) {
            Ok(facts) => Ok((CUmodule(module), facts)),
            Err(error) => {
                // The first error is the one to report.
                let _ = self.cuModuleUnload(CUmodule(module));
                Err(error)
            }
        }
    }

    fn cuModuleUnload(&self, module: CUmodule) -> CuResult<()> {
        let api = self.enter()?;
        // CUDA Driver API leaves open what happens to kernels that still run; the table promises that they finish.
        // SAFETY: takes nothing.
        unsafe { call!(api, cuCtxSynchronize()) }?;
        // SAFETY: the session hands out each module once for its end.
        unsafe { call!(api, cuModuleUnload(module.0)) }
    }

    fn cuModuleGetFunction(&self, module: CUmodule, name: &CStr) -> CuResult<CUfunction> {
        let api = self.enter()?;
        let mut function = 0;
        // SAFETY: `function` is writable, the module is loaded and the name is a C string.
        unsafe { call!(api, cuModuleGetFunction(&raw mut function, module.0, name.as_ptr())) }?;
        let sizes: Arc<[u32]> = self.layout(function)?.0.into();
        lock(&self.parameters).insert(function, sizes);
        Ok(CUfunction(function))
    }

    fn cuFuncSetAttribute(&self, func: CUfunction, attribute: i32, value: i32) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the function was made by this device; an unknown attribute is an error.
        unsafe { call!(api, cuFuncSetAttribute(func.0, attribute, value)) }
    }

    fn cuFuncGetAttribute(&self, func: CUfunction, attribute: i32) -> CuResult<i32> {
        let api = self.enter()?;
        let mut value = 0;
        // SAFETY: `value` is writable, and the function was made by this device.
        unsafe { call!(api, cuFuncGetAttribute(&raw mut value, attribute, func.0)) }?;
        Ok(value)
    }

    fn cuFuncSetCacheConfig(&self, func: CUfunction, config: u32) -> CuResult<()> {
        let api = self.enter()?;
        // SAFETY: the function was made by this device.
        unsafe { call!(api, cuFuncSetCacheConfig(func.0, config)) }
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        &self,
        func: CUfunction,
        block_size: i32,
        dynamic_shared_bytes: u64,
        flags: u32,
    ) -> CuResult<i32> {
        let api = self.enter()?;
        let dynamic = usize::try_from(dynamic_shared_bytes).map_err(|_| CuError::INVALID_VALUE)?;
        let mut blocks = 0;
        // SAFETY: `blocks` is writable, and the function was made by this device.
        unsafe {
            call!(
                api,
                cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                    &raw mut blocks,
                    func.0,
                    block_size,
                    dynamic,
                    flags
                )
            )
        }?;
        Ok(blocks)
    }
}

/// Up to how many kernels of a module the driver is asked how many blocks fit on a multiprocessor: 32 questions each, of
/// less than a microsecond.
const RESIDENCE_FUNCTIONS: usize = 64;
/// CUDA C++ Programming Guide, "Compute Capabilities": threads of a block.
const MOST_THREADS: i32 = 1024;

/// An image where the driver can read it: on a 16-byte boundary, with zeros behind it.
///
/// The driver gets a pointer without a length and trusts the lengths inside, so nothing reaches it whose stated
/// extent has not been compared with the bytes that are there.
struct Aligned {
    words: Vec<u128>,
    bytes: usize,
}

impl Aligned {
    fn new(image: &[u8]) -> CuResult<Self> {
        // Zeros behind a text are its end; the driver wants that NUL counted.
        let text_end = match Image::classify(image) {
            Ok(Image::Elf(bytes))
                if fatbin::cubin::elf_len(bytes).is_ok_and(|length| length <= bytes.len()) =>
            {
                0
            }
            Ok(Image::Fatbin(_)) => 0,
            Ok(Image::Ptx(_)) => 1,
            _ => return Err(CuError::INVALID_IMAGE),
        };
        let mut words: Vec<u128> = image
            .chunks(size_of::<u128>())
            .map(|chunk| {
                let mut word = [0; size_of::<u128>()];
                word[..chunk.len()].copy_from_slice(chunk);
                u128::from_ne_bytes(word)
            })
            .collect();
        words.push(0);
        Ok(Self { words, bytes: image.len() + text_end })
    }

    fn pointer(&self) -> *const c_void {
        self.words.as_ptr().cast()
    }
}

const INPUT_CUBIN: c_uint = 0;
const INPUT_PTX: c_uint = 1;
const INPUT_FATBIN: c_uint = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_passed_with_its_end_and_other_bytes_are_not_passed() {
        let image = Aligned::new(b".version 9.0\n.target").unwrap();
        assert_eq!(image.bytes, 21);
        assert_eq!(image.pointer().addr() % 16, 0);
        assert_eq!(image.words.len(), 3);
        assert_eq!(Aligned::new(b"not an image").err(), Some(CuError::INVALID_IMAGE));
        assert_eq!(Aligned::new(b"\x7fELF and no more").err(), Some(CuError::INVALID_IMAGE));
    }
}
