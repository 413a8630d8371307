//! Private software devices: servers of this machine that nobody else can reach, and that end with one program.
//!
//! The program takes our place by exec, so nobody of us is left to end the servers: each of them watches the program
//! itself, through the process descriptor that is its standard input. It also ends them when the program is killed. They
//! are no children of the program, which may wait for all it has: a process between us and them starts them and ends.
//!
//! Why not `PR_SET_PDEATHSIG`: it follows the thread that started a child, and these are no children. Why not a process that
//! waits for the program and ends the servers: it would be one more that can be killed first.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use tempfile::TempDir;

use crate::failure::{Failure, Outcome};
use crate::progress;

/// Whose end is the end of the devices.
#[derive(Debug)]
pub struct Lifeline {
    /// What the servers watch.
    watched: OwnedFd,
    /// What the program must keep open, where the kernel has no process descriptors: the other end of a pipe.
    kept: Option<OwnedFd>,
}

impl Lifeline {
    /// This process, and the program that takes its place.
    pub fn own() -> Outcome<Lifeline> {
        match pidfd_open(getpid(), PidfdFlags::empty()) {
            Ok(watched) => Ok(Lifeline { watched, kept: None }),
            // Linux before 5.3, and containers that know no newer calls.
            Err(Errno::NOSYS | Errno::PERM) => Lifeline::pipe(),
            Err(error) => Err(Failure::own(format_args!("watching this process: {error}"))),
        }
    }

    /// This process and all that will have inherited a pipe from it.
    fn pipe() -> Outcome<Lifeline> {
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (watched, kept) = pipe.map_err(|error| Failure::own(format_args!("making a pipe: {error}")))?;
        Ok(Lifeline { watched, kept: Some(kept) })
    }

    /// Another process.
    pub fn of(process: i32) -> Outcome<Lifeline> {
        let watched = Pid::from_raw(process).ok_or(Errno::SRCH);
        let watched = watched.and_then(|process| pidfd_open(process, PidfdFlags::empty()));
        let watched = watched.map_err(|error| Failure::own(format_args!("--until {process}: {error}")))?;
        Ok(Lifeline { watched, kept: None })
    }

    /// Leaves to the program what it must keep. Called last before the exec.
    pub fn hand_over(self) -> Outcome<()> {
        let Some(kept) = self.kept else { return Ok(()) };
        let handed = fcntl_setfd(&kept, FdFlags::empty());
        // It stays open: the program has it under the same number.
        std::mem::forget(kept);
        handed.map_err(|error| Failure::own(format_args!("handing a pipe to the program: {error}")))
    }
}

/// The hidden task of every program that calls [`start`]: starts private software devices that end with the process behind
/// standard input.
#[derive(clap::Args, Debug)]
pub struct StartDevices {
    /// Where their sockets lie; removed at their end
    #[arg(long)]
    folder: PathBuf,

    #[arg(long)]
    count: u16,
}

/// Starts `count` devices and waits until all of them listen; answers their list. This program has a task `start-devices`
/// that calls [`start_devices`].
pub fn start(count: u16, lifeline: &Lifeline) -> Outcome<String> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::own(format_args!("finding this program: {error}")))?;
    let stdin = lifeline.watched.try_clone();
    let stdin = stdin.map_err(|error| Failure::own(format_args!("sharing a descriptor: {error}")))?;
    let folder = folder()?;
    let mut between = Command::new(own);
    between.args(["start-devices", "--count", &count.to_string(), "--folder"]).arg(folder.path());
    between.stdin(stdin).stderr(Stdio::inherit());
    let what = if count == 1 { "starting a software device" } else { "starting software devices" };
    let output = progress::during(what, || between.output());
    let output = output.map_err(|error| Failure::own(format_args!("{what}: {error}")))?;
    if !output.status.success() {
        return Err(Failure::own(format_args!("{what} failed (see above)")));
    }
    // The servers remove it.
    let _ = folder.keep();
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// In the process between: starts the servers, prints the list when all of them listen, and leaves them alone.
pub fn start_devices(options: &StartDevices) -> Outcome {
    let server = server()?;
    let sockets: Vec<PathBuf> =
        (0..options.count).map(|number| options.folder.join(format!("{number}.sock"))).collect();
    let mut children = Vec::new();
    for (number, socket) in sockets.iter().enumerate() {
        match spawn(&server, number, socket) {
            Ok(child) => children.push(child),
            Err(failure) => return Err(end(children, failure)),
        }
    }
    for number in 0..children.len() {
        let stdout = children[number].stdout.take();
        let mut line = String::new();
        // What cannot be read is as good as nothing said.
        let _ = stdout.map(|stdout| BufReader::new(stdout).read_line(&mut line));
        if !line.starts_with("Serving ") {
            let failure = format!("software device {number} did not start: {} ended", server.display());
            return Err(end(children, Failure::own(failure)));
        }
    }
    let list: Vec<String> = sockets.iter().map(|socket| format!("unix:{}", socket.display())).collect();
    println!("{}", list.join(" "));
    Ok(ExitCode::SUCCESS)
}

fn spawn(server: &Path, number: usize, socket: &Path) -> Outcome<Child> {
    let failed = |error: std::io::Error| Failure::own(format_args!("starting {}: {error}", server.display()));
    let lifeline = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let mut command = Command::new(server);
    command.args(["--driver", "soft", "--device", &number.to_string(), "--log", "warn"]);
    command.args(["--unix-only", "--lifeline", "--unix"]).arg(socket);
    // We may run inside a program's environment ourselves, below another `vgpu run`.
    command.env_remove("LD_PRELOAD").stdin(lifeline).stdout(Stdio::piped());
    // Ctrl-C is for the program, which may have use for its devices until it has ended.
    command.process_group(0).spawn().map_err(failed)
}

/// Ends what has been started, because not everything could be.
fn end(children: Vec<Child>, failure: Failure) -> Failure {
    for mut child in children {
        // Both fail only when it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
    failure
}

/// The server program: beside this one, or in the search path.
fn server() -> Outcome<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&folders));
    let found = folders.map(|folder| folder.join("vgpu-server")).find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::own(
            "--soft needs the program vgpu-server beside this one or in PATH; install the package vgpu-server",
        )
    })
}

/// A folder that only this user can enter, with a name that can stand in a list and in a socket's address.
fn folder() -> Outcome<TempDir> {
    let wanted = ["XDG_RUNTIME_DIR", "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let fitting = wanted.filter(|path| is_fitting(path)).chain([PathBuf::from("/tmp")]);
    let mut refused = Vec::<OsString>::new();
    for parent in fitting {
        let mut builder = tempfile::Builder::new();
        builder.prefix("vgpu-").permissions(PermissionsExt::from_mode(0o700));
        match builder.tempdir_in(&parent) {
            Ok(folder) => return Ok(folder),
            Err(error) => refused.push(format!("{}: {error}", parent.display()).into()),
        }
    }
    let refused = refused.join(std::ffi::OsStr::new("; "));
    Err(Failure::own(format_args!(
        "no folder for the sockets of private devices: {}; set TMPDIR",
        refused.display()
    )))
}

fn is_fitting(parent: &Path) -> bool {
    let bytes = parent.as_os_str().as_bytes();
    let separates = |byte: &u8| byte.is_ascii_whitespace() || *byte == b',' || !byte.is_ascii();
    parent.is_absolute() && bytes.len() <= LONGEST_FOLDER && !bytes.iter().any(separates)
}

/// unix(7): 107 bytes for a path; the rest is `/vgpu-XXXXXX/63.sock`.
const LONGEST_FOLDER: usize = 107 - 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_fits_if_a_list_and_an_address_can_hold_it() {
        assert!(is_fitting(Path::new("/run/user/1000")));
        for wrong in ["relative", "/two words", "/with,comma", "/é", &format!("/{}", "x".repeat(90))] {
            assert!(!is_fitting(Path::new(wrong)), "{wrong}");
        }
    }

    #[test]
    fn the_folder_is_private() {
        let folder = folder().unwrap();
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn without_process_descriptors_the_program_keeps_the_end_of_a_pipe() {
        let lifeline = Lifeline::pipe().unwrap();
        let mut watched = std::fs::File::from(lifeline.watched.try_clone().unwrap());
        let kept = lifeline.kept.as_ref().map(AsFd::as_fd).unwrap().try_clone_to_owned().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(lifeline.kept.as_ref().unwrap());
        lifeline.hand_over().unwrap();
        // A program inherits it under its number, and a server reads the end when the program is gone.
        let script = format!("printf x >&{number}");
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        let mut byte = [0];
        std::io::Read::read_exact(&mut watched, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(kept);
    }

    #[test]
    fn a_process_that_is_gone_cannot_be_a_lifeline() {
        let mut child = Command::new("true").spawn().unwrap();
        let process = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(Lifeline::of(process).unwrap_err().to_string().contains(&process.to_string()));
    }
}
