//! What generated code calls for textures and surfaces. Operands and answers travel in the thread context.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuda_types::CuError;

use super::context::ThreadContext;
use super::helpers;
use super::numeric::f64_to_f16;
use crate::texture::image::Image;
use crate::texture::object::Object;
use crate::texture::sample::{Request, Texture};
use crate::texture::surface::{self, Found, Outside, Place};

/// Operands and answers of one instruction, as bits.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct TextureWords {
    pub(crate) at: [u32; 3],
    pub(crate) layer: u32,
    pub(crate) level: u32,
    pub(crate) dx: [u32; 3],
    pub(crate) dy: [u32; 3],
    /// What a store writes, what anything answers: a word for each element, two for one of 8 bytes.
    pub(crate) data: [u32; 8],
}

/// How a fetch is made, as bits of a constant in generated code. The lowest two count the axes.
pub(crate) mod fetch {
    pub(crate) const AXES: u32 = 3;
    pub(crate) const CUBE: u32 = 1 << 2;
    pub(crate) const INTEGER: u32 = 1 << 3;
    pub(crate) const GRADIENT: u32 = 1 << 4;
    pub(crate) const GATHER: u32 = 1 << 5;
    pub(crate) const HALVES: u32 = 1 << 6;
    pub(crate) const PACKED_HALVES: u32 = 1 << 7;
    /// The channel that a gather answers.
    pub(crate) const CHANNEL_SHIFT: u32 = 8;
}

/// How a surface is accessed, as fields of a constant in generated code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// Place in [`OPERATIONS`](Access::OPERATIONS).
    pub(crate) operation: u32,
    /// Bytes of an element.
    pub(crate) bytes: u32,
    pub(crate) count: u32,
    pub(crate) outside: u32,
    /// Coordinates count texels, and elements are channels in the surface's own format.
    pub(crate) formatted: bool,
}

impl Access {
    pub(crate) const LOAD: u32 = 0;
    pub(crate) const STORE: u32 = 1;
    /// Loads, stores, and reductions by their PTX names with `s` for signed ones.
    pub(crate) const OPERATIONS: [&str; 9] = ["ld", "st", "add", "min", "max", "mins", "maxs", "and", "or"];

    pub(crate) fn code(self) -> u32 {
        self.operation
            | self.bytes << 4
            | self.count << 8
            | self.outside << 12
            | u32::from(self.formatted) << 16
    }

    fn of(code: u32) -> Access {
        Access {
            operation: code & 15,
            bytes: code >> 4 & 15,
            count: code >> 8 & 15,
            outside: code >> 12 & 15,
            formatted: code >> 16 & 1 == 1,
        }
    }
}

/// The texture of a handle, if its memory is still there.
unsafe fn texture<'a>(ctx: *mut ThreadContext, handle: u64) -> Option<&'a Texture> {
    // SAFETY: generated code passes its own context, whose grid outlives the thread.
    match unsafe { (*(*ctx).grid).objects().get(handle) } {
        Some(Object::Texture(texture)) if texture.levels[0].is_alive() => Some(texture),
        _ => None,
    }
}

unsafe fn surface<'a>(ctx: *mut ThreadContext, handle: u64) -> Option<&'a Image> {
    // SAFETY: as in `texture`.
    match unsafe { (*(*ctx).grid).objects().get(handle) } {
        Some(Object::Surface(image)) => Some(image),
        _ => None,
    }
}

/// `tex`, `tld4`: the answer is in the context's words. A handle that is none ends the grid.
pub(crate) unsafe extern "C" fn sample(ctx: *mut ThreadContext, handle: u64, how: u32) {
    // SAFETY: generated code passes its own context.
    let (texture, words) = unsafe { (texture(ctx, handle), (*ctx).texture) };
    let Some(texture) = texture else {
        // SAFETY: as above.
        return unsafe { helpers::fault(ctx, CuError::ILLEGAL_ADDRESS.0) };
    };
    let axes = usize::try_from(how & fetch::AXES).unwrap_or(0);
    let mut request = Request {
        at: words.at.map(f32::from_bits),
        index: words.at.map(u32::cast_signed),
        integer: how & fetch::INTEGER != 0,
        axes,
        layer: words.layer,
        cube: how & fetch::CUBE != 0,
        level: f32::from_bits(words.level),
    };
    if how & fetch::GRADIENT != 0 {
        request.level = texture.level_of(words.dx.map(f32::from_bits), words.dy.map(f32::from_bits), axes);
    }
    let mut answer = if how & fetch::GATHER != 0 {
        texture.gather(request, usize::try_from(how >> fetch::CHANNEL_SHIFT & 3).unwrap_or(0))
    } else {
        texture.fetch(request)
    };
    if how & (fetch::HALVES | fetch::PACKED_HALVES) != 0 && texture.reads_float() {
        answer = answer.map(|word| f64_to_f16(f64::from(f32::from_bits(word)), 0));
    }
    if how & fetch::PACKED_HALVES != 0 {
        answer = [answer[0] | answer[1] << 16, answer[2] | answer[3] << 16, 0, 0];
    }
    // SAFETY: as above.
    unsafe { (*ctx).texture.data = [answer[0], answer[1], answer[2], answer[3], 0, 0, 0, 0] };
}

/// What `txq` and `suq` can ask; the places are constants in generated code.
pub(crate) const QUERIES: [&str; 8] = [
    "width",
    "height",
    "depth",
    "array_size",
    "num_mipmap_levels",
    "channel_data_type",
    "channel_order",
    "normalized_coords",
];

/// `txq`, `suq`
pub(crate) unsafe extern "C" fn query(ctx: *mut ThreadContext, handle: u64, what: u32, level: u32) -> u32 {
    // SAFETY: generated code passes its own context, whose grid outlives the thread.
    let (image, levels, layered, normalized) = match unsafe { (*(*ctx).grid).objects().get(handle) } {
        Some(Object::Texture(texture)) => {
            let last = texture.levels.len() - 1;
            let level = usize::try_from(level).unwrap_or(last).min(last);
            (&texture.levels[level], last + 1, texture.shape.is_layered(), texture.normalized)
        }
        Some(Object::Surface(image)) => (image, 1, false, false),
        None => {
            // SAFETY: as above.
            unsafe { helpers::fault(ctx, CuError::ILLEGAL_ADDRESS.0) };
            return 0;
        }
    };
    let answer = match what {
        0 => image.width,
        1 => image.height,
        2 => image.depth,
        3 if layered => image.depth,
        3 => 1,
        4 => levels as u64,
        5 => u64::from(image.format.channel_type()),
        6 => u64::from(image.format.channel_order()),
        _ => u64::from(normalized),
    };
    u32::try_from(answer).unwrap_or(u32::MAX)
}

/// `suld`, `sust`, `sured`: data in the context's words, both ways.
pub(crate) unsafe extern "C" fn access(ctx: *mut ThreadContext, handle: u64, code: u32) {
    // SAFETY: generated code passes its own context.
    let (image, words) = unsafe { (surface(ctx, handle), (*ctx).texture) };
    let access = Access::of(code);
    let Some(image) = image else {
        // SAFETY: as above.
        return unsafe { helpers::fault(ctx, CuError::ILLEGAL_ADDRESS.0) };
    };
    let [mut x, y, z] = words.at.map(u32::cast_signed);
    let (bytes, count) = if access.formatted {
        let size = image.format.bytes();
        x = i32::try_from(i64::from(x) * size.cast_signed()).unwrap_or(i32::MIN);
        (image.format.channel_bytes(), u64::from(image.format.channels))
    } else {
        (u64::from(access.bytes), u64::from(access.count))
    };
    let outside = usize::try_from(access.outside).ok().and_then(|at| Outside::ALL.get(at).copied());
    let place = Place { x, y, z, bytes: bytes * count, outside: outside.unwrap_or(Outside::Trap) };
    let address = match place.find(image) {
        Found::Address(address) => address,
        Found::Nothing => {
            // SAFETY: as above.
            return unsafe { (*ctx).texture.data = [0; 8] };
        }
        Found::Fault => {
            // SAFETY: as above.
            return unsafe { helpers::fault(ctx, CuError::ILLEGAL_ADDRESS.0) };
        }
    };
    match access.operation {
        // SAFETY: as above.
        Access::LOAD => unsafe { (*ctx).texture.data = surface::load(address, count, bytes) },
        Access::STORE if access.formatted => {
            let narrow = words.data.map(|word| image.format.narrow(word));
            surface::store(address, count, bytes, &narrow);
        }
        Access::STORE => surface::store(address, count, bytes, &words.data),
        reduction => reduce(address, bytes, reduction, &words.data),
    }
}

/// A reduction of one word; an address that is no multiple of its size is let be.
fn reduce(address: u64, bytes: u64, operation: u32, words: &[u32; 8]) {
    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap_or(0));
    if !address.is_multiple_of(bytes) {
        return;
    }
    let name = usize::try_from(operation).ok().and_then(|at| Access::OPERATIONS.get(at)).copied();
    if bytes == 8 {
        let value = u64::from(words[1]) << 32 | u64::from(words[0]);
        // SAFETY: the address lies in the surface, whose memory the grid keeps, and is aligned.
        let word = unsafe { AtomicU64::from_ptr(pointer.cast()) };
        let change = |old: u64| match name {
            Some("add") => old.wrapping_add(value),
            Some("min") => old.min(value),
            Some("max") => old.max(value),
            Some("mins") => old.cast_signed().min(value.cast_signed()).cast_unsigned(),
            Some("maxs") => old.cast_signed().max(value.cast_signed()).cast_unsigned(),
            Some("and") => old & value,
            _ => old | value,
        };
        let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old)));
        return;
    }
    let value = words[0];
    // SAFETY: as above.
    let word = unsafe { AtomicU32::from_ptr(pointer.cast()) };
    match name {
        Some("add") => word.fetch_add(value, Ordering::SeqCst),
        Some("min") => word.fetch_min(value, Ordering::SeqCst),
        Some("max") => word.fetch_max(value, Ordering::SeqCst),
        Some(signed @ ("mins" | "maxs")) => {
            let change = |old: u32| {
                let (old, value) = (old.cast_signed(), value.cast_signed());
                Some(if signed == "mins" { old.min(value) } else { old.max(value) }.cast_unsigned())
            };
            word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).unwrap_or_default()
        }
        Some("and") => word.fetch_and(value, Ordering::SeqCst),
        _ => word.fetch_or(value, Ordering::SeqCst),
    };
}
