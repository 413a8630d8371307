//! Faults of generated code: the signal is turned into the end of the coroutine that caused it.
//!
//! The handler acts only when the fault happened on the stack of a coroutine that this thread is running; all other
//! faults go to whoever handled the signal before.

use std::cell::Cell;
use std::sync::Once;

use corosensei::trap::{CoroutineTrapHandler, TrapHandlerRegs};
use cuda_types::CuError;

use crate::jit::code;

thread_local! {
    /// The trap handler of the coroutine that this thread is running.
    static RUNNING: Cell<*const CoroutineTrapHandler<()>> = const { Cell::new(std::ptr::null()) };
    /// The `CUresult` of the fault that ended the last coroutine; 0 for none.
    static FAULT: Cell<u32> = const { Cell::new(0) };
}

/// Those of faults, and the one by which the watchdog interrupts: by default nothing happens on it.
const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, INTERRUPT];
const INTERRUPT: i32 = libc::SIGURG;
static INSTALLED: Once = Once::new();
static mut PREVIOUS: [Option<libc::sigaction>; 5] = [None; 5];

/// Runs `resume` with faults on this coroutine's stack caught; answers the fault, if there was one.
pub(super) fn catching<T>(handler: &CoroutineTrapHandler<()>, resume: impl FnOnce() -> T) -> (T, u32) {
    RUNNING.set(std::ptr::from_ref(handler));
    FAULT.set(0);
    let outcome = resume();
    RUNNING.set(std::ptr::null());
    (outcome, FAULT.get())
}

/// Installs the handler once, and an alternate stack on this thread: the coroutine's own may be the one that is full.
pub(super) fn prepare_thread() {
    INSTALLED.call_once(install);
    thread_local! {
        static STACK: Cell<bool> = const { Cell::new(false) };
    }
    if STACK.replace(true) {
        return;
    }
    // SAFETY: asks for this thread's alternate stack, and gives it one that is never freed if it has none.
    unsafe {
        let mut current: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &raw mut current);
        if current.ss_flags & libc::SS_DISABLE != 0 {
            let memory = Box::leak(vec![0_u8; 64 * 1024].into_boxed_slice());
            let wanted =
                libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
            libc::sigaltstack(&raw const wanted, std::ptr::null_mut());
        }
    }
}

/// A thread that runs generated code and has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Interruptible(libc::pthread_t);

impl Interruptible {
    /// The thread that calls.
    pub(super) fn this_thread() -> Interruptible {
        // SAFETY: asks for this thread's identifier only.
        Interruptible(unsafe { libc::pthread_self() })
    }

    /// Ends the coroutine that the thread is running, if it is in generated code right now.
    pub(super) fn interrupt(&self) {
        // SAFETY: the thread has not ended, as the type says; it has a handler for the signal.
        let _ = unsafe { libc::pthread_kill(self.0, INTERRUPT) };
    }
}

fn install() {
    for (index, signal) in SIGNALS.into_iter().enumerate() {
        // SAFETY: `on_fault` is async-signal-safe; the previous action is written before any coroutine runs.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction =
                on_fault as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            let mut previous: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, &raw const action, &raw mut previous);
            PREVIOUS[index] = Some(previous);
        }
    }
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let running = RUNNING.get();
    // SAFETY: the kernel passes the interrupted registers.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = |register: i32| usize::try_from(register).unwrap_or(0);
    let sp = usize::try_from(registers[at(libc::REG_RSP)]).unwrap_or(0);
    // Our own functions hold locks and memory; only generated code can be left anywhere.
    let pc = usize::try_from(registers[at(libc::REG_RIP)]).unwrap_or(0);
    if signal == INTERRUPT && (running.is_null() || !code::holds(pc)) {
        return;
    }
    // SAFETY: `catching` keeps the handler alive while the pointer is set, on this thread.
    if !running.is_null() && unsafe { (*running).stack_ptr_in_bounds(sp) } {
        FAULT.set(match signal {
            libc::SIGILL => CuError::ILLEGAL_INSTRUCTION.0,
            libc::SIGFPE => CuError::LAUNCH_FAILED.0,
            INTERRUPT => CuError::LAUNCH_TIMEOUT.0,
            _ => CuError::ILLEGAL_ADDRESS.0,
        });
        // SAFETY: the coroutine is the one that was interrupted; nothing with a destructor lives on its stack.
        let TrapHandlerRegs { rip, rsp, rbp, rdi, rsi } = unsafe { (*running).setup_trap_handler(|| ()) };
        for (register, value) in [
            (libc::REG_RIP, rip),
            (libc::REG_RSP, rsp),
            (libc::REG_RBP, rbp),
            (libc::REG_RDI, rdi),
            (libc::REG_RSI, rsi),
        ] {
            registers[at(register)] = value.cast_signed();
        }
        return;
    }
    pass_on(signal, info, context);
}

/// Does what would have been done without us.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let index = SIGNALS.iter().position(|known| *known == signal).unwrap_or(0);
    // SAFETY: written once before any handler ran.
    let previous = unsafe { PREVIOUS[index] };
    match previous {
        Some(action) if action.sa_sigaction == libc::SIG_IGN => {}
        Some(action) if action.sa_sigaction != libc::SIG_DFL => {
            if action.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: with SA_SIGINFO the previous action has this signature.
                let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    unsafe { std::mem::transmute(action.sa_sigaction) };
                handler(signal, info, context);
            } else {
                // SAFETY: without SA_SIGINFO it has this one.
                let handler: extern "C" fn(i32) = unsafe { std::mem::transmute(action.sa_sigaction) };
                handler(signal);
            }
        }
        _ => {
            // SAFETY: the default action, taken when the faulting instruction runs again.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}
