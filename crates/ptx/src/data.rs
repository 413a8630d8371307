//! Initialisers: bytes and addresses.

use crate::ast::{Relocation, Variable};
use crate::error::SyntaxError;
use crate::lexer::Token;
use crate::parser::Parser;
use crate::types::ScalarType;

impl<'a> Parser<'a> {
    /// After `=`: fills `init` and `relocations` of the variable.
    pub(crate) fn initializer(&mut self, variable: &mut Variable) -> Result<(), SyntaxError> {
        self.initial_value(variable)?;
        if variable.unsized_array {
            variable.bytes = variable.init.len() as u64;
        }
        if variable.init.len() as u64 > variable.bytes {
            return self.lexer.error(format!("the initialiser of {} is longer than it", variable.name));
        }
        Ok(())
    }

    fn initial_value(&mut self, variable: &mut Variable) -> Result<(), SyntaxError> {
        if self.take(b'{')? {
            while !self.take(b'}')? {
                self.initial_value(variable)?;
                self.take(b',')?;
            }
            return Ok(());
        }
        let width = variable.ty.bytes();
        match self.lexer.token {
            Token::Word(word) => {
                self.lexer.advance()?;
                // `0xFF(symbol)` masks select a byte of an address; `generic(symbol)` is its generic address.
                let generic = word == "generic" && self.take(b'(')?;
                let symbol = if generic { self.word()? } else { word };
                let mut addend = self.signed_offset()?;
                if generic {
                    self.expect(b')')?;
                    addend += self.signed_offset()?;
                }
                let offset = variable.init.len() as u64;
                variable.relocations.push(Relocation {
                    offset,
                    width,
                    symbol: symbol.into(),
                    addend,
                    generic,
                });
                variable.init.extend(std::iter::repeat_n(0, width as usize));
            }
            _ => {
                let bits = self.literal_bits(variable.ty)?;
                variable.init.extend_from_slice(&bits.to_le_bytes()[..width.min(8) as usize]);
                variable.init.extend(std::iter::repeat_n(0, width.saturating_sub(8) as usize));
            }
        }
        Ok(())
    }

    /// `+4`, `-4` or nothing.
    pub(crate) fn signed_offset(&mut self) -> Result<i64, SyntaxError> {
        let mut total = 0_i64;
        loop {
            let negative = if self.take(b'+')? {
                false
            } else if self.lexer.token == Token::Punct(b'-') {
                self.lexer.advance()?;
                true
            } else {
                return Ok(total);
            };
            let negative = negative ^ self.take(b'-')?;
            let value = self.integer()?.cast_signed();
            total = total.wrapping_add(if negative { value.wrapping_neg() } else { value });
        }
    }

    /// An unsigned integer literal.
    pub(crate) fn integer(&mut self) -> Result<u64, SyntaxError> {
        let Token::Number(text) = self.lexer.token else {
            return self.lexer.error("an integer is expected");
        };
        match parse_integer(text) {
            Some(value) => {
                self.lexer.advance()?;
                Ok(value)
            }
            None => self.lexer.error(format!("{text} is not an integer")),
        }
    }

    fn literal_bits(&mut self, ty: ScalarType) -> Result<u64, SyntaxError> {
        let negative = self.take(b'-')?;
        let Token::Number(text) = self.lexer.token else {
            return self.lexer.error("a number is expected in the initialiser");
        };
        self.lexer.advance()?;
        if let Some(bits) = hex_float(text, b'f', 8) {
            let bits = if negative { bits ^ (1 << 31) } else { bits };
            return Ok(if ty == ScalarType::F64 {
                f64::from(f32::from_bits(low(bits))).to_bits()
            } else {
                bits
            });
        }
        if let Some(bits) = hex_float(text, b'd', 16) {
            let bits = if negative { bits ^ (1 << 63) } else { bits };
            #[allow(
                clippy::cast_possible_truncation,
                reason = "a constant of f64 written for a variable of f32"
            )]
            let narrowed = f64::from_bits(bits) as f32;
            return Ok(if ty == ScalarType::F32 { narrowed.to_bits().into() } else { bits });
        }
        if let Some(value) = parse_integer(text) {
            let value = if negative { value.wrapping_neg() } else { value };
            return Ok(value);
        }
        match text.parse::<f64>() {
            Ok(value) => {
                let value = if negative { -value } else { value };
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "the literal is rounded to the variable's type"
                )]
                let narrowed = value as f32;
                Ok(if ty == ScalarType::F32 { narrowed.to_bits().into() } else { value.to_bits() })
            }
            Err(_) => self.lexer.error(format!("{text} is not a number")),
        }
    }
}

/// The low word of literal bits.
pub(crate) fn low(bits: u64) -> u32 {
    u32::try_from(bits & 0xffff_ffff).expect("masked above")
}

/// `0f` or `0d` and exactly `digits` hexadecimal digits.
pub(crate) fn hex_float(text: &str, letter: u8, digits: usize) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != digits + 2 || bytes[0] != b'0' || bytes[1] | 0x20 != letter {
        return None;
    }
    u64::from_str_radix(&text[2..], 16).ok()
}

/// PTX ISA, "Integer Constants": decimal, hexadecimal, octal, binary, with an optional `U`.
pub(crate) fn parse_integer(text: &str) -> Option<u64> {
    let text = text.strip_suffix(['U', 'u']).unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()
    } else if let Some(binary) = text.strip_prefix("0b").or_else(|| text.strip_prefix("0B")) {
        u64::from_str_radix(binary, 2).ok()
    } else if text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()) {
        u64::from_str_radix(text, 8).ok()
    } else {
        text.parse().ok()
    }
}
