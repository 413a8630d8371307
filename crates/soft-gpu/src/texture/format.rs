//! Texels: what their bytes say.

use crate::jit::numeric::{f16_to_f32, f64_to_f16};

/// `CUarray_format` and the number of channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    pub(crate) kind: Kind,
    pub(crate) channels: u32,
}

/// What a channel is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    U8,
    U16,
    U32,
    S8,
    S16,
    S32,
    F16,
    F32,
}

impl Format {
    /// A format by CUDA's numbers; `None` for one that is not known here.
    pub(crate) fn new(format: u32, channels: u32) -> Option<Format> {
        let kind = match format {
            0x01 => Kind::U8,
            0x02 => Kind::U16,
            0x03 => Kind::U32,
            0x08 => Kind::S8,
            0x09 => Kind::S16,
            0x0a => Kind::S32,
            0x10 => Kind::F16,
            0x20 => Kind::F32,
            _ => return None,
        };
        matches!(channels, 1 | 2 | 4).then_some(Format { kind, channels })
    }

    /// Bytes of a texel.
    pub(crate) fn bytes(self) -> u64 {
        self.channel_bytes() * u64::from(self.channels)
    }

    pub(crate) fn channel_bytes(self) -> u64 {
        match self.kind {
            Kind::U8 | Kind::S8 => 1,
            Kind::U16 | Kind::S16 | Kind::F16 => 2,
            Kind::U32 | Kind::S32 | Kind::F32 => 4,
        }
    }

    /// Whether a fetch answers floats: floats always do, short integers unless they are read as integers.
    pub(crate) fn reads_float(self, as_integer: bool) -> bool {
        match self.kind {
            Kind::F16 | Kind::F32 => true,
            Kind::U32 | Kind::S32 => false,
            Kind::U8 | Kind::U16 | Kind::S8 | Kind::S16 => !as_integer,
        }
    }

    /// A channel's bits widened to a word: integers as they are, halves as floats.
    pub(crate) fn word(self, bits: u32) -> u32 {
        let low = bits.to_le_bytes();
        match self.kind {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::S32 | Kind::F32 => bits,
            Kind::S8 => i32::from(i8::from_le_bytes([low[0]])).cast_unsigned(),
            Kind::S16 => i32::from(i16::from_le_bytes([low[0], low[1]])).cast_unsigned(),
            Kind::F16 => f16_to_f32(bits).to_bits(),
        }
    }

    /// A channel's bits as a float: integers become fractions of their largest value.
    ///
    /// CUDA Programming Guide, "Texture Memory": unsigned to [0, 1], signed to [-1, 1].
    pub(crate) fn float(self, bits: u32) -> f32 {
        let word = self.word(bits);
        #[allow(clippy::cast_precision_loss, reason = "at most 16 bits in the forms that are normalized")]
        let signed = word.cast_signed() as f32;
        match self.kind {
            Kind::U8 => signed / 255.0,
            Kind::U16 => signed / 65535.0,
            Kind::S8 => (signed / 127.0).max(-1.0),
            Kind::S16 => (signed / 32767.0).max(-1.0),
            Kind::F16 | Kind::F32 => f32::from_bits(word),
            Kind::U32 | Kind::S32 => signed,
        }
    }

    /// The bits of a channel from a word, for formatted stores.
    pub(crate) fn narrow(self, word: u32) -> u32 {
        match self.kind {
            Kind::U8 | Kind::S8 => word & 0xff,
            Kind::U16 | Kind::S16 => word & 0xffff,
            Kind::F16 => f64_to_f16(f64::from(f32::from_bits(word)), 0),
            Kind::U32 | Kind::S32 | Kind::F32 => word,
        }
    }

    /// PTX ISA, "txq", channel_data_type: the numbers of OpenCL's channel types, which PTX shares.
    pub(crate) fn channel_type(self) -> u32 {
        match self.kind {
            Kind::S8 => 0x10d7,
            Kind::S16 => 0x10d8,
            Kind::S32 => 0x10d9,
            Kind::U8 => 0x10da,
            Kind::U16 => 0x10db,
            Kind::U32 => 0x10dc,
            Kind::F16 => 0x10dd,
            Kind::F32 => 0x10de,
        }
    }

    /// PTX ISA, "txq", channel_order: R, RG, RGBA.
    pub(crate) fn channel_order(self) -> u32 {
        match self.channels {
            1 => 0x10b0,
            2 => 0x10b2,
            _ => 0x10b5,
        }
    }
}

/// The linear light of an sRGB component (IEC 61966-2-1).
pub(crate) fn from_srgb(value: f32) -> f32 {
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_integers_become_fractions() {
        let format = |kind| Format { kind, channels: 1 };
        assert_eq!(format(Kind::U8).float(255), 1.0);
        assert_eq!(format(Kind::U8).float(51), 0.2);
        assert_eq!(format(Kind::S8).float(0x80), -1.0, "the most negative value is -1 as well");
        assert_eq!(format(Kind::S16).float(0x8001), -1.0);
        assert_eq!(format(Kind::U16).float(65535), 1.0);
        assert_eq!(format(Kind::F16).float(0x3c00), 1.0);
    }

    #[test]
    fn signed_channels_keep_their_sign() {
        assert_eq!(Format { kind: Kind::S8, channels: 4 }.word(0xff), u32::MAX);
        assert_eq!(Format { kind: Kind::U8, channels: 4 }.word(0xff), 255);
        assert_eq!(Format { kind: Kind::F16, channels: 4 }.narrow(1.0_f32.to_bits()), 0x3c00);
    }

    #[test]
    fn srgb_ends_are_its_ends() {
        assert_eq!(from_srgb(0.0), 0.0);
        assert!((from_srgb(1.0) - 1.0).abs() < 1e-6);
        assert!((from_srgb(0.5) - 0.214_041).abs() < 1e-5);
    }
}
