//! Containers made here and now by nvcc, in every arrangement that it offers. Without nvcc (`CUDA_HOME`, or the
//! toolchain that `cargo xtask setup` keeps under `target/`) these tests skip and say so.

use std::path::{Path, PathBuf};
use std::process::Command;

use fatbin::{Cubin, Fatbin, Kind};

/// The compiler: from `CUDA_HOME`, else from the workspace's own toolchain.
fn nvcc() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/toolchain/cuda");
    let homes = std::env::var_os("CUDA_HOME").map(PathBuf::from).into_iter().chain([workspace]);
    homes.map(|home| home.join("bin/nvcc")).find(|nvcc| nvcc.is_file())
}

/// Compiles the fixtures' kernels; `None` after a printed reason where there is no compiler.
fn compile(arguments: &[&str]) -> Option<Vec<u8>> {
    let Some(nvcc) = nvcc() else {
        println!("SKIP: no nvcc; set CUDA_HOME or run `cargo xtask setup`");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("kernels.out");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kernels.cu");
    let run = Command::new(nvcc).args(arguments).arg("-o").arg(&output).arg(source).output().unwrap();
    assert!(run.status.success(), "nvcc {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    Some(std::fs::read(output).unwrap())
}

#[test]
fn every_compression_mode_gives_the_same_images() {
    let mut plain: Option<Vec<(Kind, Vec<u8>)>> = None;
    for mode in ["none", "speed", "balance", "size"] {
        let Some(bytes) = compile(&["-fatbin", "-arch=sm_80", &format!("--compress-mode={mode}")]) else {
            return;
        };
        let fatbin = Fatbin::parse(&bytes).unwrap();
        let images: Vec<_> = fatbin
            .entries()
            .iter()
            .map(|entry| match entry.kind() {
                Kind::PTX => (entry.kind(), entry.ptx().unwrap().into_bytes()),
                kind => (kind, kernel_facts(&entry.payload().unwrap())),
            })
            .collect();
        assert_eq!(images.len(), 2, "{mode}");
        assert_eq!(*plain.get_or_insert_with(|| images.clone()), images, "{mode}");
    }
}

/// A cubin carries a build identifier, so two are compared by what they say.
fn kernel_facts(cubin: &[u8]) -> Vec<u8> {
    format!("{:?}", Cubin::parse(cubin).unwrap()).into_bytes()
}

#[test]
fn parameters_are_the_same_for_every_architecture() {
    let Some(bytes) = compile(&["-fatbin", "-arch=all-major"]) else { return };
    let fatbin = Fatbin::parse(&bytes).unwrap();
    let elves: Vec<_> = fatbin.entries().iter().filter(|entry| entry.kind() == Kind::ELF).collect();
    assert!(elves.len() >= 5, "{} machine code images", elves.len());
    for entry in elves {
        let cubin = Cubin::parse(&entry.payload().unwrap()).unwrap();
        let sizes: Vec<Vec<u32>> = cubin
            .kernels
            .iter()
            .map(|kernel| kernel.params.iter().map(|param| param.size).collect())
            .collect();
        assert_eq!(
            sizes,
            [vec![4, 8, 8, 4], vec![], vec![1, 48, 8, 16, 2, 8], vec![8]],
            "sm_{}",
            entry.arch()
        );
        assert_eq!(cubin.kernels[3].shared_bytes, 16 * 17 * 4, "sm_{}", entry.arch());
    }
    assert_eq!(fatbin.best_ptx(120).map(|entry| entry.arch()), Some(120));
}

#[test]
fn relocatable_code_records_its_options_and_names() {
    let Some(bytes) = compile(&["-fatbin", "-arch=sm_80", "-rdc=true", "-G"]) else { return };
    let fatbin = Fatbin::parse(&bytes).unwrap();
    let ptx = fatbin.ptx_images().next().unwrap();
    assert!(String::from_utf8_lossy(ptx.options()).contains("--compile-only"));
    assert!(ptx.name().is_some_and(|name| name.ends_with("kernels.cu")), "{:?}", ptx.name());
    assert!(ptx.ptx().unwrap().contains(".entry mixed("));
}

#[test]
fn a_parameter_beyond_fourteen_bits_of_size_is_read() {
    let Some(nvcc) = nvcc() else {
        println!("SKIP: no nvcc; set CUDA_HOME or run `cargo xtask setup`");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (source, output) = (folder.path().join("large.cu"), folder.path().join("large.cubin"));
    std::fs::write(
        &source,
        "struct Large { char bytes[20000]; };\n\
         extern \"C\" __global__ void large(char c, Large l, int i, char *out) { *out = l.bytes[i] + c; }\n",
    )
    .unwrap();
    for arch in ["sm_75", "sm_90", "sm_120"] {
        let arguments = ["-cubin", "-arch", arch, "-o"];
        let run = Command::new(&nvcc).args(arguments).arg(&output).arg(&source).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let cubin = Cubin::parse(&std::fs::read(&output).unwrap()).unwrap();
        let params: Vec<_> = cubin.kernels[0].params.iter().map(|param| (param.offset, param.size)).collect();
        assert_eq!(params, [(0, 1), (1, 20_000), (20_004, 4), (20_008, 8)], "{arch}");
    }
}
