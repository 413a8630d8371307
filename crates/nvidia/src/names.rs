//! The names of a module's variables. The driver finds a variable by name but cannot list them, so they are read from
//! the image: from the symbol table of machine code, or from the declarations of PTX text.

use std::collections::BTreeSet;

use fatbin::{Cubin, Image, Kind};

/// The names of all variables that an image may define. Some may not be there after linking.
pub(crate) fn variables(image: &[u8]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    match Image::classify(image) {
        Ok(Image::Ptx(text)) => names.extend(ptx_variables(text)),
        Ok(Image::Elf(bytes)) => names.extend(cubin_variables(bytes)),
        Ok(Image::Fatbin(fatbin)) => {
            // Every image of a container is made from one source: the first that can be read tells all names.
            for entry in fatbin.entries() {
                match entry.kind() {
                    Kind::PTX => {
                        names.extend(entry.ptx().map(|text| ptx_variables(&text)).unwrap_or_default())
                    }
                    Kind::ELF => {
                        names.extend(entry.payload().map(|bytes| cubin_variables(&bytes)).unwrap_or_default())
                    }
                    _ => {}
                }
                if !names.is_empty() {
                    break;
                }
            }
        }
        Err(_) => {}
    }
    names
}

/// An image that cannot be read defines nothing that we know of; loading it tells what is wrong.
fn cubin_variables(bytes: &[u8]) -> Vec<String> {
    let variables = Cubin::parse(bytes).map(|cubin| cubin.variables).unwrap_or_default();
    variables.into_iter().map(|variable| variable.name).collect()
}

/// The names after `.global` and `.const`. As words of their own these stand only in declarations; in instructions
/// they are parts of a longer word (`ld.global.f32`). PTX ISA, "State spaces".
fn ptx_variables(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word != ".global" && word != ".const" {
            continue;
        }
        while let Some(word) = words.peek() {
            if *word == ".align" {
                words.next();
                words.next();
            } else if word.starts_with('.') {
                words.next();
            } else {
                break;
            }
        }
        let declared = words.next().unwrap_or_default();
        let name = declared.split(['[', ';', '=', ',']).next().unwrap_or_default();
        if !name.is_empty() && !name.starts_with(['(', '{']) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_found_and_instructions_are_not() {
        let text = ".version 9.0\n.target sm_75\n.address_size 64\n\
            .visible .global .align 4 .u32 counter = 41;\n\
            .visible .const .align 8 .b8 settings[24];\n\
            .global .align 1 .b8 $str[6] = {104, 101, 108, 108, 111, 0};\n\
            .weak .global .attribute(.managed) .align 8 .f64 shared_one;\n\
            .visible .entry k(.param .u64 k_param_0) { ld.global.f32 %f1, [%rd1]; cvta.to.global.u64 %rd2, %rd1; }";
        assert_eq!(ptx_variables(text), ["counter", "settings", "$str", "shared_one"]);
    }
}
