//! Statements of a function.

use crate::ast::{Body, Function, Instruction, Linkage, Name, Opcode, Prototype, RegId, Statement, Variable};
use crate::error::SyntaxError;
use crate::lexer::Token;
use crate::parser::Parser;
use crate::scope::{Local, new_register};
use crate::types::Space;

impl<'a> Parser<'a> {
    /// The statements up to the brace that closes the function; the opening one is taken.
    pub(crate) fn body(&mut self, function: &Function) -> Result<Body, SyntaxError> {
        let mut body = Body::default();
        self.scopes.open();
        for param in function.returns.iter().chain(&function.params) {
            self.add_variable(&mut body, param.clone());
        }
        let outside = self.scopes.depth();
        self.scopes.open();
        while self.scopes.depth() > outside {
            self.statement(&mut body)?;
        }
        self.scopes.close(&mut body);
        Ok(body)
    }

    fn add_variable(&mut self, body: &mut Body, variable: Variable) {
        let id = u32::try_from(body.variables.len()).unwrap_or(u32::MAX);
        self.scopes.declare(&variable.name, Local::Variable(id));
        body.variables.push(variable);
    }

    fn statement(&mut self, body: &mut Body) -> Result<(), SyntaxError> {
        match self.lexer.token {
            Token::Punct(b'{') => {
                self.lexer.advance()?;
                self.scopes.open();
            }
            Token::Punct(b'}') => {
                self.lexer.advance()?;
                self.scopes.close(body);
            }
            Token::Punct(b';') => {
                self.lexer.advance()?;
            }
            Token::Punct(b'@') => {
                self.lexer.advance()?;
                if self.take(b'@')? {
                    return self.lexer.skip_line();
                }
                let negated = self.take(b'!')?;
                let name = self.word()?;
                let Some(Local::Register(register)) = self.scopes.lookup(name, body) else {
                    return self.lexer.error(format!("{name} is not a predicate"));
                };
                self.instruction(body, Some((register, negated)))?;
            }
            Token::Directive(name) => self.directive(body, name)?,
            Token::Word(name) if self.lexer.at_label() => {
                self.lexer.advance()?;
                self.expect(b':')?;
                match self.lexer.token {
                    Token::Directive("callprototype") => self.prototype(body, name)?,
                    Token::Directive("branchtargets" | "calltargets") => self.targets(body, name)?,
                    _ => {
                        let id = self.scopes.label(name, body);
                        body.statements.push(Statement::Label(id));
                    }
                }
            }
            Token::Word(_) => self.instruction(body, None)?,
            other => return self.lexer.error(format!("a statement is expected, found {other:?}")),
        }
        Ok(())
    }

    fn directive(&mut self, body: &mut Body, name: &str) -> Result<(), SyntaxError> {
        match name {
            "reg" => self.registers(body),
            "loc" | "file" => self.lexer.skip_line(),
            "pragma" => self.pragma(),
            _ if Space::parse(name).is_some() => {
                self.variables(Linkage::Private, &mut |parser, variable| parser.add_variable(body, variable))
            }
            _ => self.lexer.error(format!("unknown directive .{name} in a function")),
        }
    }

    fn registers(&mut self, body: &mut Body) -> Result<(), SyntaxError> {
        self.lexer.advance()?;
        let (ty, _, vector) = self.variable_type()?;
        if vector != 1 {
            return self.lexer.error("registers of a vector type are not supported");
        }
        loop {
            let name = self.word()?;
            if self.take(b'<')? {
                let count = self.small()?;
                self.expect(b'>')?;
                self.scopes.declare_range(name, count, ty);
            } else {
                let id: RegId = new_register(body, ty);
                self.scopes.declare(name, Local::Register(id));
            }
            if !self.take(b',')? {
                return self.expect(b';');
            }
        }
    }

    fn prototype(&mut self, body: &mut Body, name: &str) -> Result<(), SyntaxError> {
        self.lexer.advance()?;
        let returns = if self.lexer.token == Token::Punct(b'(') { self.params()? } else { Vec::new() };
        self.word()?; // `_`, or the name of nothing
        let params = if self.lexer.token == Token::Punct(b'(') { self.params()? } else { Vec::new() };
        while let Token::Directive(_) = self.lexer.token {
            self.lexer.advance()?; // .noreturn, .abi_preserve
        }
        self.expect(b';')?;
        let id = u32::try_from(body.prototypes.len()).unwrap_or(u32::MAX);
        body.prototypes.push(Prototype { returns, params });
        self.scopes.mark(name, Name::Prototype(id));
        Ok(())
    }

    fn targets(&mut self, body: &mut Body, name: &str) -> Result<(), SyntaxError> {
        self.lexer.advance()?;
        let mut targets = Vec::new();
        while !self.take(b';')? {
            let target = self.word()?;
            targets.push(self.scopes.refer(target, body));
            self.take(b',')?;
        }
        let id = u32::try_from(body.branch_targets.len()).unwrap_or(u32::MAX);
        body.branch_targets.push(targets);
        self.scopes.mark(name, Name::Targets(id));
        Ok(())
    }

    fn instruction(&mut self, body: &mut Body, guard: Option<(RegId, bool)>) -> Result<(), SyntaxError> {
        let line = self.lexer.token_line;
        let Token::Word(_) = self.lexer.token else {
            return self.lexer.error(format!("an instruction is expected, found {:?}", self.lexer.token));
        };
        let text = self.lexer.opcode()?;
        let opcode = match self.opcode_ids.get(text) {
            Some(&id) => id,
            None => {
                let id = u32::try_from(self.opcodes.len()).unwrap_or(u32::MAX);
                self.opcodes.push(Opcode::new(text));
                self.opcode_ids.insert(text.into(), id);
                id
            }
        };
        let mut operands = Vec::new();
        while !self.take(b';')? {
            operands.push(self.operand(body)?);
            if self.lexer.token != Token::Punct(b';') {
                self.expect(b',')?;
            }
        }
        body.statements.push(Statement::Instruction(Instruction { guard, opcode, operands, line }));
        Ok(())
    }
}
