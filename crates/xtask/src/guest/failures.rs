//! What a program sees when the network or the other process goes away, over links that have no kernel to tell them.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use super::{CLIENT_NETDEV, Check, Guest, SERVER_NETDEV, sum_up, timed};
use crate::launch::{Launcher, Way};
use crate::samples::{Runtime, sample, test};
use crate::toolchain::Mpi;
use crate::workspace::{Doing, Failure, Outcome, finish};

/// Runs them all.
pub(super) fn check(guest: &Guest) -> Outcome {
    let parts: [(&str, Check); 6] = [
        ("too little memory may be locked", memlock_too_small),
        ("the cable is cut", cable_cut),
        ("the cable is cut one way", cable_cut_one_way),
        ("the server is killed", server_killed),
        ("the program is killed", program_killed),
        ("one packet in a hundred is lost", packets_lost),
    ];
    sum_up(&parts.map(|(name, run)| {
        println!("    {name}");
        (name, timed(|| run(guest)))
    }))
}

/// With verbs and nothing else allowed, the program is told how much it may lock, and how to raise that.
fn memlock_too_small(guest: &Guest) -> Outcome {
    let servers = guest.servers(1)?;
    let launcher = guest.launcher(&servers);
    let program = launcher.command(&test(&guest.dist, "steady", Runtime::Shared), Way::Path);
    let mut command = Command::new("setpriv");
    // Root is not bound by the limit unless it gives the right up.
    command.args(["--bounding-set=-ipc_lock", "prlimit", "--memlock=65536:65536"]);
    command
        .arg(program.get_program())
        .arg("1")
        .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().doing("starting steady with little memory to lock")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !guest.is_over_verbs() || (!output.status.success() && said.contains("64 KiB may be locked")) {
        said.lines().for_each(|line| println!("        {line}"));
        return Ok(());
    }
    Err(Failure::Check(format!("it ended with {}, saying:\n{}", output.status, tail(&said))))
}

/// Nothing gets through any more: the program is told within the time that an unanswered link is given.
fn cable_cut(guest: &Guest) -> Outcome {
    let servers = guest.servers(1)?;
    let mut steady = Steady::start(guest, &guest.launcher(&servers))?;
    let _cut = [Netem::add(CLIENT_NETDEV, "loss 100%")?, Netem::add(SERVER_NETDEV, "loss 100%")?];
    steady.ends_with_an_error(Duration::from_secs(15))
}

/// The server still gets through, but does not hear anything: it may be the first to give up.
fn cable_cut_one_way(guest: &Guest) -> Outcome {
    let servers = guest.servers(1)?;
    let mut steady = Steady::start(guest, &guest.launcher(&servers))?;
    let _cut = Netem::add(CLIENT_NETDEV, "loss 100%")?;
    steady.ends_with_an_error(Duration::from_secs(15))
}

fn server_killed(guest: &Guest) -> Outcome {
    let mut servers = guest.servers(1)?;
    let mut steady = Steady::start(guest, &guest.launcher(&servers))?;
    servers.kill(0)?;
    steady.ends_with_an_error(Duration::from_secs(5))
}

/// The worker of a program that is gone goes as well, and says so.
fn program_killed(guest: &Guest) -> Outcome {
    let servers = guest.servers(1)?;
    let steady = Steady::start(guest, &guest.launcher(&servers))?;
    let started = workers(&servers.log(), "started");
    if started.is_empty() {
        return Err(Failure::Check(format!("no worker has started:\n{}", servers.log())));
    }
    drop(steady);
    let start = Instant::now();
    loop {
        let ended = workers(&servers.log(), "ended");
        let gone = |worker: &String| ended.contains(worker) && !Path::new("/proc").join(worker).exists();
        if started.iter().all(gone) {
            println!("      {} worker(s) gone after {:.1} s", started.len(), start.elapsed().as_secs_f64());
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(5) {
            return Err(Failure::Check(format!("workers {started:?} are not gone:\n{}", servers.log())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The transport repairs what an imperfect network does.
fn packets_lost(guest: &Guest) -> Outcome {
    let servers = guest.servers(2)?;
    let _loss = [Netem::add(CLIENT_NETDEV, "loss 1%")?, Netem::add(SERVER_NETDEV, "loss 1%")?];
    let program = sample(&guest.dist, "vecadd", Mpi::OpenMpi, Runtime::Shared);
    let run = guest.launcher(&servers).under_mpi((&program, &["262144"]), Way::Path, Mpi::OpenMpi, 2)?;
    if run.succeeded && run.verdict("vecadd").is_some_and(|verdict| verdict.verified) {
        println!("      vecadd: VERIFIED in {:.1} s", run.seconds);
        return Ok(());
    }
    Err(Failure::Check(format!("vecadd did not verify\n{}\n\nservers:\n{}", run.report(), servers.log())))
}

/// The test program `steady`, at work. It is killed when this value goes.
struct Steady {
    child: Child,
    output: PathBuf,
}

impl Steady {
    /// Starts it and waits until it has passed a few times.
    fn start(guest: &Guest, launcher: &Launcher<'_>) -> Outcome<Self> {
        let output = guest.scratch.join("steady.txt");
        let file = File::create(&output).doing("making steady's output")?;
        let mut command = launcher.command(&test(&guest.dist, "steady", Runtime::Shared), Way::Path);
        command.arg("1000000").stderr(file.try_clone().doing("sharing steady's output")?).stdout(file);
        let child = command.spawn().doing("starting steady")?;
        let mut steady = Self { child, output };
        let start = Instant::now();
        while !steady.said().contains("pass 3\n") {
            let ended = steady.child.try_wait().doing("asking after steady")?;
            if ended.is_some() || start.elapsed() > Duration::from_secs(60) {
                let said = steady.said();
                return Err(Failure::Check(format!("steady has not come to work ({ended:?}):\n{said}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(steady)
    }

    /// It must come to its own end within `limit`: with a CUDA error, and our words about the reason.
    fn ends_with_an_error(&mut self, limit: Duration) -> Outcome {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().doing("asking after steady")? {
                break status;
            }
            if start.elapsed() > limit {
                return Err(Failure::Check(format!("still there after {limit:?}:\n{}", tail(&self.said()))));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = self.said();
        if !(is_own_error(status) && said.contains(CUDA_ERROR) && said.contains(LOST)) {
            return Err(Failure::Check(format!("it ended with {status}, saying:\n{}", tail(&said))));
        }
        println!("      it ended after {:.1} s, saying:", start.elapsed().as_secs_f64());
        said.lines().filter(|line| !line.starts_with("pass ")).for_each(|line| println!("        {line}"));
        Ok(())
    }

    fn said(&self) -> String {
        std::fs::read(&self.output)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        // If it has ended already, there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fault of the cable, until this value goes.
struct Netem(&'static str);

impl Netem {
    fn add(netdev: &'static str, fault: &str) -> Outcome<Self> {
        let words = ["qdisc", "add", "dev", netdev, "root", "netem"];
        finish(Command::new("tc").args(words).args(fault.split(' '))).map(|()| Self(netdev))
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        if let Err(failure) = finish(Command::new("tc").args(["qdisc", "del", "dev", self.0, "root"])) {
            println!("    the cable stays as it is: {failure}");
        }
    }
}

/// Process ids of the workers that the servers' log names with this word: `worker 123 started`.
fn workers(log: &str, word: &str) -> Vec<String> {
    let after = log.split("worker ").skip(1);
    after
        .filter_map(|rest| {
            let (id, rest) = rest.split_once(' ')?;
            (rest.starts_with(word) && id.parse::<u32>().is_ok()).then(|| id.to_owned())
        })
        .collect()
}

/// The program chose to end, and was not content.
fn is_own_error(status: ExitStatus) -> bool {
    status.signal().is_none() && !status.success()
}

/// The end of a long output.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// In what the program writes about the call that failed.
const CUDA_ERROR: &str = ": cuda";
/// In what the client writes when it gives a link up.
const LOST: &str = "went with it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_named_in_the_log() {
        let log = "INFO worker 12 started client=1\nWARN worker ended with 1\nWARN worker 13 ended: lost\n";
        assert_eq!(workers(log, "started"), ["12"]);
        assert_eq!(workers(log, "ended"), ["13"]);
    }
}
