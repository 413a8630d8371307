//! Which file the dynamic loader would take for the name of a library (`ld.so(8)`), without starting anything.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::binary::Binary;

/// What the loader is told by the environment, and by the system.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// The entries of LD_PRELOAD.
    pub(crate) preload: Vec<PathBuf>,
    /// The entries of LD_LIBRARY_PATH.
    pub(crate) library_path: Vec<PathBuf>,
    /// The folders of the system.
    system: Vec<PathBuf>,
}

/// A library that a program would get.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) binary: Binary,
}

impl Search {
    /// The search of a program that is started with these two variables.
    pub(crate) fn new(preload: Option<&OsStr>, library_path: Option<&OsStr>) -> Search {
        let entries = |text: Option<&OsStr>, separators: &'static [u8]| {
            let bytes = text.unwrap_or_default().as_bytes().to_vec();
            let entries = bytes.split(|byte| separators.contains(byte)).filter(|entry| !entry.is_empty());
            entries.map(|entry| PathBuf::from(OsStr::from_bytes(entry))).collect()
        };
        Search {
            preload: entries(preload, b": "),
            library_path: entries(library_path, b":;"),
            system: system_folders(Path::new("/etc/ld.so.conf")),
        }
    }

    /// The file behind a name that `wanted_by` needs; without it, behind a name that is opened by hand.
    pub(crate) fn find(&self, name: &str, wanted_by: Option<&Binary>) -> Option<PathBuf> {
        let preloaded = self.preload.iter().find(|path| {
            let by_name = path.file_name() == Some(OsStr::new(name));
            path.is_file() && (by_name || Binary::read(path).is_ok_and(|b| b.soname.as_deref() == Some(name)))
        });
        if let Some(path) = preloaded {
            return Some(path.clone());
        }
        if name.contains('/') {
            return Some(PathBuf::from(name)).filter(|path| path.is_file());
        }
        let (rpath, runpath) =
            wanted_by.map_or((&[][..], &[][..]), |binary| (&binary.rpath, &binary.runpath));
        let folders = rpath.iter().chain(&self.library_path).chain(runpath).chain(&self.system);
        let mut files = folders.map(|folder| folder.join(name));
        // The loader passes over files of other machines.
        files.find(|path| path.is_file() && Binary::read(path).is_ok())
    }

    /// Everything that a program would have loaded at its start, without itself; and the names that are nowhere.
    pub(crate) fn closure(&self, program: &Binary) -> (Vec<Loaded>, Vec<String>) {
        let (mut loaded, mut missing) = (Vec::<Loaded>::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let mut waiting: VecDeque<(String, Option<usize>)> =
            program.needed.iter().map(|name| (name.clone(), None)).collect();
        while let Some((name, by)) = waiting.pop_front() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let by = by.map_or(program, |index| &loaded[index].binary);
            // ld.so(8): an RPATH of the program serves its libraries too; a RUNPATH does not.
            let inherited =
                || program.rpath.iter().map(|folder| folder.join(&name)).find(|path| path.is_file());
            let path = self.find(&name, Some(by)).or_else(inherited);
            match path.and_then(|path| Some((Binary::read(&path).ok()?, path))) {
                Some((binary, path)) => {
                    let index = loaded.len();
                    waiting.extend(binary.needed.iter().map(|name| (name.clone(), Some(index))));
                    loaded.push(Loaded { path, binary });
                }
                None => missing.push(name),
            }
        }
        (loaded, missing)
    }
}

/// The folders of ld.so.conf, with those that it includes, and those that are built in.
fn system_folders(file: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    read_configuration(file, &mut folders, 0);
    let built_in =
        ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
    folders.extend(built_in.map(PathBuf::from));
    folders
}

fn read_configuration(file: &Path, folders: &mut Vec<PathBuf>, depth: usize) {
    // A file may include itself.
    if depth > 8 {
        return;
    }
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        let line = line.split('#').next().unwrap_or(line).trim();
        match line.strip_prefix("include").filter(|rest| rest.starts_with(char::is_whitespace)) {
            Some(pattern) => {
                for file in matching(&file.parent().unwrap_or(Path::new("/")).join(pattern.trim())) {
                    read_configuration(&file, folders, depth + 1);
                }
            }
            None if line.starts_with('/') => folders.push(PathBuf::from(line)),
            None => {}
        }
    }
}

/// The files that a pattern with one star in its last part stands for, in order.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.to_path_buf()] };
    let entries = std::fs::read_dir(pattern.parent().unwrap_or(Path::new("/"))).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        })
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_this_test_needs_is_found() {
        let own = Binary::read(Path::new("/proc/self/exe")).unwrap();
        let (loaded, missing) = Search::new(None, None).closure(&own);
        assert_eq!(missing, [] as [String; 0]);
        assert!(loaded.iter().any(|library| library.path.ends_with("libc.so.6")));
    }

    #[test]
    fn a_preload_wins_over_a_path_and_a_path_over_the_system() {
        let libc = Search::new(None, None).find("libc.so.6", None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("libc.so.6");
        std::fs::copy(&libc, &copy).unwrap();
        let search = Search::new(None, Some(folder.path().as_os_str()));
        assert_eq!(search.find("libc.so.6", None), Some(copy));
        // Known by its own name, whatever the file is called.
        let other = folder.path().join("other.so");
        std::fs::copy(&libc, &other).unwrap();
        let search = Search::new(Some(other.as_os_str()), Some(folder.path().as_os_str()));
        assert_eq!(search.find("libc.so.6", None), Some(other));
    }

    #[test]
    fn a_file_that_is_no_library_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libc.so.6"), "text").unwrap();
        let search = Search::new(None, Some(folder.path().as_os_str()));
        assert_eq!(search.find("libc.so.6", None), Search::new(None, None).find("libc.so.6", None));
    }

    #[test]
    fn configuration_files_include_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("conf.d")).unwrap();
        std::fs::write(at("ld.so.conf"), "include conf.d/*.conf # others\n/last\ninclude ld.so.conf\n")
            .unwrap();
        std::fs::write(at("conf.d/b.conf"), "/second\n").unwrap();
        std::fs::write(at("conf.d/a.conf"), "# none\n/first\n").unwrap();
        std::fs::write(at("conf.d/c.txt"), "/never\n").unwrap();
        let folders = system_folders(&at("ld.so.conf"));
        assert_eq!(folders[..3], ["/first", "/second", "/last"].map(PathBuf::from));
        assert!(!folders.contains(&"/never".into()));
    }
}
