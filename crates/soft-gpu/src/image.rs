//! Linked PTX texts: every name resolved to memory, shared memory or a function.

use std::collections::HashMap;

use ptx::ast::Linkage;
use ptx::{Function, Module, Space, Variable};

/// What a name at module level stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Symbol {
    /// A global or constant variable in device memory.
    Memory { address: u64, bytes: u64 },
    /// A shared variable; its offset is a matter of each kernel.
    Shared(VariableId),
    /// A function or kernel with a body.
    Function(FunctionId),
    /// A function that the device brings.
    Builtin(Builtin),
}

/// A variable at module level of one of the texts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct VariableId {
    pub(crate) text: usize,
    pub(crate) variable: usize,
}

/// A function of one of the texts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct FunctionId {
    pub(crate) text: usize,
    pub(crate) function: usize,
}

impl FunctionId {
    /// The value of a device function pointer: no address, but the same in every kernel and launch.
    pub(crate) fn token(self) -> u64 {
        FUNCTION_TOKENS + (((self.text as u64) << 20 | self.function as u64) << 4)
    }
}

/// Functions that `.extern .func` may name without any text defining them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Builtin {
    Vprintf,
    AssertFail,
    Malloc,
    Free,
}

impl Builtin {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "vprintf" => Self::Vprintf,
            "__assertfail" => Self::AssertFail,
            "malloc" => Self::Malloc,
            "free" => Self::Free,
            _ => return None,
        })
    }
}

/// Texts with their names resolved.
pub(crate) struct Image {
    pub(crate) texts: Vec<Module>,
    scopes: Vec<HashMap<Box<str>, Symbol>>,
}

/// Where a variable of global or constant space goes.
pub(crate) struct Placement {
    pub(crate) id: VariableId,
    pub(crate) offset: u64,
}

/// Whether a text calls what [`CONDITIONS`] defines.
pub(crate) fn needs_conditions(texts: &[Module]) -> bool {
    let called = |function: &Function| {
        function.body.is_none()
            && matches!(&*function.name, "cudaGraphSetConditional" | "vgpu_set_conditional")
    };
    texts.iter().flat_map(|text| &text.functions).any(called)
}

/// Sets the value of a conditional node of a graph, which NVIDIA's driver defines for its own handles. Here a handle
/// is the address of the value. The second name is for clients that ask whether this device has it so.
pub(crate) const CONDITIONS: &str = "
.version 7.0
.target sm_50
.address_size 64

.weak .func vgpu_set_conditional(.param .b64 handle, .param .b32 value)
{
    .reg .b64 %place;
    .reg .b32 %value;
    ld.param.b64 %place, [handle];
    ld.param.b32 %value, [value];
    st.b32 [%place], %value;
    ret;
}

.weak .func cudaGraphSetConditional(.param .b64 handle, .param .b32 value)
{
    .reg .b64 %place;
    .reg .b32 %value;
    ld.param.b64 %place, [handle];
    ld.param.b32 %value, [value];
    st.b32 [%place], %value;
    ret;
}
";

/// Links texts: one definition per visible name, the first of several weak ones.
///
/// `place` is told the bytes that all variables need and answers the address where they begin.
pub(crate) fn link<E>(
    texts: Vec<Module>,
    place: impl FnOnce(u64) -> Result<u64, E>,
) -> Result<(Image, Vec<Placement>, u64), LinkFailure<E>> {
    let mut exported: HashMap<Box<str>, (Symbol, Linkage)> = HashMap::new();
    let mut placements = Vec::new();
    let mut end = 0_u64;
    let mut scopes: Vec<HashMap<Box<str>, Symbol>> = vec![HashMap::new(); texts.len()];
    for (text, module) in texts.iter().enumerate() {
        for (variable, declared) in module.variables.iter().enumerate() {
            let id = VariableId { text, variable };
            if declared.space == Space::Shared {
                scopes[text].insert(declared.name.clone(), Symbol::Shared(id));
                continue;
            }
            if declared.linkage == Linkage::Extern {
                continue;
            }
            // Offsets for now; the base is added when all is known.
            let offset = end.next_multiple_of(u64::from(declared.align).max(16));
            end = offset + declared.bytes.max(1);
            placements.push(Placement { id, offset });
            let symbol = Symbol::Memory { address: offset, bytes: declared.bytes };
            scopes[text].insert(declared.name.clone(), symbol);
            export(&mut exported, &declared.name, symbol, declared.linkage)?;
        }
        for (function, declared) in module.functions.iter().enumerate() {
            if declared.body.is_none() {
                continue;
            }
            let symbol = Symbol::Function(FunctionId { text, function });
            scopes[text].insert(declared.name.clone(), symbol);
            export(&mut exported, &declared.name, symbol, declared.linkage)?;
        }
    }
    // A weak definition gives way to the one chosen, in its own text too.
    for (text, module) in texts.iter().enumerate() {
        let names =
            module.variables.iter().map(named_variable).chain(module.functions.iter().map(named_function));
        for (name, linkage, defined) in names {
            if linkage == Linkage::Private && defined {
                continue;
            }
            let found = exported.get(name).map(|(symbol, _)| *symbol);
            let builtin = || Builtin::named(name).map(Symbol::Builtin);
            // An extern shared array stays the text's own.
            if (!scopes[text].contains_key(name) || linkage == Linkage::Weak)
                && let Some(symbol) = found.or_else(builtin)
            {
                scopes[text].insert(name.into(), symbol);
            }
        }
        for (new, old) in &module.aliases {
            if let Some(&symbol) = scopes[text].get(old.as_str()) {
                scopes[text].insert(new.as_str().into(), symbol);
            }
        }
    }
    let base = place(end).map_err(LinkFailure::Memory)?;
    for symbol in scopes.iter_mut().flat_map(HashMap::values_mut) {
        if let Symbol::Memory { address, .. } = symbol {
            *address += base;
        }
    }
    Ok((Image { texts, scopes }, placements, base))
}

/// Why texts do not go together.
#[derive(Debug)]
pub(crate) enum LinkFailure<E> {
    /// Two texts define this name.
    Twice(Box<str>),
    /// No memory for the variables.
    Memory(E),
}

fn export<E>(
    exported: &mut HashMap<Box<str>, (Symbol, Linkage)>,
    name: &str,
    symbol: Symbol,
    linkage: Linkage,
) -> Result<(), LinkFailure<E>> {
    match (exported.get(name).map(|(_, linkage)| *linkage), linkage) {
        (_, Linkage::Private | Linkage::Extern) | (Some(_), Linkage::Weak | Linkage::Common) => {}
        (Some(Linkage::Visible), Linkage::Visible) => return Err(LinkFailure::Twice(name.into())),
        _ => {
            exported.insert(name.into(), (symbol, linkage));
        }
    }
    Ok(())
}

fn named_variable(variable: &Variable) -> (&str, Linkage, bool) {
    (&variable.name, variable.linkage, variable.linkage != Linkage::Extern)
}

fn named_function(function: &Function) -> (&str, Linkage, bool) {
    (&function.name, function.linkage, function.body.is_some())
}

impl Image {
    /// What a name means in one of the texts.
    pub(crate) fn symbol(&self, text: usize, name: &str) -> Option<Symbol> {
        self.scopes[text].get(name).copied()
    }

    pub(crate) fn function(&self, id: FunctionId) -> &Function {
        &self.texts[id.text].functions[id.function]
    }

    pub(crate) fn variable(&self, id: VariableId) -> &Variable {
        &self.texts[id.text].variables[id.variable]
    }

    /// Every function that has a body.
    pub(crate) fn functions(&self) -> impl Iterator<Item = FunctionId> + '_ {
        self.texts.iter().enumerate().flat_map(|(text, module)| {
            let bodies = module.functions.iter().enumerate().filter(|(_, f)| f.body.is_some());
            bodies.map(move |(function, _)| FunctionId { text, function })
        })
    }
}

/// Where tokens of function pointers begin: no address that a user process can have.
pub(crate) const FUNCTION_TOKENS: u64 = 0x0f00_0000_0000_0000;
