//! Operands of an instruction.

use crate::ast::{Body, Operand};
use crate::data::{hex_float, low, parse_integer};
use crate::error::SyntaxError;
use crate::lexer::Token;
use crate::parser::Parser;
use crate::scope::Local;

impl<'a> Parser<'a> {
    pub(crate) fn operand(&mut self, body: &mut Body) -> Result<Operand, SyntaxError> {
        let first = self.simple_operand(body)?;
        if self.take(b'|')? {
            let second = self.simple_operand(body)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple_operand(&mut self, body: &mut Body) -> Result<Operand, SyntaxError> {
        match self.lexer.token {
            Token::Punct(b'{') => Ok(Operand::Vector(self.group(body, b'}')?)),
            Token::Punct(b'(') => Ok(Operand::List(self.group(body, b')')?)),
            Token::Punct(b'[') => {
                let mut items = self.group(body, b']')?;
                // `[sym+4]` carries its offset in the item; one place for it is enough.
                let offset = match items.as_mut_slice() {
                    [Operand::Variable(_, offset) | Operand::Name(_, offset)] => std::mem::take(offset),
                    [Operand::Address(inner, offset)] if inner.len() == 1 => {
                        let (inner, offset) = (inner.remove(0), *offset);
                        items = vec![inner];
                        offset
                    }
                    _ => 0,
                };
                Ok(Operand::Address(items, offset))
            }
            Token::Punct(b'!') => {
                self.lexer.advance()?;
                let name = self.word()?;
                match self.scopes.lookup(name, body) {
                    Some(Local::Register(register)) => Ok(Operand::Not(register)),
                    _ => self.lexer.error(format!("{name} is not a predicate")),
                }
            }
            Token::Punct(b'-') | Token::Number(_) => self.number(body),
            Token::Word("_") => {
                self.lexer.advance()?;
                Ok(Operand::Sink)
            }
            Token::Word(name) => {
                self.lexer.advance()?;
                self.named(body, name)
            }
            other => self.lexer.error(format!("an operand is expected, found {other:?}")),
        }
    }

    fn named(&mut self, body: &mut Body, name: &'a str) -> Result<Operand, SyntaxError> {
        match self.scopes.lookup(name, body) {
            Some(Local::Register(register)) => {
                if let Token::Directive(part) = self.lexer.token
                    && self.lexer.is_adjacent()
                {
                    self.lexer.advance()?;
                    return Ok(Operand::Part(register, false, part.into()));
                }
                let offset = self.signed_offset()?;
                let register = Operand::Register(register);
                Ok(if offset == 0 { register } else { Operand::Address(vec![register], offset) })
            }
            Some(Local::Variable(variable)) => Ok(Operand::Variable(variable, self.signed_offset()?)),
            None if name == "WARP_SZ" => Ok(Operand::Int(32)),
            None if name.starts_with('%') => {
                let mut special = name[1..].to_owned();
                if let Token::Directive(component) = self.lexer.token
                    && self.lexer.is_adjacent()
                {
                    self.lexer.advance()?;
                    special.push('.');
                    special.push_str(component);
                }
                Ok(Operand::Special(special.into()))
            }
            None => {
                let id = self.scopes.refer(name, body);
                Ok(Operand::Name(id, self.signed_offset()?))
            }
        }
    }

    fn group(&mut self, body: &mut Body, close: u8) -> Result<Vec<Operand>, SyntaxError> {
        self.lexer.advance()?;
        let mut items = Vec::new();
        while !self.take(close)? {
            items.push(self.operand(body)?);
            if self.lexer.token != Token::Punct(close) {
                self.expect(b',')?;
            }
        }
        Ok(items)
    }

    fn number(&mut self, body: &mut Body) -> Result<Operand, SyntaxError> {
        let negative = self.take(b'-')?;
        if let (true, Token::Word(name)) = (negative, self.lexer.token) {
            self.lexer.advance()?;
            return match self.named(body, name)? {
                Operand::Register(register) => Ok(Operand::Part(register, true, "".into())),
                Operand::Part(register, _, part) => Ok(Operand::Part(register, true, part)),
                _ => self.lexer.error(format!("{name} cannot be negated")),
            };
        }
        let Token::Number(text) = self.lexer.token else {
            return self.lexer.error("a number is expected");
        };
        let operand = if let Some(bits) = hex_float(text, b'f', 8) {
            Operand::F32(low(bits) ^ if negative { 1 << 31 } else { 0 })
        } else if let Some(bits) = hex_float(text, b'd', 16) {
            Operand::F64(bits ^ if negative { 1 << 63 } else { 0 })
        } else if let Some(value) = parse_integer(text) {
            Operand::Int(if negative { value.wrapping_neg() } else { value })
        } else if let Ok(value) = text.parse::<f64>() {
            Operand::F64(if negative { -value } else { value }.to_bits())
        } else {
            return self.lexer.error(format!("{text} is not a number"));
        };
        self.lexer.advance()?;
        if let (Operand::Int(value), offset) = (&operand, self.signed_offset()?)
            && offset != 0
        {
            return Ok(Operand::Int(value.wrapping_add_signed(offset)));
        }
        Ok(operand)
    }
}
