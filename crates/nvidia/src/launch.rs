//! Kernel launches: the values come one behind the other, the driver wants a pointer to each.

use std::ffi::{c_uint, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use cuda_types::{CUfunction, CUstream, CuError, CuResult, Dim3};
use proto::LaunchCalls;

use crate::api::call;
use crate::device::{NvidiaGpu, lock};

/// Parameter values, each at an address that suits any type.
struct Values {
    words: Vec<u128>,
    /// Word at which each value begins.
    places: Vec<usize>,
}

impl Values {
    /// Cuts `arguments` at `sizes`; they must fit exactly.
    fn cut(arguments: &[u8], sizes: &[u32]) -> CuResult<Self> {
        let mut values = Values { words: Vec::new(), places: Vec::with_capacity(sizes.len()) };
        let mut rest = arguments;
        for size in sizes {
            let size = usize::try_from(*size).map_err(|_| CuError::INVALID_VALUE)?;
            let (value, behind) = rest.split_at_checked(size).ok_or(CuError::INVALID_VALUE)?;
            rest = behind;
            values.places.push(values.words.len());
            for chunk in value.chunks(size_of::<u128>()) {
                let mut word = [0; size_of::<u128>()];
                word[..chunk.len()].copy_from_slice(chunk);
                values.words.push(u128::from_ne_bytes(word));
            }
        }
        if rest.is_empty() { Ok(values) } else { Err(CuError::INVALID_VALUE) }
    }

    /// A pointer to each value. The driver only reads through them.
    fn pointers(&mut self) -> Vec<*mut c_void> {
        let words = self.words.as_mut_ptr();
        self.places.iter().map(|&place| words.wrapping_add(place).cast()).collect()
    }
}

impl NvidiaGpu {
    fn values(&self, func: CUfunction, arguments: &[u8]) -> CuResult<Values> {
        let sizes: Option<Arc<[u32]>> = lock(&self.parameters).get(&func.0).cloned();
        Values::cut(arguments, &sizes.ok_or(CuError::INVALID_HANDLE)?)
    }
}

impl LaunchCalls for NvidiaGpu {
    fn cuLaunchKernel(
        &self,
        func: CUfunction,
        grid: Dim3,
        block: Dim3,
        shared_bytes: u32,
        stream: CUstream,
        arguments: &[u8],
    ) -> CuResult<()> {
        let mut values = self.values(func, arguments)?;
        let mut pointers = values.pointers();
        let api = self.enter()?;
        let shared: c_uint = shared_bytes;
        // SAFETY: the function was made by this device, and there is a readable value for each of its parameters,
        // which the driver copies before it returns.
        unsafe {
            call!(
                api,
                cuLaunchKernel(
                    func.0,
                    grid.x,
                    grid.y,
                    grid.z,
                    block.x,
                    block.y,
                    block.z,
                    shared,
                    stream.0,
                    pointers.as_mut_ptr(),
                    null_mut()
                )
            )
        }
    }

    fn cuLaunchCooperativeKernel(
        &self,
        func: CUfunction,
        grid: Dim3,
        block: Dim3,
        shared_bytes: u32,
        stream: CUstream,
        arguments: &[u8],
    ) -> CuResult<()> {
        let mut values = self.values(func, arguments)?;
        let mut pointers = values.pointers();
        let api = self.enter()?;
        let shared: c_uint = shared_bytes;
        // SAFETY: as in `cuLaunchKernel`.
        unsafe {
            call!(
                api,
                cuLaunchCooperativeKernel(
                    func.0,
                    grid.x,
                    grid.y,
                    grid.z,
                    block.x,
                    block.y,
                    block.z,
                    shared,
                    stream.0,
                    pointers.as_mut_ptr()
                )
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_by_size_and_aligned() {
        let bytes: Vec<u8> = (0..26).collect();
        let mut values = Values::cut(&bytes, &[1, 20, 0, 5]).unwrap();
        assert_eq!(values.places, [0, 1, 3, 3]);
        assert_eq!(values.words[0].to_ne_bytes()[0], 0);
        assert_eq!(values.words[1].to_ne_bytes(), bytes[1..17]);
        assert_eq!(values.words[2].to_ne_bytes()[..4], bytes[17..21]);
        assert_eq!(values.words[3].to_ne_bytes()[..5], bytes[21..26]);
        assert!(values.pointers().iter().all(|pointer| pointer.addr() % 16 == 0));
    }

    #[test]
    fn values_that_do_not_fit_the_parameters_are_refused() {
        for (bytes, sizes) in [(&[0_u8; 7][..], &[8][..]), (&[0; 9], &[8]), (&[], &[1]), (&[0], &[])] {
            assert!(Values::cut(bytes, sizes).is_err(), "{bytes:?} {sizes:?}");
        }
        assert!(Values::cut(&[], &[]).unwrap().pointers().is_empty());
    }
}
