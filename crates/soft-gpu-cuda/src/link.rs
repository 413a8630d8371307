//! Linking. The device links when it loads, so a link only collects images, and its result is a note that names it.

use std::ffi::{c_int, c_uint, c_void};

use cuda_types::CuError;

use crate::edge::current;
use crate::entries;
use crate::pointers::{Host, Out, Text};

/// The link whose result stands at `image`, if it is such a note.
pub(crate) fn linked(image: Host) -> Option<u64> {
    // Every image that a caller may pass has four bytes at least: a magic number, or text.
    if image.bytes(0, 4).ok()? != &NOTE_MAGIC[..4] || image.bytes(0, 8).ok()? != NOTE_MAGIC {
        return None;
    }
    image.bytes(8, 8).ok()?.try_into().ok().map(u64::from_ne_bytes)
}

entries! {
    fn cuLinkCreate_v2(_count: c_uint, _options: Out<c_int>, _values: Out<*mut c_void>, state: Out<u64>) {
        if state.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        let opened = current()?;
        let mut books = opened.books();
        let number = books.new_handle();
        books.links.insert(number, Vec::new());
        state.set(number)
    }

    fn cuLinkAddData_v2(
        state: u64, _kind: c_uint, data: Host, bytes: usize, _name: Text, _count: c_uint, _options: Out<c_int>,
        _values: Out<*mut c_void>,
    ) {
        let opened = current()?;
        let mut books = opened.books();
        let images = books.links.get_mut(&state).ok_or(CuError::INVALID_HANDLE)?;
        images.push(data.bytes(0, bytes)?.to_vec());
        Ok(())
    }

    /// The note lives on after `cuLinkDestroy`, but then names nothing: 16 bytes for each link of a process.
    fn cuLinkComplete(state: u64, image: Out<usize>, bytes: Out<usize>) {
        let opened = current()?;
        if !opened.books().links.contains_key(&state) {
            return Err(CuError::INVALID_HANDLE);
        }
        let note: &'static mut [u8] = Box::leak([NOTE_MAGIC, state.to_ne_bytes()].concat().into_boxed_slice());
        bytes.set_if_wanted(note.len());
        image.set(note.as_ptr().expose_provenance())
    }

    fn cuLinkDestroy(state: u64) {
        current()?.books().links.remove(&state).map(drop).ok_or(CuError::INVALID_HANDLE)
    }
}

const NOTE_MAGIC: [u8; 8] = *b"\x01vgpulnk";
