//! Running grids: blocks over CPU threads, the threads of a block as coroutines, or one after the other in regions.
//!
//! Layout:
//! * `grid`: a launch: its blocks, its CPU threads, how it ends
//! * `block`: the threads of a block and what they wait for
//! * `crew`: the threads of a block that run in regions
//! * `warp`: what warp operations answer
//! * `fiber`: one coroutine and its stack
//! * `trap`: faults of generated code
//! * `arena`: memory for module variables and the device heap

pub(crate) mod arena;
pub(crate) mod block;
mod crew;
pub(crate) mod fiber;
pub(crate) mod grid;
mod trap;
mod warp;
