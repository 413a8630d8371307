//! Writes the tables of functions that the entry libraries jump through, from the lists in `symbols/`, and the index
//! of the driver's names for `cuGetProcAddress`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

include!("symbols/list.rs");

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rerun-if-changed=symbols/list.rs");
    // `expect`: writing to a String cannot fail.
    let mut text = String::new();
    let mut unsupported: Vec<String> = Vec::new();
    for library in &LIBRARIES {
        let Library { key, root, soname, artifact, .. } = library;
        let symbols = library.symbols(Path::new("symbols"));
        let fingerprint = fingerprint(symbols.iter().map(|(name, _)| name.as_str()));
        writeln!(text, "// {soname}, which cargo calls {artifact}; its symbols: {}", library.version_node())
            .expect("a String takes all");
        writeln!(text, "static ENTRIES_{key}: [Entry; {}] = [", symbols.len()).expect("a String takes all");
        for (name, answer) in &symbols {
            let function = match answer.as_str() {
                "-" => {
                    let place = unsupported.iter().position(|known| known == name).unwrap_or_else(|| {
                        unsupported.push(name.clone());
                        unsupported.len() - 1
                    });
                    format!("{root}::unsupported::<{place}>")
                }
                path if path.contains("::") => format!("{root}::{path}"),
                chapter => format!("{root}::{chapter}::{name}"),
            };
            writeln!(text, "    Entry({function} as *const ()),").expect("a String takes all");
        }
        writeln!(text, "];\nconst FINGERPRINT_{key}: u64 = {fingerprint:#x};").expect("a String takes all");
    }
    writeln!(text, "/// Every name that is not supported; its entry point is known by its place here.")
        .expect("a String takes all");
    writeln!(text, "static UNSUPPORTED: [&str; {}] = {unsupported:#?};", unsupported.len())
        .expect("a String takes all");
    std::fs::write(out.join("table.rs"), text).expect("cargo's own folder is writable");
    std::fs::write(out.join("driver_names.rs"), driver_names()).expect("cargo's own folder is writable");
}

/// Names of the driver as programs ask for them, by base name and version: `cuMemcpyHtoD_v2_ptds` is asked for as
/// `cuMemcpyHtoD`.
fn driver_names() -> String {
    let driver =
        LIBRARIES.iter().find(|library| library.root == "driver").expect("the driver is in the list");
    let mut rows: Vec<(String, u32, String, usize)> = Vec::new();
    for (place, line) in lines(&Path::new("symbols").join(driver.list)).into_iter().enumerate() {
        let version = line.columns[0].parse().expect("the second column of cuda.txt is a version");
        let (plain, twin) = match line.name.strip_suffix("_ptds").or(line.name.strip_suffix("_ptsz")) {
            Some(plain) => (plain, "PerThread"),
            None => (line.name.as_str(), "Legacy"),
        };
        let base = match plain.rsplit_once("_v") {
            Some((base, number)) if number.bytes().all(|digit| digit.is_ascii_digit()) => base,
            _ => plain,
        };
        rows.push((base.to_owned(), version, twin.to_owned(), place));
    }
    rows.sort();
    let mut text = format!("static NAMES: [Name; {}] = [\n", rows.len());
    for (base, version, twin, place) in rows {
        writeln!(
            text,
            "    Name {{ base: {base:?}, version: {version}, default: DefaultStream::{twin}, place: {place} }},"
        )
        .expect("a String takes all");
    }
    text + "];\n"
}
