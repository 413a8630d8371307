//! NVIDIA's runtime, lowered in the client to driver calls that travel to a server.
//!
//! One core for both majors: `libcudart.so.12` and `libcudart.so.13` are thin entry libraries (folder `entry/`) that
//! open this library beside themselves and jump through its table, so that a program which mixes them has one
//! session.
//!
//! Layout:
//! * [`table`]: the functions behind the names, per major, from `symbols/cudart.txt`
//! * `config`, `rank`, `log`: the environment, the part of the devices that a rank of MPI sees, lines on standard error
//! * `edge`: what the shapes of entry points may assume
//! * `state`, `handles`, `registry`, `images`, `globals`: devices and threads; streams and events; what was registered
//! * `graph`: graphs and captures, which live on this side only
//! * `managed`: memory that both sides reach at the same address
//! * `process`: what the client crate needs of this process: threads, address space, fork, exit
//! * `runtime`: the chapters: `device memory stream event launch ...`

#![allow(non_snake_case, reason = "entry points keep the names of CUDA")]

mod config;
mod edge;
mod globals;
mod graph;
mod handles;
mod images;
mod log;
mod managed;
mod process;
mod rank;
mod registry;
mod runtime;
mod state;
pub mod table;
