//! Manual pages and completions, from the description of the command line.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::{Failure, Outcome};
use crate::options::{self, Options};

/// Writes them below a folder, laid out as in /usr/share.
pub(crate) fn write(options: &options::Pages) -> Outcome {
    let failed = |error: std::io::Error| {
        Failure::own(format_args!("writing pages to {}: {error}", options.folder.display()))
    };
    describe(&shown(), &options.folder).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes manual pages and completions of a program below a folder, laid out as in /usr/share.
pub fn describe(program: &clap::Command, folder: &Path) -> std::io::Result<()> {
    let name = program.get_name().to_owned();
    let at = |part: &str| {
        let folder = folder.join(part);
        std::fs::create_dir_all(&folder).map(|()| folder)
    };
    let mut command = program.clone();
    command.build();
    manuals(&command, &at("man/man1")?)?;
    let completions = [
        (Shell::Bash, "bash-completion/completions", name.clone()),
        (Shell::Zsh, "zsh/vendor-completions", format!("_{name}")),
        (Shell::Fish, "fish/vendor_completions.d", format!("{name}.fish")),
    ];
    for (shell, folder, file) in completions {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut program.clone(), &name, &mut text);
        std::fs::write(at(folder)?.join(file), text)?;
    }
    Ok(())
}

/// The command line without what is hidden, which completions would show.
fn shown() -> clap::Command {
    let all = Options::command();
    let tasks = all.get_subcommands().filter(|task| !task.is_hide_set()).cloned();
    let after = all.get_after_help().cloned().unwrap_or_default();
    let about = all.get_about().cloned().unwrap_or_default();
    let command =
        clap::Command::new("vgpu").version(env!("CARGO_PKG_VERSION")).about(about).after_help(after);
    command.subcommand_required(true).subcommands(tasks.collect::<Vec<_>>())
}

/// One page for the program and one for each task.
fn manuals(command: &clap::Command, folder: &Path) -> std::io::Result<()> {
    let page = |command: &clap::Command, name: &str| {
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        let mut text = Vec::new();
        clap_mangen::Man::new(command.clone().name(name)).render(&mut text)?;
        std::fs::write(folder.join(format!("{name}.1")), text)
    };
    let program = command.get_name();
    page(command, program)?;
    let tasks = command.get_subcommands().filter(|task| task.get_name() != "help");
    for task in tasks {
        page(task, &format!("{program}-{}", task.get_name()))?;
    }
    Ok(())
}
