//! Names that only the newest headers have, or that differ between the majors, in C, on the null device mostly.

#[allow(dead_code, reason = "each test program uses its part of the helpers")]
mod common;

use std::path::Path;

use common::{Server, compile, run, shim_folder};

const HEADER: &str = r#"
#include <stdio.h>
#include <string.h>
typedef int E; typedef void *S; typedef unsigned long size; typedef unsigned long long u64;
typedef struct { int type, id; } Location;
typedef struct { int order; Location src, dst; unsigned flags; } Attributes;
#define IS(value, call) do { E e = (call); if (e != (value)) { printf("line %d: %s answered %d\n", __LINE__, #call, e); return 1; } } while (0)
#define OK(call) IS(0, call)
#define TRUE(fact) do { if (!(fact)) { printf("line %d: not %s\n", __LINE__, #fact); return 1; } } while (0)
extern E cudaMalloc(void **, size), cudaFree(void *), cudaMemcpy(void *, const void *, size, int);
extern E cudaStreamCreate(S *), cudaStreamDestroy(S), cudaStreamSynchronize(S), cudaDeviceSynchronize(void);
"#;

/// Runs `body` on the null device: it prints "done", and what it is told has so many lines.
#[track_caller]
fn passes(major: u32, lines: usize, body: &str) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    passes_on(&server.list, folder.path(), major, lines, body);
}

/// The same on servers that run.
#[track_caller]
fn passes_on(servers: &str, folder: &Path, major: u32, lines: usize, body: &str) {
    let library = shim_folder().join(format!("libcudart.so.{major}"));
    let source = format!("{HEADER}\n{body}");
    let Some(program) = compile(folder, "program", &source, &[library.to_str().unwrap(), "-O1", "-w"]) else {
        return;
    };
    let path = ("LD_LIBRARY_PATH", shim_folder().to_str().unwrap());
    let ran = run(&program, &[path, ("VGPU_SERVER", servers)]);
    assert_eq!((ran.stdout.as_str(), ran.status), ("done\n", Some(0)), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), lines, "{}", ran.stderr);
}

#[test]
fn boxes_and_arrays_go_from_device_to_device() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // The null device has no arrays.
    let servers = folders.each_ref().map(|folder| Server::start(folder.path(), "soft"));
    let list = format!("{} {}", servers[0].list, servers[1].list);
    let body = r#"
        typedef struct { void *at; size pitch, x, y; } Pointer;
        typedef struct { S src; size from[3]; Pointer here; int a; S dst; size to[3]; Pointer there; int b; size extent[3]; } Peer;
        typedef struct { int x, y, z, w, kind; } Format;
        extern E cudaSetDevice(int), cudaMemcpy3DPeer(const Peer *), cudaMemcpy3DPeerAsync(const Peer *, S);
        extern E cudaMallocArray(S *, const Format *, size, size, unsigned);
        extern E cudaMemcpy2DToArray(S, size, size, const void *, size, size, size, int);
        extern E cudaMemcpy2DFromArray(void *, size, S, size, size, size, size, int);
        int main(void) {
            void *a, *b; char up[16 * 8 * 2], down[6 * 3 * 2]; S arrays[2]; Format format = {8, 0, 0, 0, 1};
            for (int i = 0; i < sizeof up; i++) up[i] = i * 7;
            OK(cudaMalloc(&a, sizeof up));
            OK(cudaMemcpy(a, up, sizeof up, 1));
            OK(cudaMallocArray(&arrays[0], &format, 16, 8, 0));
            OK(cudaMemcpy2DToArray(arrays[0], 0, 0, up, 16, 16, 8, 1));
            OK(cudaSetDevice(1));
            OK(cudaMalloc(&b, sizeof down));
            OK(cudaMallocArray(&arrays[1], &format, 8, 8, 0));
            Peer box = {0, {4, 2, 0}, {a, 16, 16, 8}, 0, 0, {0}, {b, 6, 6, 3}, 1, {6, 3, 2}};
            TRUE(sizeof box == 168);
            OK(cudaMemcpy3DPeer(&box));
            OK(cudaMemcpy(down, b, sizeof down, 2));
            for (int i = 0; i < 36; i++) TRUE(down[i] == up[(i / 18 * 8 + 2 + i / 6 % 3) * 16 + 4 + i % 6]);
            box.a = 1;
            IS(1, cudaMemcpy3DPeerAsync(&box, 0));

            Peer planes = {arrays[0], {3, 1, 0}, {0}, 0, arrays[1], {2, 5, 0}, {0}, 1, {6, 3, 1}};
            OK(cudaMemcpy3DPeer(&planes));
            memset(down, 0, sizeof down);
            OK(cudaMemcpy2DFromArray(down, 6, arrays[1], 2, 5, 6, 3, 2));
            for (int i = 0; i < 18; i++) TRUE(down[i] == up[(1 + i / 6) * 16 + 3 + i % 6]);
            planes.extent[0] = 7;
            IS(1, cudaMemcpy3DPeer(&planes));
            puts("done");
            return 0;
        }"#;
    for major in [12, 13] {
        passes_on(&list, folders[0].path(), major, 0, body);
    }
}

#[test]
fn major_12_says_which_copy_of_a_batch_was_refused() {
    passes(
        12,
        0,
        r#"
        extern E cudaMemcpyBatchAsync(void **, void **, size *, size, Attributes *, size *, size, size *, S);
        int main(void) {
            S stream; void *device, *to[3], *from[3]; int source[3] = {1, 2, 3}, back[3] = {0};
            size sizes[3] = {4, 4, 4}, firsts[2] = {0, 2}, failed = 77;
            Attributes kinds[2] = {{1}, {3}};
            OK(cudaStreamCreate(&stream));
            OK(cudaMalloc(&device, 64));
            for (int i = 0; i < 3; i++) to[i] = (char *)device + 16 * i, from[i] = &source[i];
            OK(cudaMemcpyBatchAsync(to, from, sizes, 3, kinds, firsts, 2, &failed, stream));
            TRUE(failed == 77);
            for (int i = 0; i < 3; i++) to[i] = &back[i], from[i] = (char *)device + 16 * i;
            OK(cudaMemcpyBatchAsync(to, from, sizes, 3, kinds, firsts, 2, &failed, stream));
            OK(cudaStreamSynchronize(stream));
            TRUE(back[0] == 1 && back[1] == 2 && back[2] == 3);
            from[1] = 0;
            IS(1, cudaMemcpyBatchAsync(to, from, sizes, 3, kinds, firsts, 2, &failed, stream));
            TRUE(failed == 1);
            kinds[1].order = 9, from[1] = device;
            IS(1, cudaMemcpyBatchAsync(to, from, sizes, 3, kinds, firsts, 2, &failed, stream));
            TRUE(failed == 2);
            IS(1, cudaMemcpyBatchAsync(to, from, sizes, 3, kinds, firsts, 1, &failed, 0));
            TRUE(failed == (size)-1);
            puts("done");
            return 0;
        }"#,
    );
}

#[test]
fn graphs_and_nodes_have_numbers_and_tell_what_they_are() {
    passes(
        13,
        0,
        r#"
        typedef struct { void *function; void *data; } Host;
        typedef struct { void *dst; size pitch; unsigned value, element; size width, height; } Fill;
        typedef struct { int type, reserved[3]; union { u64 padding[29]; Fill fill; Host host; S handle; } of; u64 end; } Parameters;
        extern E cudaGraphCreate(S *, unsigned), cudaGraphDestroy(S), cudaGraphInstantiate(S *, S, u64);
        extern E cudaGraphAddMemsetNode(S *, S, const S *, size, const Fill *), cudaGraphAddHostNode(S *, S, const S *, size, const Host *);
        extern E cudaGraphGetId(S, unsigned *), cudaGraphExecGetId(S, unsigned *), cudaGraphNodeGetLocalId(S, unsigned *);
        extern E cudaGraphNodeGetToolsId(S, u64 *), cudaGraphNodeGetContainingGraph(S, S *);
        extern E cudaGraphNodeGetParams(S, Parameters *), cudaGraphAddChildGraphNode(S *, S, const S *, size, S);
        extern E cudaGraphDebugDotPrint(S, const char *, unsigned);
        static void call(void *data) {}
        int main(int count, char **arguments) {
            S graph, other, exec, set, host, child, around; void *device; unsigned a, b, c, d; u64 tools; int data;
            OK(cudaGraphCreate(&graph, 0));
            OK(cudaGraphCreate(&other, 0));
            OK(cudaMalloc(&device, 64));
            Fill fill = {device, 64, 5, 4, 16, 1};
            Host function = {(void *)call, &data};
            OK(cudaGraphAddMemsetNode(&set, graph, 0, 0, &fill));
            OK(cudaGraphAddHostNode(&host, graph, &set, 1, &function));
            OK(cudaGraphAddChildGraphNode(&child, other, 0, 0, graph));
            OK(cudaGraphInstantiate(&exec, graph, 0));
            OK(cudaGraphGetId(graph, &a));
            OK(cudaGraphGetId(other, &b));
            OK(cudaGraphExecGetId(exec, &c));
            TRUE(a != b && a != c && b != c);
            OK(cudaGraphNodeGetLocalId(set, &c));
            OK(cudaGraphNodeGetLocalId(host, &d));
            OK(cudaGraphNodeGetToolsId(host, &tools));
            TRUE(c != d && tools == ((u64)a << 32 | d));
            OK(cudaGraphNodeGetContainingGraph(host, &around));
            TRUE(around == graph);

            Parameters found;
            memset(&found, 0xee, sizeof found);
            OK(cudaGraphNodeGetParams(set, &found));
            TRUE(found.type == 2 && !memcmp(&found.of.fill, &fill, sizeof fill) && found.of.padding[28] == 0);
            OK(cudaGraphNodeGetParams(host, &found));
            TRUE(found.type == 3 && found.of.host.function == (void *)call && found.of.host.data == &data);
            OK(cudaGraphNodeGetParams(child, &found));
            TRUE(found.type == 4 && found.of.handle != graph && found.of.handle != 0);
            IS(1, cudaGraphNodeGetParams(graph, &found));

            // The text for Graphviz calls them by the same numbers.
            char path[4096], line[64], text[4096] = "";
            snprintf(path, sizeof path, "%s.dot", arguments[0]);
            OK(cudaGraphDebugDotPrint(graph, path, 0));
            FILE *file = fopen(path, "r");
            text[fread(text, 1, sizeof text - 1, file)] = 0;
            snprintf(line, sizeof line, "node_%u -> node_%u;", c, d);
            TRUE(strstr(text, line));
            OK(cudaGraphDestroy(graph));
            IS(1, cudaGraphGetId(graph, &a));
            puts("done");
            return 0;
        }"#,
    );
}

#[test]
fn copies_with_attributes_host_functions_and_pools_by_location() {
    passes(
        13,
        1,
        r#"
        extern E cudaMemcpyWithAttributesAsync(void *, const void *, size, Attributes *, S);
        extern E cudaLaunchHostFunc_v2(S, void (*)(void *), void *, unsigned);
        extern E cudaMemGetDefaultMemPool(S *, Location *, int), cudaMemGetMemPool(S *, Location *, int);
        extern E cudaMemSetMemPool(Location *, int, S), cudaDeviceGetMemPool(S *, int), cudaMemPoolCreate(S *, const void *);
        extern E cudaDeviceGetHostAtomicCapabilities(unsigned *, const int *, unsigned, int);
        extern E cudaDeviceGetP2PAtomicCapabilities(unsigned *, const int *, unsigned, int, int);
        static void count(void *data) { ++*(int *)data; }
        int main(void) {
            S stream; void *device; int source = 7, back = 0, calls = 0;
            OK(cudaStreamCreate(&stream));
            OK(cudaMalloc(&device, 4));
            Attributes now = {2}, later = {1}, none = {0};
            OK(cudaMemcpyWithAttributesAsync(device, &source, 4, &now, stream));
            source = 8;
            OK(cudaMemcpyWithAttributesAsync(&back, device, 4, &later, stream));
            OK(cudaLaunchHostFunc_v2(stream, count, &calls, 1));
            IS(1, cudaLaunchHostFunc_v2(stream, count, &calls, 2));
            IS(1, cudaMemcpyWithAttributesAsync(device, &source, 4, &none, stream));
            OK(cudaStreamSynchronize(stream));
            TRUE(back == 7 && calls == 1);

            struct { int kind, handles; Location location; void *security; size most; char reserved[56]; } wanted = {1, 0, {1, 0}};
            S first, made, now_pool;
            Location here = {1, 0}, host = {2, 0}, nowhere = {1, 9};
            OK(cudaMemGetDefaultMemPool(&first, &here, 1));
            OK(cudaMemPoolCreate(&made, &wanted));
            OK(cudaMemSetMemPool(&here, 1, made));
            OK(cudaDeviceGetMemPool(&now_pool, 0));
            TRUE(now_pool == made && made != first);
            OK(cudaMemGetMemPool(&now_pool, &here, 1));
            TRUE(now_pool == made);
            IS(801, cudaMemGetMemPool(&now_pool, &host, 1));
            IS(101, cudaMemGetMemPool(&now_pool, &nowhere, 1));

            unsigned can[2] = {77, 77}; int operations[2] = {0, 12}, wrong = 13;
            OK(cudaDeviceGetHostAtomicCapabilities(can, operations, 2, 0));
            TRUE(can[0] == 0 && can[1] == 0);
            IS(1, cudaDeviceGetHostAtomicCapabilities(can, &wrong, 1, 0));
            IS(101, cudaDeviceGetP2PAtomicCapabilities(can, operations, 2, 0, 0));
            puts("done");
            return 0;
        }"#,
    );
}

#[test]
fn arrays_without_tiles_planes_or_views_say_so_as_cuda_does() {
    for major in [12, 13] {
        passes(
            major,
            1,
            r#"
            typedef struct { int x, y, z, w, kind; } Format;
            extern E cudaMallocArray(S *, const Format *, size, size, unsigned), cudaFreeArray(S);
            extern E cudaArrayGetMemoryRequirements(void *, S, int), cudaArrayGetSparseProperties(void *, S);
            extern E cudaArrayGetPlane(S *, S, unsigned), cudaDeviceGetTexture1DLinearMaxWidth(size *, const Format *, int);
            extern E cudaSetValidDevices(int *, int), cudaGetDevice(int *), cudaIpcGetMemHandle(void *, void *);
            int main(void) {
                Format format = {32, 0, 0, 0, 2}; S array, plane; char room[128]; int devices[1] = {0}, device = 5; 
                OK(cudaMallocArray(&array, &format, 8, 8, 0));
                IS(1, cudaArrayGetMemoryRequirements(room, array, 0));
                IS(1, cudaArrayGetSparseProperties(room, array));
                IS(1, cudaArrayGetPlane(&plane, array, 0));
                IS(400, cudaArrayGetPlane(&plane, (S)16, 0));
                OK(cudaSetValidDevices(devices, 1));
                OK(cudaGetDevice(&device));
                TRUE(device == 0);
                devices[0] = 3;
                IS(101, cudaSetValidDevices(devices, 1));
                IS(1, cudaSetValidDevices(devices, 2));
                IS(801, cudaIpcGetMemHandle(room, room));
                IS(801, cudaIpcGetMemHandle(room, room));
                OK(cudaFreeArray(array));
                puts("done");
                return 0;
            }"#,
        );
    }
}

#[test]
fn the_log_can_be_read_back_and_told_to_a_function() {
    passes(
        13,
        2,
        r#"
        extern E cudaLogsRegisterCallback(void (*)(void *, int, char *, size), void *, S *), cudaLogsUnregisterCallback(S);
        extern E cudaLogsCurrent(unsigned *, unsigned), cudaLogsDumpToMemory(unsigned *, char *, size *, unsigned);
        extern E cudaLogsDumpToFile(unsigned *, const char *, unsigned);
        extern E cudaGLGetDevices(void), cudaIpcGetEventHandle(void *, void *);
        static char heard[1000]; static int level = 77;
        static void hear(void *data, int told, char *message, size length) {
            if (data == heard && strlen(message) == length) strcpy(heard, message), level = told;
        }
        int main(int count, char **arguments) {
            S handle; unsigned place, first; char text[1000], path[4096]; size bytes = sizeof text;
            OK(cudaLogsRegisterCallback(hear, heard, &handle));
            OK(cudaLogsCurrent(&place, 0));
            first = place;
            IS(1, cudaLogsCurrent(&place, 1));
            OK(cudaLogsDumpToMemory(&place, text, &bytes, 0));
            TRUE(bytes == 0 && text[0] == 0);
            IS(801, cudaGLGetDevices());
            TRUE(level == 1 && strstr(heard, "cudaGLGetDevices is not available: ") == heard);
            OK(cudaLogsUnregisterCallback(handle));
            IS(1, cudaLogsUnregisterCallback(handle));
            IS(801, cudaIpcGetEventHandle(0, 0));
            TRUE(!strstr(heard, "cudaIpc"));

            bytes = sizeof text;
            OK(cudaLogsDumpToMemory(&place, text, &bytes, 0));
            TRUE(strlen(text) == bytes && strstr(text, heard) == text && strstr(text, "cudaIpcGetEventHandle"));
            bytes = sizeof text;
            OK(cudaLogsDumpToMemory(&place, text, &bytes, 0));
            TRUE(bytes == 0);
            bytes = 8;
            IS(1, cudaLogsDumpToMemory(&first, text, &bytes, 0));
            TRUE(bytes == 0);
            snprintf(path, sizeof path, "%s.log", arguments[0]);
            OK(cudaLogsDumpToFile(&first, path, 0));
            TRUE(first == place);
            FILE *file = fopen(path, "r");
            text[fread(text, 1, sizeof text - 1, file)] = 0;
            TRUE(strstr(text, heard) == text);
            puts("done");
            return 0;
        }"#,
    );
}

#[test]
fn who_is_told_of_an_error_may_call_cuda() {
    let body = r#"
        #include <unistd.h>
        extern E cudaLogsRegisterCallback(void (*)(void *, int, char *, size), void *, S *), cudaGetDeviceCount(int *);
        static int told, error, count = 77;
        static void hear(void *data, int level, char *message, size length) { told++, error = cudaGetDeviceCount(&count); }
        int main(void) {
            S handle; int first;
            alarm(20);
            OK(cudaLogsRegisterCallback(hear, 0, &handle));
            IS(100, cudaGetDeviceCount(&first));
            TRUE(told == 1 && error == 100 && count == 0);
            puts("done");
            return 0;
        }"#;
    let folder = tempfile::tempdir().unwrap();
    passes_on("", folder.path(), 13, 1, body);
}
