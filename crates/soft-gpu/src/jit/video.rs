//! Video instructions (PTX ISA, "Video Instructions"): bytes, halves and words of 32-bit registers, one or several at a
//! time. Called by generated code through its address, with the C calling convention; never panics.

/// What is done. The discriminants are part of a [`Video`]'s code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the PTX manual's own")]
pub(crate) enum Action {
    Add,
    Sub,
    AbsDiff,
    Min,
    Max,
    ShiftLeft,
    ShiftRight,
    Average,
    MultiplyAdd,
    SetEq,
    SetNe,
    SetLt,
    SetLe,
    SetGt,
    SetGe,
}

impl Action {
    const ALL: [Self; 15] = [
        Self::Add,
        Self::Sub,
        Self::AbsDiff,
        Self::Min,
        Self::Max,
        Self::ShiftLeft,
        Self::ShiftRight,
        Self::Average,
        Self::MultiplyAdd,
        Self::SetEq,
        Self::SetNe,
        Self::SetLt,
        Self::SetLe,
        Self::SetGt,
        Self::SetGe,
    ];

    /// The comparison that an opcode's part names.
    pub(crate) fn comparison(name: &str) -> Option<Self> {
        Some(match name {
            "eq" => Self::SetEq,
            "ne" => Self::SetNe,
            "lt" => Self::SetLt,
            "le" => Self::SetLe,
            "gt" => Self::SetGt,
            "ge" => Self::SetGe,
            _ => return None,
        })
    }
}

/// What comes after, with the third operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Second {
    None,
    Add,
    Min,
    Max,
    /// The result is put into a part of it.
    Merge,
}

/// A video instruction. The scalar forms have `lanes` 1 and select a byte, a half or the whole of each operand; the
/// others have 2 or 4 and choose each lane from the parts of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Video {
    pub(crate) action: Action,
    pub(crate) second: Second,
    pub(crate) lanes: u32,
    pub(crate) signed_a: bool,
    pub(crate) signed_b: bool,
    pub(crate) signed_d: bool,
    pub(crate) saturate: bool,
    /// Shifts: the amount is taken modulo 32 instead of clamped.
    pub(crate) wrap: bool,
    /// `vmad.po`: one more.
    pub(crate) plus_one: bool,
    pub(crate) negate_product: bool,
    pub(crate) negate_c: bool,
    /// `vmad.shr7`, `vmad.shr15`.
    pub(crate) scale: u32,
    /// Scalar: [`part`] of each operand and of the result. Else: four bits a lane, and a bit a lane.
    pub(crate) select_a: u32,
    pub(crate) select_b: u32,
    pub(crate) select_d: u32,
}

/// A part of a register for the scalar forms: 0 the whole, 1 to 4 a byte, 5 and 6 a half.
pub(crate) fn part(name: &str) -> Option<u32> {
    (1..).zip(["b0", "b1", "b2", "b3", "h0", "h1"]).find(|(_, part)| *part == name).map(|(at, _)| at)
}

impl Video {
    /// The instruction in one word.
    pub(crate) fn code(self) -> u64 {
        let flags = [
            self.signed_a,
            self.signed_b,
            self.signed_d,
            self.saturate,
            self.wrap,
            self.plus_one,
            self.negate_product,
            self.negate_c,
        ];
        let flags = flags.into_iter().enumerate().fold(0, |all, (at, flag)| all | u64::from(flag) << at);
        flags
            | (self.action as u64) << 8
            | (self.second as u64) << 12
            | u64::from(self.lanes) << 15
            | u64::from(self.scale) << 18
            | u64::from(self.select_a) << 24
            | u64::from(self.select_b) << 40
            | u64::from(self.select_d) << 56
    }

    fn decode(code: u64) -> Video {
        let field = |shift: u32, bits: u32| u32::try_from(code >> shift & ((1 << bits) - 1)).unwrap_or(0);
        let flag = |at: u32| code >> at & 1 == 1;
        Video {
            action: Action::ALL.get(field(8, 4) as usize).copied().unwrap_or(Action::Add),
            second: match field(12, 3) {
                0 => Second::None,
                1 => Second::Add,
                2 => Second::Min,
                3 => Second::Max,
                _ => Second::Merge,
            },
            lanes: field(15, 3),
            signed_a: flag(0),
            signed_b: flag(1),
            signed_d: flag(2),
            saturate: flag(3),
            wrap: flag(4),
            plus_one: flag(5),
            negate_product: flag(6),
            negate_c: flag(7),
            scale: field(18, 5),
            select_a: field(24, 16),
            select_b: field(40, 16),
            select_d: field(56, 8),
        }
    }

    fn perform(self, a: u32, b: u32, c: u32) -> u32 {
        if self.lanes == 1 { self.scalar(a, b, c) } else { self.packed(a, b, c) }
    }

    fn compute(self, a: i128, b: i128, c: i128) -> i128 {
        let amount = if self.wrap { b & 31 } else { (b & 0xffff_ffff).min(32) };
        match self.action {
            Action::Add => a + b,
            Action::Sub => a - b,
            Action::AbsDiff => (a - b).abs(),
            Action::Min => a.min(b),
            Action::Max => a.max(b),
            Action::ShiftLeft => a << amount,
            Action::ShiftRight => a >> amount,
            // Rounds away from zero.
            Action::Average => {
                let sum = a + b;
                if sum >= 0 { (sum + 1) >> 1 } else { sum >> 1 }
            }
            Action::MultiplyAdd => {
                let product = if self.negate_product { -(a * b) } else { a * b };
                let c = if self.negate_c { -c } else { c };
                (product + c + i128::from(self.plus_one)) >> self.scale
            }
            Action::SetEq => i128::from(a == b),
            Action::SetNe => i128::from(a != b),
            Action::SetLt => i128::from(a < b),
            Action::SetLe => i128::from(a <= b),
            Action::SetGt => i128::from(a > b),
            Action::SetGe => i128::from(a >= b),
        }
    }

    fn scalar(self, a: u32, b: u32, c: u32) -> u32 {
        let x = extract(a, self.select_a, self.signed_a);
        let y = extract(b, self.select_b, self.signed_b);
        let signed = if self.action == Action::MultiplyAdd {
            self.signed_a || self.signed_b || self.negate_product
        } else {
            self.signed_d
        };
        let third = if signed { i128::from(c.cast_signed()) } else { i128::from(c) };
        let value = self.compute(x, y, third);
        let bits = match self.select_d {
            0 => 32,
            1..=4 => 8,
            _ => 16,
        };
        let signed = if self.action == Action::MultiplyAdd { signed || self.negate_c } else { signed };
        let value = if self.saturate { clamp(value, bits, signed) } else { value };
        let word = low(value);
        match self.second {
            Second::None => word,
            Second::Add => word.wrapping_add(c),
            Second::Min | Second::Max => {
                let value = if signed { i128::from(word.cast_signed()) } else { i128::from(word) };
                low(if self.second == Second::Min { value.min(third) } else { value.max(third) })
            }
            Second::Merge => {
                let shift = if self.select_d <= 4 {
                    8 * self.select_d.saturating_sub(1)
                } else {
                    16 * (self.select_d - 5)
                };
                let mask = if bits == 32 { u32::MAX } else { ((1 << bits) - 1) << shift };
                c & !mask | word << shift & mask
            }
        }
    }

    fn packed(self, a: u32, b: u32, c: u32) -> u32 {
        let bits = 32 / self.lanes;
        let both = u64::from(b) << 32 | u64::from(a);
        let lane = |select: u32, at: u32, signed: bool| {
            let from = select >> (4 * at) & 15;
            let value = i128::from(both >> (from * bits) & ((1 << bits) - 1));
            if signed { value << (128 - bits) >> (128 - bits) } else { value }
        };
        let mut sum = c;
        let mut merged = c;
        for at in (0..self.lanes).filter(|at| self.select_d >> at & 1 == 1) {
            let x = lane(self.select_a, at, self.signed_a);
            let y = lane(self.select_b, at, self.signed_b);
            let value = self.compute(x, y, 0);
            let value = if self.saturate { clamp(value, bits, self.signed_d) } else { value };
            sum = sum.wrapping_add(low(value));
            let mask = u32::MAX >> (32 - bits) << (at * bits);
            merged = merged & !mask | low(value) << (at * bits) & mask;
        }
        if self.second == Second::Add { sum } else { merged }
    }
}

fn extract(word: u32, part: u32, signed: bool) -> i128 {
    let (shift, bits) = match part {
        0 => (0, 32),
        1..=4 => (8 * (part - 1), 8),
        _ => (16 * (part - 5), 16),
    };
    let value = i128::from(word >> shift) & ((1 << bits) - 1);
    if signed { value << (128 - bits) >> (128 - bits) } else { value }
}

fn clamp(value: i128, bits: u32, signed: bool) -> i128 {
    if signed {
        value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        value.clamp(0, (1 << bits) - 1)
    }
}

fn low(value: i128) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

/// Does the instruction that `code` stands for.
pub(crate) extern "C" fn video(code: u64, a: u32, b: u32, c: u32) -> u32 {
    Video::decode(code).perform(a, b, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codes_instruction_is_the_instruction() {
        let video = Video {
            action: Action::SetGe,
            second: Second::Merge,
            lanes: 4,
            signed_a: true,
            signed_b: false,
            signed_d: true,
            saturate: false,
            wrap: true,
            plus_one: false,
            negate_product: true,
            negate_c: true,
            scale: 15,
            select_a: 0x3210,
            select_b: 0x7654,
            select_d: 15,
        };
        assert_eq!(Video::decode(video.code()), video);
    }
}
