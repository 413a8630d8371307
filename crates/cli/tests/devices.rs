//! `vgpu devices` on a device that is in use.

mod common;

use common::{compile, said, vgpu};

/// Takes 64 MiB beside the 2 that a worker takes from the start, runs the command that it is given, and frees them.
const HOLDER: &str = r#"
#include <stdlib.h>
extern int cudaMalloc(void **, unsigned long), cudaFree(void *), cudaDeviceSynchronize(void);
int main(int count, char **arguments) {
    void *memory;
    if (cudaMalloc(&memory, 64 << 20) || cudaDeviceSynchronize()) return 100;
    int status = system(arguments[1]);
    return cudaFree(memory) || cudaDeviceSynchronize() ? 101 : status >> 8; }
"#;

#[test]
fn a_device_in_use_shows_its_memory_and_its_programs() {
    let folder = tempfile::tempdir().unwrap();
    let library = common::libraries().join("libcudart.so.13");
    let options = [library.to_str().unwrap(), "-w"];
    let Some(holder) = compile(folder.path(), "holder", HOLDER, &options) else { return };
    let program = env!("CARGO_BIN_EXE_vgpu");
    let shown = said(&mut vgpu(&["run", "--soft", "--", &holder, &format!("{program} devices")]));
    assert_eq!((shown.stderr.as_str(), shown.status), ("", Some(0)), "{}", shown.stdout);
    let lines: Vec<Vec<&str>> = shown.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 5, "{}", shown.stdout);
    assert!(lines[1].windows(2).any(|words| words == ["66MiB", "/"]), "{}", shown.stdout);
    assert_eq!(lines[3].join(" "), "GPU PID Type Process name GPU Memory Host");
    assert_eq!((lines[4][0], &lines[4][2..5]), ("0", &["C", "holder", "66MiB"][..]), "{}", shown.stdout);

    let command = format!("{program} devices --json");
    let shown = said(&mut vgpu(&["run", "--soft", "--", &holder, &command]));
    let rows: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(rows[0]["memory_used_bytes"], 66 << 20, "{rows:#}");
    assert!(rows[0]["utilization_percent"].as_u64().is_some_and(|percent| percent <= 100), "{rows:#}");
    let processes = rows[0]["processes"].as_array().unwrap();
    assert_eq!((processes.len(), &processes[0]["name"]), (1, &"holder".into()), "{rows:#}");
    assert_eq!(processes[0]["memory_used_bytes"], 66 << 20, "{rows:#}");
    assert!(processes[0]["pid"].as_u64().is_some_and(|pid| pid > 1), "{rows:#}");
}
