//! Modules of a device that computes nothing: which kernels and variables an image names.

use cuda_types::{CUfunction, CUmodule, CuError, CuResult};
use fatbin::{Cubin, Image, Kind, Variable};
use proto::{FunctionFacts, GlobalFacts, ModuleCalls, ModuleFacts};

use super::{NullGpu, TOTAL_BYTES};

impl ModuleCalls for NullGpu {
    /// Any image is a module with the kernels that it names, and with the variables of its machine code, all zero.
    fn cuModuleLoadData(&self, images: Vec<&[u8]>) -> CuResult<(CUmodule, ModuleFacts)> {
        let functions = images.iter().flat_map(|image| kernels(image)).collect();
        let module = self.handle();
        let globals = self.globals(module, images.iter().flat_map(|image| variables(image)).collect());
        Ok((CUmodule(module), ModuleFacts { functions, globals }))
    }
    fn cuModuleUnload(&self, _: CUmodule) -> CuResult<()> {
        Ok(())
    }
    fn cuModuleGetFunction(&self, _: CUmodule, _: &std::ffi::CStr) -> CuResult<CUfunction> {
        Ok(CUfunction(self.handle()))
    }
    fn cuFuncSetAttribute(&self, _: CUfunction, _: i32, _: i32) -> CuResult<()> {
        Ok(())
    }
    fn cuFuncGetAttribute(&self, _: CUfunction, _: i32) -> CuResult<i32> {
        Err(CuError::NOT_SUPPORTED)
    }
    fn cuFuncSetCacheConfig(&self, _: CUfunction, _: u32) -> CuResult<()> {
        Ok(())
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        &self,
        _: CUfunction,
        block_size: i32,
        _: u64,
        _: u32,
    ) -> CuResult<i32> {
        (block_size > 0).then(|| 2048 / block_size).ok_or(CuError::INVALID_VALUE)
    }
}

impl NullGpu {
    /// Gives the variables of a module a place, outside every window.
    fn globals(&self, module: u64, variables: Vec<Variable>) -> Vec<GlobalFacts> {
        let (base, mut bytes) = (GLOBALS_BASE + (module << 32), 0);
        let globals = variables.into_iter().map(|variable| {
            let address = base + bytes;
            bytes = (bytes + variable.bytes.min(TOTAL_BYTES).next_multiple_of(256)).min(TOTAL_BYTES);
            GlobalFacts { name: variable.name, address, bytes: variable.bytes }
        });
        let globals = globals.collect();
        let room = usize::try_from(bytes).unwrap_or(0);
        self.lock().chunks.insert(base, vec![0; room]);
        globals
    }
}

/// Variables of an image's machine code.
fn variables(image: &[u8]) -> Vec<Variable> {
    let of_cubin = |bytes: &[u8]| Cubin::parse(bytes).map(|cubin| cubin.variables).unwrap_or_default();
    match Image::classify(image) {
        Ok(Image::Elf(bytes)) => of_cubin(bytes),
        Ok(Image::Fatbin(fatbin)) => {
            let elf = fatbin.entries().iter().find(|entry| entry.kind() == Kind::ELF);
            elf.and_then(|entry| entry.payload().ok()).map(|bytes| of_cubin(&bytes)).unwrap_or_default()
        }
        Ok(Image::Ptx(_)) | Err(_) => Vec::new(),
    }
}

/// Kernels of an image: by the records of machine code, or else by PTX text.
fn kernels(image: &[u8]) -> Vec<FunctionFacts> {
    let of_cubin = |bytes: &[u8]| match Cubin::parse(bytes) {
        Ok(cubin) => cubin
            .kernels
            .into_iter()
            .map(|kernel| {
                let layout = kernel.params.iter().map(|param| (param.size, param.offset));
                function(kernel.name, layout.unzip())
            })
            .collect(),
        Err(_) => Vec::new(),
    };
    match Image::classify(image) {
        Ok(Image::Fatbin(fatbin)) => match (fatbin.ptx_images().next(), fatbin.entries().first()) {
            (Some(entry), _) => entries(&entry.ptx().unwrap_or_default()),
            (None, Some(entry)) => entry.payload().map(|bytes| of_cubin(&bytes)).unwrap_or_default(),
            (None, None) => Vec::new(),
        },
        Ok(Image::Elf(bytes)) => of_cubin(bytes),
        Ok(Image::Ptx(_)) | Err(_) => entries(&String::from_utf8_lossy(image)),
    }
}

fn function(name: String, (parameters, offsets): (Vec<u32>, Vec<u32>)) -> FunctionFacts {
    let attributes = vec![1024, 0, 0, 0, 32, 90, 90, 0, 49152, 0, 0, 0, 0, 0, 0, 0];
    let resident = (1..=1024 / 32).map(|warps| 2048 / 32 / warps).collect();
    FunctionFacts { name, parameters, offsets, attributes, resident, unsupported: None }
}

/// Kernels of a PTX text and the sizes of their parameters.
fn entries(text: &str) -> Vec<FunctionFacts> {
    let parsed = ptx::Module::parse(text).map(|module| module.functions).unwrap_or_default();
    let kernels = parsed.into_iter().filter(|function| function.is_kernel);
    kernels
        .map(|kernel| {
            let layout =
                kernel.param_layout().into_iter().map(|parameter| (parameter.size, parameter.offset));
            function(kernel.name.into(), layout.unzip())
        })
        .collect()
}

const GLOBALS_BASE: u64 = 0x4000_0000_0000;
