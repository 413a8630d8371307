//! Chapter 0x07: kernel launches.

use cuda_types::{CUfunction, CUstream, Dim3};

use crate::param::{BlockDim, InBytes};

macro_rules! launch_calls {
    ($reader:path) => {
        $reader! {
            /// Calls that start kernels.
            trait LaunchCalls; rows ROWS;

            /// Starts a grid. `arguments` holds the parameter values by ordinal, one behind the other without padding,
            /// each of the size that the function's facts state; the device lays them out as its own ABI wants.
            0x0701 since 1 post fn cuLaunchKernel(
                func: CUfunction, grid: Dim3, block: BlockDim, shared_bytes: u32, stream: CUstream, arguments: InBytes,
            );
            /// Starts a grid whose blocks are all resident at once, so that they can wait for each other.
            0x0702 since 1 post fn cuLaunchCooperativeKernel(
                func: CUfunction, grid: Dim3, block: BlockDim, shared_bytes: u32, stream: CUstream, arguments: InBytes,
            );
        }
    };
}

launch_calls!(crate::calls::declare);
launch_calls!(crate::calls::remote);
launch_calls!(crate::calls::serve);
#[cfg(test)]
launch_calls!(crate::calls::tests::probe);
