//! Names to functions: `cuGetProcAddress`, the runtime's `cudaGetDriverEntryPoint`, and the private tables that we do
//! not have.
//!
//! A program asks for a base name and a version of CUDA, and gets the newest variant that is not newer than this:
//! `cuCtxCreate` of 12050 is `cuCtxCreate_v4`. With flag 2 it gets the twin whose default stream is the thread's own.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::Mutex;

use cuda_types::{CuError, CuResult};

use super::{answer_always, entries};
use crate::edge::{DefaultStream, Out, Required};
use crate::{log, table};

/// A name of the list, as programs ask for it.
struct Name {
    base: &'static str,
    /// The version of CUDA that brought this variant.
    version: u32,
    default: DefaultStream,
    /// Where it stands in the table.
    place: usize,
}

include!(concat!(env!("OUT_DIR"), "/driver_names.rs"));

/// `CU_GET_PROC_ADDRESS_SUCCESS` and its siblings; the runtime's query results have the same numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Status {
    Success = 0,
    NotFound = 1,
    VersionNotSufficient = 2,
}

/// `CU_GET_PROC_ADDRESS_LEGACY_STREAM` and `..._PER_THREAD_DEFAULT_STREAM`.
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

/// The function of a name; NULL with the second status if there is none.
pub(crate) extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    function: Out<'_, *const ()>,
    version: c_int,
    flags: u64,
    status: Option<&mut MaybeUninit<u32>>,
) -> u32 {
    answer_always("cuGetProcAddress", || tell(symbol, function, version, flags, status))
}

/// `cuGetProcAddress` of 11.3, which had no status.
pub(crate) extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    function: Out<'_, *const ()>,
    version: c_int,
    flags: u64,
) -> u32 {
    answer_always("cuGetProcAddress", || tell(symbol, function, version, flags, None))
}

/// Finds a function of the driver for the C caller.
pub(crate) fn tell(
    symbol: *const c_char,
    function: Out<'_, *const ()>,
    version: c_int,
    flags: u64,
    status: Option<&mut MaybeUninit<u32>>,
) -> CuResult<()> {
    let function = function.required()?;
    if symbol.is_null() || flags & !(LEGACY | PER_THREAD) != 0 || flags == LEGACY | PER_THREAD {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: a C string of the caller (module doc of `edge`).
    let base = unsafe { CStr::from_ptr(symbol) }.to_string_lossy();
    let version = u32::try_from(version).map_err(|_| CuError::INVALID_VALUE)?;
    let default = if flags == PER_THREAD { DefaultStream::PerThread } else { DefaultStream::Legacy };
    let (found, outcome) = find(&base, version, default);
    function.write(found.and_then(table::driver_function).unwrap_or(std::ptr::null()));
    match (status, outcome) {
        (Some(status), outcome) => {
            // CUDA Driver API, cuGetProcAddress: success with NULL, and the status says why.
            status.write(outcome as u32);
            Ok(())
        }
        (None, Status::Success) => Ok(()),
        (None, _) => Err(CuError::NOT_FOUND),
    }
}

/// The place of the variant of `base` for `version`.
fn find(base: &str, version: u32, default: DefaultStream) -> (Option<usize>, Status) {
    let start = NAMES.partition_point(|name| name.base < base);
    let of_base = || NAMES[start..].iter().take_while(|name| name.base == base);
    let newest = |default: DefaultStream| {
        of_base()
            .filter(|name| name.default == default && name.version <= version)
            .max_by_key(|name| name.version)
    };
    // A function without a stream has no twin.
    match newest(default).or_else(|| newest(DefaultStream::Legacy)) {
        Some(name) => (Some(name.place), Status::Success),
        None if of_base().next().is_some() => (None, Status::VersionNotSufficient),
        None => (None, Status::NotFound),
    }
}

entries! {
    /// Private tables of NVIDIA's own libraries: we have none.
    fn cuGetExportTable(table: Out<'_, *const c_void>, id: Option<&[u8; 16]>) {
        table.required()?.write(std::ptr::null());
        say_missing(*id.required()?);
        Err(CuError::NOT_FOUND)
    }
}

/// The table by which NVIDIA's runtime makes sure that the driver is NVIDIA's own.
const INTEGRITY_CHECK: [u8; 16] =
    [0xd4, 0x08, 0x20, 0x55, 0xbd, 0xe6, 0x70, 0x4b, 0x8d, 0x34, 0xba, 0x12, 0x3c, 0x66, 0xe1, 0xf2];
/// The first table that NVIDIA's runtime needs.
const RUNTIME_INTERFACE: [u8; 16] =
    [0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9];

/// Says once for each table that it is asked for; for those of NVIDIA's runtime also what to do.
pub(crate) fn say_missing(id: [u8; 16]) {
    static SAID: Mutex<Vec<[u8; 16]>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if said.contains(&id) {
        return;
    }
    said.push(id);
    crate::config::config();
    if id == RUNTIME_INTERFACE || id == INTEGRITY_CHECK {
        log::error(format_args!(
            "NVIDIA's own runtime is running over this libcuda.so.1, which it refuses; let ours take its place: \
             LD_PRELOAD=libcudart.so.12 or .13 of vgpu, for programs with a static runtime too (unless stripped)"
        ));
    } else {
        log::warn(format_args!("cuGetExportTable: there is no table {}", uuid(id)));
    }
}

fn uuid(id: [u8; 16]) -> String {
    let hex = |range: std::ops::Range<usize>| {
        id[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_chooses_the_variant() {
        let name = |base, version, default| {
            let place = find(base, version, default).0?;
            include_str!("../../symbols/cuda.txt")
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .nth(place)
                .and_then(|line| line.split_whitespace().next())
        };
        let (legacy, own) = (DefaultStream::Legacy, DefaultStream::PerThread);
        assert_eq!(name("cuCtxCreate", 3010, legacy), Some("cuCtxCreate"));
        assert_eq!(name("cuCtxCreate", 3020, legacy), Some("cuCtxCreate_v2"));
        assert_eq!(name("cuCtxCreate", 13000, legacy), Some("cuCtxCreate_v4"));
        assert_eq!(name("cuMemcpyHtoD", 12000, legacy), Some("cuMemcpyHtoD_v2"));
        assert_eq!(name("cuMemcpyHtoD", 12000, own), Some("cuMemcpyHtoD_v2_ptds"));
        assert_eq!(name("cuInit", 12000, own), Some("cuInit"));
        assert_eq!(find("cuLibraryLoadData", 11000, legacy), (None, Status::VersionNotSufficient));
        assert_eq!(find("cuNothing", 13000, legacy), (None, Status::NotFound));
    }

    #[test]
    fn a_null_status_makes_a_missing_name_an_error() {
        let mut function = MaybeUninit::uninit();
        let asked = cuGetProcAddress_v2(c"cuNothing".as_ptr(), Some(&mut function), 13000, 0, None);
        assert_eq!(asked, CuError::NOT_FOUND.0);
        let mut status = MaybeUninit::uninit();
        let (name, version) = (c"cuMemAlloc".as_ptr(), 13000);
        assert_eq!(cuGetProcAddress_v2(name, Some(&mut function), version, 0, Some(&mut status)), 0);
        // SAFETY: written on success.
        assert!(unsafe { status.assume_init() } == 0 && !unsafe { function.assume_init() }.is_null());
        assert_eq!(cuGetProcAddress_v2(name, Some(&mut function), version, 3, None), 1);
    }

    #[test]
    fn identifiers_are_written_as_uuids() {
        assert_eq!(uuid(INTEGRITY_CHECK), "d4082055-bde6-704b-8d34-ba123c66e1f2");
    }
}
