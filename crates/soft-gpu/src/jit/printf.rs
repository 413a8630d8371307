//! Device `printf`: C's format with the arguments that the compiler packed, each at a multiple of its size.

/// Bytes of this process at an address that a program gave; `None` where nothing is mapped.
///
/// The kernel copies them, so that a wrong address is an answer and no fault.
pub(super) fn peek(address: u64, bytes: usize) -> Option<Vec<u8>> {
    let mut into = vec![0_u8; bytes];
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: bytes };
    let from = std::ptr::with_exposed_provenance_mut(usize::try_from(address).ok()?);
    let remote = libc::iovec { iov_base: from, iov_len: bytes };
    // SAFETY: `local` is our own buffer; `remote` is only read, and by the kernel, which answers EFAULT.
    let copied =
        unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(copied) == Ok(bytes)).then_some(into)
}

/// A C string of the device, at most 64 KiB.
pub(super) fn text(address: u64) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    while found.len() < 64 * 1024 {
        let at = address.checked_add(found.len() as u64)?;
        // Up to the end of a page, so that no read crosses into one that is not there.
        let room = usize::try_from(256 - at % 256).ok()?;
        let piece = peek(at, room)?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            found.extend_from_slice(&piece[..end]);
            return Some(found);
        }
        found.extend(piece);
    }
    Some(found)
}

/// Formats; answers the text and how many arguments it took (all ones if the arguments cannot be read).
pub(super) fn format(format: &[u8], arguments: u64) -> (Vec<u8>, u32) {
    let mut out = Vec::new();
    let mut packed = Packed { at: arguments, taken: 0 };
    let mut rest = format;
    while let Some(start) = rest.iter().position(|byte| *byte == b'%') {
        out.extend_from_slice(&rest[..start]);
        rest = &rest[start + 1..];
        if rest.first() == Some(&b'%') {
            out.push(b'%');
            rest = &rest[1..];
            continue;
        }
        let Some(spec) = Spec::parse(&mut rest, &mut packed) else {
            // CUDA C++ Programming Guide, "Format Specifiers": what is not one is printed as it stands.
            out.push(b'%');
            continue;
        };
        if !spec.print(&mut packed, &mut out) {
            return (out, u32::MAX);
        }
    }
    out.extend_from_slice(rest);
    (out, packed.taken)
}

/// The arguments, read one after the other.
struct Packed {
    at: u64,
    taken: u32,
}

impl Packed {
    fn word(&mut self, bytes: u64) -> Option<u64> {
        self.at = self.at.next_multiple_of(bytes);
        let piece = peek(self.at, usize::try_from(bytes).ok()?)?;
        self.at += bytes;
        self.taken += 1;
        let mut word = [0; 8];
        word.get_mut(..piece.len())?.copy_from_slice(&piece);
        Some(u64::from_le_bytes(word))
    }
}

/// One conversion specification.
#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternative: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    long: bool,
    kind: u8,
}

impl Spec {
    fn parse(rest: &mut &[u8], packed: &mut Packed) -> Option<Spec> {
        let mut spec = Spec::default();
        let mut bytes = *rest;
        while let Some((flag, after)) = bytes.split_first() {
            match flag {
                b'-' => spec.left = true,
                b'+' => spec.plus = true,
                b' ' => spec.space = true,
                b'#' => spec.alternative = true,
                b'0' => spec.zero = true,
                _ => break,
            }
            bytes = after;
        }
        spec.width = number(&mut bytes, packed)?.unwrap_or(0);
        if let Some((b'.', after)) = bytes.split_first() {
            bytes = after;
            spec.precision = Some(number(&mut bytes, packed)?.unwrap_or(0));
        }
        while let Some((size, after)) = bytes.split_first() {
            match size {
                b'l' | b'j' | b'z' | b't' => spec.long = true,
                b'h' => {}
                _ => break,
            }
            bytes = after;
        }
        let (kind, after) = bytes.split_first()?;
        if !b"diouxXcsfFeEgGaAp".contains(kind) {
            return None;
        }
        spec.kind = *kind;
        *rest = after;
        Some(spec)
    }

    /// Appends the converted argument; `false` if it cannot be read.
    fn print(&self, packed: &mut Packed, out: &mut Vec<u8>) -> bool {
        let body = match self.kind {
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                packed.word(8).map(|bits| self.number(&self.float(f64::from_bits(bits)), true))
            }
            b's' => packed.word(8).map(|address| {
                let mut found =
                    if address == 0 { b"(null)".to_vec() } else { text(address).unwrap_or_default() };
                found.truncate(self.precision.unwrap_or(usize::MAX));
                found
            }),
            b'p' => packed.word(8).map(|address| format!("{address:#x}").into_bytes()),
            b'c' => packed.word(4).map(|code| vec![code.to_le_bytes()[0]]),
            _ => packed.word(if self.long { 8 } else { 4 }).map(|word| self.integer(word)),
        };
        let Some(body) = body else { return false };
        let padding = self.width.saturating_sub(body.len());
        if self.left {
            out.extend(body);
            out.extend(std::iter::repeat_n(b' ', padding));
        } else {
            out.extend(std::iter::repeat_n(b' ', padding));
            out.extend(body);
        }
        true
    }

    fn integer(&self, word: u64) -> Vec<u8> {
        let signed = if self.long {
            word.cast_signed()
        } else {
            i64::from(u32::try_from(word & 0xffff_ffff).unwrap_or(0).cast_signed())
        };
        let (negative, mut digits) = match self.kind {
            b'd' | b'i' => (signed < 0, signed.unsigned_abs().to_string()),
            b'o' => (false, format!("{word:o}")),
            b'x' => (false, format!("{word:x}")),
            b'X' => (false, format!("{word:X}")),
            _ => (false, word.to_string()),
        };
        if let Some(precision) = self.precision {
            digits =
                if precision == 0 && word == 0 { String::new() } else { format!("{digits:0>precision$}") };
        }
        if self.alternative && word != 0 {
            digits = match self.kind {
                b'x' => format!("0x{digits}"),
                b'X' => format!("0X{digits}"),
                b'o' => format!("0{digits}"),
                _ => digits,
            };
        }
        let signed_kind = matches!(self.kind, b'd' | b'i');
        let text = if negative { format!("-{digits}") } else { digits };
        self.number_with(&text, signed_kind, self.precision.is_none())
    }

    fn number(&self, text: &str, signed: bool) -> Vec<u8> {
        self.number_with(text, signed, true)
    }

    /// Adds the sign that a flag asks for, and zeros up to the width.
    fn number_with(&self, text: &str, signed: bool, may_fill: bool) -> Vec<u8> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None if signed && self.plus => ("+", text),
            None if signed && self.space => (" ", text),
            None => ("", text),
        };
        let fill =
            if self.zero && !self.left && may_fill && digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
                self.width.saturating_sub(sign.len() + digits.len())
            } else {
                0
            };
        format!("{sign}{}{digits}", "0".repeat(fill)).into_bytes()
    }

    fn float(&self, value: f64) -> String {
        let upper = self.kind.is_ascii_uppercase();
        let text = if !value.is_finite() {
            let name = if value.is_nan() { "nan" } else { "inf" };
            if value.is_sign_negative() { format!("-{name}") } else { name.to_owned() }
        } else {
            let precision = self.precision.unwrap_or(6);
            match self.kind.to_ascii_lowercase() {
                b'e' => exponential(value, precision),
                b'g' => self.shortest(value, precision.max(1)),
                b'a' => hexadecimal(value),
                _ => format!("{value:.precision$}"),
            }
        };
        if upper { text.to_uppercase() } else { text }
    }

    /// `%g`: fixed or exponential by the exponent, without trailing zeros unless `#`.
    fn shortest(&self, value: f64, precision: usize) -> String {
        let scientific = exponential(value, precision - 1);
        let exponent: i32 =
            scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
        let trim = |text: &str| match text.contains('.') && !self.alternative {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text.to_owned(),
        };
        let digits = i32::try_from(precision).unwrap_or(i32::MAX);
        if exponent < -4 || exponent >= digits {
            let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
            return format!("{}e{exponent}", trim(mantissa));
        }
        let places = usize::try_from(digits - 1 - exponent).unwrap_or(0);
        trim(&format!("{value:.places$}"))
    }
}

fn number(bytes: &mut &[u8], packed: &mut Packed) -> Option<Option<usize>> {
    if let Some((b'*', after)) = bytes.split_first() {
        *bytes = after;
        return Some(usize::try_from(packed.word(4)?).ok());
    }
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (text, after) = bytes.split_at(digits);
    *bytes = after;
    // A field wider than this is a mistake, not a wish.
    Some(std::str::from_utf8(text).ok()?.parse().ok().map(|width: usize| width.min(4096)))
}

/// C's form of an exponent: a sign and at least two digits.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn hexadecimal(value: f64) -> String {
    let bits = value.to_bits();
    let sign = if value.is_sign_negative() { "-" } else { "" };
    let (exponent, fraction) = ((bits >> 52 & 0x7ff).cast_signed(), bits & ((1 << 52) - 1));
    let (lead, exponent) = match (exponent, fraction) {
        (0, 0) => (0, 0),
        (0, _) => (0, -1022),
        _ => (1, exponent - 1023),
    };
    let digits = format!("{fraction:013x}");
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    format!("{sign}0x{lead}{point}{digits}p{exponent:+}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str, words: &[u64]) -> String {
        let (out, _) = format(text.as_bytes(), words.as_ptr().expose_provenance() as u64);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn formats_as_c_does() {
        let f = |value: f64| value.to_bits();
        assert_eq!(
            printed("%5.2f|%-8.3e|%g|%g", &[f(2.7512), f(12345.678), f(0.0001), f(1e10)]),
            " 2.75|1.235e+04|0.0001|1e+10"
        );
        assert_eq!(
            printed("%lld %llu %llx %#llo", &[u64::MAX, u64::MAX, 255, 8]),
            "-1 18446744073709551615 ff 010"
        );
        assert_eq!(printed("%+d", &[7]), "+7");
        assert_eq!(printed("%08.3f%%", &[f(-1.5)]), "-001.500%");
        assert_eq!(printed("%g %G", &[f(f64::INFINITY), f(f64::NAN)]), "inf NAN");
        assert_eq!(printed("%a", &[f(1.5)]), "0x1.8p+0");
    }

    #[test]
    fn arguments_lie_at_multiples_of_their_size() {
        // An int, padding, a double, a char, an int.
        let words = [7_u64, 2.5_f64.to_bits(), u64::from(b'x') | 9 << 32];
        assert_eq!(printed("%d %.1f %c %d", &words), "7 2.5 x 9");
    }

    #[test]
    fn an_address_that_is_not_mapped_prints_nothing_and_answers_minus_one() {
        assert_eq!(format(b"%d", 16).1, u32::MAX);
        assert_eq!(text(16), None);
    }
}
