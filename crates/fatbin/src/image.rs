//! What the bytes given to `cuModuleLoadData` are.

use crate::container::{Fatbin, MAGIC};
use crate::error::{Malformed, Result};

/// An image in one of the three forms that `cuModuleLoadData` takes.
#[derive(Debug, Clone)]
pub enum Image<'a> {
    /// Several images; choose one.
    Fatbin(Fatbin<'a>),
    /// A cubin or another ELF image.
    Elf(&'a [u8]),
    /// PTX text, without the NUL byte that ends it.
    Ptx(&'a str),
}

impl<'a> Image<'a> {
    /// Tells by magic number, or by the `.version` directive that every PTX text begins with (after blanks and
    /// comments).
    pub fn classify(bytes: &'a [u8]) -> Result<Self> {
        if bytes.starts_with(&MAGIC.to_le_bytes()) {
            return Fatbin::parse(bytes).map(Image::Fatbin);
        }
        if bytes.starts_with(b"\x7fELF") {
            return Ok(Image::Elf(bytes));
        }
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or(bytes);
        if !begins_as_ptx(text) {
            return Err(Malformed::Unknown);
        }
        str::from_utf8(text).map(Image::Ptx).map_err(|_| Malformed::NotText)
    }
}

fn begins_as_ptx(mut text: &[u8]) -> bool {
    loop {
        text = text.trim_ascii_start();
        let comment_bytes = match text.get(..2) {
            Some(b"//") => text.iter().position(|&byte| byte == b'\n'),
            Some(b"/*") => text[2..].windows(2).position(|pair| pair == b"*/").map(|at| at + 4),
            _ => return text.starts_with(b".version"),
        };
        match comment_bytes {
            Some(bytes) => text = &text[bytes..],
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_is_known_behind_comments_and_ends_at_nul() {
        let text = b"\n// made by hand\n/* a * b */\n.version 8.0\n.target sm_75\n\0garbage\xff";
        match Image::classify(text) {
            Ok(Image::Ptx(ptx)) => assert!(ptx.ends_with("sm_75\n")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        for bytes in [&b""[..], b"//", b"/*", b"/* .version", b"version", b"\0.version 8.0"] {
            assert_eq!(Image::classify(bytes).err(), Some(Malformed::Unknown), "{bytes:?}");
        }
    }
}
