//! Opens the device that `--driver` names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cuda_types::CuError;
use nvidia::NvidiaGpu;
use proto::Device;
use soft_gpu::{SoftGpu, SoftOptions};

use crate::null::NullGpu;

/// What drives the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Counts and checks, computes nothing; the flag leaves out the copies.
    Null { dma_free: bool },
    /// An NVIDIA GPU where there is a driver for one, else the software GPU.
    Auto,
    /// The software GPU.
    Soft,
    /// An NVIDIA GPU through the installed driver, or through the one that is named.
    Cuda { library: Option<PathBuf> },
}

impl std::str::FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Driver, String> {
        match text {
            "null" => Ok(Driver::Null { dma_free: false }),
            "null-dma-free" => Ok(Driver::Null { dma_free: true }),
            "auto" => Ok(Driver::Auto),
            "soft" => Ok(Driver::Soft),
            "cuda" => Ok(Driver::Cuda { library: None }),
            path if path.contains('/') => Ok(Driver::Cuda { library: Some(path.into()) }),
            other => Err(format!(
                "no driver {other:?}: say auto, soft, cuda, null, null-dma-free or a path to a libcuda.so.1"
            )),
        }
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Driver::Null { dma_free: false } => f.write_str("null"),
            Driver::Null { dma_free: true } => f.write_str("null-dma-free"),
            Driver::Auto => f.write_str("auto"),
            Driver::Soft => f.write_str("soft"),
            Driver::Cuda { library: None } => f.write_str("cuda"),
            Driver::Cuda { library: Some(path) } => path.display().fmt(f),
        }
    }
}

impl Driver {
    /// Opens device `ordinal`.
    pub fn open(&self, ordinal: u32) -> Result<Arc<dyn Device>, CuError> {
        match self {
            Driver::Null { dma_free } => Ok(Arc::new(NullGpu::new(*dma_free))),
            Driver::Auto => match NvidiaGpu::open(ordinal) {
                Err(CuError::NO_DEVICE) => {
                    tracing::warn!("no NVIDIA driver on this machine: the device is the software GPU");
                    Driver::Soft.open(ordinal)
                }
                opened => Ok(Arc::new(opened?)),
            },
            Driver::Soft => {
                // Read here, in the worker: it concerns this device alone.
                let check = std::env::var("VGPU_SOFT_CHECK").is_ok_and(|value| value.trim() == "1");
                let options = SoftOptions { check, timeout: soft_timeout(), ..SoftOptions::default() };
                Ok(Arc::new(SoftGpu::open(ordinal, options)?))
            }
            Driver::Cuda { .. } => Ok(Arc::new(NvidiaGpu::open(ordinal)?.capturing_printed())),
        }
    }

    /// The driver library that was named, if one was.
    pub fn named(&self) -> Option<&Path> {
        match self {
            Driver::Cuda { library } => library.as_deref(),
            Driver::Null { .. } | Driver::Soft | Driver::Auto => None,
        }
    }
}

/// `VGPU_SOFT_TIMEOUT`: seconds that a kernel of the software GPU may run.
fn soft_timeout() -> Option<Duration> {
    let text = std::env::var("VGPU_SOFT_TIMEOUT").ok()?;
    let seconds = text.trim().parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    if timeout.is_none() {
        tracing::warn!(
            "VGPU_SOFT_TIMEOUT={text}: expected a number of seconds; kernels run as long as they want"
        );
    }
    timeout
}
