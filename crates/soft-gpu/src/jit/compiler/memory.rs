//! Loads, stores and the checks in front of them.
//!
//! A global or generic access costs one test of window and alignment on the fast side; what fails it goes to a helper,
//! which knows the other places that a thread may access. A shared address is an offset that is checked against the
//! block's shared memory. Inside the window, pages without an allocation are inaccessible: the processor finds those.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};
use cuda_types::CuError;
use ptx::{Operand, ScalarType};

use super::translator::{Done, Op, Place, Translator, clif_type};
use crate::jit::context::ThreadContext;
use crate::jit::helpers;

/// Where an access goes, by its opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Global,
    Generic,
    Shared,
    Local,
    /// Parameters: of the kernel, or of a call on the caller's stack.
    Param,
}

impl Target {
    pub(super) fn of(op: &Op<'_>) -> Target {
        if op.has("shared") || op.has("shared::cta") || op.has("shared::cluster") {
            Target::Shared
        } else if op.has("global") || op.has("const") {
            Target::Global
        } else if op.has("local") {
            Target::Local
        } else if op.has("param") || op.has("param::entry") || op.has("param::func") {
            Target::Param
        } else {
            Target::Generic
        }
    }
}

/// Accesses at most this far from one that was checked need no check of their own.
const NEAR_BYTES: i64 = 4096;

impl<'a> Translator<'a, '_> {
    /// The address in brackets, as 64 bits, and whether it is a shared variable of this kernel by name.
    pub(super) fn address(&mut self, operand: &Operand) -> Result<(Value, i64), String> {
        let Operand::Address(items, offset) = operand else { return Err("an address is expected".into()) };
        let [item] = items.as_slice() else { return Err("the address has a strange form".into()) };
        let base = match item {
            // A 32-bit register holds a shared or local address.
            Operand::Register(register) => self.register(*register, types::I64),
            Operand::Variable(variable, more) if self.register_parameter(*variable).is_none() => {
                let value = match self.places[*variable as usize] {
                    Place::Address(address) => address,
                    Place::Shared(base) => self.constant(types::I64, u64::from(base)),
                };
                return Ok((value, offset + more));
            }
            other => self.read(other, types::I64)?,
        };
        Ok((base, *offset))
    }

    /// The host address of an access of `bytes` bytes, checked.
    pub(super) fn checked(&mut self, target: Target, base: Value, offset: i64, bytes: u32) -> Value {
        if self.part.as_ref().is_some_and(|part| part.unchecked.contains(&self.statement)) {
            let address = self.b.ins().iadd_imm_s(base, offset);
            if target != Target::Shared {
                return address;
            }
            let arena = self.field(types::I64, offset_of!(ThreadContext, shared_base));
            return self.b.ins().iadd(arena, address);
        }
        match target {
            Target::Param => self.b.ins().iadd_imm_s(base, offset),
            Target::Shared => self.checked_shared(base, offset, bytes),
            Target::Local => self.checked_local(base, offset, bytes),
            Target::Global | Target::Generic => self.checked_global(target, base, offset, bytes),
        }
    }

    fn checked_global(&mut self, target: Target, base: Value, offset: i64, bytes: u32) -> Value {
        let address = if offset == 0 { base } else { self.b.ins().iadd_imm_s(base, offset) };
        if self.limits.check {
            let generic = if target == Target::Generic { 0x1_0000 } else { 0 };
            let shape = self.constant(types::I64, u64::from(bytes) | generic);
            self.helper(helpers::inspect as *const () as usize, &[self.ctx, address, shape], None);
            return address;
        }
        let key = (base, bytes);
        if let Some(&near) = self.checked.get(&key)
            && (offset - near).abs() <= NEAR_BYTES
            && (offset - near) % i64::from(bytes) == 0
        {
            return address;
        }
        self.checked.insert(key, offset);
        let window = self.constant(types::I64, self.limits.window_base);
        let inside = self.b.ins().isub(address, window);
        let shift = bytes.trailing_zeros();
        let (turned, bound) = if shift == 0 {
            (inside, self.limits.window_bytes)
        } else {
            (self.b.ins().rotr_imm_u(inside, i64::from(shift)), self.limits.window_bytes >> shift)
        };
        let bound = self.constant(types::I64, bound);
        let good = self.b.ins().icmp(IntCC::UnsignedLessThan, turned, bound);
        let (elsewhere, cold, go_on) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(cold);
        self.b.ins().brif(good, go_on, &[], elsewhere, &[]);
        self.b.switch_to_block(elsewhere);
        self.b.seal_block(elsewhere);
        let known = self.is_known_place(target, address, bytes);
        self.b.ins().brif(known, go_on, &[], cold, &[]);
        self.b.switch_to_block(cold);
        self.b.seal_block(cold);
        let generic = if target == Target::Generic { 0x1_0000 } else { 0 };
        let shape = self.constant(types::I64, u64::from(bytes) | generic);
        self.judge(address, shape);
        self.b.ins().jump(go_on, &[]);
        self.b.switch_to_block(go_on);
        self.b.seal_block(go_on);
        address
    }

    /// Whether an aligned access lies outside the window where many do: in constants and module variables, or through a
    /// generic address in shared or local memory. What is left is judged by a call.
    fn is_known_place(&mut self, target: Target, address: Value, bytes: u32) -> Value {
        let arena = self.constant(types::I64, self.limits.arena_base);
        let mut places = vec![(arena, self.constant(types::I64, self.limits.arena_bytes))];
        // The memory of blocks and threads begins at multiples of 16.
        if target == Target::Generic && bytes <= 16 {
            let shared = self.field(types::I64, offset_of!(ThreadContext, shared_base));
            let extent = self.field(types::I32, offset_of!(ThreadContext, shared_bytes));
            places.push((shared, self.b.ins().uextend(types::I64, extent)));
            let extent = self.field(types::I64, offset_of!(ThreadContext, local_bytes));
            places.push((self.local_base(), extent));
        }
        let shift = i64::from(bytes.trailing_zeros());
        let mut known = None;
        for (base, extent) in places {
            let inside = self.b.ins().isub(address, base);
            let turned = self.b.ins().rotr_imm_u(inside, shift);
            let bound = self.b.ins().ushr_imm_u(extent, shift);
            let here = self.b.ins().icmp(IntCC::UnsignedLessThan, turned, bound);
            known = Some(known.map_or(here, |known| self.b.ins().bor(known, here)));
        }
        known.expect("there is at least the arena")
    }

    fn checked_shared(&mut self, base: Value, offset: i64, bytes: u32) -> Value {
        let address = if offset == 0 { base } else { self.b.ins().iadd_imm_s(base, offset) };
        // Addresses of shared memory have 32 bits wherever they are kept.
        let address = self.b.ins().band_imm_u(address, 0xffff_ffff);
        let extent = self.field(types::I32, offset_of!(ThreadContext, shared_bytes));
        let extent = self.b.ins().uextend(types::I64, extent);
        let end = self.b.ins().iadd_imm_s(address, i64::from(bytes));
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, extent);
        self.fault_if(beyond, CuError::ILLEGAL_ADDRESS);
        if bytes > 1 {
            let low = self.b.ins().band_imm_u(address, i64::from(bytes - 1));
            self.fault_if(low, CuError::MISALIGNED_ADDRESS);
        }
        let arena = self.field(types::I64, offset_of!(ThreadContext, shared_base));
        self.b.ins().iadd(arena, address)
    }

    fn checked_local(&mut self, base: Value, offset: i64, bytes: u32) -> Value {
        let address = if offset == 0 { base } else { self.b.ins().iadd_imm_s(base, offset) };
        let arena = self.local_base();
        let extent = self.field(types::I64, offset_of!(ThreadContext, local_bytes));
        let inside = self.b.ins().isub(address, arena);
        let room = self.b.ins().iadd_imm_s(extent, 1 - i64::from(bytes));
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, inside, room);
        self.fault_if(beyond, CuError::ILLEGAL_ADDRESS);
        if bytes > 1 {
            let low = self.b.ins().band_imm_u(address, i64::from(bytes - 1));
            self.fault_if(low, CuError::MISALIGNED_ADDRESS);
        }
        address
    }

    /// Ends the thread with a fault where the condition is not zero.
    pub(super) fn fault_if(&mut self, condition: Value, error: CuError) {
        let (cold, go_on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(cold);
        self.b.ins().brif(condition, cold, &[], go_on, &[]);
        self.b.switch_to_block(cold);
        self.b.seal_block(cold);
        self.fault_cold(error.0);
        self.b.ins().jump(go_on, &[]);
        self.b.switch_to_block(go_on);
        self.b.seal_block(go_on);
    }

    /// How many elements a vector access has, and the width of the whole.
    fn shape(op: &Op<'a>) -> Result<(ScalarType, u32), String> {
        let ty = op.ty()?;
        let count = if op.has("v2") {
            2
        } else if op.has("v4") {
            4
        } else if op.has("v8") {
            8
        } else {
            1
        };
        Ok((ty, count))
    }

    pub(super) fn load(&mut self, op: &Op<'a>) -> Done {
        let (ty, count) = Self::shape(op)?;
        let target = Target::of(op);
        let (base, offset) = self.address(op.operand(1)?)?;
        let address = self.checked(target, base, offset, ty.bytes() * count);
        let clif = clif_type(ty);
        let strong = self.is_strong(op, target);
        // Nobody writes a kernel's parameters while it runs.
        let constant = target == Target::Param && self.is_kernel_parameter(op.operand(1)?);
        let flags = if constant {
            MemFlagsData::trusted().with_readonly().with_can_move()
        } else {
            MemFlagsData::new()
        };
        let mut values = Vec::with_capacity(count as usize);
        for index in 0..count {
            let at = i64::from(index * ty.bytes());
            values.push(if strong && clif.bits() <= 64 {
                let place = self.b.ins().iadd_imm_s(address, at);
                let bits = self.b.ins().atomic_load(clif.as_int(), MemFlagsData::new(), place);
                self.coerce(bits, clif, false)
            } else {
                let at = i32::try_from(at).expect("at most 64");
                self.b.ins().load(clif, flags, address, at)
            });
        }
        self.keep_in_step(op, target);
        match op.operand(0)? {
            Operand::Vector(parts) => {
                if parts.len() != values.len() {
                    return Err("the vector has another length than the opcode says".into());
                }
                for (part, value) in parts.iter().zip(values) {
                    self.write_as(part, value, ty.is_signed())?;
                }
                Ok(())
            }
            single => self.write_as(single, values[0], ty.is_signed()),
        }
    }

    /// Whether others may see the access, or change what it sees, while the code runs on. Threads of regions share their
    /// CPU thread with all who share their block's memory, and a fence would cost them more than all the rest.
    fn is_strong(&self, op: &Op<'a>, target: Target) -> bool {
        let private = target == Target::Param || target == Target::Shared && self.part.is_some();
        !private && is_strong(op)
    }

    /// Whether an address is a parameter of this kernel by name.
    fn is_kernel_parameter(&self, operand: &Operand) -> bool {
        let Operand::Address(items, _) = operand else { return false };
        self.id == self.unit.kernel
            && matches!(items.as_slice(), [Operand::Variable(variable, _)]
                if (*variable as usize) < self.function.params.len())
    }

    pub(super) fn store(&mut self, op: &Op<'a>) -> Done {
        let (ty, count) = Self::shape(op)?;
        let target = Target::of(op);
        let clif = clif_type(ty);
        let values: Vec<Value> = match op.operand(1)? {
            Operand::Vector(parts) => {
                parts.iter().map(|part| self.read(part, clif)).collect::<Result<_, _>>()?
            }
            single => vec![self.read(single, clif)?],
        };
        if values.len() != count as usize {
            return Err("the vector has another length than the opcode says".into());
        }
        let (base, offset) = self.address(op.operand(0)?)?;
        let address = self.checked(target, base, offset, ty.bytes() * count);
        let strong = self.is_strong(op, target);
        for (index, value) in (0_u32..).zip(values) {
            let at = i64::from(index * ty.bytes());
            if strong && clif.bits() <= 64 {
                let place = self.b.ins().iadd_imm_s(address, at);
                let bits = self.coerce(value, clif.as_int(), false);
                self.b.ins().atomic_store(MemFlagsData::new(), bits, place);
            } else {
                let at = i32::try_from(at).expect("at most 64");
                self.b.ins().store(MemFlagsData::new(), value, address, at);
            }
        }
        self.keep_in_step(op, target);
        // What `st.async` stores counts for a barrier.
        if op.has("async") { self.complete(op, 2, ty.bytes() * count) } else { Ok(()) }
    }

    /// Code for lock-step warps relies on volatile shared accesses of all lanes happening together.
    fn keep_in_step(&mut self, op: &Op<'a>, target: Target) {
        if self.part.is_none() && self.unit.lock_step && target == Target::Shared && op.has("volatile") {
            self.helper(helpers::step as *const () as usize, &[self.ctx], None);
        }
    }

    /// Generic addresses of global and local memory are the addresses themselves; shared ones are the host's.
    pub(super) fn cvta(&mut self, op: &Op<'a>) -> Done {
        let mut value = self.read_at(op, 1, types::I64)?;
        if op.has("shared") || op.has("shared::cta") || op.has("shared::cluster") {
            let arena = self.field(types::I64, offset_of!(ThreadContext, shared_base));
            value =
                if op.has("to") { self.b.ins().isub(value, arena) } else { self.b.ins().iadd(value, arena) };
        }
        self.write(op, value)
    }

    pub(super) fn isspacep(&mut self, op: &Op<'a>) -> Done {
        let address = self.read_at(op, 1, types::I64)?;
        let within = |this: &mut Self, base: usize, extent: Value| {
            let local = base == offset_of!(ThreadContext, local_base);
            let base = if local { this.local_base() } else { this.field(types::I64, base) };
            let inside = this.b.ins().isub(address, base);
            this.b.ins().icmp(IntCC::UnsignedLessThan, inside, extent)
        };
        let shared_bytes = self.field(types::I32, offset_of!(ThreadContext, shared_bytes));
        let shared_bytes = self.b.ins().uextend(types::I64, shared_bytes);
        let local_bytes = self.field(types::I64, offset_of!(ThreadContext, local_bytes));
        let value = if op.has("shared") || op.has("shared::cta") || op.has("shared::cluster") {
            within(self, offset_of!(ThreadContext, shared_base), shared_bytes)
        } else if op.has("local") {
            within(self, offset_of!(ThreadContext, local_base), local_bytes)
        } else if op.has("global") {
            let shared = within(self, offset_of!(ThreadContext, shared_base), shared_bytes);
            let local = within(self, offset_of!(ThreadContext, local_base), local_bytes);
            let other = self.b.ins().bor(shared, local);
            self.b.ins().bxor_imm_u(other, 1)
        } else if op.has("const") {
            let arena = self.constant(types::I64, self.limits.arena_base);
            let inside = self.b.ins().isub(address, arena);
            let extent = self.constant(types::I64, self.limits.arena_bytes);
            self.b.ins().icmp(IntCC::UnsignedLessThan, inside, extent)
        } else if op.opcode.parts.iter().any(|part| part.starts_with("param")) {
            let extent = self.field(types::I64, offset_of!(ThreadContext, params_bytes));
            within(self, offset_of!(ThreadContext, params), extent)
        } else {
            return Err("this space is not supported".into());
        };
        self.write(op, value)
    }

    /// Where the thread's own memory begins.
    fn local_base(&mut self) -> Value {
        match &self.part {
            Some(part) => {
                let local = part.local;
                self.b.use_var(local)
            }
            None => self.field(types::I64, offset_of!(ThreadContext, local_base)),
        }
    }

    /// Room for a function's `.local` variables in the thread's arena.
    pub(super) fn open_frame(&mut self, bytes: u64) -> Value {
        if self.part.is_some() {
            // A kernel's variables come first, whichever thread it is.
            let end = self.constant(types::I64, bytes);
            self.set_field(offset_of!(ThreadContext, local_top), end);
            let base = self.local_base();
            self.set_field(offset_of!(ThreadContext, local_base), base);
            return base;
        }
        let top = self.field_now(types::I64, offset_of!(ThreadContext, local_top));
        self.local_top = Some(top);
        let end = self.b.ins().iadd_imm_s(top, bytes.cast_signed());
        let extent = self.field(types::I64, offset_of!(ThreadContext, local_bytes));
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, extent);
        self.fault_if(beyond, CuError::HARDWARE_STACK_ERROR);
        self.set_field(offset_of!(ThreadContext, local_top), end);
        let base = self.field(types::I64, offset_of!(ThreadContext, local_base));
        self.b.ins().iadd(base, top)
    }

    pub(super) fn close_frame(&mut self) {
        if let Some(top) = self.local_top {
            self.set_field(offset_of!(ThreadContext, local_top), top);
        }
    }

    /// `alloca.type p, bytes{, alignment}`: more room in the thread's arena, until the function returns.
    pub(super) fn allocate_local(&mut self, op: &Op<'a>) -> Done {
        let alignment = match op.operands.get(2) {
            Some(Operand::Int(alignment)) if alignment.is_power_of_two() => (*alignment).max(16),
            None => 16,
            Some(_) => return Err("the alignment is no constant".into()),
        };
        let bytes = self.read_at(op, 1, clif_type(op.ty()?))?;
        let bytes = self.coerce(bytes, types::I64, false);
        let top = self.field_now(types::I64, offset_of!(ThreadContext, local_top));
        let base = self.field(types::I64, offset_of!(ThreadContext, local_base));
        let start = self.b.ins().iadd(base, top);
        let start = self.b.ins().iadd_imm_s(start, alignment.cast_signed() - 1);
        let start = self.b.ins().band_imm_s(start, alignment.cast_signed().wrapping_neg());
        let end = self.b.ins().iadd(start, bytes);
        let end = self.b.ins().isub(end, base);
        let end = self.b.ins().iadd_imm_s(end, 15);
        let end = self.b.ins().band_imm_s(end, -16);
        let extent = self.field(types::I64, offset_of!(ThreadContext, local_bytes));
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, extent);
        self.fault_if(beyond, CuError::HARDWARE_STACK_ERROR);
        self.set_field(offset_of!(ThreadContext, local_top), end);
        self.write(op, start)
    }

    /// `stacksave d`: how far the arena is used.
    pub(super) fn save_stack(&mut self, op: &Op<'a>) -> Done {
        let top = self.field_now(types::I64, offset_of!(ThreadContext, local_top));
        self.write(op, top)
    }

    /// `stackrestore a`
    pub(super) fn restore_stack(&mut self, op: &Op<'a>) -> Done {
        let top = self.read_at(op, 0, types::I64)?;
        self.set_field(offset_of!(ThreadContext, local_top), top);
        Ok(())
    }

    /// The integer type of an access's width.
    pub(super) fn word(ty: ScalarType) -> Type {
        clif_type(ty).as_int()
    }
}

/// Accesses that others must see, or that must see others: never folded with another.
fn is_strong(op: &Op<'_>) -> bool {
    ["volatile", "relaxed", "acquire", "release", "mmio"].iter().any(|modifier| op.has(modifier))
}
