//! The programs under `examples/`, compiled by nvcc: for both MPIs, and with NVIDIA's runtime shared and linked in.
//!
//! A program is compiled again only when a source is newer, so that a repeated demo starts at once.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::toolchain::{Mpi, Toolchain};
use crate::workspace::{Doing, Outcome, Workspace, finish};

/// The four lessons, in order.
pub(crate) const SAMPLES: [&str; 4] = ["vecadd", "bandwidth", "transpose", "BlackScholes"];

/// How NVIDIA's runtime comes into a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// As `libcudart.so.13`, which ours replaces.
    Shared,
    /// Inside the program, nvcc's default: its functions are redirected.
    Static,
}

impl Runtime {
    pub(crate) const ALL: [Runtime; 2] = [Runtime::Shared, Runtime::Static];

    /// As nvcc's option `-cudart` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Runtime::Shared => "shared",
            Runtime::Static => "static",
        }
    }

    fn folder(self, dist: &Path) -> PathBuf {
        match self {
            Runtime::Shared => dist.join("samples"),
            Runtime::Static => dist.join("samples/static"),
        }
    }
}

/// Where a sample lies.
pub(crate) fn sample(dist: &Path, name: &str, mpi: Mpi, runtime: Runtime) -> PathBuf {
    runtime.folder(dist).join(mpi.name()).join(name)
}

/// Where a sample lies that needs no MPI: one rank, with NVIDIA's runtime linked in.
pub(crate) fn alone(dist: &Path, name: &str) -> PathBuf {
    dist.join("samples/alone").join(name)
}

/// Where a test lies.
pub(crate) fn test(dist: &Path, name: &str, runtime: Runtime) -> PathBuf {
    runtime.folder(dist).join("tests").join(name)
}

/// The names of the tests.
pub(crate) fn tests(workspace: &Workspace) -> Outcome<Vec<String>> {
    let folder = workspace.root.join("examples/tests");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).doing("reading examples/tests")? {
        let path = entry.doing("reading examples/tests")?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Where a program of the driver API lies.
pub(crate) fn driver_program(dist: &Path, name: &str) -> PathBuf {
    dist.join("samples/driver").join(name)
}

/// The programs of the driver API, in C++ and CUDA C++.
pub(crate) fn driver_programs(workspace: &Workspace) -> Outcome<Vec<String>> {
    let mut names: Vec<String> = driver_sources(workspace)?
        .iter()
        .filter_map(|source| source.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Whether a program of the driver API is one for several ranks.
pub(crate) fn is_for_ranks(name: &str) -> bool {
    name.ends_with("_mpi")
}

fn driver_sources(workspace: &Workspace) -> Outcome<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(workspace.root.join("examples/driver")).doing("reading examples/driver")? {
        let path = entry.doing("reading examples/driver")?.path();
        let is_program = path.extension().is_some_and(|extension| extension == "cu" || extension == "cpp");
        if is_program && path.file_stem().is_some_and(|stem| stem != KERNELS) {
            sources.push(path);
        }
    }
    Ok(sources)
}

/// What callgrind counts the instructions of.
pub(crate) fn calls(dist: &Path) -> PathBuf {
    dist.join("samples/bench/calls")
}

/// The kernels of the driver API's programs, which load them from files beside themselves.
const KERNELS: &str = "kernels";

/// What the programs of `tests` and of `driver` include.
fn verdict(workspace: &Workspace) -> PathBuf {
    workspace.root.join("examples/expect.h")
}

fn driver_jobs(workspace: &Workspace, dist: &Path) -> Outcome<Vec<Job>> {
    let folder = workspace.root.join("examples/driver");
    let kernels = folder.join(KERNELS).with_extension("cu");
    let mut jobs = Vec::new();
    for (extension, flag) in [("ptx", "-ptx"), ("fatbin", "-fatbin")] {
        jobs.push(Job {
            program: driver_program(dist, KERNELS).with_extension(extension),
            sources: vec![kernels.clone()],
            runtime: Runtime::Shared,
            flags: vec![flag.to_owned(), "-arch=compute_80".to_owned()],
        });
    }
    let lib = dist.join("lib").display().to_string();
    for source in driver_sources(workspace)? {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut flags = vec![format!("-L{lib}"), "-lcuda".to_owned(), "-Xcompiler=-pthread".to_owned()];
        if is_for_ranks(&name) {
            flags.extend(Mpi::OpenMpi.compile_flags()?);
        }
        let program = driver_program(dist, &name);
        jobs.push(Job {
            program,
            sources: vec![source, folder.join("driver.h"), verdict(workspace)],
            runtime: Runtime::Shared,
            flags,
        });
    }
    Ok(jobs)
}

/// Compiles all samples and tests that are older than their sources.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Outcome {
    let dist = workspace.dist();
    let examples = workspace.root.join("examples");
    let mut jobs = Vec::new();
    for runtime in Runtime::ALL {
        for mpi in Mpi::ALL {
            let flags = mpi.compile_flags()?;
            for name in SAMPLES {
                let source = examples.join(name).with_extension("cu");
                let program = sample(&dist, name, mpi, runtime);
                let sources = vec![source, examples.join("sample.h")];
                jobs.push(Job { program, sources, runtime, flags: flags.clone() });
            }
        }
        for name in tests(workspace)? {
            let source = examples.join("tests").join(&name).with_extension("cu");
            let program = test(&dist, &name, runtime);
            jobs.push(Job {
                program,
                sources: vec![source, examples.join("tests/test.h"), verdict(workspace)],
                runtime,
                flags: vec![],
            });
        }
    }
    for name in SAMPLES {
        let folder = examples.join("alone");
        let sources =
            [examples.join(name).with_extension("cu"), examples.join("sample.h"), folder.join("mpi.h")];
        let flags = vec![format!("-I{}", folder.display())];
        let program = alone(&dist, name);
        jobs.push(Job { program, sources: sources.into(), runtime: Runtime::Static, flags });
    }
    jobs.extend(driver_jobs(workspace, &dist)?);
    let source = workspace.root.join("benches/programs/calls.cu");
    jobs.push(Job { program: calls(&dist), sources: vec![source], runtime: Runtime::Shared, flags: vec![] });
    jobs.retain(|job| !job.is_current());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let shares = jobs.chunks(jobs.len().div_ceil(workers).max(1));
        let compiling: Vec<_> = shares
            .map(|share| scope.spawn(|| share.iter().try_for_each(|job| job.compile(toolchain))))
            .collect();
        compiling.into_iter().try_for_each(|share| share.join().expect("compiling does not panic"))
    })
}

struct Job {
    program: PathBuf,
    /// The source, then headers.
    sources: Vec<PathBuf>,
    runtime: Runtime,
    flags: Vec<String>,
}

impl Job {
    fn is_current(&self) -> bool {
        let modified = |path: &PathBuf| path.metadata().and_then(|data| data.modified());
        let Ok(built) = modified(&self.program) else { return false };
        self.sources.iter().all(|source| modified(source).unwrap_or(SystemTime::now()) < built)
    }

    fn compile(&self, toolchain: &Toolchain) -> Outcome {
        let folder = self.program.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).doing(format_args!("making {}", folder.display()))?;
        let mut nvcc = toolchain.nvcc();
        nvcc.args(["-cudart", self.runtime.name(), "-o"]).arg(&self.program).arg(&self.sources[0]);
        finish(nvcc.args(&self.flags))
    }
}
