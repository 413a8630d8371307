//! A machine with less on it than this one: a folder with some programs and what the loader loads for them, entered with
//! `chroot`. That needs root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::{Doing, Failure, Outcome, output};

/// A folder that can be entered with `chroot`.
pub(crate) struct Room {
    pub(crate) root: PathBuf,
}

impl Room {
    /// Why no room can be entered here; `None` if one can.
    pub(crate) fn obstacle() -> Option<&'static str> {
        if !rustix::process::geteuid().is_root() {
            return Some("chroot needs root");
        }
        let mounts = Command::new("unshare").args(["--mount", "true"]).output();
        (!mounts.is_ok_and(|out| out.status.success()))
            .then_some("this root may not mount (no CAP_SYS_ADMIN)")
    }

    /// Makes an empty one in place of whatever was there.
    pub(crate) fn make(root: &Path) -> Outcome<Self> {
        if root.exists() {
            // What is mounted there is not ours to remove; the mounts end with the process that made them.
            if root.join("proc/self").exists() {
                return Err(Failure::Check(format!("{} is in use", root.display())));
            }
            std::fs::remove_dir_all(root).doing(format_args!("removing {}", root.display()))?;
        }
        let room = Self { root: root.to_path_buf() };
        for folder in ["proc", "dev", "tmp"] {
            std::fs::create_dir_all(root.join(folder)).doing(format_args!("making {}", root.display()))?;
        }
        Ok(room)
    }

    /// Puts files there under new names, with the libraries that the loader would load for them, except the `unwanted`.
    pub(crate) fn furnish(&self, parts: &[(PathBuf, PathBuf)], unwanted: fn(&str) -> bool) -> Outcome {
        let mut libraries = BTreeSet::new();
        for (from, to) in parts {
            self.put(from, to)?;
            libraries
                .extend(libraries_of(from)?.into_iter().filter(|path| !unwanted(&path.to_string_lossy())));
        }
        libraries.iter().try_for_each(|library| self.put(library, library))
    }

    /// Links the file behind `from` to the place `to` in this room, or copies it where a link cannot be.
    pub(crate) fn put(&self, from: &Path, to: &Path) -> Outcome {
        let doing = format!("putting {} into {}", from.display(), self.root.display());
        let to = self.root.join(to.strip_prefix("/").unwrap_or(to));
        let folder = to.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).doing(&doing)?;
        let from = from.canonicalize().doing(&doing)?;
        if std::fs::hard_link(&from, &to).is_ok() {
            return Ok(());
        }
        std::fs::copy(&from, &to).doing(&doing).map(|_| ())
    }

    /// A command inside. The mounts are seen and undone with this one process.
    pub(crate) fn command(&self, program: &str) -> Command {
        let script =
            "mount --bind /proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && exec chroot \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(&self.root)
            .arg(program);
        command
    }
}

/// What the loader would load for a program; nothing for a file that it does not load.
fn libraries_of(program: &Path) -> Outcome<Vec<PathBuf>> {
    let is_elf = std::fs::read(program).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
    if !is_elf {
        return Ok(Vec::new());
    }
    let listing = output(Command::new("ldd").arg(program))?;
    let words = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}
