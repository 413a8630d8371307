//! Texture fetches: from coordinates to four words.
//!
//! CUDA Programming Guide, "Texture Fetching": with xB = x - 0.5, linear filtering weighs the texels floor(xB) and
//! floor(xB) + 1 by the fraction of xB, kept with 8 fractional bits.

use super::format::{Kind, from_srgb};
use super::image::{Image, Texel};
use super::object::Shape;

/// Whether and how a coordinate outside comes back. The discriminants are those of `CUaddress_mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AddressMode {
    Wrap,
    Clamp,
    Mirror,
    Border,
}

impl AddressMode {
    pub(crate) fn new(number: u32) -> Option<AddressMode> {
        [Self::Wrap, Self::Clamp, Self::Mirror, Self::Border].get(usize::try_from(number).ok()?).copied()
    }

    /// The texel that index `i` stands for on an axis of `extent` texels; `None` for the border.
    fn apply(self, i: i64, extent: u64) -> Option<u64> {
        let n = i64::try_from(extent).unwrap_or(i64::MAX);
        if (0..n).contains(&i) {
            return Some(i.cast_unsigned());
        }
        let found = match self {
            Self::Wrap => i.rem_euclid(n),
            Self::Clamp => i.clamp(0, n - 1),
            Self::Mirror => {
                let turned = i.rem_euclid(2 * n);
                turned.min(2 * n - 1 - turned)
            }
            Self::Border => return None,
        };
        u64::try_from(found).ok()
    }
}

/// A texture object: what it shows, and how.
pub(crate) struct Texture {
    /// The levels, largest first; never empty.
    pub(crate) levels: Vec<Image>,
    pub(crate) shape: Shape,
    pub(crate) modes: [AddressMode; 3],
    pub(crate) linear: bool,
    pub(crate) normalized: bool,
    pub(crate) as_integer: bool,
    pub(crate) srgb: bool,
    pub(crate) border: [f32; 4],
    pub(crate) mipmap_linear: bool,
    pub(crate) mipmap_bias: f32,
    pub(crate) mipmap_range: (f32, f32),
}

/// Which texels an instruction asks for: coordinates in the first three, and a layer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    /// Texture coordinates, or texel indices where `integer` is set.
    pub(crate) at: [f32; 3],
    pub(crate) index: [i32; 3],
    pub(crate) integer: bool,
    /// How many coordinates count.
    pub(crate) axes: usize,
    pub(crate) layer: u32,
    /// The coordinates are a direction into a cube.
    pub(crate) cube: bool,
    pub(crate) level: f32,
}

impl Texture {
    /// What a fetch answers: four words, floats or integers as the format has it.
    pub(crate) fn fetch(&self, request: Request) -> [u32; 4] {
        let request = self.faced(request);
        if !self.reads_float() {
            let level = self.nearest_level(request.level);
            return self.nearest(level, &request);
        }
        if self.levels.len() == 1 {
            return self.filtered(0, &request).map(f32::to_bits);
        }
        let level = self.level(request.level);
        if !self.mipmap_linear {
            return self.filtered(self.nearest_level(request.level), &request).map(f32::to_bits);
        }
        let fine = truncated(level.floor());
        let coarse = (fine + 1).min(self.levels.len() - 1);
        let weight = fixed(level - level.floor());
        let (a, b) = (self.filtered(fine, &request), self.filtered(coarse, &request));
        std::array::from_fn(|c| (a[c] * (1.0 - weight) + b[c] * weight).to_bits())
    }

    /// `tld4`: one channel of the four texels that a linear fetch would weigh.
    ///
    /// PTX ISA, "tld4": in the order (0, 1), (1, 1), (1, 0), (0, 0) of their places.
    pub(crate) fn gather(&self, request: Request, channel: usize) -> [u32; 4] {
        let request = self.faced(request);
        let image = &self.levels[0];
        let (x, _) = split(self.scaled(request.at[0], image.width, 0));
        let (y, _) = split(self.scaled(request.at[1], image.height, 1));
        [(0, 1), (1, 1), (1, 0), (0, 0)].map(|(i, j)| {
            let place = [x + i, y + j, 0];
            let texel = self.found(image, place, &request);
            if self.reads_float() {
                self.floats(image, texel)[channel].to_bits()
            } else {
                self.words(image, texel)[channel]
            }
        })
    }

    pub(crate) fn reads_float(&self) -> bool {
        self.levels[0].format.reads_float(self.as_integer)
    }

    /// The level of detail of a fetch with derivatives.
    pub(crate) fn level_of(&self, dx: [f32; 3], dy: [f32; 3], axes: usize) -> f32 {
        let image = &self.levels[0];
        let extents = [image.width, image.height, image.depth];
        let length = |d: [f32; 3]| {
            let squares = (0..axes).map(|axis| {
                let step = if self.normalized { d[axis] * float(extents[axis]) } else { d[axis] };
                step * step
            });
            squares.sum::<f32>().sqrt()
        };
        length(dx).max(length(dy)).log2()
    }

    fn level(&self, level: f32) -> f32 {
        let (least, most) = self.mipmap_range;
        let level = (level + self.mipmap_bias).max(least).min(most.max(least));
        let last = float(self.levels.len() as u64 - 1);
        // A level that is no number is the finest.
        if level > 0.0 { level.min(last) } else { 0.0 }
    }

    fn nearest_level(&self, level: f32) -> usize {
        truncated((self.level(level) + 0.5).floor()).min(self.levels.len() - 1)
    }

    /// A direction into a cube becomes a face, which is a layer, and a place in it.
    ///
    /// CUDA Programming Guide, "Cubemap Textures": the axis of the largest magnitude chooses the face.
    fn faced(&self, mut request: Request) -> Request {
        let layers = self.levels[0].depth;
        if !request.cube {
            if self.shape.is_layered() {
                request.layer = request.layer.min(u32::try_from(layers - 1).unwrap_or(u32::MAX));
            }
            return request;
        }
        let [x, y, z] = request.at;
        let (ax, ay, az) = (x.abs(), y.abs(), z.abs());
        let (face, m, s, t) = if ax >= ay && ax >= az {
            if x >= 0.0 { (0, ax, -z, -y) } else { (1, ax, z, -y) }
        } else if ay >= az {
            if y >= 0.0 { (2, ay, x, z) } else { (3, ay, x, -z) }
        } else if z >= 0.0 {
            (4, az, x, -y)
        } else {
            (5, az, -x, -y)
        };
        let cubes = u32::try_from(layers / 6).unwrap_or(1).max(1);
        request.layer = request.layer.min(cubes - 1) * 6 + face;
        request.at = [(s / m + 1.0) / 2.0, (t / m + 1.0) / 2.0, 0.0];
        request.axes = 2;
        request
    }

    /// The mode of an axis: wrap and mirror exist for normalized coordinates only; a cube's faces are clamped.
    fn mode(&self, axis: usize) -> AddressMode {
        match self.modes[axis] {
            _ if self.shape == Shape::Linear => AddressMode::Border,
            _ if self.shape.is_cube() => AddressMode::Clamp,
            AddressMode::Wrap | AddressMode::Mirror if !self.normalized => AddressMode::Clamp,
            mode => mode,
        }
    }

    /// A coordinate in texels. Wrapping takes the fraction first, so that large ones keep their digits.
    fn scaled(&self, coordinate: f32, extent: u64, axis: usize) -> f32 {
        if !self.normalized && !self.shape.is_cube() {
            return coordinate;
        }
        let turned = match self.mode(axis) {
            AddressMode::Wrap => coordinate - coordinate.floor(),
            AddressMode::Mirror => {
                let (whole, part) = (coordinate.floor(), coordinate - coordinate.floor());
                if whole.rem_euclid(2.0) == 0.0 { part } else { 1.0 - part }
            }
            AddressMode::Clamp | AddressMode::Border => coordinate,
        };
        turned * float(extent)
    }

    /// A texel's channels as words; the border's where there is none.
    fn words(&self, image: &Image, texel: Option<Texel>) -> [u32; 4] {
        match texel {
            Some(texel) => {
                let mut words = image.words(texel);
                if image.format.channels < 4 {
                    words[3] = 1;
                }
                words
            }
            None => self.border.map(|value| {
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "an integer texture's border is its integer"
                )]
                (value as i32).cast_unsigned()
            }),
        }
    }

    /// A texel's channels as floats; the border's where there is none. Of channels that are not there the last is 1.
    fn floats(&self, image: &Image, texel: Option<Texel>) -> [f32; 4] {
        let Some(texel) = texel else { return self.border };
        let mut values = image.floats(texel);
        if self.srgb && image.format.kind == Kind::U8 {
            values[..3].iter_mut().for_each(|value| *value = from_srgb(*value));
        }
        if image.format.channels < 4 {
            values[3] = 1.0;
        }
        values
    }

    /// The texel of each axis at `place`; `None` for the border.
    fn index(&self, image: &Image, axis: usize, place: i64) -> Option<u64> {
        self.mode(axis).apply(place, [image.width, image.height, image.depth][axis])
    }

    /// The texel at these indices, of the request's layer where there are layers.
    fn texel(&self, image: &Image, at: [Option<u64>; 3], request: &Request) -> Option<Texel> {
        let z = if self.shape.is_layered() { u64::from(request.layer) } else { at[2]? };
        image.texel(at[0]?, at[1]?, z)
    }

    /// The texel at a place, which may lie outside.
    fn found(&self, image: &Image, place: [i64; 3], request: &Request) -> Option<Texel> {
        let mut at = [Some(0); 3];
        for axis in 0..request.axes {
            at[axis] = self.index(image, axis, place[axis]);
        }
        self.texel(image, at, request)
    }

    /// The place of the texel that holds the coordinates.
    fn place(&self, image: &Image, request: &Request) -> [i64; 3] {
        let extents = [image.width, image.height, image.depth];
        std::array::from_fn(|axis| {
            if axis >= request.axes {
                0
            } else if request.integer {
                i64::from(request.index[axis])
            } else {
                floor(self.scaled(request.at[axis], extents[axis], axis))
            }
        })
    }

    fn nearest(&self, level: usize, request: &Request) -> [u32; 4] {
        let image = &self.levels[level];
        self.words(image, self.found(image, self.place(image, request), request))
    }

    fn filtered(&self, level: usize, request: &Request) -> [f32; 4] {
        let image = &self.levels[level];
        match request.axes {
            _ if !self.linear || request.integer => {
                self.floats(image, self.found(image, self.place(image, request), request))
            }
            1 => self.weighed::<1>(image, request),
            2 => self.weighed::<2>(image, request),
            _ => self.weighed::<3>(image, request),
        }
    }

    /// A linear fetch over so many axes, known here so that the loops are none.
    fn weighed<const AXES: usize>(&self, image: &Image, request: &Request) -> [f32; 4] {
        let extents = [image.width, image.height, image.depth];
        // The two texels of each axis, and the weight of the second.
        let mut pairs = [([Some(0); 2], 0.0); AXES];
        for (axis, pair) in pairs.iter_mut().enumerate() {
            let (first, weight) = split(self.scaled(request.at[axis], extents[axis], axis));
            *pair = ([first, first + 1].map(|place| self.index(image, axis, place)), weight);
        }
        let mut sum = [0.0; 4];
        for corner in 0..1_usize << AXES {
            let (mut at, mut share) = ([Some(0); 3], 1.0);
            for (axis, (texels, weight)) in pairs.iter().enumerate() {
                let second = corner >> axis & 1;
                at[axis] = texels[second];
                share *= if second == 1 { *weight } else { 1.0 - weight };
            }
            if share != 0.0 {
                let texel = self.floats(image, self.texel(image, at, request));
                sum.iter_mut().zip(texel).for_each(|(sum, value)| *sum += share * value);
            }
        }
        sum
    }
}

/// The first texel of a linear fetch along an axis, and the weight of the second.
fn split(x: f32) -> (i64, f32) {
    let middle = x - 0.5;
    let first = floor(middle);
    #[allow(clippy::cast_precision_loss, reason = "where it is lost, no fraction is left")]
    let fraction = middle - first as f32;
    (first, if (0.0..1.0).contains(&fraction) { fixed(fraction) } else { 0.0 })
}

/// A weight with 8 fractional bits, 1 included.
fn fixed(weight: f32) -> f32 {
    #[allow(clippy::cast_precision_loss, reason = "at most 256")]
    let steps = truncated(weight * 256.0 + 0.5) as f32;
    steps / 256.0
}

/// The whole number below; the library's `floor` is a call on processors without an instruction for it.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "saturates, and NaN is 0")]
fn floor(value: f32) -> i64 {
    // Far beyond any extent, and sums with it cannot overflow.
    let cut = (value as i64).clamp(-(1 << 40), 1 << 40);
    if cut as f32 > value { cut - 1 } else { cut }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and NaN is 0")]
fn truncated(value: f32) -> usize {
    value as usize
}

#[allow(clippy::cast_precision_loss, reason = "extents are far below 2^24")]
fn float(extent: u64) -> f32 {
    extent as f32
}

#[cfg(test)]
mod tests;
