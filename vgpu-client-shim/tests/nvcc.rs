//! Programs of nvcc, with the runtime as a library and linked in, on the software GPU.

#[allow(dead_code, reason = "each test program uses its part of the helpers")]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Server, run, shim_folder};

/// A compiler and a server that runs kernels; `None`, with a printed reason, where there is no such thing.
fn prepared(folder: &Path) -> Option<(PathBuf, Server)> {
    let Some(home) = std::env::var_os("CUDA_HOME").map(PathBuf::from) else {
        eprintln!("skipped: CUDA_HOME does not name a CUDA toolkit");
        return None;
    };
    let driver = std::env::var("VGPU_TEST_DRIVER").unwrap_or_else(|_| "soft".to_owned());
    let Some(server) = Server::try_start(folder, &driver) else {
        eprintln!("skipped: the server has no driver {driver:?}");
        return None;
    };
    Some((home, server))
}

/// Compiles `tests/programs/<name>.cu`, linked both ways, and expects "done" from each.
#[track_caller]
fn passes(name: &str, options: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let Some((home, server)) = prepared(folder.path()) else { return };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(format!("{name}.cu"));
    let shim = shim_folder().to_str().unwrap();
    let preload = format!("{shim}/libcudart.so.13");
    for (cudart, variable, value) in [("shared", "LD_LIBRARY_PATH", shim), ("static", "LD_PRELOAD", &preload)]
    {
        let program = folder.path().join(cudart);
        let library = folder.path().join("libcudart.so");
        // With `-cudart shared`, nvcc asks the linker for libcudart: ours, whose symbols have the same versions.
        let _ = std::os::unix::fs::symlink(&preload, &library);
        let mut nvcc = Command::new(home.join("bin/nvcc"));
        nvcc.arg(&source).arg("-o").arg(&program).args(["-cudart", cudart]).args(options);
        nvcc.arg("-L").arg(folder.path()).arg("-L").arg(home.join("lib"));
        let output = nvcc.output().unwrap_or_else(|error| panic!("nvcc of CUDA_HOME: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ran = run(&program, &[(variable, value), ("VGPU_SERVER", &server.list)]);
        assert_eq!(
            (ran.stdout.as_str(), ran.status),
            ("done\n", Some(0)),
            "{name}, {cudart}: {}",
            ran.stderr
        );
    }
}

#[test]
fn vecadd_adds() {
    passes("vecadd", &[]);
}

#[test]
fn parameters_of_every_size_arrive() {
    passes("parameters", &[]);
}

#[test]
fn variables_of_modules_are_copied_and_found() {
    passes("symbols", &[]);
}

#[test]
fn launches_are_judged_at_once() {
    passes("launches", &[]);
}

#[test]
fn per_thread_default_streams_are_independent() {
    passes("per_thread", &["--default-stream", "per-thread"]);
}

#[test]
fn boxes_are_copied_slice_by_slice() {
    passes("boxes", &[]);
}

#[test]
fn streams_and_events_order_kernels() {
    passes("order", &[]);
}

#[test]
fn a_broken_context_stays_broken_until_reset() {
    passes("faults", &[]);
}

#[test]
fn managed_memory_is_shared_by_turns() {
    passes("managed", &[]);
}

#[test]
fn kernels_linked_from_parts_run() {
    passes("linked", &["-rdc=true"]);
    passes("linked", &["-rdc=true", "-arch=compute_75"]);
}
