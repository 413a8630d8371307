//! Tests of code that loads a CUDA driver: cudarc finds it by the loader, so such a test starts itself again with
//! `LD_LIBRARY_PATH` at a folder that holds both names of a driver.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Which driver the process shall find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Library {
    /// The software GPU's own `libcuda.so.1`.
    Soft,
    /// The one that is installed.
    Installed,
}

/// Set in the process that runs the body.
const MARK: &str = "VGPU_DRIVER_TEST";

/// The software GPU's library. `cargo test` does not build a cdylib that no test links, so it is built here.
pub fn soft_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "soft-gpu-cuda"]).current_dir(&root);
        assert!(
            build.status().expect("cargo runs, it has started this test").success(),
            "the library does not build"
        );
        target.join("debug/libsoft_cuda.so")
    })
}

/// Runs `body` in a process that finds this driver. `test` is the path of the calling test.
pub fn with_driver(library: Library, test: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let folder =
        std::env::temp_dir().join(format!("vgpu-driver-{}-{}", std::process::id(), test.replace("::", "-")));
    std::fs::create_dir_all(&folder).expect("a writable temporary folder");
    let mut again = Command::new(std::env::current_exe().expect("this test"));
    again.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(MARK, "1");
    if library == Library::Soft {
        for name in ["libcuda.so", "libcuda.so.1"] {
            let link = folder.join(name);
            // A link that an earlier run left behind.
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(soft_library(), link).expect("a writable temporary folder");
        }
        again.env("LD_LIBRARY_PATH", &folder);
    }
    let output = again.output().expect("this test starts again");
    std::fs::remove_dir_all(&folder).expect("our own folder");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.starts_with("skipped")).for_each(|line| println!("{line}"));
}
