//! `vgpu run`: checks what the loader would pass over in silence, sets the variables, and becomes the program.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::binary::{Binary, Runtime};
use crate::environment::Variables;
use crate::failure::{Failure, Outcome};
use crate::libraries::{Libraries, MAJORS};
use crate::options::{self, Launch};
use crate::program::Program;
use crate::search::Search;
use crate::servers;
use crate::soft::{self, Lifeline};

/// Does not come back unless it fails: the program is this process then.
pub(crate) fn run(options: &options::Run) -> Outcome {
    let (name, arguments) = options.command.split_first().expect("the command line demands a command");
    let program = Program::find(name, std::env::var_os("PATH"))?;
    if let Some(obstacle) = program.obstacle() {
        let is_allowed = program.binary.runtime == Runtime::Stripped
            && std::env::var_os("VGPU_STATIC").is_some_and(|value| value == "ignore");
        if !is_allowed {
            return Err(Failure::unusable(format_args!("{}; {}", obstacle.found, obstacle.remedy)));
        }
    }
    let libraries = Libraries::find()?;
    let majors = majors(&program.binary, &libraries);
    for major in majors.iter().filter(|major| !MAJORS.contains(major)) {
        eprintln!(
            "vgpu: {} needs libcudart.so.{major}, and this release stands in for 12 and 13 only; build it with CUDA 12 or 13",
            program.path.display()
        );
    }
    let majors: Vec<u32> = majors.into_iter().filter(|major| MAJORS.contains(major)).collect();
    // Everything that can fail without the devices fails before they are started.
    let named = named_list(&options.launch)?;
    let mut variables =
        Variables::new(&libraries, &majors, named.as_deref(), options.launch.summary, &current)?;
    if let Some(count) = options.launch.soft {
        let lifeline = Lifeline::own()?;
        let list = soft::start(count, &lifeline)?;
        variables.0.push(("VGPU_SERVER", list.into()));
        variables.ask_for_ptx(&current);
        lifeline.hand_over()?;
    }
    let mut command = Command::new(&program.path);
    command.arg0(name).args(arguments).envs(variables.0);
    let error = command.exec();
    Err(Failure::unusable(format_args!("{}: {error}", program.path.display())))
}

/// The list that is to be set; with private devices there is none yet.
pub(crate) fn named_list(launch: &Launch) -> Outcome<Option<String>> {
    if launch.soft.is_some() { Ok(None) } else { servers::list(launch.servers.as_deref()) }
}

/// A variable of the environment.
pub(crate) fn current(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// The majors of the runtime that a program and its libraries name.
fn majors(binary: &Binary, libraries: &Libraries) -> BTreeSet<u32> {
    let library_path = std::env::var_os("LD_LIBRARY_PATH");
    let (loaded, _) = Search::new(None, library_path.as_deref()).closure(binary);
    let others = loaded.iter().filter(|library| !libraries.holds(&library.path));
    let all = others.map(|library| &library.binary).chain([binary]);
    all.filter_map(|binary| match &binary.runtime {
        Runtime::Shared(major) => *major,
        Runtime::Static { major, .. } => *major,
        Runtime::None | Runtime::Stripped => None,
    })
    .collect()
}
