//! Messages that are no calls: handled as they are read, never behind the queue of calls.

use bincode::{Decode, Encode};

use crate::codec::{self, Malformed};
use crate::frame::{CallId, append};

macro_rules! control {
    ($($(#[$doc:meta])* $opcode:literal $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type),* }

            impl $name {
                /// The opcode in the frame header.
                pub const OPCODE: u16 = $opcode;

                /// Appends the frame; `bulk` bytes follow it.
                pub fn append(self, out: &mut Vec<u8>, bulk: u32) {
                    append(out, $opcode, CallId(0), bulk, |out| codec::put(out, self));
                }

                /// Reads the arguments of the frame.
                pub fn read(arguments: &[u8]) -> Result<$name, Malformed> {
                    codec::read_all(arguments, stringify!($name))
                }
            }
        )*

        /// Every opcode of this file.
        pub const OPCODES: &[u16] = &[$($opcode),*];
    };
}

control! {
    /// Client to worker: the bulk bytes belong at `staging` of the upload staging, which was granted.
    0x0010 Upload { staging: u64 }
    /// Client to worker: bytes at `staging` are bytes `offset..offset + bytes` of a copy that was pulled.
    0x0011 Pulled { copy: u64, offset: u64, staging: u64, bytes: u64 }
    /// Client to worker: open a gate.
    0x0012 GateOpen { gate: u64 }
    /// Client to worker, with direct access: the client memory of the copy named `copy`, which follows. The worker reads or
    /// writes it there.
    0x0013 HostMemory { copy: u64, address: u64, key: u32 }
    /// Client to worker, with direct access: this part of the landing memory has been emptied.
    0x0014 Emptied { at: u64 }
    /// Client to worker: nothing more will come; finish what was posted.
    0x001f Farewell {}

    /// Worker to client: all calls up to `upto` are issued.
    0x0021 Issued { upto: u32, /** How many bytes of calls keep this device busy: what a client that is near may run ahead. */ ahead: u32 }
    /// Worker to client: this range of the upload staging is free again.
    0x0022 Credit { staging: u64, bytes: u64 }
    /// Worker to client: the stream has arrived at this copy; send its bytes.
    0x0023 Pull { copy: u64 }
    /// Worker to client: what was to be announced has happened.
    0x0024 Notice { notice: u64, /** 0, or the `CUresult` that broke the context. */ error: u32 }
    /// Worker to client: a stream has arrived at this host function.
    0x0025 RunHostFunction { gate: u64, /** 0, or the `CUresult` that broke the context. */ error: u32 }
    /// Worker to client: the bulk bytes are what kernels printed.
    0x0026 Printed {}
    /// Worker to client: a posted call failed.
    0x0027 Failed { call: u32, error: u32 }
    /// Worker to client: the bulk bytes belong at `offset` of the client memory named `copy`.
    0x0028 Landing { copy: u64, offset: u64, /** Whether the copy is complete with these bytes. */ last: bool }
    /// Worker to client: the answer to a waiting call; the value follows as bulk bytes when `error` is 0.
    0x0029 Reply { call: u32, error: u32 }
    /// Worker to client, with direct access: `bytes` bytes at `offset` of the client memory named `copy` lie at `at` of the
    /// landing memory; none if the copy failed.
    0x002a LandedAt { copy: u64, offset: u64, bytes: u64, at: u64, last: bool }
    /// Worker to client, with direct access: `bytes` bytes of the client memory named `copy` have been written in place.
    0x002b Landed { copy: u64, bytes: u64, last: bool }
    /// Worker to client, with direct access: the worker has read the client memory named `copy`.
    0x002c PullDone { copy: u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Header;

    #[test]
    fn a_control_frame_reads_back() {
        let mut out = Vec::new();
        Landing { copy: 3, offset: 9, last: true }.append(&mut out, 100);
        let header =
            Header::decode(out[..Header::SIZE].try_into().expect("16 bytes")).expect("a good header");
        assert_eq!((header.opcode, header.bulk), (Landing::OPCODE, 100));
        assert_eq!(Landing::read(&out[Header::SIZE..]), Ok(Landing { copy: 3, offset: 9, last: true }));
        assert!(Landing::read(&out[Header::SIZE..out.len() - 1]).is_err(), "truncated");
    }

    #[test]
    fn opcodes_are_unique_and_below_the_chapters() {
        assert!(OPCODES.is_sorted() && OPCODES.iter().all(|opcode| *opcode < 0x0100));
    }
}
