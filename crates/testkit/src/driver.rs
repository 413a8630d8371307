//! Tests of code that loads a CUDA driver: cudarc finds it by the loader, so such a test starts itself again with
//! `LD_LIBRARY_PATH` at a folder that holds both names of a driver.

use std::path::PathBuf;
use std::process::Command;

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
/// Says that the body has run to its end.
const DONE: &str = "the driver test has passed";

/// The software GPU's library, which cargo puts beside the tests of crates that depend on `soft-gpu-cuda`.
pub fn soft_library() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let library = test.with_file_name("libsoft_cuda.so");
    assert!(library.is_file(), "{} is not there: does the test depend on soft-gpu-cuda?", library.display());
    library
}

/// Runs `body` in a process that finds this driver. `test` is the path of the calling test.
pub fn with_driver(library: Library, test: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        body();
        // On standard error: what is printed may be taken for what kernels print.
        return eprintln!("{DONE}");
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
    assert!(output.status.success() && said.contains(DONE), "{said}");
    said.lines().filter(|line| line.starts_with("skipped")).for_each(|line| println!("{line}"));
}
