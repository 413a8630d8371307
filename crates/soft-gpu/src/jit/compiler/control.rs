//! Branches, calls and ends.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, Block, InstBuilder, MemFlagsData, Signature, Value, types};
use cranelift_codegen::isa::CallConv;
use cuda_types::CuError;
use ptx::Operand;
use ptx::ast::Name;

use super::translator::{Done, Op, Place, Translator};
use crate::image::{Builtin, FunctionId, Symbol};
use crate::jit::helpers;

impl<'a> Translator<'a, '_> {
    fn label(&self, operand: &Operand) -> Result<Block, String> {
        match operand {
            Operand::Name(name, 0) => match self.body.names[*name as usize] {
                Name::Label(label) => Ok(self.labels[label as usize]),
                _ => Err("the target is no label".into()),
            },
            _ => Err("the target is no label".into()),
        }
    }

    /// A back edge around something that another thread must do: lets others run.
    fn let_others_run(&mut self) {
        if self.closes_spin() {
            self.helper(helpers::spin as *const () as usize, &[self.ctx], None);
        }
    }

    pub(super) fn branch(&mut self, op: &Op<'a>) -> Done {
        let target = self.label(op.operand(0)?)?;
        self.let_others_run();
        self.b.ins().jump(target, &[]);
        self.end_block();
        Ok(())
    }

    pub(super) fn branch_if(&mut self, op: &Op<'a>, condition: Value, negated: bool) -> Done {
        let target = self.label(op.operand(0)?)?;
        let next = self.b.create_block();
        let taken = if self.closes_spin() { self.b.create_block() } else { target };
        let (then, otherwise) = if negated { (next, taken) } else { (taken, next) };
        self.b.ins().brif(condition, then, &[], otherwise, &[]);
        if taken != target {
            self.b.switch_to_block(taken);
            self.b.seal_block(taken);
            self.let_others_run();
            self.b.ins().jump(target, &[]);
        }
        self.b.switch_to_block(next);
        self.b.seal_block(next);
        Ok(())
    }

    /// `brx.idx %r, targets`: an index beyond the list is undefined; it takes the last one here.
    pub(super) fn branch_indexed(&mut self, op: &Op<'a>) -> Done {
        let index = self.read_at(op, 0, types::I32)?;
        let Operand::Name(name, _) = op.operand(1)? else {
            return Err("a list of targets is expected".into());
        };
        let Name::Targets(list) = self.body.names[*name as usize] else {
            return Err("a list of targets is expected".into());
        };
        let targets = &self.body.branch_targets[list as usize];
        for (place, target) in (0_i64..).zip(targets) {
            let target = self.label(&Operand::Name(*target, 0))?;
            let last = usize::try_from(place + 1) == Ok(targets.len());
            if last {
                self.b.ins().jump(target, &[]);
            } else {
                let next = self.b.create_block();
                let this = self.b.ins().icmp_imm_u(IntCC::Equal, index, place);
                self.b.ins().brif(this, target, &[], next, &[]);
                self.b.switch_to_block(next);
                self.b.seal_block(next);
            }
        }
        self.end_block();
        Ok(())
    }

    /// No way leads on from here, until a label.
    fn end_block(&mut self) {
        self.terminated = true;
    }

    /// `ret` and `exit`: the end of the function; for `exit` of a callee, of the thread.
    pub(super) fn leave_function(&mut self, op: &Op<'a>) -> Done {
        if op.opcode.name() == "exit" && self.id != self.unit.kernel {
            self.helper(helpers::exit as *const () as usize, &[self.ctx], None);
        }
        self.b.ins().jump(self.leave, &[]);
        self.end_block();
        Ok(())
    }

    pub(super) fn trap(&mut self, op: &Op<'a>) -> Done {
        if op.opcode.name() == "brkpt" {
            // No debugger is attached.
            return Ok(());
        }
        self.fault(CuError::LAUNCH_FAILED.0);
        Ok(())
    }

    pub(super) fn nanosleep(&mut self) -> Done {
        self.helper(helpers::spin as *const () as usize, &[self.ctx], None);
        Ok(())
    }

    /// `call (returns), function, (parameters){, prototype}`: values travel by the address of their place.
    pub(super) fn call(&mut self, op: &Op<'a>) -> Done {
        let target = op.operands.iter().position(|operand| !matches!(operand, Operand::List(_)));
        let target = target.ok_or("the function is missing")?;
        let list = |at: Option<usize>| match at.and_then(|at| op.operands.get(at)) {
            Some(Operand::List(items)) => items.as_slice(),
            _ => &[],
        };
        let (returns, params) = (list(target.checked_sub(1)), list(Some(target + 1)));
        let mut addresses = Vec::with_capacity(returns.len() + params.len());
        for item in returns.iter().chain(params) {
            addresses.push(self.place_of(item)?);
        }
        // A callee may write to its parameters.
        for (item, address) in params.iter().zip(&mut addresses[returns.len()..]) {
            if let Operand::Variable(variable, 0) = item
                && let Some((_, ty)) = self.register_parameter(*variable)
            {
                let value = self.read(item, ty)?;
                *address = self.stack_slot(16, 16);
                self.b.ins().store(MemFlagsData::trusted(), value, *address, 0);
            }
        }
        self.checked.clear();
        let done = match &op.operands[target] {
            Operand::Name(name, _) => self.call_by_name(*name, &addresses, returns.len()),
            register => {
                let token = self.read(register, types::I64)?;
                self.call_by_token(token, &addresses)
            }
        };
        done?;
        // Return parameters that are registers come back from their places.
        for (item, &address) in returns.iter().zip(&addresses) {
            if let Operand::Register(register) = item {
                let ty = self.registers[*register as usize].1;
                let value = self.b.ins().load(ty, MemFlagsData::trusted(), address, 0);
                self.write_as(item, value, false)?;
            }
        }
        Ok(())
    }

    /// The address of a parameter's place; a register or constant gets one.
    fn place_of(&mut self, item: &Operand) -> Result<Value, String> {
        match item {
            Operand::Variable(variable, 0) => match self.places[*variable as usize] {
                Place::Address(address) => Ok(address),
                Place::Shared(_) => Err("a shared variable cannot be passed".into()),
            },
            Operand::Register(register) => {
                let ty = self.registers[*register as usize].1;
                let slot = self.stack_slot(16, 16);
                let value = self.read(item, ty)?;
                self.b.ins().store(MemFlagsData::trusted(), value, slot, 0);
                Ok(slot)
            }
            _ => {
                let slot = self.stack_slot(16, 16);
                let value = self.read(item, types::I64)?;
                self.b.ins().store(MemFlagsData::trusted(), value, slot, 0);
                Ok(slot)
            }
        }
    }

    fn call_by_name(&mut self, name: u32, addresses: &[Value], returns: usize) -> Done {
        let Name::Symbol(symbol) = &self.body.names[name as usize] else {
            return Err("what is called is no function".into());
        };
        match self.unit.image.symbol(self.id.text, symbol) {
            Some(Symbol::Function(function)) => {
                self.call_function(function, addresses);
                Ok(())
            }
            Some(Symbol::Builtin(builtin)) => self.call_builtin(builtin, addresses, returns),
            Some(_) => Err(format!("{symbol} is no function")),
            None => Err(format!("nothing defines {symbol}")),
        }
    }

    fn call_function(&mut self, function: FunctionId, addresses: &[Value]) {
        let slot = self.table.slot_address(self.unit.slots[&function]);
        let slot = self.constant(types::I64, slot as u64);
        let code = self.b.ins().load(types::I64, MemFlagsData::trusted(), slot, 0);
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.extend((0..=addresses.len()).map(|_| AbiParam::new(types::I64)));
        let signature = self.b.import_signature(signature);
        let mut arguments = vec![self.ctx];
        arguments.extend(addresses);
        self.b.ins().call_indirect(signature, code, &arguments);
    }

    /// A call through a pointer: one of the unit's functions with as many parameters.
    fn call_by_token(&mut self, token: Value, addresses: &[Value]) -> Done {
        let done = self.b.create_block();
        for &function in &self.unit.functions {
            let declared = self.unit.image.function(function);
            if declared.is_kernel || declared.returns.len() + declared.params.len() != addresses.len() {
                continue;
            }
            let (this, next) = (self.b.create_block(), self.b.create_block());
            let wanted = self.constant(types::I64, function.token());
            let same = self.b.ins().icmp(IntCC::Equal, token, wanted);
            self.b.ins().brif(same, this, &[], next, &[]);
            self.b.switch_to_block(this);
            self.b.seal_block(this);
            self.call_function(function, addresses);
            self.b.ins().jump(done, &[]);
            self.b.switch_to_block(next);
            self.b.seal_block(next);
        }
        let code = self.constant(types::I32, u64::from(CuError::INVALID_PC.0));
        self.helper(helpers::fault as *const () as usize, &[self.ctx, code], None);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        Ok(())
    }

    fn call_builtin(&mut self, builtin: Builtin, addresses: &[Value], returns: usize) -> Done {
        let wanted = match builtin {
            Builtin::Vprintf => 2,
            Builtin::AssertFail => 5,
            Builtin::Malloc | Builtin::Free => 1,
        };
        if addresses.len() < returns + wanted {
            return Err("a parameter is missing".into());
        }
        let argument = |this: &mut Self, index: usize, ty| {
            this.b.ins().load(ty, MemFlagsData::trusted(), addresses[returns + index], 0)
        };
        let result = match builtin {
            Builtin::Vprintf => {
                let (format, list) = (argument(self, 0, types::I64), argument(self, 1, types::I64));
                self.helper(
                    helpers::vprintf as *const () as usize,
                    &[self.ctx, format, list],
                    Some(types::I32),
                )
            }
            Builtin::AssertFail => {
                let (message, file) = (argument(self, 0, types::I64), argument(self, 1, types::I64));
                let (line, function) = (argument(self, 2, types::I32), argument(self, 3, types::I64));
                let arguments = [self.ctx, message, file, line, function];
                self.helper(helpers::assert_fail as *const () as usize, &arguments, None)
            }
            Builtin::Malloc => {
                let bytes = argument(self, 0, types::I64);
                self.helper(helpers::malloc as *const () as usize, &[self.ctx, bytes], Some(types::I64))
            }
            Builtin::Free => {
                let address = argument(self, 0, types::I64);
                self.helper(helpers::free as *const () as usize, &[self.ctx, address], None)
            }
        };
        if let (Some(value), Some(&place)) = (result, addresses.first().filter(|_| returns > 0)) {
            self.b.ins().store(MemFlagsData::trusted(), value, place, 0);
        }
        Ok(())
    }
}
