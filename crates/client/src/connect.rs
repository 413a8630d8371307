//! From an address to a greeted link.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use proto::codec::Malformed;
use proto::frame::Header;
use proto::frames::{FrameError, FrameReader};
use proto::handshake::{AskStatus, Began, Begin, GREETING_LIMIT, Hello, Refusal, Status, Welcome};
use transport::{Link, LinkError};

/// Why a device of the list cannot be used.
#[derive(Debug)]
pub enum ConnectError {
    /// No link, or it ended during the greeting.
    Link(LinkError),
    /// The server said no.
    Refused { peer: String, reason: String },
    /// What answered is no vgpu server, or one that is broken.
    Malformed { peer: String, malformed: Malformed },
    /// Only verbs are allowed, and they cannot be used.
    Verbs { peer: String, reason: String },
    /// Connected, but no greeting came.
    Silent { peer: String, timeout: Duration },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Link(error) => error.fmt(f),
            ConnectError::Refused { peer, reason } => write!(f, "{peer} refused: {reason}"),
            ConnectError::Malformed { peer, malformed } => {
                write!(f, "{peer} does not answer as a vgpu server ({malformed}): check the port")
            }
            ConnectError::Verbs { peer, reason } => write!(
                f,
                "{peer} cannot be reached over verbs, and VGPU_REMOTECALL or the list allows nothing else: {reason}"
            ),
            ConnectError::Silent { peer, timeout } => write!(
                f,
                "{peer} accepted the connection but sent no greeting within {} ms: check that a vgpu server listens there",
                timeout.as_millis()
            ),
        }
    }
}

impl std::error::Error for ConnectError {}

/// A link whose server has introduced itself.
pub struct Greeted {
    pub(crate) link: Box<dyn Link>,
    pub(crate) frames: FrameReader,
    pub(crate) welcome: Welcome,
    /// How long its greeting took to come.
    pub(crate) round_trip: Duration,
}

impl Greeted {
    /// Greets the server at the other end.
    pub fn new(link: Box<dyn Link>, timeout: Duration) -> Result<Greeted, ConnectError> {
        let mut frames = FrameReader::default();
        let start = Instant::now();
        link.send(&[&Hello::new(who_am_i()).frame()]).map_err(ConnectError::Link)?;
        let welcome = answer(&*link, &mut frames, timeout, Welcome::OPCODE, Welcome::read)?;
        Ok(Greeted { link, frames, welcome, round_trip: start.elapsed() })
    }

    /// What the server said: the version that both speak, and the device's facts.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Asks how busy the device is. A server of a release that does not know the question ends the link.
    pub fn status(&mut self, timeout: Duration) -> Result<Status, ConnectError> {
        self.link.send(&[&AskStatus {}.frame()]).map_err(ConnectError::Link)?;
        answer(&*self.link, &mut self.frames, timeout, Status::OPCODE, Status::read)
    }

    /// Asks for a worker whose window lies at `begin`; `Ok(None)` if the window cannot lie there.
    pub(crate) fn begin(&mut self, begin: &Begin, timeout: Duration) -> Result<Option<Began>, ConnectError> {
        self.link.send(&[&begin.frame()]).map_err(ConnectError::Link)?;
        match answer(&*self.link, &mut self.frames, timeout, Began::OPCODE, Began::read) {
            Ok(began) => Ok(Some(began)),
            Err(ConnectError::Refused { reason, .. }) if reason == "window" => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Waits for a greeting, or for the refusal in its place.
pub(crate) fn answer<T>(
    link: &dyn Link,
    frames: &mut FrameReader,
    timeout: Duration,
    opcode: u16,
    read: fn(&[u8]) -> Result<T, Malformed>,
) -> Result<T, ConnectError> {
    let peer = || link.peer().to_owned();
    let malformed = |malformed| ConnectError::Malformed { peer: peer(), malformed };
    // A greeting that stops in the middle is none, too.
    let (end, is_late) = (Instant::now() + timeout, Cell::new(false));
    let mut receive = |into: &mut [u8]| {
        is_late.set(!link.wait_readable(end.saturating_duration_since(Instant::now()))?);
        if is_late.get() { Err(LinkError::Closed { peer: peer() }) } else { link.receive(into) }
    };
    let failed = |error| match error {
        FrameError::Link(_) if is_late.get() => ConnectError::Silent { peer: peer(), timeout },
        FrameError::Link(error) => ConnectError::Link(error),
        FrameError::Malformed(found) => malformed(found),
    };
    let header: Header = frames.header(&mut receive).map_err(failed)?;
    if header.length > GREETING_LIMIT || header.bulk != 0 {
        return Err(malformed(Malformed::new("greeting", format_args!("{header:?}"))));
    }
    let mut arguments = Vec::new();
    frames.arguments(header.length, &mut arguments, &mut receive).map_err(failed)?;
    if header.opcode == Refusal::OPCODE {
        let refusal = Refusal::read(&arguments).map_err(malformed)?;
        return Err(ConnectError::Refused { peer: peer(), reason: refusal.reason });
    }
    if header.opcode != opcode {
        return Err(malformed(Malformed::new("greeting", format_args!("{header:?}"))));
    }
    read(&arguments).map_err(malformed)
}

/// Program, process and host, for the server's log.
fn who_am_i() -> String {
    let program = std::env::current_exe()
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "?".into());
    let host = rustix::system::uname();
    format!("{program}[{}]@{}", std::process::id(), host.nodename().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a greeting that is answered with these bytes, and then with nothing.
    fn answered(bytes: &[u8]) -> ConnectError {
        let (near, far) = transport::memory::pair().expect("a pair");
        far.send(&[bytes]).expect("room");
        Greeted::new(Box::new(near), Duration::from_millis(50)).err().expect("no greeting")
    }

    #[test]
    fn a_greeting_that_does_not_end_is_given_up_in_time() {
        let frame = Refusal { reason: "full".into() }.frame();
        for length in [0, 1, Header::SIZE, frame.len() - 1] {
            assert!(matches!(answered(&frame[..length]), ConnectError::Silent { .. }), "{length} bytes");
        }
        assert!(matches!(answered(&frame), ConnectError::Refused { reason, .. } if reason == "full"));
    }
}
