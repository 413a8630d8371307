//! `VGPU_RANK_POLICY`: which of the devices one rank of an MPI program sees.
//!
//! | value | a rank sees |
//! | --- | --- |
//! | `all` | every device; the default, because most programs call `cudaSetDevice(rank % count)` themselves |
//! | `roundrobin` | one device: number `local rank % devices` |
//! | `block` | its contiguous part of the devices, or one device when there are more ranks than devices |
//!
//! Local rank and local size come from the launcher's variables. A process that no launcher started sees every device.

use std::ops::Range;

/// What the user asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Policy {
    #[default]
    All,
    RoundRobin,
    Block,
}

/// Where a rank stands among those of its machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LocalRank {
    pub(crate) rank: usize,
    /// How many there are; not every launcher says so.
    pub(crate) size: Option<usize>,
    /// The variable that told, for messages.
    pub(crate) told_by: &'static str,
}

impl Policy {
    /// The value of `VGPU_RANK_POLICY`, or what is wrong with it.
    pub(crate) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Policy, String> {
        let Some(text) = variable("VGPU_RANK_POLICY") else { return Ok(Policy::All) };
        match text.trim().to_ascii_lowercase().as_str() {
            "all" | "" => Ok(Policy::All),
            "roundrobin" => Ok(Policy::RoundRobin),
            "block" => Ok(Policy::Block),
            _ => Err(format!("VGPU_RANK_POLICY={text}: expected all, roundrobin or block")),
        }
    }

    /// The part of `devices` devices that the rank sees; or why it cannot be said.
    pub(crate) fn part(self, local: Option<&LocalRank>, devices: usize) -> Result<Range<usize>, String> {
        let (Some(local), false) = (local, devices == 0) else { return Ok(0..devices) };
        match self {
            Policy::All => Ok(0..devices),
            Policy::RoundRobin => {
                let device = local.rank % devices;
                Ok(device..device + 1)
            }
            Policy::Block => {
                let size = local.size.filter(|size| *size > local.rank).ok_or_else(|| {
                    let told_by = local.told_by;
                    format!(
                        "VGPU_RANK_POLICY=block: {told_by} is set, but no variable tells how many ranks this machine has; use roundrobin"
                    )
                })?;
                let start = local.rank * devices / size;
                Ok(start..((local.rank + 1) * devices / size).max(start + 1))
            }
        }
    }
}

impl LocalRank {
    /// What the launcher says about this process; `None` if no launcher started it.
    pub(crate) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Option<LocalRank> {
        let number = |name: &str| variable(name)?.trim().parse().ok();
        let told = |(rank, size): &(&'static str, &str)| {
            Some(LocalRank { rank: number(rank)?, size: number(size), told_by: rank })
        };
        LAUNCHERS.iter().find_map(told).or_else(|| slurm(variable))
    }
}

/// Slurm comes last: in a batch script every process, also each rank that `mpirun` starts there, has `SLURM_LOCALID=0`.
/// Only a step that `srun` has started says something about ranks, and it has an ordinary number.
fn slurm(variable: &dyn Fn(&str) -> Option<String>) -> Option<LocalRank> {
    let step: u32 = variable("SLURM_STEP_ID").or_else(|| variable("SLURM_STEPID"))?.trim().parse().ok()?;
    if step > LAST_ORDINARY_STEP {
        return None;
    }
    let rank = variable("SLURM_LOCALID")?.trim().parse().ok()?;
    let node = variable("SLURM_NODEID").and_then(|text| text.trim().parse().ok());
    let tasks = variable("SLURM_STEP_TASKS_PER_NODE");
    let size = tasks.zip(node).and_then(|(tasks, node)| tasks_of_node(&tasks, node));
    Some(LocalRank { rank, size, told_by: "SLURM_LOCALID" })
}

/// Number of tasks of a node in Slurm's notation: `2(x3),1` is 2, 2, 2, 1.
fn tasks_of_node(list: &str, mut node: usize) -> Option<usize> {
    for item in list.split(',') {
        let (tasks, nodes) = match item.trim().split_once("(x") {
            Some((tasks, rest)) => (tasks, rest.strip_suffix(')')?.parse().ok()?),
            None => (item.trim(), 1),
        };
        if node < nodes {
            return tasks.parse().ok();
        }
        node -= nodes;
    }
    None
}

/// Local rank and local size, by launcher; the first that is set counts.
const LAUNCHERS: [(&str, &str); 6] = [
    // Open MPI, also inside a Slurm batch step.
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    // MVAPICH2 and its successor.
    ("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("MVP_COMM_WORLD_LOCAL_RANK", "MVP_COMM_WORLD_LOCAL_SIZE"),
    // MPICH and Intel MPI.
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    // Cray PALS and PMI.
    ("PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    ("PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
];

/// slurm.h: the steps above (batch, extern, interactive, pending) are no steps of `srun`.
const LAST_ORDINARY_STEP: u32 = 0xffff_ffef;

#[cfg(test)]
mod tests {
    use super::*;

    fn local(variables: &[(&str, &str)]) -> Option<(usize, Option<usize>)> {
        let variable =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        LocalRank::read(&variable).map(|local| (local.rank, local.size))
    }

    fn parts(policy: Policy, size: usize, devices: usize) -> Vec<Range<usize>> {
        let part = |rank| {
            let local = LocalRank { rank, size: Some(size), told_by: "TEST" };
            policy.part(Some(&local), devices).unwrap()
        };
        (0..size).map(part).collect()
    }

    #[test]
    fn all_is_the_default_and_other_words_are_refused() {
        assert_eq!(Policy::read(&|_| None), Ok(Policy::All));
        assert_eq!(Policy::read(&|_| Some(" RoundRobin ".into())), Ok(Policy::RoundRobin));
        let message = Policy::read(&|_| Some("fair".into())).unwrap_err();
        assert!(message.contains("VGPU_RANK_POLICY=fair") && message.contains("roundrobin"), "{message}");
    }

    #[test]
    fn round_robin_gives_one_device_each() {
        assert_eq!(parts(Policy::RoundRobin, 5, 2), [0..1, 1..2, 0..1, 1..2, 0..1]);
        assert_eq!(parts(Policy::RoundRobin, 2, 4), [0..1, 1..2]);
    }

    #[test]
    fn blocks_cover_all_devices_once_when_there_are_enough() {
        assert_eq!(parts(Policy::Block, 2, 4), [0..2, 2..4]);
        assert_eq!(parts(Policy::Block, 2, 5), [0..2, 2..5]);
        assert_eq!(parts(Policy::Block, 4, 2), [0..1, 0..1, 1..2, 1..2]);
        for (size, devices) in (1..9).flat_map(|size| (size..20).map(move |devices| (size, devices))) {
            let covered: Vec<usize> = parts(Policy::Block, size, devices).into_iter().flatten().collect();
            assert_eq!(covered, (0..devices).collect::<Vec<_>>(), "{size} ranks, {devices} devices");
        }
    }

    #[test]
    fn a_process_without_a_launcher_and_a_list_without_devices_stay_as_they_are() {
        assert_eq!(Policy::RoundRobin.part(None, 3), Ok(0..3));
        let local = LocalRank { rank: 1, size: Some(2), told_by: "TEST" };
        assert_eq!(Policy::Block.part(Some(&local), 0), Ok(0..0));
        assert_eq!(Policy::All.part(Some(&local), 3), Ok(0..3));
    }

    #[test]
    fn blocks_need_a_size_that_holds_the_rank() {
        for size in [None, Some(3)] {
            let local = LocalRank { rank: 3, size, told_by: "MPI_LOCALRANKID" };
            assert!(Policy::Block.part(Some(&local), 4).unwrap_err().contains("MPI_LOCALRANKID"));
        }
    }

    #[test]
    fn every_launcher_is_read_and_slurm_comes_last() {
        for (rank, size) in LAUNCHERS {
            assert_eq!(local(&[(rank, "2"), (size, "4")]), Some((2, Some(4))), "{rank}");
        }
        let batch = [("SLURM_STEP_ID", "0"), ("SLURM_LOCALID", "0"), ("OMPI_COMM_WORLD_LOCAL_RANK", "3")];
        assert_eq!(local(&batch), Some((3, None)));
        assert_eq!(local(&[]), None);
    }

    #[test]
    fn slurm_counts_in_a_step_of_srun_only() {
        let rank = ("SLURM_LOCALID", "1");
        assert_eq!(local(&[rank]), None, "a batch script has no step of its own");
        assert_eq!(local(&[rank, ("SLURM_STEP_ID", "4294967291")]), None, "the batch step");
        let step = ("SLURM_STEP_ID", "0");
        assert_eq!(local(&[rank, step]), Some((1, None)));
        let tasks = [rank, step, ("SLURM_NODEID", "3"), ("SLURM_STEP_TASKS_PER_NODE", "4(x3),2")];
        assert_eq!(local(&tasks), Some((1, Some(2))));
        assert_eq!(tasks_of_node("4(x3),2", 2), Some(4));
        assert_eq!(tasks_of_node("4(x3),2", 4), None);
        assert_eq!(tasks_of_node("4(x", 0), None);
    }
}
