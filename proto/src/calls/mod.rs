//! The call table.
//!
//! A row reads: opcode (high byte = chapter, never reused), the protocol version since which it exists, the class,
//! and the call in CUDA's words. In C the answers stand first, as pointers; here they stand behind the arrow.
//!
//! * `post`: send and go on; `wait`: one round trip.
//! * `-> Named<T>`: the client chooses the name, so a creation is posted.
//!
//! Three macros read each chapter: `declare` (trait and rows), `remote` (any [`Caller`](crate::Caller) has the
//! calls) and `serve` (bytes -> method of a device). The test that walks the table is a fourth.

use cuda_types::{CuError, CuResult};

use crate::codec::{Malformed, Reader};
use crate::names::Names;

/// Whether a call waits for its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Sent, and the caller goes on.
    Post,
    /// One round trip.
    Wait,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    pub opcode: u16,
    /// The protocol version in which the row appeared.
    pub since: u16,
    pub class: Class,
    pub name: &'static str,
    /// Argument and answer types as written, for the hash that both sides compare.
    pub signature: &'static str,
}

macro_rules! class {
    (post) => {
        $crate::calls::Class::Post
    };
    (wait) => {
        $crate::calls::Class::Wait
    };
}
pub(crate) use class;

macro_rules! answer {
    () => {
        ()
    };
    ($out:ty) => {
        $out
    };
}
pub(crate) use answer;

/// Declares the trait of a chapter, its rows, and a constant opcode per call.
macro_rules! declare {
    ($(#[$chapter_doc:meta])* trait $Trait:ident; rows $ROWS:ident; $(
        $(#[$doc:meta])*
        $opcode:literal since $since:literal $class:ident fn $name:ident($($arg:ident: $param:ty),* $(,)?) $(-> $out:ty)?;
    )*) => {
        $(#[$chapter_doc])*
        pub trait $Trait {
            $(
                $(#[$doc])*
                fn $name(&self, $($arg: <$param as $crate::param::Param>::Arg<'_>),*)
                    -> cuda_types::CuResult<<$crate::calls::answer!($($out)?) as $crate::param::Answer>::Value>;
            )*
        }

        /// The rows of this chapter, in order of opcode.
        pub static $ROWS: &[$crate::calls::Row] = &[$(
            $crate::calls::Row {
                opcode: $opcode,
                since: $since,
                class: $crate::calls::class!($class),
                name: stringify!($name),
                signature: stringify!($($param),* $(-> $out)?),
            },
        )*];
    };
}
pub(crate) use declare;

/// Gives every `Caller` the calls of a chapter.
macro_rules! remote {
    ($(#[$chapter_doc:meta])* trait $Trait:ident; rows $ROWS:ident; $(
        $(#[$doc:meta])*
        $opcode:literal since $since:literal $class:ident fn $name:ident($($arg:ident: $param:ty),* $(,)?) $(-> $out:ty)?;
    )*) => {
        impl<C: $crate::Caller + ?Sized> $Trait for C {
            $(
                fn $name(&self, $($arg: <$param as $crate::param::Param>::Arg<'_>),*)
                    -> cuda_types::CuResult<<$crate::calls::answer!($($out)?) as $crate::param::Answer>::Value>
                {
                    const ROW: &$crate::calls::Row = &$crate::calls::Row {
                        opcode: $opcode,
                        since: $since,
                        class: $crate::calls::class!($class),
                        name: stringify!($name),
                        signature: "",
                    };
                    <$crate::calls::answer!($($out)?) as $crate::param::Answer>::call(self, ROW, |_out| {
                        $(<$param as $crate::param::Param>::write($arg.clone(), _out);)*
                    })
                }
            )*
        }
    };
}
pub(crate) use remote;

/// Reads the arguments of a chapter's call, makes it and writes the answer.
macro_rules! serve {
    ($(#[$chapter_doc:meta])* trait $Trait:ident; rows $ROWS:ident; $(
        $(#[$doc:meta])*
        $opcode:literal since $since:literal $class:ident fn $name:ident($($arg:ident: $param:ty),* $(,)?) $(-> $out:ty)?;
    )*) => {
        /// Makes one call of this chapter on `target`; `None` if the opcode is not in it.
        pub(crate) fn serve<T: $Trait + ?Sized>(
            target: &T, opcode: u16, reader: &mut $crate::codec::Reader<'_>, names: &$crate::Names,
            reply: &mut Vec<u8>,
        ) -> Option<Result<cuda_types::CuResult<()>, $crate::Malformed>> {
            Some(match opcode {
                $($opcode => {
                    type Out = $crate::calls::answer!($($out)?);
                    // A closure, so that `?` ends this call and not the function.
                    let mut call = || {
                        let name = <Out as $crate::param::Answer>::announce(reader)?;
                        $(let $arg = <$param as $crate::param::Param>::read(reader, stringify!($arg))?;)*
                        if !reader.rest().is_empty() {
                            return Err($crate::Malformed::new(
                                stringify!($name),
                                format_args!("{} bytes after its end", reader.rest().len()),
                            ));
                        }
                        let make = || {
                            $(let $arg = <$param as $crate::param::Param>::resolve($arg, names)?;)*
                            target.$name($($arg),*)
                        };
                        <Out as $crate::param::Answer>::deliver(make(), name, names, reply)
                    };
                    call()
                })*
                _ => return None,
            })
        }
    };
}
pub(crate) use serve;

pub mod array;
pub mod context;
pub mod event;
pub mod launch;
pub mod memory;
pub mod module;
pub mod stream;
pub mod transfer;

pub use array::ArrayCalls;
pub use context::ContextCalls;
pub use event::EventCalls;
pub use launch::LaunchCalls;
pub use memory::MemoryCalls;
pub use module::ModuleCalls;
pub use stream::StreamCalls;
pub use transfer::TransferCalls;

/// All calls that reach a device: what `Remote` and the GPUs have in common.
pub trait Driver:
    ContextCalls + MemoryCalls + ModuleCalls + StreamCalls + EventCalls + LaunchCalls + ArrayCalls
{
}

impl<T> Driver for T where
    T: ContextCalls
        + MemoryCalls
        + ModuleCalls
        + StreamCalls
        + EventCalls
        + LaunchCalls
        + ArrayCalls
        + ?Sized
{
}

static CHAPTERS: [&[Row]; 8] = [
    context::ROWS,
    memory::ROWS,
    module::ROWS,
    stream::ROWS,
    event::ROWS,
    launch::ROWS,
    transfer::ROWS,
    array::ROWS,
];

/// Every row of the table, in order of opcode.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    CHAPTERS.into_iter().flatten()
}

/// The row of an opcode. Every call is looked up here when it arrives.
#[inline]
pub fn row(opcode: u16) -> Option<&'static Row> {
    static BY_OPCODE: [Option<&Row>; OPCODE_END] = by_opcode();
    BY_OPCODE.get(usize::from(opcode)).copied().flatten()
}

const fn by_opcode() -> [Option<&'static Row>; OPCODE_END] {
    let mut table = [None; OPCODE_END];
    let mut chapter = 0;
    while chapter < CHAPTERS.len() {
        let mut row = 0;
        while row < CHAPTERS[chapter].len() {
            table[CHAPTERS[chapter][row].opcode as usize] = Some(&CHAPTERS[chapter][row]);
            row += 1;
        }
        chapter += 1;
    }
    table
}

/// Every opcode of a call is below this.
pub const OPCODE_END: usize = 0x0a00;

/// A number that differs when any row up to protocol version `version` differs (FNV-1a over names and signatures).
pub fn table_hash(version: u16) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for row in rows().filter(|row| row.since <= version) {
        mix(&row.opcode.to_le_bytes());
        mix(&[u8::from(row.class == Class::Wait)]);
        mix(row.name.as_bytes());
        // Token spacing of stringify! is not stable between compilers.
        mix(row.signature.replace(char::is_whitespace, "").as_bytes());
    }
    hash
}

/// Makes the call of a frame on `device`, or on `transfers` for the chapter that concerns the link itself.
///
/// The outer error is the client's fault and ends its session; the inner one is CUDA's answer. What a waiting call
/// answers is appended to `reply`.
pub fn dispatch(
    opcode: u16,
    arguments: &[u8],
    device: &(impl Driver + ?Sized),
    transfers: &(impl TransferCalls + ?Sized),
    names: &Names,
    reply: &mut Vec<u8>,
) -> Result<CuResult<()>, Malformed> {
    let mut reader = Reader::new(arguments);
    let reader = &mut reader;
    let served = match opcode >> 8 {
        0x01 => context::serve(device, opcode, reader, names, reply),
        0x03 => memory::serve(device, opcode, reader, names, reply),
        0x04 => module::serve(device, opcode, reader, names, reply),
        0x05 => stream::serve(device, opcode, reader, names, reply),
        0x06 => event::serve(device, opcode, reader, names, reply),
        0x07 => launch::serve(device, opcode, reader, names, reply),
        0x08 => transfer::serve(transfers, opcode, reader, names, reply),
        0x09 => array::serve(device, opcode, reader, names, reply),
        _ => None,
    };
    let result =
        served.unwrap_or_else(|| Err(Malformed::new("opcode", format_args!("{opcode:#06x} is no call"))))?;
    if result.is_ok() || result == Err(CuError::INVALID_HANDLE) {
        forget_destroyed(opcode, arguments, names);
    }
    if opcode == module::GET_FUNCTION {
        // The name that was bound stands before the arguments.
        let mut reader = Reader::new(arguments);
        names.belongs(reader.take("function name")?, reader.take("module")?);
    }
    Ok(result)
}

/// A destroyed thing's name is free again.
#[inline]
fn forget_destroyed(opcode: u16, arguments: &[u8], names: &Names) {
    let mut reader = Reader::new(arguments);
    match opcode {
        stream::DESTROY => reader.take("stream").map(|name| names.forget::<cuda_types::CUstream>(name)),
        event::DESTROY => reader.take("event").map(|name| names.forget::<cuda_types::CUevent>(name)),
        array::DESTROY => reader.take("array").map(|name| names.forget::<cuda_types::CUarray>(name)),
        array::DESTROY_MIPMAPPED => {
            reader.take("array").map(|name| names.forget::<cuda_types::CUmipmappedArray>(name))
        }
        module::UNLOAD => reader.take("module").map(|name| names.forget_module(name)),
        _ => return,
    }
    .expect("the call has just been read from the same bytes");
}

#[cfg(test)]
mod tests;
