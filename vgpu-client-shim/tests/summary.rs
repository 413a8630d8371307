//! `VGPU_LOG=summary`: what programs say at their end, on a server with the null device.

#[allow(dead_code, reason = "each test program uses its part of the helpers")]
mod common;

use common::{Ran, Server, compile, run, shim_folder};

const HEADER: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
extern int cudaMalloc(void **, unsigned long), cudaMemcpy(void *, const void *, unsigned long, int);
extern int cudaMemGetInfo(unsigned long *, unsigned long *), cudaMemset(void *, int, unsigned long);
extern int cudaGetDeviceCount(int *), cudaDeviceReset(void), cudaDeviceSynchronize(void);
#define OK(call) do { int e = (call); if (e) { printf("line %d: %s answered %d\n", __LINE__, #call, e); exit(1); } } while (0)
"#;

/// Runs a program with `VGPU_LOG=level`; `None` where there is no C compiler.
fn ran(level: &str, body: &str) -> Option<Ran> {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let library = shim_folder().join("libcudart.so.13");
    let options = [library.to_str().unwrap(), "-lpthread", "-O1", "-w"];
    let program = compile(folder.path(), "program", &format!("{HEADER}\n{body}"), &options)?;
    let variables = [
        ("LD_LIBRARY_PATH", shim_folder().to_str().unwrap()),
        ("VGPU_SERVER", &server.list),
        ("VGPU_LOG", level),
    ];
    Some(run(&program, &variables))
}

/// The counts behind a name of the table.
fn counts(text: &str, name: &str) -> Vec<u64> {
    let rows = text.lines().filter_map(|line| line.strip_prefix(&format!("vgpu:   {name} ")));
    rows.map(|row| row.split_whitespace().next().unwrap().replace(',', "").parse().unwrap()).collect()
}

/// 1,412 copies of four bytes, 3 of 200,000 and 17 questions, then what `rest` does; a reset in between loses nothing.
fn known(rest: &str) -> String {
    format!(
        r#"static char host[200000];
        void *end(void *nothing) {{ exit(3); }}
        int main(void) {{
            void *a; int value; unsigned long free_bytes, total;
            OK(cudaMalloc(&a, sizeof host)); OK(cudaMemset(a, 0, sizeof host));
            for (int i = 0; i < 1000; i++) OK(cudaMemcpy(&value, a, 4, 2));
            OK(cudaDeviceReset()); OK(cudaMalloc(&a, sizeof host));
            for (int i = 0; i < 412; i++) OK(cudaMemcpy(&value, a, 4, 2));
            for (int i = 0; i < 3; i++) OK(cudaMemcpy(host, a, sizeof host, 2));
            for (int i = 0; i < 17; i++) OK(cudaMemGetInfo(&free_bytes, &total));
            {rest}
        }}"#
    )
}

#[test]
fn a_known_number_of_waiting_calls_is_told_exactly() {
    let Some(ran) = ran("summary", &known("return 0;")) else { return };
    assert_eq!((ran.stdout.as_str(), ran.status), ("", Some(0)), "{}", ran.stderr);
    let text = &ran.stderr;
    assert_eq!(counts(text, "cuMemcpyDtoH_v2"), [1412], "{text}");
    assert_eq!(counts(text, "cuMemGetInfo_v2"), [17], "{text}");
    assert_eq!(counts(text, "bytes to land in pageable memory"), [3], "{text}");
    assert_eq!(text.matches("summary of process").count(), 1, "{text}");
    assert!(text.contains("advice: 1,412 synchronous 4-byte DtoH copies took"), "{text}");
    assert!(text.contains(" 585.9 KiB landed\n"), "{text}");
    assert!(text.lines().all(|line| line.starts_with("vgpu: ")), "{text}");
}

#[test]
fn exit_in_a_thread_tells_as_well() {
    let body = known("pthread_t t; pthread_create(&t, 0, end, 0); pthread_join(t, 0); return 1;");
    let Some(ran) = ran("summary", &body) else { return };
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
    assert_eq!(counts(&ran.stderr, "cuMemcpyDtoH_v2"), [1412], "{}", ran.stderr);
}

#[test]
fn a_forked_child_tells_nothing_of_its_parents_calls() {
    let body = known("if (fork() == 0) exit(0); int status; wait(&status); return status;");
    let Some(ran) = ran("summary", &body) else { return };
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(counts(&ran.stderr, "cuMemcpyDtoH_v2"), [1412], "{}", ran.stderr);
}

#[test]
fn nothing_is_told_without_use_or_without_the_word() {
    for (level, body) in [
        ("summary", "int main(void) { return 0; }"),
        // Greets the device, which is no use of it.
        ("summary", "int main(void) { int count; OK(cudaGetDeviceCount(&count)); return 0; }"),
        ("warn", known("return 0;").as_str()),
    ] {
        let Some(ran) = ran(level, body) else { return };
        assert_eq!((ran.stderr.as_str(), ran.status), ("", Some(0)), "{level} {body} {}", ran.stdout);
    }
}
