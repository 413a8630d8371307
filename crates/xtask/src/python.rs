//! The check that `--python` asks for: libraries of Python that compile kernels, with `vgpu run --soft`.

use std::path::Path;

use crate::launch::Run;
use crate::toolchain::Toolchain;
use crate::workspace::{Doing, Failure, Outcome, Workspace};

/// Runs every program under `examples/python`.
pub(crate) fn check(workspace: &Workspace, dist: &Path) -> Outcome {
    let python = Toolchain::python(workspace)?;
    let vgpu = dist.join("bin/vgpu");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(workspace.root.join("examples/python")).doing("reading examples/python")? {
        let path = entry.doing("reading examples/python")?.path();
        names.extend(path.file_stem().map(|stem| (stem.to_string_lossy().into_owned(), path.clone())));
    }
    names.sort();
    let mut failed = Vec::new();
    for (name, program) in names {
        let [vgpu, python, program] =
            [&vgpu, &python, &program].map(|path| path.to_str().unwrap_or_default());
        let run = Run::of(&[vgpu, "run", "--soft", "--", python, "-W", "ignore", program])?;
        let passed = run.succeeded && run.output.contains(&format!("{name}: ok"));
        let word = if passed { "ok" } else { "FAILED" };
        println!("    {name:<20} {word:<8} {:>5.1} s", run.seconds);
        if !passed {
            failed.push(run.report());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Check(failed.join("\n\n"))) }
}
