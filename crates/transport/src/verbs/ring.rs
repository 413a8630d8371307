//! Arithmetic of a ring that one side writes and the other reads.
//!
//! Positions count bytes since the beginning and never wrap; a place in the ring is the position modulo its length.
//! A message is at most the bytes up to the end of the ring: what goes round it becomes two.

/// The writer's view: how much it may write.
#[derive(Debug)]
pub(crate) struct Writer {
    capacity: u64,
    /// Messages that the reader can take before it has made room for more.
    messages: u64,
    written: u64,
    sent: u64,
}

/// What the reader has told the writer, as counts since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Consumed {
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
}

/// A place to write to: offset in the ring and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Writer {
    pub(crate) fn new(capacity: u64, messages: u64) -> Writer {
        Writer { capacity, messages, written: 0, sent: 0 }
    }

    /// Where the next message of at most `bytes` bytes goes, if there is room for any; `advance` takes it.
    pub(crate) fn room(&self, bytes: u64, consumed: Consumed) -> Option<Slot> {
        let used = self.written.saturating_sub(consumed.bytes);
        let offset = self.written % self.capacity;
        let bytes = bytes.min(self.capacity.saturating_sub(used)).min(self.capacity - offset);
        let takes = self.sent.saturating_sub(consumed.messages) < self.messages;
        (takes && bytes > 0).then_some(Slot { offset, bytes })
    }

    pub(crate) fn advance(&mut self, slot: Slot) {
        self.written += slot.bytes;
        self.sent += 1;
    }
}

/// The reader's view: what has arrived and what the writer has been told.
#[derive(Debug)]
pub(crate) struct Reader {
    capacity: u64,
    messages: u64,
    arrived: u64,
    consumed: Consumed,
    told: Consumed,
}

impl Reader {
    pub(crate) fn new(capacity: u64, messages: u64) -> Reader {
        Reader { capacity, messages, arrived: 0, consumed: Consumed::default(), told: Consumed::default() }
    }

    /// A message has arrived; `false` if the writer went beyond its room.
    pub(crate) fn arrived(&mut self, bytes: u64) -> bool {
        self.arrived += bytes;
        self.arrived - self.consumed.bytes <= self.capacity
    }

    /// Whether bytes are there.
    pub(crate) fn has_bytes(&self) -> bool {
        self.arrived > self.consumed.bytes
    }

    /// Where the next bytes lie in one piece, at most `bytes`.
    pub(crate) fn next(&self, bytes: u64) -> Slot {
        let offset = self.consumed.bytes % self.capacity;
        let bytes = bytes.min(self.arrived - self.consumed.bytes).min(self.capacity - offset);
        Slot { offset, bytes }
    }

    pub(crate) fn consume(&mut self, bytes: u64) {
        self.consumed.bytes += bytes;
    }

    /// Receives for `messages` more messages are posted again.
    pub(crate) fn replenished(&mut self, messages: u64) {
        self.consumed.messages += messages;
    }

    /// What to tell the writer now, if it is enough to be worth a message.
    pub(crate) fn news(&mut self) -> Option<Consumed> {
        let enough = self.consumed.bytes - self.told.bytes >= self.capacity / 4
            || self.consumed.messages - self.told.messages >= self.messages / 4;
        enough.then(|| {
            self.told = self.consumed;
            self.told
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_where_it_is_read_and_nothing_is_overwritten() {
        let (mut writer, mut reader) = (Writer::new(64, 4), Reader::new(64, 4));
        let mut ring = [0_u8; 64];
        let (mut told, mut next_in, mut next_out) = (Consumed::default(), 0_u8, 0_u8);
        for turn in 1_u64..4000 {
            while let Some(slot) = writer.room(turn % 23 + 1, told) {
                let (from, to) = (slot.offset, slot.offset + slot.bytes);
                for place in &mut ring[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()] {
                    *place = next_in;
                    next_in = next_in.wrapping_add(1);
                }
                writer.advance(slot);
                assert!(reader.arrived(slot.bytes), "inside the room");
                reader.replenished(1);
            }
            while reader.has_bytes() {
                let slot = reader.next(turn % 17 + 1);
                let (from, to) = (slot.offset, slot.offset + slot.bytes);
                for place in &ring[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()] {
                    assert_eq!(*place, next_out);
                    next_out = next_out.wrapping_add(1);
                }
                reader.consume(slot.bytes);
            }
            if let Some(news) = reader.news() {
                told = news;
            }
        }
        assert_eq!(next_in, next_out);
        assert!(writer.written > 4000, "the ring went round");
    }

    #[test]
    fn a_writer_stops_at_the_last_receive_and_at_the_last_byte() {
        let mut writer = Writer::new(100, 2);
        let slot = writer.room(10, Consumed::default()).unwrap();
        writer.advance(slot);
        let slot = writer.room(10, Consumed::default()).unwrap();
        writer.advance(slot);
        assert_eq!(writer.room(1, Consumed::default()), None, "no receive is left");
        let heard = Consumed { bytes: 20, messages: 2 };
        let slot = writer.room(1000, heard).unwrap();
        assert_eq!(slot, Slot { offset: 20, bytes: 80 }, "up to the end of the ring");
        writer.advance(slot);
        assert_eq!(writer.room(1000, heard), Some(Slot { offset: 0, bytes: 20 }));
    }

    #[test]
    fn a_writer_beyond_its_room_is_found() {
        let mut reader = Reader::new(100, 4);
        assert!(reader.arrived(100));
        assert!(!reader.arrived(1));
    }
}
