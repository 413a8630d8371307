//! Opens the device that `--driver` names.

use std::sync::Arc;

use cuda_types::CuError;
use proto::Device;

use crate::null::NullGpu;

/// What drives the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Counts and checks, computes nothing; the flag leaves out the copies.
    Null { dma_free: bool },
}

impl std::str::FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Driver, String> {
        match text {
            "null" => Ok(Driver::Null { dma_free: false }),
            "null-dma-free" => Ok(Driver::Null { dma_free: true }),
            other => Err(format!("no driver {other:?}: say null or null-dma-free")),
        }
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Driver::Null { dma_free: false } => f.write_str("null"),
            Driver::Null { dma_free: true } => f.write_str("null-dma-free"),
        }
    }
}

impl Driver {
    /// Opens device `ordinal`.
    pub fn open(&self, _ordinal: u32) -> Result<Arc<dyn Device>, CuError> {
        match self {
            Driver::Null { dma_free } => Ok(Arc::new(NullGpu::new(*dma_free))),
        }
    }
}
