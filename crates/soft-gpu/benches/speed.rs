//! The software GPU beside the same computation in plain C, `gcc -O2`, on as many threads.
//!
//! `cargo bench -p soft-gpu --bench speed` prints for each kernel of `kernels.cu` how many times longer than C it takes from launch to
//! synchronize: the median of the ratios of runs that follow each other. `-- --gate` fails where that is above 3. The results of
//! both sides are compared before anything is timed; a ratio above the gate is measured again, up to three times, and the best is
//! judged. `--json FILE` writes the gates down as `benches` does. A word among the arguments runs the kernel of that name alone.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

use cuda_types::{CUdeviceptr, CUfunction, CUmodule, CUstream, Dim3};
use proto::{ContextCalls, Device, LaunchCalls, MemoryCalls, ModuleCalls};
use soft_gpu::{SoftGpu, SoftOptions};

/// The most that a kernel may take, as a multiple of C.
const LIMIT: f64 = 3.0;
/// What it should come to.
const STRETCH: f64 = 1.2;
/// The most times that a ratio is measured.
const TRIES: usize = 3;
const COUNT: u32 = 1 << 22;
const SIDE: u32 = 1 << 11;
const BYTES: u64 = COUNT as u64 * 4;
const BLOCK: u32 = 256;
const PAIRS: usize = 15;
const WINDOW: u64 = 0x2000_0000_0000;
const WINDOW_BYTES: u64 = 1 << 30;
const BUFFERS: u64 = 5;
const KERNELS: [&str; 4] = ["vecadd", "transpose", "price", "reduce"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let gate = arguments.iter().any(|argument| argument == "--gate");
    let json = arguments.iter().position(|argument| argument == "--json");
    let json = json.and_then(|at| arguments.get(at + 1));
    let asked = |kernel: &&str| {
        let is_name = |argument: &&String| !argument.starts_with('-') && Some(*argument) != json;
        let mut names = arguments.iter().filter(is_name).peekable();
        names.peek().is_none() || names.any(|name| name == kernel)
    };
    let options = SoftOptions::default();
    let mut reference = Reference::start(options.threads);
    let soft = Soft::open(options);
    let mut good = true;
    let mut judged = Vec::new();
    println!("{:12} {:>9} {:>9} {:>7}   least to most", "kernel", "soft ms", "C ms", "ratio");
    for kernel in KERNELS.into_iter().filter(asked) {
        soft.run(kernel);
        reference.run(kernel);
        compare(kernel, &soft.result(), &reference.result());
        let mut best: Option<Vec<f64>> = None;
        for _ in 0..TRIES {
            let pairs: Vec<[f64; 2]> =
                (0..PAIRS).map(|_| [soft.run(kernel), reference.run(kernel)]).collect();
            let ratios = sorted(pairs.iter().map(|pair| pair[0] / pair[1]));
            let [soft_ms, plain_ms] =
                [0, 1].map(|side| sorted(pairs.iter().map(|pair| pair[side]))[PAIRS / 2]);
            let ratio = ratios[PAIRS / 2];
            println!(
                "{kernel:12} {soft_ms:9.2} {plain_ms:9.2} {ratio:7.2}   {:.2} to {:.2}",
                ratios[0],
                ratios[PAIRS - 1]
            );
            if best.as_ref().is_none_or(|best| ratio < best[PAIRS / 2]) {
                best = Some(ratios);
            }
            if ratio <= LIMIT {
                break;
            }
        }
        let ratios = best.expect("it was measured");
        let ratio = ratios[PAIRS / 2];
        good &= ratio <= LIMIT;
        judged.push(serde_json::json!({
            "id": "G22", "what": format!("{kernel}: software GPU / C, gcc -O2, same threads, 2^22 elements"), "value": ratio,
            "samples": ratios, "bound": "<=", "gate": LIMIT, "stretch": STRETCH, "pass": ratio <= LIMIT, "missing": null,
        }));
    }
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&judged).expect("numbers and words");
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    if gate && !good {
        println!("a ratio is above {LIMIT}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The device, with the kernels loaded and the buffers filled.
struct Soft {
    gpu: SoftGpu,
    module: CUmodule,
}

impl Soft {
    fn open(options: SoftOptions) -> Soft {
        let gpu = SoftGpu::open(0, options).expect("a software GPU");
        gpu.reserve_window(WINDOW, WINDOW_BYTES).expect("room for a window");
        gpu.vgpuMemMap(WINDOW, BYTES * BUFFERS).expect("memory");
        for (index, seed) in (0..BUFFERS).zip(1_u32..) {
            gpu.cuMemAlloc_v2(buffer(index), BYTES).expect("a buffer");
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                0.5 + f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 65_536.0
            };
            let bytes: Vec<u8> = (0..COUNT).flat_map(|_| next().to_le_bytes()).collect();
            gpu.cuMemcpyHtoD_v2(buffer(index), &bytes, CUstream::NULL).expect("a copy");
        }
        let text = include_str!("kernels.ptx");
        let (module, _) = gpu.cuModuleLoadData(vec![text.as_bytes()]).expect("the kernels load");
        Soft { gpu, module }
    }

    /// Milliseconds from launch to synchronize.
    fn run(&self, kernel: &str) -> f64 {
        let name = CString::new(kernel).expect("no NUL in a name");
        let function = self.gpu.cuModuleGetFunction(self.module, &name).expect("the kernel is there");
        let start = Instant::now();
        let (blocks, tiles) = (COUNT / BLOCK, SIDE / 32);
        match kernel {
            "vecadd" => self.launch(function, (blocks, 1), (BLOCK, 1), 0, &[0, 1, 3], COUNT),
            "transpose" => self.launch(function, (tiles, tiles), (32, 8), 0, &[0, 3], SIDE),
            "price" => self.launch(function, (blocks, 1), (BLOCK, 1), 0, &[0, 1, 2, 3, 4], COUNT),
            _ => {
                // Sums of blocks, and their sums, until one is left.
                let (mut left, mut from, mut to) = (COUNT, 0, 3);
                while left > 1 {
                    let blocks = left.div_ceil(BLOCK);
                    self.launch(function, (blocks, 1), (BLOCK, 1), 4 * BLOCK, &[from, to], left);
                    (left, from, to) = (blocks, to, 7 - to);
                }
            }
        }
        self.gpu.cuCtxSynchronize().expect("the kernel runs");
        start.elapsed().as_secs_f64() * 1e3
    }

    fn launch(
        &self,
        function: CUfunction,
        grid: (u32, u32),
        block: (u32, u32),
        shared: u32,
        buffers: &[u64],
        last: u32,
    ) {
        let mut arguments: Vec<u8> =
            buffers.iter().flat_map(|&index| buffer(index).0.to_le_bytes()).collect();
        arguments.extend(last.to_le_bytes());
        let extent = |(x, y): (u32, u32)| Dim3 { x, y, z: 1 };
        self.gpu
            .cuLaunchKernel(function, extent(grid), extent(block), shared, CUstream::NULL, &arguments)
            .expect("the launch is taken");
    }

    fn result(&self) -> Vec<f32> {
        floats(&self.gpu.cuMemcpyDtoH_v2(buffer(3), BYTES, CUstream::NULL).expect("a copy"))
    }
}

fn buffer(index: u64) -> CUdeviceptr {
    CUdeviceptr(WINDOW + BYTES * index)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// `reference.c`, built and running: it is asked line by line.
struct Reference {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Reference {
    fn start(threads: usize) -> Reference {
        let folder = std::env::temp_dir().join(format!("soft-gpu-speed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the program");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/reference.c");
        let program = folder.join("reference");
        let mut compiler = Command::new("gcc");
        compiler.args(["-std=gnu11", "-O2", "-Wall", "-pthread", "-o"]).arg(&program).arg(source).arg("-lm");
        assert!(compiler.status().expect("gcc is installed").success(), "reference.c compiles");
        let sizes = [COUNT as usize, SIDE as usize, threads].map(|size| size.to_string());
        let mut running = Command::new(program);
        let mut child = running
            .args(sizes)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was just built");
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        Reference { child, to, from, folder }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.to, "{line}").expect("it reads");
        let mut answer = String::new();
        self.from.read_line(&mut answer).expect("it answers");
        answer.trim().into()
    }

    /// Milliseconds that it took.
    fn run(&mut self, kernel: &str) -> f64 {
        self.ask(&format!("run {kernel}")).parse().expect("milliseconds")
    }

    fn result(&mut self) -> Vec<f32> {
        let file = self.folder.join("result");
        assert_eq!(self.ask(&format!("dump {}", file.display())), "dumped");
        floats(&std::fs::read(file).expect("it was just written"))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Panics where the two sides are not as close as their arithmetic allows.
fn compare(kernel: &str, soft: &[f32], plain: &[f32]) {
    let (count, tolerance) = match kernel {
        // One sum, in another order.
        "reduce" => (1, plain[0] * 1e-2),
        // The kernel's exponential is approximate.
        "price" => (plain.len(), 1e-5),
        _ => (plain.len(), 0.0),
    };
    let worst = soft[..count].iter().zip(plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let wrong = soft[..count].iter().zip(plain).position(|(a, b)| (a - b).abs() > tolerance || a.is_nan());
    assert!(wrong.is_none(), "{kernel}: element {wrong:?} differs; {worst} at most");
}
