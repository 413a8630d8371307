//! Writes the tables of functions that the entry libraries jump through, from `symbols/cudart.txt`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

include!("symbols/list.rs");

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let symbols = symbols(Path::new("symbols/cudart.txt"));
    println!("cargo:rerun-if-changed=symbols/list.rs");
    let mut text = String::new();
    // `expect`: writing to a String cannot fail.
    writeln!(text, "/// Every name of both majors; an unsupported entry point is known by its place here.")
        .expect("a String takes all");
    writeln!(text, "static NAMES: [&str; {}] = [", symbols.len()).expect("a String takes all");
    for symbol in &symbols {
        writeln!(text, "    {:?},", symbol.name).expect("a String takes all");
    }
    writeln!(text, "];").expect("a String takes all");
    for (column, major) in MAJORS.into_iter().enumerate() {
        let of_major: Vec<_> = of_major(&symbols, column).collect();
        let count = of_major.len();
        let fingerprint = fingerprint(of_major.iter().map(|(name, _)| *name));
        writeln!(text, "static ENTRIES_{major}: [Entry; {count}] = [").expect("a String takes all");
        for (name, answer) in of_major {
            let function = match answer {
                "-" => {
                    let place =
                        symbols.iter().position(|symbol| symbol.name == name).expect("from this list");
                    format!("unsupported::<{place}>")
                }
                path if path.contains("::") => format!("runtime::{path}"),
                chapter => format!("runtime::{chapter}::{name}"),
            };
            writeln!(text, "    Entry({function} as *const ()),").expect("a String takes all");
        }
        writeln!(text, "];\nconst FINGERPRINT_{major}: u64 = {fingerprint:#x};").expect("a String takes all");
    }
    std::fs::write(out.join("table.rs"), text).expect("cargo's own folder is writable");
}
