//! Names inside a function: registers by range, variables, labels, and what is still to be found.

use std::collections::HashMap;

use crate::ast::{Body, LabelId, Name, NameId, RegId, VarId};
use crate::types::ScalarType;

/// What a name of a scope stands for.
#[derive(Clone, Copy)]
pub(crate) enum Local {
    Register(RegId),
    Variable(VarId),
}

/// One `{ }`.
#[derive(Default)]
struct Scope {
    names: HashMap<Box<str>, Local>,
    /// `%r<100>`: prefix to how many and of which type; registers are made when they are first used.
    ranges: HashMap<Box<str>, (u32, ScalarType)>,
    labels: HashMap<Box<str>, Name>,
    /// Names used here that were no registers or variables.
    pending: Vec<NameId>,
}

/// The scopes around the current statement, innermost last.
#[derive(Default)]
pub(crate) struct Scopes {
    stack: Vec<Scope>,
}

impl Scopes {
    pub(crate) fn open(&mut self) {
        self.stack.push(Scope::default());
    }

    /// Leaves the innermost scope: labels of it are found now, all other names go to the scope around.
    pub(crate) fn close(&mut self, body: &mut Body) {
        let Some(scope) = self.stack.pop() else { return };
        for id in scope.pending {
            let entry = &mut body.names[id as usize];
            let Name::Symbol(text) = entry else { continue };
            if let Some(found) = scope.labels.get(text) {
                *entry = found.clone();
            } else if let Some(outer) = self.stack.last_mut() {
                outer.pending.push(id);
            }
        }
    }

    pub(crate) fn depth(&self) -> usize {
        self.stack.len()
    }

    pub(crate) fn declare(&mut self, name: &str, local: Local) {
        if let Some(scope) = self.stack.last_mut() {
            scope.names.insert(name.into(), local);
        }
    }

    pub(crate) fn declare_range(&mut self, prefix: &str, count: u32, ty: ScalarType) {
        if let Some(scope) = self.stack.last_mut() {
            scope.ranges.insert(prefix.into(), (count, ty));
        }
    }

    pub(crate) fn label(&mut self, name: &str, body: &mut Body) -> LabelId {
        let id = body.labels;
        body.labels += 1;
        self.mark(name, Name::Label(id));
        id
    }

    pub(crate) fn mark(&mut self, name: &str, meaning: Name) {
        if let Some(scope) = self.stack.last_mut() {
            scope.labels.insert(name.into(), meaning);
        }
    }

    pub(crate) fn lookup(&mut self, name: &str, body: &mut Body) -> Option<Local> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        let number: Option<u32> = number.parse().ok();
        for scope in self.stack.iter_mut().rev() {
            if let Some(&local) = scope.names.get(name) {
                return Some(local);
            }
            if let (Some(number), Some(&(count, ty))) = (number, scope.ranges.get(prefix))
                && number < count
            {
                let local = Local::Register(new_register(body, ty));
                scope.names.insert(name.into(), local);
                return Some(local);
            }
        }
        None
    }

    /// A name that is not a register or variable so far: a label ahead, or something at module level.
    pub(crate) fn refer(&mut self, name: &str, body: &mut Body) -> NameId {
        let id = u32::try_from(body.names.len()).unwrap_or(u32::MAX);
        body.names.push(Name::Symbol(name.into()));
        if let Some(scope) = self.stack.last_mut() {
            scope.pending.push(id);
        }
        id
    }
}

pub(crate) fn new_register(body: &mut Body, ty: ScalarType) -> RegId {
    body.registers.push(ty);
    u32::try_from(body.registers.len() - 1).unwrap_or(u32::MAX)
}
