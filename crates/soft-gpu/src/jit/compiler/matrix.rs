//! Products of matrices: `mma`, `wmma`, `ldmatrix`, `stmatrix`, `movmatrix`.
//!
//! Registers of a lane travel in a packet on its stack; the warp meets, and the scheduler does the rest. Memory is
//! accessed here, by each lane for itself, so that checks and faults are those of every other access.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use ptx::Operand;

use super::memory::Target;
use super::translator::{Done, Op, Translator};
use crate::jit::context::{ThreadContext, WarpOp};
use crate::jit::fragment::{A_COLUMNS, AND, B_ROWS, Element, Part, SATURATE, Shape, WMMA};
use crate::jit::matrix::{Exchange, PACKET_WORDS};

/// Where a `wmma` access finds its matrix.
struct Matrix {
    shape: Shape,
    part: Part,
    element: Element,
    target: Target,
    base: Value,
    offset: i64,
    /// Elements from one row to the next, or from column to column.
    stride: Value,
    by_rows: bool,
}

impl<'a> Translator<'a, '_> {
    /// `mma.sync.aligned.shape.alayout.blayout.dtype.atype.btype.ctype d, a, b, c`
    pub(super) fn mma(&mut self, op: &Op<'a>) -> Done {
        if op.opcode.parts.iter().any(|part| part.starts_with("sp") || part.starts_with("kind")) {
            return Err("sparse and scaled products of matrices are not supported".into());
        }
        let [d, a, b, c] = elements(op)[..] else { return Err("four types are expected".into()) };
        let mut shape = self.matrix_shape(op, [a, b, c, d])?;
        if shape.is_quad_pairs() {
            let layouts: Vec<&str> = op
                .opcode
                .parts
                .iter()
                .map(|part| &**part)
                .filter(|part| ["row", "col"].contains(part))
                .collect();
            shape.flags |= if layouts.first() == Some(&"col") { A_COLUMNS } else { 0 };
            shape.flags |= if layouts.get(1) == Some(&"row") { B_ROWS } else { 0 };
        }
        self.product(op, shape)
    }

    /// `wmma.load`, `wmma.store` and `wmma.mma`.
    pub(super) fn wmma(&mut self, op: &Op<'a>) -> Done {
        if op.has("mma") {
            let [a, b, c, d] = match elements(op)[..] {
                [d, c] if d != Element::S32 => [Element::F16, Element::F16, c, d],
                [d, a, b, c] => [a, b, c, d],
                _ => return Err("the types are not known".into()),
            };
            let mut shape = self.matrix_shape(op, [a, b, c, d])?;
            shape.flags |= WMMA;
            return self.product(op, shape);
        }
        let [element] = elements(op)[..] else { return Err("one type is expected".into()) };
        let part = if op.has("a") {
            Part::A
        } else if op.has("b") {
            Part::B
        } else {
            Part::Accumulator
        };
        let mut shape = self.matrix_shape(op, [element; 4])?;
        shape.flags |= WMMA;
        let store = op.has("store");
        let (base, offset) = self.address(op.operand(usize::from(!store))?)?;
        let by_rows = op.has("row");
        let stride = match op.operand(2) {
            Ok(operand) => self.read(operand, types::I32)?,
            Err(_) => {
                let extent = match (part, by_rows) {
                    (Part::A, true) | (Part::B, false) => shape.k,
                    (Part::A, false) | (Part::Accumulator, false) => shape.m,
                    _ => shape.n,
                };
                self.constant(types::I32, u64::from(extent))
            }
        };
        let stride = self.b.ins().uextend(types::I64, stride);
        let matrix = Matrix { shape, part, element, target: Target::of(op), base, offset, stride, by_rows };
        // The warp goes together, so that what its lanes stored before is there.
        self.whole_warp(WarpOp::Sync, None);
        if store { self.store_fragment(op, &matrix) } else { self.load_fragment(op, &matrix) }
    }

    fn matrix_shape(&self, op: &Op<'a>, [a, b, c, d]: [Element; 4]) -> Result<Shape, String> {
        if ["rz", "rm", "rp"].iter().any(|mode| op.has(mode)) {
            return Err("directed rounding of products of matrices is not supported".into());
        }
        let extents = op.opcode.parts.iter().find_map(|part| {
            let rest = part.strip_prefix('m')?;
            let (m, rest) = rest.split_once('n')?;
            let (n, k) = rest.split_once('k')?;
            Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
        });
        let [m, n, k]: [u32; 3] = extents.ok_or("the shape is not known")?;
        let flags = if op.has("satfinite") { SATURATE } else { 0 } | if op.has("and") { AND } else { 0 };
        let shape = Shape { m, n, k, a, b, c, d, flags };
        let extents = [m, n].iter().all(|extent| [8, 16, 32].contains(extent));
        let cells = k.is_multiple_of(4 * a.packed()) || shape.is_quad_pairs();
        if !extents || k > 256 || !cells || a.bits() != b.bits() || c.is_integer() != a.is_integer() {
            return Err("this shape is not supported".into());
        }
        Ok(shape)
    }

    fn product(&mut self, op: &Op<'a>, shape: Shape) -> Done {
        let mut values = Vec::new();
        let wanted = [(Part::A, shape.a), (Part::B, shape.b), (Part::Accumulator, shape.c)];
        for (at, (part, element)) in (1..).zip(wanted) {
            let items = registers(op.operand(at)?);
            if items.len() != shape.registers(part, element) as usize {
                return Err(format!("operand {at} has {} registers", items.len()));
            }
            let ty = if element == Element::F64 { types::I64 } else { types::I32 };
            for item in items {
                values.push(self.read(item, ty)?);
            }
        }
        let targets = registers(op.operand(0)?);
        if targets.len() != shape.registers(Part::Accumulator, shape.d) as usize {
            return Err(format!("the result has {} registers", targets.len()));
        }
        let packet = self.trade(Exchange::Product(shape), &values)?;
        self.take_results(targets, packet, shape.d == Element::F64)
    }

    /// Lays values into a packet and meets the warp; answers the packet's address.
    fn trade(&mut self, exchange: Exchange, values: &[Value]) -> Result<Value, String> {
        if values.len() > PACKET_WORDS {
            return Err("too many registers".into());
        }
        let packet = self.stack_slot(8 * PACKET_WORDS as u64, 8);
        for (at, &value) in (0..).step_by(8).zip(values) {
            let value = self.coerce(value, types::I64, false);
            self.b.ins().store(MemFlagsData::trusted(), value, packet, at);
        }
        self.whole_warp(WarpOp::Matrix, Some((packet, exchange.code())));
        Ok(packet)
    }

    fn whole_warp(&mut self, operation: WarpOp, packet: Option<(Value, u64)>) {
        let all = self.constant(types::I32, 0xffff_ffff);
        let zero = self.constant(types::I64, 0);
        let (value, code) = packet.unwrap_or((zero, 0));
        let (low, high) = (self.constant(types::I32, code), self.constant(types::I32, code >> 32));
        self.b.ins().fence();
        self.warp(operation, all, value, Some(low), Some(high));
        self.b.ins().fence();
    }

    fn take_results(&mut self, targets: &[Operand], packet: Value, double: bool) -> Done {
        let ty = if double { types::I64 } else { types::I32 };
        for (at, target) in (0..).step_by(8).zip(targets) {
            // Not a trusted access: what is read was written behind the compiler's back.
            let value = self.b.ins().load(ty, MemFlagsData::new(), packet, at);
            self.write_as(target, value, false)?;
        }
        Ok(())
    }

    /// `lane / 4` and `lane % 4`, in 64 bits.
    fn group_and_thread(&mut self) -> (Value, Value) {
        let lane = self.field(types::I32, offset_of!(ThreadContext, lane));
        let lane = self.b.ins().uextend(types::I64, lane);
        (self.b.ins().ushr_imm_u(lane, 2), self.b.ins().band_imm_u(lane, 3))
    }

    /// The checked address of an element of the lane's fragment, and the bytes accessed there.
    fn element_address(&mut self, matrix: &Matrix, index: u32, bytes: u32) -> Value {
        let (along, across) = matrix.shape.offset(matrix.part, matrix.element, index);
        let (group, thread) = self.group_and_thread();
        let run = i64::from(Shape::run(matrix.part, matrix.element));
        let along_value = self.b.ins().imul_imm_s(thread, run);
        let along_value = self.b.ins().iadd_imm_s(along_value, i64::from(along));
        let across_value = self.b.ins().iadd_imm_s(group, i64::from(across));
        // Along runs over columns for A and accumulators, over rows for B.
        let along_is_near = (matrix.part == Part::B) != matrix.by_rows;
        let (near, far) =
            if along_is_near { (along_value, across_value) } else { (across_value, along_value) };
        let far = self.b.ins().imul(far, matrix.stride);
        let place = self.b.ins().iadd(far, near);
        let bits = i64::from(matrix.element.bits());
        let place = self.b.ins().imul_imm_s(place, bits);
        let place = self.b.ins().ushr_imm_u(place, 3);
        let address = self.b.ins().iadd(matrix.base, place);
        self.checked(matrix.target, address, matrix.offset, bytes)
    }

    /// Elements that one access moves: a register's worth where they are neighbours in memory.
    fn elements_at_once(matrix: &Matrix) -> Result<u32, String> {
        let packed = matrix.element.packed();
        if matrix.part != Part::Accumulator && (matrix.part == Part::B) != matrix.by_rows {
            return Ok(packed);
        }
        if matrix.element.bits() < 8 { Err("this layout is not supported".into()) } else { Ok(1) }
    }

    fn load_fragment(&mut self, op: &Op<'a>, matrix: &Matrix) -> Done {
        let targets = registers(op.operand(0)?);
        let (shape, element) = (matrix.shape, matrix.element);
        if targets.len() != shape.registers(matrix.part, element) as usize {
            return Err(format!("the fragment has {} registers", targets.len()));
        }
        let ty = if element == Element::F64 { types::I64 } else { types::I32 };
        let distinct = shape.distinct(matrix.part, element);
        let (packed, at_once) = (element.packed(), Self::elements_at_once(matrix)?);
        let mut words = Vec::with_capacity(distinct as usize);
        for register in 0..distinct {
            let mut word = None;
            for piece in (0..packed).step_by(at_once as usize) {
                let bytes = element.bits() * at_once / 8;
                let address = self.element_address(matrix, register * packed + piece, bytes);
                let value = match bytes {
                    1 => self.b.ins().load(types::I8, MemFlagsData::new(), address, 0),
                    2 => self.b.ins().load(types::I16, MemFlagsData::new(), address, 0),
                    _ => self.b.ins().load(ty, MemFlagsData::new(), address, 0),
                };
                let value = self.coerce(value, ty, false);
                let value = self.b.ins().ishl_imm_u(value, i64::from(piece * element.bits()));
                word = Some(word.map_or(value, |word| self.b.ins().bor(word, value)));
            }
            words.push(word.ok_or("an empty register")?);
        }
        for (target, &word) in targets.iter().zip(words.iter().cycle()) {
            self.write_as(target, word, false)?;
        }
        Ok(())
    }

    fn store_fragment(&mut self, op: &Op<'a>, matrix: &Matrix) -> Done {
        let (shape, element) = (matrix.shape, matrix.element);
        let sources = registers(op.operand(1)?);
        if sources.len() != shape.registers(matrix.part, element) as usize {
            return Err(format!("the fragment has {} registers", sources.len()));
        }
        let ty = if element == Element::F64 { types::I64 } else { types::I32 };
        for (register, source) in (0..).zip(sources) {
            let word = self.read(source, ty)?;
            for piece in 0..element.packed() {
                let bytes = element.bits() / 8;
                let address = self.element_address(matrix, register * element.packed() + piece, bytes);
                let value = self.b.ins().ushr_imm_u(word, i64::from(piece * element.bits()));
                let value = if bytes == 2 { self.b.ins().ireduce(types::I16, value) } else { value };
                self.b.ins().store(MemFlagsData::new(), value, address, 0);
            }
        }
        Ok(())
    }

    /// `ldmatrix`: lane `8j + r` names the address of row `r` of matrix `j`.
    pub(super) fn load_matrix(&mut self, op: &Op<'a>) -> Done {
        let targets = registers(op.operand(0)?);
        let count = Self::matrices(op, targets.len())?;
        let (base, offset) = self.address(op.operand(1)?)?;
        let packet = self.stack_slot(8 * PACKET_WORDS as u64, 8);
        let done = self.where_lane_has_a_row(count);
        let row = self.checked(Target::of(op), base, offset, 16);
        for word in 0..4 {
            let value = self.b.ins().load(types::I32, MemFlagsData::new(), row, 4 * word);
            let value = self.b.ins().uextend(types::I64, value);
            self.b.ins().store(MemFlagsData::trusted(), value, packet, 8 * word);
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        self.checked.clear();
        let exchange = Exchange::LoadRows { transposed: op.has("trans") };
        self.whole_warp(WarpOp::Matrix, Some((packet, exchange.code())));
        self.take_results(targets, packet, false)
    }

    /// `stmatrix`: the reverse.
    pub(super) fn store_matrix(&mut self, op: &Op<'a>) -> Done {
        let sources = registers(op.operand(1)?);
        let count = Self::matrices(op, sources.len())?;
        let values = sources.iter().map(|item| self.read(item, types::I32)).collect::<Result<Vec<_>, _>>()?;
        let packet = self.trade(Exchange::StoreRows { transposed: op.has("trans") }, &values)?;
        let (base, offset) = self.address(op.operand(0)?)?;
        let done = self.where_lane_has_a_row(count);
        let row = self.checked(Target::of(op), base, offset, 16);
        for word in 0..4 {
            let value = self.b.ins().load(types::I32, MemFlagsData::new(), packet, 8 * word);
            self.b.ins().store(MemFlagsData::new(), value, row, 4 * word);
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        self.checked.clear();
        Ok(())
    }

    fn matrices(op: &Op<'a>, registers: usize) -> Result<usize, String> {
        let counts = [("x1", 1), ("x2", 2), ("x4", 4)];
        let count = counts.into_iter().find(|(name, _)| op.has(name)).map(|(_, count)| count);
        match count {
            Some(count) if op.has("m8n8") && op.has("b16") && registers == count => Ok(count),
            _ => Err("only matrices of 8 by 8 with elements of 16 bits are supported".into()),
        }
    }

    /// Goes on in a block for the lanes that name a row; answers the block where all meet again.
    fn where_lane_has_a_row(&mut self, matrices: usize) -> cranelift_codegen::ir::Block {
        let lane = self.field(types::I32, offset_of!(ThreadContext, lane));
        let rows = i64::try_from(8 * matrices).unwrap_or(32);
        let takes_part = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, lane, rows);
        let (row, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(takes_part, row, &[], done, &[]);
        self.b.switch_to_block(row);
        self.b.seal_block(row);
        done
    }

    /// `movmatrix.sync.aligned.m8n8.trans.b16 d, a`
    pub(super) fn move_matrix(&mut self, op: &Op<'a>) -> Done {
        let value = self.read_at(op, 1, types::I32)?;
        let packet = self.trade(Exchange::Transpose, &[value])?;
        self.take_results(std::slice::from_ref(op.operand(0)?), packet, false)
    }
}

fn elements(op: &Op<'_>) -> Vec<Element> {
    op.opcode.parts[1..].iter().filter_map(|part| Element::parse(part)).collect()
}

/// The registers of a fragment: in braces, or one alone.
fn registers(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(items) => items,
        one => std::slice::from_ref(one),
    }
}
