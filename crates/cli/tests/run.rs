//! `vgpu run` and `vgpu env`: what a program gets, and what is left when it is gone.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{COUNT, compile, libraries, said, vgpu};
use testkit::eventually;

#[test]
fn the_program_is_this_process_with_its_own_status_and_signals() {
    let run = |script: &str| vgpu(&["run", "-s", "a:0", "--", "sh", "-c", script]);
    let mut child = run("echo $$").stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text.trim(), child.id().to_string());
    assert!(child.wait().unwrap().success());
    assert_eq!(said(&mut run("exit 7")).status, Some(7));
    assert_eq!(run("kill -TERM $$").status().unwrap().signal(), Some(15));
    // A pipe that is closed ends a program of C; Rust programs ignore the signal, and it must not stay ignored.
    let mut child = run("kill -PIPE $$; sleep 20").spawn().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(13));
}

#[test]
fn the_variables_reach_the_program_before_what_was_there() {
    let script = r#"printf '%s\n' "$VGPU_SERVER" "$LD_PRELOAD" "$LD_LIBRARY_PATH" "$VGPU_LOG""#;
    let mut command = vgpu(&["run", "--summary", "-s", "a:0 b@50000:1", "--", "sh", "-c", script]);
    let said = said(command.env("LD_LIBRARY_PATH", "/opt/lib").env("VGPU_SERVER", "other:0"));
    let ours = libraries().canonicalize().unwrap();
    let ours = ours.display();
    let lines: Vec<&str> = said.stdout.lines().collect();
    let preload = format!("{ours}/libcudart.so.12:{ours}/libcudart.so.13");
    assert_eq!(lines[0], "a:0 b@50000:1");
    assert!(lines[1].starts_with(&preload), "{}", lines[1]);
    assert_eq!(lines[2..], [format!("{ours}:/opt/lib"), "summary".to_owned()]);
    assert_eq!(said.stderr, "");
}

#[test]
fn private_devices_are_there_when_the_program_starts_and_are_not_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let Some(count) = compile(folder.path(), "count", COUNT, &[]) else { return };
    let one = said(&mut vgpu(&["run", "--soft", "--", &count]));
    assert_eq!((one.stdout.as_str(), one.stderr.as_str()), ("devices=1 error=0\n", ""));
    let script = format!(
        "{count}; cat /proc/$$/task/$$/children; echo; ls -ld \"$(dirname ${{VGPU_SERVER##*unix:}})\""
    );
    let three = said(&mut vgpu(&["run", "--soft=3", "--", "sh", "-c", &script]));
    let mut lines = three.stdout.lines();
    assert_eq!(lines.next(), Some("devices=3 error=0"), "{}", three.stderr);
    // The one child is cat itself.
    assert_eq!(lines.next().map(|line| line.split_whitespace().count()), Some(1));
    assert!(lines.next().is_some_and(|line| line.starts_with("drwx------")));
}

#[test]
fn each_rank_of_a_machine_sees_its_part() {
    let folder = tempfile::tempdir().unwrap();
    let Some(count) = compile(folder.path(), "count", COUNT, &[]) else { return };
    let devices = |policy: &str| {
        let mut command = vgpu(&["run", "--soft=3", "--", &count]);
        command.env("VGPU_RANK_POLICY", policy);
        command.env("OMPI_COMM_WORLD_LOCAL_RANK", "1").env("OMPI_COMM_WORLD_LOCAL_SIZE", "2");
        said(&mut command).stdout
    };
    assert_eq!(devices("all"), "devices=3 error=0\n");
    assert_eq!(devices("roundrobin"), "devices=1 error=0\n");
    assert_eq!(devices("block"), "devices=2 error=0\n");
}

/// Starts `sleep` with private devices; answers it and the sockets of these.
fn sleeping(count: u32) -> (std::process::Child, Vec<PathBuf>) {
    let soft = format!("--soft={count}");
    let script = "echo $VGPU_SERVER; exec sleep 100";
    let mut command = vgpu(&["run", &soft, "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let sockets = line.split_whitespace().map(|item| item.strip_prefix("unix:").unwrap().into()).collect();
    (child, sockets)
}

#[test]
fn private_devices_end_with_a_program_that_is_killed() {
    let (mut child, sockets) = sleeping(2);
    assert!(sockets.len() == 2 && sockets.iter().all(|socket| UnixStream::connect(socket).is_ok()));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let folder = sockets[0].parent().unwrap();
    assert!(eventually(|| !folder.exists()), "{} is left", folder.display());
}

#[test]
fn two_programs_have_different_devices() {
    let ((mut one, first), (mut other, second)) = (sleeping(1), sleeping(1));
    assert_ne!(first, second);
    one.kill().unwrap();
    one.wait().unwrap();
    assert!(eventually(|| !first[0].exists()));
    assert!(UnixStream::connect(&second[0]).is_ok(), "the other's device stays");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn exports_are_read_back_by_a_shell_and_devices_end_with_it() {
    let program = env!("CARGO_BIN_EXE_vgpu");
    let script = format!(
        "eval \"$({program} env --soft --until $$)\"; echo $VGPU_SERVER; [ -S \"${{VGPU_SERVER#unix:}}\" ]"
    );
    let mut shell = std::process::Command::new("sh");
    let said =
        said(shell.args(["-c", &script]).env("VGPU_LIBRARY_PATH", libraries()).env_remove("LD_PRELOAD"));
    assert_eq!(said.status, Some(0), "{}", said.stderr);
    let socket = PathBuf::from(said.stdout.trim().strip_prefix("unix:").unwrap());
    assert!(eventually(|| !socket.parent().unwrap().exists()));
    let json = common::said(&mut vgpu(&["env", "-s", "a:0", "--format", "json"])).stdout;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["VGPU_SERVER"], "a:0");
    assert!(value["LD_PRELOAD"].as_str().unwrap().contains("libcudart.so.13"));
}

/// One line that holds `words`, and this status.
#[track_caller]
fn refuses(command: &mut std::process::Command, status: i32, words: &[&str]) {
    let said = said(command);
    assert_eq!(said.status, Some(status), "{}", said.stderr);
    assert!(said.stderr.starts_with("vgpu: ") && said.stdout.is_empty(), "{}", said.stderr);
    for word in words {
        assert!(said.stderr.contains(word), "{word} is not in: {}", said.stderr);
    }
}

#[test]
fn what_would_fail_in_silence_is_refused_with_a_remedy() {
    let list = ["run", "-s", "a:0", "--"];
    let run = |program: &str| vgpu(&[&list[..], &[program]].concat());
    refuses(&mut vgpu(&["run", "--", "true"]), 125, &["VGPU_SERVER", "-s", "--soft"]);
    refuses(&mut vgpu(&["run", "-s", "a b:x", "--", "true"]), 125, &["-s: ", "    ^"]);
    refuses(vgpu(&["run", "--", "true"]).env("VGPU_SERVER", "a:x"), 125, &["VGPU_SERVER: "]);
    refuses(&mut run("no-such-program"), 127, &["no-such-program", "PATH"]);
    refuses(&mut run("/etc/passwd"), 126, &["chmod +x"]);
    refuses(run("true").env("VGPU_LIBRARY_PATH", "/nowhere"), 125, &["libvgpu_core.so", "/nowhere"]);

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut other = std::fs::read("/proc/self/exe").unwrap();
    other[18] = 183;
    std::fs::write(at("arm"), other).unwrap();
    std::fs::set_permissions(at("arm"), PermissionsExt::from_mode(0o755)).unwrap();
    refuses(&mut run(at("arm").to_str().unwrap()), 126, &["ARM64"]);
    let main = "int main(void) { return 0; }";
    let Some(fixed) = compile(folder.path(), "fixed", main, &["-static"]) else { return };
    refuses(&mut run(&fixed), 126, &["statically", "without -static"]);
    let stripped = "__attribute__((section(\".nvFatBinSegment\"))) int device_code = 1;\n".to_owned() + main;
    let Some(stripped) = compile(folder.path(), "stripped", &stripped, &["-s"]) else { return };
    refuses(&mut run(&stripped), 126, &["stripped", "-cudart shared"]);
}

#[test]
fn a_program_with_the_rights_of_another_user_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("careful");
    std::fs::copy("/bin/true", &file).unwrap();
    if let Err(error) = std::os::unix::fs::chown(&file, Some(1), None) {
        eprintln!("skipped: only root can give a file away: {error}");
        return;
    }
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4755)).unwrap();
    let mut command = vgpu(&["run", "-s", "a:0", "--", file.to_str().unwrap()]);
    refuses(&mut command, 126, &["setuid", "LD_PRELOAD"]);
}

#[test]
fn a_server_that_cannot_start_is_said_before_the_program_runs() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("vgpu");
    std::fs::copy(env!("CARGO_BIN_EXE_vgpu"), &alone).unwrap();
    let command = |search_path: &Path| {
        let mut command = std::process::Command::new(&alone);
        command.args(["run", "--soft", "--", "/bin/echo", "started"]).env_clear();
        command.env("VGPU_LIBRARY_PATH", libraries()).env("PATH", search_path);
        command
    };
    refuses(&mut command(Path::new("/bin")), 125, &["vgpu-server", "install"]);
    let broken = folder.path().join("vgpu-server");
    std::fs::write(&broken, "#!/bin/sh\necho it is broken >&2\n").unwrap();
    std::fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).unwrap();
    let said = said(&mut command(folder.path()));
    assert_eq!((said.status, said.stdout.as_str()), (Some(125), ""));
    assert!(said.stderr.contains("it is broken") && said.stderr.contains("device 0"), "{}", said.stderr);
}
