//! The thread that reads: takes frames off the link, queues calls in groups, puts bulk bytes where they belong.
//!
//! It waits for nothing but the link. A call that nothing can make wait it issues itself.

use proto::Malformed;
use proto::calls::{self as table, Class};
use proto::control::{Emptied, Farewell, GateOpen, HostMemory, Pulled, Upload};
use proto::frame::Header;
use proto::frames::FrameReader;
use proto::handshake::GREETING_LIMIT;
use transport::{Link, Urgency};

use super::busy::{STAGED_H_TO_D, light_bytes};
use super::calls::{Call, Group};
use super::outbox::Outbox;
use super::{SessionEnd, Worker};

/// After how many groups that the issuer was not ready for the reader need not run at once when it wakes up.
const STREAM_GROUPS: u64 = 4;

impl Worker {
    /// The reader thread: until the link ends or the client is at fault.
    pub(super) fn read(&self, link: &dyn Link, frames: &mut FrameReader) -> SessionEnd {
        let (mut group, mut urgency) = (Group::default(), Urgency::of_this_thread());
        // How many groups in a row have come while earlier ones were still to be issued.
        let mut behind = 0_u64;
        loop {
            let are_queued = group.add_whole(frames, |group, header| {
                // What comes first may be for this thread to make.
                header.opcode >= FIRST_CALL
                    && header.bulk == 0
                    && !(group.is_empty() && is_short(header.opcode))
            });
            let more = if are_queued {
                true
            } else if group.is_empty() && waits_for_call(frames) {
                match frames.refill(&mut |into: &mut [u8]| link.receive(into)) {
                    Ok(()) => continue,
                    Err(end) => return end.into(),
                }
            } else {
                match self.read_frame(link, frames, &mut group) {
                    Ok(more) => more,
                    Err(end) => return end,
                }
            };
            // Calls that have come together are queued together; for others nothing waits.
            if group.is_empty() {
                behind = 0;
            } else if !more || group.is_full() || !frames.has_frame() {
                let is_awaited = group.is_awaited();
                match self.queue.push(&mut group) {
                    Ok(true) if !is_awaited => behind += 1,
                    Ok(_) => behind = 0,
                    Err(malformed) => return SessionEnd::Malformed(malformed),
                }
            }
            urgency.set(behind < STREAM_GROUPS);
            if !more {
                return SessionEnd::Farewell;
            }
        }
    }

    /// Takes one frame, and adds a call that is to be queued to `group`; whether more will come.
    fn read_frame(
        &self,
        link: &dyn Link,
        frames: &mut FrameReader,
        group: &mut Group,
    ) -> Result<bool, SessionEnd> {
        let mut read = |into: &mut [u8]| link.receive(into);
        let header = frames.header(&mut read)?;
        if header.opcode >= FIRST_CALL {
            no_bulk(&header).map_err(SessionEnd::Malformed)?;
            let is_first = group.is_empty();
            group.add(&header, |into| frames.append_arguments(header.length, into, &mut read))?;
            if is_first {
                self.make_now(group).map_err(SessionEnd::Malformed)?;
            }
            return Ok(true);
        }
        let mut arguments = Vec::new();
        if header.length > GREETING_LIMIT {
            return Err(SessionEnd::Malformed(Malformed::new("control message", format_args!("{header:?}"))));
        }
        frames.arguments(header.length, &mut arguments, &mut read)?;
        if header.opcode == Upload::OPCODE {
            let upload = Upload::read(&arguments).map_err(SessionEnd::Malformed)?;
            let span = self.transfers.upload_range(upload.staging, u64::from(header.bulk));
            frames.bulk(span.map_err(SessionEnd::Malformed)?.write(), &mut read)?;
            return Ok(true);
        }
        self.take_control(&header, &arguments).map_err(SessionEnd::Malformed)
    }

    /// Makes the only call of `group` and takes it out, if the reader may.
    fn make_now(&self, group: &mut Group) -> Result<(), Malformed> {
        let is_quick = || group.calls().next().is_some_and(|call| self.cannot_wait(&call));
        if !is_quick() || !self.queue.issue_now() {
            return Ok(());
        }
        // Whoever has had the role meanwhile may have made calls to wait for.
        if !is_quick() {
            self.queue.issued_now();
            return Ok(());
        }
        let made = group.calls().try_for_each(|call| {
            let begun = self.begin(&call)?;
            self.make(&call, begun, Outbox::send_now)
        });
        self.queue.issued_now();
        group.clear();
        made
    }

    fn take_control(&self, header: &Header, arguments: &[u8]) -> Result<bool, Malformed> {
        no_bulk(header)?;
        match header.opcode {
            Pulled::OPCODE => self.transfers.pulled(Pulled::read(arguments)?)?,
            HostMemory::OPCODE => self.transfers.host_memory(HostMemory::read(arguments)?)?,
            Emptied::OPCODE => self.transfers.emptied(Emptied::read(arguments)?)?,
            GateOpen::OPCODE => self.transfers.open_gate(GateOpen::read(arguments)?)?,
            Farewell::OPCODE => {
                Farewell::read(arguments)?;
                return Ok(false);
            }
            opcode => {
                return Err(Malformed::new(
                    "opcode",
                    format_args!("{opcode:#06x} is no message of a client"),
                ));
            }
        }
        Ok(true)
    }

    /// Whether the thread that reads may issue a call itself: one that waits for its answer and takes no longer than an
    /// answer from memory, or a small copy to the device, when nothing is under way that they could wait for - but for such
    /// copies, which are over in the time of a wake-up.
    fn cannot_wait(&self, call: &Call<'_>) -> bool {
        let answers =
            is_short(call.opcode) && table::row(call.opcode).is_some_and(|row| row.class == Class::Wait);
        (answers || light_bytes(call).is_some()) && self.busy.is_nearly_idle(light_bytes(call).unwrap_or(0))
    }
}

/// Whether a call may take no longer than an answer from memory: of contexts, streams, events; small copies.
fn is_short(opcode: u16) -> bool {
    matches!(opcode >> 8, 0x01 | 0x05 | 0x06)
        || matches!(opcode, MEM_GET_INFO | MEMCPY_D_TO_H | STAGED_H_TO_D)
}

/// Whether what comes next may be a call that has not come whole.
fn waits_for_call(frames: &FrameReader) -> bool {
    if !frames.has_header() {
        return true;
    }
    let is_call =
        |header: Header| header.opcode >= FIRST_CALL && header.bulk == 0 && FrameReader::has_room(&header);
    !frames.has_frame() && frames.next_header().is_some_and(is_call)
}

/// Bulk bytes come with few messages, which have been taken before.
fn no_bulk(header: &Header) -> Result<(), Malformed> {
    if header.bulk == 0 {
        return Ok(());
    }
    Err(Malformed::new("frame", format_args!("bulk bytes where none belong: {header:?}")))
}

/// Opcodes below are control messages.
const FIRST_CALL: u16 = 0x0100;
const MEM_GET_INFO: u16 = 0x0305;
const MEMCPY_D_TO_H: u16 = 0x0311;
