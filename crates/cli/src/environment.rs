//! The variables with which a program is started.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::libraries::{Libraries, MAJORS};

/// Variables and their values, in the order in which they are shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Variables(pub Vec<(&'static str, OsString)>);

impl Variables {
    /// What a program needs that uses `majors` of the runtime (both if that is not known), beside what `current` holds.
    ///
    /// Both lists of the loader are needed: LD_PRELOAD comes before a program's RPATH and brings us into programs with a
    /// static runtime; LD_LIBRARY_PATH serves those that open a library by name later.
    pub fn new(
        libraries: &Libraries,
        majors: &[u32],
        list: Option<&str>,
        summary: bool,
        current: &dyn Fn(&str) -> Option<OsString>,
    ) -> Outcome<Variables> {
        let majors = if majors.is_empty() { &MAJORS } else { majors };
        let mut preload: Vec<PathBuf> =
            majors.iter().map(|major| libraries.cudart(*major)).collect::<Result<_, _>>()?;
        preload.extend(libraries.optional("libcuda.so.1"));
        let preload: Vec<OsString> = preload.into_iter().map(OsString::from).collect();
        let folder = [libraries.folder.clone().into_os_string()];
        let mut variables = Vec::new();
        if let Some(list) = list {
            variables.push(("VGPU_SERVER", OsString::from(list)));
        }
        variables.push(("LD_PRELOAD", before(&preload, current("LD_PRELOAD"), b": ")));
        variables.push(("LD_LIBRARY_PATH", before(&folder, current("LD_LIBRARY_PATH"), b":")));
        if summary {
            variables.push(("VGPU_LOG", OsString::from("summary")));
        }
        Ok(Variables(variables))
    }

    /// What a program needs that shall use the libraries of this machine: `current` without what [`Variables::new`] puts
    /// before it. An empty value is as good as none.
    pub fn without(libraries: &Libraries, current: &dyn Fn(&str) -> Option<OsString>) -> Variables {
        let is_folder = |path: &Path| path.canonicalize().is_ok_and(|path| path == libraries.folder);
        let rest = |name: &'static str, separators: &[u8], is_ours: &dyn Fn(&Path) -> bool| {
            let there = current(name).unwrap_or_default();
            let entries = there.as_bytes().split(|byte| separators.contains(byte)).map(OsStr::from_bytes);
            let others = entries.filter(|entry| !is_ours(Path::new(entry))).map(OsStr::as_bytes);
            (name, OsString::from_vec(others.collect::<Vec<_>>().join(&b':')))
        };
        let preload = rest("LD_PRELOAD", b": ", &|path| libraries.holds(path));
        Variables(vec![preload, rest("LD_LIBRARY_PATH", b":", &is_folder)])
    }

    /// What else a program needs whose devices are software: such a device compiles PTX and runs no machine code, which
    /// some libraries prefer to make.
    pub fn ask_for_ptx(&mut self, current: &dyn Fn(&str) -> Option<OsString>) {
        if current(CUPY_PTX).is_none() {
            self.0.push((CUPY_PTX, OsString::from("1")));
        }
    }
}

/// Makes CuPy compile its kernels to PTX.
const CUPY_PTX: &str = "CUPY_COMPILE_WITH_PTX";

/// `first` before the entries that are there already, which are not repeated.
fn before(first: &[OsString], there: Option<OsString>, separators: &[u8]) -> OsString {
    let there = there.unwrap_or_default();
    let entries = there.as_bytes().split(|byte| separators.contains(byte)).map(OsStr::from_bytes);
    // In LD_LIBRARY_PATH an empty entry among others is the working folder: it stays.
    let counts = |entry: &&OsStr| !entry.is_empty() || (separators == b":" && !there.is_empty());
    let others = entries.filter(counts).filter(|entry| !first.iter().any(|ours| ours == entry));
    let all: Vec<&[u8]> = first.iter().map(OsString::as_os_str).chain(others).map(OsStr::as_bytes).collect();
    OsString::from_vec(all.join(&b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libraries(names: &[&str]) -> (tempfile::TempDir, Libraries) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let libraries = Libraries { folder: folder.path().to_path_buf() };
        (folder, libraries)
    }

    fn text(variables: &Variables, name: &str) -> Option<String> {
        let found = variables.0.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn ours_stand_before_what_is_there_and_never_twice() {
        let (folder, libraries) = libraries(&["libcudart.so.12", "libcudart.so.13"]);
        let folder = folder.path().display();
        let current = |name: &str| match name {
            "LD_PRELOAD" => Some(format!("/x/libasan.so {folder}/libcudart.so.13").into()),
            "LD_LIBRARY_PATH" => Some(format!("/opt/lib::{folder}:/usr/lib").into()),
            _ => None,
        };
        let variables = Variables::new(&libraries, &[13], Some("a:0 b:0"), false, &current).unwrap();
        assert_eq!(text(&variables, "LD_PRELOAD"), Some(format!("{folder}/libcudart.so.13:/x/libasan.so")));
        assert_eq!(text(&variables, "LD_LIBRARY_PATH"), Some(format!("{folder}:/opt/lib::/usr/lib")));
        assert_eq!(text(&variables, "VGPU_SERVER").as_deref(), Some("a:0 b:0"));
        assert_eq!(text(&variables, "VGPU_LOG"), None);
    }

    #[test]
    fn without_a_known_major_both_are_preloaded_and_a_driver_library_too() {
        let (folder, libraries) = libraries(&["libcudart.so.12", "libcudart.so.13", "libcuda.so.1"]);
        let folder = folder.path().display();
        let variables = Variables::new(&libraries, &[], None, true, &|_| None).unwrap();
        let expected = format!("{folder}/libcudart.so.12:{folder}/libcudart.so.13:{folder}/libcuda.so.1");
        assert_eq!(text(&variables, "LD_PRELOAD"), Some(expected));
        assert_eq!(text(&variables, "VGPU_LOG").as_deref(), Some("summary"));
        assert_eq!(text(&variables, "VGPU_SERVER"), None);
    }

    #[test]
    fn what_makes_machine_code_is_asked_for_ptx_unless_the_user_has_said_otherwise() {
        let mut variables = Variables::default();
        variables.ask_for_ptx(&|_| None);
        assert_eq!(text(&variables, "CUPY_COMPILE_WITH_PTX").as_deref(), Some("1"));
        let mut variables = Variables::default();
        variables.ask_for_ptx(&|name| (name == "CUPY_COMPILE_WITH_PTX").then(|| "0".into()));
        assert_eq!(variables, Variables::default());
    }

    #[test]
    fn a_program_of_this_machine_gets_what_was_there_before_us() {
        let (folder, libraries) = libraries(&["libcudart.so.13", "libcuda.so.1"]);
        let libraries = Libraries { folder: libraries.folder.canonicalize().unwrap() };
        let folder = folder.path().display();
        let current = |name: &str| match name {
            "LD_PRELOAD" => {
                Some(format!("{folder}/libcudart.so.13:/x/libasan.so:{folder}/libcuda.so.1").into())
            }
            "LD_LIBRARY_PATH" => Some(format!("{folder}:{folder}/soft:/opt/lib").into()),
            _ => None,
        };
        let variables = Variables::without(&libraries, &current);
        assert_eq!(text(&variables, "LD_PRELOAD").as_deref(), Some("/x/libasan.so"));
        assert_eq!(text(&variables, "LD_LIBRARY_PATH"), Some(format!("{folder}/soft:/opt/lib")));
    }

    #[test]
    fn a_library_that_is_missing_is_said_before_the_loader_says_it() {
        let (_folder, libraries) = libraries(&["libcudart.so.12"]);
        assert!(Variables::new(&libraries, &[13], None, false, &|_| None).is_err());
    }
}
