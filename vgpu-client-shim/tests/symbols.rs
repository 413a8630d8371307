//! The names that the built libraries export, and how programs find them.

#[allow(dead_code, reason = "each test program uses its part of the helpers")]
mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::{compile, run, shim_folder};

/// The exported names of a library, with their versions, by `nm`.
fn exported(library: &Path) -> Option<BTreeSet<String>> {
    let output = match Command::new("nm").args(["-D", "--defined-only"]).arg(library).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: no nm: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "nm {}: {}", library.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect())
}

/// The names of a major in `symbols/cudart.txt`, with its version node.
fn listed(major: u32) -> BTreeSet<String> {
    let column = if major == 12 { 1 } else { 2 };
    let text = include_str!("../symbols/cudart.txt");
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words[column] != ".")
        .map(|words| format!("{}@@libcudart.so.{major}", words[0]))
        .collect()
}

#[test]
fn every_listed_name_is_exported_with_its_own_version_node_and_no_other() {
    for (major, count) in [(12, 435), (13, 458)] {
        let Some(mut names) = exported(&shim_folder().join(format!("libcudart.so.{major}"))) else { return };
        assert!(names.remove("vgpu_client_library"), "the marker is missing");
        assert_eq!(names, listed(major));
        assert_eq!(names.len(), count);
    }
}

#[test]
fn every_name_of_the_driver_is_exported_with_its_version_node() {
    let Some(mut names) = exported(&shim_folder().join("libcuda.so.1")) else { return };
    assert!(names.remove("vgpu_client_library"), "the marker is missing");
    let list = include_str!("../symbols/cuda.txt");
    let rows = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let listed: BTreeSet<String> =
        rows.map(|line| format!("{}@@libcuda.so.1", line.split_whitespace().next().unwrap())).collect();
    assert_eq!(names, listed);
    assert_eq!(names.len(), 722);
}

#[test]
fn the_core_exports_one_name() {
    let Some(names) = exported(&shim_folder().join("libvgpu_core.so")) else { return };
    assert_eq!(names, BTreeSet::from(["vgpu_core_v1".to_owned()]));
}

/// Against NVIDIA's own libraries, where their place is told.
#[test]
fn no_name_of_nvidias_libraries_is_missing() {
    for major in [12, 13] {
        let variable = format!("VGPU_TEST_LIBCUDART_{major}");
        let Some(path) = std::env::var_os(&variable) else {
            eprintln!("skipped: {variable} does not name NVIDIA's libcudart.so.{major}");
            continue;
        };
        let Some(theirs) = exported(Path::new(&path)) else { return };
        let functions: BTreeSet<_> = theirs.into_iter().filter(|name| name.contains("@@")).collect();
        let ours = listed(major);
        let missing: Vec<_> = functions.difference(&ours).collect();
        assert!(missing.is_empty() && functions.len() > 400, "missing: {missing:?}");
    }
}

const PROGRAM: &str = r#"
#include <stdio.h>
extern const char *cudaGetErrorString(int);
extern int cudaDeviceRegisterAsyncNotification(void), cudaGetLastError(void);
int main(void) {
    int first = cudaDeviceRegisterAsyncNotification(), second = cudaDeviceRegisterAsyncNotification();
    int last = cudaGetLastError();
    printf("%d %d %s %d %d\n", first, second, cudaGetErrorString(2), last, cudaGetLastError());
    return 0;
}
"#;

#[test]
fn both_majors_answer_by_library_path_and_by_preload_in_either_order() {
    let folder = tempfile::tempdir().unwrap();
    let shim = shim_folder().to_str().unwrap();
    let [twelve, thirteen] = [12, 13].map(|major| format!("{shim}/libcudart.so.{major}"));
    for library in [&twelve, &thirteen] {
        // Only the file: with `-L` and the soname in the program, the library is found at run time or not at all.
        let Some(program) = compile(folder.path(), "answers", PROGRAM, &[library]) else { return };
        let ways = [
            ("LD_LIBRARY_PATH", shim.to_owned()),
            ("LD_PRELOAD", library.clone()),
            ("LD_PRELOAD", format!("{twelve} {thirteen}")),
            ("LD_PRELOAD", format!("{thirteen}:{twelve}")),
        ];
        for (variable, value) in ways {
            let ran = run(&program, &[(variable, &value)]);
            assert_eq!(ran.stdout, "801 801 out of memory 801 0\n", "{variable}={value}: {}", ran.stderr);
            let line = "vgpu: cudaDeviceRegisterAsyncNotification is not supported\n";
            assert_eq!(ran.stderr, line, "{variable}={value}");
        }
    }
}

#[test]
fn an_entry_library_without_its_core_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("libcudart.so.13");
    std::fs::copy(shim_folder().join("libcudart.so.13"), &alone).unwrap();
    let Some(program) = compile(folder.path(), "alone", PROGRAM, &[alone.to_str().unwrap()]) else { return };
    let ran = run(&program, &[("LD_LIBRARY_PATH", folder.path().to_str().unwrap())]);
    assert_eq!(ran.status, Some(127));
    assert!(ran.stderr.contains("needs libvgpu_core.so beside it"), "{}", ran.stderr);
}

#[test]
fn a_program_that_uses_no_cuda_never_opens_the_core() {
    let folder = tempfile::tempdir().unwrap();
    let source = "#include <stdio.h>\nint main(void) { char line[512]; FILE *maps = fopen(\"/proc/self/maps\", \"r\");\n\
        while (fgets(line, sizeof line, maps)) fputs(line, stdout); return 0; }";
    let Some(program) = compile(folder.path(), "plain", source, &[]) else { return };
    let library = shim_folder().join("libcudart.so.13");
    let ran = run(&program, &[("LD_PRELOAD", library.to_str().unwrap())]);
    assert!(
        ran.stdout.contains("libvgpu_cudart13.so") && !ran.stdout.contains("libvgpu_core"),
        "{}",
        ran.stdout
    );
}
