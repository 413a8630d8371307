//! How each kind of argument and of answer travels.
//!
//! Arguments: a [`Param`] marker in a row says the Rust shape that a method takes and how it is written. Answers: an
//! [`Answer`] says what a method returns and how it comes back; [`Named`] answers do not come back at all, because
//! the client has chosen the name already.

use std::ffi::CStr;
use std::marker::PhantomData;

use bincode::{BorrowDecode, Decode, Encode};
use cuda_types::{
    CUarray, CUdeviceptr, CUevent, CUfunction, CUmipmappedArray, CUmodule, CUstream, CuResult, Dim3,
};

use crate::calls::{Class, Row};
use crate::codec::{self, Malformed, Reader};
use crate::facts::ModuleFacts;
use crate::names::{self, Names};
use crate::remote::Caller;

/// A kind of argument: its Rust shape and its encoding.
pub trait Param {
    /// What the method takes.
    type Arg<'a>: Clone;
    /// Appends the argument.
    fn write(arg: Self::Arg<'_>, out: &mut Vec<u8>);
    /// Reads the argument as the client sent it.
    fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<Self::Arg<'a>, Malformed>;
    /// Exchanges the client's name for the device's handle.
    fn resolve<'a>(arg: Self::Arg<'a>, _names: &Names) -> CuResult<Self::Arg<'a>> {
        Ok(arg)
    }
    /// An argument for the test that walks the table.
    fn sample() -> Self::Arg<'static>;
}

macro_rules! plain {
    ($($type:ty = $sample:expr;)*) => {$(
        impl Param for $type {
            type Arg<'a> = $type;
            fn write(arg: $type, out: &mut Vec<u8>) { codec::put(out, arg); }
            fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<$type, Malformed> { reader.take(name) }
            fn sample() -> $type { $sample }
        }
    )*};
}

/// As [`plain`], without the encoder: calls carry little else, and each launch several. The bytes are the same, as the tests
/// see to.
macro_rules! number {
    ($($type:ty = $sample:expr;)*) => {$(
        impl Param for $type {
            type Arg<'a> = $type;
            #[inline]
            fn write(arg: $type, out: &mut Vec<u8>) { out.extend_from_slice(&arg.to_le_bytes()); }
            #[inline(always)]
            fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<$type, Malformed> {
                reader.take_array(name).map(<$type>::from_le_bytes)
            }
            fn sample() -> $type { $sample }
        }
    )*};
}

macro_rules! handle {
    ($($type:ty = $sample:expr;)*) => {$(
        impl Param for $type {
            type Arg<'a> = $type;
            #[inline]
            fn write(arg: $type, out: &mut Vec<u8>) { out.extend_from_slice(&arg.0.to_le_bytes()); }
            #[inline(always)]
            fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<$type, Malformed> {
                reader.take_array(name).map(u64::from_le_bytes).map(names::Named::from_number)
            }
            #[inline]
            fn resolve<'a>(arg: Self::Arg<'a>, names: &Names) -> CuResult<Self::Arg<'a>> { names.resolve(arg) }
            fn sample() -> $type { $sample }
        }
    )*};
}

number! {
    u8 = 0xa5;
    u16 = 0xa55a;
    u32 = 0x1234_5678;
    i32 = -5;
    u64 = 0x1_0000_0001;
}

plain! {
    CUdeviceptr = CUdeviceptr(0x2000_0000_0100);
    Copy2D = Copy2D { dst: CUdeviceptr(1), dst_pitch: 512, src: CUdeviceptr(2), src_pitch: 256, width: 100, height: 9 };
}

handle! {
    CUstream = CUstream::LEGACY;
    CUevent = CUevent::NULL;
    CUmodule = CUmodule::NULL;
    CUfunction = CUfunction::NULL;
    CUarray = CUarray::NULL;
    CUmipmappedArray = CUmipmappedArray::NULL;
}

pub use crate::arrays::{ArrayDesc, Copy3D, Resource, Side3D, TextureDesc};

/// A rectangle of bytes copied within one device. Pitches, width in bytes; height in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Copy2D {
    pub dst: CUdeviceptr,
    pub dst_pitch: u64,
    pub src: CUdeviceptr,
    pub src_pitch: u64,
    pub width: u64,
    pub height: u64,
}

impl Param for Dim3 {
    type Arg<'a> = Dim3;
    #[inline]
    fn write(arg: Dim3, out: &mut Vec<u8>) {
        put_extents([arg.x, arg.y, arg.z].map(u32::to_le_bytes), out);
    }
    #[inline(always)]
    fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<Dim3, Malformed> {
        let [x, y, z] = take_extents(reader, name)?.map(u32::from_le_bytes);
        Ok(Dim3 { x, y, z })
    }
    fn sample() -> Dim3 {
        Dim3 { x: 7, y: 2, z: 3 }
    }
}

#[inline]
fn put_extents<const BYTES: usize>(extents: [[u8; BYTES]; 3], out: &mut Vec<u8>) {
    out.extend_from_slice(extents.as_flattened());
}

#[inline(always)]
fn take_extents<const BYTES: usize>(
    reader: &mut Reader<'_>,
    name: &'static str,
) -> Result<[[u8; BYTES]; 3], Malformed> {
    Ok([reader.take_array(name)?, reader.take_array(name)?, reader.take_array(name)?])
}

/// The extents of a block, in half the bytes of a grid's. One that does not fit, which no device has, goes as 0: every
/// device refuses that as it would refuse the extent.
pub struct BlockDim;

impl Param for BlockDim {
    type Arg<'a> = Dim3;
    #[inline]
    fn write(arg: Dim3, out: &mut Vec<u8>) {
        let extent = |extent: u32| u16::try_from(extent).unwrap_or(0).to_le_bytes();
        put_extents([arg.x, arg.y, arg.z].map(extent), out);
    }
    #[inline(always)]
    fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<Dim3, Malformed> {
        let [x, y, z] = take_extents(reader, name)?.map(|extent| u16::from_le_bytes(extent).into());
        Ok(Dim3 { x, y, z })
    }
    fn sample() -> Dim3 {
        Dim3 { x: 128, y: 4, z: 2 }
    }
}

/// Bytes of the caller, lent for the call and captured before it returns.
pub struct InBytes;

impl Param for InBytes {
    type Arg<'a> = &'a [u8];
    #[inline]
    fn write(arg: &[u8], out: &mut Vec<u8>) {
        codec::put_bytes(out, arg);
    }
    #[inline(always)]
    fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<&'a [u8], Malformed> {
        reader.take_bytes(name)
    }
    fn sample() -> &'static [u8] {
        b"bytes in"
    }
}

/// A C string of the caller.
pub struct InStr;

impl Param for InStr {
    type Arg<'a> = &'a CStr;
    fn write(arg: &CStr, out: &mut Vec<u8>) {
        codec::put(out, arg.to_bytes_with_nul());
    }
    fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<&'a CStr, Malformed> {
        CStr::from_bytes_with_nul(reader.take(name)?).map_err(|error| Malformed::new(name, error))
    }
    fn sample() -> &'static CStr {
        c"_Z6vecaddPf"
    }
}

/// Several runs of bytes of the caller: the images that make up one module.
pub struct InImages;

impl Param for InImages {
    type Arg<'a> = Vec<&'a [u8]>;
    fn write(arg: Vec<&[u8]>, out: &mut Vec<u8>) {
        codec::put(out, arg.len() as u64);
        for image in arg {
            codec::put(out, image);
        }
    }
    fn read<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<Vec<&'a [u8]>, Malformed> {
        let count: u64 = reader.take(name)?;
        if count > (reader.rest().len() / 8) as u64 {
            return Err(Malformed::new(
                name,
                format_args!("{count} images in {} bytes", reader.rest().len()),
            ));
        }
        (0..count).map(|_| reader.take(name)).collect()
    }
    fn sample() -> Vec<&'static [u8]> {
        vec![b"first image", b"", b"third"]
    }
}

/// What a method returns and how it comes back.
pub trait Answer {
    /// The method's `Ok`.
    type Value: PartialEq + std::fmt::Debug;
    /// Makes the call: posts it, or waits for its reply.
    fn call<C: Caller + ?Sized>(
        caller: &C,
        row: &'static Row,
        write: impl FnMut(&mut Vec<u8>),
    ) -> CuResult<Self::Value>;
    /// Reads what the request says about the answer (the name that a creation shall bind), before the arguments.
    fn announce(reader: &mut Reader<'_>) -> Result<u64, Malformed>;
    /// Binds the created name, or writes the value into the reply.
    fn deliver(
        value: CuResult<Self::Value>,
        name: u64,
        names: &Names,
        reply: &mut Vec<u8>,
    ) -> Result<CuResult<()>, Malformed>;
    /// A value for the test that walks the table.
    fn sample() -> Self::Value;
}

fn call_for_value<T: for<'a> BorrowDecode<'a, ()>, C: Caller + ?Sized>(
    caller: &C,
    row: &'static Row,
    mut write: impl FnMut(&mut Vec<u8>),
) -> CuResult<T> {
    let mut value = None;
    caller.wait(row, &mut write, &mut |bytes| {
        value = Some(codec::read_all(bytes, row.name)?);
        Ok(())
    })?;
    Ok(value.expect("wait() returns Ok only after the reply was read"))
}

impl Answer for () {
    type Value = ();
    fn call<C: Caller + ?Sized>(
        caller: &C,
        row: &'static Row,
        write: impl FnMut(&mut Vec<u8>),
    ) -> CuResult<()> {
        match row.class {
            Class::Post => caller.post(row, write),
            Class::Wait => call_for_value(caller, row, write),
        }
    }
    fn announce(_: &mut Reader<'_>) -> Result<u64, Malformed> {
        Ok(0)
    }
    fn deliver(value: CuResult<()>, _: u64, _: &Names, _: &mut Vec<u8>) -> Result<CuResult<()>, Malformed> {
        Ok(value)
    }
    fn sample() {}
}

macro_rules! values {
    ($($type:ty = $sample:expr;)*) => {$(
        impl Answer for $type {
            type Value = $type;
            fn call<C: Caller + ?Sized>(
                caller: &C, row: &'static Row, write: impl FnMut(&mut Vec<u8>),
            ) -> CuResult<$type> {
                call_for_value(caller, row, write)
            }
            fn announce(_: &mut Reader<'_>) -> Result<u64, Malformed> { Ok(0) }
            fn deliver(
                value: CuResult<$type>, _: u64, _: &Names, reply: &mut Vec<u8>,
            ) -> Result<CuResult<()>, Malformed> {
                Ok(value.map(|value| codec::put(reply, value)))
            }
            fn sample() -> $type { $sample }
        }
    )*};
}

values! {
    u64 = 77;
    i32 = -6;
    f32 = 1.5;
    (u64, u64) = (3, 4);
    Vec<u8> = vec![9, 8, 7];
}

/// The answer of a creation: the client chose the name, so nothing comes back.
pub struct Named<T>(PhantomData<T>);

impl<T: names::Named + PartialEq + std::fmt::Debug> Answer for Named<T> {
    type Value = T;
    fn call<C: Caller + ?Sized>(
        caller: &C,
        row: &'static Row,
        mut write: impl FnMut(&mut Vec<u8>),
    ) -> CuResult<T> {
        let name = caller.new_name();
        caller.post(row, |out| {
            codec::put(out, name);
            write(out);
        })?;
        Ok(T::from_number(name))
    }
    fn announce(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
        reader.take(T::KIND)
    }
    fn deliver(
        value: CuResult<T>,
        name: u64,
        names: &Names,
        _: &mut Vec<u8>,
    ) -> Result<CuResult<()>, Malformed> {
        names.bind(name, value)?;
        Ok(value.map(drop))
    }
    fn sample() -> T {
        T::from_number(0x4_0000)
    }
}

/// The answer of a module load: the client chose the name, the facts come back.
pub struct Loaded;

impl Answer for Loaded {
    type Value = (CUmodule, ModuleFacts);
    fn call<C: Caller + ?Sized>(
        caller: &C,
        row: &'static Row,
        mut write: impl FnMut(&mut Vec<u8>),
    ) -> CuResult<Self::Value> {
        let name = caller.new_name();
        let facts = call_for_value(caller, row, |out| {
            codec::put(out, name);
            write(out);
        })?;
        Ok((CUmodule(name), facts))
    }
    fn announce(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
        reader.take("module name")
    }
    fn deliver(
        value: CuResult<Self::Value>,
        name: u64,
        names: &Names,
        reply: &mut Vec<u8>,
    ) -> Result<CuResult<()>, Malformed> {
        Ok(match value {
            Ok((module, facts)) => {
                names.bind(name, Ok(module))?;
                codec::put(reply, facts);
                Ok(())
            }
            // The client waits for this answer and never uses the name, so it need not be poisoned.
            Err(error) => Err(error),
        })
    }
    fn sample() -> Self::Value {
        (CUmodule(0x4_0000), ModuleFacts::default())
    }
}
