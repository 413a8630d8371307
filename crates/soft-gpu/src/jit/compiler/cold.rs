//! Ways out of the hot path.
//!
//! The checks in front of accesses call helpers that hardly ever run. A call that keeps no register would make the code
//! around it keep its values on the stack, so these go by a way that keeps all of them.

use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, Signature, Type, UserFuncName, types};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_codegen::{Context, control::ControlPlane};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use crate::error::CompileError;
use crate::jit::code::Code;
use crate::jit::helpers;

/// Calls to helpers that keep all registers.
pub(crate) struct ColdCalls {
    judge: Code,
    fault: Code,
}

impl ColdCalls {
    pub(super) fn new(isa: &dyn TargetIsa) -> Result<ColdCalls, CompileError> {
        Ok(ColdCalls {
            judge: keeping(isa, helpers::judge as *const () as usize, &JUDGE)?,
            fault: keeping(isa, helpers::fault as *const () as usize, &FAULT)?,
        })
    }

    /// Address and arguments of [`helpers::judge`].
    pub(super) fn judge(&self) -> (usize, &'static [Type]) {
        (self.judge.address(), &JUDGE)
    }

    /// Address and arguments of [`helpers::fault`].
    pub(super) fn fault(&self) -> (usize, &'static [Type]) {
        (self.fault.address(), &FAULT)
    }
}

const JUDGE: [Type; 3] = [types::I64, types::I64, types::I64];
const FAULT: [Type; 2] = [types::I64, types::I32];

/// How such a call looks from the code that makes it.
pub(super) fn signature(convention: CallConv, arguments: &[Type]) -> Signature {
    let mut signature = Signature::new(convention);
    signature.params = arguments.iter().map(|&ty| AbiParam::new(ty)).collect();
    signature
}

/// A function that calls `helper` and keeps all registers.
fn keeping(isa: &dyn TargetIsa, helper: usize, arguments: &[Type]) -> Result<Code, CompileError> {
    let name = UserFuncName::user(1, 0);
    let mut function = Function::with_name_signature(name, signature(CallConv::PreserveAll, arguments));
    let mut builder_context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut builder_context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let values = b.block_params(entry).to_vec();
    let address = b.ins().iconst(types::I64, helper.cast_signed() as i64);
    let called = b.import_signature(signature(CallConv::SystemV, arguments));
    b.ins().call_indirect(called, address, &values);
    b.ins().return_(&[]);
    b.finalize(isa.frontend_config());
    let mut context = Context::for_function(function);
    let compiled = context
        .compile(isa, &mut ControlPlane::default())
        .map_err(|error| CompileError::host(format!("{:?}", error.inner)))?;
    Code::install(compiled.code_buffer()).map_err(|error| CompileError::host(error.to_string()))
}
