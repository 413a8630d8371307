//! NVIDIA's runtime and driver, lowered in the client to calls that travel to a server.
//!
//! One core for all: `libcudart.so.12`, `libcudart.so.13` and `libcuda.so.1` are thin entry libraries (folder `entry/`)
//! that open this library beside themselves and jump through its tables, so that a program which mixes them has one
//! session.
//!
//! Layout:
//! * [`table`]: the functions behind the names, per library, from the lists in `symbols/`
//! * `config`, `rank`: the environment, the part of the devices that a rank of MPI sees
//! * `log`, `journal`, `summary`: lines on standard error, the last of them, where the time went
//! * `edge`: what the shapes of entry points may assume
//! * `state`, `handles`, `registry`, `images`, `globals`: devices and threads; streams and events; what was registered
//! * `shortcut`: what launches found in these, kept by each thread
//! * `graph`: graphs and captures, which live on this side only
//! * `managed`: memory that both sides reach at the same address
//! * `process`: what the client crate needs of this process: threads, address space, fork, exit
//! * `runtime`: the chapters of the runtime API: `device memory stream event launch ...`
//! * `driver`: those of the driver API; `nvml`: the management library

#![allow(non_snake_case, reason = "entry points keep the names of CUDA")]

mod config;
mod driver;
mod edge;
mod globals;
mod graph;
mod handles;
mod images;
mod journal;
mod log;
mod managed;
mod nvml;
mod process;
mod rank;
mod registry;
mod runtime;
mod shortcut;
mod state;
mod summary;
pub mod table;
