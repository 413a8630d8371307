//! The program, the libraries and the server that it works with, and small C programs.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// `target/<profile>/shim/`: the client libraries under the names that programs ask for.
///
/// They, and the server, are artifacts of other packages, which `cargo test` does not build by itself.
pub(crate) fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet"]);
        for package in ["vgpu-server", "vgpu-client-shim", "vgpu-cudart12", "vgpu-cudart13", "vgpu-cuda"] {
            build.args(["-p", package]);
        }
        let status =
            build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo has started this test");
        assert!(status.success(), "the client libraries do not build");
        let target = Path::new(env!("CARGO_BIN_EXE_vgpu")).parent().expect("target/<profile>");
        target.parent().expect("target").join("debug/shim")
    })
}

/// The program with an environment that nothing of this one is in.
pub(crate) fn vgpu(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu"));
    command.args(words).env_clear().env("PATH", "/usr/bin:/bin").env("VGPU_LIBRARY_PATH", libraries());
    command
}

/// What a command printed, and its status.
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: Option<i32>,
}

pub(crate) fn said(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().expect("it can be started");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Said { stdout: text(&stdout), stderr: text(&stderr), status: status.code() }
}

/// Compiles a C program; `None`, with a printed reason, where that cannot be done.
pub(crate) fn compile(folder: &Path, name: &str, source: &str, arguments: &[&str]) -> Option<String> {
    let file = folder.join(format!("{name}.c"));
    std::fs::write(&file, source).expect("a temporary folder is writable");
    let program = folder.join(name);
    let output = match Command::new("cc").arg(&file).arg("-o").arg(&program).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: no C compiler (cc): {error}");
            return None;
        }
    };
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Some(program.to_str().expect("a temporary folder has a plain name").to_owned())
}

/// Prints how many devices it sees, by a library that it opens by name.
pub(crate) const COUNT: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
int main(void) {
    void *library = dlopen("libcudart.so.13", RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 2;
    int (*count)(int *) = (int (*)(int *))dlsym(library, "cudaGetDeviceCount");
    int devices = -1, error = count(&devices);
    printf("devices=%d error=%d\n", devices, error);
    return 0;
}
"#;
