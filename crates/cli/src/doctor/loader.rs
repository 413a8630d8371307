//! Which libraries the dynamic loader would take.

use std::path::{Path, PathBuf};

use super::{Check, Scene};
use crate::libraries::{Libraries, MAJORS};

impl Scene {
    /// The client libraries are all there.
    pub(super) fn libraries(&self) -> Check {
        const NAME: &str = "libraries";
        const REMEDY: &str =
            "install the package vgpu-client, or name the folder of the libraries in VGPU_LIBRARY_PATH";
        let libraries = match &self.libraries {
            Ok(libraries) => libraries,
            Err(reason) => return Check::failed(NAME, reason.clone(), REMEDY),
        };
        let missing: Vec<_> = MAJORS
            .into_iter()
            .filter_map(|major| libraries.cudart(major).err())
            .map(|e| e.to_string())
            .collect();
        match missing.first() {
            Some(reason) => Check::failed(NAME, reason.clone(), REMEDY),
            None => Check::ok(NAME, format!("in {}", libraries.folder.display())),
        }
    }

    /// Every entry of LD_PRELOAD is there: the loader goes on without one that is not.
    pub(super) fn preload(&self) -> Check {
        const NAME: &str = "preload";
        let entries = &self.search.preload;
        if entries.is_empty() {
            return Check::ok(NAME, "LD_PRELOAD is not set; vgpu run sets it");
        }
        // Without a slash it is a name to be searched for.
        let is_there = |path: &PathBuf| {
            path.is_file()
                || path.to_str().is_some_and(|name| !name.contains('/') && self.find(name).is_some())
        };
        let missing: Vec<_> = entries.iter().filter(|path| !is_there(path)).collect();
        match missing.first() {
            None => Check::ok(NAME, format!("LD_PRELOAD names {} file(s), all there", entries.len())),
            Some(path) => Check::failed(
                NAME,
                format!(
                    "LD_PRELOAD names {}, which does not exist: programs start without it",
                    path.display()
                ),
                "correct LD_PRELOAD, or unset it and use vgpu run",
            ),
        }
    }

    /// Our libraries win over NVIDIA's, where the environment names ours at all.
    pub(super) fn order(&self) -> Check {
        const NAME: &str = "order";
        let Ok(libraries) = &self.libraries else { return Check::skipped(NAME, NO_LIBRARIES) };
        let winners: Vec<(&str, Option<PathBuf>)> = WATCHED.map(|name| (name, self.find(name))).into();
        let shown: Vec<String> = winners
            .iter()
            .map(|(name, path)| match path {
                Some(path) => format!("{name}: {}", path.display()),
                None => format!("{name}: none"),
            })
            .collect();
        if !self.names_ours(libraries) {
            return Check::ok(
                NAME,
                format!(
                    "nothing of ours is in LD_PRELOAD or LD_LIBRARY_PATH; vgpu run sets both\n{}",
                    shown.join("\n")
                ),
            );
        }
        let lost: Vec<String> = winners
            .iter()
            .filter(|(name, _)| libraries.optional(name).is_some())
            .filter_map(|(name, path)| Some((name, path.as_ref()?)))
            .filter(|(_, path)| !libraries.holds(path))
            .map(|(name, path)| format!("{} comes before our {name}", path.display()))
            .collect();
        if lost.is_empty() {
            return Check::ok(NAME, shown.join("\n"));
        }
        let folder = libraries.folder.display();
        Check::failed(
            NAME,
            lost.join("\n"),
            format!(
                "put {folder} first in LD_LIBRARY_PATH, and our files first in LD_PRELOAD; vgpu run does both"
            ),
        )
    }

    /// Programs open the driver under two names; where one leads to us and the other to NVIDIA's, both are loaded.
    pub(super) fn names(&self) -> Check {
        const NAME: &str = "names";
        let Ok(libraries) = &self.libraries else { return Check::skipped(NAME, NO_LIBRARIES) };
        let mut complete = Vec::new();
        for (with, without) in [("libcuda.so.1", "libcuda.so"), ("libnvidia-ml.so.1", "libnvidia-ml.so")] {
            let (there, missing) = match (libraries.optional(with), libraries.optional(without)) {
                (Some(_), Some(_)) => {
                    complete.push(with);
                    continue;
                }
                (None, None) => continue,
                (Some(_), None) => (with, without),
                (None, Some(_)) => (without, with),
            };
            let folder = libraries.folder.display();
            return Check::failed(
                NAME,
                format!("{folder} has {there} and no {missing}: who opens that name gets another library"),
                format!("ln -s {there} {folder}/{missing}, or install the package vgpu-client again"),
            );
        }
        match complete.is_empty() {
            true => Check::skipped(NAME, "there is no driver library in this installation"),
            false => Check::ok(NAME, format!("{} under both names", complete.join(", "))),
        }
    }

    /// The toolkit's stub of the driver, which is for linking, is in no path.
    pub(super) fn stubs(&self) -> Check {
        const NAME: &str = "stubs";
        let program = self.program.iter().flatten().next().map(|program| &program.binary);
        let of_program = program.into_iter().flat_map(|binary| binary.rpath.iter().chain(&binary.runpath));
        let preloaded = self.search.preload.iter().filter_map(|path| path.parent().map(Path::to_path_buf));
        let folders: Vec<PathBuf> =
            preloaded.chain(self.search.library_path.iter().chain(of_program).cloned()).collect();
        let is_stub = |folder: &&PathBuf| {
            let is_named_so = folder.components().any(|part| part.as_os_str() == "stubs");
            is_named_so && ["libcuda.so", "libcuda.so.1"].iter().any(|name| folder.join(name).exists())
        };
        match folders.iter().find(is_stub) {
            None => Check::ok(NAME, "the CUDA toolkit's stub of the driver is in no path"),
            Some(folder) => Check::failed(
                NAME,
                format!(
                    "{} holds the CUDA toolkit's stub of libcuda, which is for linking and fails every call (error 34)",
                    folder.display()
                ),
                "remove that folder from LD_LIBRARY_PATH, LD_PRELOAD and the program's run path",
            ),
        }
    }

    /// Whether the environment names anything of ours.
    pub(super) fn names_ours(&self, libraries: &Libraries) -> bool {
        let is_ours = |folder: &PathBuf| {
            *folder == libraries.folder
                || folder.canonicalize().is_ok_and(|folder| folder == libraries.folder)
        };
        self.search.library_path.iter().any(is_ours) || self.preloads_ours(libraries)
    }

    /// Whether LD_PRELOAD brings one of ours into every program.
    pub(super) fn preloads_ours(&self, libraries: &Libraries) -> bool {
        self.search.preload.iter().any(|path| path.is_file() && libraries.holds(path))
    }

    /// Who wins for a name that a program opens, or that it needs if one is given.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let program = self.program.iter().flatten().next().map(|program| &program.binary);
        self.search.find(name, program)
    }
}

const NO_LIBRARIES: &str = "the client libraries were not found";

/// The names under which programs reach CUDA.
const WATCHED: [&str; 4] = ["libcudart.so.12", "libcudart.so.13", "libcuda.so.1", "libnvidia-ml.so.1"];
