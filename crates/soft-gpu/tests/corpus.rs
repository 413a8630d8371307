//! Every PTX file of `tests/corpus` runs on the device, and each `// run:` line at its foot is checked.
//!
//! `// run: kernel<<<grid, block>>>(arguments) == results` starts `kernel` with the address of zeroed memory as its
//! first parameter, then the arguments, and compares what it wrote there. `<<<...>>>` is left out for one thread.
//! A number is `0x` with as many digits as its width has (`0x00ff` is 16 bits), or a decimal with `f` (32 bits) or
//! `d` (64 bits). A result may end with `~n`, up to `n` units in the last place away, and with `*n`, for `n` of them.
//! Expected values are computed from the text of the PTX ISA.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use cuda_types::{CUdeviceptr, CUmodule, CUstream, Dim3};
use proto::{ContextCalls, Device, LaunchCalls, MemoryCalls, ModuleCalls, ModuleFacts};
use soft_gpu::{SoftGpu, SoftOptions};

const CHUNK: u64 = 2 << 20;
/// What a kernel may write.
const OUT_BYTES: u64 = 4096;
const WINDOW_BYTES: u64 = 1 << 30;

#[test]
fn every_line_of_the_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("the corpus").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    let mut failures = Vec::new();
    for file in &files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let text = fs::read_to_string(file).expect("readable");
        let runner = match Runner::open(&text) {
            Ok(runner) => runner,
            Err(why) => {
                failures.push(format!("{name}: {why}"));
                continue;
            }
        };
        let runs: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("// run: ")).collect();
        assert!(!runs.is_empty(), "{name} checks nothing");
        for run in runs {
            if let Err(why) = runner.check(run) {
                failures.push(format!("{name}: {run}\n    {why}"));
            }
        }
    }
    assert!(files.len() > 1, "the corpus is not there");
    assert!(failures.is_empty(), "{} lines fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_value_of_a_conditional_node_is_a_word_at_its_handle() {
    let text = |name: &str, own: &str| {
        format!(
            ".version 7.0\n.target sm_52\n.address_size 64\n{own}\n\
            .visible .entry put(.param .u64 out, .param .b32 a)\n\
            {{ .reg .b64 %rd; .reg .b32 %r; ld.param.u64 %rd, [out]; ld.param.b32 %r, [a];\n\
            {{ .param .b64 p0; .param .b32 p1; st.param.b64 [p0], %rd; st.param.b32 [p1], %r;\n\
            call.uni {name}, (p0, p1); }} ret; }}"
        )
    };
    let declared = |name| format!(".extern .func {name} (.param .b64 handle, .param .b32 value);");
    for name in ["cudaGraphSetConditional", "vgpu_set_conditional"] {
        let runner = Runner::open(&text(name, &declared(name))).expect("it loads");
        assert_eq!(runner.check("put(7.5f) == 7.5f, 0x00000000"), Ok(()));
    }
    // A program's own function of the name is its own.
    let own = ".visible .func cudaGraphSetConditional (.param .b64 handle, .param .b32 value)\n\
        { .reg .b64 %rd; ld.param.b64 %rd, [handle]; st.b32 [%rd+4], 9; ret; }";
    let runner = Runner::open(&text("cudaGraphSetConditional", own)).expect("it loads");
    assert_eq!(runner.check("put(7.5f) == 0x00000000, 0x00000009"), Ok(()));
}

#[test]
fn a_wrong_expectation_is_told() {
    let kernel = ".version 7.0\n.target sm_52\n.address_size 64\n.visible .entry put(.param .u64 out, .param .b32 a)\n\
        { .reg .b64 %rd; .reg .b32 %r; ld.param.u64 %rd, [out]; ld.param.b32 %r, [a]; st.global.b32 [%rd], %r; }";
    let runner = Runner::open(kernel).expect("it loads");
    assert_eq!(runner.check("put(1.5f) == 1.5f"), Ok(()));
    assert_eq!(runner.check("put(1.0f) == 0x3f800001~1"), Err("0 of [0x3f800001~1]: 0x3f800000".into()));
    assert_eq!(runner.check("put(1.0f) == 1.0000001f~1"), Ok(()));
    assert!(runner.check("put(1.0f) == 1.0000002f~1").is_err());
    assert!(runner.check("put(nanf) == 1.0f").is_err());
    assert!(runner.check("get(1.0f) == 1.0f").is_err());
}

/// A device with one module.
struct Runner {
    gpu: SoftGpu,
    memory: CUdeviceptr,
    module: CUmodule,
    facts: ModuleFacts,
}

impl Runner {
    fn open(text: &str) -> Result<Runner, String> {
        let gpu = SoftGpu::open(0, SoftOptions::default()).expect("a software GPU");
        // Tests of one process share the address space.
        let base = (0..64)
            .map(|slot| 0x2000_0000_0000 + slot * WINDOW_BYTES)
            .find(|base| gpu.reserve_window(*base, WINDOW_BYTES).is_ok())
            .expect("room for a window");
        gpu.vgpuMemMap(base, CHUNK).expect("memory");
        let memory = CUdeviceptr(base);
        gpu.cuMemAlloc_v2(memory, CHUNK).expect("the chunk");
        let (module, facts) =
            gpu.cuModuleLoadData(vec![text.as_bytes()]).map_err(|error| format!("load: {error:?}"))?;
        Ok(Runner { gpu, memory, module, facts })
    }

    fn check(&self, run: &str) -> Result<(), String> {
        let (call, wanted) = run.split_once(" == ").ok_or("no ` == `")?;
        let (head, arguments) = call.split_once('(').ok_or("no `(`")?;
        let arguments = arguments.strip_suffix(')').ok_or("no `)`")?;
        let (kernel, shape) = head.split_once("<<<").unwrap_or((head, "1, 1>>>"));
        let (grid, block) = shape.trim_end_matches('>').split_once(", ").ok_or("no shape")?;
        let extent = |text: &str| text.parse().map(|x| Dim3 { x, y: 1, z: 1 }).map_err(|_| "no extent");
        if let Some(why) =
            self.facts.functions.iter().find(|f| f.name == kernel).and_then(|f| f.unsupported.clone())
        {
            return Err(why);
        }
        let mut bytes = self.memory.0.to_le_bytes().to_vec();
        for argument in arguments.split(", ").filter(|argument| !argument.is_empty()) {
            let number = Number::parse(argument)?;
            // Values stand one behind the other, without padding.
            bytes.extend_from_slice(&number.bits.to_le_bytes()[..number.bytes]);
        }
        let wanted = wanted.split(", ").map(Number::parse).collect::<Result<Vec<_>, _>>()?;
        let name = CString::new(kernel).expect("no NUL in a line");
        let tell = |what: &'static str| move |error| format!("{what}: {error:?}");
        let function = self.gpu.cuModuleGetFunction(self.module, &name).map_err(tell("lookup"))?;
        self.gpu.cuMemsetD8Async(self.memory, 0, OUT_BYTES, CUstream::NULL).map_err(tell("set"))?;
        self.gpu
            .cuLaunchKernel(function, extent(grid)?, extent(block)?, 0, CUstream::NULL, &bytes)
            .map_err(tell("launch"))?;
        self.gpu.cuCtxSynchronize().map_err(tell("run"))?;
        let found = self.gpu.cuMemcpyDtoH_v2(self.memory, OUT_BYTES, CUstream::NULL).map_err(tell("read"))?;
        let mut at = 0;
        for (index, number) in wanted.iter().flat_map(|number| vec![number; number.count]).enumerate() {
            at = usize::next_multiple_of(at, number.bytes);
            let mut bits = [0; 8];
            bits[..number.bytes].copy_from_slice(&found[at..at + number.bytes]);
            at += number.bytes;
            let bits = u64::from_le_bytes(bits);
            if !number.accepts(bits) {
                let digits = 2 * number.bytes;
                return Err(format!("{index} of [{}]: 0x{bits:0digits$x}", number.text));
            }
        }
        Ok(())
    }
}

/// A number of a line.
struct Number {
    text: String,
    bits: u64,
    bytes: usize,
    /// For a number in decimal, any NaN is as good as another.
    is_float: bool,
    ulps: u64,
    count: usize,
}

impl Number {
    fn parse(text: &str) -> Result<Number, String> {
        let bad = || format!("`{text}` is no number");
        let (rest, count) = text.split_once('*').unwrap_or((text, "1"));
        let (value, ulps) = rest.split_once('~').unwrap_or((rest, "0"));
        let (bits, bytes, is_float) = if let Some(digits) = value.strip_prefix("0x") {
            (u64::from_str_radix(digits, 16).map_err(|_| bad())?, digits.len() / 2, false)
        } else if let Some(value) = value.strip_suffix('f') {
            (u64::from(value.parse::<f32>().map_err(|_| bad())?.to_bits()), 4, true)
        } else {
            let value = value.strip_suffix('d').ok_or_else(bad)?;
            (value.parse::<f64>().map_err(|_| bad())?.to_bits(), 8, true)
        };
        if ![1, 2, 4, 8].contains(&bytes) {
            return Err(bad());
        }
        let ulps = ulps.parse().map_err(|_| bad())?;
        let count = count.parse().map_err(|_| bad())?;
        Ok(Number { text: text.into(), bits, bytes, is_float, ulps, count })
    }

    fn accepts(&self, bits: u64) -> bool {
        let exponent = if self.bytes == 8 { 0x7ff0_0000_0000_0000 } else { 0x7f80_0000 };
        let magnitude = |bits: u64| bits & (u64::MAX >> (65 - 8 * self.bytes));
        if self.is_float && magnitude(self.bits) > exponent {
            return magnitude(bits) > exponent;
        }
        let signs_agree = self.bits - magnitude(self.bits) == bits - magnitude(bits);
        self.bits == bits
            || signs_agree && self.is_float && magnitude(self.bits).abs_diff(magnitude(bits)) <= self.ulps
    }
}
