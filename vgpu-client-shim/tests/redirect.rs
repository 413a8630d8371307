//! Programs and libraries with a runtime linked in, by a stand-in for NVIDIA's static library: functions of the same
//! names that say so when they run.

#[allow(dead_code, reason = "each test program uses its part of the helpers")]
mod common;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ran, compile, run, shim_folder};

/// C source of a static runtime of `major` without the names in `without`.
fn runtime(major: u32, without: &[&str]) -> String {
    let mut source = "#include <stdio.h>\n\
        static __attribute__((noipa, used)) int libcudart_static_0123(const char *name) {\n\
            printf(\"linked in: %s\\n\", name); return 999; }\n"
        .to_owned();
    let column = if major == 12 { 1 } else { 2 };
    let text = include_str!("../symbols/cudart.txt");
    let mut function = |name: &str| {
        writeln!(
            source,
            "__attribute__((aligned(16), noipa, visibility(\"hidden\"))) long {name}(void) {{ return libcudart_static_0123(\"{name}\"); }}"
        )
        .unwrap();
    };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<_> = line.split_whitespace().collect();
        if words[column] != "." && !without.contains(&words[0]) {
            function(words[0]);
        }
        if words[0] == "cudaGetDevice" {
            function("cudaNewerThanTheShim");
        }
    }
    source
}

const MAIN: &str = r#"
__attribute__((noinline)) long cudaOwnHelper(void) { puts("own helper"); return 1; }
int main(void) {
    printf("%ld %ld\n", cudaGLGetDevices(), cudaNewerThanTheShim());
    return cudaOwnHelper() != 1;
}
"#;

fn preload(program: &Path, more: &[(&str, &str)]) -> Ran {
    let library = shim_folder().join("libcudart.so.13");
    let mut variables = vec![("LD_PRELOAD", library.to_str().unwrap())];
    variables.extend(more);
    run(program, &variables)
}

fn program(folder: &Path, name: &str, major: u32, without: &[&str], arguments: &[&str]) -> Option<PathBuf> {
    compile(folder, name, &format!("{}{MAIN}", runtime(major, without)), arguments)
}

#[test]
fn a_linked_in_runtime_of_either_major_never_runs() {
    let folder = tempfile::tempdir().unwrap();
    for (major, options) in [(12, "-O0"), (13, "-O2"), (13, "-no-pie"), (13, "-fcf-protection=full")] {
        let Some(program) = program(folder.path(), "static", major, &[], &[options]) else { return };
        let native = run(&program, &[]);
        assert!(native.stdout.contains("linked in: cudaGLGetDevices"), "{}", native.stdout);
        let ran = preload(&program, &[]);
        assert_eq!(ran.stdout, "801 801\nown helper\n", "major {major} {options}: {}", ran.stderr);
        assert!(ran.stderr.contains("cudaGLGetDevices is not available"), "{}", ran.stderr);
        assert!(ran.stderr.contains("cudaNewerThanTheShim is not known"), "{}", ran.stderr);
    }
}

#[test]
fn both_majors_preloaded_redirect_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = program(folder.path(), "static", 12, &[], &[]) else { return };
    let shim = shim_folder().display();
    let both = format!("{shim}/libcudart.so.12 {shim}/libcudart.so.13");
    let ran = run(&program, &[("LD_PRELOAD", &both)]);
    assert_eq!(ran.stdout, "801 801\nown helper\n", "{}", ran.stderr);
}

#[test]
fn a_library_with_a_linked_in_runtime_is_redirected_before_its_constructors() {
    let folder = tempfile::tempdir().unwrap();
    let body = "__attribute__((constructor)) static void first(void) {\n\
        printf(\"constructor %ld\\n\", cudaGLGetDevices()); fflush(stdout); }";
    let source = format!("{}{body}", runtime(13, &[]));
    let Some(library) = compile(folder.path(), "libstatic.so", &source, &["-shared", "-fPIC"]) else {
        return;
    };
    let link = ["-Wl,--no-as-needed", library.to_str().unwrap()];
    let Some(program) = compile(folder.path(), "uses", "int main(void) { return 0; }", &link) else { return };
    let ran = preload(&program, &[]);
    assert_eq!(ran.stdout, "constructor 801\n", "{}", ran.stderr);
}

/// A program with device code, as its section tells, and nothing by which its runtime could be found.
fn stripped(folder: &Path) -> Option<PathBuf> {
    let section = "__attribute__((section(\".nvFatBinSegment\"), used)) static int fatbin[6];";
    let source = format!("{}{MAIN}{section}", runtime(13, &[]));
    let program = compile(folder, "stripped", &source, &["-s"])?;
    Some(program)
}

#[test]
fn a_stripped_program_ends_with_one_line_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = stripped(folder.path()) else { return };
    let ran = preload(&program, &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(78), ""), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("stripped has the CUDA runtime linked in"), "{}", ran.stderr);
    assert!(ran.stderr.contains("-cudart shared"), "{}", ran.stderr);
    let ignored = preload(&program, &[("VGPU_STATIC", "ignore")]);
    assert!(ignored.stdout.contains("linked in: cudaGLGetDevices"), "{}", ignored.stdout);
}

#[test]
fn a_runtime_that_lacks_a_launch_name_is_not_redirected_by_halves() {
    let folder = tempfile::tempdir().unwrap();
    let without = ["cudaLaunchKernel"];
    let Some(program) = program(folder.path(), "odd", 13, &without, &[]) else { return };
    let ran = preload(&program, &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(78), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("no cudaLaunchKernel"), "{}", ran.stderr);
}

/// With NVIDIA's own static library, where nvcc is told by `CUDA_HOME`.
#[test]
fn programs_of_nvcc_are_redirected() {
    let Some(home) = std::env::var_os("CUDA_HOME").map(PathBuf::from) else {
        eprintln!("skipped: CUDA_HOME does not name a CUDA toolkit");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program.cu");
    std::fs::write(
        &source,
        "int main() { return cudaGLGetDevices(); }".replace("cudaGLGetDevices()", "cudaDeviceReset() == 35"),
    )
    .unwrap();
    let program = folder.path().join("program");
    let mut nvcc = Command::new(home.join("bin/nvcc"));
    let status = nvcc.arg(&source).arg("-o").arg(&program).arg("-L").arg(home.join("lib")).status().unwrap();
    assert!(status.success());
    // NVIDIA's runtime would answer 35 here, for want of a driver.
    assert_eq!(preload(&program, &[]).status, Some(0));
}

#[test]
fn a_library_opened_later_is_redirected_before_its_constructors() {
    let folder = tempfile::tempdir().unwrap();
    let body = "__attribute__((constructor)) static void first(void) {\n\
        printf(\"constructor %ld\\n\", cudaGLGetDevices()); fflush(stdout); }\n\
        int later(void) { return (int)cudaVDPAUGetDevice(); }";
    let source = format!("{}{body}", runtime(12, &[]));
    let Some(library) = compile(folder.path(), "libstatic.so", &source, &["-shared", "-fPIC"]) else {
        return;
    };
    let opens = format!(
        "#include <dlfcn.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <pthread.h>\n\
         static void *open_it(void *unused) {{ void *it = dlopen(\"{}\", RTLD_NOW); if (!it) {{ puts(dlerror()); exit(1); }}\n\
             printf(\"later %d\\n\", ((int (*)(void))dlsym(it, \"later\"))()); dlclose(it); return it; }}\n\
         int main(void) {{ pthread_t thread; open_it(0); pthread_create(&thread, 0, open_it, 0); pthread_join(thread, 0); return 0; }}",
        library.display()
    );
    let Some(program) = compile(folder.path(), "opens", &opens, &["-ldl", "-lpthread"]) else { return };
    let ran = preload(&program, &[]);
    assert_eq!(ran.stdout, "constructor 801\nlater 801\nconstructor 801\nlater 801\n", "{}", ran.stderr);
    let shim = shim_folder().display();
    let both = format!("{shim}/libcudart.so.13 {shim}/libcudart.so.12");
    let ran = run(&program, &[("LD_PRELOAD", &both)]);
    assert_eq!(ran.stdout, "constructor 801\nlater 801\nconstructor 801\nlater 801\n", "{}", ran.stderr);
}
