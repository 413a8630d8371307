//! A trait call becomes a frame: every [`Caller`] has all calls of the table.

use cuda_types::CuResult;

use crate::calls::Row;
use crate::codec::Malformed;

/// Whoever can carry calls to a device: the client's session, and the loop-back of the tests.
///
/// The call traits of the table are implemented for every `Caller`, by the macro `remote` beside each chapter.
pub trait Caller {
    /// Sends the call and goes on. An error of the call comes back later, or at the next waiting call.
    fn post(&self, row: &'static Row, write: impl FnMut(&mut Vec<u8>)) -> CuResult<()>;

    /// Sends the call and waits for its reply, whose bytes go to `read`, unless the reply is an error.
    ///
    /// Returns `Ok` only after `read` returned `Ok`; bytes that `read` refuses end the link.
    fn wait(
        &self,
        row: &'static Row,
        write: &mut dyn FnMut(&mut Vec<u8>),
        read: &mut dyn FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> CuResult<()>;

    /// A name that this session has not used yet, at least 0x100.
    fn new_name(&self) -> u64;
}
