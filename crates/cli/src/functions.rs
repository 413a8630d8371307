//! What of CUDA there is: the lists from which the client libraries are made.

use crate::libraries::MAJORS;

include!(concat!(env!("OUT_DIR"), "/lists.rs"));

/// One function of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// The list that it stands in: `cudart`.
    pub(crate) list: &'static str,
    pub(crate) name: &'static str,
    /// The columns after the name. Of the runtime: who answers, by major; of other lists: the last one is who answers.
    columns: &'static str,
}

/// How a function stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Supported,
    /// It exists, says so, and fails.
    Unsupported,
    /// There is no such function: a program that needs it does not start, or it belongs to another library.
    Unknown,
}

impl Function {
    /// How it stands in a major; in the best one if that is not known.
    pub(crate) fn standing(&self, major: Option<u32>) -> Standing {
        let one = |answer: &str| match answer {
            "." => Standing::Unknown,
            // The second: what a device behind a network cannot do. It says why, and fails as well.
            "-" | "unavailable" => Standing::Unsupported,
            _ => Standing::Supported,
        };
        let mut columns = self.columns.split_whitespace();
        if self.list != RUNTIME {
            return columns.next_back().map_or(Standing::Unknown, one);
        }
        match major.and_then(|major| MAJORS.iter().position(|known| *known == major)) {
            Some(column) => columns.nth(column).map_or(Standing::Unknown, one),
            None => columns.map(one).min_by_key(|standing| *standing as u8).unwrap_or(Standing::Unknown),
        }
    }
}

/// Every function of every list.
pub(crate) fn functions() -> impl Iterator<Item = Function> {
    LISTS.iter().flat_map(|(list, text)| {
        let rows = text.lines().map(str::trim).filter(|row| !row.is_empty() && !row.starts_with('#'));
        rows.map(move |row| {
            // What stands behind # says why a function is only partly there.
            let row = row.split('#').next().unwrap_or(row).trim_end();
            let (name, columns) = row.split_once(char::is_whitespace).unwrap_or((row, ""));
            Function { list, name, columns: columns.trim() }
        })
    })
}

/// How the function of this name stands.
pub(crate) fn standing(name: &str, major: Option<u32>) -> Standing {
    let found = functions().find(|function| function.name == name);
    found.map_or(Standing::Unknown, |function| function.standing(major))
}

/// The list of NVIDIA's runtime, with one column for each major.
pub(crate) const RUNTIME: &str = "cudart";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_the_client_libraries_are_read() {
        assert_eq!(standing("cudaMalloc", Some(12)), Standing::Supported);
        assert_eq!(standing("cudaMalloc", None), Standing::Supported);
        assert_eq!(standing("cudaIpcGetMemHandle", None), Standing::Unsupported);
        assert_eq!(standing("cudaNoSuchFunction", None), Standing::Unknown);
    }

    #[test]
    fn a_function_may_stand_differently_in_each_major() {
        let function = Function { list: RUNTIME, name: "f", columns: ".   -" };
        assert_eq!(function.standing(Some(12)), Standing::Unknown);
        assert_eq!(function.standing(Some(13)), Standing::Unsupported);
        assert_eq!(function.standing(None), Standing::Unsupported);
        assert_eq!(function.standing(Some(11)), Standing::Unsupported);
    }

    #[test]
    fn in_other_lists_the_last_column_says_who_answers() {
        let standing = |columns| Function { list: "cuda", name: "f", columns }.standing(Some(13));
        assert_eq!(standing("3020   -"), Standing::Unsupported);
        assert_eq!(standing("3020   memory::f"), Standing::Supported);
    }
}
