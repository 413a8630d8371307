//! The baseline: the same bytes over a plain socket, with blocking calls and nothing else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::table::median;

/// What the peer is asked for: a letter, a count and a size, 17 bytes.
const PING_PONG: u8 = b'p';
/// As `PING_PONG`, polling at both ends.
const PING_PONG_POLLING: u8 = b'q';
const RECEIVE: u8 = b'r';
const SEND: u8 = b's';

/// A synchronous call of the product: a header; a header with a number and an error.
pub(crate) const REQUEST_BYTES: usize = 16;
pub(crate) const REPLY_BYTES: usize = 24;
/// A launch with four pointers.
pub(crate) const LAUNCH_BYTES: usize = 90;
/// How many bytes a raw sender gives to the socket at once.
const BATCH_BYTES: usize = 32 * 1024;
const PART_BYTES: usize = 1024 * 1024;

/// A peer process and the socket to it.
pub(crate) struct Raw {
    socket: TcpStream,
    process: Child,
}

fn io(doing: &str) -> impl Fn(std::io::Error) -> String + '_ {
    move |error| format!("raw baseline, {doing}: {error}")
}

impl Raw {
    pub(crate) fn start() -> Result<Raw, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(io("listening"))?;
        let port = listener.local_addr().map_err(io("listening"))?.port();
        let program = std::env::current_exe().map_err(io("finding this program"))?;
        let process = Command::new(program)
            .args(["--raw-peer", &port.to_string()])
            .spawn()
            .map_err(io("starting the peer"))?;
        let (socket, _) = listener.accept().map_err(io("accepting the peer"))?;
        socket.set_nodelay(true).map_err(io("setting TCP_NODELAY"))?;
        Ok(Raw { socket, process })
    }

    fn ask(&self, what: u8, count: u64, bytes: u64) -> Result<(), String> {
        let mut order = vec![what];
        order.extend(count.to_le_bytes());
        order.extend(bytes.to_le_bytes());
        (&self.socket).write_all(&order).map_err(io("asking"))
    }

    /// The median round trip.
    pub(crate) fn ping_pong(&self, count: u64) -> Result<Duration, String> {
        self.ask(PING_PONG, count, 0)?;
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            (&self.socket).write_all(&[1; REQUEST_BYTES]).map_err(io("ping"))?;
            (&self.socket).read_exact(&mut [0; REPLY_BYTES]).map_err(io("pong"))?;
            times.push(start.elapsed());
        }
        Ok(median(times))
    }

    /// The median round trip, with both ends polling.
    pub(crate) fn ping_pong_polling(&self, count: u64) -> Result<Duration, String> {
        self.ask(PING_PONG_POLLING, count, 0)?;
        self.socket.set_nonblocking(true).map_err(io("polling"))?;
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            (&self.socket).write_all(&[1; REQUEST_BYTES]).map_err(io("ping"))?;
            poll_exact(&self.socket, &mut [0; REPLY_BYTES])?;
            times.push(start.elapsed());
        }
        self.socket.set_nonblocking(false).map_err(io("polling"))?;
        Ok(median(times))
    }

    /// Bytes of `count` launches in batches, and one answer.
    pub(crate) fn stream_calls(&self, count: u64) -> Result<Duration, String> {
        self.push(count * LAUNCH_BYTES as u64, BATCH_BYTES)
    }

    /// Bytes to the peer, and one answer.
    pub(crate) fn up(&self, bytes: u64) -> Result<Duration, String> {
        self.push(bytes, PART_BYTES)
    }

    fn push(&self, bytes: u64, part: usize) -> Result<Duration, String> {
        let buffer: Vec<u8> = (0..=255).cycle().take(part).collect();
        let start = Instant::now();
        self.ask(RECEIVE, 0, bytes)?;
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).map_or(part, |left| left.min(part));
            (&self.socket).write_all(&buffer[..now]).map_err(io("sending"))?;
            left -= now as u64;
        }
        let mut answer = [0; 8];
        (&self.socket).read_exact(&mut answer).map_err(io("the answer"))?;
        let took = start.elapsed();
        if u64::from_le_bytes(answer) != bytes {
            return Err("the raw peer received another number of bytes".into());
        }
        Ok(took)
    }

    /// Bytes from the peer.
    pub(crate) fn down(&self, bytes: u64) -> Result<Duration, String> {
        let mut buffer = vec![0; PART_BYTES];
        let start = Instant::now();
        self.ask(SEND, 0, bytes)?;
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).map_or(PART_BYTES, |left| left.min(PART_BYTES));
            let got = (&self.socket).read(&mut buffer[..now]).map_err(io("receiving"))?;
            if got == 0 {
                return Err("the raw peer is gone".into());
            }
            left -= got as u64;
        }
        Ok(start.elapsed())
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // It may have ended with an error of its own.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Fills a buffer from a socket that does not block.
fn poll_exact(mut socket: &TcpStream, into: &mut [u8]) -> Result<(), String> {
    let mut filled = 0;
    while filled < into.len() {
        match socket.read(&mut into[filled..]) {
            Ok(0) => return Err("the raw peer is gone".into()),
            Ok(now) => filled += now,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(io("polling")(error)),
        }
    }
    Ok(())
}

/// The peer's side.
pub(crate) fn serve(port: &str) -> Result<(), String> {
    let mut socket = TcpStream::connect(format!("127.0.0.1:{port}")).map_err(io("connecting"))?;
    socket.set_nodelay(true).map_err(io("setting TCP_NODELAY"))?;
    let mut buffer: Vec<u8> = (0..=255).cycle().take(PART_BYTES).collect();
    let mut order = [0; 17];
    while socket.read_exact(&mut order).is_ok() {
        let number = |at: usize| order[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (count, bytes) = (number(1), number(9));
        match order[0] {
            PING_PONG => {
                for _ in 0..count {
                    socket.read_exact(&mut [0; REQUEST_BYTES]).map_err(io("ping"))?;
                    socket.write_all(&[2; REPLY_BYTES]).map_err(io("pong"))?;
                }
            }
            PING_PONG_POLLING => {
                socket.set_nonblocking(true).map_err(io("polling"))?;
                for _ in 0..count {
                    poll_exact(&socket, &mut [0; REQUEST_BYTES])?;
                    socket.write_all(&[2; REPLY_BYTES]).map_err(io("pong"))?;
                }
                socket.set_nonblocking(false).map_err(io("polling"))?;
            }
            RECEIVE => {
                let mut got = 0;
                while got < bytes {
                    let room = usize::try_from(bytes - got).map_or(PART_BYTES, |left| left.min(PART_BYTES));
                    match socket.read(&mut buffer[..room]).map_err(io("receiving"))? {
                        0 => return Ok(()),
                        now => got += now as u64,
                    }
                }
                socket.write_all(&got.to_le_bytes()).map_err(io("answering"))?;
            }
            SEND => {
                let mut left = bytes;
                while left > 0 {
                    let now = usize::try_from(left).map_or(PART_BYTES, |left| left.min(PART_BYTES));
                    socket.write_all(&buffer[..now]).map_err(io("sending"))?;
                    left -= now as u64;
                }
            }
            other => return Err(format!("the raw peer was asked for {other}")),
        }
    }
    Ok(())
}
