//! One coroutine that runs device code, and its stack.

use std::sync::{Mutex, PoisonError};

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult};

use crate::jit::Exit;
use crate::jit::context::{Request, ThreadContext};

use super::trap;

/// A device thread, or in loop mode all threads of a block one after the other.
pub(super) struct Fiber {
    coroutine: Option<Coroutine<(), (), (), DefaultStack>>,
    /// Owned; a raw pointer because the coroutine changes it while it runs.
    context: *mut ThreadContext,
}

/// Stacks that are not in use, by size.
static POOL: Mutex<Vec<(usize, DefaultStack)>> = Mutex::new(Vec::new());
/// More than this many are given back to the system.
const POOL_LIMIT: usize = 4096;

fn take_stacks(bytes: usize, count: usize) -> std::io::Result<Vec<DefaultStack>> {
    let mut taken = Vec::with_capacity(count);
    {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = pool.len();
        while index > 0 && taken.len() < count {
            index -= 1;
            if pool[index].0 == bytes {
                taken.push(pool.swap_remove(index).1);
            }
        }
    }
    while taken.len() < count {
        taken.push(DefaultStack::new(bytes)?);
    }
    Ok(taken)
}

/// Gives stacks of ended fibers back.
pub(super) fn recycle(fibers: &mut Vec<Fiber>, bytes: usize) {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    for mut fiber in fibers.drain(..) {
        if let Some(coroutine) = fiber.coroutine.take().filter(Coroutine::done)
            && pool.len() < POOL_LIMIT
        {
            pool.push((bytes, coroutine.into_stack()));
        }
    }
}

/// Why a fiber gave up the processor.
pub(super) enum Paused {
    /// It asks for something, and is to be resumed with the answer.
    Asks(Request),
    /// It is over.
    Ended(Exit),
}

impl Fiber {
    /// Fibers that will run `entry` with these contexts, on stacks of `bytes` bytes.
    pub(super) fn start(
        contexts: impl ExactSizeIterator<Item = ThreadContext>,
        entry: usize,
        bytes: usize,
    ) -> std::io::Result<Vec<Fiber>> {
        let stacks = take_stacks(bytes, contexts.len())?;
        let start = |(stack, mut context): (DefaultStack, ThreadContext)| {
            context.stack_base = stack.base().get() as u64;
            context.stack_limit = stack.limit().get() as u64;
            let context = Box::into_raw(Box::new(context));
            let shared = context.expose_provenance();
            let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
                let context = std::ptr::with_exposed_provenance_mut::<ThreadContext>(shared);
                // SAFETY: the fiber keeps its context until it is dropped, and looks at it only while this is suspended.
                unsafe { (*context).yielder = std::ptr::from_ref(yielder) };
                // SAFETY: the address of a compiled kernel, which takes exactly this argument.
                let entry: extern "C" fn(*mut ThreadContext) = unsafe { std::mem::transmute(entry) };
                entry(context);
            });
            Fiber { coroutine: Some(coroutine), context }
        };
        Ok(stacks.into_iter().zip(contexts).map(start).collect())
    }

    /// Runs until it asks for something or ends.
    pub(super) fn resume(&mut self) -> Paused {
        let Some(coroutine) = &mut self.coroutine else { return Paused::Ended(Exit::Finished) };
        let handler = coroutine.trap_handler();
        let (outcome, fault) = trap::catching(&handler, || coroutine.resume(()));
        match outcome {
            CoroutineResult::Return(()) if fault != 0 => Paused::Ended(Exit::Fault(fault)),
            CoroutineResult::Return(()) => Paused::Ended(Exit::Finished),
            // SAFETY: the coroutine is suspended and has written what it asks for; a raw pointer, since it wrote behind
            // our back.
            CoroutineResult::Yield(()) => match unsafe { (*self.context).request } {
                Request::Leave(exit) => {
                    self.abandon();
                    Paused::Ended(exit)
                }
                request => Paused::Asks(request),
            },
        }
    }

    /// What the suspended thread will be told when it is resumed.
    pub(super) fn answer(&mut self, result: u64, predicate: bool) {
        // SAFETY: the coroutine is suspended, so nobody else uses its context.
        unsafe {
            (*self.context).result = result;
            (*self.context).result_predicate = u64::from(predicate);
        }
    }

    /// Looks at the context of a coroutine that is suspended, over or not yet started.
    pub(super) fn with_context<T>(&mut self, look: impl FnOnce(&mut ThreadContext) -> T) -> T {
        // SAFETY: while it is suspended nobody else uses its context, and `&mut self` keeps it from being resumed.
        look(unsafe { &mut *self.context })
    }

    /// The line that it has come to, in a kernel that is checked; else 0.
    pub(super) fn line(&self) -> u32 {
        // SAFETY: the coroutine is suspended or over, so nobody else uses its context.
        unsafe { (*self.context).line }
    }

    /// Ends it where it stands.
    pub(super) fn abandon(&mut self) {
        if let Some(coroutine) =
            self.coroutine.as_mut().filter(|coroutine| coroutine.started() && !coroutine.done())
        {
            // SAFETY: device code and its helpers keep nothing with a destructor on the stack when they suspend.
            unsafe { coroutine.force_reset() };
        }
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        // Dropping a coroutine that is suspended would unwind generated code.
        self.abandon();
        // SAFETY: made by `Box::into_raw` in `start`, and the coroutine that used it is over.
        drop(unsafe { Box::from_raw(self.context) });
    }
}
