//! Text to tokens, one ahead.

use crate::error::SyntaxError;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token<'a> {
    /// An identifier, with its leading `%`, `$` or `_`.
    Word(&'a str),
    /// `.name`, without the point.
    Directive(&'a str),
    /// A literal as written: `0x10`, `0f3F800000`, `1.5`.
    Number(&'a str),
    /// A string without its quotes.
    Text(&'a str),
    /// Anything else.
    Punct(u8),
    End,
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    /// The token ahead, where it starts, and its line.
    pub(crate) token: Token<'a>,
    pub(crate) start: usize,
    pub(crate) token_line: u32,
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, SyntaxError> {
        let mut lexer = Self { text, at: 0, line: 1, token: Token::End, start: 0, token_line: 1 };
        lexer.advance()?;
        Ok(lexer)
    }

    pub(crate) fn error<T>(&self, what: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.token_line, what: what.into() })
    }

    /// Takes the token ahead and reads the next.
    pub(crate) fn advance(&mut self) -> Result<Token<'a>, SyntaxError> {
        let taken = self.token;
        self.skip_blank()?;
        self.start = self.at;
        self.token_line = self.line;
        let bytes = self.text.as_bytes();
        self.token = match bytes.get(self.at) {
            None => Token::End,
            Some(b'.') if bytes.get(self.at + 1).is_some_and(|&b| is_word_byte(b)) => {
                self.at += 1;
                Token::Directive(self.run(true))
            }
            Some(b'"') => {
                let from = self.at + 1;
                match self.text[from..].find('"') {
                    Some(length) => {
                        self.at = from + length + 1;
                        Token::Text(&self.text[from..from + length])
                    }
                    None => return self.error("a string has no end"),
                }
            }
            Some(byte) if byte.is_ascii_digit() => Token::Number(self.number()),
            Some(&byte) if is_word_byte(byte) => Token::Word(self.run(false)),
            Some(b'%') if bytes.get(self.at + 1).is_some_and(|&b| is_word_byte(b)) => {
                let from = self.at;
                self.at += 1;
                self.run(false);
                Token::Word(&self.text[from..self.at])
            }
            Some(&byte) if byte.is_ascii() => {
                self.at += 1;
                Token::Punct(byte)
            }
            Some(_) => return self.error("a character that is not ASCII stands outside a comment"),
        };
        Ok(taken)
    }

    /// With a word ahead: the whole opcode, points included, as `ld.global.L2::128B.f32`; then advances beyond it.
    pub(crate) fn opcode(&mut self) -> Result<&'a str, SyntaxError> {
        let bytes = self.text.as_bytes();
        let mut end = self.start;
        while let Some(&byte) = bytes.get(end) {
            let double_colon = byte == b':' && bytes.get(end + 1) == Some(&b':');
            if double_colon {
                end += 1;
            } else if !is_word_byte(byte) && byte != b'.' {
                break;
            }
            end += 1;
        }
        let opcode = &self.text[self.start..end];
        self.at = end;
        self.advance()?;
        Ok(opcode)
    }

    /// Whether the word ahead is followed by a colon, that is, is a label.
    pub(crate) fn at_label(&self) -> bool {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t']);
        rest.starts_with(':') && !rest.starts_with("::")
    }

    /// Whether the token ahead stands directly behind the one before it.
    pub(crate) fn is_adjacent(&self) -> bool {
        self.start > 0 && !self.text.as_bytes()[self.start - 1].is_ascii_whitespace()
    }

    /// Forgets the rest of the line on which the token ahead stands.
    pub(crate) fn skip_line(&mut self) -> Result<(), SyntaxError> {
        if self.line == self.token_line {
            self.at = self.text[self.at..].find('\n').map_or(self.text.len(), |length| self.at + length);
        }
        self.advance().map(|_| ())
    }

    fn run(&mut self, with_colons: bool) -> &'a str {
        let bytes = self.text.as_bytes();
        let from = self.at;
        while let Some(&byte) = bytes.get(self.at) {
            if with_colons && byte == b':' && bytes.get(self.at + 1) == Some(&b':') {
                self.at += 2;
            } else if is_word_byte(byte) {
                self.at += 1;
            } else {
                break;
            }
        }
        &self.text[from..self.at]
    }

    fn number(&mut self) -> &'a str {
        let bytes = self.text.as_bytes();
        let from = self.at;
        let prefixed = bytes[from] == b'0'
            && bytes.get(from + 1).is_some_and(|b| matches!(b | 0x20, b'x' | b'f' | b'd' | b'b'));
        while let Some(&byte) = bytes.get(self.at) {
            let exponent_sign = matches!(byte, b'+' | b'-')
                && !prefixed
                && self.at > from
                && bytes[self.at - 1] | 0x20 == b'e';
            if byte.is_ascii_alphanumeric() || (byte == b'.' && !prefixed) || exponent_sign {
                self.at += 1;
            } else {
                break;
            }
        }
        &self.text[from..self.at]
    }

    fn skip_blank(&mut self) -> Result<(), SyntaxError> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'\n') => {
                    self.line += 1;
                    self.at += 1;
                }
                Some(byte) if byte.is_ascii_whitespace() => self.at += 1,
                Some(b'/') if bytes.get(self.at + 1) == Some(&b'/') => {
                    self.at = self.text[self.at..].find('\n').map_or(self.text.len(), |n| self.at + n);
                }
                Some(b'/') if bytes.get(self.at + 1) == Some(&b'*') => {
                    let Some(length) = self.text[self.at + 2..].find("*/") else {
                        return Err(SyntaxError { line: self.line, what: "a comment has no end".into() });
                    };
                    let comment = &self.text[self.at..self.at + 2 + length];
                    self.line += u32::try_from(comment.matches('\n').count()).unwrap_or(u32::MAX);
                    self.at += length + 4;
                }
                _ => return Ok(()),
            }
        }
    }
}
