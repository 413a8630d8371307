//! Help, pages and completions: what people read stays as it is until somebody means to change it.

mod common;

use std::path::Path;

use common::{said, vgpu};

/// Compares with a file under `tests/expected`, or writes it anew where `VGPU_WRITE_PAGES` is set.
#[track_caller]
fn expect(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected").join(name);
    if std::env::var_os("VGPU_WRITE_PAGES").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "run: VGPU_WRITE_PAGES=1 cargo test -p vgpu-cli --test pages");
}

#[test]
fn help_is_as_expected() {
    for task in ["", "run", "env", "devices", "doctor", "coverage"] {
        let words = if task.is_empty() { vec!["--help"] } else { vec![task, "--help"] };
        let said = said(&mut vgpu(&words));
        assert_eq!(said.status, Some(0));
        let name = if task.is_empty() { "help" } else { &format!("help-{task}") };
        expect(&format!("{name}.txt"), &said.stdout);
    }
}

#[test]
fn outputs_are_as_expected() {
    // Nobody listens on port 1.
    let devices = said(&mut vgpu(&["devices", "-s", "127.0.0.1@1:0 127.0.0.1@1"]));
    assert_eq!(devices.status, Some(1));
    expect("devices-dead.txt", &devices.stdout);
    let json = said(&mut vgpu(&["devices", "--json", "-s", "127.0.0.1@1:0"]));
    assert_eq!(json.status, Some(1));
    expect("devices-dead.json", &json.stdout);
    let mistake = said(&mut vgpu(&["devices", "-s", "good:0 bad:x"]));
    assert_eq!(mistake.status, Some(125));
    expect("mistake.txt", &mistake.stderr);
}

#[test]
fn every_task_that_is_shown_has_a_page_and_every_shell_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    let written = said(&mut vgpu(&["pages", folder.path().to_str().unwrap()]));
    assert_eq!((written.status, written.stderr.as_str()), (Some(0), ""));
    let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).unwrap();
    for task in ["run", "env", "devices", "doctor", "coverage"] {
        let page = read(&format!("man/man1/vgpu-{task}.1"));
        assert!(page.contains(&format!(".TH vgpu-{task} 1")), "{page}");
    }
    assert!(read("man/man1/vgpu.1").contains("vgpu\\-run(1)"));
    for file in [
        "bash-completion/completions/vgpu",
        "zsh/vendor-completions/_vgpu",
        "fish/vendor_completions.d/vgpu.fish",
    ] {
        let text = read(file);
        assert!(text.contains("devices") && text.contains("soft"), "{file}");
        assert!(!text.contains("start-devices"), "{file} shows what is hidden");
    }
    assert!(!folder.path().join("man/man1/vgpu-start-devices.1").exists());
}
