//! Bytes and values: bincode 2, fixed-size little-endian integers, always with a limit.
//!
//! Without the limit sixteen hostile bytes can ask for an allocation that aborts the process (docs/adr/0001).

use std::fmt;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{BorrowDecode, Encode};

/// The most bytes that one message may claim, module images included.
pub const MESSAGE_LIMIT: usize = 512 * 1024 * 1024;

type Config = Configuration<LittleEndian, Fixint, Limit<MESSAGE_LIMIT>>;

fn config() -> Config {
    bincode::config::standard().with_fixed_int_encoding().with_limit()
}

/// Bytes that could not be read as what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was being read.
    pub reading: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}: {}", self.reading, self.found)
    }
}

impl std::error::Error for Malformed {}

impl Malformed {
    /// Says that `found` stood where `reading` was expected.
    pub fn new(reading: &'static str, found: impl fmt::Display) -> Malformed {
        Malformed { reading, found: found.to_string() }
    }
}

/// Appends the encoding of `value`.
pub fn put(out: &mut Vec<u8>, value: impl Encode) {
    bincode::encode_into_std_write(value, out, config()).expect("writing to a Vec cannot fail");
}

/// Appends bytes behind their length, which has 32 bits: a message is not longer.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("callers bound arguments by MESSAGE_LIMIT");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads values from the front of a message.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `message`.
    pub fn new(message: &'a [u8]) -> Reader<'a> {
        Reader { rest: message }
    }

    /// Takes the next value; `reading` names it in the error.
    pub fn take<T: BorrowDecode<'a, ()>>(&mut self, reading: &'static str) -> Result<T, Malformed> {
        let (value, used) = bincode::borrow_decode_from_slice(self.rest, config())
            .map_err(|error| Malformed::new(reading, error))?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    /// Takes as many bytes as a number has.
    #[inline(always)]
    pub fn take_array<const BYTES: usize>(
        &mut self,
        reading: &'static str,
    ) -> Result<[u8; BYTES], Malformed> {
        let Some((array, rest)) = self.rest.split_first_chunk() else {
            return Err(self.too_short(reading, BYTES));
        };
        self.rest = rest;
        Ok(*array)
    }

    /// Takes what [`put_bytes`] has written.
    #[inline(always)]
    pub fn take_bytes(&mut self, reading: &'static str) -> Result<&'a [u8], Malformed> {
        let length = u32::from_le_bytes(self.take_array(reading)?) as usize;
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.too_short(reading, length));
        };
        self.rest = rest;
        Ok(bytes)
    }

    #[cold]
    fn too_short(&self, reading: &'static str, needed: usize) -> Malformed {
        Malformed::new(reading, format_args!("{} of {needed} bytes", self.rest.len()))
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the message: bytes left over are an error.
    pub fn finish(self, reading: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Malformed::new(reading, format_args!("{} bytes after its end", self.rest.len())))
    }
}

/// Reads exactly one value from a whole message.
pub fn read_all<'a, T: BorrowDecode<'a, ()>>(
    message: &'a [u8],
    reading: &'static str,
) -> Result<T, Malformed> {
    let mut reader = Reader::new(message);
    let value = reader.take(reading)?;
    reader.finish(reading)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_length_is_an_error_and_not_an_allocation() {
        let mut bytes = Vec::new();
        put(&mut bytes, u64::MAX / 2);
        let read: Result<Vec<u64>, _> = read_all(&bytes, "numbers");
        assert!(read.is_err());
    }

    #[test]
    fn bytes_end_where_their_length_says_or_are_malformed() {
        let mut written = Vec::new();
        put_bytes(&mut written, b"abc");
        written.push(9);
        let mut reader = Reader::new(&written);
        assert_eq!(reader.take_bytes("bytes"), Ok(&b"abc"[..]));
        assert_eq!(reader.rest(), [9]);
        assert!(Reader::new(&written[..6]).take_bytes("bytes").is_err());
        assert!(Reader::new(&[255; 4]).take_bytes("bytes").is_err());
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let read: Result<u16, _> = read_all(&[1, 0, 9], "number");
        assert_eq!(read.map_err(|e| e.found), Err("1 bytes after its end".to_owned()));
    }

    #[test]
    fn integers_are_fixed_size_and_little_endian() {
        let mut bytes = Vec::new();
        put(&mut bytes, (0x0102_u16, 0x0a_u32));
        assert_eq!(bytes, [2, 1, 10, 0, 0, 0]);
    }
}
