//! What has arrived at the null device, for whoever sent it to compare.

/// What has arrived, for a benchmark to compare with what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub launches: u64,
    /// Sum of all argument bytes of all launches, as little-endian words.
    pub argument_sum: u64,
    /// Sum over all grids' x extents.
    pub grid_sum: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Sum of the words that dma-free uploads sampled.
    pub sampled_sum: u64,
}

/// The first number under which `cuCtxGetLimit` tells the fields of the [`Tally`], in their order.
pub const TALLY: u32 = 0x7600;

/// The sum of the first 8 bytes of every 4 KiB: enough to notice bytes that are not the ones sent.
pub fn sample(bytes: &[u8]) -> u64 {
    bytes
        .chunks(4096)
        .filter_map(|page| page.first_chunk())
        .fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// The sum of all 8-byte little-endian words; a shorter rest counts as its bytes.
pub fn word_sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let words = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}
