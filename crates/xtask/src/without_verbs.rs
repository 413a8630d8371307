//! The product on a machine that has no libibverbs: programs and servers start there, and only who insists on verbs fails.
//!
//! Such a machine is made of this one: a folder with the distribution, one test program and the libraries that `ldd`
//! names for them, entered with `chroot`. That needs root.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::launch::{Launcher, Way};
use crate::samples::{Runtime, test};
use crate::servers::{Place, Servers};
use crate::workspace::{Doing, Failure, Outcome, Workspace, finish, output};

/// The name of this part of the verbs check.
pub(crate) const STEP: &str = "without libibverbs";

/// Makes the folder and runs [`inside`] in it; says so where that cannot be done.
pub(crate) fn check(workspace: &Workspace, dist: &Path, xtask: &Path) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        println!("    skipped: chroot needs root");
        return Ok(());
    }
    if !Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|out| out.status.success()) {
        println!("    skipped: this root may not mount (no CAP_SYS_ADMIN)");
        return Ok(());
    }
    let room = Room::furnish(&workspace.root.join("target/without-libibverbs"), dist, xtask)?;
    // The mounts are seen and undone with this one process.
    let script = "mount --bind /proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && exec chroot \"$0\" /xtask without-verbs";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&room.root);
    finish(&mut command)
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

/// A folder that can be entered with `chroot`.
struct Room {
    root: PathBuf,
}

impl Room {
    fn furnish(root: &Path, dist: &Path, xtask: &Path) -> Outcome<Self> {
        if root.exists() {
            // What is mounted there is not ours to remove; the mounts end with the process that made them.
            if root.join("proc/self").exists() {
                return Err(Failure::Check(format!("{} is in use", root.display())));
            }
            std::fs::remove_dir_all(root).doing(format_args!("removing {}", root.display()))?;
        }
        let room = Self { root: root.to_path_buf() };
        for folder in ["proc", "dev", "tmp"] {
            std::fs::create_dir_all(root.join(folder)).doing(format_args!("making {}", root.display()))?;
        }
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
        let mut libraries = BTreeSet::new();
        for (from, to) in &parts {
            room.put(from, to)?;
            libraries.extend(libraries_of(from)?);
        }
        libraries.iter().try_for_each(|library| room.put(library, library))?;
        Ok(room)
    }

    /// Links the file behind `from` to the place `to` in this room, or copies it where a link cannot be.
    fn put(&self, from: &Path, to: &Path) -> Outcome {
        let doing = format!("putting {} into {}", from.display(), self.root.display());
        let to = self.root.join(to.strip_prefix("/").unwrap_or(to));
        let folder = to.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).doing(&doing)?;
        let from = from.canonicalize().doing(&doing)?;
        if std::fs::hard_link(&from, &to).is_ok() {
            return Ok(());
        }
        std::fs::copy(&from, &to).doing(&doing).map(|_| ())
    }
}

/// What the loader would load for a program, except what is to be missing.
fn libraries_of(program: &Path) -> Outcome<Vec<PathBuf>> {
    let listing = output(Command::new("ldd").arg(program))?;
    let words = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.filter(|word| !is_of_verbs(word)).map(PathBuf::from).collect())
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
