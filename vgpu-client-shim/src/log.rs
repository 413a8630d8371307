//! `VGPU_LOG=error|warn|summary|info|debug`: lines on standard error, written at once.
//!
//! No tracing subscriber: we live in a foreign process that may have its own, and a line must come out even when the
//! program ends in the next instruction. The default is `warn`.

use std::fmt;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much is said; each level includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Level {
    /// Nothing at all.
    Off,
    /// What made a call fail for a reason outside the program: no server, a lost connection.
    Error,
    /// What the program asked for and does not get: an unsupported call.
    Warn,
    /// Where the time went, when the program ends: [`crate::summary`].
    Summary,
    /// Connections and modules.
    Info,
    /// Single calls.
    Debug,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);

impl Level {
    /// The level that the user wrote; `None` if it is not one.
    pub(crate) fn parse(text: &str) -> Option<Level> {
        match text.trim().to_ascii_lowercase().as_str() {
            "off" | "none" => Some(Level::Off),
            "error" => Some(Level::Error),
            "warn" | "" => Some(Level::Warn),
            "summary" => Some(Level::Summary),
            "info" => Some(Level::Info),
            "debug" => Some(Level::Debug),
            _ => None,
        }
    }
}

/// Sets the level for the process; called once, when the environment is read.
pub(crate) fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether a line of this level comes out; for lines that are costly to make.
pub(crate) fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// A line of level [`Level::Error`].
pub(crate) fn error(text: fmt::Arguments<'_>) {
    write(Level::Error, text);
}

/// A line of level [`Level::Warn`].
pub(crate) fn warn(text: fmt::Arguments<'_>) {
    write(Level::Warn, text);
}

/// Lines of level [`Level::Summary`], complete as they are.
pub(crate) fn summary(lines: &str) {
    if enabled(Level::Summary) {
        // As below.
        let _ = std::io::stderr().write_all(lines.as_bytes());
    }
}

/// A line of level [`Level::Info`].
pub(crate) fn info(text: fmt::Arguments<'_>) {
    write(Level::Info, text);
}

/// A line of level [`Level::Debug`].
pub(crate) fn debug(text: fmt::Arguments<'_>) {
    write(Level::Debug, text);
}

fn write(level: Level, text: fmt::Arguments<'_>) {
    match level {
        Level::Error => crate::journal::note(0, &text.to_string()),
        Level::Warn => crate::journal::note(1, &text.to_string()),
        _ => {}
    }
    if enabled(level) {
        // One write a line, so that lines of several processes do not mix; a closed standard error is no failure.
        let _ = std::io::stderr().write_all(format!("vgpu: {text}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_and_unknown_words_are_refused() {
        assert!(Level::Error < Level::Debug);
        assert_eq!(Level::parse("summary"), Some(Level::Summary));
        assert!(Level::Warn < Level::Summary && Level::Summary < Level::Info, "warnings come with it");
        assert_eq!(Level::parse(" Debug "), Some(Level::Debug));
        assert_eq!(Level::parse("loud"), None);
    }
}
