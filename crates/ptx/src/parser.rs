//! Directives at module level, and the declarations shared with bodies.

use crate::ast::{Function, Limits, Linkage, Module, Opcode, OpcodeTable, Variable};
use crate::error::SyntaxError;
use crate::lexer::{Lexer, Token};
use crate::scope::Scopes;
use crate::types::{ScalarType, Space};

pub(crate) struct Parser<'a> {
    pub(crate) lexer: Lexer<'a>,
    pub(crate) scopes: Scopes,
    pub(crate) opcodes: Vec<Opcode>,
    pub(crate) opcode_ids: OpcodeTable,
    failed: Option<SyntaxError>,
}

impl<'a> Parser<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let (lexer, failed) = match Lexer::new(text) {
            Ok(lexer) => (lexer, None),
            Err(error) => (Lexer::new("").expect("an empty text has no mistakes"), Some(error)),
        };
        Self { lexer, scopes: Scopes::default(), opcodes: Vec::new(), opcode_ids: OpcodeTable::new(), failed }
    }

    pub(crate) fn module(mut self) -> Result<Module, SyntaxError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut module = Module { address_size: 64, ..Module::default() };
        while self.lexer.token != Token::End {
            self.top_level(&mut module)?;
        }
        if module.version == (0, 0) {
            return self.lexer.error("the text has no .version");
        }
        module.opcodes = self.opcodes;
        Ok(module)
    }

    fn top_level(&mut self, module: &mut Module) -> Result<(), SyntaxError> {
        if self.take(b';')? {
            return Ok(());
        }
        if self.lexer.token == Token::Punct(b'@') {
            return self.lexer.skip_line(); // @@DWARF
        }
        let Token::Directive(name) = self.lexer.token else {
            return self.lexer.error(format!("a directive is expected, found {:?}", self.lexer.token));
        };
        match name {
            "version" => {
                self.lexer.advance()?;
                let Token::Number(text) = self.lexer.advance()? else {
                    return self.lexer.error(".version needs a number");
                };
                let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
                module.version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
            }
            "target" => {
                self.lexer.advance()?;
                loop {
                    let word = self.word()?;
                    let digits: String = word.chars().filter(char::is_ascii_digit).collect();
                    if word.starts_with("sm_") || word.starts_with("compute_") {
                        module.target = digits.parse().unwrap_or(0);
                    }
                    if !self.take(b',')? {
                        break;
                    }
                }
            }
            "address_size" => {
                self.lexer.advance()?;
                module.address_size = self.small()?;
            }
            "file" | "loc" | "language_version" => self.lexer.skip_line()?,
            "section" => self.section()?,
            "pragma" => self.pragma()?,
            "alias" => {
                self.lexer.advance()?;
                let new = self.word()?.to_owned();
                self.expect(b',')?;
                let old = self.word()?.to_owned();
                self.expect(b';')?;
                module.aliases.push((new, old));
            }
            _ => self.declaration(module)?,
        }
        Ok(())
    }

    fn declaration(&mut self, module: &mut Module) -> Result<(), SyntaxError> {
        let mut linkage = Linkage::Private;
        loop {
            let Token::Directive(name) = self.lexer.token else {
                return self.lexer.error("a declaration is expected");
            };
            match name {
                "visible" => linkage = Linkage::Visible,
                "extern" => linkage = Linkage::Extern,
                "weak" => linkage = Linkage::Weak,
                "common" => linkage = Linkage::Common,
                "entry" | "func" => {
                    self.lexer.advance()?;
                    let function = self.function(name == "entry", linkage)?;
                    module.functions.push(function);
                    return Ok(());
                }
                _ if Space::parse(name).is_some() => {
                    return self.variables(linkage, &mut |_, variable| module.variables.push(variable));
                }
                _ => return self.lexer.error(format!("unknown directive .{name}")),
            }
            self.lexer.advance()?;
        }
    }

    fn function(&mut self, is_kernel: bool, linkage: Linkage) -> Result<Function, SyntaxError> {
        while let Token::Directive("attribute") = self.lexer.token {
            self.attribute()?;
        }
        let returns = if self.lexer.token == Token::Punct(b'(') { self.params()? } else { Vec::new() };
        let line = self.lexer.token_line;
        let name = self.word()?.into();
        let params = if self.lexer.token == Token::Punct(b'(') { self.params()? } else { Vec::new() };
        let mut function = Function {
            name,
            is_kernel,
            linkage,
            returns,
            params,
            limits: Limits::default(),
            body: None,
            line,
        };
        while let Token::Directive(name) = self.lexer.token {
            self.limit(name, &mut function.limits)?;
        }
        if !self.take(b';')? {
            self.expect(b'{')?;
            function.body = Some(self.body(&function)?);
        }
        Ok(function)
    }

    fn limit(&mut self, name: &str, limits: &mut Limits) -> Result<(), SyntaxError> {
        if name == "pragma" {
            return self.pragma();
        }
        if name == "attribute" {
            return self.attribute().map(|_| ());
        }
        self.lexer.advance()?;
        let mut values = Vec::new();
        if let Token::Number(_) = self.lexer.token {
            values.push(self.small()?);
            while self.take(b',')? {
                values.push(self.small()?);
            }
        }
        let extent = |at: usize| values.get(at).copied().unwrap_or(1);
        let extents = Some([extent(0), extent(1), extent(2)]);
        match name {
            "maxntid" => limits.max_threads = extents,
            "reqntid" => limits.required_threads = extents,
            "reqnctapercluster" => limits.cluster = extents,
            "minnctapersm" => limits.min_blocks = Some(extent(0)),
            "maxnreg" => limits.max_registers = Some(extent(0)),
            _ => {} // .noreturn, .explicitcluster, .abi_preserve: nothing that changes a result
        }
        Ok(())
    }

    /// `( .param .b32 a, .reg .u64 b )`, the opening parenthesis ahead.
    pub(crate) fn params(&mut self) -> Result<Vec<Variable>, SyntaxError> {
        self.expect(b'(')?;
        let mut params = Vec::new();
        while !self.take(b')')? {
            let Token::Directive(space) = self.lexer.token else {
                return self.lexer.error("a parameter declaration is expected");
            };
            let Some(space) = Space::parse(space) else {
                return self.lexer.error(format!(".{space} is not a state space of a parameter"));
            };
            self.lexer.advance()?;
            let (ty, align, vector) = self.variable_type()?;
            // `_` stands for the name in a call prototype.
            let name = self.word()?;
            params.push(self.variable(name, space, ty, align, vector, Linkage::Private)?);
            self.take(b',')?;
        }
        Ok(params)
    }

    /// A declaration of one or several variables, its space ahead, to its semicolon.
    pub(crate) fn variables(
        &mut self,
        linkage: Linkage,
        found: &mut dyn FnMut(&mut Self, Variable),
    ) -> Result<(), SyntaxError> {
        let Token::Directive(space) = self.lexer.advance()? else {
            return self.lexer.error("a state space is expected");
        };
        let space = Space::parse(space).unwrap_or(Space::Global);
        let mut managed = false;
        while let Token::Directive("attribute") = self.lexer.token {
            managed |= self.attribute()?;
        }
        // `.const[2]` names a bank of old.
        if self.take(b'[')? {
            self.integer()?;
            self.expect(b']')?;
        }
        let (ty, align, vector) = self.variable_type()?;
        loop {
            let name = self.word()?;
            if self.take(b'<')? {
                // A parametrised name of variables: `.param .b32 p<4>`.
                let count = self.small()?;
                self.expect(b'>')?;
                for index in 0..count {
                    let variable =
                        self.variable(&format!("{name}{index}"), space, ty, align, vector, linkage)?;
                    found(self, variable);
                }
            } else {
                let mut variable = self.variable(name, space, ty, align, vector, linkage)?;
                variable.managed = managed;
                if self.take(b'=')? {
                    self.initializer(&mut variable)?;
                }
                found(self, variable);
            }
            if !self.take(b',')? {
                return self.expect(b';');
            }
        }
    }

    /// `.align 8 .v4 .f32 .ptr .global .align 4`: type, alignment if written, vector length.
    pub(crate) fn variable_type(&mut self) -> Result<(ScalarType, Option<u32>, u32), SyntaxError> {
        let (mut ty, mut align, mut vector, mut pointer) = (None, None, 1, false);
        while let Token::Directive(name) = self.lexer.token {
            self.lexer.advance()?;
            match name {
                "align" => {
                    let written = self.small()?;
                    // Behind `.ptr` it is the alignment of what is pointed at.
                    if !pointer {
                        align = Some(written);
                    }
                }
                "v2" => vector = 2,
                "v4" => vector = 4,
                "v8" => vector = 8,
                "ptr" => pointer = true,
                _ if pointer && Space::parse(name).is_some() => {}
                _ => match ScalarType::parse(name) {
                    Some(found) => ty = Some(found),
                    None => return self.lexer.error(format!("unknown type .{name}")),
                },
            }
        }
        if align.is_some_and(|align| !align.is_power_of_two()) {
            return self.lexer.error("an alignment is not a power of two");
        }
        match ty {
            Some(ty) => Ok((ty, align, vector)),
            None => self.lexer.error("a type is expected"),
        }
    }

    fn variable(
        &mut self,
        name: &str,
        space: Space,
        ty: ScalarType,
        align: Option<u32>,
        vector: u32,
        linkage: Linkage,
    ) -> Result<Variable, SyntaxError> {
        let mut bytes = u64::from(ty.bytes()) * u64::from(vector);
        let align = align.unwrap_or(ty.bytes() * vector);
        let mut unsized_array = false;
        while self.take(b'[')? {
            if self.take(b']')? {
                unsized_array = true;
                continue;
            }
            let extent = self.integer()?;
            self.expect(b']')?;
            bytes = match bytes.checked_mul(extent) {
                Some(bytes) => bytes,
                None => return self.lexer.error(format!("{name} is too large")),
            };
        }
        if unsized_array {
            bytes = 0;
        }
        Ok(Variable {
            name: name.into(),
            space,
            ty,
            align,
            bytes,
            unsized_array,
            init: Vec::new(),
            relocations: Vec::new(),
            linkage,
            managed: false,
        })
    }

    /// `.attribute(.managed, .unified(1, 2))`; says whether it is managed.
    fn attribute(&mut self) -> Result<bool, SyntaxError> {
        self.lexer.advance()?;
        self.expect(b'(')?;
        let (mut depth, mut managed) = (1, false);
        while depth > 0 {
            match self.lexer.advance()? {
                Token::Punct(b'(') => depth += 1,
                Token::Punct(b')') => depth -= 1,
                Token::Directive("managed") => managed = true,
                Token::End => return self.lexer.error("an attribute has no end"),
                _ => {}
            }
        }
        Ok(managed)
    }

    /// `.pragma "a", "b";`
    pub(crate) fn pragma(&mut self) -> Result<(), SyntaxError> {
        while self.lexer.token != Token::Punct(b';') {
            if self.lexer.advance()? == Token::End {
                return self.lexer.error("a pragma has no end");
            }
        }
        self.expect(b';')
    }

    /// `.section .debug_info { ... }`: skipped, as it is for a debugger.
    fn section(&mut self) -> Result<(), SyntaxError> {
        while self.lexer.token != Token::Punct(b'{') {
            if self.lexer.advance()? == Token::End {
                return self.lexer.error("a section has no body");
            }
        }
        while self.lexer.token != Token::Punct(b'}') {
            if self.lexer.advance()? == Token::End {
                return self.lexer.error("a section has no end");
            }
        }
        self.expect(b'}')
    }

    pub(crate) fn take(&mut self, byte: u8) -> Result<bool, SyntaxError> {
        let there = self.lexer.token == Token::Punct(byte);
        if there {
            self.lexer.advance()?;
        }
        Ok(there)
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), SyntaxError> {
        if self.take(byte)? {
            return Ok(());
        }
        self.lexer.error(format!("'{}' is expected, found {:?}", char::from(byte), self.lexer.token))
    }

    pub(crate) fn word(&mut self) -> Result<&'a str, SyntaxError> {
        match self.lexer.token {
            Token::Word(word) => {
                self.lexer.advance()?;
                Ok(word)
            }
            other => self.lexer.error(format!("a name is expected, found {other:?}")),
        }
    }

    pub(crate) fn small(&mut self) -> Result<u32, SyntaxError> {
        let value = self.integer()?;
        match u32::try_from(value) {
            Ok(value) => Ok(value),
            Err(_) => self.lexer.error(format!("{value} is too large")),
        }
    }
}
