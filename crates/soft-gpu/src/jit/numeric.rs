//! Arithmetic that has no instruction: directed rounding, halves, approximations.
//!
//! Every function here is called by generated code through its address, with the C calling convention, and never
//! panics.

use std::arch::asm;

/// A rounding mode other than to the nearest even. The discriminants travel to helpers; 0 there is the nearest even.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rounding {
    /// `.rz`: towards zero.
    Zero = 1,
    /// `.rm`: towards minus infinity.
    Down = 2,
    /// `.rp`: towards plus infinity.
    Up = 3,
}

impl Rounding {
    /// The mode that an opcode names, if it is not the nearest even.
    pub(crate) fn of(has: impl Fn(&str) -> bool) -> Option<Rounding> {
        [("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)]
            .into_iter()
            .find(|(modifier, _)| has(modifier))
            .map(|(_, rounding)| rounding)
    }
}

/// The SSE control word with all exceptions masked, and a rounding mode in bits 13 and 14 (Intel SDM, "MXCSR").
const fn control(mode: u32) -> u32 {
    0x1f80
        | match mode {
            1 => 3 << 13,
            2 => 1 << 13,
            3 => 2 << 13,
            _ => 0,
        }
}

/// One instruction between two switches of the control word: the compiler cannot move anything in between.
macro_rules! directed {
    ($name:ident, $type:ty, $instruction:literal) => {
        extern "C" fn $name<const MODE: u32>(a: $type, b: $type) -> $type {
            let (mut saved, wanted, mut result) = (0_u32, control(MODE), a);
            // SAFETY: changes only the rounding mode, and restores it before anything else runs.
            unsafe {
                asm!(
                    "stmxcsr [{saved}]",
                    "ldmxcsr [{wanted}]",
                    $instruction,
                    "ldmxcsr [{saved}]",
                    saved = in(reg) &raw mut saved,
                    wanted = in(reg) &raw const wanted,
                    result = inout(xmm_reg) result,
                    b = in(xmm_reg) b,
                    options(nostack),
                );
            }
            result
        }
    };
}

directed!(add32, f32, "addss {result}, {b}");
directed!(sub32, f32, "subss {result}, {b}");
directed!(mul32, f32, "mulss {result}, {b}");
directed!(div32, f32, "divss {result}, {b}");
directed!(sqrt32, f32, "sqrtss {result}, {result} /* {b} */");
directed!(add64, f64, "addsd {result}, {b}");
directed!(sub64, f64, "subsd {result}, {b}");
directed!(mul64, f64, "mulsd {result}, {b}");
directed!(div64, f64, "divsd {result}, {b}");
directed!(sqrt64, f64, "sqrtsd {result}, {result} /* {b} */");

macro_rules! directed_fused {
    ($name:ident, $type:ty, $instruction:literal) => {
        extern "C" fn $name<const MODE: u32>(a: $type, b: $type, c: $type) -> $type {
            let (mut saved, wanted, mut result) = (0_u32, control(MODE), a);
            // SAFETY: as above; `rounded` gives this function out only where the processor has FMA.
            unsafe {
                asm!(
                    "stmxcsr [{saved}]",
                    "ldmxcsr [{wanted}]",
                    $instruction,
                    "ldmxcsr [{saved}]",
                    saved = in(reg) &raw mut saved,
                    wanted = in(reg) &raw const wanted,
                    result = inout(xmm_reg) result,
                    b = in(xmm_reg) b,
                    c = in(xmm_reg) c,
                    options(nostack),
                );
            }
            result
        }
    };
}

directed_fused!(fma32, f32, "vfmadd213ss {result}, {b}, {c}");
directed_fused!(fma64, f64, "vfmadd213sd {result}, {b}, {c}");

/// `sqrt` takes one operand; the two-operand form ignores its second.
macro_rules! one_operand {
    ($name:ident, $two:ident, $type:ty) => {
        extern "C" fn $name<const MODE: u32>(a: $type) -> $type {
            $two::<MODE>(a, a)
        }
    };
}

one_operand!(root32, sqrt32, f32);
one_operand!(root64, sqrt64, f64);

macro_rules! address {
    ($function:ident, $rounding:expr, ($($type:ty),*) -> $result:ty) => {
        match $rounding {
            Rounding::Zero => $function::<1> as extern "C" fn($($type),*) -> $result as usize,
            Rounding::Down => $function::<2> as extern "C" fn($($type),*) -> $result as usize,
            Rounding::Up => $function::<3> as extern "C" fn($($type),*) -> $result as usize,
        }
    };
}

/// The address of an operation in a rounding mode; `None` where this processor cannot do it.
pub(crate) fn rounded(name: &str, rounding: Rounding, double: bool) -> Option<usize> {
    Some(match (name, double) {
        ("add", false) => address!(add32, rounding, (f32, f32) -> f32),
        ("add", true) => address!(add64, rounding, (f64, f64) -> f64),
        ("sub", false) => address!(sub32, rounding, (f32, f32) -> f32),
        ("sub", true) => address!(sub64, rounding, (f64, f64) -> f64),
        ("mul", false) => address!(mul32, rounding, (f32, f32) -> f32),
        ("mul", true) => address!(mul64, rounding, (f64, f64) -> f64),
        ("div", false) => address!(div32, rounding, (f32, f32) -> f32),
        ("div", true) => address!(div64, rounding, (f64, f64) -> f64),
        ("sqrt", false) => address!(root32, rounding, (f32) -> f32),
        ("sqrt", true) => address!(root64, rounding, (f64) -> f64),
        ("fma", _) if !std::arch::is_x86_feature_detected!("fma") => return None,
        ("fma", false) => address!(fma32, rounding, (f32, f32, f32) -> f32),
        ("fma", true) => address!(fma64, rounding, (f64, f64, f64) -> f64),
        _ => return None,
    })
}

extern "C" fn fused32(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

extern "C" fn fused64(a: f64, b: f64, c: f64) -> f64 {
    a.mul_add(b, c)
}

/// A fused multiply-add for a processor without one.
pub(crate) fn fused(double: bool) -> usize {
    if double {
        fused64 as extern "C" fn(f64, f64, f64) -> f64 as usize
    } else {
        fused32 as extern "C" fn(f32, f32, f32) -> f32 as usize
    }
}

/// A fused multiply-add whose lost digits leave the last one odd, so that rounding it again is rounding once.
/// The product of `a` and `b` must be exact in f64.
pub(crate) extern "C" fn fused_odd(a: f64, b: f64, c: f64) -> f64 {
    let product = a * b;
    let sum = product + c;
    if !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // What the sum lost, exactly (Knuth's two-sum).
    let from_c = sum - product;
    let lost = (product - (sum - from_c)) + (c - from_c);
    if lost == 0.0 {
        return sum;
    }
    // An even neighbour: the odd one lies on the side of what was lost.
    let away = (lost > 0.0) == (sum > 0.0);
    f64::from_bits(if away { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

extern "C" fn sin(x: f32) -> f32 {
    x.sin()
}
extern "C" fn cos(x: f32) -> f32 {
    x.cos()
}
extern "C" fn ex2(x: f32) -> f32 {
    x.exp2()
}
extern "C" fn lg2(x: f32) -> f32 {
    x.log2()
}
extern "C" fn tanh(x: f32) -> f32 {
    x.tanh()
}

/// The address of a function that PTX has only as an approximation; the C library's is closer than the manual asks.
pub(crate) fn approximation(name: &str, double: bool) -> Option<usize> {
    let function: extern "C" fn(f32) -> f32 = match name {
        _ if double => return None,
        "sin" => sin,
        "cos" => cos,
        "ex2" => ex2,
        "lg2" => lg2,
        "tanh" => tanh,
        _ => return None,
    };
    Some(function as usize)
}

macro_rules! convert {
    ($name:ident, $from:ty, $to:ty, $instruction:literal, $class:ident) => {
        extern "C" fn $name<const MODE: u32>(a: $from) -> $to {
            let (mut saved, wanted) = (0_u32, control(MODE));
            let result: $to;
            // SAFETY: as above.
            unsafe {
                asm!(
                    "stmxcsr [{saved}]",
                    "ldmxcsr [{wanted}]",
                    $instruction,
                    "ldmxcsr [{saved}]",
                    saved = in(reg) &raw mut saved,
                    wanted = in(reg) &raw const wanted,
                    result = out(xmm_reg) result,
                    a = in($class) a,
                    options(nostack),
                );
            }
            result
        }
    };
}

convert!(s64_to_f32, i64, f32, "cvtsi2ss {result}, {a}", reg);
convert!(s64_to_f64, i64, f64, "cvtsi2sd {result}, {a}", reg);
convert!(f64_to_f32, f64, f32, "cvtsd2ss {result}, {a}", xmm_reg);

/// Unsigned words with the top bit set: halve, keeping the lost bit sticky, convert, double.
macro_rules! unsigned {
    ($name:ident, $signed:ident, $to:ty) => {
        extern "C" fn $name<const MODE: u32>(a: u64) -> $to {
            match i64::try_from(a) {
                Ok(a) => $signed::<MODE>(a),
                Err(_) => 2.0 * $signed::<MODE>((a >> 1 | a & 1).cast_signed()),
            }
        }
    };
}

unsigned!(u64_to_f32, s64_to_f32, f32);
unsigned!(u64_to_f64, s64_to_f64, f64);

/// The address of a conversion from a 64-bit integer.
pub(crate) fn int_to_float(rounding: Rounding, signed: bool, double: bool) -> usize {
    match (signed, double) {
        (true, false) => address!(s64_to_f32, rounding, (i64) -> f32),
        (true, true) => address!(s64_to_f64, rounding, (i64) -> f64),
        (false, false) => address!(u64_to_f32, rounding, (u64) -> f32),
        (false, true) => address!(u64_to_f64, rounding, (u64) -> f64),
    }
}

/// The address of `cvt.f32.f64` in a rounding mode.
pub(crate) fn narrow(rounding: Rounding) -> usize {
    address!(f64_to_f32, rounding, (f64) -> f32)
}

/// A half, given in the low 16 bits.
pub(crate) extern "C" fn f16_to_f32(half: u32) -> f32 {
    let sign = (half & 0x8000) << 16;
    let (exponent, fraction) = (half >> 10 & 0x1f, half & 0x3ff);
    match exponent {
        0 => {
            // Subnormal: a multiple of 2^-24, exact in f32.
            let magnitude = fraction as f32 * f32::from_bits(0x3380_0000);
            f32::from_bits(magnitude.to_bits() | sign)
        }
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

/// Rounds to a half; see [`Rounding`] for `mode`.
pub(crate) extern "C" fn f64_to_f16(value: f64, mode: u32) -> u32 {
    round_to(value, mode, 10, -14, 15)
}

/// Rounds to a bfloat16.
pub(crate) extern "C" fn f64_to_bf16(value: f64, mode: u32) -> u32 {
    round_to(value, mode, 7, -126, 127)
}

/// Rounds to a 16-bit format of `digits` fraction bits and exponents from `least` to `most`.
fn round_to(value: f64, mode: u32, digits: i32, least: i32, most: i32) -> u32 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let infinity = u32::try_from((2 * most + 1) << digits).unwrap_or(0);
    if value.is_nan() {
        return 0x7fff;
    }
    let magnitude = value.abs();
    if magnitude.is_infinite() {
        return sign | infinity;
    }
    let bits = magnitude.to_bits();
    let exponent = i32::try_from(bits >> 52).unwrap_or(0) - 1023;
    // The weight of the last digit that is kept.
    let quantum = exponent.max(least) - digits;
    let scaled = magnitude * power_of_two(-quantum);
    let down = scaled.floor();
    let rest = scaled - down;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^12 by construction")]
    let whole = down as u32;
    let up = match mode {
        1 => false,
        2 => sign != 0 && rest > 0.0,
        3 => sign == 0 && rest > 0.0,
        _ => rest > 0.5 || rest == 0.5 && whole & 1 == 1,
    };
    let whole = whole + u32::from(up);
    // Consecutive values have consecutive codes, across exponents too.
    let base = u32::try_from((exponent.max(least) - least) << digits).unwrap_or(0);
    let code = base + whole;
    let overflow = code >= infinity;
    match (overflow, mode) {
        (false, _) => sign | code,
        (true, 1) => sign | (infinity - 1),
        (true, 2) if sign == 0 => infinity - 1,
        (true, 3) if sign != 0 => sign | (infinity - 1),
        (true, _) => sign | infinity,
    }
}

fn power_of_two(exponent: i32) -> f64 {
    2.0_f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directed_rounding_brackets_the_exact_result() {
        let (low, high) = (div32::<2>(1.0, 3.0), div32::<3>(1.0, 3.0));
        assert!(low < high && f64::from(low) < 1.0 / 3.0 && f64::from(high) > 1.0 / 3.0);
        assert_eq!(high.to_bits() - low.to_bits(), 1);
        assert_eq!(div32::<1>(-1.0, 3.0), -low);
        assert_eq!(add32::<3>(1.0, 1e-30), 1.0 + f32::EPSILON);
        assert_eq!(1.0_f32 / 3.0, 1.0 / 3.0, "the mode is back");
        assert_eq!(u64_to_f32::<1>(u64::MAX), 18_446_742_974_197_923_840.0);
        assert_eq!(u64_to_f32::<3>(u64::MAX), 18_446_744_073_709_551_616.0);
    }

    #[test]
    fn every_half_survives_the_way_to_f32_and_back() {
        for half in 0..=0xffff_u32 {
            let wide = f16_to_f32(half);
            let back = f64_to_f16(f64::from(wide), 0);
            assert!(back == half || wide.is_nan() && back == 0x7fff, "{half:#06x} {wide} {back:#06x}");
        }
    }

    #[test]
    fn halves_round_to_the_nearest_even_and_overflow_to_infinity() {
        assert_eq!(f64_to_f16(1.0 + 1.0 / 2048.0, 0), 0x3c00);
        assert_eq!(f64_to_f16(1.0 + 3.0 / 2048.0, 0), 0x3c02);
        assert_eq!(f64_to_f16(65519.0, 0), 0x7bff);
        assert_eq!(f64_to_f16(65520.0, 0), 0x7c00);
        assert_eq!(f64_to_f16(1e9, 1), 0x7bff);
        assert_eq!(f64_to_f16(2.0_f64.powi(-25), 0), 0);
        assert_eq!(f64_to_f16(2.0_f64.powi(-25), 3), 1);
        assert_eq!(f64_to_bf16(1.0, 0), 0x3f80);
        assert_eq!(f64_to_bf16(f64::from(f32::MAX), 0), 0x7f80);
    }
}
