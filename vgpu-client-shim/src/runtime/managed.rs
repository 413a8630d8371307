//! Managed memory: allocation and hints; how it works is told in [`crate::managed`].

use std::ffi::c_int;

use cuda_types::{CuError, CuResult};

use crate::edge::{DefaultStream, Out, Required, entries, twins};
use crate::graph::capture;
use crate::graph::work::Work;
use crate::handles::resolve;
use crate::managed;
use crate::state::devices;

entries! {
    /// Allocates memory that the device and the program reach at the same address.
    fn cudaMallocManaged(pointer: Out<'_, u64>, bytes: usize, flags: u32) {
        capture::refuse_unsafe()?;
        let pointer = pointer.required()?;
        // cudaMemAttachGlobal or cudaMemAttachHost.
        if bytes == 0 || !(flags == 1 || flags == 2) {
            return Err(CuError::INVALID_VALUE);
        }
        pointer.write(managed::allocate(devices().current()?, bytes)?);
        Ok(())
    }

    /// Says how memory will be used: nothing that would change where it should lie here.
    fn advise_12(pointer: u64, _bytes: usize, advice: c_int, _device: c_int) {
        advise(pointer, advice)
    }

    /// Says how memory will be used: nothing that would change where it should lie here.
    fn advise_13(pointer: u64, _bytes: usize, advice: c_int, _location: Location) {
        advise(pointer, advice)
    }
}

twins! {
    /// Moves managed memory to a device, or to the host (-1).
    fn prefetch_12, prefetch_12_ptsz(default; pointer: u64, bytes: usize, device: c_int, stream: u64) {
        prefetch(default, pointer, bytes, (device >= 0).then_some(device), stream)
    }

    /// Moves managed memory to a location.
    fn prefetch_13, prefetch_13_ptsz(default; pointer: u64, bytes: usize, location: Location, flags: u32, stream: u64) {
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        prefetch(default, pointer, bytes, (location.kind == LOCATION_DEVICE).then_some(location.id), stream)
    }

    /// Says which stream uses managed memory: every one may, so there is nothing to restrict.
    fn cudaStreamAttachMemAsync, cudaStreamAttachMemAsync_ptsz(default; stream: u64, pointer: u64, _bytes: usize, flags: u32) {
        resolve(default, stream)?;
        managed::ordinal_of(pointer).ok_or(CuError::INVALID_VALUE)?;
        if matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    }
}

/// `cudaMemLocation`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Location {
    kind: c_int,
    id: c_int,
}

/// `cudaMemLocationTypeDevice`.
const LOCATION_DEVICE: c_int = 1;

fn advise(pointer: u64, advice: c_int) -> CuResult<()> {
    managed::ordinal_of(pointer).ok_or(CuError::INVALID_VALUE)?;
    // cudaMemoryAdvise: 1 to 6.
    if (1..=6).contains(&advice) { Ok(()) } else { Err(CuError::INVALID_VALUE) }
}

fn prefetch(
    default: DefaultStream,
    pointer: u64,
    bytes: usize,
    device: Option<c_int>,
    stream: u64,
) -> CuResult<()> {
    let owner = managed::ordinal_of(pointer).ok_or(CuError::INVALID_VALUE)?;
    let last = (bytes as u64).checked_sub(1).and_then(|length| pointer.checked_add(length));
    if last.and_then(managed::ordinal_of) != Some(owner) {
        return Err(CuError::INVALID_VALUE);
    }
    let target = resolve(default, stream)?;
    // A hint: a captured one would only repeat what launches do anyway, so the capture goes on without it.
    if capture::record(&target, || Ok(Work::Empty))? {
        return Ok(());
    }
    match device {
        None => {
            target.session.cuStreamSynchronize(target.stream)?;
            managed::to_host(pointer, bytes)
        }
        Some(device) => {
            let device = devices().get(device)?;
            // To another device than its own it cannot go: CUDA answers so for devices without managed memory.
            if device.ordinal == owner && target.device.ordinal == owner {
                managed::to_device(&target)
            } else {
                Err(CuError::INVALID_DEVICE)
            }
        }
    }
}
