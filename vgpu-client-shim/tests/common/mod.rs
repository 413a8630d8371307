//! Builds the client libraries and small C programs for the tests of this folder.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// `target/<profile>/shim/`: the client libraries under the names that programs ask for.
///
/// They are cdylibs of other packages, which `cargo test` does not build by itself.
pub(crate) fn shim_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "-p",
            "vgpu-client-shim",
            "-p",
            "vgpu-cudart12",
            "-p",
            "vgpu-cudart13",
            "-p",
            "vgpu-cuda",
        ]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        let status = build.status().expect("cargo runs, it has started this test");
        assert!(status.success(), "the client libraries do not build");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp has a parent");
        target.join("debug").join("shim")
    })
}

/// Compiles a C program with `arguments`; `None`, with a printed reason, where there is no C compiler.
pub(crate) fn compile(folder: &Path, name: &str, source: &str, arguments: &[&str]) -> Option<PathBuf> {
    let file = folder.join(format!("{name}.c"));
    std::fs::write(&file, source).expect("a temporary folder is writable");
    let program = folder.join(name);
    let output = Command::new("cc").arg(&file).arg("-o").arg(&program).args(arguments).output();
    match output {
        Err(error) => {
            eprintln!("skipped: no C compiler (cc): {error}");
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
            Some(program)
        }
    }
}

/// What a program printed, and its status.
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: Option<i32>,
}

/// Runs a program with a clean environment and `variables`.
pub(crate) fn run(program: &Path, variables: &[(&str, &str)]) -> Ran {
    let output = Command::new(program).env_clear().envs(variables.iter().copied()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    Ran {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status.code(),
    }
}

/// A server of this build, on a Unix socket of its own; ends with the value.
pub(crate) struct Server {
    child: Child,
    /// What `VGPU_SERVER` must hold.
    pub(crate) list: String,
}

impl Server {
    /// Starts a server and waits until it serves. `folder` lives as long as the server.
    pub(crate) fn start(folder: &Path, driver: &str) -> Server {
        Server::try_start(folder, driver).expect("the server serves this driver")
    }

    /// The same; `None` if the server does not know the driver or finds no device.
    pub(crate) fn try_start(folder: &Path, driver: &str) -> Option<Server> {
        let socket = folder.join("server.sock");
        let program = shim_folder().parent().expect("shim lies in target/<profile>").join("vgpu-server");
        let port = free_port().to_string();
        let mut command = Command::new(program);
        command.args(["--driver", driver, "--port", &port, "--log", "warn", "--unix"]).arg(&socket);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server was built");
        let mut first = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped above"));
        stdout.read_line(&mut first).expect("the server prints what it serves");
        if !first.contains("Serving") {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        // The socket file appears with the line that was just read, or shortly after.
        for _ in 0..200 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Some(Server { child, list: format!("unix:{}", socket.display()) })
    }

    /// The process, to end it in the middle of something.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("some port is free");
    listener.local_addr().expect("bound above").port()
}
