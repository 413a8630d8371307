//! What is measured.

use crate::message::{Direction, HostMemory, Request, What};

/// A figure: its parts are measured in rounds, turn by turn on each device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) request: Request,
    pub(crate) rounds: u32,
}

/// All figures, in the order in which they are shown.
pub(crate) fn steps(quick: bool, sizes: &[u64]) -> Vec<Step> {
    let rounds = if quick { 3 } else { 7 };
    let step = |what, count, limit_ms| Step { request: Request { what, count, limit_ms }, rounds };
    let calls = if quick { 100 } else { 500 };
    let waiting = [What::Synchronize, What::ReadWord, What::LaunchAndSynchronize];
    let mut steps: Vec<Step> = waiting.map(|what| step(what, calls, 500)).into();
    steps.push(step(What::Launches, if quick { 5_000 } else { 100_000 }, 2_000));
    for direction in Direction::ALL {
        for memory in HostMemory::ALL {
            for bytes in self::sizes(quick, sizes) {
                // Small copies take as many repetitions as a median wants; of large ones each takes long.
                let count = ((8 << 20) / bytes).clamp(1, 16);
                let count = u32::try_from(count).unwrap_or(1);
                steps.push(step(What::Copy { direction, memory, bytes }, count, 1_000));
            }
        }
    }
    steps
}

/// The sizes of copies: those that are asked for, in order and none twice, or powers of four.
pub(crate) fn sizes(quick: bool, asked: &[u64]) -> Vec<u64> {
    let usual = (12..=if quick { 20 } else { 26 }).step_by(if quick { 4 } else { 2 }).map(|power| 1 << power);
    let mut sizes: Vec<u64> = if asked.is_empty() { usual.collect() } else { asked.to_vec() };
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_reach_from_4_kib_to_64_mib_unless_told_otherwise() {
        let usual = sizes(false, &[]);
        assert_eq!((usual.first(), usual.last(), usual.len()), (Some(&4096), Some(&(64 << 20)), 8));
        assert_eq!(sizes(true, &[]), [4096, 65536, 1 << 20]);
        assert_eq!(sizes(true, &[65536, 4096, 65536]), [4096, 65536]);
    }

    #[test]
    fn every_kind_of_copy_is_measured_at_every_size() {
        assert_eq!(steps(false, &[]).len(), 4 + 2 * 2 * 8);
        assert!(steps(false, &[16 << 30]).iter().all(|step| step.request.count >= 1));
    }
}
