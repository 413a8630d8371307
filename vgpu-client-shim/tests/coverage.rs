//! `docs/coverage.md` says what the list of symbols says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// The page, from `symbols/cudart.txt`.
fn page() -> String {
    let text = include_str!("../symbols/cudart.txt");
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut chapters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let (mut unsupported, mut unavailable) = (Vec::new(), Vec::new());
    let mut counts = [[0; 2]; 2];
    for row in rows {
        let words: Vec<_> = row.split_whitespace().collect();
        for (column, count) in counts.iter_mut().enumerate() {
            let answer = words[column + 1];
            count[0] += usize::from(answer != ".");
            count[1] += usize::from(!matches!(answer, "." | "-" | "unavailable"));
        }
        let answer = words[1..].iter().find(|answer| **answer != "." && **answer != "-");
        match answer {
            Some(&"unavailable") => unavailable.push(words[0]),
            Some(path) => chapters.entry(path.split("::").next().unwrap()).or_default().push(words[0]),
            None => unsupported.push(words[0]),
        }
    }
    let mut page = String::from(
        "# What of NVIDIA's runtime is there\n\n\
         Every name that libcudart 12.9 and 13.5 export exists, with its own symbol version. What is not supported logs\n\
         its name once and answers `cudaErrorNotSupported` (801).\n\n\
         | library | names | supported |\n| --- | --- | --- |\n",
    );
    for (major, [names, supported]) in [12, 13].into_iter().zip(counts) {
        writeln!(page, "| libcudart.so.{major} | {names} | {supported} |").unwrap();
    }
    page.push_str("\nThis page is written from `vgpu-client-shim/symbols/cudart.txt`; a test keeps it so\n");
    page.push_str("(`VGPU_WRITE_PAGES=1 cargo test -p vgpu-client-shim --test coverage` writes it anew).\n");
    for (chapter, names) in chapters {
        writeln!(page, "\n## {chapter}\n\n{}", names.join(" ")).unwrap();
    }
    writeln!(
        page,
        "\n## Not available behind a network\n\nThe log says why and what to do instead.\n\n{}",
        unavailable.join(" ")
    )
    .unwrap();
    writeln!(page, "\n## Not supported\n\n{}", unsupported.join(" ")).unwrap();
    page
}

#[test]
fn the_coverage_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/coverage.md");
    let page = page();
    if std::env::var_os("VGPU_WRITE_PAGES").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "run: VGPU_WRITE_PAGES=1 cargo test -p vgpu-client-shim --test coverage");
}
