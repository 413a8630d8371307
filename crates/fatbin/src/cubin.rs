//! Machine code images: which kernels they hold, and how their parameters lie.
//!
//! Only facts are read here, never instructions. Drivers older than 12.4 cannot tell parameter layouts
//! (`cuFuncGetParamInfo`), so they are taken from `.nv.info.<kernel>`.

use std::collections::HashMap;

use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolFlags, SymbolKind};

use crate::bytes::Bytes;
use crate::error::{Malformed, Result};
use crate::nv_info::{self, Value, attribute};

/// What a cubin says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cubin {
    /// The kernels, sorted by name.
    pub kernels: Vec<Kernel>,
    /// The variables (`__device__` and `__constant__`), sorted by name.
    pub variables: Vec<Variable>,
    /// Bytes of `__constant__` variables, which all kernels of the module share.
    pub constant_bytes: u64,
}

/// One kernel and what a launch must know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The name as in the symbol table (mangled for C++).
    pub name: String,
    /// The parameters by ordinal.
    pub params: Vec<Param>,
    /// Bytes of all parameters together.
    pub param_bytes: u32,
    /// Registers per thread, where stated.
    pub registers: Option<u32>,
    /// The most threads in x, y and z that the kernel was compiled for, where stated.
    pub max_threads: Option<[u32; 3]>,
    /// Bytes of statically declared shared memory, without what the hardware keeps.
    pub shared_bytes: u64,
    /// Bytes of stack that a thread needs, where stated.
    pub stack_bytes: Option<u32>,
}

/// A variable in device or constant memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variable {
    /// The name as in the symbol table.
    pub name: String,
    /// Bytes of its value.
    pub bytes: u64,
}

/// Place and size of one kernel parameter.
///
/// Offsets are those of this cubin: above an alignment of 16 they differ between architectures. Sizes never do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Param {
    /// Bytes from the start of the parameters.
    pub offset: u32,
    /// Bytes of the value.
    pub size: u32,
}

impl Cubin {
    /// Reads the kernels of an ELF image for machine 190 (CUDA).
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let file = ElfFile64::<LittleEndian>::parse(bytes).map_err(unreadable)?;
        let machine = file.elf_header().e_machine(LittleEndian);
        if machine != elf::EM_CUDA {
            return Err(Malformed::Field { what: "cubin", field: "machine", value: u64::from(machine.0) });
        }
        let mut kernels = HashMap::new();
        let mut by_name = HashMap::new();
        // Names and sections of a hostile file may overlap; no more is kept or read than the file has bytes.
        let mut unnamed = bytes.len();
        let mut variables = Vec::new();
        for symbol in file.symbols() {
            let SymbolFlags::Elf { st_other, .. } = symbol.flags() else { continue };
            let is_kernel = st_other.0 & KERNEL_MARK != 0;
            if symbol.is_undefined() || !(is_kernel || symbol.kind() == SymbolKind::Data) {
                continue;
            }
            let name = symbol.name().map_err(unreadable)?;
            unnamed = unnamed.checked_sub(name.len()).ok_or_else(overlap)?;
            if !is_kernel {
                variables.push(Variable { name: name.to_owned(), bytes: symbol.size() });
                continue;
            }
            by_name.insert(name, symbol.index().0);
            kernels.insert(symbol.index().0, Kernel { name: name.to_owned(), ..Kernel::default() });
        }
        let mut constant_bytes = 0;
        let mut reserved_bytes = 0;
        let mut unread = bytes.len();
        for section in file.sections() {
            let name = section.name().map_err(unreadable)?;
            let kernel_of = |prefix| name.strip_prefix(prefix).and_then(|kernel| by_name.get(kernel));
            let data = section.data().map_err(unreadable)?;
            if name.starts_with(".nv.info") {
                unread = unread.checked_sub(data.len()).ok_or_else(overlap)?;
            }
            // A prefix and not a search: `.nv.merc.nv.info.` of newer architectures repeats `.nv.info.`.
            if let Some(kernel) = kernel_of(".nv.info.").and_then(|index| kernels.get_mut(index)) {
                kernel.read_info(data)?;
            } else if let Some(kernel) = kernel_of(".nv.shared.").and_then(|index| kernels.get_mut(index)) {
                kernel.shared_bytes = section.size();
            } else if name == ".nv.info" {
                read_module_info(data, &mut kernels)?;
            } else if name == ".nv.constant3" {
                constant_bytes = section.size();
            } else if name == ".nv.shared.reserved.0" {
                reserved_bytes = RESERVED_SHARED_BYTES;
            }
        }
        let mut kernels: Vec<Kernel> = kernels.into_values().collect();
        for kernel in &mut kernels {
            kernel.shared_bytes = kernel.shared_bytes.saturating_sub(reserved_bytes);
        }
        kernels.sort_by(|a, b| a.name.cmp(&b.name));
        variables.sort();
        Ok(Self { kernels, variables, constant_bytes })
    }
}

impl Kernel {
    /// Reads the section `.nv.info.<kernel>`.
    fn read_info(&mut self, section: &[u8]) -> Result<()> {
        let mut params: Vec<(u16, Param)> = Vec::new();
        for record in nv_info::records(section)? {
            match (record.attribute, record.value) {
                (attribute::KPARAM_INFO | attribute::KPARAM_INFO_V2, Value::Payload(payload)) => {
                    let fields = Bytes::new("parameter record", payload);
                    let bits = fields.u32(8)?;
                    let size = match record.attribute {
                        attribute::KPARAM_INFO => bits >> 18,
                        _ => bits & 0x00FF_FFFF,
                    };
                    params.push((fields.u16(4)?, Param { offset: fields.u16(6)?.into(), size }));
                }
                (attribute::CBANK_PARAM_SIZE, Value::Short(bytes)) => self.param_bytes = bytes.into(),
                (attribute::MAX_THREADS, Value::Payload(payload)) => {
                    let fields = Bytes::new("launch bounds record", payload);
                    self.max_threads = Some([fields.u32(0)?, fields.u32(4)?, fields.u32(8)?]);
                }
                (attribute::PARAM_CBANK, Value::Payload(payload)) => {
                    let fields = Bytes::new("parameter bank record", payload);
                    self.param_bytes = fields.u16(6)?.into();
                }
                _ => {}
            }
        }
        params.sort_by_key(|(ordinal, _)| *ordinal);
        let gapless = params.iter().enumerate().find(|(place, (ordinal, _))| *place != usize::from(*ordinal));
        if let Some((_, (ordinal, _))) = gapless {
            let value = u64::from(*ordinal);
            return Err(Malformed::Field { what: "parameter record", field: "ordinal", value });
        }
        self.params = params.into_iter().map(|(_, param)| param).collect();
        Ok(())
    }
}

/// How far the two header tables of an ELF image reach, told by its first 64 bytes: what must be readable before
/// [`elf_len`] can be asked. `cuModuleLoadData` passes a pointer without a length.
pub fn elf_header_len(header: &[u8; ELF_HEADER_BYTES]) -> Result<usize> {
    let header = elf_header(header)?;
    let end = LittleEndian;
    let tables = [
        (header.e_shoff(end), u64::from(header.e_shnum(end)) * u64::from(header.e_shentsize(end))),
        (header.e_phoff(end), u64::from(header.e_phnum(end)) * u64::from(header.e_phentsize(end))),
    ];
    bounded_extent(tables, ELF_HEADER_BYTES as u64)
}

/// The number of bytes of an ELF image: the end of its last section, segment or header table. `bytes` must hold at
/// least what [`elf_header_len`] says.
pub fn elf_len(bytes: &[u8]) -> Result<usize> {
    let mut head = [0; ELF_HEADER_BYTES];
    head.copy_from_slice(Bytes::new("ELF image", bytes).slice(0, ELF_HEADER_BYTES as u64)?);
    let tables = elf_header_len(&head)?;
    let header = elf_header(bytes)?;
    let end = LittleEndian;
    let sections = header.section_headers(end, bytes).map_err(unreadable)?;
    let segments = header.program_headers(end, bytes).map_err(unreadable)?;
    let in_file = sections.iter().filter(|section| section.sh_type(end) != elf::SHT_NOBITS);
    let extents = in_file
        .map(|section| (section.sh_offset(end), section.sh_size(end)))
        .chain(segments.iter().map(|segment| (segment.p_offset(end), segment.p_filesz(end))));
    bounded_extent(extents, tables as u64)
}

fn elf_header(bytes: &[u8]) -> Result<&elf::FileHeader64<LittleEndian>> {
    elf::FileHeader64::<LittleEndian>::parse(bytes).map_err(unreadable)
}

fn bounded_extent(parts: impl IntoIterator<Item = (u64, u64)>, least: u64) -> Result<usize> {
    let end = parts.into_iter().map(|(offset, size)| offset.saturating_add(size)).fold(least, u64::max);
    match usize::try_from(end) {
        Ok(end) if end as u64 <= crate::MAX_IMAGE_BYTES => Ok(end),
        _ => Err(Malformed::TooLarge { stated: end, limit: crate::MAX_IMAGE_BYTES }),
    }
}

/// Records of the section for the whole module: they name a kernel by its symbol's index.
fn read_module_info(section: &[u8], kernels: &mut HashMap<usize, Kernel>) -> Result<()> {
    for record in nv_info::records(section)? {
        let Value::Payload(payload) = record.value else { continue };
        if !matches!(
            record.attribute,
            attribute::REGCOUNT | attribute::FRAME_SIZE | attribute::MIN_STACK_SIZE
        ) {
            continue;
        }
        let fields = Bytes::new(".nv.info record", payload);
        let (symbol, value) = (fields.u32(0)?, fields.u32(4)?);
        let Some(kernel) = usize::try_from(symbol).ok().and_then(|index| kernels.get_mut(&index)) else {
            continue;
        };
        match record.attribute {
            attribute::REGCOUNT => kernel.registers = Some(value),
            _ => kernel.stack_bytes = Some(kernel.stack_bytes.unwrap_or(0).max(value)),
        }
    }
    Ok(())
}

fn unreadable(error: object::Error) -> Malformed {
    Malformed::Elf(error.to_string())
}

fn overlap() -> Malformed {
    Malformed::Elf("its parts overlap".to_owned())
}

/// `STO_CUDA_ENTRY` in `st_other`: the symbol is a kernel, not a device function.
const KERNEL_MARK: u8 = 0x10;

/// From sm_90 on, the shared memory of a kernel begins behind what the hardware keeps for itself, and the size of the
/// section counts both. The section `.nv.shared.reserved.0` tells such a cubin.
const RESERVED_SHARED_BYTES: u64 = 1024;

/// Bytes of an ELF header, and what [`elf_header_len`] needs to see.
pub const ELF_HEADER_BYTES: usize = 64;
