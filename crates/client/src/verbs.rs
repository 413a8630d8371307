//! The change from TCP to verbs, between `Began` and the first call.

use std::sync::Arc;
use std::time::Duration;

use proto::handshake::{Began, Chosen, Lent, VerbsOffer};
use transport::Link;
use transport::verbs::{self, VerbsError, VerbsOptions};

use crate::bulk::Bulk;
use crate::connect::{ConnectError, Greeted, answer};
use crate::environment::{Environment, Severity};
use crate::server_list::Transport;

/// A greeted link on which calls may flow, and what bulk bytes go through if the link has direct access.
pub(crate) struct Ready {
    pub(crate) greeted: Greeted,
    pub(crate) bulk: Option<Bulk>,
}

impl Environment {
    fn verbs_options(&self) -> VerbsOptions {
        VerbsOptions {
            device: self.rdma_device.clone(),
            spin: self.spin,
            connect_timeout: self.connect_timeout,
            link_timeout: self.link_timeout,
        }
    }
}

/// Whether to ask the server for verbs. `Err` if the user wants nothing else and this machine has none.
pub(crate) fn wanted(
    transport: Transport,
    link: &dyn Link,
    environment: &Environment,
) -> Result<bool, VerbsError> {
    if transport == Transport::Tcp {
        return Ok(false);
    }
    let possible = match link.peer_address() {
        Some(_) => verbs::available(&environment.verbs_options()),
        None => Err(VerbsError::NotOffered("it is reached through a Unix socket".into())),
    };
    match possible {
        Ok(()) => Ok(true),
        Err(error) if transport == Transport::Verbs => Err(error),
        Err(error) => {
            (environment.log)(Severity::Debug, &format!("{}: TCP, because: {error}", link.peer()));
            Ok(false)
        }
    }
}

/// Changes to verbs if the worker offers them. Falls back to TCP with a log line, unless verbs are all that is allowed.
pub(crate) fn change(
    greeted: Greeted,
    began: &Began,
    transport: Transport,
    environment: &Environment,
) -> Result<Ready, ConnectError> {
    let dialed = match &began.verbs {
        VerbsOffer::NotAsked => return Ok(Ready { greeted, bulk: None }),
        VerbsOffer::Unavailable(reason) => Err(VerbsError::NotOffered(reason.clone())),
        VerbsOffer::Listening { port, token } => {
            let offer = verbs::Offer { port: *port, token: *token };
            let peer = greeted.link.peer_address();
            let peer = peer.ok_or_else(|| VerbsError::NotOffered("the link has no IP address".into()));
            peer.and_then(|peer| verbs::dial(peer, &offer, &environment.verbs_options()))
        }
    };
    let listening = matches!(began.verbs, VerbsOffer::Listening { .. });
    let reason = dialed.as_ref().err().map(ToString::to_string).unwrap_or_default();
    if listening {
        let chosen = Chosen { verbs: dialed.is_ok(), reason: reason.clone() };
        greeted.link.send(&[&chosen.frame()]).map_err(ConnectError::Link)?;
    }
    match dialed {
        Ok(dialed) => {
            let lifeline: Arc<dyn Link> = greeted.link.into();
            let link = dialed.over(lifeline).map_err(ConnectError::Link)?;
            let greeted = Greeted { link: Box::new(link), ..greeted };
            lend(greeted, began, environment)
        }
        Err(_) if transport == Transport::Verbs => {
            Err(ConnectError::Verbs { peer: greeted.link.peer().to_owned(), reason })
        }
        Err(_) => {
            (environment.log)(
                Severity::Warn,
                &format!(
                    "{}: going on over TCP, because verbs cannot be used: {reason}",
                    greeted.link.peer()
                ),
            );
            Ok(Ready { greeted, bulk: None })
        }
    }
}

/// Each side tells the other where its memory lies.
fn lend(mut greeted: Greeted, began: &Began, environment: &Environment) -> Result<Ready, ConnectError> {
    let direct = greeted.link.direct().expect("a link over verbs has direct access");
    let prepared = Bulk::prepare(direct, began.staging_bytes, began.landing_bytes);
    let prepared = prepared.map_err(ConnectError::Link)?;
    greeted.link.send(&[&prepared.lend().frame()]).map_err(ConnectError::Link)?;
    // The worker checks that the network reaches its device before it answers.
    let patience = environment.connect_timeout.max(Duration::from_secs(20));
    let lent = answer(&*greeted.link, &mut greeted.frames, patience, Lent::OPCODE, Lent::read)?;
    let bulk = prepared.with(lent).ok_or_else(|| ConnectError::Refused {
        peer: greeted.link.peer().to_owned(),
        reason: "it lends another staging than it promised".into(),
    })?;
    Ok(Ready { greeted, bulk: Some(bulk) })
}

/// What the link was, for a log line at its end; nothing for a plain link.
pub(crate) fn summary(link: &dyn Link) -> Option<String> {
    let direct = link.direct()?;
    let statistics = direct.statistics();
    let tcp = link.socket_bytes().map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
    Some(format!(
        "link to {}: verbs {}, {tcp} bytes over TCP; {} messages of {} bytes, {} transfers of {} bytes, {} registrations, waited {} times for room",
        link.peer(),
        direct.device(),
        statistics.messages,
        statistics.message_bytes,
        statistics.transfers,
        statistics.transfer_bytes,
        statistics.registrations,
        statistics.ring_waits + statistics.queue_waits
    ))
}
