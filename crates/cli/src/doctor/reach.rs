//! The list, and the servers that it names.

use client::connect::ConnectError;
use client::server_list::{Named, Transport};
use transport::{Address, LinkError};

use super::Check;
use crate::servers::{self, Answer, Place};

/// What became of the list, and of a greeting of each server.
pub(super) struct Reach {
    named: Result<Named, String>,
    places: Result<Vec<Place>, String>,
    answers: Vec<Result<Answer, ConnectError>>,
}

impl Reach {
    pub(super) fn new(servers: Option<&str>) -> Reach {
        let named = servers::named(servers);
        let places = named.clone().and_then(|named| servers::places(&named));
        let answers = places.as_ref().map(|places| servers::greet_all(places, 1, false)).unwrap_or_default();
        Reach { named, places, answers }
    }

    /// Whether the user insists on verbs for a device.
    pub(super) fn insists_on_verbs(&self) -> bool {
        let mut places = self.places.iter().flatten();
        places.any(|place| place.transport == Transport::Verbs && !matches!(place.address, Address::Unix(_)))
    }

    pub(super) fn list(&self) -> Check {
        const NAME: &str = "list";
        match (&self.named, &self.places) {
            (Err(reason), _) => {
                Check::failed(NAME, reason.clone(), "export VGPU_SERVER=\"host:0\", or run: vgpu run --soft")
            }
            (_, Err(reason)) => Check::failed(
                NAME,
                reason.clone(),
                "write [tcp://|ib://|auto://]host[@base-port][:id] or unix:/path, with spaces between devices",
            ),
            (Ok(named), Ok(places)) => {
                let listed: Vec<_> = places.iter().map(|place| place.address.to_string()).collect();
                Check::ok(
                    NAME,
                    format!("{} names {} device(s): {}", named.by, places.len(), listed.join(" ")),
                )
            }
        }
    }

    pub(super) fn addresses(&self) -> Check {
        let is_unresolved =
            |error: &&ConnectError| matches!(error, ConnectError::Link(LinkError::Unresolved { .. }));
        self.judge(
            "addresses",
            |_| true,
            is_unresolved,
            "every host name has an address",
            "correct the name, or add it to DNS or /etc/hosts; an IP address will do as well",
        )
    }

    pub(super) fn ports(&self) -> Check {
        let has_address = |answer: &Result<Answer, ConnectError>| {
            !matches!(answer, Err(ConnectError::Link(LinkError::Unresolved { .. })))
        };
        let is_unreachable = |error: &&ConnectError| matches!(error, ConnectError::Link(_));
        self.judge(
            "ports",
            has_address,
            is_unreachable,
            "every port answers",
            "on that machine: vgpu-server -s ID -d DEVICE --listen ADDRESS; the port is base port + ID",
        )
    }

    pub(super) fn versions(&self) -> Check {
        let has_link = |answer: &Result<Answer, ConnectError>| !matches!(answer, Err(ConnectError::Link(_)));
        let mut check = self.judge(
            "versions",
            has_link,
            |_| true,
            "every server speaks our protocol",
            "install the same release on both sides, and check that a vgpu-server has this port",
        );
        if check.remedy.is_none()
            && let Some(Ok(answer)) = self.answers.iter().find(|answer| answer.is_ok())
        {
            check.found += &format!(", version {}", answer.version);
        }
        check
    }

    /// A check over the answers that `matter`; those with an error that `is_bad` are named.
    fn judge(
        &self,
        name: &'static str,
        matter: impl Fn(&Result<Answer, ConnectError>) -> bool,
        is_bad: impl Fn(&&ConnectError) -> bool,
        good: &str,
        remedy: &str,
    ) -> Check {
        let judged: Vec<_> = self.answers.iter().filter(|answer| matter(answer)).collect();
        if judged.is_empty() {
            return Check::skipped(name, "there is no server to ask");
        }
        let bad: Vec<String> = judged
            .iter()
            .filter_map(|answer| answer.as_ref().err())
            .filter(is_bad)
            .map(ToString::to_string)
            .collect();
        if bad.is_empty() { Check::ok(name, good) } else { Check::failed(name, bad.join("\n"), remedy) }
    }
}
