//! What went wrong, before it becomes a [`Problem`].

use std::io::Error;

use verbs_abi::Problem;

/// A failed step. The functions of the table write it into the caller's [`Problem`].
#[derive(Debug)]
pub(crate) struct Failure {
    /// One of [`verbs_abi::step`].
    pub(crate) step: u32,
    /// `errno`, or 0.
    pub(crate) errno: i32,
    /// What was being done and what was found.
    pub(crate) text: String,
}

/// What most functions of this crate answer.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure without an error number.
    pub(crate) fn new(step: u32, text: impl Into<String>) -> Failure {
        Failure { step, errno: 0, text: text.into() }
    }

    /// A failure of a call that has just set `errno`; `doing` says what was tried.
    pub(crate) fn last(step: u32, doing: &str) -> Failure {
        Failure::numbered(step, last_errno(), doing)
    }

    /// A failure with an error number that the call has returned.
    pub(crate) fn numbered(step: u32, errno: i32, doing: &str) -> Failure {
        Failure { step, errno, text: format!("{doing}: {}", Error::from_raw_os_error(errno)) }
    }

    /// The same failure, with `advice` after the text.
    pub(crate) fn with(mut self, advice: &str) -> Failure {
        self.text.push_str(advice);
        self
    }

    /// As the C caller reads it.
    pub(crate) fn problem(&self) -> Problem {
        Problem::describe(self.step, self.errno, &self.text)
    }
}

/// The calling thread's `errno`.
pub(crate) fn last_errno() -> i32 {
    Error::last_os_error().raw_os_error().unwrap_or(0)
}
