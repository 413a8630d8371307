//! `__managed__` variables: managed memory at an address that their module is told.
//!
//! The program reaches such a variable through a pointer that the runtime sets; kernels name it. Both must see one
//! address, so the variable is placed in managed memory of ours, and the module's PTX is rewritten: where the variable
//! is named, its address stands. The driver then has nothing to allocate, and machine code in the image is of no
//! use, because nothing in it can be replaced.

use cuda_types::{CuError, CuResult};

use crate::log;

/// A variable with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) address: u64,
}

/// The managed variables of a module, with their lengths. A text that cannot be read is the device's to refuse.
pub(crate) fn managed_variables(text: &str) -> Vec<(String, u64)> {
    if !text.contains(ATTRIBUTE) {
        return Vec::new();
    }
    let variables = ptx::Module::parse(text).map(|module| module.variables).unwrap_or_default();
    let managed = variables.into_iter().filter(|variable| variable.managed);
    managed.map(|variable| (variable.name.into(), variable.bytes)).collect()
}

/// The initial bytes of a managed variable of a module; shorter than it where zeros follow.
pub(crate) fn initial_bytes(text: &str, name: &str) -> CuResult<Option<Vec<u8>>> {
    let module = ptx::Module::parse(text).map_err(|error| {
        log::error(format_args!("the PTX with the __managed__ variable {name:?} cannot be read: {error}"));
        CuError::INVALID_PTX
    })?;
    let Some(variable) = module.variables.iter().find(|variable| &*variable.name == name && variable.managed)
    else {
        return Ok(None);
    };
    if !variable.relocations.is_empty() {
        log::error(format_args!(
            "{name:?}: a __managed__ variable that is initialised with an address is not supported"
        ));
        return Err(CuError::NOT_SUPPORTED);
    }
    Ok(Some(variable.init.clone()))
}

/// The module's text with addresses in place of the names of managed variables.
pub(crate) fn place(text: &str, variables: &[Placed]) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix(ATTRIBUTE) {
            // The variable itself stays, unused and the driver's: up to the end of its definition nothing is replaced.
            let end = after.find(';').map_or(after.len(), |end| end + 1);
            out.push_str(&after[..end]);
            rest = &after[end..];
        } else if first == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = &rest[..end];
            rest = &rest[end..];
            match address_of(word, &mut rest, variables) {
                Some(address) => out.push_str(&format!("{address:#x}")),
                None => out.push_str(word),
            }
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

const ATTRIBUTE: &str = ".attribute(.managed)";

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// The address that stands for `word`, with an offset behind it, or for `generic(word)`, which is taken off `rest`.
fn address_of(word: &str, rest: &mut &str, variables: &[Placed]) -> Option<u64> {
    let find =
        |name: &str| variables.iter().find(|variable| variable.name == name).map(|variable| variable.address);
    if word == "generic" {
        let (inner, after) = rest.trim_start().strip_prefix('(')?.split_once(')')?;
        let address = find(inner.trim())?;
        *rest = after;
        return Some(address);
    }
    let address = find(word)?;
    let sign = rest.trim_start();
    let Some(digits) = sign.strip_prefix(['+', '-']).map(str::trim_start) else { return Some(address) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let Ok(offset) = digits[..end].parse::<u64>() else { return Some(address) };
    *rest = &digits[end..];
    Some(if sign.starts_with('+') { address.wrapping_add(offset) } else { address.wrapping_sub(offset) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .global .attribute(.managed) .align 4 .u32 m = 5;\n.visible .global .attribute(.managed) .align 4 .b8 arr[64];\n.global .align 8 .u64 p = generic(arr);\n.visible .entry k() {\n.reg .b32 %m; .reg .b64 %rd1;\nld.global.u32 %m, [m];\nmov.u64 %rd1, arr;\nst.global.u32 [arr+12], %m;\nst.global.u32 [mm+4], %m;\n.file 1 \"m arr\"\nret; }\n";

    #[test]
    fn names_become_addresses_and_nothing_else_does() {
        let variables = [
            Placed { name: "m".into(), address: 0x2000_0000_1000 },
            Placed { name: "arr".into(), address: 0x2000_0000_2000 },
        ];
        let placed = place(TEXT, &variables);
        for line in [
            ".visible .global  .align 4 .u32 m = 5;",
            ".visible .global  .align 4 .b8 arr[64];",
            ".u64 p = 0x200000002000;",
            ".reg .b32 %m;",
            "ld.global.u32 %m, [0x200000001000];",
            "mov.u64 %rd1, 0x200000002000;",
            "st.global.u32 [0x20000000200c], %m;",
            "st.global.u32 [mm+4], %m;",
            "\"m arr\"",
        ] {
            assert!(placed.contains(line), "{line}\n{placed}");
        }
    }

    #[test]
    fn initial_values_are_found() {
        let text = TEXT.replace("st.global.u32 [mm+4], %m;\n.file 1 \"m arr\"\n", "");
        assert_eq!(initial_bytes(&text, "m"), Ok(Some(vec![5, 0, 0, 0])));
        assert_eq!(initial_bytes(&text, "arr"), Ok(Some(vec![])));
        assert_eq!(initial_bytes(&text, "p"), Ok(None), "no managed variable");
        assert_eq!(managed_variables(&text), [("m".to_owned(), 4), ("arr".to_owned(), 64)]);
        assert_eq!(managed_variables("not PTX, .attribute(.managed)"), []);
    }
}
