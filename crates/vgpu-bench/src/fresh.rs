//! Bytes that nobody has seen before.

use std::time::SystemTime;

/// A source of bytes that differ from call to call and from run to run, so that no buffer holds them by chance.
#[derive(Debug)]
pub(crate) struct Fresh(u64);

impl Fresh {
    pub(crate) fn new() -> Fresh {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Fresh(u64::from(time.subsec_nanos()) << 32 | u64::from(std::process::id()))
    }

    /// Fills a buffer.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        let (words, rest) = buffer.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// The next number (Knuth's MMIX generator, its upper half over its lower).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_buffers_are_alike_and_none_is_left_as_it_was() {
        let mut fresh = Fresh::new();
        let mut buffers = [[0; 21]; 2];
        buffers.iter_mut().for_each(|buffer| fresh.fill(buffer));
        assert_ne!(buffers[0], buffers[1]);
        assert!(buffers.iter().all(|buffer| buffer[..8] != buffer[8..16] && buffer[16..] != [0; 5]));
    }
}
