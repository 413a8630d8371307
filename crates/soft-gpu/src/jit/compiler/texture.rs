//! Textures and surfaces: operands go to the thread context, a helper does the rest.

use std::mem::offset_of;

use cranelift_codegen::ir::{InstBuilder, Value, types};
use ptx::{Operand, ScalarType};

use super::translator::{Done, Op, Translator, clif_type};
use crate::jit::context::ThreadContext;
use crate::jit::texture::{self, Access, TextureWords, fetch};
use crate::texture::surface::Outside;

/// `.1d`, `.a2d` ...: how many coordinates, whether a layer comes before them, whether they are a direction.
struct Geometry {
    axes: usize,
    layered: bool,
    cube: bool,
}

impl Geometry {
    fn of(op: &Op<'_>) -> Result<Geometry, String> {
        [
            ("1d", 1, false, false),
            ("2d", 2, false, false),
            ("3d", 3, false, false),
            ("a1d", 1, true, false),
            ("a2d", 2, true, false),
            ("cube", 3, false, true),
            ("acube", 3, true, true),
        ]
        .into_iter()
        .find(|(name, ..)| op.has(name))
        .map(|(_, axes, layered, cube)| Geometry { axes, layered, cube })
        .ok_or_else(|| "this geometry is not supported".into())
    }
}

/// The words of an operand in braces, or the only one without.
fn parts(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(parts) => parts,
        single => std::slice::from_ref(single),
    }
}

const WORDS: usize = offset_of!(ThreadContext, texture);

impl<'a> Translator<'a, '_> {
    /// `[handle, coordinates]`, or `[handle]`.
    fn handle<'o>(&mut self, operand: &'o Operand) -> Result<(Value, &'o [Operand]), String> {
        let Operand::Address(items, 0) = operand else {
            return Err("a handle in brackets is expected".into());
        };
        let (handle, coordinates) = match items.as_slice() {
            [handle] => (handle, &[][..]),
            [handle, coordinates] => (handle, parts(coordinates)),
            _ => return Err("samplers of their own are not supported".into()),
        };
        if !matches!(handle, Operand::Register(_)) {
            return Err("only texture objects are supported, no references".into());
        }
        Ok((self.read(handle, types::I64)?, coordinates))
    }

    fn put_words(&mut self, at: usize, operands: &[Operand], ty: ScalarType) -> Done {
        for (index, operand) in operands.iter().enumerate() {
            let value = self.read(operand, clif_type(ty))?;
            let bits = self.coerce(value, types::I32, false);
            self.set_field(WORDS + at + 4 * index, bits);
        }
        Ok(())
    }

    /// Layer and coordinates; the layer's place depends on whether textures or surfaces ask.
    fn put_place(&mut self, geometry: &Geometry, items: &[Operand], ty: ScalarType, layer_at: usize) -> Done {
        let skipped = usize::from(geometry.layered);
        let coordinates = items.get(skipped..skipped + geometry.axes).ok_or("a coordinate is missing")?;
        if geometry.layered {
            self.put_words(layer_at, &items[..1], ScalarType::U32)?;
        }
        self.put_words(offset_of!(TextureWords, at), coordinates, ty)
    }

    fn take_word(&mut self, index: usize) -> Value {
        self.field_now(types::I32, WORDS + offset_of!(TextureWords, data) + 4 * index)
    }

    /// `tex`, `tld4`
    pub(super) fn texture(&mut self, op: &Op<'a>) -> Done {
        let geometry = Geometry::of(op)?;
        let &[result, coordinate] = op.types.as_slice() else { return Err("two types are expected".into()) };
        let (handle, items) = self.handle(op.operand(1)?)?;
        self.put_place(&geometry, items, coordinate, offset_of!(TextureWords, layer))?;
        let mut how = u32::try_from(geometry.axes).expect("at most 3");
        for (flag, is_set) in [
            (fetch::CUBE, geometry.cube),
            (fetch::INTEGER, coordinate != ScalarType::F32),
            (fetch::GRADIENT, op.has("grad")),
            (fetch::GATHER, op.opcode.name() == "tld4"),
            (fetch::HALVES, result == ScalarType::F16),
            (fetch::PACKED_HALVES, result == ScalarType::F16x2),
        ] {
            how |= if is_set { flag } else { 0 };
        }
        if let Some(channel) = ["r", "g", "b", "a"].iter().position(|name| op.has(name)) {
            how |= u32::try_from(channel).expect("at most 3") << fetch::CHANNEL_SHIFT;
        }
        let used = if op.has("grad") {
            for (at, place) in [(2, offset_of!(TextureWords, dx)), (3, offset_of!(TextureWords, dy))] {
                let steps = parts(op.operand(at)?);
                let steps = steps.get(..geometry.axes).ok_or("a derivative is missing")?;
                self.put_words(place, steps, ScalarType::F32)?;
            }
            4
        } else if op.has("level") {
            let level = std::slice::from_ref(op.operand(2)?);
            self.put_words(offset_of!(TextureWords, level), level, ScalarType::F32)?;
            3
        } else {
            let finest = self.constant(types::I32, 0);
            self.set_field(WORDS + offset_of!(TextureWords, level), finest);
            2
        };
        if op.operands.len() > used {
            return Err("offsets and depth comparison are not supported".into());
        }
        let how = self.constant(types::I32, u64::from(how));
        self.helper(texture::sample as *const () as usize, &[self.ctx, handle, how], None);
        let mut target = op.operand(0)?;
        if let Operand::Pair(vector, resident) = target {
            let yes = self.constant(types::I8, 1);
            self.write_as(resident, yes, false)?;
            target = vector;
        }
        for (index, part) in parts(target).iter().enumerate().take(4) {
            let word = self.take_word(index);
            self.write_as(part, word, false)?;
        }
        Ok(())
    }

    /// `txq`, `suq`
    pub(super) fn texture_query(&mut self, op: &Op<'a>) -> Done {
        let what =
            texture::QUERIES.iter().position(|name| op.has(name)).ok_or("this query is not supported")?;
        let (handle, _) = self.handle(op.operand(1)?)?;
        let level =
            if op.has("level") { self.read_at(op, 2, types::I32)? } else { self.constant(types::I32, 0) };
        let what = self.constant(types::I32, what as u64);
        let arguments = [self.ctx, handle, what, level];
        let answer = self
            .helper(texture::query as *const () as usize, &arguments, Some(types::I32))
            .expect("it has a result");
        self.write(op, answer)
    }

    /// `suld`, `sust`, `sured`
    pub(super) fn surface(&mut self, op: &Op<'a>) -> Done {
        let geometry = Geometry::of(op)?;
        let ty = op.ty()?;
        let loads = op.opcode.name() == "suld";
        let (handle, items) = self.handle(op.operand(usize::from(loads))?)?;
        let zero = self.constant(types::I32, 0);
        for axis in geometry.axes..3 {
            self.set_field(WORDS + offset_of!(TextureWords, at) + 4 * axis, zero);
        }
        let layer_at = offset_of!(TextureWords, at) + 8;
        self.put_place(&geometry, items, ScalarType::S32, layer_at)?;
        let outside = if op.has("clamp") {
            Outside::Clamp
        } else if op.has("zero") {
            Outside::Zero
        } else {
            Outside::Trap
        };
        let operation = match op.opcode.name() {
            "suld" => Access::LOAD,
            "sust" => Access::STORE,
            _ => reduction(op, ty)?,
        };
        let data = parts(op.operand(usize::from(!loads))?);
        let access = Access {
            operation,
            bytes: ty.bytes(),
            count: u32::try_from(data.len()).map_err(|error| error.to_string())?,
            outside: outside as u32,
            formatted: op.has("p"),
        };
        if ![1, 2, 4].contains(&access.count) || access.bytes > 8 || access.bytes * access.count > 16 {
            return Err("this access is too wide".into());
        }
        if !loads {
            self.put_data(data, ty)?;
        }
        let code = self.constant(types::I32, u64::from(access.code()));
        self.helper(texture::access as *const () as usize, &[self.ctx, handle, code], None);
        if loads { self.take_data(data, ty) } else { Ok(()) }
    }

    fn put_data(&mut self, data: &[Operand], ty: ScalarType) -> Done {
        let step = if ty.bytes() == 8 { 2 } else { 1 };
        for (index, operand) in data.iter().enumerate() {
            let value = self.read(operand, clif_type(ty).as_int())?;
            let place = WORDS + offset_of!(TextureWords, data) + 4 * step * index;
            let low = self.coerce(value, types::I32, false);
            self.set_field(place, low);
            if step == 2 {
                let high = self.b.ins().ushr_imm_u(value, 32);
                let high = self.b.ins().ireduce(types::I32, high);
                self.set_field(place + 4, high);
            }
        }
        Ok(())
    }

    fn take_data(&mut self, data: &[Operand], ty: ScalarType) -> Done {
        let step = if ty.bytes() == 8 { 2 } else { 1 };
        for (index, operand) in data.iter().enumerate() {
            let low = self.take_word(step * index);
            let value = if step == 2 {
                let high = self.take_word(step * index + 1);
                let (low, high) = (self.coerce(low, types::I64, false), self.coerce(high, types::I64, false));
                let high = self.b.ins().ishl_imm_u(high, 32);
                self.b.ins().bor(low, high)
            } else {
                self.coerce(low, clif_type(ty).as_int(), false)
            };
            self.write_as(operand, value, false)?;
        }
        Ok(())
    }
}

/// The place of a reduction in the operations of an access.
fn reduction(op: &Op<'_>, ty: ScalarType) -> Result<u32, String> {
    let name = ["add", "min", "max", "and", "or"].into_iter().find(|name| op.has(name));
    let signed = if ty.is_signed() && matches!(name, Some("min" | "max")) { "s" } else { "" };
    let name = format!("{}{signed}", name.ok_or("this reduction is not known")?);
    let place = Access::OPERATIONS.iter().position(|known| *known == name);
    place.and_then(|place| u32::try_from(place).ok()).ok_or_else(|| "this reduction is not known".into())
}
