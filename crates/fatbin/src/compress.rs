//! The two ways in which nvcc compresses an image, undone within stated bounds.
//!
//! Both functions give exactly `stated` bytes or an error, and never allocate more than that (plus a window), however
//! the packed bytes were made.

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

use crate::error::{Malformed, Result};

/// The largest image that is unpacked. The largest ones in NVIDIA's own libraries are some tens of megabytes.
pub const MAX_IMAGE_BYTES: u64 = 512 * 1024 * 1024;

/// Unpacks one raw LZ4 block (no frame), as CUDA 12 writes it.
pub(crate) fn lz4(packed: &[u8], stated: u64) -> Result<Vec<u8>> {
    // One byte of a block stands for at most 255 bytes of output, so a larger claim need not be tried.
    let possible = (packed.len() as u64).saturating_mul(255);
    if stated > possible {
        return Err(Malformed::Compression {
            format: "LZ4",
            reason: format!("{} bytes cannot unpack to {stated}", packed.len()),
        });
    }
    let length = checked_length(stated)?;
    let mut plain = vec![0; length];
    let found = lz4_flex::block::decompress_into(packed, &mut plain)
        .map_err(|error| Malformed::Compression { format: "LZ4", reason: error.to_string() })?;
    if found != length {
        return Err(Malformed::UnpackedSize { stated, found: found as u64 });
    }
    Ok(plain)
}

/// Unpacks one standard zstd frame, as CUDA 13 writes it by default.
pub(crate) fn zstd(packed: &[u8], stated: u64) -> Result<Vec<u8>> {
    let failed = |reason: String| Malformed::Compression { format: "zstd", reason };
    checked_length(stated)?;
    // A frame may state a window larger than its content; eight megabytes is what the format asks of every reader.
    let window = stated.max(8 * 1024 * 1024);
    let decoder = StreamingDecoder::new_with_max_window_size(packed, window)
        .map_err(|error| failed(error.to_string()))?;
    // Grown as the bytes come: the claim of a hostile frame costs nothing before it is kept.
    let mut plain = Vec::new();
    decoder.take(stated + 1).read_to_end(&mut plain).map_err(|error| failed(error.to_string()))?;
    if plain.len() as u64 != stated {
        return Err(Malformed::UnpackedSize { stated, found: plain.len() as u64 });
    }
    Ok(plain)
}

fn checked_length(stated: u64) -> Result<usize> {
    let too_large = Malformed::TooLarge { stated, limit: MAX_IMAGE_BYTES };
    if stated > MAX_IMAGE_BYTES {
        return Err(too_large);
    }
    usize::try_from(stated).map_err(|_| too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_claims_beyond_the_possible_ratio_are_refused_before_allocation() {
        assert!(matches!(lz4(&[0; 16], 16 * 255 + 1), Err(Malformed::Compression { .. })));
    }

    #[test]
    fn lz4_that_unpacks_to_less_than_stated_is_refused() {
        let packed = lz4_flex::block::compress(b"abcdefgh");
        assert_eq!(lz4(&packed, 8), Ok(b"abcdefgh".to_vec()));
        assert_eq!(lz4(&packed, 9), Err(Malformed::UnpackedSize { stated: 9, found: 8 }));
        assert!(lz4(&packed, 7).is_err());
    }

    #[test]
    fn images_beyond_the_limit_are_refused() {
        let over = MAX_IMAGE_BYTES + 1;
        assert_eq!(zstd(&[], over), Err(Malformed::TooLarge { stated: over, limit: MAX_IMAGE_BYTES }));
    }
}
