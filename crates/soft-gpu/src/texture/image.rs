//! Images: texels in rows and slices, in memory of an array or of the window.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::format::{Format, Kind};
use crate::jit::mapping::Mapping;

/// Where texels lie. Every access is checked against the extents here, never against what a program says.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) format: Format,
    /// Extents in texels; 1 for an axis that is not there.
    pub(crate) width: u64,
    pub(crate) height: u64,
    /// Slices, or layers, faces included.
    pub(crate) depth: u64,
    pub(crate) pitch: u64,
    pub(crate) slice: u64,
    base: u64,
    /// Bytes of a texel.
    texel: u64,
    owner: Owner,
}

/// What keeps an image's memory.
#[derive(Clone)]
enum Owner {
    /// The array, whose memory lives as long as any image of it.
    Array(#[allow(dead_code, reason = "held for its memory")] Arc<Mapping>),
    /// An allocation of the window: usable until it is freed.
    Window(Arc<AtomicBool>),
}

impl Image {
    /// An image with memory of its own, zeroed. `None` when there is none, or the extents overflow.
    pub(crate) fn new(format: Format, width: u64, height: u64, depth: u64) -> Option<Image> {
        let pitch = width.checked_mul(format.bytes())?;
        let slice = pitch.checked_mul(height)?;
        let bytes = usize::try_from(slice.checked_mul(depth)?).ok()?;
        let memory = Mapping::new(bytes.max(1)).ok()?;
        let base = memory.address() as u64;
        let (texel, owner) = (format.bytes(), Owner::Array(Arc::new(memory)));
        Some(Image { format, width, height, depth, pitch, slice, base, texel, owner })
    }

    /// An image in the window; the caller has checked the range, and sets the flag when it is freed.
    pub(crate) fn in_window(
        format: Format,
        base: u64,
        (width, height, pitch): (u64, u64, u64),
    ) -> (Image, Arc<AtomicBool>) {
        let freed = Arc::new(AtomicBool::new(false));
        let owner = Owner::Window(Arc::clone(&freed));
        let (texel, slice) = (format.bytes(), pitch * height);
        (Image { format, width, height, depth: 1, pitch, slice, base, texel, owner }, freed)
    }

    /// Bytes from the first texel to behind the last.
    pub(crate) fn bytes(&self) -> u64 {
        self.slice * self.depth
    }

    /// Whether its memory is still there.
    pub(crate) fn is_alive(&self) -> bool {
        match &self.owner {
            Owner::Array(_) => true,
            Owner::Window(freed) => !freed.load(Ordering::Relaxed),
        }
    }

    /// Address of byte `x` of a row of a slice, if `bytes` bytes from there lie in that row.
    pub(crate) fn address(&self, x: u64, y: u64, z: u64, bytes: u64) -> Option<u64> {
        let row = self.width * self.texel;
        let inside = x.checked_add(bytes)? <= row && y < self.height && z < self.depth;
        inside.then(|| self.base + z * self.slice + y * self.pitch + x)
    }

    /// Address of a texel; `None` outside.
    pub(crate) fn texel(&self, x: u64, y: u64, z: u64) -> Option<Texel> {
        let inside = x < self.width && y < self.height && z < self.depth;
        inside.then(|| Texel(self.base + z * self.slice + y * self.pitch + x * self.texel))
    }

    /// A texel's channels as words; 0 for one that is not there.
    pub(crate) fn words(&self, Texel(at): Texel) -> [u32; 4] {
        let (format, step) = (self.format, self.format.channel_bytes());
        let channel = |index: u64| format.word(read(at + index * step, step));
        match format.channels {
            1 => [channel(0), 0, 0, 0],
            2 => [channel(0), channel(1), 0, 0],
            _ => [channel(0), channel(1), channel(2), channel(3)],
        }
    }

    /// A texel's channels as floats; 0 for one that is not there.
    pub(crate) fn floats(&self, Texel(at): Texel) -> [f32; 4] {
        let (format, step) = (self.format, self.format.channel_bytes());
        let channel = |index: u64| format.float(read(at + index * step, step));
        match (format.kind, format.channels) {
            // The most frequent one.
            (Kind::F32, 1) => [f32::from_bits(read(at, 4)), 0.0, 0.0, 0.0],
            (_, 1) => [channel(0), 0.0, 0.0, 0.0],
            (_, 2) => [channel(0), channel(1), 0.0, 0.0],
            _ => [channel(0), channel(1), channel(2), channel(3)],
        }
    }
}

/// Where a texel of an image lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Texel(u64);

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

/// Reads 1, 2 or 4 bytes of an image. Other threads may write them: a race of the program's own choice.
pub(crate) fn read(address: u64, bytes: u64) -> u32 {
    let pointer = pointer(address);
    // SAFETY: callers pass addresses from `Image::address`, which lie in memory that the image keeps.
    unsafe {
        match bytes {
            1 => u32::from(pointer.read_volatile()),
            2 => u32::from(pointer.cast::<u16>().read_unaligned()),
            _ => pointer.cast::<u32>().read_unaligned(),
        }
    }
}

/// Writes the low 1, 2 or 4 bytes of a word to an image.
pub(crate) fn write(address: u64, bytes: u64, word: u32) {
    let (pointer, low) = (pointer(address), word.to_le_bytes());
    // SAFETY: as in `read`.
    unsafe {
        match bytes {
            1 => pointer.write_volatile(low[0]),
            2 => pointer.cast::<u16>().write_unaligned(u16::from_le_bytes([low[0], low[1]])),
            _ => pointer.cast::<u32>().write_unaligned(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texels_outside_are_not_there() {
        let format = Format::new(0x01, 2).expect("known");
        let image = Image::new(format, 3, 2, 1).expect("memory");
        write(image.address(4, 1, 0, 1).expect("inside"), 1, 7);
        assert_eq!(image.texel(2, 1, 0).map(|texel| image.words(texel)), Some([7, 0, 0, 0]));
        assert_eq!(image.texel(3, 1, 0), None);
        assert_eq!(image.texel(0, 2, 0), None);
        assert_eq!(image.texel(u64::MAX, 0, 0), None);
        assert_eq!(image.address(5, 0, 0, 2), None, "beyond the row");
    }
}
