//! `libnvidia-ml.so.1` in a program without CUDA, beside programs that use the device.

#[allow(dead_code, reason = "each test program uses its part of the helpers")]
mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::{Server, compile, run, shim_folder};

/// Allocates, says so, and stays until its standard input is closed.
const HOLDER: &str = r#"
#include <stdio.h>
#include <unistd.h>
extern int cudaMalloc(void **, unsigned long), cudaDeviceSynchronize(void);
int main(void) {
    void *a; int error = cudaMalloc(&a, 64 << 20); error += cudaDeviceSynchronize();
    printf("%d\n", error); fflush(stdout);
    char c; while (read(0, &c, 1) > 0) {}
    return 0; }
"#;

/// Prints used and free MiB of memory, the utilization's status, and every process with its MiB.
const LOOKER: &str = r#"
#include <stdio.h>
typedef void *D; typedef struct { unsigned long total, free, used; } M;
typedef struct { unsigned pid; unsigned long bytes; unsigned gi, ci; } P; typedef struct { unsigned gpu, memory; } U;
extern int nvmlInit_v2(void), nvmlShutdown(void), nvmlDeviceGetHandleByIndex_v2(unsigned, D *);
extern int nvmlDeviceGetMemoryInfo(D, M *), nvmlDeviceGetUtilizationRates(D, U *);
extern int nvmlDeviceGetComputeRunningProcesses_v3(D, unsigned *, P *);
#define OK(call) do { int e = (call); if (e) { printf("%s answered %d\n", #call, e); return 1; } } while (0)
int main(void) {
    D d; M m; U u = {77, 77}; P p[4]; unsigned count = 0;
    OK(nvmlInit_v2()); OK(nvmlDeviceGetHandleByIndex_v2(0, &d)); OK(nvmlDeviceGetMemoryInfo(d, &m));
    OK(nvmlDeviceGetUtilizationRates(d, &u));
    printf("used=%lu sum=%d percent=%d memory=%u\n", m.used >> 20, m.free + m.used == m.total, u.gpu <= 100, u.memory);
    int asked = nvmlDeviceGetComputeRunningProcesses_v3(d, &count, 0);
    printf("asked=%d count=%u\n", asked, count);
    if (count > 1) { unsigned one = 1; printf("one=%d", nvmlDeviceGetComputeRunningProcesses_v3(d, &one, p)); printf(" needs=%u\n", one); }
    count = 4; OK(nvmlDeviceGetComputeRunningProcesses_v3(d, &count, p));
    for (unsigned i = 0; i < count; i++) printf("pid=%u mib=%lu\n", p[i].pid, p[i].bytes >> 20);
    OK(nvmlShutdown()); return 0; }
"#;

#[test]
fn a_program_without_a_context_sees_what_the_others_use() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let library = |name: &str| shim_folder().join(name).to_str().unwrap().to_owned();
    let options = |library: String| [library, "-w".to_owned()];
    let built = |name: &str, source: &str, from: &str| {
        let options = options(library(from));
        compile(folder.path(), name, source, &options.each_ref().map(String::as_str))
    };
    let Some(looker) = built("looker", LOOKER, "libnvidia-ml.so.1") else { return };
    let Some(holder) = built("holder", HOLDER, "libcudart.so.13") else { return };
    let variables =
        [("LD_LIBRARY_PATH", shim_folder().to_str().unwrap()), ("VGPU_SERVER", server.list.as_str())];
    let look = || {
        let ran = run(&looker, &variables);
        assert_eq!((ran.stderr.as_str(), ran.status), ("", Some(0)), "{}", ran.stdout);
        ran.stdout
    };
    assert_eq!(look(), "used=0 sum=1 percent=1 memory=0\nasked=0 count=0\n");
    let mut held: Vec<_> = (0..2)
        .map(|_| {
            let mut command = Command::new(&holder);
            command.env_clear().envs(variables).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "0\n");
            child
        })
        .collect();
    let text = look();
    let lines: Vec<&str> = text.lines().collect();
    // 64 MiB each, and 2 that a worker takes from the start. Twice, so that neither the looker nor the one before it is among them.
    assert_eq!(look(), text);
    assert_eq!(lines[0], "used=132 sum=1 percent=1 memory=0");
    // NVML_ERROR_INSUFFICIENT_SIZE.
    assert_eq!(lines[1..3], ["asked=7 count=2", "one=7 needs=2"]);
    let mut expected: Vec<String> = held.iter().map(|child| format!("pid={} mib=66", child.id())).collect();
    let mut found: Vec<&str> = lines[3..].to_vec();
    expected.sort();
    found.sort_unstable();
    assert_eq!(found, expected);
    for mut child in held.drain(..) {
        let _ = child.stdin.take().unwrap().flush();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
