//! Programs in C against the built libraries and a server on the null device, which has memory, streams and events
//! and runs no kernel.

#[allow(dead_code, reason = "each test program uses its part of the helpers")]
mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Ran, Server, compile, run, shim_folder};

/// Declarations as in NVIDIA's headers, and `OK`, which names the call that did not answer 0.
const HEADER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
typedef int E; typedef void *S; typedef unsigned long size;
extern E cudaMalloc(void **, size), cudaFree(void *), cudaMemcpy(void *, const void *, size, int);
extern E cudaMemcpyAsync(void *, const void *, size, int, S), cudaMemset(void *, int, size);
extern E cudaMemcpyAsync_ptsz(void *, const void *, size, int, S), cudaStreamSynchronize_ptsz(S);
extern E cudaMemset2D(void *, size, int, size, size), cudaMallocPitch(void **, size *, size, size);
extern E cudaMemcpy2D(void *, size, const void *, size, size, size, int);
extern E cudaMallocHost(void **, size), cudaFreeHost(void *), cudaHostRegister(void *, size, unsigned);
extern E cudaHostUnregister(void *), cudaHostGetFlags(unsigned *, void *), cudaHostAlloc(void **, size, unsigned);
extern E cudaStreamCreate(S *), cudaStreamDestroy(S), cudaStreamSynchronize(S), cudaStreamQuery(S);
extern E cudaStreamCreateWithFlags(S *, unsigned), cudaStreamGetFlags(S, unsigned *), cudaStreamWaitEvent(S, S, unsigned);
extern E cudaEventCreate(S *), cudaEventRecord(S, S), cudaEventSynchronize(S), cudaEventQuery(S), cudaEventDestroy(S);
extern E cudaEventElapsedTime(float *, S, S), cudaEventCreateWithFlags(S *, unsigned);
extern E cudaLaunchHostFunc(S, void (*)(void *), void *), cudaStreamAddCallback(S, void (*)(S, E, void *), void *, unsigned);
extern E cudaGetDeviceCount(int *), cudaSetDevice(int), cudaGetDevice(int *), cudaDeviceSynchronize(void), cudaDeviceReset(void);
extern E cudaGetLastError(void), cudaPeekAtLastError(void), cudaMemGetInfo(size *, size *), cudaDeviceGetAttribute(int *, int, int);
extern E cudaPointerGetAttributes(void *, const void *), cudaGetDeviceProperties(void *, int), cudaRuntimeGetVersion(int *);
extern E cudaDriverGetVersion(int *), cudaMemcpyPeer(void *, int, const void *, int, size), cudaDeviceEnablePeerAccess(int, unsigned);
extern const char *cudaGetErrorName(E);
extern E cudaMallocManaged(void **, size, unsigned), cudaHostGetDevicePointer(void **, void *, unsigned);
extern E cudaDeviceGetDefaultMemPool(S *, int), cudaMemPoolGetAttribute(S, int, void *), cudaMemPoolSetAttribute(S, int, void *);
extern E cudaMemPoolCreate(S *, const void *), cudaMemPoolDestroy(S), cudaMallocFromPoolAsync(void **, size, S, S);
extern E cudaMallocAsync(void **, size, S), cudaFreeAsync(void *, S), cudaStreamIsCapturing(S, int *);
#define OK(call) do { E e = (call); if (e) { printf("line %d: %s answered %d\n", __LINE__, #call, e); return 1; } } while (0)
#define IS(value, call) do { E e = (call); if (e != (value)) { printf("line %d: %s answered %d\n", __LINE__, #call, e); return 1; } } while (0)
#define TRUE(fact) do { if (!(fact)) { printf("line %d: not %s\n", __LINE__, #fact); return 1; } } while (0)
"#;

/// Compiles `body` against a major and runs it with a server list; `None` where there is no C compiler.
fn run_c(folder: &Path, major: u32, body: &str, variables: &[(&str, &str)]) -> Option<Ran> {
    let library = shim_folder().join(format!("libcudart.so.{major}"));
    let source = format!("{HEADER}\n{body}");
    let options = [library.to_str().unwrap(), "-lpthread", "-ldl", "-O1", "-w"];
    let program = compile(folder, "program", &source, &options)?;
    let mut all = vec![("LD_LIBRARY_PATH", shim_folder().to_str().unwrap())];
    all.extend(variables);
    Some(run(&program, &all))
}

/// Runs `body` on the null device and expects it to print "done" and nothing else.
#[track_caller]
fn passes(major: u32, body: &str) {
    passes_saying(major, 0, body);
}

/// The same for a body that is told something, in this many lines on standard error.
#[track_caller]
fn passes_saying(major: u32, lines: usize, body: &str) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let Some(ran) = run_c(folder.path(), major, body, &[("VGPU_SERVER", &server.list)]) else { return };
    assert_eq!((ran.stdout.as_str(), ran.status), ("done\n", Some(0)), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), lines, "{}", ran.stderr);
}

#[test]
fn memory_goes_up_and_comes_back() {
    for major in [12, 13] {
        passes(
            major,
            r#"int main(void) {
            size n = 3 << 20; char *up = malloc(n), *down = calloc(n, 1); void *a, *b;
            for (size i = 0; i < n; i++) up[i] = i * 7 + i / 4096;
            OK(cudaMalloc(&a, n)); OK(cudaMalloc(&b, n));
            OK(cudaMemcpy(a, up, n, 1)); OK(cudaMemcpy(b, a, n, 3)); OK(cudaMemcpy(down, b, n, 4));
            TRUE(memcmp(up, down, n) == 0);
            OK(cudaMemset((char *)b + 1000, 0x5a, 100)); OK(cudaMemcpy(down, b, n, 2));
            for (size i = 0; i < n; i++) TRUE(down[i] == (i >= 1000 && i < 1100 ? 0x5a : up[i]));
            size free_bytes, total; OK(cudaMemGetInfo(&free_bytes, &total)); TRUE(free_bytes < total && total > n);
            void *nothing = &n; OK(cudaMalloc(&nothing, 0)); TRUE(nothing == 0);
            OK(cudaFree(a)); OK(cudaFree(b)); OK(cudaFree(0));
            puts("done"); return 0; }"#,
        );
    }
}

#[test]
fn rectangles_keep_their_gaps() {
    passes(
        13,
        r#"int main(void) {
        void *a; size pitch; OK(cudaMallocPitch(&a, &pitch, 100, 50)); TRUE(pitch >= 100 && pitch % 256 == 0);
        char up[60 * 120], down[60 * 130]; for (int i = 0; i < sizeof up; i++) up[i] = i % 97; memset(down, 1, sizeof down);
        OK(cudaMemset2D(a, pitch, 9, 100, 50));
        OK(cudaMemcpy2D((char *)a + 2, pitch, up, 120, 60, 40, 1));
        OK(cudaMemcpy2D(down, 130, a, pitch, 100, 50, 2));
        for (int y = 0; y < 50; y++) for (int x = 0; x < 130; x++) {
            int expected = x >= 100 ? 1 : y < 40 && x >= 2 && x < 62 ? up[y * 120 + x - 2] : 9;
            TRUE(down[y * 130 + x] == expected);
        }
        IS(12, cudaMemcpy2D(down, 50, a, pitch, 100, 50, 2));
        TRUE(cudaGetLastError() == 12);
        puts("done"); return 0; }"#,
    );
}

#[test]
fn streams_events_and_host_functions_keep_their_order() {
    passes(
        13,
        r#"static int steps[3], count;
        static void step(void *data) { usleep(20000); if (cudaDeviceSynchronize() != 800) count = 100; steps[count++] = (int)(long)data; }
        static void called(S stream, E error, void *data) { steps[count++] = error ? -1 : (int)(long)data; }
        int main(void) {
        S one, two, start, end, plain; OK(cudaStreamCreate(&one)); OK(cudaStreamCreateWithFlags(&two, 1));
        unsigned flags = 7; OK(cudaStreamGetFlags(two, &flags)); TRUE(flags == 1); OK(cudaStreamGetFlags(0, &flags)); TRUE(flags == 0);
        OK(cudaEventCreate(&start)); OK(cudaEventCreate(&end)); OK(cudaEventCreateWithFlags(&plain, 2));
        OK(cudaEventQuery(start)); OK(cudaEventSynchronize(start)); float ms = -1;
        IS(400, cudaEventElapsedTime(&ms, start, end)); TRUE(cudaGetLastError() == 400);
        char *pinned, *other; void *a; OK(cudaMallocHost((void **)&pinned, 1 << 20)); OK(cudaHostAlloc((void **)&other, 1 << 20, 1));
        OK(cudaMalloc(&a, 1 << 20)); memset(pinned, 3, 1 << 20);
        OK(cudaEventRecord(start, one)); OK(cudaMemcpyAsync(a, pinned, 1 << 20, 1, one));
        OK(cudaLaunchHostFunc(one, step, (void *)1)); OK(cudaLaunchHostFunc(one, step, (void *)2));
        OK(cudaEventRecord(end, one)); OK(cudaStreamWaitEvent(two, end, 0));
        OK(cudaMemcpyAsync(other, a, 1 << 20, 2, two)); OK(cudaStreamAddCallback(two, called, (void *)3, 0));
        OK(cudaStreamSynchronize(two));
        TRUE(count == 3 && steps[0] == 1 && steps[1] == 2 && steps[2] == 3); TRUE(memcmp(pinned, other, 1 << 20) == 0);
        OK(cudaStreamQuery(one)); OK(cudaEventQuery(end)); OK(cudaEventElapsedTime(&ms, start, end)); TRUE(ms >= 0);
        OK(cudaEventRecord(plain, 0)); OK(cudaEventSynchronize(plain)); IS(400, cudaEventElapsedTime(&ms, start, plain));
        OK(cudaStreamDestroy(one)); IS(400, cudaStreamSynchronize(one)); IS(400, cudaStreamDestroy(0)); cudaGetLastError();
        OK(cudaHostGetFlags(&flags, other + 5)); TRUE(flags == 1); OK(cudaFreeHost(pinned)); OK(cudaFreeHost(other)); IS(1, cudaFreeHost(other));
        puts("done"); return 0; }"#,
    );
}

#[test]
fn wrong_arguments_answer_what_cuda_answers() {
    passes(
        13,
        r#"int main(void) {
        char host[64], *page = malloc(8192); void *a; OK(cudaMalloc(&a, 100));
        IS(1, cudaMalloc(0, 1)); IS(2, cudaMalloc(&a, 1ul << 50)); TRUE(cudaPeekAtLastError() == 2);
        TRUE(cudaGetLastError() == 2 && cudaGetLastError() == 0);
        IS(1, cudaFree(host)); IS(1, cudaFree((char *)a + 256)); IS(21, cudaMemcpy(a, host, 1, 9)); IS(1, cudaMemcpy(a, host, 1, 2));
        IS(1, cudaMemcpy(a, host, 101, 1)); IS(1, cudaMemcpy(0, host, 1, 1)); OK(cudaMemcpy(a, host, 0, 1));
        int n = -1; IS(101, cudaSetDevice(1)); IS(101, cudaSetDevice(-1)); OK(cudaGetDevice(&n)); TRUE(n == 0);
        OK(cudaGetDeviceCount(&n)); TRUE(n == 1); IS(400, cudaStreamSynchronize((S)0x1234)); IS(400, cudaEventRecord((S)0x1234, 0));
        OK(cudaHostRegister(page, 8192, 0)); IS(712, cudaHostRegister(page + 10, 10, 0)); OK(cudaHostUnregister(page)); IS(713, cudaHostUnregister(page));
        IS(101, cudaDeviceEnablePeerAccess(0, 0)); OK(cudaFree(a)); IS(1, cudaFree(a)); IS(1, cudaMemcpy(a, host, 1, 1));
        cudaGetLastError(); puts("done"); return 0; }"#,
    );
}

#[test]
fn structures_are_written_as_far_as_each_major_has_them() {
    for (major, attributes, properties, version) in [(12, 24, 728, 12090), (13, 88, 784, 13050)] {
        passes(
            major,
            &format!(
                r#"int main(void) {{
            unsigned char room[1100]; void *a; OK(cudaMalloc(&a, 64)); int version; OK(cudaRuntimeGetVersion(&version)); TRUE(version == {version});
            memset(room, 0xee, sizeof room); OK(cudaPointerGetAttributes(room, (char *)a + 3));
            TRUE(*(int *)room == 2 && *(int *)(room + 4) == 0 && *(void **)(room + 8) == (char *)a + 3);
            TRUE(room[{attributes} - 1] == 0 && room[{attributes}] == 0xee);
            OK(cudaPointerGetAttributes(room, &version)); TRUE(*(int *)room == 0);
            memset(room, 0xee, sizeof room); OK(cudaGetDeviceProperties(room, 0));
            TRUE(room[0] && room[{properties} - 1] != 0xee && room[{properties}] == 0xee); int warp; OK(cudaDeviceGetAttribute(&warp, 10, 0));
            TRUE(*(int *)(room + 308) == warp && warp == 32);
            puts("done"); return 0; }}"#
            ),
        );
    }
}

#[test]
fn both_majors_in_one_process_share_one_session() {
    let shim = shim_folder().display();
    passes(
        13,
        &format!(
            r#"int main(void) {{
        void *twelve = dlopen("{shim}/libcudart.so.12", RTLD_NOW | RTLD_LOCAL); TRUE(twelve);
        E (*copy)(void *, const void *, size, int) = dlsym(twelve, "cudaMemcpy"); E (*release)(void *) = dlsym(twelve, "cudaFree");
        void *a; int up = 77, down = 0; OK(cudaMalloc(&a, 4)); OK(copy(a, &up, 4, 1)); OK(cudaMemcpy(&down, a, 4, 2)); TRUE(down == 77); OK(release(a));
        puts("done"); return 0; }}"#
        ),
    );
}

#[test]
fn many_threads_call_at_once() {
    passes(
        13,
        r#"static void *work(void *number) { long me = (long)number; char up[5000], down[5000]; void *a; S s;
            for (int round = 0; round < 20; round++) {
                memset(up, me + round, sizeof up); memset(down, 0, sizeof down);
                if (cudaStreamCreate(&s) || cudaMalloc(&a, sizeof up) || cudaMemcpyAsync(a, up, sizeof up, 1, s) ||
                    cudaMemcpyAsync(down, a, sizeof up, 2, s) || cudaStreamSynchronize(s) || memcmp(up, down, sizeof up)) return (void *)1;
                if (cudaMemcpyAsync_ptsz(a, up, 100, 1, 0) || cudaStreamSynchronize_ptsz(0) || cudaFree(a) || cudaStreamDestroy(s)) return (void *)2;
            }
            return 0; }
        int main(void) { pthread_t threads[8]; void *result;
        for (long i = 0; i < 8; i++) pthread_create(&threads[i], 0, work, (void *)i);
        for (int i = 0; i < 8; i++) { pthread_join(threads[i], &result); TRUE(result == 0); }
        puts("done"); return 0; }"#,
    );
}

#[test]
fn a_reset_device_begins_anew() {
    passes(
        13,
        r#"int main(void) { void *a, *b; S s; OK(cudaMalloc(&a, 1 << 20)); OK(cudaStreamCreate(&s)); OK(cudaDeviceReset());
        IS(400, cudaStreamSynchronize(s)); IS(1, cudaFree(a)); cudaGetLastError();
        for (int i = 0; i < 10; i++) { OK(cudaMalloc(&b, 1 << 20)); OK(cudaMemset(b, 1, 1 << 20)); OK(cudaDeviceReset()); }
        char byte = 0; OK(cudaMalloc(&b, 64)); OK(cudaMemset(b, 5, 64)); OK(cudaMemcpy(&byte, b, 1, 2)); TRUE(byte == 5);
        puts("done"); return 0; }"#,
    );
}

#[test]
fn a_fork_before_the_first_call_works_and_one_after_it_answers_error_3() {
    passes(
        13,
        r#"static int child(E expected) { void *a; E e = cudaMalloc(&a, 64); return e == expected ? 0 : 100 + e; }
        int main(void) { int status; pid_t id = fork(); if (!id) exit(child(0)); waitpid(id, &status, 0); TRUE(status == 0);
        void *a; OK(cudaMalloc(&a, 64)); id = fork(); if (!id) exit(child(3)); waitpid(id, &status, 0); TRUE(status == 0);
        OK(cudaMemset(a, 1, 64)); OK(cudaDeviceSynchronize());
        puts("done"); return 0; }"#,
    );
}

#[test]
fn two_devices_copy_between_each_other() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let servers = folders.each_ref().map(|folder| Server::start(folder.path(), "null"));
    let list = format!("{} {}", servers[0].list, servers[1].list);
    let body = r#"int main(void) { int n; void *a, *b; char up[9000], down[9000]; memset(up, 7, sizeof up); OK(cudaGetDeviceCount(&n)); TRUE(n == 2);
        OK(cudaMalloc(&a, sizeof up)); OK(cudaMemcpy(a, up, sizeof up, 1)); OK(cudaSetDevice(1)); OK(cudaMalloc(&b, sizeof up)); TRUE(a != b);
        OK(cudaMemcpyPeer(b, 1, a, 0, sizeof up)); OK(cudaMemcpy(down, b, sizeof down, 2)); TRUE(!memcmp(up, down, sizeof up));
        memset(down, 0, sizeof down); OK(cudaMemcpy(down, a, sizeof down, 2)); TRUE(!memcmp(up, down, sizeof up));
        OK(cudaMemset(b, 4, 10)); OK(cudaMemcpy(a, b, 10, 4)); OK(cudaMemcpy(down, a, 10, 2)); TRUE(down[9] == 4);
        S event, stream; OK(cudaEventCreate(&event)); OK(cudaEventRecord(event, 0)); OK(cudaSetDevice(0)); OK(cudaStreamCreate(&stream));
        OK(cudaStreamWaitEvent(stream, event, 0)); OK(cudaStreamSynchronize(stream)); IS(400, cudaEventRecord(event, stream)); IS(217, cudaDeviceEnablePeerAccess(1, 0));
        cudaGetLastError(); OK(cudaFree(b)); OK(cudaFree(a)); puts("done"); return 0; }"#;
    let Some(ran) = run_c(folders[0].path(), 13, body, &[("VGPU_SERVER", &list)]) else { return };
    assert_eq!((ran.stdout.as_str(), ran.status), ("done\n", Some(0)), "{}", ran.stderr);
    let swapped = [("VGPU_SERVER", list.as_str()), ("CUDA_VISIBLE_DEVICES", "1")];
    let one = r#"int main(void) { int n; OK(cudaGetDeviceCount(&n)); printf("%d\n", n); return 0; }"#;
    assert_eq!(run_c(folders[0].path(), 13, one, &swapped).unwrap().stdout, "1\n");
}

/// What a program sees of a list that leads nowhere.
const ASKS: &str = r#"int main(void) { int n = -1; void *a; E first = cudaGetDeviceCount(&n), second = cudaMalloc(&a, 4);
    int driver = -1; E third = cudaDriverGetVersion(&driver);
    printf("%d %d %s %d %d\n", first, n, cudaGetErrorName(second), third, driver); return 0; }"#;

#[test]
fn without_a_usable_server_one_line_names_variable_address_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let port = common::free_port();
    let refused = format!("127.0.0.1@{port}:0");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 6] = [
        (&[], &["VGPU_SERVER"]),
        (&[("VGPU_SERVER", "host:zero")], &["VGPU_SERVER", "         ^^^^"]),
        (&[("VGPU_SERVER", &refused)], &["VGPU_SERVER", "127.0.0.1", "nobody listens"]),
        (&[("DSCUDA_SERVER", "unix:/nowhere/at/all")], &["DSCUDA_SERVER", "/nowhere/at/all"]),
        // Verbs begin with TCP, and there is nobody.
        (&[("VGPU_SERVER", "ib://localhost:0")], &["VGPU_SERVER", "localhost:40800"]),
        (&[("VGPU_SERVER", "localhost:0,localhost:1")], &["replica", "not available yet"]),
    ];
    for (variables, words) in cases {
        let start = Instant::now();
        let Some(ran) = run_c(folder.path(), 13, ASKS, variables) else { return };
        assert_eq!(ran.stdout, "100 0 cudaErrorNoDevice 0 0\n", "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{word:?} is missing in {:?}", ran.stderr);
        }
        assert_eq!(ran.stderr.matches("vgpu:").count(), 1, "{}", ran.stderr);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn one_dead_server_fails_its_own_ordinal_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let list = format!("unix:/nowhere {}", server.list);
    let body = r#"int main(void) { int n; void *a; OK(cudaGetDeviceCount(&n)); TRUE(n == 2); IS(100, cudaMalloc(&a, 4));
        OK(cudaSetDevice(1)); OK(cudaMalloc(&a, 4)); OK(cudaFree(a)); IS(100, cudaSetDevice(0)); puts("done"); return 0; }"#;
    let Some(ran) = run_c(folder.path(), 13, body, &[("VGPU_SERVER", &list)]) else { return };
    assert_eq!(ran.stdout, "done\n", "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn a_lost_connection_is_an_error_and_no_hang() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    // The workers are the server's children; the program ends them as a crash would.
    let body = r#"int main(void) { void *a; OK(cudaMalloc(&a, 64)); OK(cudaDeviceSynchronize()); char line[200];
        sprintf(line, "pkill -9 -P %s", getenv("SERVER_ID")); setenv("PATH", "/usr/bin:/bin", 1); TRUE(system(line) == 0);
        E first = cudaDeviceSynchronize(), second = cudaMemset(a, 1, 64); printf("%d %d\n", first, second); return 0; }"#;
    let id = server.id().to_string();
    let variables = [("VGPU_SERVER", server.list.as_str()), ("SERVER_ID", id.as_str())];
    let start = Instant::now();
    let Some(ran) = run_c(folder.path(), 13, body, &variables) else { return };
    assert_eq!((ran.stdout.as_str(), ran.status), ("46 46\n", Some(0)), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("vgpu:").count(), 1, "{}", ran.stderr);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn destructors_of_the_program_still_free_and_what_is_posted_last_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let body = r#"static void *a; static int counted; static void count(void *data) { counted++; write(1, "ran\n", 4); }
        __attribute__((destructor)) static void late(void) { printf("free %d\n", cudaFree(a)); }
        static void handler(void) { printf("set %d\n", cudaMemset(a, 1, 64)); }
        int main(void) { atexit(handler); OK(cudaMalloc(&a, 64)); OK(cudaLaunchHostFunc(0, count, 0)); OK(cudaDeviceSynchronize()); return 0; }"#;
    let Some(ran) = run_c(folder.path(), 13, body, &[("VGPU_SERVER", &server.list)]) else { return };
    assert_eq!(ran.stdout, "ran\nset 0\nfree 0\n", "{}", ran.stderr);
    assert_eq!((ran.stderr.as_str(), ran.status), ("", Some(0)));
}

#[test]
fn a_structure_that_is_answered_by_value_is_whole() {
    passes(
        13,
        r#"struct D { int x, y, z, w, f; }; extern struct D cudaCreateChannelDesc(int, int, int, int, int);
        int main(void) { struct D d = cudaCreateChannelDesc(1, 2, 3, 4, 5); TRUE(d.x == 1 && d.w == 4 && d.f == 5); puts("done"); return 0; }"#,
    );
}

/// Listens like a server and answers every connection with `bytes`, or closes it, or says nothing.
fn impostor(answer: Option<Vec<u8>>) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            match &answer {
                // Kept open: the client waits for a greeting that never comes.
                None => kept.push(stream),
                Some(bytes) => {
                    let mut hello = [0; 4096];
                    let _ = stream.read(&mut hello);
                    let _ = stream.write_all(bytes);
                }
            }
        }
    });
    format!("127.0.0.1@{port}")
}

#[test]
fn whatever_else_answers_at_the_address_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let refusal =
        proto::handshake::Refusal { reason: "the client speaks protocol versions 1 to 1".to_owned() };
    let cases = [
        (None, "no greeting within"),
        (
            Some(b"HTTP/1.1 400 Bad Request\r\n\r\nand so on, for at least one header".to_vec()),
            "does not answer as a vgpu server",
        ),
        (Some(Vec::new()), "closed"),
        (Some(refusal.frame()), "protocol versions 1 to 1"),
    ];
    for (answer, words) in cases {
        let address = impostor(answer);
        let start = Instant::now();
        let Some(ran) = run_c(folder.path(), 13, ASKS, &[("VGPU_SERVER", &address)]) else { return };
        assert_eq!(ran.stdout, "100 0 cudaErrorNoDevice 0 0\n", "{}", ran.stderr);
        assert!(
            ran.stderr.contains(words) && ran.stderr.contains("VGPU_SERVER"),
            "{words:?}: {}",
            ran.stderr
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(start.elapsed() < Duration::from_secs(6), "{words}");
    }
}

#[test]
fn managed_memory_is_the_same_on_both_sides() {
    passes(
        13,
        r#"int main(void) {
        size n = (3 << 20) + 5000; unsigned char *m, *other, *down = malloc(n); void *a; int pipe_ends[2];
        OK(cudaMallocManaged((void **)&m, n, 1)); OK(cudaMallocManaged((void **)&other, 100, 1)); OK(cudaMalloc(&a, n));
        TRUE(m[n - 1] == 0); OK(pipe(pipe_ends)); TRUE(write(pipe_ends[1], "abcd", 4) == 4); TRUE(read(pipe_ends[0], m + 70000, 4) == 4);
        for (size i = 1 << 20; i < 2 << 20; i++) m[i] = i * 3; m[n - 1] = 9;
        OK(cudaMemcpy(a, m, n, 1)); OK(cudaMemcpy(down, a, n, 2));
        TRUE(!memcmp(down + 70000, "abcd", 4) && down[n - 1] == 9); for (size i = 1 << 20; i < 2 << 20; i++) TRUE(down[i] == (unsigned char)(i * 3));
        TRUE(m[70003] == 'd' && m[n - 1] == 9);
        OK(cudaMemset(m, 7, n)); OK(cudaMemset(other, 8, 100));
        for (size i = 0; i < n; i++) TRUE(m[i] == 7); TRUE(other[99] == 8);
        m[5] = 1; m[n / 2] = 2; other[0] = 3;
        OK(cudaMemcpy(a, m, n, 4)); OK(cudaMemcpy(down, a, n, 2)); for (size i = 0; i < n; i++) TRUE(down[i] == (i == 5 ? 1 : i == n / 2 ? 2 : 7));
        OK(cudaMemcpy(down, other, 1, 0)); TRUE(down[0] == 3);
        unsigned char attributes[88]; OK(cudaPointerGetAttributes(attributes, m + 10)); TRUE(*(int *)attributes == 3);
        for (int round = 0; round < 50; round++) { OK(cudaMemset(m + round, round, 1)); TRUE(m[round] == round); m[round] += 1; }
        OK(cudaMemcpy(down, m, 50, 2)); for (int i = 0; i < 50; i++) TRUE(down[i] == i + 1);
        OK(cudaFree(m)); OK(cudaFree(other)); IS(1, cudaFree(other)); IS(1, cudaMallocManaged(&a, 0, 1)); cudaGetLastError();
        OK(cudaMallocManaged((void **)&m, n, 1)); for (size i = 0; i < n; i += 4096) TRUE(m[i] == 0);
        puts("done"); return 0; }"#,
    );
}

#[test]
fn threads_fault_on_managed_memory_at_once_and_other_faults_are_the_programs() {
    passes(
        12,
        r#"#include <setjmp.h>
        static unsigned char *m; static sigjmp_buf back; static volatile int caught;
        static void stray(int signal) { caught++; siglongjmp(back, 1); }
        static void *reads(void *number) { long sum = 0; for (long i = 0; i < 1 << 20; i++) sum += m[(i * 7919 + (long)number * 131) & ((1 << 20) - 1)]; return (void *)sum; }
        int main(void) {
        signal(SIGSEGV, stray); OK(cudaMallocManaged((void **)&m, 1 << 20, 1));
        for (int round = 1; round < 4; round++) {
            OK(cudaMemset(m, round, 1 << 20)); pthread_t threads[4]; void *sum;
            for (long i = 0; i < 4; i++) pthread_create(&threads[i], 0, reads, (void *)i);
            for (int i = 0; i < 4; i++) { pthread_join(threads[i], &sum); TRUE((long)sum == (long)round << 20); }
        }
        if (!sigsetjmp(back, 1)) *(volatile int *)16 = 1; TRUE(caught == 1);
        void *a; OK(cudaMalloc(&a, 64)); if (!sigsetjmp(back, 1)) *(volatile int *)a = 1; TRUE(caught == 2);
        puts("done"); return 0; }"#,
    );
}

#[test]
fn pools_keep_books_about_their_allocations() {
    passes(
        13,
        r#"static unsigned long of(S pool, int attribute) { unsigned long value = -1; return cudaMemPoolGetAttribute(pool, attribute, &value) ? -2ul : value; }
        int main(void) { S first, own; void *a, *b, *c; OK(cudaDeviceGetDefaultMemPool(&first, 0));
        OK(cudaMallocAsync(&a, 1000, 0)); TRUE(of(first, 7) == 1000); OK(cudaFreeAsync(a, 0)); TRUE(of(first, 7) == 0 && of(first, 8) == 1000);
        unsigned long threshold = 1 << 20, zero = 0; OK(cudaMemPoolSetAttribute(first, 4, &threshold)); TRUE(of(first, 4) == 1 << 20);
        OK(cudaMemPoolSetAttribute(first, 8, &zero)); TRUE(of(first, 8) == 0); IS(1, cudaMemPoolSetAttribute(first, 7, &zero));
        struct { int type, handles, kind, id; void *security; size most; char reserved[56]; } properties = {1, 0, 1, 0, 0, 4096, {0}};
        OK(cudaMemPoolCreate(&own, &properties)); OK(cudaMallocFromPoolAsync(&b, 4096, own, 0)); IS(2, cudaMallocFromPoolAsync(&c, 1, own, 0));
        TRUE(of(own, 5) == 4096); OK(cudaFree(b)); OK(cudaMemPoolDestroy(own)); IS(400, cudaMemPoolDestroy(own)); IS(1, cudaMemPoolDestroy(first));
        int capturing = 7; OK(cudaStreamIsCapturing(0, &capturing)); TRUE(capturing == 0);
        cudaGetLastError(); puts("done"); return 0; }"#,
    );
}

#[test]
fn mapped_host_memory_is_reached_at_its_own_address() {
    passes_saying(
        13,
        1,
        r#"int main(void) { char *mapped, *plain, down[100]; void *device;
        OK(cudaHostAlloc((void **)&mapped, 100, 2)); OK(cudaMallocHost((void **)&plain, 100)); memset(mapped, 5, 100);
        OK(cudaHostGetDevicePointer(&device, mapped + 10, 0)); OK(cudaMemset(device, 6, 10)); TRUE(mapped[9] == 5 && mapped[10] == 6 && mapped[20] == 5);
        OK(cudaMemcpy(down, device, 90, 2)); TRUE(down[0] == 6 && down[89] == 5); IS(801, cudaHostGetDevicePointer(&device, plain, 0)); IS(1, cudaHostGetDevicePointer(&device, down, 0));
        OK(cudaFreeHost(mapped)); OK(cudaFreeHost(plain)); IS(1, cudaFreeHost(mapped)); cudaGetLastError(); puts("done"); return 0; }"#,
    );
}
