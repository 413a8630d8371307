//! PTX text to a checked module: the whole syntax, none of the meaning.
//!
//! The parser resolves scopes (registers, labels, parameters and variables of nested blocks), so that what it gives
//! speaks in small indices. It does not know instructions: an opcode is its text with its modifiers, and whoever
//! compiles a kernel says which of them it can do. So a module with ten thousand lines that are never launched
//! loads, whatever these lines hold; a mistake of syntax is an error with its line.
//!
//! Layout:
//! * [`ast`]: what comes out: [`Module`], [`Function`], [`Body`], [`Instruction`], [`Operand`]
//! * [`types`]: scalar types and state spaces
//! * [`layout`]: where kernel parameters lie
//! * `lexer`: text to tokens
//! * `scope`: names inside a function
//! * `parser`: directives at module level; `body`: statements; `operand`: operands; `data`: initialisers

#![forbid(unsafe_code)]

pub mod ast;
pub mod layout;
pub mod types;

mod body;
mod data;
mod error;
mod lexer;
mod operand;
mod parser;
mod scope;

pub use ast::{Body, Function, Instruction, Module, Opcode, Operand, Statement, Variable};
pub use error::SyntaxError;
pub use layout::ParamLayout;
pub use types::{ScalarType, Space};
