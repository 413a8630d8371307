// The reader of `cudart.txt`, included by the build scripts of the core and of the entry libraries: one order of
// names on both sides of the table.

/// One line of `cudart.txt`.
struct Symbol {
    name: String,
    /// What answers the name in each major: `.`, `-`, a chapter, or a path.
    answers: [String; 2],
}

/// The majors, in the order of the columns.
const MAJORS: [u32; 2] = [12, 13];

fn symbols(path: &std::path::Path) -> Vec<Symbol> {
    println!("cargo:rerun-if-changed={}", path.display());
    let text = std::fs::read_to_string(path).expect("symbols/cudart.txt is part of the source");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let mut word = || words.next().unwrap_or_else(|| panic!("cudart.txt: {line:?} needs three columns"));
            Symbol { name: word(), answers: [word(), word()] }
        })
        .collect()
}

/// The names of one major, in the order of its table.
fn of_major(symbols: &[Symbol], column: usize) -> impl Iterator<Item = (&str, &str)> {
    let exist = symbols.iter().filter(move |symbol| symbol.answers[column] != ".");
    exist.map(move |symbol| (symbol.name.as_str(), symbol.answers[column].as_str()))
}

/// Tells two builds with different lists of names apart (FNV-1a over the names in order).
fn fingerprint<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = names.flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
