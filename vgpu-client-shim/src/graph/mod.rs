//! Graphs: lists of nodes that live in this process only; the server sees the calls that a launch posts.
//!
//! A graph is edited under one lock ([`store`]). Instantiating copies it into a [`exec::Plan`]: checked, in an order
//! that respects every dependency, and independent of what happens to the graph. Launching posts the plan to the
//! stream in that order (why a line is enough: `docs/adr/0010-graphs-live-in-the-client.md`).
//!
//! What must never happen: calling a session, or the program's own functions, under the lock of the store. Both may
//! wait, and a destructor of the program may do anything but call CUDA.
//!
//! Layout:
//! * [`work`]: what a node does, and doing it
//! * [`store`]: graphs, nodes, edges
//! * [`exec`]: plans, launches, updates
//! * [`condition`]: nodes that run if a kernel says so
//! * [`capture`]: streams whose calls become nodes
//! * [`memory`]: allocations that belong to nodes; [`user_object`]: what the program ties to a graph
//! * [`values`]: words of memory that streams write and wait for; [`host_value`]: those of host memory
//! * [`dot`]: a graph as text

pub(crate) mod capture;
pub(crate) mod condition;
pub(crate) mod dot;
pub(crate) mod exec;
pub(crate) mod host_value;
pub(crate) mod memory;
pub(crate) mod store;
pub(crate) mod user_object;
pub(crate) mod values;
pub(crate) mod work;
