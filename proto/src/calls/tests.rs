//! The test that walks the table: every row is encoded, decoded, made on a probe and answered.

use std::cell::RefCell;

use cuda_types::{CuError, CuResult};

use super::{Class, Row, dispatch, rows, table_hash};
use crate::codec::Malformed;
use crate::names::Names;
use crate::remote::Caller;

/// A device that writes down what reached it and answers samples.
#[derive(Default)]
pub(crate) struct Probe {
    seen: RefCell<Vec<(&'static str, Vec<u8>)>>,
}

/// Carries calls straight to a `Probe`, through the same bytes as a real link.
struct Loopback {
    probe: Probe,
    names: RefCell<Names>,
    sent: RefCell<Vec<(u16, Vec<u8>)>>,
}

impl Loopback {
    fn new() -> Loopback {
        Loopback { probe: Probe::default(), names: RefCell::default(), sent: RefCell::default() }
    }

    fn make(&self, row: &Row, mut write: impl FnMut(&mut Vec<u8>)) -> CuResult<Vec<u8>> {
        let (mut arguments, mut reply) = (Vec::new(), Vec::new());
        write(&mut arguments);
        // Whatever is cut off or added must be noticed before anything reaches the device.
        let calls_before = self.probe.seen.borrow().len();
        if let Some(short) = arguments.len().checked_sub(1) {
            self.refuse(row, &arguments[..short]);
        }
        self.refuse(row, &[&arguments[..], &[0]].concat());
        assert_eq!(
            self.probe.seen.borrow().len(),
            calls_before,
            "{}: a malformed frame reached the device",
            row.name
        );
        let result = self.dispatch(row.opcode, &arguments, &mut reply).expect("well-formed");
        self.sent.borrow_mut().push((row.opcode, arguments));
        result.map(|()| reply)
    }

    fn dispatch(
        &self,
        opcode: u16,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<CuResult<()>, Malformed> {
        dispatch(opcode, arguments, &self.probe, &self.probe, &self.names.borrow(), reply)
    }

    fn refuse(&self, row: &Row, arguments: &[u8]) {
        let refused = self.dispatch(row.opcode, arguments, &mut Vec::new());
        assert!(refused.is_err(), "{}: {} bytes were accepted", row.name, arguments.len());
    }
}

impl Caller for Loopback {
    fn post(&self, row: &'static Row, write: impl FnMut(&mut Vec<u8>)) -> CuResult<()> {
        assert_eq!(row.class, Class::Post, "{}", row.name);
        self.make(row, write).map(|reply| assert!(reply.is_empty(), "{}: a posted call answered", row.name))
    }

    fn wait(
        &self,
        row: &'static Row,
        write: &mut dyn FnMut(&mut Vec<u8>),
        read: &mut dyn FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> CuResult<()> {
        assert_eq!(row.class, Class::Wait, "{}", row.name);
        let reply = self.make(row, write)?;
        read(&reply).map_err(|_| CuError::UNKNOWN)
    }

    fn new_name(&self) -> u64 {
        0x4_0000
    }
}

/// Implements a chapter on `Probe`, and a function that makes each call once with sample arguments.
macro_rules! probe {
    ($(#[$chapter_doc:meta])* trait $Trait:ident; rows $ROWS:ident; $(
        $(#[$doc:meta])*
        $opcode:literal since $since:literal $class:ident fn $name:ident($($arg:ident: $param:ty),* $(,)?) $(-> $out:ty)?;
    )*) => {
        impl $Trait for $crate::calls::tests::Probe {
            $(fn $name(&self, $($arg: <$param as $crate::param::Param>::Arg<'_>),*)
                -> cuda_types::CuResult<<$crate::calls::answer!($($out)?) as $crate::param::Answer>::Value>
            {
                let mut _bytes = Vec::new();
                $(<$param as $crate::param::Param>::write($arg, &mut _bytes);)*
                self.saw(stringify!($name), _bytes);
                Ok(<$crate::calls::answer!($($out)?) as $crate::param::Answer>::sample())
            })*
        }

        #[cfg(test)]
        pub(crate) fn walk(caller: &impl $crate::Caller, mut check: impl FnMut(&'static str, Vec<u8>, bool)) {
            $({
                let mut _bytes = Vec::new();
                $(<$param as $crate::param::Param>::write(<$param as $crate::param::Param>::sample(), &mut _bytes);)*
                let answer = $Trait::$name(caller, $(<$param as $crate::param::Param>::sample()),*);
                let expected = <$crate::calls::answer!($($out)?) as $crate::param::Answer>::sample();
                check(stringify!($name), _bytes, answer == Ok(expected));
            })*
        }
    };
}
pub(crate) use probe;

impl Probe {
    pub(crate) fn saw(&self, name: &'static str, arguments: Vec<u8>) {
        self.seen.borrow_mut().push((name, arguments));
    }
}

#[test]
fn every_row_arrives_and_answers_as_it_was_sent() {
    let mut walked = Vec::new();
    macro_rules! walk {
        ($($chapter:ident)*) => {$({
            let link = Loopback::new();
            super::$chapter::walk(&link, |name, arguments, answered| {
                assert!(answered, "{name}: the answer differs from what the device gave");
                let seen = link.probe.seen.borrow().last().cloned();
                assert_eq!(seen, Some((name, arguments)), "{name}: the device saw other arguments");
                // Each creation binds the same sample name; make it free for the next.
                *link.names.borrow_mut() = Names::default();
                walked.push(name);
            });
        })*};
    }
    walk!(context memory module stream event launch transfer array);
    assert_eq!(walked, rows().map(|row| row.name).collect::<Vec<_>>());
}

#[test]
fn opcodes_are_unique_sorted_and_inside_their_chapter() {
    let opcodes: Vec<u16> = rows().map(|row| row.opcode).collect();
    assert!(opcodes.windows(2).all(|pair| pair[0] < pair[1]), "{opcodes:x?}");
    for row in rows() {
        assert!(row.opcode >= 0x0100 && row.since >= 1, "{row:?}");
    }
}

#[test]
fn an_unknown_opcode_is_malformed() {
    let link = Loopback::new();
    for opcode in [0x0000, 0x01ff, 0x0900, 0xffff] {
        assert!(link.dispatch(opcode, &[], &mut Vec::new()).is_err(), "{opcode:#06x}");
    }
}

#[test]
fn a_destroyed_name_is_invalid() {
    use crate::{EventCalls, StreamCalls};
    let link = Loopback::new();
    let event = link.cuEventCreate(0).expect("probe creates everything");
    assert_eq!(link.cuEventRecord(event, cuda_types::CUstream::NULL), Ok(()));
    assert_eq!(link.cuEventDestroy_v2(event), Ok(()));
    assert_eq!(link.cuEventRecord(event, cuda_types::CUstream::NULL), Err(CuError::INVALID_HANDLE));
    assert_eq!(link.cuStreamQuery(cuda_types::CUstream(0x999)), Err(CuError::INVALID_HANDLE));
}

#[test]
fn the_hash_covers_every_row() {
    assert_ne!(table_hash(1), table_hash(0));
}
