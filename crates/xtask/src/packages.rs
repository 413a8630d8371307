//! Debian packages, made from the distribution by cargo-deb, and the test that installs them where there is nothing else.
//!
//! | package | what |
//! | --- | --- |
//! | `vgpu-client` | `vgpu`, `vgpu-bench`, the client's libraries, manual pages, completions |
//! | `vgpu-server` | the server, its systemd unit and settings |
//! | `vgpu-verbs` | the verbs plug-in; the only one that depends on libibverbs |

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, Need, Probe};
use crate::plugin;
use crate::room::Room;
use crate::samples::{Runtime, test};
use crate::toolchain::CARGO_DEB;
use crate::workspace::{Doing, Failure, Outcome, Workspace, finish, is_installed, output, relink};

/// A package: the crate whose manifest describes it.
#[derive(Debug, Clone, Copy)]
struct Package {
    name: &'static str,
    of: &'static str,
}

const CLIENT: Package = Package { name: "vgpu-client", of: "vgpu-cli" };
const SERVER: Package = Package { name: "vgpu-server", of: "vgpu-server" };
const VERBS: Package = Package { name: "vgpu-verbs", of: plugin::PACKAGE };

/// Makes the packages of a finished distribution in `target/packages`; answers their files.
pub(crate) fn build(workspace: &Workspace, dist: &Path) -> Outcome<Vec<PathBuf>> {
    debian::install(&NEEDS)?;
    let deb = CARGO_DEB.ready(workspace)?;
    let folder = workspace.root.join("target/packages");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).doing(format_args!("removing {}", folder.display()))?;
    }
    let has_verbs = stage(dist, &folder.join("stage"))?;
    let packages = [CLIENT, SERVER].into_iter().chain(has_verbs.then_some(VERBS));
    let mut files = Vec::new();
    for Package { name, of } in packages {
        let file = folder.join(format!("{name}.deb"));
        let mut command = workspace.command(&deb);
        command.args(["--package", of, "--no-build", "--no-strip", "--locked", "--offline", "--quiet"]);
        finish(command.arg("--output").arg(&file))?;
        let bytes = file.metadata().doing("looking at a package")?.len();
        println!("    {} {} KiB, depends on {}", file.display(), bytes >> 10, depends(&file)?);
        files.push(file);
    }
    Ok(files)
}

/// Copies what the packages hold, without symbol tables; whether there is a plug-in.
fn stage(dist: &Path, stage: &Path) -> Outcome<bool> {
    for folder in ["bin", "lib", "verbs"].map(|folder| stage.join(folder)) {
        std::fs::create_dir_all(&folder).doing(format_args!("making {}", folder.display()))?;
    }
    let copy = |from: &Path, to: &Path| -> Outcome {
        std::fs::copy(from, to).doing(format_args!("copying {}", from.display())).map(|_| ())
    };
    let strip = |file: &Path| finish(Command::new("strip").arg("--strip-unneeded").arg(file));
    for program in ["vgpu", "vgpu-bench", "vgpu-server"] {
        let to = stage.join("bin").join(program);
        copy(&dist.join("bin").join(program), &to)?;
        strip(&to)?;
    }
    relink("vgpu-server", &stage.join("bin/VGPUSvr"))?;
    let mut has_verbs = false;
    for entry in std::fs::read_dir(dist.join("lib")).doing("reading the distribution")? {
        let path = entry.doing("reading the distribution")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_verbs = name == plugin::ARTIFACT;
        has_verbs |= is_verbs;
        let to = stage.join(if is_verbs { "verbs" } else { "lib" }).join(&name);
        match std::fs::read_link(&path) {
            Ok(target) => relink(&target.to_string_lossy(), &to)?,
            Err(_) if path.is_file() => {
                copy(&path, &to)?;
                strip(&to)?;
            }
            Err(_) => {}
        }
    }
    finish(Command::new("cp").arg("--recursive").arg(dist.join("share")).arg(stage.join("share")))?;
    Ok(has_verbs)
}

/// Installs the packages on a machine without Rust, libibverbs or a GPU, and runs samples there.
pub(crate) fn check(workspace: &Workspace, dist: &Path) -> Outcome {
    let files = build(workspace, dist)?;
    verify_unit(workspace)?;
    if let Some(reason) = Room::obstacle() {
        println!("    skipped: {reason}");
        return Ok(());
    }
    let room = furnished(workspace, dist, &files)?;
    let inside = |file: &Path| Path::new("/packages").join(file.file_name().unwrap_or_default());
    let is_verbs = |file: &Path| file.ends_with(format!("{}.deb", VERBS.name));
    let mut install = room.command("dpkg");
    install.arg("--install");
    finish(install.args(files.iter().filter(|file| !is_verbs(file)).map(|file| inside(file))))?;
    if let Some(verbs) = files.iter().find(|file| is_verbs(file)) {
        let depends = depends(verbs)?;
        if !depends.contains("libibverbs1") {
            return Err(Failure::Check(format!("{} depends on {depends} only", VERBS.name)));
        }
        let refused =
            room.command("dpkg").arg("--install").arg(inside(verbs)).output().doing("running dpkg")?;
        if refused.status.success() {
            return Err(Failure::Check(format!("{} installs without libibverbs1", VERBS.name)));
        }
    }
    let mut wrong = Vec::new();
    for (words, expected) in EXPECTED {
        let words: Vec<&str> = words.split(' ').collect();
        let ran = room.command(words[0]).args(&words[1..]).output().doing("entering the room")?;
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        let is_right = ran.status.success() && said.contains(expected);
        println!("    {}: {}", words.join(" "), if is_right { expected } else { "FAILED" });
        if !is_right {
            wrong.push(format!("$ {}\n{said}{}", words.join(" "), ran.status));
        }
    }
    for file in INSTALLED {
        if !room.root.join(file).exists() {
            wrong.push(format!("/{file} is not installed"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Check(wrong.join("\n\n"))) }
}

/// A room with dpkg, the packages, samples, and what dpkg must believe to be installed.
fn furnished(workspace: &Workspace, dist: &Path, files: &[PathBuf]) -> Outcome<Room> {
    let room = Room::make(&workspace.root.join("target/packages/room"))?;
    let mut parts = Vec::new();
    for tool in TOOLS {
        let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|folder| Path::new(folder).join(tool));
        let found = found.into_iter().find(|path| path.is_file());
        let found = found.ok_or_else(|| Failure::Check(format!("{tool} is not on this machine")))?;
        parts.push((found, Path::new("/bin").join(tool)));
    }
    for (from, to) in [
        (test(dist, "reduce_atomics", Runtime::Shared), "/samples/shared"),
        (test(dist, "reduce_atomics", Runtime::Static), "/samples/static"),
    ] {
        parts.push((from, PathBuf::from(to)));
    }
    room.furnish(&parts, |library| library.contains("libibverbs") || library.contains("librdmacm"))?;
    for file in files {
        let name = file.file_name().unwrap_or_default();
        room.put(file, &Path::new("/packages").join(name))?;
    }
    let database = room.root.join("var/lib/dpkg");
    for folder in ["info", "updates", "triggers"] {
        std::fs::create_dir_all(database.join(folder)).doing("making dpkg's database")?;
    }
    let status = output(Command::new("dpkg-query").arg("--status").args(BASE))?;
    std::fs::write(database.join("status"), status + "\n").doing("writing dpkg's database")?;
    Ok(room)
}

/// Whether systemd understands the unit, where there is one to ask.
fn verify_unit(workspace: &Workspace) -> Outcome {
    if !is_installed("systemd-analyze") {
        println!("    the unit is not verified: there is no systemd-analyze");
        return Ok(());
    }
    // It looks for the program too: one with another place, and an instance's name.
    let unit = workspace.root.join("target/packages/vgpu-server@0.service");
    let text = std::fs::read_to_string(workspace.root.join("vgpu-server/systemd/vgpu-server@.service"));
    let text = text.doing("reading the unit")?.replace("/usr/bin/vgpu-server", "/bin/true");
    std::fs::write(&unit, text.replace("man:vgpu(1)", "https://localhost")).doing("copying the unit")?;
    let mut verify = Command::new("systemd-analyze");
    let said = verify.args(["verify", "--recursive-errors=no"]).arg(&unit).output();
    let said = said.doing("starting systemd-analyze")?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    if said.status.success() && !text.contains("vgpu-server@") {
        return Ok(());
    }
    Err(Failure::Check(format!("systemd-analyze verify: {}\n{text}", said.status)))
}

fn depends(file: &Path) -> Outcome<String> {
    output(Command::new("dpkg-deb").arg("--field").arg(file).arg("Depends"))
}

/// What is done there, and what it must say.
const EXPECTED: &[(&str, &str)] = &[
    ("vgpu --version", "vgpu 0."),
    ("vgpu run --soft -- /samples/shared", "reduce_atomics: ok"),
    ("vgpu run --soft=2 -- /samples/static", "reduce_atomics: ok"),
    ("vgpu run --soft=2 -- vgpu devices", "vgpu software GPU"),
    ("vgpu run --soft -- vgpu doctor -- /samples/static", "nothing is wrong"),
    ("vgpu-bench --soft --quick", "to the host, page-locked"),
    ("VGPUSvr --version", "vgpu-server 0."),
];

/// Some files of each kind.
const INSTALLED: [&str; 9] = [
    "usr/bin/vgpu",
    "usr/bin/vgpu-bench",
    "usr/lib/vgpu/libcudart.so.13",
    "usr/lib/vgpu/libcuda.so",
    "usr/share/bash-completion/completions/vgpu",
    "usr/share/man/man1/vgpu-run.1.gz",
    "usr/share/man/man1/vgpu-bench.1.gz",
    "lib/systemd/system/vgpu-server@.service",
    "etc/vgpu/server-0.env",
];

/// What dpkg starts.
const TOOLS: [&str; 10] = [
    "dpkg",
    "dpkg-deb",
    "dpkg-split",
    "dpkg-query",
    "tar",
    "sh",
    "rm",
    "diff",
    "ldconfig",
    "start-stop-daemon",
];

/// What every Debian has.
const BASE: [&str; 2] = ["libc6", "libgcc-s1"];

const NEEDS: [Need; 2] = [
    Need { probe: Probe::Program("strip"), packages: "binutils" },
    Need { probe: Probe::Program("dpkg-shlibdeps"), packages: "dpkg-dev" },
];
