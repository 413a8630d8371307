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
fn a_launch_after_a_change_uses_nothing_of_the_one_before() {
    passes("relaunched", &[]);
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

/// Runs a compiler, which must succeed.
#[track_caller]
fn compiles(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

#[test]
fn a_program_and_a_library_with_a_linked_in_runtime_each_share_one_device() {
    let folder = tempfile::tempdir().unwrap();
    let Some((home, server)) = prepared(folder.path()) else { return };
    let nvcc = |name: &str, output: &Path| {
        let mut nvcc = Command::new(home.join("bin/nvcc"));
        nvcc.arg(source(name)).arg("-o").arg(output).args(["-cudart", "static"]);
        nvcc.arg("-L").arg(home.join("lib"));
        nvcc
    };
    let (library, program) = (folder.path().join("libkernels.so"), folder.path().join("program"));
    compiles(nvcc("library_kernels.cu", &library).args(["-shared", "-Xcompiler", "-fPIC"]));
    let rpath = format!("-rpath={}", folder.path().display());
    compiles(nvcc("library_main.cu", &program).arg("-L").arg(folder.path()).args([
        "-lkernels",
        "-Xlinker",
        &rpath,
    ]));
    let preload = format!("{}/libcudart.so.13", shim_folder().display());
    let ran = run(&program, &[("LD_PRELOAD", &preload), ("VGPU_SERVER", &server.list)]);
    assert_eq!((ran.stdout.as_str(), ran.status), ("done\n", Some(0)), "{}", ran.stderr);
}

#[test]
fn a_host_program_of_12_9_registers_its_fatbin_and_launches() {
    let folder = tempfile::tempdir().unwrap();
    let Some((home, server)) = prepared(folder.path()) else { return };
    let Some(headers) = std::env::var_os("VGPU_TEST_LIBCUDART_12")
        .and_then(|library| Some(Path::new(&library).parent()?.parent()?.join("include")))
    else {
        return eprintln!("skipped: VGPU_TEST_LIBCUDART_12 does not name NVIDIA's runtime of 12.9");
    };
    let kernel = folder.path().join("scale.cu");
    std::fs::write(
        &kernel,
        "extern \"C\" __global__ void scale(float* v, float f, int n) \
         { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) v[i] *= f; }",
    )
    .unwrap();
    let fatbin = folder.path().join("scale.fatbin");
    compiles(
        Command::new(home.join("bin/nvcc"))
            .args(["--fatbin", "-arch=compute_75", "-o"])
            .arg(&fatbin)
            .arg(&kernel),
    );
    let bytes: Vec<String> = std::fs::read(&fatbin).unwrap().iter().map(u8::to_string).collect();
    let image = format!("alignas(16) static const unsigned char image[] = {{{}}};\n", bytes.join(","));
    std::fs::write(folder.path().join("image.inc"), image).unwrap();
    let program = folder.path().join("program");
    let shim = shim_folder().display().to_string();
    let mut host = Command::new("c++");
    host.arg(source("host_12.cpp"))
        .arg("-o")
        .arg(&program)
        .arg("-I")
        .arg(folder.path())
        .arg("-I")
        .arg(headers);
    compiles(host.arg("-I").arg(home.join("include")).arg(format!("{shim}/libcudart.so.12")));
    let ran = run(&program, &[("LD_LIBRARY_PATH", &shim), ("VGPU_SERVER", &server.list)]);
    assert_eq!((ran.stdout.as_str(), ran.status), ("done\n", Some(0)), "{}", ran.stderr);
}
