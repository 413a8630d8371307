//! What can be wrong with the text.

use std::fmt;

/// The text is not PTX: `line {line}: {what}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyntaxError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What was found and what was expected.
    pub what: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for SyntaxError {}
