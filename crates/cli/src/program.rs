//! Which file a command is, and whether our libraries come into it.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::{getegid, geteuid};

use crate::binary::{Binary, NotLoadable, Runtime};
use crate::failure::{Failure, Outcome};

/// A command, looked at and not started.
#[derive(Debug)]
pub(crate) struct Program {
    /// The file that the command names.
    pub(crate) path: PathBuf,
    /// The file that the kernel starts for it: the same, or the interpreter of a script.
    pub(crate) image: PathBuf,
    pub(crate) binary: Binary,
}

/// Why our libraries do not come into a program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) found: String,
    pub(crate) remedy: String,
}

impl Program {
    /// Finds a command as a shell does, follows scripts to their interpreter, and reads the file.
    pub(crate) fn find(command: &OsStr, search_path: Option<OsString>) -> Outcome<Program> {
        let path = which(command, search_path)?;
        let mut image = path.clone();
        // The kernel follows four interpreters (fs/exec.c).
        for _ in 0..5 {
            match Binary::read(&image) {
                Ok(binary) => return Ok(Program { path, image, binary }),
                Err(NotLoadable::NotElf) => match interpreter(&image)? {
                    Some(next) => image = next,
                    // As execvp(3) does it: a text without a first line goes to the shell.
                    None => image = PathBuf::from("/bin/sh"),
                },
                Err(NotLoadable::OtherMachine(machine)) => {
                    return Err(Failure::unusable(format_args!(
                        "{} is a program for {machine}, and the client libraries are for 64-bit x86; there is no build for others yet",
                        image.display()
                    )));
                }
                Err(NotLoadable::Unreadable(error)) => {
                    return Err(Failure::unusable(format_args!(
                        "{} cannot be read: {error}",
                        image.display()
                    )));
                }
            }
        }
        Err(Failure::unusable(format_args!("{} leads from one interpreter to the next", path.display())))
    }

    /// What keeps the dynamic loader from taking us in, or us from finding the runtime.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        self.loading().or_else(|| self.linkage())
    }

    /// What keeps the dynamic loader from taking us in.
    pub(crate) fn loading(&self) -> Option<Obstacle> {
        let image = self.image.display();
        if !self.binary.has_interpreter {
            return Some(Obstacle {
                found: format!("{image} is linked fully statically, and no library can be brought into it"),
                remedy: "link it dynamically (without -static)".to_owned(),
            });
        }
        let what = self.privilege()?;
        Some(Obstacle {
            found: format!("{image} is {what}, and the loader ignores LD_PRELOAD and LD_LIBRARY_PATH there"),
            remedy: format!("run a copy without it, or run it as its owner: cp {image} . && ./..."),
        })
    }

    /// What of the runtime's linkage is in the way.
    pub(crate) fn linkage(&self) -> Option<Obstacle> {
        (self.binary.runtime == Runtime::Stripped).then(|| Obstacle {
            found: format!(
                "{} has device code, no CUDA library and no symbol table: the runtime is linked in and stripped, so its calls cannot be redirected",
                self.image.display()
            ),
            remedy: "link it with -cudart shared, or do not strip it (VGPU_STATIC=ignore runs it without us)"
                .to_owned(),
        })
    }

    /// Which privilege of the file makes the loader careful, for this user.
    fn privilege(&self) -> Option<&'static str> {
        let data = self.image.metadata().ok()?;
        let mode = data.mode();
        if mode & 0o4000 != 0 && data.uid() != geteuid().as_raw() {
            return Some("setuid");
        }
        // Without the bit for execution by the group it means another thing: mandatory locking.
        if mode & 0o2010 == 0o2010 && data.gid() != getegid().as_raw() {
            return Some("setgid");
        }
        let mut value = [0; 64];
        let has_capabilities = rustix::fs::getxattr(&self.image, c"security.capability", &mut value)
            .is_ok_and(|length| length > 0);
        (has_capabilities && !geteuid().is_root()).then_some("marked with file capabilities")
    }
}

/// The file of a command.
fn which(command: &OsStr, search_path: Option<OsString>) -> Outcome<PathBuf> {
    let shown = Path::new(command).display();
    let is_executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if command.as_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        return match path.metadata() {
            Err(error) => Err(Failure::missing(format_args!("{shown}: {error}"))),
            Ok(data) if data.is_dir() => Err(Failure::unusable(format_args!("{shown} is a folder"))),
            Ok(_) if !is_executable(&path) => {
                Err(Failure::unusable(format_args!("{shown} is not executable; chmod +x {shown}")))
            }
            Ok(_) => Ok(path),
        };
    }
    let folders = search_path.unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join(command)).find(|path| is_executable(path));
    found.ok_or_else(|| {
        let here = Path::new(command).is_file();
        let hint = if here { format!("; did you mean ./{shown}") } else { String::new() };
        Failure::missing(format_args!("{shown}: no such command in PATH{hint}"))
    })
}

/// The interpreter that the first line of a script names.
fn interpreter(script: &Path) -> Outcome<Option<PathBuf>> {
    let failed =
        |what: &dyn std::fmt::Display| Failure::unusable(format_args!("{}: {what}", script.display()));
    let mut start = Vec::new();
    // fs/binfmt_script.c: the kernel reads this much.
    let file = std::fs::File::open(script).map_err(|error| failed(&error))?;
    file.take(256).read_to_end(&mut start).map_err(|error| failed(&error))?;
    let Some(line) = start.strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')).filter(|word| !word.is_empty());
    let word = words.next().ok_or_else(|| failed(&"its first line names no interpreter"))?;
    let path = PathBuf::from(OsStr::from_bytes(word));
    if !path.is_file() {
        return Err(failed(&format_args!("its interpreter {} does not exist", path.display())));
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn executable(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    fn message(command: &Path) -> String {
        Program::find(command.as_os_str(), None).unwrap_err().to_string()
    }

    #[test]
    fn a_script_is_as_good_as_its_interpreter() {
        let folder = tempfile::tempdir().unwrap();
        let script = executable(folder.path(), "script", "#! /bin/sh -e\necho\n");
        let program = Program::find(script.as_os_str(), None).unwrap();
        assert_eq!((program.path, program.image), (script, "/bin/sh".into()));
        assert!(program.binary.has_interpreter);
        let plain = executable(folder.path(), "plain", "echo\n");
        assert_eq!(Program::find(plain.as_os_str(), None).unwrap().image, Path::new("/bin/sh"));
    }

    #[test]
    fn what_cannot_be_started_is_said_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let lost = executable(folder.path(), "lost", "#!/no/such/interpreter\n");
        assert!(message(&lost).contains("/no/such/interpreter does not exist"));
        let around = folder.path().join("around");
        executable(folder.path(), "around", &format!("#!{}\n", around.display()));
        assert!(message(&around).contains("one interpreter to the next"));
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        assert!(message(&plain).contains("chmod +x"));
        assert!(message(folder.path()).contains("is a folder"));
        assert!(message(&folder.path().join("nothing")).contains("No such file"));
        let unknown = Program::find(OsStr::new("no-such-command"), None).unwrap_err();
        assert!(unknown.to_string().contains("no such command in PATH"));
    }

    #[test]
    fn commands_are_found_in_the_search_path() {
        let folder = tempfile::tempdir().unwrap();
        let tool = executable(folder.path(), "tool-of-this-test", "#!/bin/sh\n");
        let search_path = std::env::join_paths([Path::new("/nowhere"), folder.path()]).unwrap();
        let found = Program::find(OsStr::new("tool-of-this-test"), Some(search_path)).unwrap();
        assert_eq!(found.path, tool);
    }
}
