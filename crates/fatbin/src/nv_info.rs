//! The records of `.nv.info` sections: what ptxas tells the driver about a module and its kernels.

use crate::bytes::Bytes;
use crate::error::{Malformed, Result};

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) attribute: u8,
    pub(crate) value: Value<'a>,
}

/// The value of a record, by its format byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// No value, or a small one that stands in the record itself.
    Short(u16),
    /// A payload of stated length.
    Payload(&'a [u8]),
}

/// All records of one section, in file order.
pub(crate) fn records(section: &[u8]) -> Result<Vec<Record<'_>>> {
    let fields = Bytes::new(".nv.info section", section);
    let mut records = Vec::new();
    let mut at = 0;
    while at < section.len() as u64 {
        let head = fields.u32(at)?.to_le_bytes();
        let short = u16::from_le_bytes([head[2], head[3]]);
        at += 4;
        let value = match head[0] {
            NO_VALUE | BYTE_VALUE | SHORT_VALUE => Value::Short(short),
            SIZED_VALUE => {
                let payload = fields.slice(at, short.into())?;
                at += u64::from(short);
                Value::Payload(payload)
            }
            format => {
                return Err(Malformed::Field {
                    what: ".nv.info record",
                    field: "format",
                    value: format.into(),
                });
            }
        };
        records.push(Record { attribute: head[1], value });
    }
    Ok(records)
}

/// The records that this crate reads; cuobjdump's names without `EIATTR_`.
pub(crate) mod attribute {
    /// Three u32: the limits of `__launch_bounds__` or `.maxntid`.
    pub(crate) const MAX_THREADS: u8 = 0x05;
    /// u32 symbol, u16 base of the parameters in constant bank 0, u16 bytes.
    pub(crate) const PARAM_CBANK: u8 = 0x0a;
    /// u32 symbol, u32 bytes of stack frame.
    pub(crate) const FRAME_SIZE: u8 = 0x11;
    /// u32 symbol, u32 bytes of stack that a thread needs at least.
    pub(crate) const MIN_STACK_SIZE: u8 = 0x12;
    /// u32 index, u16 ordinal, u16 offset, u32 whose upper 14 bits are the size.
    pub(crate) const KPARAM_INFO: u8 = 0x17;
    /// u16: bytes of all parameters.
    pub(crate) const CBANK_PARAM_SIZE: u8 = 0x19;
    /// u32 symbol, u32 registers per thread.
    pub(crate) const REGCOUNT: u8 = 0x2f;
    /// As KPARAM_INFO with a u32 whose lower 24 bits are the size: used where 14 bits do not hold it.
    pub(crate) const KPARAM_INFO_V2: u8 = 0x45;
}

const NO_VALUE: u8 = 1;
const BYTE_VALUE: u8 = 2;
const SHORT_VALUE: u8 = 3;
const SIZED_VALUE: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_every_format_are_read() {
        let section = [1, 0x36, 0, 0, 3, 0x19, 0x20, 0, 4, 0x0a, 4, 0, 1, 2, 3, 4];
        let records = records(&section).unwrap();
        assert_eq!(records[0], Record { attribute: 0x36, value: Value::Short(0) });
        assert_eq!(records[1], Record { attribute: 0x19, value: Value::Short(0x20) });
        assert_eq!(records[2], Record { attribute: 0x0a, value: Value::Payload(&[1, 2, 3, 4]) });
    }

    #[test]
    fn a_payload_beyond_the_section_is_malformed() {
        assert!(matches!(records(&[4, 0x0a, 5, 0, 1, 2, 3, 4]), Err(Malformed::Truncated { .. })));
    }
}
