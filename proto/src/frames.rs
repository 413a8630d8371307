//! Bytes in, frames out: reads whole frames from anything that gives bytes.

use std::fmt;
use std::ops::Range;

use crate::codec::Malformed;
use crate::frame::Header;

/// Why the next frame could not be had.
#[derive(Debug)]
pub enum FrameError<E> {
    /// The link gave no bytes.
    Link(E),
    /// The link gave bytes that are no frame.
    Malformed(Malformed),
}

impl<E> From<Malformed> for FrameError<E> {
    fn from(malformed: Malformed) -> Self {
        FrameError::Malformed(malformed)
    }
}

impl<E: fmt::Display> fmt::Display for FrameError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Link(error) => error.fmt(f),
            FrameError::Malformed(malformed) => malformed.fmt(f),
        }
    }
}

/// Reads frames through a buffer; bulk bytes go past it, straight to where they belong.
///
/// Every method takes the link's read function: it fills a part of the buffer that it is given, at least one byte.
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How much to ask the link for at once. Little behind a long run of bulk bytes: where one came, the next is likely, and
    /// what comes through the buffer is copied once more.
    reach: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader {
            buffer: vec![0; FrameReader::BUFFER_BYTES],
            start: 0,
            end: 0,
            reach: FrameReader::BUFFER_BYTES,
        }
    }
}

impl FrameReader {
    const BUFFER_BYTES: usize = 64 * 1024;
    /// The least reach.
    const NEAR_BYTES: usize = 2 * 1024;
    /// What arguments are short, as those of control messages are.
    pub const SHORT_BYTES: usize = 1024;
    /// From how many bytes of frames on the buffer changes hands.
    const MANY_BYTES: usize = 8 * 1024;
    /// Arguments are read in steps of this size, so that memory is spent only on bytes that have come.
    const STEP_BYTES: usize = 1024 * 1024;

    /// Whether a header lies in the buffer already, so that reading the next frame may need no system call.
    pub fn has_header(&self) -> bool {
        self.end - self.start >= Header::SIZE
    }

    /// Whether a whole frame lies in the buffer: one that no descriptor will announce.
    #[inline]
    pub fn has_frame(&self) -> bool {
        let Some(bytes) = self.buffer[self.start..self.end].first_chunk() else { return false };
        let Some(header) = Header::fields(bytes) else {
            // Reading it tells what is wrong with it, and needs no more bytes.
            return true;
        };
        let whole = Header::SIZE as u64 + u64::from(header.length) + u64::from(header.bulk);
        (self.end - self.start) as u64 >= whole
    }

    /// The next frame's header, as far as it has come and can be one.
    #[inline]
    pub fn next_header(&self) -> Option<Header> {
        self.buffer[self.start..self.end].first_chunk().and_then(Header::fields)
    }

    /// Whether a frame has room in the buffer.
    pub fn has_room(header: &Header) -> bool {
        Header::SIZE + header.length as usize + header.bulk as usize <= FrameReader::BUFFER_BYTES
    }

    /// Takes the frames that lie whole in the buffer, as long as `take` says so of the next. They go behind the first `at`
    /// bytes of `into`, in the place of what was there; what lies behind them there has no meaning. Returns where in `into`
    /// the bytes that count are.
    ///
    /// Many of them go with the buffer, which `into` becomes then, if `at` is 0; its own memory is the next buffer.
    #[inline]
    pub fn take_whole(
        &mut self,
        into: &mut Vec<u8>,
        at: usize,
        mut take: impl FnMut(&Header) -> bool,
    ) -> Range<usize> {
        let first = self.start;
        while let Some(header) = self.next_header() {
            let whole = Header::SIZE as u64 + u64::from(header.length) + u64::from(header.bulk);
            if whole > (self.end - self.start) as u64 || !take(&header) {
                break;
            }
            self.start += usize::try_from(whole).expect("inside the buffer");
        }
        let (taken, rest) = (first..self.start, self.end - self.start);
        if at > 0 || taken.len() < rest + FrameReader::MANY_BYTES {
            let end = at + taken.len();
            // Memory that is there already is not filled twice.
            if end <= into.len() {
                into[at..end].copy_from_slice(&self.buffer[taken]);
            } else {
                into.truncate(at);
                into.extend_from_slice(&self.buffer[taken]);
            }
            return 0..end;
        }
        into.resize(FrameReader::BUFFER_BYTES, 0);
        into[..rest].copy_from_slice(&self.buffer[self.start..self.end]);
        std::mem::swap(into, &mut self.buffer);
        (self.start, self.end) = (0, rest);
        taken
    }

    /// Waits for the next frame's header.
    #[inline(always)]
    pub fn header<E>(
        &mut self,
        read: &mut impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Header, FrameError<E>> {
        while !self.has_header() {
            self.refill(read)?;
        }
        let bytes = self.buffer[self.start..self.end].first_chunk().expect("has_header");
        let header = Header::decode(bytes)?;
        self.start += Header::SIZE;
        Ok(header)
    }

    /// The frame's arguments, lent from the buffer; `length` is at most [`SHORT_BYTES`](FrameReader::SHORT_BYTES).
    pub fn short_arguments<E>(
        &mut self,
        length: usize,
        read: &mut impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<&[u8], FrameError<E>> {
        assert!(length <= FrameReader::SHORT_BYTES, "callers bound what is short");
        while self.end - self.start < length {
            self.refill(read)?;
        }
        let start = self.start;
        self.start += length;
        Ok(&self.buffer[start..self.start])
    }

    /// Reads the frame's arguments into `into`, replacing what is there.
    pub fn arguments<E>(
        &mut self,
        length: u32,
        into: &mut Vec<u8>,
        read: &mut impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), FrameError<E>> {
        into.clear();
        self.append_arguments(length, into, read)
    }

    /// Reads the frame's arguments to the end of `into`.
    #[inline]
    pub fn append_arguments<E>(
        &mut self,
        length: u32,
        into: &mut Vec<u8>,
        read: &mut impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), FrameError<E>> {
        let mut left = length as usize;
        if left <= self.end - self.start {
            // Most calls have come whole.
            into.extend_from_slice(&self.buffer[self.start..self.start + left]);
            self.start += left;
            return Ok(());
        }
        while left > 0 {
            let step = left.min(FrameReader::STEP_BYTES);
            let from = into.len();
            into.resize(from + step, 0);
            self.bulk(&mut into[from..], read)?;
            left -= step;
        }
        Ok(())
    }

    /// Fills `into` with the bytes that come next.
    pub fn bulk<E>(
        &mut self,
        into: &mut [u8],
        read: &mut impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), FrameError<E>> {
        let buffered = into.len().min(self.end - self.start);
        into[..buffered].copy_from_slice(&self.buffer[self.start..self.start + buffered]);
        self.start += buffered;
        let mut filled = buffered;
        if into.len() >= FrameReader::BUFFER_BYTES / 4 {
            self.reach = FrameReader::NEAR_BYTES;
        }
        while filled < into.len() {
            if into.len() - filled < FrameReader::BUFFER_BYTES / 4 {
                // A short rest: take what follows it along.
                self.refill(read)?;
                let part = (into.len() - filled).min(self.end - self.start);
                into[filled..filled + part].copy_from_slice(&self.buffer[self.start..self.start + part]);
                self.start += part;
                filled += part;
            } else {
                filled += read(&mut into[filled..]).map_err(FrameError::Link)?;
            }
        }
        Ok(())
    }

    /// Waits for more bytes. There is room for a frame that [has room](FrameReader::has_room) and is not whole yet.
    #[inline(never)]
    pub fn refill<E>(
        &mut self,
        read: &mut impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), FrameError<E>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < Header::SIZE {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let end = self.buffer.len().min(self.end + self.reach);
        self.end += read(&mut self.buffer[self.end..end]).map_err(FrameError::Link)?;
        if self.end == end {
            self.reach = (self.reach * 4).min(FrameReader::BUFFER_BYTES);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{CallId, append};
    use proptest::prelude::*;

    /// Gives the bytes in pieces of the sizes in `pieces`, then says "end".
    fn source<'a>(
        bytes: &'a [u8],
        pieces: &'a [usize],
    ) -> impl FnMut(&mut [u8]) -> Result<usize, &'static str> + 'a {
        let (mut at, mut turn) = (0, 0);
        move |into| {
            if at == bytes.len() {
                return Err("end");
            }
            let piece = pieces[turn % pieces.len()].min(into.len()).min(bytes.len() - at);
            turn += 1;
            into[..piece].copy_from_slice(&bytes[at..at + piece]);
            at += piece;
            Ok(piece)
        }
    }

    fn pattern(bytes: usize, period: u8) -> Vec<u8> {
        (0..period).cycle().take(bytes).collect()
    }

    #[test]
    fn whole_frames_are_those_that_are_there_and_wanted() {
        let mut bytes = Vec::new();
        for (call, length) in [(1, 20), (2, 0), (3, 40), (4, 8)] {
            append(&mut bytes, 0x0701, CallId(call), 0, |out| out.extend(pattern(length, 251)));
        }
        // Of the last frame a byte is missing.
        let there = bytes.len() - 1;
        let pieces = [there, 1];
        let mut read = source(&bytes, &pieces);
        let mut reader = FrameReader::default();
        assert_eq!((reader.take_whole(&mut Vec::new(), 0, |_| true), reader.next_header()), (0..0, None));
        reader.refill(&mut read).expect("bytes");
        let mut taken = Vec::new();
        assert_eq!(reader.take_whole(&mut taken, 0, |header| header.call.0 < 2), 0..36);
        assert_eq!(taken, bytes[..36]);
        taken.extend([7; 9]);
        assert_eq!(reader.take_whole(&mut taken, 36, |header| header.call.0 < 3), 0..52);
        assert_eq!(taken, bytes[..52], "behind what counts there");
        taken.extend([7; 60]);
        assert_eq!(reader.take_whole(&mut taken, 52, |_| true), 0..108);
        assert_eq!((taken.len(), &taken[..108]), (112, &bytes[..108]), "in the place of what was there");
        assert!(!reader.has_frame());
        let mut arguments = Vec::new();
        let last = reader.header(&mut read).expect("a header");
        reader.arguments(last.length, &mut arguments, &mut read).expect("arguments");
        assert_eq!((last.call, arguments), (CallId(4), pattern(8, 251)));
    }

    #[test]
    fn many_frames_go_with_their_buffer_and_what_comes_behind_them_stays() {
        let mut bytes = Vec::new();
        for call in 1..=1000 {
            append(&mut bytes, 0x0701, CallId(call), 0, |out| out.extend(pattern(80, 251)));
        }
        let mut read = source(&bytes, &[FrameReader::BUFFER_BYTES, 7]);
        let (mut reader, mut into, mut found) = (FrameReader::default(), Vec::new(), Vec::new());
        while found.len() < bytes.len() {
            let taken = reader.take_whole(&mut into, 0, |_| true);
            found.extend_from_slice(&into[taken]);
            if found.len() < bytes.len() {
                reader.refill(&mut read).expect("bytes");
            }
        }
        assert!(found == bytes);
        assert_eq!(into.capacity(), FrameReader::BUFFER_BYTES, "a buffer has changed hands");
    }

    proptest! {
        #[test]
        fn frames_come_out_however_the_bytes_are_cut(
            sizes in prop::collection::vec((0_usize..300, 0_usize..70_000), 1..5),
            pieces in prop::collection::vec(1_usize..5_000, 1..4),
        ) {
            let mut bytes = Vec::new();
            for (arguments, bulk) in &sizes {
                append(&mut bytes, 0x0101, CallId(9), u32::try_from(*bulk).expect("small"), |out| {
                    out.extend(pattern(*arguments, 251));
                });
                bytes.extend(pattern(*bulk, 241));
            }
            let mut read = source(&bytes, &pieces);
            let mut reader = FrameReader::default();
            for (arguments, bulk) in &sizes {
                let header = reader.header(&mut read).expect("a header");
                let whole = *arguments + *bulk <= reader.end - reader.start;
                reader.start -= Header::SIZE;
                prop_assert_eq!(reader.has_frame(), whole);
                reader.start += Header::SIZE;
                prop_assert_eq!((header.length as usize, header.bulk as usize), (*arguments, *bulk));
                let mut got = b"before".to_vec();
                if arguments % 2 == 0 {
                    reader.append_arguments(header.length, &mut got, &mut read).expect("arguments");
                } else {
                    got.extend(reader.short_arguments(*arguments, &mut read).expect("arguments"));
                }
                prop_assert_eq!(got, [b"before", &pattern(*arguments, 251)[..]].concat());
                let mut got = vec![0; *bulk];
                reader.bulk(&mut got, &mut read).expect("bulk");
                prop_assert_eq!(got, pattern(*bulk, 241));
            }
            prop_assert!(matches!(reader.header(&mut read), Err(FrameError::Link("end"))));
        }
    }

    #[test]
    fn a_truncated_frame_ends_with_the_link_and_not_with_a_frame() {
        let mut bytes = Vec::new();
        append(&mut bytes, 0x0101, CallId(9), 0, |out| out.extend_from_slice(&[1; 40]));
        for cut in 0..bytes.len() {
            let (mut reader, mut read) = (FrameReader::default(), source(&bytes[..cut], &[7]));
            let outcome =
                reader.header(&mut read).and_then(|h| reader.arguments(h.length, &mut Vec::new(), &mut read));
            assert!(matches!(outcome, Err(FrameError::Link("end"))), "cut at {cut}");
        }
    }
}
