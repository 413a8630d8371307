//! The check of `vgpu run`: the product in one line, with nothing else running.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::launch::Run;
use crate::samples::{Runtime, sample};
use crate::toolchain::Mpi;
use crate::workspace::{Doing, Failure, Outcome, Workspace};

/// Runs vecadd by itself and under both MPIs, with the starter inside and outside; then with the devices' program killed.
pub(crate) fn check(_: &Workspace, dist: &Path) -> Outcome {
    let vgpu = dist.join("bin/vgpu");
    let vgpu = vgpu.to_str().unwrap_or_default();
    let mut wrong = Vec::new();
    for (mpi, runtime) in Mpi::ALL.into_iter().flat_map(|mpi| Runtime::ALL.map(|runtime| (mpi, runtime))) {
        let program = sample(dist, "vecadd", mpi, runtime);
        let program = program.to_str().unwrap_or_default();
        let starter = mpi.starter(RANKS);
        let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
        let alone = [&[vgpu, "run", "--soft", "--"][..], &[program]].concat();
        let each_its_own = [&starter[..], &[vgpu, "run", "--soft", "--", program]].concat();
        let all_the_same = [&[vgpu, "run", "--soft=2", "--"], &starter[..], &[program]].concat();
        for (what, words, ranks, devices) in [
            ("alone", alone, 1, 1),
            ("a device for each rank", each_its_own, RANKS, 1),
            ("ranks share two devices", all_the_same, RANKS, 2),
        ] {
            let run = Run::of(&words)?;
            let verdict = run.verdict("vecadd");
            let is_right = run.succeeded
                && verdict.is_some_and(|verdict| {
                    verdict.verified && verdict.ranks == ranks && verdict.devices == devices
                });
            let (mpi, runtime) = (mpi.name(), runtime.name());
            let word = if is_right { "verified" } else { "FAILED" };
            println!("    {mpi:<8} {runtime:<8} {what:<24} {word:<8} {:>5.1} s", run.seconds);
            if !is_right {
                wrong.push(run.report());
            }
        }
    }
    if let Err(failure) = killed(vgpu) {
        wrong.push(failure.to_string());
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Check(wrong.join("\n\n"))) }
}

/// A program that is killed takes its devices with it.
fn killed(vgpu: &str) -> Outcome {
    let mut command = Command::new(vgpu);
    command.args(["run", "--soft=2", "--", "sh", "-c", "echo $VGPU_SERVER; exec sleep 100"]);
    let mut program = command.stdout(Stdio::piped()).spawn().doing("starting vgpu")?;
    let mut line = String::new();
    if let Some(stdout) = program.stdout.as_mut() {
        use std::io::BufRead;
        std::io::BufReader::new(stdout).read_line(&mut line).doing("reading the list of devices")?;
    }
    let socket = line.split_whitespace().next().and_then(|item| item.strip_prefix("unix:"));
    let folder = socket.and_then(|socket| Path::new(socket).parent());
    let folder = folder.ok_or_else(|| Failure::Check(format!("no private device in {line:?}")))?;
    let was_there = folder.is_dir();
    program.kill().doing("killing a program")?;
    program.wait().doing("waiting for a program")?;
    let start = Instant::now();
    while folder.exists() && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("    killed: its devices were gone after {:.2} s", start.elapsed().as_secs_f64());
    if was_there && !folder.exists() {
        return Ok(());
    }
    Err(Failure::Check(format!("{} is left by a program that was killed", folder.display())))
}

const RANKS: u32 = 4;
const LIMIT: Duration = Duration::from_secs(10);
