//! Textures and surfaces: what kernels read through a handle, with coordinates instead of addresses.
//!
//! Layout:
//! * `format`: texels
//! * `image`: where they lie
//! * `sample`: texture fetches
//! * `surface`: loads, stores and reductions by coordinates
//! * `object`: the objects of a device, and their handles

pub(crate) mod format;
pub(crate) mod image;
pub(crate) mod object;
pub(crate) mod sample;
pub(crate) mod surface;
