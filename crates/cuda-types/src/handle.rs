//! Handles of the driver API as transparent integers.

use std::fmt;

use bincode::{Decode, Encode};

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Encode, Decode)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The null handle (for a stream: the legacy default stream).
            pub const NULL: $name = $name(0);

            /// Whether this is the null handle.
            pub fn is_null(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    )*};
}

handles! {
    /// An address in device memory. Unified addressing: no two devices of one process share an address.
    CUdeviceptr;
    /// A stream. 0 is the legacy default stream, 1 and 2 are `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
    CUstream;
    /// An event.
    CUevent;
    /// A loaded module.
    CUmodule;
    /// A kernel of a loaded module.
    CUfunction;
    /// A CUDA array: texels in a layout of the device's own.
    CUarray;
    /// Arrays of halving extents.
    CUmipmappedArray;
}

impl CUstream {
    /// `CU_STREAM_LEGACY`: the default stream that synchronizes with every blocking stream.
    pub const LEGACY: CUstream = CUstream(1);
    /// `CU_STREAM_PER_THREAD`: the calling thread's own default stream.
    pub const PER_THREAD: CUstream = CUstream(2);
}

/// `dim3`: the extent of a grid or of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
#[repr(C)]
pub struct Dim3 {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

impl Dim3 {
    /// The product of the three extents; cannot overflow.
    pub fn count(self) -> u128 {
        u128::from(self.x) * u128::from(self.y) * u128::from(self.z)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_eight_bytes_and_dim3_is_three_words() {
        assert_eq!(size_of::<CUstream>(), 8);
        assert_eq!(size_of::<Dim3>(), 12);
        assert_eq!(format!("{:?}", CUevent(0x2a)), "CUevent(0x2a)");
    }
}
