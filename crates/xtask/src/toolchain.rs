//! The tools that are not Rust: installed when they are missing, left alone when they are there.
//!
//! MPI comes from Debian's packages, which needs root. NVIDIA's compiler and runtime come as Python wheels of pinned
//! versions into `target/toolchain`; they are used there under NVIDIA's licence and never passed on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, Need, Probe};
use crate::workspace::{Doing, Outcome, Workspace, finish, is_installed, output, relink};

/// Tools that are ready to be used.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    /// What `CUDA_HOME` is set to.
    pub(crate) cuda: PathBuf,
    /// A runtime of CUDA 12 with its headers, to test the older major.
    pub(crate) cudart12: PathBuf,
    /// The newest runtime of CUDA 13.
    pub(crate) cudart13: PathBuf,
}

/// An implementation of MPI. Debian installs both side by side under these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mpi {
    OpenMpi,
    Mpich,
}

impl Toolchain {
    /// Installs what is missing, and says what.
    pub(crate) fn ready(workspace: &Workspace) -> Outcome<Self> {
        debian::install(&DEBIAN)?;
        let folder = workspace.toolchain();
        for set in WHEELS {
            set.install(&folder)?;
        }
        let cuda = folder.join("cuda");
        let home = "compiler/nvidia/cu13";
        std::fs::metadata(folder.join(home).join("bin/nvcc")).doing("looking for nvcc in its wheel")?;
        relink(home, &cuda)?;
        // nvcc looks in lib64, and a linker asks for the name without a version.
        relink("lib", &cuda.join("lib64"))?;
        relink("libcudart.so.13", &cuda.join("lib/libcudart.so"))?;
        Ok(Self {
            cuda,
            cudart12: folder.join("cudart12/nvidia/cuda_runtime"),
            cudart13: folder.join("cudart13/nvidia/cu13"),
        })
    }

    /// A Python with libraries, in an environment of its own that is made when it is asked for.
    pub(crate) fn python(workspace: &Workspace) -> Outcome<PathBuf> {
        let environment = workspace.toolchain().join("python");
        let python = environment.join("bin/python");
        if !python.exists() {
            finish(Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&environment))?;
        }
        let folder =
            output(Command::new(&python).args(["-c", "import site; print(site.getsitepackages()[0])"]))?;
        PYTHON.install_into(Path::new(folder.trim()))?;
        Ok(python)
    }

    /// A call of nvcc.
    pub(crate) fn nvcc(&self) -> Command {
        let mut command = Command::new(self.cuda.join("bin/nvcc"));
        command.args(["-std=c++17", "-O2"]);
        command
    }

    /// Tells a command where the tools are.
    pub(crate) fn lend(&self, command: &mut Command) {
        command.env("CUDA_HOME", &self.cuda);
        command.env("VGPU_TEST_CUDART12", &self.cudart12);
        command.env("VGPU_TEST_CUDART13", &self.cudart13);
    }
}

impl Mpi {
    pub(crate) const ALL: [Mpi; 2] = [Mpi::OpenMpi, Mpi::Mpich];

    /// As Debian's alternatives call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mpi::OpenMpi => "openmpi",
            Mpi::Mpich => "mpich",
        }
    }

    /// What the starters are told beside their arguments; others do not look at it.
    pub(crate) const ENVIRONMENT: [(&str, &str); 2] =
        [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")];

    /// The starter of `ranks` ranks; options for it and the program follow.
    pub(crate) fn starter(self, ranks: u32) -> Vec<String> {
        let mut words = vec![format!("mpiexec.{}", self.name())];
        if self == Mpi::OpenMpi {
            words.extend(["--oversubscribe", "--bind-to", "none"].map(str::to_owned));
            // Containers refuse the system call that this would use between ranks.
            words.extend(["--mca", "btl_vader_single_copy_mechanism", "none"].map(str::to_owned));
        }
        words.extend(["-n".to_owned(), ranks.to_string()]);
        words
    }

    /// What a compiler must be told: the C interface of this MPI.
    pub(crate) fn compile_flags(self) -> Outcome<Vec<String>> {
        let text = match self {
            Mpi::OpenMpi => {
                let ask = |what| output(Command::new("mpicc.openmpi").arg(what));
                format!("-DOMPI_SKIP_MPICXX {} {}", ask("--showme:compile")?, ask("--showme:link")?)
            }
            Mpi::Mpich => {
                format!("-DMPICH_SKIP_MPICXX {}", output(Command::new("mpicc.mpich").arg("-link-info"))?)
            }
        };
        // nvcc understands these; what a wrapper says beside them is for a host compiler.
        let known = |word: &&str| ["-I", "-L", "-l", "-D"].iter().any(|flag| word.starts_with(flag));
        Ok(text.split_whitespace().filter(known).map(str::to_owned).collect())
    }
}

/// A helper of cargo, which cargo itself installs. Compiling it the first time takes minutes.
pub(crate) struct Helper {
    name: &'static str,
    version: &'static str,
    /// What is said to `cargo install` beside name and version.
    features: &'static [&'static str],
}

impl Helper {
    /// The program: one that is installed already, else our own under `target/tools`, built now if it is not there.
    pub(crate) fn ready(&self, workspace: &Workspace) -> Outcome<PathBuf> {
        if is_installed(self.name) {
            return Ok(self.name.into());
        }
        let tools = workspace.root.join("target/tools");
        let own = tools.join("bin").join(self.name);
        if !own.is_file() {
            let Self { name, version, features } = self;
            println!("==> installing {name} {version} into {}", tools.display());
            let mut cargo = workspace.cargo();
            cargo.args(["install", "--quiet", "--locked", name, "--version", version]).args(*features);
            finish(cargo.arg("--root").arg(&tools).arg("--target-dir").arg(tools.join("build")))?;
        }
        Ok(own)
    }
}

pub(crate) const CARGO_DENY: Helper = Helper { name: "cargo-deny", version: "0.20.2", features: &[] };

/// Without a compressor in C: gzip is read by every dpkg.
pub(crate) const CARGO_DEB: Helper = Helper {
    name: "cargo-deb",
    version: "3.8.0",
    features: &["--no-default-features", "--features", "gzip"],
};

/// Wheels of one folder.
struct Wheels {
    folder: &'static str,
    what: &'static str,
    packages: &'static [&'static str],
}

impl Wheels {
    fn install(&self, toolchain: &Path) -> Outcome {
        self.install_into(&toolchain.join(self.folder))
    }

    fn install_into(&self, folder: &Path) -> Outcome {
        let receipt = folder.join("installed.txt");
        let wanted = self.packages.join("\n");
        if std::fs::read_to_string(&receipt).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        println!("==> installing {} into {}:", self.what, folder.display());
        for package in self.packages {
            println!("    {package}");
        }
        if folder.exists() {
            std::fs::remove_dir_all(folder).doing(format_args!("removing {}", folder.display()))?;
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]);
        pip.args(["--root-user-action", "ignore", "--target"]).arg(folder).args(self.packages);
        finish(&mut pip)?;
        std::fs::write(&receipt, wanted).doing(format_args!("writing {}", receipt.display()))
    }
}

fn has_pip() -> bool {
    is_installed("pip3")
        || Command::new("python3")
            .args(["-m", "pip", "--version"])
            .output()
            .is_ok_and(|out| out.status.success())
}

/// What we start, and the packages that bring it.
const DEBIAN: [Need; 6] = [
    Need { probe: Probe::Program("g++"), packages: "g++" },
    Need { probe: Probe::Program("mpicc.openmpi"), packages: "libopenmpi-dev" },
    Need { probe: Probe::Program("mpiexec.openmpi"), packages: "openmpi-bin" },
    Need { probe: Probe::Program("mpicc.mpich"), packages: "libmpich-dev" },
    Need { probe: Probe::Program("mpiexec.mpich"), packages: "mpich" },
    // A pip that is not a program of its own is good enough.
    Need { probe: Probe::Question(has_pip), packages: "python3 python3-pip" },
];

/// Libraries that compile kernels in Python, for the check that `--python` asks for. Without nvJitLink: it makes machine
/// code, which the software GPU cannot run, and without it they link with the driver.
const PYTHON: Wheels = Wheels {
    folder: "python",
    what: "cuda-python, Numba and CuPy, for a test",
    packages: &[
        "cuda-bindings==13.5.0",
        "cuda-core==1.2.2",
        "cuda-pathfinder==1.9.0",
        "cupy-cuda13x==14.2.0",
        "llvmlite==0.50.0",
        "numba==0.68.1",
        "numba-cuda==0.30.4",
        "numpy==2.4.6",
        "nvidia-cuda-cccl==13.3.4.3.1",
        "nvidia-cuda-nvrtc==13.4.92",
        "nvidia-cuda-runtime==13.4.92",
        "nvidia-nvvm==13.4.92",
        "packaging==26.3",
    ],
};

const WHEELS: [Wheels; 3] = [
    Wheels {
        folder: "compiler",
        what: "NVIDIA's compiler and runtime 13.0",
        packages: &[
            "nvidia-cuda-nvcc==13.0.88",
            "nvidia-nvvm==13.0.88",
            "nvidia-cuda-crt==13.0.88",
            "nvidia-cuda-runtime==13.0.96",
            "nvidia-cuda-cccl==13.0.85",
        ],
    },
    Wheels {
        folder: "cudart12",
        what: "NVIDIA's runtime 12.9, for tests",
        packages: &["nvidia-cuda-runtime-cu12==12.9.79"],
    },
    Wheels {
        folder: "cudart13",
        what: "NVIDIA's runtime 13.5, for tests",
        packages: &["nvidia-cuda-runtime==13.5.37"],
    },
];
