//! Which `libcuda` is opened, and what is refused.
//!
//! cudarc asks the loader for `libcuda.so` before `libcuda.so.1`, so naming a library by its path does not help: the
//! loader would still find another one under the first name. A process that shall use a certain driver is therefore
//! started with `LD_LIBRARY_PATH` at a folder that holds both names, and nothing else.

use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::driver::sys;

use crate::api::Api;

/// A folder with one driver under both of its names, for the processes that shall use it. Removed when dropped.
#[derive(Debug)]
pub struct LibraryFolder {
    folder: PathBuf,
}

/// Why there is no driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// no libcuda.so is installed
    NotFound,
    /// the libcuda.so found is vgpu's client library, which would only call us back
    OwnClient,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no libcuda.so is installed (or it cannot be loaded)",
            Self::OwnClient => {
                "the libcuda.so found is vgpu's client library, which would only call us back; \
                 unset LD_LIBRARY_PATH and LD_PRELOAD, or name the driver with --driver"
            }
        })
    }
}

impl std::error::Error for Unavailable {}

impl LibraryFolder {
    /// Links `driver` under both names into a new folder in the temporary directory.
    fn new(driver: &Path) -> io::Result<Self> {
        let driver = driver.canonicalize()?;
        // Unique by process and time; made exclusively, so nobody else's folder is taken.
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!("vgpu-driver-{}-{}", std::process::id(), time.as_nanos());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        let made = Self { folder };
        for name in ["libcuda.so", "libcuda.so.1"] {
            std::os::unix::fs::symlink(&driver, made.folder.join(name))?;
        }
        Ok(made)
    }

    /// Starts this program anew with `driver` as the only one that can be found, and without libraries of ours that
    /// are preloaded. In the program so started, answers the folder; processes that it starts inherit the choice.
    pub fn enter(driver: &Path) -> io::Result<Self> {
        if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
            return Ok(Self { folder: folder.into() });
        }
        let made = Self::new(driver)?;
        let mut again = Command::new(std::env::current_exe()?);
        again.args(std::env::args_os().skip(1));
        again.env(FOLDER_VARIABLE, &made.folder);
        again.env("LD_LIBRARY_PATH", &made.folder).env_remove("LD_PRELOAD");
        Err(again.exec())
    }
}

impl Drop for LibraryFolder {
    fn drop(&mut self) {
        // Two links in a temporary directory: what cannot be removed does no harm.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The functions of the installed driver.
pub(crate) fn open() -> Result<Api, Unavailable> {
    let (api, is_client) = open_any()?;
    if is_client { Err(Unavailable::OwnClient) } else { Ok(api) }
}

/// The functions of whatever driver a program of this process would find, and whether that is our client's library.
pub(crate) fn open_any() -> Result<(Api, bool), Unavailable> {
    // SAFETY: loading the system's driver runs its constructors, as every CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NotFound);
    }
    // SAFETY: a library is there, so this does not panic.
    let library = unsafe { sys::culib() };
    // SAFETY: only its presence is asked for; the symbol is not used.
    let is_client = unsafe { library.get::<*const ()>(CLIENT_MARKER) }.is_ok();
    // SAFETY: the library of this name is a CUDA driver.
    Ok((unsafe { Api::load() }, is_client))
}

/// Says to a program that was started anew where its driver is.
const FOLDER_VARIABLE: &str = "VGPU_DRIVER_FOLDER";

/// What our client libraries export so that they are not taken for a driver.
const CLIENT_MARKER: &[u8] = b"vgpu_client_library\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_both_names_and_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let driver = place.path().join("driver.so");
        std::fs::write(&driver, b"not a library").unwrap();
        let made = LibraryFolder::new(&driver).unwrap();
        for name in ["libcuda.so", "libcuda.so.1"] {
            assert_eq!(std::fs::read(made.folder.join(name)).unwrap(), b"not a library");
        }
        let folder = made.folder.clone();
        drop(made);
        assert!(!folder.exists());
        assert!(LibraryFolder::new(&place.path().join("nothing")).is_err());
    }
}
