//! The product on a machine that has no libibverbs: programs and servers start there, and only who insists on verbs fails.
//!
//! Such a machine is made of this one: a [`Room`] with the distribution and one test program.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::launch::{Launcher, Way};
use crate::room::Room;
use crate::samples::{Runtime, test};
use crate::servers::{Place, Servers};
use crate::workspace::{Doing, Failure, Outcome, Workspace, finish};

/// The name of this part of the verbs check.
pub(crate) const STEP: &str = "without libibverbs";

/// Makes the folder and runs [`inside`] in it; says so where that cannot be done.
pub(crate) fn check(workspace: &Workspace, dist: &Path, xtask: &Path) -> Outcome {
    if let Some(reason) = Room::obstacle() {
        println!("    skipped: {reason}");
        return Ok(());
    }
    let room = Room::make(&workspace.root.join("target/without-libibverbs"))?;
    room.furnish(&parts(dist, xtask)?, is_of_verbs)?;
    finish(room.command("/xtask").arg("without-verbs"))
}

/// What runs there: one program, twice.
pub(crate) fn inside() -> Outcome {
    let libraries = libraries_of_verbs(Path::new("/"));
    if !libraries.is_empty() {
        return Err(Failure::Check(format!("the room is not without verbs: {libraries:?}")));
    }
    let dist = Path::new(DIST);
    // By number: there is nothing here that resolves names.
    let place = Place { listen: Some(Ipv4Addr::LOCALHOST), log_folder: PathBuf::from("/tmp") };
    let servers = Servers::start_at(&place, dist, "soft", 1)?;
    let run = |remotecall: &str| {
        let launcher = Launcher::new(dist, &servers).with("VGPU_LOG", "info");
        launcher.with("VGPU_REMOTECALL", remotecall).alone(&test(dist, PROGRAM, Runtime::Shared), Way::Path)
    };
    let either = run("auto")?;
    let verbs = run("ibv")?;
    let mut wrong = Vec::new();
    if !(either.succeeded && either.output.contains(&format!("{PROGRAM}: ok"))) {
        wrong.push(format!("VGPU_REMOTECALL=auto does not fall back to TCP\n{}", either.report()));
    }
    // The file's name: the advice that comes with every such error names the package.
    if verbs.succeeded || !verbs.output.contains("libibverbs.so") {
        wrong.push(format!("VGPU_REMOTECALL=ibv does not fail for want of libibverbs\n{}", verbs.report()));
    }
    if wrong.is_empty() {
        println!("    auto: {PROGRAM} ran over TCP in {:.1} s; ibv:", either.seconds);
        verbs.output.lines().for_each(|line| println!("      {line}"));
        return Ok(());
    }
    Err(Failure::Check(format!("{}\n\nservers:\n{}", wrong.join("\n\n"), servers.log())))
}

/// The distribution, one test program and the tools that start it.
fn parts(dist: &Path, xtask: &Path) -> Outcome<Vec<(PathBuf, PathBuf)>> {
    let mut parts = vec![(xtask.to_path_buf(), PathBuf::from("/xtask"))];
    for folder in ["bin", "lib"] {
        let entries = std::fs::read_dir(dist.join(folder)).doing("reading the distribution")?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()) {
            let name = Path::new(DIST).join(folder).join(path.file_name().unwrap_or_default());
            parts.push((path, name));
        }
    }
    parts.push((test(dist, PROGRAM, Runtime::Shared), test(Path::new(DIST), PROGRAM, Runtime::Shared)));
    for tool in ["timeout", "env"] {
        parts.push((Path::new("/usr/bin").join(tool), Path::new("/bin").join(tool)));
    }
    Ok(parts)
}

/// Files of libibverbs and librdmacm where the loader looks.
fn libraries_of_verbs(root: &Path) -> Vec<PathBuf> {
    let folders = ["lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
    let entries = folders.into_iter().filter_map(|folder| std::fs::read_dir(root.join(folder)).ok());
    let paths = entries.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| is_of_verbs(&path.to_string_lossy())).collect()
}

fn is_of_verbs(path: &str) -> bool {
    path.contains("libibverbs") || path.contains("librdmacm")
}

const DIST: &str = "/vgpu";
/// It copies, launches and compares, without MPI.
const PROGRAM: &str = "reduce_atomics";
