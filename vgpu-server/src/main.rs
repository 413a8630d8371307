//! `vgpu-server`: see [`vgpu_server`].

use std::process::ExitCode;

use clap::Parser;
use vgpu_server::daemon;
use vgpu_server::options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log).unwrap_or_else(|error| {
        eprintln!("vgpu-server: --log {:?}: {error}; logging at level info", options.log);
        tracing_subscriber::EnvFilter::new("info")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let outcome = if options.probe {
        daemon::probe::print_facts(&options)
    } else if options.worker {
        daemon::worker_process::run(&options)
    } else {
        serve(options)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The daemon. With a driver that was named, the program starts anew, so that helper and workers find that one.
fn serve(options: Options) -> Result<(), String> {
    let folder = options.driver.named().map(|library| {
        nvidia::LibraryFolder::enter(library)
            .map_err(|error| format!("--driver {}: {error}", library.display()))
    });
    // Held until the daemon ends: its workers load from there.
    let _folder = folder.transpose()?;
    daemon::run(options)
}
