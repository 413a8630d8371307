//! `vgpu coverage`: which CUDA functions there are, and which of them a program uses.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::binary::{Binary, Runtime, is_of_runtime};
use crate::failure::{Failure, Outcome};
use crate::functions::{self, RUNTIME, Standing};
use crate::libraries::{Libraries, MAJORS};
use crate::options;
use crate::program::Program;
use crate::search::Search;
use crate::table::{Table, wrapped};

/// Shows the table, or the program's part of it.
pub(crate) fn run(options: &options::Coverage) -> Outcome {
    let text = match options.command.first() {
        None if options.json => json(&libraries())?,
        None => page(),
        Some(command) => {
            let program = Program::find(command, std::env::var_os("PATH"))?;
            let uses = uses(&program, std::env::var_os("LD_LIBRARY_PATH"));
            if options.json { json(&uses)? } else { report(&program, &uses) }
        }
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// A function that a program or one of its libraries uses.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Use {
    pub(crate) name: String,
    /// Of the runtime, if the file tells.
    pub(crate) major: Option<u32>,
    /// The file that uses it.
    pub(crate) by: PathBuf,
    pub(crate) supported: bool,
}

/// What a program and the libraries that it names use of CUDA, sorted by name.
pub(crate) fn uses(program: &Program, library_path: Option<OsString>) -> Vec<Use> {
    let search = Search::new(None, library_path.as_deref());
    let (loaded, _) = search.closure(&program.binary);
    // What is in our way if it is missing does not matter here.
    let ours = Libraries::find().ok();
    let is_nvidias = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libcudart.so") || name.starts_with("libcuda.so")
    };
    let others = loaded.iter().filter(|library| {
        !is_nvidias(&library.path) && !ours.as_ref().is_some_and(|ours| ours.holds(&library.path))
    });
    let files: Vec<(&PathBuf, &Binary)> = std::iter::once((&program.image, &program.binary))
        .chain(others.map(|library| (&library.path, &library.binary)))
        .collect();
    let is_theirs = |name: &str| files.iter().any(|(_, binary)| binary.exports.contains(name));
    let mut uses = Vec::new();
    for (path, binary) in &files {
        let (major, linked_in) = match &binary.runtime {
            Runtime::Static { major, called } => (*major, Some(called)),
            Runtime::Shared(major) => (*major, None),
            Runtime::None | Runtime::Stripped => (None, None),
        };
        for name in binary.imports.iter().chain(linked_in.into_iter().flatten()) {
            let standing = functions::standing(name, major);
            // A helper of the program's own with a name like CUDA's.
            if standing == Standing::Unknown && is_theirs(name) {
                continue;
            }
            let supported = standing == Standing::Supported;
            uses.push(Use { name: name.clone(), major, by: (*path).clone(), supported });
        }
    }
    uses.sort_by(|a, b| (&a.name, &a.by).cmp(&(&b.name, &b.by)));
    uses
}

/// One library of ours.
#[derive(Serialize)]
struct Library {
    library: String,
    names: usize,
    supported: Vec<&'static str>,
    unsupported: Vec<&'static str>,
}

fn libraries() -> Vec<Library> {
    let column = |list: &str, major: Option<u32>, library: String| {
        let of_list: Vec<_> = functions::functions().filter(|function| function.list == list).collect();
        let with = |wanted| {
            let chosen = of_list.iter().filter(move |function| function.standing(major) == wanted);
            chosen.map(|function| function.name).collect::<Vec<_>>()
        };
        let (supported, unsupported) = (with(Standing::Supported), with(Standing::Unsupported));
        Library { library, names: supported.len() + unsupported.len(), supported, unsupported }
    };
    let mut libraries: Vec<Library> = MAJORS
        .into_iter()
        .map(|major| column(RUNTIME, Some(major), format!("libcudart.so.{major}")))
        .collect();
    let mut others: Vec<&str> = functions::functions().map(|function| function.list).collect();
    others.dedup();
    for list in others.into_iter().filter(|list| *list != RUNTIME) {
        libraries.push(column(list, None, format!("lib{list}.so.1")));
    }
    libraries
}

fn page() -> String {
    let libraries = libraries();
    let mut table = Table::new(&["library", "names", "supported"]);
    for Library { library, names, supported, .. } in &libraries {
        table.push(vec![library.clone(), names.to_string(), supported.len().to_string()]);
    }
    let mut text = table.to_string();
    for Library { library, unsupported, .. } in
        libraries.iter().filter(|library| !library.unsupported.is_empty())
    {
        let words = wrapped(unsupported.iter().copied());
        text += &format!("\nNot supported by {library}: each logs its name once and fails\n{words}\n");
    }
    text
}

fn report(program: &Program, uses: &[Use]) -> String {
    let file = program.image.display();
    let linkage = match &program.binary.runtime {
        Runtime::Shared(Some(major)) => format!("uses libcudart.so.{major}"),
        Runtime::Shared(None) => "uses a shared CUDA runtime".to_owned(),
        Runtime::Static { major: Some(major), .. } => format!("has the CUDA runtime {major} linked in"),
        Runtime::Static { major: None, .. } => {
            "has a CUDA runtime of an unknown version linked in".to_owned()
        }
        Runtime::Stripped => "is stripped: what it uses cannot be seen".to_owned(),
        Runtime::None => "uses no CUDA runtime itself".to_owned(),
    };
    let mut text = format!("{file} {linkage}\n");
    let mut table = Table::new(&["function", "supported", "used by"]);
    for one in uses {
        let word = if one.supported { "yes" } else { "NO" };
        table.push(vec![one.name.clone(), word.to_owned(), one.by.display().to_string()]);
    }
    if !uses.is_empty() {
        text += &table.to_string();
    }
    let lacking = uses.iter().filter(|one| !one.supported).count();
    text + &format!("{} functions, {lacking} of them not supported\n", uses.len())
}

/// What becomes of a call of a function that is not supported.
pub(crate) fn advice(name: &str) -> &'static str {
    match functions::standing(name, None) {
        Standing::Unknown => "this release does not know it",
        _ if is_of_runtime(name) => "it returns cudaErrorNotSupported",
        _ => "it returns CUDA_ERROR_NOT_SUPPORTED",
    }
}

fn json(value: &impl Serialize) -> Outcome<String> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| Failure::own(format_args!("writing JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_library_is_counted_once() {
        let rows = include_str!("../../../vgpu-client-shim/symbols/cudart.txt").lines();
        let rows: Vec<Vec<&str>> = rows.map(|row| row.split_whitespace().collect()).collect();
        for (column, library) in libraries().iter().take(MAJORS.len()).enumerate() {
            let is_there =
                |row: &&Vec<&str>| row.first().is_some_and(|name| *name != "#") && row[column + 1] != ".";
            assert_eq!(library.names, rows.iter().filter(is_there).count(), "{}", library.library);
            assert!(library.supported.contains(&"cudaMalloc") && !library.unsupported.is_empty());
        }
    }

    #[test]
    fn advice_says_what_a_call_comes_to() {
        assert_eq!(advice("cudaIpcGetMemHandle"), "it returns cudaErrorNotSupported");
        assert_eq!(advice("cuIpcGetMemHandle"), "it returns CUDA_ERROR_NOT_SUPPORTED");
        assert_eq!(advice("cudaOfTomorrow"), "this release does not know it");
    }

    #[test]
    fn every_unsupported_name_is_listed() {
        let page = page();
        assert!(page.contains("cudaIpcGetMemHandle") && page.starts_with("library"));
    }
}
