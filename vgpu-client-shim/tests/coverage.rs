//! `docs/coverage.md` says what the lists of symbols say: a row for each function, with its status.

use std::fmt::Write as _;
use std::path::Path;

/// What a list says of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Absent,
    Supported,
    Partial,
    Unsupported,
}

impl Status {
    fn of(answer: &str, reason: Option<&str>) -> Status {
        match answer {
            "." => Status::Absent,
            "-" | "unavailable" => Status::Unsupported,
            _ if reason.is_some() => Status::Partial,
            _ => Status::Supported,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Status::Absent => "-",
            Status::Supported => "supported",
            Status::Partial => "partial",
            Status::Unsupported => "unsupported",
        }
    }
}

/// One function: its name, what answers it in each column, and why it is only partly there.
struct Row<'a> {
    name: &'a str,
    answers: Vec<&'a str>,
    reason: Option<&'a str>,
}

fn rows(list: &str) -> Vec<Row<'_>> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (columns, reason) = match line.split_once('#') {
                Some((columns, reason)) => (columns, Some(reason.trim())),
                None => (line, None),
            };
            let mut words = columns.split_whitespace();
            Row { name: words.next().unwrap(), answers: words.collect(), reason }
        })
        .collect()
}

/// Names, fully and partly supported ones.
fn counts(rows: &[Row<'_>], column: usize) -> [usize; 3] {
    let of = |wanted: &[Status]| {
        rows.iter().filter(|row| wanted.contains(&Status::of(row.answers[column], row.reason))).count()
    };
    let [all, supported, partial] = [
        of(&[Status::Supported, Status::Partial, Status::Unsupported]),
        of(&[Status::Supported]),
        of(&[Status::Partial]),
    ];
    [all, supported, partial]
}

/// The page, from the lists in `symbols/`.
fn page() -> String {
    let runtime = rows(include_str!("../symbols/cudart.txt"));
    let driver = rows(include_str!("../symbols/cuda.txt"));
    let mut page = String::from(
        "# What of NVIDIA's libraries is there\n\n\
         Every name that NVIDIA's libraries export exists, with its own symbol version. What is not supported logs its name once\n\
         and answers `cudaErrorNotSupported` or `CUDA_ERROR_NOT_SUPPORTED` (801); where a network makes something\n\
         impossible, the line says why and what to do instead.\n\n\
         | library | names | supported | partial |\n| --- | --- | --- | --- |\n",
    );
    let libraries = [
        ("libcudart.so.12 (12.9)", counts(&runtime, 0)),
        ("libcudart.so.13 (13.5)", counts(&runtime, 1)),
        ("libcuda.so.1 (12.9 and 13.5)", counts(&driver, 1)),
    ];
    for (library, [names, supported, partial]) in libraries {
        writeln!(page, "| {library} | {names} | {supported} | {partial} |").unwrap();
    }
    page.push_str(
        "\nThis page is written from the lists in `vgpu-client-shim/symbols`; a test keeps it so\n\
         (`VGPU_WRITE_PAGES=1 cargo test -p vgpu-client-shim --test coverage` writes it anew). PTX: \
         [ptx-coverage.md](ptx-coverage.md).\n",
    );
    page.push_str(
        "\n## The runtime API\n\n| function | CUDA 12 | CUDA 13 | note |\n| --- | --- | --- | --- |\n",
    );
    for row in &runtime {
        let [twelve, thirteen] = [0, 1].map(|column| Status::of(row.answers[column], row.reason).word());
        writeln!(page, "| `{}` | {twelve} | {thirteen} | {} |", row.name, note(row)).unwrap();
    }
    page.push_str("\n## The driver API\n\n| function | since | status | note |\n| --- | --- | --- | --- |\n");
    for row in &driver {
        let version: u32 = row.answers[0].parse().unwrap();
        let (major, minor) = (version / 1000, version % 1000 / 10);
        let status = Status::of(row.answers[1], row.reason).word();
        writeln!(page, "| `{}` | {major}.{minor} | {status} | {} |", row.name, note(row)).unwrap();
    }
    page
}

fn note<'a>(row: &Row<'a>) -> &'a str {
    match row.reason {
        Some(reason) => reason,
        None if row.answers.contains(&"unavailable") => "not possible over a network",
        None => "",
    }
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

#[test]
fn more_than_330_functions_of_the_driver_are_supported() {
    let driver = rows(include_str!("../symbols/cuda.txt"));
    let [names, supported, _] = counts(&driver, 1);
    assert!(names == 722 && supported >= 330, "{supported} of {names}");
}
