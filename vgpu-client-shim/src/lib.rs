//! NVIDIA's runtime, lowered in the client to driver calls that travel to a server.
//!
//! One core for both majors: `libcudart.so.12` and `libcudart.so.13` are thin entry libraries (folder `entry/`) that
//! open this library beside themselves and jump through its table, so that a program which mixes them has one
//! session.
//!
//! Layout:
//! * [`table`]: the functions behind the names, per major, from `symbols/cudart.txt`
//! * [`config`], [`server_list`], [`log`]: the environment, the grammar of `VGPU_SERVER`, lines on standard error
//! * [`runtime`]: the chapters: `device memory stream event launch ...`

#![allow(non_snake_case, reason = "entry points keep the names of CUDA")]

pub mod config;
pub mod log;
pub mod runtime;
pub mod server_list;
pub mod table;
