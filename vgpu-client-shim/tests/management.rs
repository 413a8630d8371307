//! Programs in C that open `libnvidia-ml.so.1` and `libcuda.so.1` by name, as libraries do that can do without them.

#[allow(dead_code, reason = "each test program uses its part of the helpers")]
mod common;

use std::path::Path;

use common::{Ran, Server, compile, run, shim_folder};

const HEADER: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#define TRUE(fact) do { if (!(fact)) { printf("line %d: not %s\n", __LINE__, #fact); return 1; } } while (0)
static void *library;
#define CALL(name, ...) ((int (*)())dlsym(library, #name))(__VA_ARGS__)
#define OK(name, ...) do { int e = CALL(name, __VA_ARGS__); if (e) { printf("line %d: %s answered %d\n", __LINE__, #name, e); return 1; } } while (0)
#define IS(value, name, ...) do { int e = CALL(name, __VA_ARGS__); if (e != (value)) { printf("line %d: %s answered %d\n", __LINE__, #name, e); return 1; } } while (0)
"#;

fn run_c(folder: &Path, body: &str, list: &str) -> Option<Ran> {
    let source = format!("{HEADER}\n{body}");
    let program = compile(folder, "program", &source, &["-ldl", "-w"])?;
    let variables = [("LD_LIBRARY_PATH", shim_folder().to_str().unwrap()), ("VGPU_SERVER", list)];
    Some(run(&program, &variables))
}

#[test]
fn nvml_shows_the_devices_of_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let body = r#"
int main(void) {
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    TRUE(library);
    unsigned count = 99, small;
    IS(1, nvmlDeviceGetCount_v2, &count);
    OK(nvmlInit_v2);
    OK(nvmlDeviceGetCount_v2, &count);
    TRUE(count == 2);
    void *first, *second, *found;
    OK(nvmlDeviceGetHandleByIndex_v2, 0, &first);
    OK(nvmlDeviceGetHandleByIndex_v2, 1, &second);
    TRUE(first != second);
    IS(2, nvmlDeviceGetHandleByIndex_v2, 2, &found);
    char name[96], uuid[96];
    OK(nvmlDeviceGetName, first, name, 96);
    TRUE(strstr(name, "null"));
    IS(7, nvmlDeviceGetName, first, name, 2);
    OK(nvmlDeviceGetUUID, first, uuid, 96);
    TRUE(!strncmp(uuid, "GPU-", 4) && strlen(uuid) == 40);
    OK(nvmlDeviceGetHandleByUUID, uuid, &found);
    TRUE(found == first);
    IS(6, nvmlDeviceGetHandleByUUID, "GPU-nobody", &found);
    struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; } pci;
    OK(nvmlDeviceGetPciInfo_v3, first, &pci);
    OK(nvmlDeviceGetHandleByPciBusId_v2, pci.text, &found);
    TRUE(found == first && strlen(pci.text) == 16);
    OK(nvmlDeviceGetHandleByPciBusId_v2, pci.legacy, &found);
    TRUE(found == first);
    unsigned long long memory[3];
    OK(nvmlDeviceGetMemoryInfo, first, memory);
    TRUE(memory[0] > 0 && memory[1] + memory[2] == memory[0]);
    int version = 0;
    OK(nvmlSystemGetCudaDriverVersion_v2, &version);
    TRUE(version >= 12000);
    // What only the machine with the device knows.
    IS(3, nvmlDeviceGetTemperature, first, 0, &small);
    IS(2, nvmlDeviceGetName, (void *)1, name, 96);
    OK(nvmlShutdown);
    IS(1, nvmlShutdown);
    printf("%s\n", ((const char *(*)(int))dlsym(library, "nvmlErrorString"))(15));
    return 0;
}"#;
    let list = format!("{0} {0}", server.list);
    let Some(ran) = run_c(folder.path(), body, &list) else { return };
    assert_eq!((ran.stdout.as_str(), ran.status), ("GPU is lost\n", Some(0)), "{}", ran.stderr);
}

#[test]
fn nvml_without_a_server_says_that_there_is_no_driver() {
    let folder = tempfile::tempdir().unwrap();
    let body = r#"
int main(void) {
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    TRUE(library);
    IS(9, nvmlInit_v2);
    OK(nvmlInitWithFlags, 1);
    unsigned count = 99;
    OK(nvmlDeviceGetCount_v2, &count);
    TRUE(count == 0);
    return 0;
}"#;
    let socket = format!("unix:{}", folder.path().join("nobody.sock").display());
    let Some(ran) = run_c(folder.path(), body, &socket) else { return };
    assert_eq!((ran.stdout.as_str(), ran.status), ("", Some(0)), "{}", ran.stderr);
    assert!(ran.stderr.contains("nobody.sock"), "{}", ran.stderr);
}

#[test]
fn the_driver_is_reached_by_symbol_by_suffix_and_by_name_and_version() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let body = r#"
int main(void) {
    library = dlopen("libcuda.so.1", RTLD_NOW);
    TRUE(library && dlopen("libcuda.so", RTLD_NOW));
    IS(3, cuCtxGetCurrent, &library);
    OK(cuInit, 0);
    IS(1, cuInit, 1);
    void *context, *memory, *found = 0;
    OK(cuCtxCreate_v2, &context, 0, 0);
    OK(cuMemAlloc_v2, &memory, 4096ul);
    int (*allocate)(void **, unsigned long) = 0;
    int status = 99;
    OK(cuGetProcAddress_v2, "cuMemAlloc", &allocate, 12000, 0ul, &status);
    TRUE(allocate && status == 0 && allocate(&found, 64) == 0 && found != memory);
    void *legacy = 0, *own = 0;
    OK(cuGetProcAddress_v2, "cuStreamSynchronize", &legacy, 12000, 0ul, 0);
    OK(cuGetProcAddress_v2, "cuStreamSynchronize", &own, 12000, 2ul, 0);
    TRUE(legacy != own);
    OK(cuGetProcAddress_v2, "cuLibraryLoadData", &found, 11000, 0ul, &status);
    TRUE(found == 0 && status == 2);
    IS(500, cuGetProcAddress_v2, "cuNothing", &found, 12000, 0ul, 0);
    // Private tables are refused, each said once.
    static const unsigned char unknown[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    const void *table = &status;
    IS(500, cuGetExportTable, &table, unknown);
    IS(500, cuGetExportTable, &table, unknown);
    TRUE(table == 0);
    IS(801, cuIpcGetMemHandle, &found, memory);
    OK(cuMemFree_v2, memory);
    OK(cuCtxDestroy_v2, context);
    IS(201, cuMemAlloc_v2, &memory, 4096ul);
    return 0;
}"#;
    let Some(ran) = run_c(folder.path(), body, &server.list) else { return };
    assert_eq!((ran.stdout.as_str(), ran.status), ("", Some(0)), "{}", ran.stderr);
    let tables = ran.stderr.matches("there is no table 01020304-0506-0708-090a-0b0c0d0e0f10").count();
    assert_eq!(tables, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("cuIpcGetMemHandle"), "{}", ran.stderr);
}

/// Libraries look at the devices by NVML so that processes they fork can still use CUDA.
#[test]
fn a_process_that_only_looked_may_fork_children_that_use_cuda() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let body = r#"
#include <sys/wait.h>
#include <unistd.h>
static int uses_cuda(void) {
    void *context, *memory;
    OK(cuInit, 0);
    OK(cuCtxCreate_v2, &context, 0, 0);
    OK(cuMemAlloc_v2, &memory, 4096ul);
    OK(cuCtxDestroy_v2, context);
    return 0;
}
int main(void) {
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    OK(nvmlInit_v2);
    unsigned count = 0;
    OK(nvmlDeviceGetCount_v2, &count);
    TRUE(count == 1);
    library = dlopen("libcuda.so.1", RTLD_NOW);
    for (int child = 0; child < 2; child++) {
        if (fork() == 0) return uses_cuda();
        int status = 1;
        wait(&status);
        TRUE(status == 0);
    }
    TRUE(uses_cuda() == 0);
    // From now on the links are this process's alone.
    if (fork() == 0) return uses_cuda() == 1 ? 7 : 0;
    int status = 0;
    wait(&status);
    TRUE(WEXITSTATUS(status) == 7);
    return 0;
}"#;
    let Some(ran) = run_c(folder.path(), body, &server.list) else { return };
    assert_eq!(ran.status, Some(0), "{} {}", ran.stdout, ran.stderr);
}

#[test]
fn modules_that_come_and_go_leave_no_names_behind() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    let body = r#"
int main(void) {
    library = dlopen("libcuda.so.1", RTLD_NOW);
    void *context, *module, *function, *kept = 0;
    OK(cuInit, 0);
    OK(cuCtxCreate_v2, &context, 0, 0);
    static const char text[] = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry work(.param .u64 a)\n{ ret; }\n";
    for (int round = 0; round < 300; round++) {
        OK(cuModuleLoadData, &module, text);
        OK(cuModuleGetFunction, &function, module, "work");
        IS(500, cuModuleGetFunction, &kept, module, "missing");
        OK(cuModuleUnload, module);
        // A function goes with its module.
        void *name;
        IS(400, cuFuncGetName, &name, function);
    }
    return 0;
}"#;
    let Some(ran) = run_c(folder.path(), body, &server.list) else { return };
    assert_eq!(ran.status, Some(0), "{} {}", ran.stdout, ran.stderr);
}

#[test]
fn a_node_of_a_graph_is_for_no_other_context_than_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "null");
    // CUgraphNodeParams: the kind, and from the third word on what belongs to it.
    let body = r#"
int main(void) {
    library = dlopen("libcuda.so.1", RTLD_NOW);
    TRUE(library);
    OK(cuInit, 0);
    void *other, *own, *graph, *node;
    unsigned long memory;
    OK(cuCtxCreate_v2, &other, 0, 0);
    OK(cuCtxCreate_v2, &own, 0, 0);
    OK(cuMemAlloc_v2, &memory, 64L);
    OK(cuGraphCreate, &graph, 0);
    void *contexts[] = {0, own, other};
    for (int i = 0; i < 3; i++) {
        int refused = contexts[i] == other ? 801 : 0;
        unsigned long set[32] = {2, 0, memory, 0, 7 | 1L << 32, 16, 1, (unsigned long)contexts[i]};
        IS(refused, cuGraphAddNode, &node, graph, (void *)0, 0L, set);
        if (!refused) { IS(0, cuGraphNodeSetParams, node, set); set[7] = (unsigned long)other; IS(801, cuGraphNodeSetParams, node, set); }
        unsigned long copy[32] = {1, 0, 0, (unsigned long)contexts[i]};
        copy[4 + 4] = 2, copy[4 + 6] = memory, copy[4 + 11 + 4] = 2, copy[4 + 11 + 6] = memory + 32;
        copy[4 + 22] = 16, copy[4 + 23] = 1, copy[4 + 24] = 1;
        IS(refused, cuGraphAddNode, &node, graph, (void *)0, 0L, copy);
    }
    unsigned long kernel[32] = {0}, choice[32] = {13};
    kernel[2 + 8] = choice[2 + 3] = (unsigned long)other;
    IS(801, cuGraphAddNode, &node, graph, (void *)0, 0L, kernel);
    IS(801, cuGraphAddNode, &node, graph, (void *)0, 0L, choice);
    puts("done");
    return 0;
}
"#;
    let Some(ran) = run_c(folder.path(), body, &server.list) else { return };
    assert_eq!(ran.stdout, "done\n", "{}", ran.stderr);
}
