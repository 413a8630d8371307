//! `target/dist`, laid out as a user would install it.
//!
//! | folder | what |
//! | --- | --- |
//! | `bin` | `vgpu`, `vgpu-bench`, the server, and the verbs plug-in where it can be built |
//! | `lib` | the client's libraries, for `LD_LIBRARY_PATH` and `LD_PRELOAD`; the plug-in again |
//! | `lib/soft` | the software GPU as a CUDA driver, for programs on this machine |
//! | `share` | manual pages and completions of `vgpu` and `vgpu-bench` |
//! | `samples` | the examples, by MPI; under `static` with NVIDIA's runtime linked in; under `alone` without MPI, too |
//! | `commit` | which sources all this is made of |

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::plugin;
use crate::samples;
use crate::toolchain::Toolchain;
use crate::workspace::{Doing, Outcome, Workspace, finish, relink, replace, step};

/// Builds in release mode and fills the folder; answers it.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Outcome<PathBuf> {
    let dist = workspace.dist();
    step("building the tool, the servers and the client's libraries", || {
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--release", "--locked"]);
        for product in PRODUCTS {
            cargo.args(["--package", product.package]);
        }
        finish(&mut cargo)?;
        for product in PRODUCTS {
            let to = dist.join(product.path);
            let folder = to.parent().unwrap_or(&dist);
            std::fs::create_dir_all(folder).doing(format_args!("making {}", folder.display()))?;
            replace(&workspace.target.join("release").join(product.artifact), &to)?;
            for link in product.links {
                let file = to.file_name().unwrap_or_default().to_string_lossy();
                relink(&file, &folder.join(link))?;
            }
        }
        pages(&dist)?;
        let note = dist.join(COMMIT);
        std::fs::write(&note, workspace.commit() + "\n").doing(format_args!("writing {}", note.display()))?;
        plugin::build(workspace, &dist)
    })?;
    step("compiling the samples", || samples::build(workspace, toolchain))?;
    Ok(dist)
}

/// Has the tools describe themselves; what an older one wrote goes.
fn pages(dist: &Path) -> Outcome {
    let share = dist.join("share");
    if share.exists() {
        std::fs::remove_dir_all(&share).doing(format_args!("removing {}", share.display()))?;
    }
    let tools = ["bin/vgpu", "bin/vgpu-bench"].map(|tool| dist.join(tool));
    tools.iter().try_for_each(|tool| finish(Command::new(tool).arg("pages").arg(&share)))
}

/// Names the sources, where they are not at hand.
pub(crate) const COMMIT: &str = "commit";

/// What cargo builds, and where it goes.
struct Product {
    package: &'static str,
    artifact: &'static str,
    path: &'static str,
    links: &'static [&'static str],
}

const PRODUCTS: &[Product] = &[
    Product { package: "vgpu-cli", artifact: "vgpu", path: "bin/vgpu", links: &[] },
    Product { package: "vgpu-bench", artifact: "vgpu-bench", path: "bin/vgpu-bench", links: &[] },
    Product {
        package: "vgpu-server",
        artifact: "vgpu-server",
        path: "bin/vgpu-server",
        // The name of the daemon in the older vGPU.
        links: &["VGPUSvr"],
    },
    Product {
        package: "vgpu-client-shim",
        artifact: "libvgpu_core.so",
        path: "lib/libvgpu_core.so",
        links: &[],
    },
    Product {
        package: "vgpu-cudart12",
        artifact: "libvgpu_cudart12.so",
        path: "lib/libcudart.so.12",
        links: &[],
    },
    Product {
        package: "vgpu-cudart13",
        artifact: "libvgpu_cudart13.so",
        path: "lib/libcudart.so.13",
        links: &[],
    },
    Product {
        package: "vgpu-cuda",
        artifact: "libvgpu_cuda.so",
        path: "lib/libcuda.so.1",
        // Programs that use cudarc look for this name first.
        links: &["libcuda.so"],
    },
    Product {
        package: "vgpu-nvml",
        artifact: "libvgpu_nvml.so",
        path: "lib/libnvidia-ml.so.1",
        links: &["libnvidia-ml.so"],
    },
    Product {
        package: "cudarc-saxpy",
        artifact: "cudarc-saxpy",
        path: "samples/driver/cudarc_saxpy",
        links: &[],
    },
    Product {
        package: "soft-gpu-cuda",
        artifact: "libsoft_cuda.so",
        path: "lib/soft/libcuda.so.1",
        // Programs that use cudarc look for this name first.
        links: &["libcuda.so"],
    },
];
