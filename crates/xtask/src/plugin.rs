//! The verbs plug-in `libvgpu_verbs.so`: the one part that is compiled against rdma-core, and may therefore be absent.

use std::path::Path;

use crate::debian::{self, Need, Probe};
use crate::workspace::{Outcome, Workspace, finish, replace};

/// The package of the workspace.
pub(crate) const PACKAGE: &str = "verbs";
/// What cargo makes of it.
pub(crate) const ARTIFACT: &str = "libvgpu_verbs.so";

/// Installs what compiling the plug-in needs, or says what is missing. A workspace without the plug-in needs nothing.
pub(crate) fn ready(workspace: &Workspace) -> Outcome {
    if workspace.has_package(PACKAGE) { debian::install(&NEEDS) } else { Ok(()) }
}

/// Whether the plug-in can be compiled here, after trying to make it so; says why not. `false` without a word in a workspace
/// that has no such package.
pub(crate) fn is_buildable(workspace: &Workspace) -> bool {
    if !workspace.has_package(PACKAGE) {
        return false;
    }
    match ready(workspace) {
        Ok(()) => true,
        Err(failure) => {
            println!("    without {ARTIFACT}: {failure}");
            false
        }
    }
}

/// What `cargo --workspace` has to be told so that it passes on a machine without rdma-core.
pub(crate) fn excluded(workspace: &Workspace) -> &'static [&'static str] {
    if !workspace.has_package(PACKAGE) || is_buildable(workspace) { &[] } else { &["--exclude", PACKAGE] }
}

/// Builds the plug-in in release mode and puts it beside the client's libraries and beside the server, where each looks.
pub(crate) fn build(workspace: &Workspace, dist: &Path) -> Outcome {
    if !is_buildable(workspace) {
        return Ok(());
    }
    finish(workspace.cargo().args(["build", "--release", "--locked", "--package", PACKAGE]))?;
    let built = workspace.target.join("release").join(ARTIFACT);
    ["lib", "bin"].into_iter().try_for_each(|folder| replace(&built, &dist.join(folder).join(ARTIFACT)))
}

/// Where bindgen looks for libclang.
fn has_libclang() -> bool {
    let is_libclang = |name: &str| name.starts_with("libclang.so") || name.starts_with("libclang-");
    let holds = |folder: &Path| {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        names.into_iter().any(|entry| {
            entry.file_name().to_str().is_some_and(|name| is_libclang(name) && name.contains(".so"))
        })
    };
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    std::env::var_os("LIBCLANG_PATH").is_some_and(|path| holds(Path::new(&path)))
        || llvm.into_iter().any(|folder| holds(&folder) || holds(&folder.join("lib")))
}

const NEEDS: [Need; 3] = [
    Need { probe: Probe::Question(has_libclang), packages: "libclang-dev" },
    Need { probe: Probe::File("/usr/include/infiniband/verbs.h"), packages: "libibverbs-dev" },
    Need { probe: Probe::File("/usr/include/rdma/rdma_cma.h"), packages: "librdmacm-dev" },
];
