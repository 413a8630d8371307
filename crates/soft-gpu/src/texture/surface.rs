//! Surface accesses: bytes of an image by coordinates.

use super::image::{self, Image};

/// What an access outside does. The discriminants are constants in generated code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Outside {
    Trap,
    Clamp,
    Zero,
}

impl Outside {
    pub(crate) const ALL: [Self; 3] = [Self::Trap, Self::Clamp, Self::Zero];
}

/// Where an access goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Bytes along the row, row, slice or layer.
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) z: i32,
    /// Bytes of the whole access.
    pub(crate) bytes: u64,
    pub(crate) outside: Outside,
}

/// Where an access ends up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Address(u64),
    /// Outside: loads answer zeros, stores are nothing.
    Nothing,
    /// Outside, and the program asked for a fault; or not at a multiple of its size.
    Fault,
}

impl Place {
    /// The address of this place in `image`.
    pub(crate) fn find(self, image: &Image) -> Found {
        let row = image.width * image.format.bytes();
        if !i64::from(self.x).cast_unsigned().is_multiple_of(self.bytes) {
            return Found::Fault;
        }
        let wanted = [self.x, self.y, self.z].map(i64::from);
        let ends = [row.saturating_sub(self.bytes), image.height - 1, image.depth - 1];
        let ends = ends.map(|end| i64::try_from(end).unwrap_or(i64::MAX));
        let mut at = [0; 3];
        for axis in 0..3 {
            at[axis] = match self.outside {
                _ if (0..=ends[axis]).contains(&wanted[axis]) => wanted[axis],
                Outside::Clamp => wanted[axis].clamp(0, ends[axis]),
                Outside::Zero => return Found::Nothing,
                Outside::Trap => return Found::Fault,
            }
            .cast_unsigned();
        }
        image.address(at[0], at[1], at[2], self.bytes).map_or(Found::Fault, Found::Address)
    }
}

/// Reads `count` elements of `bytes` bytes as words, two for each of 8 bytes.
pub(crate) fn load(address: u64, count: u64, bytes: u64) -> [u32; 8] {
    let mut words = [0; 8];
    let step = bytes.min(4);
    for (word, at) in words.iter_mut().zip((0..count * bytes / step).map(|index| index * step)) {
        *word = image::read(address + at, step);
    }
    words
}

/// Writes what [`load`] would read.
pub(crate) fn store(address: u64, count: u64, bytes: u64, words: &[u32; 8]) {
    let step = bytes.min(4);
    for (word, at) in words.iter().zip((0..count * bytes / step).map(|index| index * step)) {
        image::write(address + at, step, *word);
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Format;
    use super::*;

    fn place(x: i32, y: i32, outside: Outside) -> Place {
        Place { x, y, z: 0, bytes: 4, outside }
    }

    #[test]
    fn places_outside_trap_clamp_or_are_nothing() {
        let image = Image::new(Format::new(0x20, 1).expect("known"), 4, 3, 1).expect("memory");
        let Found::Address(last) = place(12, 2, Outside::Trap).find(&image) else { panic!("inside") };
        assert_eq!(place(16, 7, Outside::Clamp).find(&image), Found::Address(last));
        assert_eq!(place(16, 2, Outside::Trap).find(&image), Found::Fault);
        assert_eq!(place(-4, 0, Outside::Zero).find(&image), Found::Nothing);
        assert_eq!(place(2, 0, Outside::Zero).find(&image), Found::Fault, "not aligned");
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let image = Image::new(Format::new(0x03, 4).expect("known"), 2, 1, 1).expect("memory");
        let words = [1, 2, 3, 4, 0, 0, 0, 0];
        let Found::Address(at) =
            (Place { x: 16, y: 0, z: 0, bytes: 16, outside: Outside::Trap }).find(&image)
        else {
            panic!("inside")
        };
        store(at, 2, 8, &words);
        assert_eq!(load(at, 4, 4), words);
        assert_eq!(load(at, 2, 2), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(image.texel(1, 0, 0).map(|texel| image.words(texel)), Some([1, 2, 3, 4]));
    }
}
