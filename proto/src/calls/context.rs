//! Chapter 0x01: the context as a whole.

macro_rules! context_calls {
    ($reader:path) => {
        $reader! {
            /// Calls about the context as a whole.
            trait ContextCalls; rows ROWS;

            /// Waits until everything that was given to the device is done.
            0x0101 since 1 wait fn cuCtxSynchronize();
            /// Reads a limit (`CUlimit`): stack size, printf buffer, device heap.
            0x0102 since 1 wait fn cuCtxGetLimit(limit: u32) -> u64;
            /// Sets a limit.
            0x0103 since 1 wait fn cuCtxSetLimit(limit: u32, value: u64);
        }
    };
}

context_calls!(crate::calls::declare);
context_calls!(crate::calls::remote);
context_calls!(crate::calls::serve);
#[cfg(test)]
context_calls!(crate::calls::tests::probe);
