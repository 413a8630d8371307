//! Why a connection over verbs cannot be made or does not carry on.

use std::fmt;

use verbs_abi::step;

/// See the variants; the message says which step failed and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerbsError {
    /// The plug-in cannot be opened.
    NoPlugin(String),
    /// A step of [`verbs_abi::step`] failed.
    Failed { step: u32, text: String },
    /// The server does not offer verbs, and why.
    NotOffered(String),
}

impl VerbsError {
    pub(crate) fn post(text: &str) -> VerbsError {
        VerbsError::Failed { step: step::POST, text: text.to_owned() }
    }
}

impl fmt::Display for VerbsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerbsError::NoPlugin(reason) => write!(
                f,
                "no verbs plug-in: {reason}. Install the packages libibverbs1, librdmacm1 and ibverbs-providers and this project's libvgpu_verbs.so, or use TCP"
            ),
            VerbsError::NotOffered(reason) => write!(f, "the server offers no verbs: {reason}"),
            VerbsError::Failed { step: number, text } => {
                let (what, remedy) = step_words(*number);
                write!(f, "{what} failed: {text}")?;
                if remedy.is_empty() { Ok(()) } else { write!(f, " ({remedy})") }
            }
        }
    }
}

impl std::error::Error for VerbsError {}

fn step_words(number: u32) -> (&'static str, &'static str) {
    match number {
        step::DEVICE => ("finding the RDMA device", "see `rdma link`; VGPU_IB_DEVICE names one"),
        step::ADDRESS => (
            "finding the RDMA device of the address",
            "name the server by the address of its InfiniBand or RoCE interface",
        ),
        step::ROUTE => ("finding a route", "check that both ends are in one fabric and the port is active"),
        step::QUEUES => ("making the queue pair", "check the memlock limit: `ulimit -l`"),
        // The plug-in's text has the remedy for memlock.
        step::REGISTER => ("registering memory", ""),
        step::LISTEN => ("listening for RDMA connections", ""),
        step::REFUSED => ("connecting", "nobody listens there for RDMA connections"),
        step::REJECTED => ("connecting: the peer refused, which", ""),
        step::TIMEOUT => ("connecting in time", "check that RDMA traffic passes: rping"),
        step::CONNECT => ("connecting", ""),
        step::POST => ("posting work", ""),
        step::POLL => ("polling for completions", ""),
        _ => ("a step of the verbs plug-in", ""),
    }
}

/// What a completion's status means to a person.
pub(crate) fn explain(status: u32, text: &str) -> String {
    // ibv_wc_status, libibverbs verbs.h.
    match status {
        4 => format!("the network adapter was refused local memory ({text}): it is not registered any more"),
        5 => "the connection has ended".to_owned(),
        10 => format!("the peer refuses access to its memory ({text})"),
        12 => format!("the peer is unreachable: it acknowledges nothing ({text})"),
        13 => format!("the peer takes no messages ({text})"),
        _ => format!("the network adapter reports: {text} (status {status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_words_of_its_own() {
        let words: Vec<_> = (step::DEVICE..=step::POLL).map(|number| step_words(number).0).collect();
        let unknown = step_words(99).0;
        assert!(words.iter().all(|word| *word != unknown), "{words:?}");
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = VerbsError::NoPlugin("libibverbs.so.1: cannot open".into()).to_string();
        assert!(error.contains("libibverbs.so.1") && error.contains("or use TCP"), "{error}");
    }
}
