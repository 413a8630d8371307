//! What can go wrong before a kernel runs.

use std::fmt;

use cuda_types::CuError;

/// A kernel that cannot be compiled; other kernels of its module are not touched by that.
#[derive(Clone, Debug)]
pub struct CompileError {
    /// Name of the function, empty for a fault of this machine.
    pub function: String,
    /// The instruction as written.
    pub instruction: String,
    /// Its line.
    pub line: u32,
    /// What is not supported about it.
    pub what: String,
}

impl CompileError {
    pub(crate) fn host(what: impl fmt::Display) -> Self {
        Self { function: String::new(), instruction: String::new(), line: 0, what: what.to_string() }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, instruction, line, what } = self;
        if function.is_empty() {
            return write!(f, "the compiler failed: {what}");
        }
        write!(f, "{function}, line {line}: {instruction}: {what}")
    }
}

impl std::error::Error for CompileError {}

impl From<CompileError> for CuError {
    fn from(_: CompileError) -> Self {
        CuError::NOT_SUPPORTED
    }
}

/// PTX that could not be loaded.
#[derive(Clone, Debug)]
pub enum LoadError {
    /// The text is not PTX.
    Syntax(ptx::SyntaxError),
    /// two texts define {name}
    Duplicate(String),
    /// {name} is declared but no text defines it, and a variable's initial value needs its address
    Unresolved(String),
    /// no memory for the module's variables
    Memory,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "PTX, {error}"),
            Self::Duplicate(name) => write!(f, "two texts define {name}"),
            Self::Unresolved(name) => {
                write!(f, "no text defines {name}, whose address an initial value needs")
            }
            Self::Memory => write!(f, "no memory for the module's variables"),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<LoadError> for CuError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Syntax(_) | LoadError::Unresolved(_) | LoadError::Duplicate(_) => CuError::INVALID_PTX,
            LoadError::Memory => CuError::OUT_OF_MEMORY,
        }
    }
}
