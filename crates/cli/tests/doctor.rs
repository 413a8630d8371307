//! `vgpu doctor` with planted faults: each is found, by its check and by its name, and nothing else is.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{compile, libraries, said, vgpu};
use proto::handshake::{Hello, Refusal};
use serde_json::Value;

/// The checks that failed, with what was found.
fn failures(command: &mut Command) -> Vec<(String, String)> {
    let said = said(command);
    let report: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr));
    let checks = report["checks"].as_array().unwrap();
    let failed: Vec<&Value> = checks.iter().filter(|check| check["state"] == "failed").collect();
    assert_eq!(said.status, i32::try_from(failed.len()).ok(), "the status is the number of failures");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert!(failed.iter().all(|check| !text(&check["remedy"]).is_empty()), "each has a remedy");
    failed.into_iter().map(|check| (text(&check["name"]), text(&check["found"]))).collect()
}

/// Exactly this check fails, and names the fault.
#[track_caller]
fn finds(command: &mut Command, name: &str, words: &str) {
    let failures = failures(command);
    let names: Vec<&str> = failures.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [name], "{failures:?}");
    assert!(failures[0].1.contains(words), "{words} is not in: {}", failures[0].1);
}

/// A server of ours on a Unix socket, which ends with the folder.
struct Server {
    process: std::process::Child,
    list: String,
}

impl Server {
    fn start(folder: &Path) -> Server {
        let program = libraries().parent().unwrap().join("vgpu-server");
        let socket = folder.join("server.sock");
        let mut command = Command::new(program);
        command.args(["--driver", "null", "--unix-only", "--unix"]).arg(&socket);
        let mut process = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        process.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        Server { process, list: format!("unix:{}", socket.display()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder with the client libraries as links, to be broken.
fn copied(folder: &Path) -> PathBuf {
    let copy = folder.join("lib");
    std::fs::create_dir(&copy).unwrap();
    for name in ["libvgpu_core.so", "libcudart.so.12", "libcudart.so.13"] {
        std::fs::copy(libraries().join(name), copy.join(name)).unwrap();
    }
    copy
}

#[test]
fn a_healthy_place_has_no_failures() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut command = vgpu(&["doctor", "--json", "-s", &server.list, "--", "sh", "-c", "true"]);
    assert_eq!(failures(&mut command), []);
    let page = said(&mut vgpu(&["doctor", "-s", &server.list]));
    assert!(page.stdout.ends_with("nothing is wrong\n") && page.status == Some(0), "{}", page.stdout);
}

#[test]
fn faults_of_the_list_and_of_servers_are_found() {
    let with = |list: &str| vgpu(&["doctor", "--json", "-s", list]);
    finds(&mut vgpu(&["doctor", "--json"]), "list", "VGPU_SERVER");
    finds(&mut with("good bad:x"), "list", "server id");
    // Too long for a name, so that no server of names is asked.
    let nobody = "x".repeat(70);
    finds(&mut with(&nobody), "addresses", &nobody);
    finds(&mut with("127.0.0.1@1:0"), "ports", "127.0.0.1:1");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let hello = Hello { oldest: 900, newest: 901, hashes: vec![], client: String::new() };
        let Refusal { reason } = hello.agree().unwrap_err();
        stream.write_all(&Refusal { reason }.frame()).unwrap();
        let mut rest = Vec::new();
        // Until the client has read it.
        let _ = stream.read_to_end(&mut rest);
    });
    finds(&mut with(&format!("127.0.0.1@{port}")), "versions", "900 to 901");
    other.join().unwrap();
}

#[test]
fn faults_of_the_libraries_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let ours = copied(folder.path());
    let doctor = || {
        let mut command = vgpu(&["doctor", "--json", "-s", &server.list]);
        command.env("VGPU_LIBRARY_PATH", &ours);
        command
    };
    let path = |folders: &[&Path]| std::env::join_paths(folders).unwrap();
    assert_eq!(failures(doctor().env("LD_LIBRARY_PATH", &ours)), []);
    finds(doctor().env("LD_PRELOAD", "/no/such/library.so"), "preload", "/no/such/library.so");

    let nvidias = folder.path().join("nvidia");
    std::fs::create_dir(&nvidias).unwrap();
    std::fs::copy(libraries().join("libcudart.so.13"), nvidias.join("libcudart.so.13")).unwrap();
    let before = path(&[&nvidias, &ours]);
    finds(doctor().env("LD_LIBRARY_PATH", &before), "order", "nvidia/libcudart.so.13 comes before our");
    // A preload brings ours to the front again.
    let preload = ours.join("libcudart.so.13");
    assert_eq!(failures(doctor().env("LD_LIBRARY_PATH", &before).env("LD_PRELOAD", preload)), []);

    let stubs = folder.path().join("cuda/lib64/stubs");
    std::fs::create_dir_all(&stubs).unwrap();
    std::fs::write(stubs.join("libcuda.so"), "").unwrap();
    finds(doctor().env("LD_LIBRARY_PATH", path(&[&ours, &stubs])), "stubs", "cuda/lib64/stubs");

    std::fs::copy(libraries().join("libcudart.so.13"), ours.join("libcuda.so.1")).unwrap();
    finds(&mut doctor(), "names", "no libcuda.so");
    std::fs::remove_file(ours.join("libcuda.so.1")).unwrap();

    std::fs::remove_file(ours.join("libcudart.so.12")).unwrap();
    finds(&mut doctor(), "libraries", "libcudart.so.12");
    finds(doctor().env("VGPU_LIBRARY_PATH", "/nowhere"), "libraries", "/nowhere");
}

#[test]
fn who_insists_on_verbs_learns_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    // Without a plug-in beside it.
    let alone = folder.path().join("vgpu");
    std::fs::copy(env!("CARGO_BIN_EXE_vgpu"), &alone).unwrap();
    // As root the limit does not hold: without that privilege.
    let script = "ulimit -l 64; exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock \"$@\"";
    let is_root = said(Command::new("id").arg("-u")).stdout.trim() == "0";
    let script = if is_root { script } else { "ulimit -l 64; exec \"$@\"" };
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(&alone).args(["doctor", "--json", "-s", "ib://127.0.0.1@1"]);
    let failures = failures(command.env("VGPU_LIBRARY_PATH", libraries()).env_remove("LD_PRELOAD"));
    let names: Vec<&str> = failures.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ports", "verbs", "memlock"]);
    assert!(failures[2].1.contains("64 KiB"), "{}", failures[2].1);
}

#[test]
fn faults_of_a_program_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let doctor = |program: &str| vgpu(&["doctor", "--json", "-s", &server.list, "--", program]);
    finds(&mut doctor("/no/such/program"), "program", "/no/such/program");
    let main = "int main(void) { return 0; }";
    let Some(fixed) = compile(folder.path(), "fixed", main, &["-static"]) else { return };
    finds(&mut doctor(&fixed), "program", "statically");
    let device_code = "__attribute__((section(\".nvFatBinSegment\"))) int device_code = 1;\n";
    let stripped = compile(folder.path(), "stripped", &format!("{device_code}{main}"), &["-s"]).unwrap();
    finds(&mut doctor(&stripped), "cudart", "stripped");

    // One name that we lack, one that we have, and a helper of its own library.
    let helper =
        compile(folder.path(), "libhelper.so", "int cudaHelper(void) { return 0; }", &["-shared", "-fPIC"]);
    let source = "int cudaIpcGetMemHandle(void); int cudaMalloc(void); int cudaHelper(void);\n\
                  int main(void) { return cudaIpcGetMemHandle() + cudaMalloc() + cudaHelper(); }";
    let ours = libraries().join("libcudart.so.13");
    let arguments = [ours.to_str().unwrap(), &helper.unwrap(), "-Wl,--allow-shlib-undefined"];
    let lacking = compile(folder.path(), "lacking", source, &arguments).unwrap();
    let found = failures(&mut doctor(&lacking));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == "functions" && found[0].1.contains("cudaIpcGetMemHandle"), "{found:?}");
    assert!(!found[0].1.contains("cudaMalloc") && !found[0].1.contains("cudaHelper"), "{found:?}");

    // A run path to NVIDIA's runtime, which LD_LIBRARY_PATH alone does not beat.
    let nvidias = folder.path().join("nvidia");
    std::fs::create_dir(&nvidias).unwrap();
    std::fs::copy(&ours, nvidias.join("libcudart.so.13")).unwrap();
    let source = "int cudaMalloc(void); int main(void) { return cudaMalloc(); }";
    let rpath = format!("-Wl,--disable-new-dtags,-rpath,{}", nvidias.display());
    let bound = compile(folder.path(), "bound", source, &[ours.to_str().unwrap(), &rpath]).unwrap();
    let found = failures(doctor(&bound).env("LD_LIBRARY_PATH", libraries()));
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["order", "cudart"], "{found:?}");
    assert!(found[1].1.contains("RPATH"), "{found:?}");
    assert_eq!(failures(doctor(&bound).env("LD_LIBRARY_PATH", libraries()).env("LD_PRELOAD", &ours)), []);
}

#[test]
fn a_program_with_the_runtime_linked_in_needs_a_preload() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    // As NVIDIA's archive shows itself: its own names in the symbol table.
    let source = "static int __attribute__((used)) libcudart_static_0(void) { return 0; }\n\
                  int __cudaGetKernel(void) { return 0; }\n\
                  __attribute__((noinline)) int cudaIpcGetMemHandle(void) { __asm__(\"\"); return 0; }\n\
                  int cudaMalloc(void) { return 0; }\n\
                  int main(void) { __asm__(\"\"); return cudaIpcGetMemHandle(); }";
    let arguments = ["-O0", "-fno-reorder-functions"];
    let Some(program) = compile(folder.path(), "linked", source, &arguments) else { return };
    let doctor = || vgpu(&["doctor", "--json", "-s", &server.list, "--", &program]);
    let found = failures(doctor().env("LD_LIBRARY_PATH", libraries()));
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cudart", "functions"]);
    assert!(found[0].1.contains("linked in") && found[1].1.contains("cudaIpcGetMemHandle"), "{found:?}");
    assert!(!found[1].1.contains("cudaMalloc"), "only what is called: {found:?}");
}
