//! A program, without starting it.

use std::path::PathBuf;

use super::{Check, Scene};
use crate::binary::Runtime;
use crate::coverage;
use crate::libraries::MAJORS;
use crate::program::Program;

impl Scene {
    /// The program is there, and the loader would take our libraries into it.
    pub(super) fn program(&self) -> Check {
        const NAME: &str = "program";
        match &self.program {
            None => Check::skipped(NAME, NO_PROGRAM),
            Some(Err(reason)) => Check::failed(
                NAME,
                reason.clone(),
                "give the program as you would start it: vgpu doctor -- ./a.out",
            ),
            Some(Ok(program)) => match program.loading() {
                Some(obstacle) => Check::failed(NAME, obstacle.found, obstacle.remedy),
                None if program.path == program.image => Check::ok(NAME, program.path.display().to_string()),
                None => Check::ok(
                    NAME,
                    format!("{} is a script, run by {}", program.path.display(), program.image.display()),
                ),
            },
        }
    }

    /// How CUDA's runtime comes into the program, and whether we come before it.
    pub(super) fn linkage(&self) -> Check {
        const NAME: &str = "cudart";
        let Some(Ok(program)) = &self.program else { return Check::skipped(NAME, NO_PROGRAM) };
        if let Some(obstacle) = program.linkage() {
            return Check::failed(NAME, obstacle.found, obstacle.remedy);
        }
        let image = program.image.display();
        let is_set = self.libraries.as_ref().is_ok_and(|libraries| self.names_ours(libraries));
        let is_preloaded = self.libraries.as_ref().is_ok_and(|libraries| self.preloads_ours(libraries));
        let found = match &program.binary.runtime {
            Runtime::Shared(Some(major)) if !MAJORS.contains(major) => {
                return Check::failed(
                    NAME,
                    format!("{image} needs libcudart.so.{major}, and we stand in for 12 and 13"),
                    "build it with CUDA 12 or 13",
                );
            }
            Runtime::Shared(major) => {
                let name = major.map_or("a libcudart".to_owned(), |major| format!("libcudart.so.{major}"));
                if let Some(folder) = self.nvidias_run_path(program, &name)
                    && is_set
                    && !is_preloaded
                {
                    return Check::failed(
                        NAME,
                        format!(
                            "{image} has an RPATH with {}, which holds {name} and comes before LD_LIBRARY_PATH",
                            folder.display()
                        ),
                        "set LD_PRELOAD to our libcudart as well; vgpu run does",
                    );
                }
                format!("{image} uses {name}")
            }
            Runtime::Static { major, .. } => {
                if is_set && !is_preloaded {
                    return Check::failed(
                        NAME,
                        format!(
                            "{image} has the CUDA runtime linked in: LD_LIBRARY_PATH alone does not bring us in"
                        ),
                        "set LD_PRELOAD to our libcudart as well; vgpu run does",
                    );
                }
                let major = major.map_or("of an unknown version".to_owned(), |major| major.to_string());
                format!(
                    "{image} has the CUDA runtime {major} linked in, with symbols: its calls are redirected"
                )
            }
            Runtime::None | Runtime::Stripped => format!("{image} has no CUDA runtime itself"),
        };
        Check::ok(NAME, found)
    }

    /// The functions that the program and its libraries use are there.
    pub(super) fn functions(&self) -> Check {
        const NAME: &str = "functions";
        let Some(Ok(program)) = &self.program else { return Check::skipped(NAME, NO_PROGRAM) };
        let uses = coverage::uses(program, self.library_path.clone());
        let mut lacking: Vec<String> = uses
            .iter()
            .filter(|one| !one.supported)
            .map(|one| {
                format!("{} ({}; used by {})", one.name, coverage::advice(&one.name), one.by.display())
            })
            .collect();
        lacking.dedup();
        if lacking.is_empty() {
            return Check::ok(NAME, format!("all {} CUDA functions that it uses are supported", uses.len()));
        }
        Check::failed(
            NAME,
            format!("not supported: {}", lacking.join(", ")),
            "the program may get by without; VGPU_LOG=warn shows which of them it calls, docs/coverage.md what there is",
        )
    }

    /// A folder of the program's RPATH that holds NVIDIA's runtime.
    fn nvidias_run_path<'a>(&self, program: &'a Program, name: &str) -> Option<&'a PathBuf> {
        let libraries = self.libraries.as_ref().ok();
        let mut folders = program.binary.rpath.iter();
        folders.find(|folder| {
            let file = folder.join(name);
            file.is_file() && !libraries.is_some_and(|libraries| libraries.holds(&file))
        })
    }
}

const NO_PROGRAM: &str = "no program was given";
