//! Reads the containers in which CUDA programs carry their kernels: fatbins, and the cubins and PTX texts in them.
//!
//! The input comes from foreign programs and, on a server, from the network: any bytes decode to an error or a value,
//! lengths are checked before memory is taken for them, and nothing here panics.
//!
//! Layout:
//! * [`Image`]: what the bytes given to `cuModuleLoadData` are
//! * [`container`]: [`Fatbin`], its entries, and the choice among them
//! * `compress`: LZ4 and zstd, within bounds
//! * [`cubin`]: kernels and parameter layouts of machine code images
//! * `nv_info`: the records that ptxas leaves for the driver
//! * [`error`](mod@error): why bytes could not be read

#![forbid(unsafe_code)]

mod bytes;
mod compress;
pub mod container;
pub mod cubin;
pub mod error;
mod image;
mod nv_info;

pub use compress::MAX_IMAGE_BYTES;
pub use container::{Entry, Fatbin, Kind, header_len};
pub use cubin::{Cubin, Kernel, Param, Variable};
pub use error::{Malformed, Result};
pub use image::Image;
