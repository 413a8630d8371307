//! The server: a daemon that owns one device, and a worker process for each client.
//!
//! Layout:
//! * [`worker`]: serves one client on a device
//! * [`null`]: a device that does no work, for measuring everything else
//! * [`devices`]: opens the device that `--driver` names
//! * [`daemon`]: listens, greets, starts workers
//! * [`options`]: the command line

#![forbid(unsafe_code)]

pub mod daemon;
pub mod devices;
pub mod null;
pub mod options;
pub mod worker;
