//! Where the client libraries lie.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};

/// The folder that holds the client libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libraries {
    pub folder: PathBuf,
}

impl Libraries {
    /// Finds the folder: what `VGPU_LIBRARY_PATH` names, else `../lib` beside this program, else the system's folders.
    pub fn find() -> Outcome<Libraries> {
        let own = std::env::current_exe()
            .map_err(|error| Failure::own(format_args!("finding this program: {error}")))?;
        let named = std::env::var_os("VGPU_LIBRARY_PATH");
        Libraries::among(&candidates(named.as_deref(), &own))
    }

    fn among(candidates: &[PathBuf]) -> Outcome<Libraries> {
        let found = candidates.iter().find(|folder| folder.join(CORE).is_file());
        let Some(folder) = found else {
            let places: Vec<_> = candidates.iter().map(|folder| folder.display().to_string()).collect();
            return Err(Failure::own(format_args!(
                "the client libraries ({CORE}) lie neither in {}; install the package vgpu-client, or name their folder in VGPU_LIBRARY_PATH",
                places.join(" nor in ")
            )));
        };
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        // ld.so(8): both characters separate entries of LD_PRELOAD, and nothing quotes them.
        if folder.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b':' | b' ' | b'\t' | b'\n' | b'$'))
        {
            return Err(Failure::own(format_args!(
                "the client libraries lie in {:?}, and LD_PRELOAD cannot hold a path with a colon, a dollar or white space; move them",
                folder
            )));
        }
        Ok(Libraries { folder })
    }

    /// The entry library of a major.
    pub fn cudart(&self, major: u32) -> Outcome<PathBuf> {
        self.required(&format!("libcudart.so.{major}"))
    }

    /// A library that must be there.
    fn required(&self, name: &str) -> Outcome<PathBuf> {
        self.optional(name).ok_or_else(|| {
            let folder = self.folder.display();
            Failure::own(format_args!("{name} is missing in {folder}; install the package vgpu-client again"))
        })
    }

    /// A library that a release may have or not.
    pub fn optional(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|path| path.is_file())
    }

    /// Whether a file is one of ours, also behind a link.
    pub fn holds(&self, path: &Path) -> bool {
        let behind = path.canonicalize().ok();
        let beside = path.parent().and_then(|folder| folder.canonicalize().ok());
        let folders = [beside.as_deref(), behind.as_deref().and_then(Path::parent)];
        folders.contains(&Some(&self.folder))
    }
}

/// The folders in which the libraries may lie.
fn candidates(named: Option<&OsStr>, own: &Path) -> Vec<PathBuf> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return std::env::split_paths(named).collect();
    }
    let beside = own.parent().and_then(Path::parent).map(|prefix| prefix.join("lib"));
    let system = ["/usr/lib/vgpu", "/usr/lib/x86_64-linux-gnu/vgpu"].map(PathBuf::from);
    beside.into_iter().chain(system).collect()
}

/// The library behind all others.
pub const CORE: &str = "libvgpu_core.so";

/// The majors of NVIDIA's runtime that have an entry library.
pub const MAJORS: [u32; 2] = [12, 13];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_comes_alone_and_the_folder_beside_us_first() {
        let own = Path::new("/opt/vgpu/bin/vgpu");
        assert_eq!(
            candidates(None, own),
            ["/opt/vgpu/lib", "/usr/lib/vgpu", "/usr/lib/x86_64-linux-gnu/vgpu"].map(PathBuf::from)
        );
        assert_eq!(candidates(Some("/a:/b".as_ref()), own), ["/a", "/b"].map(PathBuf::from));
        assert_eq!(candidates(Some("".as_ref()), own).len(), 3);
    }

    #[test]
    fn a_missing_library_is_named_with_the_places_and_the_remedy() {
        let message = Libraries::among(&["/nowhere".into(), "/neither".into()]).unwrap_err().to_string();
        for word in [CORE, "/nowhere", "/neither", "VGPU_LIBRARY_PATH"] {
            assert!(message.contains(word), "{message}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CORE), "").unwrap();
        let libraries = Libraries::among(&["/nowhere".into(), folder.path().into()]).unwrap();
        assert!(libraries.cudart(13).unwrap_err().to_string().contains("libcudart.so.13"));
        std::fs::write(folder.path().join("libcudart.so.13"), "").unwrap();
        let found = libraries.cudart(13).unwrap();
        assert!(libraries.holds(&found) && !libraries.holds(Path::new("/lib/libcudart.so.13")));
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), other.path().join("lib")).unwrap();
        assert!(libraries.holds(&other.path().join("lib/libcudart.so.13")), "through a link to the folder");
    }

    #[test]
    fn a_folder_that_a_preload_cannot_name_is_refused() {
        let folder = tempfile::Builder::new().prefix("two words").tempdir().unwrap();
        std::fs::write(folder.path().join(CORE), "").unwrap();
        let message = Libraries::among(&[folder.path().into()]).unwrap_err().to_string();
        assert!(message.contains("white space"), "{message}");
    }
}
