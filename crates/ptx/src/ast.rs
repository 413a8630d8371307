//! What the parser gives: a module in small indices.

use std::collections::HashMap;

use crate::error::SyntaxError;
use crate::layout::ParamLayout;
use crate::parser::Parser;
use crate::types::{ScalarType, Space};

/// A parsed PTX text.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// `.version`: major, minor.
    pub version: (u32, u32),
    /// `.target`: 80 for `sm_80`, `sm_80a` and `compute_80`.
    pub target: u32,
    /// `.address_size`: 64 unless the text says 32.
    pub address_size: u32,
    /// Variables at module level, in order.
    pub variables: Vec<Variable>,
    /// Kernels, functions and declarations of functions, in order.
    pub functions: Vec<Function>,
    /// Every opcode spelling of the module once; instructions name them by index.
    pub opcodes: Vec<Opcode>,
    /// `.alias` directives: new name, old name.
    pub aliases: Vec<(String, String)>,
}

impl Module {
    /// Parses a whole text; a NUL ends it, as it does in a container.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let text = text.split('\0').next().unwrap_or_default();
        Parser::new(text).module()
    }

    /// The opcode of an instruction.
    pub fn opcode(&self, instruction: &Instruction) -> &Opcode {
        &self.opcodes[instruction.opcode as usize]
    }
}

/// The spelling of an instruction, taken apart at its points.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opcode {
    /// As written: `ld.global.nc.f32`.
    pub text: Box<str>,
    /// `["ld", "global", "nc", "f32"]`.
    pub parts: Vec<Box<str>>,
}

impl Opcode {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), parts: text.split('.').map(Into::into).collect() }
    }

    /// The first part: `ld`.
    pub fn name(&self) -> &str {
        &self.parts[0]
    }

    /// Whether the modifier stands anywhere after the name.
    pub fn has(&self, modifier: &str) -> bool {
        self.parts[1..].iter().any(|part| &**part == modifier)
    }

    /// The types it names, in order: `[F32, S32]` for `cvt.rn.f32.s32`.
    pub fn types(&self) -> Vec<ScalarType> {
        self.parts[1..].iter().filter_map(|part| ScalarType::parse(part)).collect()
    }
}

/// Who else sees a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Linkage {
    /// Only this text.
    #[default]
    Private,
    /// `.visible`
    Visible,
    /// `.extern`: defined elsewhere.
    Extern,
    /// `.weak`: one of several equal definitions.
    Weak,
    /// `.common`: tentative.
    Common,
}

/// A variable of any space, at module level or in a function, a parameter included.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Name as written.
    pub name: Box<str>,
    /// Where it lives.
    pub space: Space,
    /// Element type.
    pub ty: ScalarType,
    /// Alignment in bytes, written or natural.
    pub align: u32,
    /// All bytes of it; 0 for `.extern .shared x[]`.
    pub bytes: u64,
    /// Whether it was declared without an extent: `x[]`.
    pub unsized_array: bool,
    /// Initial bytes; shorter than `bytes` where zeros follow.
    pub init: Vec<u8>,
    /// Words of the initial bytes that are addresses.
    pub relocations: Vec<Relocation>,
    /// Who else sees it.
    pub linkage: Linkage,
    /// `.attribute(.managed)`
    pub managed: bool,
}

/// A word of an initialiser that holds an address.
#[derive(Clone, Debug)]
pub struct Relocation {
    /// Where in the variable, in bytes.
    pub offset: u64,
    /// How wide the word is, in bytes.
    pub width: u32,
    /// Whose address.
    pub symbol: Box<str>,
    /// Added to the address.
    pub addend: i64,
    /// Whether the generic address is meant: `generic(symbol)`.
    pub generic: bool,
}

/// A kernel, a function, or the declaration of one.
#[derive(Clone, Debug)]
pub struct Function {
    /// Name as written.
    pub name: Box<str>,
    /// `.entry` rather than `.func`.
    pub is_kernel: bool,
    /// Who else sees it.
    pub linkage: Linkage,
    /// Return parameters; none for a kernel.
    pub returns: Vec<Variable>,
    /// Parameters.
    pub params: Vec<Variable>,
    /// `.maxntid`, `.reqntid` and their like, missing extents 1.
    pub limits: Limits,
    /// What it does; `None` for a declaration.
    pub body: Option<Body>,
    /// Line of its name.
    pub line: u32,
}

impl Function {
    /// Where the parameters of a kernel lie when they are packed in order.
    pub fn param_layout(&self) -> Vec<ParamLayout> {
        ParamLayout::packed(&self.params)
    }
}

/// Performance-tuning directives of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// `.maxntid`
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`
    pub min_blocks: Option<u32>,
    /// `.maxnreg`
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`
    pub cluster: Option<[u32; 3]>,
}

/// What a function does.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Registers that are used, of all nested scopes.
    pub registers: Vec<ScalarType>,
    /// Returns, then parameters, then local variables of all nested scopes.
    pub variables: Vec<Variable>,
    /// Names that are not registers or variables of the function.
    pub names: Vec<Name>,
    /// `.callprototype` declarations: returns and parameters.
    pub prototypes: Vec<Prototype>,
    /// `.branchtargets` lists.
    pub branch_targets: Vec<Vec<NameId>>,
    /// Instructions and labels in order.
    pub statements: Vec<Statement>,
    /// How many labels there are.
    pub labels: u32,
}

/// The shape of a function that is called through a pointer.
#[derive(Clone, Debug, Default)]
pub struct Prototype {
    /// Return parameters.
    pub returns: Vec<Variable>,
    /// Parameters.
    pub params: Vec<Variable>,
}

/// Index into [`Body::registers`].
pub type RegId = u32;
/// Index into [`Body::variables`].
pub type VarId = u32;
/// Index into [`Body::names`].
pub type NameId = u32;
/// A label of a body.
pub type LabelId = u32;

/// What a name in a body stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Name {
    /// A label of this body.
    Label(LabelId),
    /// Index into [`Body::prototypes`].
    Prototype(u32),
    /// Index into [`Body::branch_targets`].
    Targets(u32),
    /// A variable or function at module level, perhaps of another module.
    Symbol(Box<str>),
}

/// One line of a body.
#[derive(Clone, Debug)]
pub enum Statement {
    /// A label stands here.
    Label(LabelId),
    /// An instruction.
    Instruction(Instruction),
}

/// An instruction with its operands.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// `@p` or `@!p`: the register, and whether it is negated.
    pub guard: Option<(RegId, bool)>,
    /// Index into [`Module::opcodes`].
    pub opcode: u32,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// Line of the opcode.
    pub line: u32,
}

/// An operand.
#[derive(Clone, PartialEq, Debug)]
pub enum Operand {
    /// A register.
    Register(RegId),
    /// `!p`: a negated predicate.
    Not(RegId),
    /// `%r.b0`, `-%r`, `-%r.h1`: a part of a register, perhaps negated; an empty name is the whole.
    Part(RegId, bool, Box<str>),
    /// `-%r` or a negated literal is folded; this is the integer literal's bits.
    Int(u64),
    /// `0f3F800000`
    F32(u32),
    /// `0d3FF0000000000000` or a decimal floating literal.
    F64(u64),
    /// `%tid.x`, `%laneid` ... without the per cent sign.
    Special(Box<str>),
    /// The address of a variable of the function, plus an offset.
    Variable(VarId, i64),
    /// A label, function, prototype or variable at module level, plus an offset.
    Name(NameId, i64),
    /// `[base + offset]`; in `tex`, several items.
    Address(Vec<Operand>, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `(a, b)`
    List(Vec<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Sink,
}

pub(crate) type OpcodeTable = HashMap<Box<str>, u32>;
