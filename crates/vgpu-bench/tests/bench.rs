//! `vgpu-bench` as a user runs it: what it prints, writes and draws, and that a device that loses work is found out.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// `target/<profile>`, with the libraries and the server in it: artifacts of other packages, which `cargo test` does not
/// build by itself.
fn target() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet"]);
        let packages = [
            "vgpu-server",
            "vgpu-client-shim",
            "vgpu-cudart12",
            "vgpu-cudart13",
            "vgpu-cuda",
            "soft-gpu-cuda",
        ];
        for package in packages {
            build.args(["-p", package]);
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(status.success(), "the client libraries do not build");
        Path::new(env!("CARGO_BIN_EXE_vgpu-bench")).parent().unwrap().to_owned()
    })
}

/// The program with an environment that nothing of this one is in.
fn bench(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-bench"));
    command.args(words).env_clear().env("PATH", "/usr/bin:/bin");
    command.env("VGPU_LIBRARY_PATH", target().join("shim"));
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeded(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// The figures of a place are all there and positive.
#[track_caller]
fn complete(metrics: &[Value], place: &str) {
    for metric in metrics {
        let figure = &metric[place];
        for field in ["p50_us", "p99_us", "least_us", "largest_us", "samples"] {
            assert!(figure[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {metric}");
        }
        assert_eq!(figure["rounds_us"].as_array().map(Vec::len), Some(3), "{metric}");
        let more = match metric["name"].as_str().unwrap() {
            "launches" => "per_second",
            "copy" => "gigabytes_per_second",
            _ => continue,
        };
        assert!(figure[more].as_f64().is_some_and(|value| value > 0.0), "{more} of {metric}");
    }
}

#[test]
fn a_private_device_is_measured_written_down_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let (json, plots) = (folder.path().join("figures.json"), folder.path().join("new/plots"));
    let mut command = bench(&["--soft", "--quick", "--remote-only", "--json"]);
    let output = succeeded(command.arg(&json).arg("--plot").arg(&plots));
    let table = text(&output.stdout);
    assert!(
        table.contains("local:   not measured") && table.contains("remote:  vgpu software GPU"),
        "{table}"
    );
    assert_eq!(text(&output.stderr), "", "no progress where nobody looks");

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&report["format"], &report["version"]), (&1.into(), &env!("CARGO_PKG_VERSION").into()));
    let date = report["date"].as_str().unwrap();
    assert!(date.len() == 20 && date.starts_with("20") && date.ends_with('Z'), "{date}");
    assert!(report["remote"]["device"].as_str().is_some_and(|name| name.contains("software")));
    assert!(report["remote"]["server"].as_str().is_some_and(|server| server.starts_with("unix:")));
    assert!(report["remote"]["driver"].is_string() && report["local"].is_null());

    let metrics = report["metrics"].as_array().unwrap();
    let names: Vec<&str> = metrics.iter().map(|metric| metric["name"].as_str().unwrap()).collect();
    assert_eq!(names[..4], ["synchronize", "read_word", "launch_and_synchronize", "launches"]);
    assert_eq!(names.iter().filter(|name| **name == "copy").count(), 2 * 2 * 3);
    complete(metrics, "remote");

    for name in names[..4].iter().chain(&["to_device", "to_host"]) {
        let svg = std::fs::read_to_string(plots.join(format!("{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg ") && svg.contains("<circle") && svg.contains("remote"), "{name}");
    }
}

#[test]
fn a_driver_of_this_machine_is_measured_in_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(target().join("libsoft_cuda.so"), folder.path().join(name)).unwrap();
    }
    let json = folder.path().join("figures.json");
    let mut command = bench(&["--soft", "--quick", "--local", "--sizes", "4KiB", "--json"]);
    // As in a shell that already has our libraries before it: those are not a driver of this machine.
    let path = format!("{}:{}", target().join("shim").display(), folder.path().display());
    let preload = target().join("shim/libcuda.so.1");
    succeeded(command.arg(&json).env("LD_LIBRARY_PATH", path).env("LD_PRELOAD", preload));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let metrics = report["metrics"].as_array().unwrap();
    complete(metrics, "local");
    complete(metrics, "remote");
    for metric in metrics {
        let ratio = |field: &str| metric["ratio"][field].as_f64().unwrap();
        assert!(
            0.0 < ratio("least") && ratio("least") <= ratio("median") && ratio("median") <= ratio("largest")
        );
    }
    let windows = succeeded(bench(&["windows"]).env("LD_LIBRARY_PATH", folder.path()));
    let windows: Value = serde_json::from_slice(&windows.stdout).unwrap();
    assert_eq!(windows["windows"][0]["outcome"], "ok", "{windows}");
}

/// A server whose device computes nothing.
fn null_server(socket: &Path) -> Child {
    let mut command = Command::new(target().join("vgpu-server"));
    command.args(["--driver", "null", "--log", "warn", "--unix-only", "--unix"]).arg(socket);
    let mut server = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("Serving "), "{line}");
    server
}

#[test]
fn a_device_that_loses_launches_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, json) = (folder.path().join("null.sock"), folder.path().join("figures.json"));
    let mut server = null_server(&socket);
    let list = format!("unix:{}", socket.display());
    let output = bench(&["--quick", "--remote-only", "-s", &list, "--json"]).arg(&json).output().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("launches were lost") && said.contains("remote"), "{said}");
    assert!(!json.exists(), "there are no figures of work that did not arrive");
}

#[test]
fn what_cannot_be_measured_is_said_with_a_remedy() {
    #[track_caller]
    fn refused(words: &[&str], expected: &[&str]) {
        let output = bench(words).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{said}");
        assert!(
            said.starts_with("vgpu-bench: ") && expected.iter().all(|word| said.contains(word)),
            "{said}"
        );
    }
    refused(&[], &["VGPU_SERVER", "--soft"]);
    refused(&["-s", "127.0.0.1@1:0"], &["127.0.0.1:1", "vgpu doctor"]);
    refused(&["-s", "a b:x"], &["-s: "]);
    refused(&["--soft", "--device", "3"], &["device 3"]);
    let mut elsewhere = bench(&["--soft"]);
    let output = elsewhere.env("VGPU_LIBRARY_PATH", "/nowhere").output().unwrap();
    assert!(text(&output.stderr).contains("/nowhere") && output.status.code() == Some(1));
}
