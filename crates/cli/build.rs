//! Takes the lists of functions that the client libraries answer into the program: `vgpu-client-shim/symbols/*.txt`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let folder = here.join("../../vgpu-client-shim/symbols");
    println!("cargo:rerun-if-changed={}", folder.display());
    let entries = std::fs::read_dir(&folder).expect("the lists are part of the source");
    let mut lists: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    lists.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    lists.sort();
    let mut text = String::from("/// Name and text of each list.\nconst LISTS: &[(&str, &str)] = &[\n");
    for path in &lists {
        println!("cargo:rerun-if-changed={}", path.display());
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        // `expect`: writing to a String cannot fail.
        writeln!(text, "    ({name:?}, include_str!({path:?})),").expect("a String takes all");
    }
    text.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(Path::new(&out).join("lists.rs"), text).expect("cargo's own folder is writable");
}
