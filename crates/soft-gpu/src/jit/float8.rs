//! Floating values of eight bits and fewer (PTX ISA, "Alternate Floating-Point Data Formats").
//!
//! Called by generated code through their addresses, with the C calling convention; none of them panics.

/// A format: digits of its fraction, its least exponent, and the code of its greatest value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Format {
    E4m3,
    E5m2,
    E2m3,
    E3m2,
    E2m1,
}

impl Format {
    const ALL: [Self; 5] = [Self::E4m3, Self::E5m2, Self::E2m3, Self::E3m2, Self::E2m1];

    /// The format of a packed pair: `e4m3x2`.
    pub(crate) fn of_pair(name: &str) -> Option<Self> {
        Some(match name {
            "e4m3x2" => Self::E4m3,
            "e5m2x2" => Self::E5m2,
            "e2m3x2" => Self::E2m3,
            "e3m2x2" => Self::E3m2,
            "e2m1x2" => Self::E2m1,
            _ => return None,
        })
    }

    /// Bits of a value with its sign; a pair has two in 16 bits, of `e2m1` in 8.
    pub(crate) fn bits(self) -> u32 {
        if self == Self::E2m1 { 4 } else { 8 }
    }

    fn shape(self) -> (i32, i32, u32, u32) {
        match self {
            Self::E4m3 => (3, -6, 0x7e, 0x80),
            Self::E5m2 => (2, -14, 0x7b, 0x80),
            Self::E2m3 => (3, 0, 0x1f, 0x20),
            Self::E3m2 => (2, -2, 0x1f, 0x20),
            Self::E2m1 => (1, 0, 0x7, 0x8),
        }
    }

    fn widen(self, code: u32) -> f32 {
        let (digits, least, greatest, sign) = self.shape();
        let magnitude = code & (sign - 1);
        let value = match self {
            Self::E4m3 if magnitude > greatest => f32::NAN,
            Self::E5m2 if magnitude == greatest + 1 => f32::INFINITY,
            Self::E5m2 if magnitude > greatest => f32::NAN,
            _ => {
                let (exponent, fraction) = (magnitude >> digits, magnitude & ((1 << digits) - 1));
                let whole = if exponent == 0 { fraction } else { fraction | 1 << digits };
                let exponent = least + exponent.saturating_sub(1).cast_signed() - digits;
                whole as f32 * 2.0_f32.powi(exponent)
            }
        };
        if code & sign == 0 { value } else { -value }
    }

    /// Rounds to the nearest even; beyond the greatest value, infinity included, it is that value.
    fn narrow(self, value: f32) -> u32 {
        let (digits, least, greatest, sign) = self.shape();
        if value.is_nan() {
            // The formats without a NaN give their greatest value.
            return if matches!(self, Self::E4m3 | Self::E5m2) { 0x7f } else { greatest };
        }
        let sign = if value.is_sign_negative() { sign } else { 0 };
        let magnitude = f64::from(value.abs());
        if magnitude.is_infinite() {
            return sign | greatest;
        }
        let exponent = i32::try_from(magnitude.to_bits() >> 52).unwrap_or(0) - 1023;
        let exponent = exponent.max(least);
        let scaled = (magnitude * 2.0_f64.powi(digits - exponent)).round_ties_even();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 2^4")]
        let whole = scaled as u64;
        // Consecutive values have consecutive codes, across exponents too.
        let code = (u64::from((exponent - least).unsigned_abs()) << digits) + whole;
        sign | u32::try_from(code).unwrap_or(u32::MAX).min(greatest)
    }
}

/// A value of a format, given in the low bits.
pub(crate) extern "C" fn widen(code: u32, format: u32) -> f32 {
    Format::ALL.get(format as usize).map_or(0.0, |format| format.widen(code))
}

/// Rounds to a format, with `.satfinite`; `relu` turns negative values into zero.
pub(crate) extern "C" fn narrow(value: f32, format: u32, relu: u32) -> u32 {
    let value = if relu != 0 && value < 0.0 { 0.0 } else { value };
    Format::ALL.get(format as usize).map_or(0, |format| format.narrow(value))
}

pub(crate) fn e4m3_to_f32(code: u32) -> f32 {
    Format::E4m3.widen(code)
}

pub(crate) fn e5m2_to_f32(code: u32) -> f32 {
    Format::E5m2.widen(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_way_to_f32_and_back() {
        for format in Format::ALL {
            for code in 0..1 << format.bits().min(if format == Format::E2m1 { 4 } else { 8 }) {
                let (_, _, greatest, sign) = format.shape();
                if code & (sign - 1) <= greatest && code < 2 * sign {
                    assert_eq!(format.narrow(format.widen(code)), code, "{format:?} {code:#x}");
                }
            }
        }
    }

    #[test]
    fn the_greatest_values_are_those_of_the_manual() {
        assert_eq!(Format::E4m3.widen(0x7e), 448.0);
        assert_eq!(Format::E5m2.widen(0x7b), 57344.0);
        assert_eq!(Format::E2m3.widen(0x1f), 7.5);
        assert_eq!(Format::E3m2.widen(0x1f), 28.0);
        assert_eq!(Format::E2m1.widen(0x7), 6.0);
        assert_eq!(Format::E4m3.narrow(-1e9), 0xfe);
        assert_eq!(Format::E4m3.narrow(f32::NAN), 0x7f);
        assert_eq!(Format::E5m2.narrow(f32::INFINITY), 0x7b);
    }
}
