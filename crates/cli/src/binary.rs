//! What an ELF file says about itself: what it needs, where it looks for it, and how CUDA's runtime comes into it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, ReadCache, ReadRef};

type Elf<'a> = ElfFile64<'a, LittleEndian, &'a ReadCache<File>>;

/// A file that this machine's loader could load.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Binary {
    pub(crate) soname: Option<String>,
    /// The libraries that it names.
    pub(crate) needed: Vec<String>,
    /// Folders that are searched before LD_LIBRARY_PATH, with `$ORIGIN` in place.
    pub(crate) rpath: Vec<PathBuf>,
    /// Folders that are searched after it.
    pub(crate) runpath: Vec<PathBuf>,
    /// Whether a dynamic loader starts it.
    pub(crate) has_interpreter: bool,
    /// Functions of CUDA that it takes from libraries.
    pub(crate) imports: BTreeSet<String>,
    /// Functions with names like CUDA's that it gives to others.
    pub(crate) exports: BTreeSet<String>,
    pub(crate) runtime: Runtime,
}

/// How CUDA's runtime comes into a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// Not at all.
    #[default]
    None,
    /// From a library: its major, if the name tells.
    Shared(Option<u32>),
    /// Linked in, with a symbol table: its major, and the functions that the rest of the file calls.
    Static { major: Option<u32>, called: BTreeSet<String> },
    /// There is device code, and neither a library nor a symbol table that tells where the runtime is.
    Stripped,
}

/// A file that cannot be loaded, and what it is instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotLoadable {
    /// No ELF file: a script, most likely.
    NotElf,
    /// For another kind of machine.
    OtherMachine(String),
    /// It could not be read.
    Unreadable(String),
}

impl Binary {
    /// Reads a file; only what is looked at.
    pub(crate) fn read(path: &Path) -> Result<Binary, NotLoadable> {
        let unreadable = |error: &dyn std::fmt::Display| NotLoadable::Unreadable(error.to_string());
        let file = File::open(path).map_err(|error| unreadable(&error))?;
        let cache = ReadCache::new(file);
        let Ok(ident) = (&cache).read_bytes_at(0, 20) else { return Err(NotLoadable::NotElf) };
        if !ident.starts_with(b"\x7fELF") {
            return Err(NotLoadable::NotElf);
        }
        // System V ABI, "ELF Header": class at 4, data at 5, machine at 18.
        let machine = u16::from_le_bytes([ident[18], ident[19]]);
        if (ident[4], ident[5], machine) != (2, 1, EM_X86_64) {
            return Err(NotLoadable::OtherMachine(machine_name(ident[4], machine)));
        }
        let elf = Elf::parse(&cache).map_err(|error| unreadable(&error))?;
        Ok(Binary::of(&elf, &cache, path))
    }

    fn of(elf: &Elf<'_>, cache: &ReadCache<File>, path: &Path) -> Binary {
        let mut binary = Binary::default();
        let endian = LittleEndian;
        if let Ok(table) = elf.elf_dynamic_table() {
            let text = |entry| table.string(entry).map(|text| String::from_utf8_lossy(text).into_owned());
            for entry in &table {
                match entry.tag {
                    DT_NEEDED => binary.needed.extend(text(entry)),
                    DT_SONAME => binary.soname = text(entry).ok(),
                    DT_RPATH => binary.rpath.extend(text(entry).iter().flat_map(|list| folders(list, path))),
                    DT_RUNPATH => {
                        binary.runpath.extend(text(entry).iter().flat_map(|list| folders(list, path)));
                    }
                    _ => {}
                }
            }
        }
        // ld.so(8): DT_RPATH is ignored where DT_RUNPATH exists.
        if !binary.runpath.is_empty() {
            binary.rpath.clear();
        }
        let headers = elf.elf_header().program_headers(endian, cache).unwrap_or_default();
        binary.has_interpreter =
            headers.iter().any(|header| matches!(header.interpreter(endian, cache), Ok(Some(_))));
        for symbol in elf.dynamic_symbols() {
            let Some(name) = symbol.name().ok().filter(|name| is_cuda(name)) else { continue };
            let names = if symbol.is_undefined() { &mut binary.imports } else { &mut binary.exports };
            names.insert(name.to_owned());
        }
        binary.runtime = runtime(elf, &binary);
        binary
    }
}

/// The folders of a run path. ld.so(8): `$ORIGIN` is the folder of the file itself.
fn folders(list: &str, file: &Path) -> Vec<PathBuf> {
    let file = file.canonicalize().unwrap_or_else(|_| file.to_path_buf());
    let origin = file.parent().unwrap_or(Path::new("/")).display().to_string();
    let entries = list.split(':').filter(|entry| !entry.is_empty());
    entries.map(|entry| entry.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into()).collect()
}

/// Whether a name is one of CUDA's runtime or driver.
fn is_cuda(name: &str) -> bool {
    let name = name.strip_prefix("__").unwrap_or(name);
    let rest = name.strip_prefix("cuda").or_else(|| name.strip_prefix("cu"));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// Whether a name is one of CUDA's runtime.
pub(crate) fn is_of_runtime(name: &str) -> bool {
    name.trim_start_matches('_').starts_with("cuda")
}

fn runtime(elf: &Elf<'_>, binary: &Binary) -> Runtime {
    let named = binary.needed.iter().find_map(|name| name.strip_prefix("libcudart.so"));
    if let Some(rest) = named {
        return Runtime::Shared(rest.trim_start_matches('.').split('.').next().and_then(|n| n.parse().ok()));
    }
    // As the client libraries decide it (entry/common/src/redirect/plan.rs): names by which NVIDIA's archive is known.
    if elf.symbols().any(|symbol| symbol.name().is_ok_and(|name| name.starts_with("libcudart_static_"))) {
        return linked_in(elf);
    }
    if binary.imports.contains("__cudaRegisterFatBinary") {
        return Runtime::Shared(None);
    }
    if elf.section_by_name(".nvFatBinSegment").is_some() { Runtime::Stripped } else { Runtime::None }
}

/// All of NVIDIA's archive is linked in, whatever is used of it; what is used is what the rest of the code calls.
fn linked_in(elf: &Elf<'_>) -> Runtime {
    let mut functions = BTreeMap::new();
    for symbol in elf.symbols().filter(|symbol| symbol.is_definition()) {
        if let Ok(name) = symbol.name()
            && is_of_runtime(name)
        {
            functions.insert(symbol.address(), name.to_owned());
        }
    }
    let has = |name: &str| functions.values().any(|function| function == name);
    let major = match (has("cudaGetDeviceProperties_v2"), has("__cudaGetKernel")) {
        (true, _) => Some(12),
        (false, true) => Some(13),
        (false, false) => None,
    };
    let inside = functions.first_key_value().zip(functions.last_key_value());
    let inside = inside.map(|((low, _), (high, _))| *low..=*high);
    let mut called = BTreeSet::new();
    for section in elf.sections().filter(|section| section.name().is_ok_and(|name| name == ".text")) {
        let Ok(code) = section.data() else { continue };
        for target in direct_calls(code, section.address()) {
            let (from, to) = target;
            if let Some(name) = functions.get(&to)
                && !inside.as_ref().is_some_and(|inside| inside.contains(&from))
            {
                called.insert(name.clone());
            }
        }
    }
    Runtime::Static { major, called }
}

/// Where `call` and `jmp` instructions to nearby addresses may stand, and where they go.
///
/// Bytes of other instructions look like such calls at times; hardly ever do they lead to the entry of a function.
fn direct_calls(code: &[u8], address: u64) -> impl Iterator<Item = (u64, u64)> {
    // Intel SDM, CALL and JMP: E8 and E9 with a distance of 32 bits from the next instruction.
    let calls = code.windows(5).zip(address..).filter(|(bytes, _)| matches!(bytes[0], 0xe8 | 0xe9));
    calls.map(|(bytes, from)| {
        let distance = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        (from, (from + 5).wrapping_add_signed(i64::from(distance)))
    })
}

fn machine_name(class: u8, machine: u16) -> String {
    let name = match machine {
        3 => "32-bit x86",
        40 => "32-bit ARM",
        21 => "PowerPC",
        183 => "ARM64",
        243 => "RISC-V",
        EM_X86_64 if class == 1 => "x32",
        _ => return format!("machine type {machine}"),
    };
    name.to_owned()
}

const EM_X86_64: u16 = 62;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_a_dynamic_program_without_cuda() {
        let own = Binary::read(Path::new("/proc/self/exe")).unwrap();
        assert!(own.has_interpreter && own.needed.iter().any(|name| name.starts_with("libc.so")));
        assert_eq!((own.runtime, own.imports.len()), (Runtime::None, 0));
    }

    #[test]
    fn what_cannot_be_loaded_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = |bytes: &[u8]| {
            let path = folder.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            Binary::read(&path)
        };
        assert_eq!(file(b""), Err(NotLoadable::NotElf));
        assert_eq!(file(b"#!/bin/sh\necho not an ELF file\n"), Err(NotLoadable::NotElf));
        let mut header = std::fs::read("/proc/self/exe").unwrap()[..64].to_vec();
        assert!(matches!(file(&header[..32]), Err(NotLoadable::Unreadable(_))));
        header[18] = 183;
        assert_eq!(file(&header), Err(NotLoadable::OtherMachine("ARM64".into())));
        assert!(matches!(Binary::read(Path::new("/nowhere")), Err(NotLoadable::Unreadable(_))));
    }

    #[test]
    fn names_of_cuda_are_told_from_others() {
        let yes = ["cudaMalloc", "__cudaRegisterFatBinary", "cuInit", "cuMemcpyHtoD_v2"];
        let no = ["custom_sort", "cube", "_ZN4cuda3std", "cublasCreate_v2", "__cxa_finalize"];
        assert!(yes.iter().all(|name| is_cuda(name)) && !no.iter().any(|name| is_cuda(name)));
        assert!(is_of_runtime("__cudaPushCallConfiguration") && !is_of_runtime("cuInit"));
    }

    #[test]
    fn run_paths_are_relative_to_the_file() {
        let own = std::env::current_exe().unwrap();
        let folder = own.parent().unwrap();
        assert_eq!(
            folders("$ORIGIN/../lib:/opt/lib:${ORIGIN}", &own),
            [folder.join("../lib"), "/opt/lib".into(), folder.into()]
        );
    }

    #[test]
    fn a_call_leads_where_its_distance_says() {
        let code = [0x90, 0xe8, 0xfb, 0xff, 0xff, 0xff, 0xe9, 1, 0, 0, 0];
        assert_eq!(direct_calls(&code, 0x1000).collect::<Vec<_>>(), [(0x1001, 0x1001), (0x1006, 0x100c)]);
    }
}
