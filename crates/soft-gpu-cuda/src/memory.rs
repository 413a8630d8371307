//! Allocations of device memory and of pinned host memory.

use std::ffi::{c_int, c_uint};

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult};
use window::Window;

use crate::edge::{Opened, current, current_context, ordinal_of};
use crate::entries;
use crate::pointers::{Host, Out};
use crate::virtual_memory::own_window;

/// The alignment of every allocation.
const ALIGNMENT: u64 = 256;

/// Takes addresses for `cuMemAlloc`, if that has not been done. They come from one place, which the device's compiler
/// must know: a program may load a module before it allocates.
pub(crate) fn take_window(opened: &Opened) -> CuResult<()> {
    let mut books = opened.books();
    if books.window.is_none() {
        let (base, length) = own_window(ordinal_of(current_context())?)?;
        opened.device.reserve_window(base, length)?;
        books.window = Some(Window::new(base, length));
    }
    Ok(())
}

fn allocate(opened: &Opened, bytes: usize) -> CuResult<u64> {
    if bytes == 0 {
        return Err(CuError::INVALID_VALUE);
    }
    take_window(opened)?;
    let mut books = opened.books();
    let window = books.window.as_mut().ok_or(CuError::OUT_OF_MEMORY)?;
    let placed = window.allocate(bytes as u64, ALIGNMENT).map_err(|_| CuError::OUT_OF_MEMORY)?;
    let backed = match placed.new_chunk {
        Some(chunk) => opened.device.vgpuMemMap(chunk.address, chunk.bytes),
        None => Ok(()),
    };
    let made = backed.and_then(|()| opened.device.cuMemAlloc_v2(CUdeviceptr(placed.address), bytes as u64));
    if let Err(error) = made {
        window.undo(placed);
        return Err(error);
    }
    Ok(placed.address)
}

fn free(opened: &Opened, address: u64) -> CuResult<()> {
    if address == 0 {
        return Ok(());
    }
    let freed = opened.books().window.as_mut().and_then(|window| window.free(address));
    let freed = freed.ok_or(CuError::INVALID_VALUE)?;
    // Not under the lock: this waits for work, which may wait for other calls. The device returns when no work uses
    // the range any more, so the address can be used again at once.
    let done = opened.device.cuMemFree_v2(CUdeviceptr(address));
    let mut books = opened.books();
    let window = books.window.as_mut().ok_or(CuError::INVALID_VALUE)?;
    if let Some(chunk) = window.release(freed.ticket).filter(|chunk| window.remove_chunk(chunk.address)) {
        opened.device.vgpuMemUnmap(chunk.address, chunk.bytes)?;
    }
    done
}

entries! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        if address.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        address.set(allocate(&*current()?, bytes)?)
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, _stream: CUstream) {
        if address.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        address.set(allocate(&*current()?, bytes)?)
    }

    fn cuMemFree_v2(address: u64) {
        free(&*current()?, address)
    }

    /// Waits for the stream: only then may the range be used again.
    fn cuMemFreeAsync(address: u64, _stream: CUstream) {
        free(&*current()?, address)
    }

    fn cuMemGetInfo_v2(available: Out<usize>, total: Out<usize>) {
        let (free, all) = current()?.device.cuMemGetInfo_v2()?;
        available.set(usize::try_from(free).unwrap_or(usize::MAX))?;
        total.set(usize::try_from(all).unwrap_or(usize::MAX))
    }

    fn cuMemHostAlloc(place: Out<usize>, bytes: usize, _flags: c_uint) {
        pin(place, bytes)
    }

    fn cuMemAllocHost_v2(place: Out<usize>, bytes: usize) {
        pin(place, bytes)
    }

    /// The device's staging lasts as long as the device, so the range is kept for the next caller.
    fn cuMemFreeHost(memory: Host) {
        let opened = current()?;
        let mut books = opened.books();
        let bytes = books.pinned.remove(&memory.address()).ok_or(CuError::INVALID_VALUE)?;
        books.idle_pinned.push((memory.address(), bytes));
        Ok(())
    }

    /// Host and device share their addresses here.
    fn cuMemHostGetDevicePointer_v2(address: Out<u64>, memory: Host, flags: c_uint) {
        let pinned = current()?.books().is_pinned(memory.address(), 1);
        if !pinned || flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        address.set(memory.address() as u64)
    }

    fn cuDeviceCanAccessPeer(possible: Out<c_int>, _device: c_int, _peer: c_int) {
        possible.set(0)
    }
}

fn pin(place: Out<usize>, bytes: usize) -> CuResult<()> {
    if bytes == 0 || place.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    let opened = current()?;
    let mut books = opened.books();
    let idle = books.idle_pinned.iter().position(|(_, length)| *length == bytes);
    let address = match idle {
        Some(found) => books.idle_pinned.swap_remove(found).0,
        None => opened.device.staging(bytes)?.address(),
    };
    books.pinned.insert(address, bytes);
    place.set(address)
}
