//! Builds the client libraries and small C programs for the tests of this folder.

use std::path::{Path, PathBuf};
use std::process::Command;
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
