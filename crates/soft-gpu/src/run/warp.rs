//! What warp operations answer (PTX ISA, chapters of `shfl.sync`, `vote.sync`, `match.sync`, `redux.sync`).

use crate::jit::context::WarpOp;
use crate::jit::matrix::{Exchange, PACKET_WORDS};

/// What one lane brought.
#[derive(Clone, Copy, Default)]
pub(super) struct Lane {
    pub(super) value: u64,
    pub(super) b: u32,
    pub(super) c: u32,
}

/// The answer of `lane`, and the predicate that comes with it, given what the lanes of `present` brought.
pub(super) fn answer(op: WarpOp, lane: u32, present: u32, lanes: &[Lane; 32]) -> (u64, bool) {
    let own = lanes[lane as usize];
    let members = || (0..32_u32).filter(move |other| present >> other & 1 == 1);
    let truthy = |other: &u32| lanes[*other as usize].value != 0;
    let values = || members().map(|other| low(lanes[other as usize].value));
    match op {
        WarpOp::Sync => (0, true),
        WarpOp::ShflUp | WarpOp::ShflDown | WarpOp::ShflBfly | WarpOp::ShflIdx => {
            let (source, valid) = source_lane(op, lane, own.b & 31, own.c);
            // The value of a lane that takes no part is undefined; programs are seen to rely on zero.
            let value = if present >> source & 1 == 1 { lanes[source as usize].value } else { 0 };
            (value, valid)
        }
        WarpOp::VoteAll => (u64::from(members().all(|other| truthy(&other))), true),
        WarpOp::VoteAny => (u64::from(members().any(|other| truthy(&other))), true),
        WarpOp::VoteUni => {
            let first = members().next().is_some_and(|other| truthy(&other));
            (u64::from(members().all(|other| truthy(&other) == first)), true)
        }
        WarpOp::VoteBallot => (u64::from(mask(members().filter(truthy))), true),
        WarpOp::MatchAny => {
            let same = members().filter(|other| lanes[*other as usize].value == own.value);
            (u64::from(mask(same)), true)
        }
        WarpOp::MatchAll => {
            let all = members().all(|other| lanes[other as usize].value == own.value);
            if all { (u64::from(present), true) } else { (0, false) }
        }
        WarpOp::ReduxAdd => (u64::from(values().fold(0, u32::wrapping_add)), true),
        WarpOp::ReduxAnd => (u64::from(values().fold(u32::MAX, |a, b| a & b)), true),
        WarpOp::ReduxOr => (u64::from(values().fold(0, |a, b| a | b)), true),
        WarpOp::ReduxXor => (u64::from(values().fold(0, |a, b| a ^ b)), true),
        WarpOp::ReduxMinU => (u64::from(values().min().unwrap_or(0)), true),
        WarpOp::ReduxMaxU => (u64::from(values().max().unwrap_or(0)), true),
        WarpOp::ReduxMinS => (signed(values().map(u32::cast_signed).min()), true),
        WarpOp::ReduxMaxS => (signed(values().map(u32::cast_signed).max()), true),
        WarpOp::Elect => {
            let lowest = present.trailing_zeros();
            (u64::from(lowest), lane == lowest)
        }
        WarpOp::MinF32 => (float(values(), f32::min, false), true),
        WarpOp::MaxF32 => (float(values(), f32::max, false), true),
        WarpOp::MinNanF32 => (float(values(), f32::min, true), true),
        WarpOp::MaxNanF32 => (float(values(), f32::max, true), true),
        // Answered for the whole warp at once, see `exchange`.
        WarpOp::Matrix => (0, true),
    }
}

/// Where a shuffle reads, and whether that lies inside the segment.
fn source_lane(op: WarpOp, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (clamp, segment) = (c & 31, c >> 8 & 31);
    let limit = lane & segment | clamp & !segment;
    let first = lane & segment;
    let (source, valid) = match op {
        WarpOp::ShflUp => {
            let source = lane.cast_signed() - b.cast_signed();
            (source, source >= limit.cast_signed())
        }
        WarpOp::ShflDown => ((lane + b).cast_signed(), lane + b <= limit),
        WarpOp::ShflBfly => ((lane ^ b).cast_signed(), lane ^ b <= limit),
        _ => {
            let source = first | b & !segment;
            (source.cast_signed(), source <= limit)
        }
    };
    match u32::try_from(source) {
        Ok(source) if valid => (source & 31, true),
        _ => (lane, false),
    }
}

/// Does a matrix operation: reads the packets of the lanes that are there, and writes their results over them.
pub(super) fn exchange(present: u32, lanes: &[Lane; 32]) {
    let here = |lane: usize| present >> lane & 1 == 1;
    let Some(first) = lanes.iter().enumerate().find(|(lane, _)| here(*lane)) else { return };
    let exchange = Exchange::decode(u64::from(first.1.c) << 32 | u64::from(first.1.b));
    let pointer = |lane: usize| {
        let address = usize::try_from(lanes[lane].value).unwrap_or(0);
        std::ptr::with_exposed_provenance_mut::<[u64; PACKET_WORDS]>(address)
    };
    let mut packets = [[0; PACKET_WORDS]; 32];
    for (lane, packet) in packets.iter_mut().enumerate().filter(|(lane, _)| here(*lane)) {
        // SAFETY: generated code gives the address of a packet on its stack, and is suspended until it is answered.
        *packet = unsafe { pointer(lane).read() };
    }
    for (lane, result) in exchange.perform(&packets).into_iter().enumerate().filter(|(lane, _)| here(*lane)) {
        // SAFETY: as above.
        unsafe { pointer(lane).write(result) };
    }
}

/// The least or greatest of floats; a NaN loses unless it `spreads`. -0 is below +0.
fn float(values: impl Iterator<Item = u32>, pick: fn(f32, f32) -> f32, spreads: bool) -> u64 {
    let join = |a: u32, b: u32| {
        let (x, y) = (f32::from_bits(a), f32::from_bits(b));
        if x.is_nan() || y.is_nan() {
            let other = if x.is_nan() { b } else { a };
            return if spreads || f32::from_bits(other).is_nan() { 0x7fff_ffff } else { other };
        }
        if x == y {
            // Zeros of both signs: the smaller has the sign.
            let smaller_wins = pick(0.0, 1.0) == 0.0;
            return if smaller_wins { a | b } else { a & b };
        }
        pick(x, y).to_bits()
    };
    u64::from(values.reduce(join).unwrap_or(0))
}

fn mask(lanes: impl Iterator<Item = u32>) -> u32 {
    lanes.fold(0, |mask, lane| mask | 1 << lane)
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn signed(value: Option<i32>) -> u64 {
    u64::from(value.unwrap_or(0).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes() -> [Lane; 32] {
        std::array::from_fn(|lane| Lane { value: lane as u64 * 10, b: 0, c: 31 })
    }

    #[test]
    fn shuffles_read_from_the_lane_that_the_manual_says() {
        let mut lanes = lanes();
        lanes.iter_mut().for_each(|lane| (lane.b, lane.c) = (1, 31));
        assert_eq!(answer(WarpOp::ShflDown, 3, u32::MAX, &lanes), (40, true));
        assert_eq!(answer(WarpOp::ShflDown, 31, u32::MAX, &lanes), (310, false));
        assert_eq!(answer(WarpOp::ShflBfly, 6, u32::MAX, &lanes), (70, true));
        lanes.iter_mut().for_each(|lane| lane.c = 0);
        assert_eq!(answer(WarpOp::ShflUp, 0, u32::MAX, &lanes), (0, false));
        assert_eq!(answer(WarpOp::ShflUp, 5, u32::MAX, &lanes), (40, true));
        // Segments of 8 lanes: width 8 gives c = 0x181f.
        lanes.iter_mut().for_each(|lane| lane.c = 0x181f);
        assert_eq!(answer(WarpOp::ShflDown, 7, u32::MAX, &lanes), (70, false));
        assert_eq!(answer(WarpOp::ShflIdx, 13, u32::MAX, &lanes), (90, true));
    }

    #[test]
    fn votes_and_reductions_count_only_members() {
        let lanes = lanes();
        assert_eq!(answer(WarpOp::VoteBallot, 0, 0b111, &lanes).0, 0b110);
        assert_eq!(answer(WarpOp::VoteAll, 0, 0b110, &lanes).0, 1);
        assert_eq!(answer(WarpOp::ReduxAdd, 0, 0b1110, &lanes).0, 60);
        assert_eq!(answer(WarpOp::MatchAll, 1, 0b11, &lanes), (0, false));
        assert_eq!(answer(WarpOp::Elect, 2, 0b1100, &lanes), (2, true));
    }
}
