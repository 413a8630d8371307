//! Video instructions: taken apart here, done by a helper.

use cranelift_codegen::ir::{Value, types};
use ptx::Operand;

use super::translator::{Done, Op, Translator};
use crate::jit::video::{self, Action, Second, Video};

impl<'a> Translator<'a, '_> {
    /// `vadd.u32.s32.s32.sat.add d, a.b0, b.h1, c`, `vmax4.u32.u32.u32 d.b10, a.b3210, b.b7654, c`
    pub(super) fn video(&mut self, op: &Op<'a>) -> Done {
        let name = op.opcode.name();
        let (lanes, stem) = match name.strip_suffix(['2', '4']) {
            Some(stem) => (if name.ends_with('2') { 2 } else { 4 }, stem),
            None => (1, name),
        };
        let action = match stem {
            "vadd" => Action::Add,
            "vsub" => Action::Sub,
            "vabsdiff" => Action::AbsDiff,
            "vmin" => Action::Min,
            "vmax" => Action::Max,
            "vshl" => Action::ShiftLeft,
            "vshr" => Action::ShiftRight,
            "vavrg" => Action::Average,
            "vmad" => Action::MultiplyAdd,
            "vset" => {
                op.opcode.parts.iter().find_map(|part| Action::comparison(part)).ok_or("no comparison")?
            }
            _ => return Err("the software GPU does not know this video instruction".into()),
        };
        let signed: Vec<bool> = op.types.iter().map(|ty| ty.is_signed()).collect();
        let (signed_d, signed_a, signed_b) = match signed[..] {
            [a, b] => (false, a, b),
            [d, a, b] => (d, a, b),
            _ => return Err("the types are not known".into()),
        };
        let (d, part_d, _) = Self::selected(op.operand(0)?);
        let (a, part_a, negative_a) = Self::selected(op.operand(1)?);
        let (b, part_b, negative_b) = Self::selected(op.operand(2)?);
        let third = op.operands.get(3).map(Self::selected);
        let tail = op.opcode.parts.iter().skip(1).skip_while(|part| ptx::ScalarType::parse(part).is_some());
        let tail: Vec<&str> = tail.map(|part| &**part).collect();
        let second = if action == Action::MultiplyAdd || third.is_none() {
            Second::None
        } else if tail.contains(&"add") {
            Second::Add
        } else if tail.contains(&"min") {
            Second::Min
        } else if tail.contains(&"max") {
            Second::Max
        } else {
            Second::Merge
        };
        let scalar = |part: Option<&str>| match part {
            None => Ok(0),
            Some(part) => video::part(part).ok_or_else(|| format!("there is no part .{part}")),
        };
        let (select_d, select_a, select_b) = if lanes == 1 {
            (scalar(part_d)?, scalar(part_a)?, scalar(part_b)?)
        } else {
            let (first, next) = if lanes == 2 { ("h10", "h32") } else { ("b3210", "b7654") };
            let digits =
                |part: &str| part[1..].bytes().rev().map(|digit| u32::from(digit) & 7).collect::<Vec<_>>();
            let select = |part: Option<&str>, otherwise| {
                let digits = digits(part.unwrap_or(otherwise));
                digits.iter().enumerate().fold(0, |all, (at, digit)| all | digit << (4 * at))
            };
            let mask = digits(part_d.unwrap_or(first)).iter().fold(0, |mask, digit| mask | 1 << digit);
            (mask, select(part_a, first), select(part_b, next))
        };
        let video = Video {
            action,
            second,
            lanes,
            signed_a,
            signed_b,
            signed_d,
            saturate: op.has("sat"),
            wrap: op.has("wrap"),
            plus_one: op.has("po"),
            negate_product: negative_a != negative_b,
            negate_c: third.as_ref().is_some_and(|(_, _, negative)| *negative),
            scale: if op.has("shr7") {
                7
            } else if op.has("shr15") {
                15
            } else {
                0
            },
            select_a,
            select_b,
            select_d,
        };
        let (a, b) = (self.read(&a, types::I32)?, self.read(&b, types::I32)?);
        let c = match third {
            Some((c, ..)) => self.read(&c, types::I32)?,
            None => self.constant(types::I32, 0),
        };
        let code = self.constant(types::I64, video.code());
        let value: Value = self
            .helper(video::video as *const () as usize, &[code, a, b, c], Some(types::I32))
            .expect("it has a result");
        self.write_as(&d, value, false)
    }

    /// The operand itself, the part of it that is meant, and whether it is negated.
    fn selected(operand: &Operand) -> (Operand, Option<&str>, bool) {
        match operand {
            Operand::Part(register, negative, part) => {
                (Operand::Register(*register), Some(&**part).filter(|part| !part.is_empty()), *negative)
            }
            other => (other.clone(), None, false),
        }
    }
}
