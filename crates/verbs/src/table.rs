//! The exported table.

use verbs_abi::{ABI, Table};

use crate::{connection, work};

/// What `transport::verbs` looks for.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the symbol's name is part of the contract")]
pub static vgpu_verbs_v1: Table = Table {
    abi: ABI,
    bytes: TABLE_BYTES,
    devices: connection::devices,
    listen: connection::listen,
    listener_descriptor: connection::listener_descriptor,
    next_request: connection::next_request,
    listener_destroy: connection::listener_destroy,
    resolve: connection::resolve,
    connect: connection::connect,
    accept: connection::accept,
    reject: connection::reject,
    info: connection::info,
    register: work::register,
    register_dmabuf: work::register_dmabuf,
    deregister: work::deregister,
    post_sends: work::post_sends,
    post_receives: work::post_receives,
    poll: work::poll,
    arm: work::arm,
    descriptor: work::descriptor,
    take_events: work::take_events,
    connection_descriptor: connection::connection_descriptor,
    is_connected: connection::is_connected,
    disconnect: connection::disconnect,
    destroy: connection::destroy,
    status_text: work::status_text,
    counts: work::counts,
};

#[allow(clippy::cast_possible_truncation, reason = "some hundred bytes; `try_from` is not const")]
const TABLE_BYTES: u32 = size_of::<Table>() as u32;
