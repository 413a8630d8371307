//! The fixed header in front of every message.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 2 | magic, `VG` |
//! | 2 | 2 | opcode: a row of the call table, or a [control](crate::control) message below 0x0100 |
//! | 4 | 4 | call id: counts up from 1 on each link; 0 where nothing refers to it |
//! | 8 | 4 | length of the arguments that follow |
//! | 12 | 4 | length of the bulk bytes that follow the arguments |

use std::fmt;

use crate::codec::{MESSAGE_LIMIT, Malformed};

/// A request's number on its link; wraps round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CallId(pub u32);

impl CallId {
    /// Whether this call was made before `other` or is it, taking wrap-round into account.
    pub fn is_covered_by(self, other: CallId) -> bool {
        other.0.wrapping_sub(self.0) < u32::MAX / 2
    }

    /// The next number; never 0.
    pub fn next(self) -> CallId {
        CallId(self.0.checked_add(1).unwrap_or(1))
    }
}

/// What stands before the arguments of every message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub opcode: u16,
    pub call: CallId,
    /// Bytes of encoded arguments.
    pub length: u32,
    /// Bytes of bulk data behind the arguments.
    pub bulk: u32,
}

impl Header {
    /// Encoded size in bytes.
    pub const SIZE: usize = 16;
    const MAGIC: [u8; 2] = *b"VG";
    /// The longest run of bulk bytes in one frame.
    pub const BULK_LIMIT: u32 = 64 * 1024 * 1024;

    /// The encoded header.
    #[inline]
    pub fn encode(self) -> [u8; Header::SIZE] {
        let mut bytes = [0; Header::SIZE];
        bytes[0..2].copy_from_slice(&Header::MAGIC);
        bytes[2..4].copy_from_slice(&self.opcode.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.call.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.bulk.to_le_bytes());
        bytes
    }

    /// Reads a header and bounds its lengths, so that nobody allocates on a stranger's word.
    // Always inlined: a header that is written to memory in parts and copied as a whole waits for each of its parts.
    #[inline(always)]
    pub fn decode(bytes: &[u8; Header::SIZE]) -> Result<Header, Malformed> {
        Header::fields(bytes).ok_or_else(|| Header::fault(bytes))
    }

    /// What the header says, if it can be one.
    #[inline(always)]
    pub fn fields(bytes: &[u8; Header::SIZE]) -> Option<Header> {
        let header = Header::read(bytes);
        let is_one = bytes[..2] == Header::MAGIC
            && header.length as usize <= MESSAGE_LIMIT
            && header.bulk <= Header::BULK_LIMIT;
        is_one.then_some(header)
    }

    #[inline(always)]
    fn read(bytes: &[u8; Header::SIZE]) -> Header {
        let [_, _, o0, o1, c0, c1, c2, c3, l0, l1, l2, l3, b0, b1, b2, b3] = *bytes;
        Header {
            opcode: u16::from_le_bytes([o0, o1]),
            call: CallId(u32::from_le_bytes([c0, c1, c2, c3])),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            bulk: u32::from_le_bytes([b0, b1, b2, b3]),
        }
    }

    /// Why these bytes are no header.
    #[cold]
    fn fault(bytes: &[u8; Header::SIZE]) -> Malformed {
        let magic = u16::from_be_bytes([bytes[0], bytes[1]]);
        if magic != u16::from_be_bytes(Header::MAGIC) {
            return Malformed::new("frame header", format_args!("magic {magic:#06x}"));
        }
        let Header { length, bulk, .. } = Header::read(bytes);
        Malformed::new("frame header", format_args!("{length} bytes of arguments, {bulk} bulk bytes"))
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#06x} call {} ({} + {} bytes)", self.opcode, self.call.0, self.length, self.bulk)
    }
}

/// Appends a whole frame without bulk bytes; `write` appends the arguments.
pub fn append(out: &mut Vec<u8>, opcode: u16, call: CallId, bulk: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&Header { opcode, call, length: 0, bulk }.encode());
    write(out);
    let length =
        u32::try_from(out.len() - start - Header::SIZE).expect("callers bound arguments by MESSAGE_LIMIT");
    out[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_golden_frame_pins_the_format() {
        let mut out = Vec::new();
        append(&mut out, 0x0305, CallId(7), 0, |out| out.extend_from_slice(&[0xaa, 0xbb]));
        assert_eq!(out, [0x56, 0x47, 5, 3, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0xbb]);
    }

    #[test]
    fn oversized_lengths_are_malformed() {
        let header = Header { opcode: 1, call: CallId(1), length: u32::MAX, bulk: 0 };
        assert!(Header::decode(&header.encode()).is_err());
        let header = Header { opcode: 1, call: CallId(1), length: 0, bulk: Header::BULK_LIMIT + 1 };
        assert!(Header::decode(&header.encode()).is_err());
    }

    #[test]
    fn call_ids_compare_across_the_wrap() {
        assert!(CallId(u32::MAX - 1).is_covered_by(CallId(3)));
        assert!(!CallId(3).is_covered_by(CallId(u32::MAX - 1)));
        assert_eq!(CallId(u32::MAX).next(), CallId(1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_encode_back_to_themselves(bytes: [u8; Header::SIZE]) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
