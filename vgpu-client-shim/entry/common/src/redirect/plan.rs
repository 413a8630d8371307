//! Decides what is redirected in one object: from its file alone, nothing is written here.

use std::collections::BTreeMap;

use super::Trampolines;
use super::elf::{Elf, contains};

/// What we know about an object after reading its file.
#[derive(PartialEq, Debug)]
pub(super) enum Plan<'a> {
    /// No static runtime here; by far the most common answer.
    Nothing,
    /// These entry points get a jump each.
    Redirect { major: u32, entries: Vec<Entry<'a>> },
    /// Device code and no runtime that we could find: stripped.
    Stripped,
    /// A static runtime that we leave alone, and why.
    Refused(String),
}

/// One entry point of the static runtime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry<'a> {
    /// Relative to where the object was loaded.
    pub(super) address: u64,
    /// Bytes up to the next function.
    pub(super) room: u64,
    pub(super) name: &'a str,
    /// Place in the table of its major; `None` for a name that we do not know.
    pub(super) index: Option<usize>,
}

/// The bytes of a jump to any address.
pub(super) const JUMP_BYTES: u64 = 14;

/// Names without which a program could not even start its kernels.
const REQUIRED: [&str; 6] = [
    "__cudaRegisterFatBinary",
    "__cudaRegisterFatBinaryEnd",
    "__cudaRegisterFunction",
    "__cudaPushCallConfiguration",
    "__cudaPopCallConfiguration",
    "cudaLaunchKernel",
];

/// Reads the file of a loaded object.
pub(super) fn plan<'a>(file: &'a [u8], known: &[Trampolines; 2]) -> Plan<'a> {
    let Some(elf) = Elf::read(file) else { return Plan::Nothing };
    let has_runtime = elf.section(".strtab").is_some_and(|strings| contains(strings, b"\0libcudart_static_"));
    if has_runtime {
        return redirect(&elf, known);
    }
    // With a dynamic runtime the registration functions are imported: their names stand among the dynamic strings.
    let imports =
        elf.section(".dynstr").is_some_and(|strings| contains(strings, b"\0__cudaRegisterFatBinary\0"));
    if elf.has_section(".nvFatBinSegment") && !imports { Plan::Stripped } else { Plan::Nothing }
}

fn redirect<'a>(elf: &Elf<'a>, known: &[Trampolines; 2]) -> Plan<'a> {
    let mut all: Vec<u64> = Vec::new();
    let mut of_cuda = Vec::new();
    for function in elf.functions() {
        all.push(function.address);
        if function.name.starts_with("cuda") || function.name.starts_with("__cuda") {
            of_cuda.push(function);
        }
    }
    all.sort_unstable();
    let has = |name: &str| of_cuda.iter().any(|function| function.name == name);
    let major = match (has("cudaGetDeviceProperties_v2"), has("__cudaGetKernel")) {
        (true, _) => 12,
        (false, true) => 13,
        (false, false) => {
            return Plan::Refused("its CUDA runtime is neither of major 12 nor of 13".to_owned());
        }
    };
    let Some(trampolines) = known.iter().find(|trampolines| trampolines.major == major) else {
        return Plan::Refused(format!("its CUDA runtime is of major {major}"));
    };
    if let Some(missing) = REQUIRED.iter().find(|name| !has(name)) {
        return Plan::Refused(format!("its CUDA runtime has no {missing}"));
    }
    let index = |name: &str| trampolines.names.binary_search(&name).ok();
    let known_addresses = of_cuda.iter().filter(|function| index(function.name).is_some());
    let (low, high) = known_addresses
        .fold((u64::MAX, 0), |(low, high), function| (low.min(function.address), high.max(function.address)));
    let mut entries: BTreeMap<u64, Entry<'a>> = BTreeMap::new();
    for function in of_cuda.iter().filter(|function| (low..=high).contains(&function.address)) {
        let next = all.partition_point(|address| *address <= function.address);
        let room = all.get(next).map_or(JUMP_BYTES, |next| next - function.address);
        if room < JUMP_BYTES {
            return Plan::Refused(format!("{} has no room for a jump", function.name));
        }
        let entry =
            Entry { address: function.address, room, name: function.name, index: index(function.name) };
        if let Some(other) = entries.insert(function.address, entry)
            && other.name != entry.name
        {
            return Plan::Refused(format!("{} and {} lie at one address", other.name, entry.name));
        }
    }
    Plan::Redirect { major, entries: entries.into_values().collect() }
}
