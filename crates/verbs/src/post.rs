//! Chains of work requests.
//!
//! They are built on the stack, at most [`CHAIN`] at a time: a longer list is posted as several chains, which costs a
//! doorbell each and allocates nothing.

use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;

use rdma_sys::{
    ibv_post_recv, ibv_post_send, ibv_recv_wr, ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wr_opcode,
    imm_data_invalidated_rkey_union_t, rdma_t, wr_t,
};
use verbs_abi::{Receive, Send, flag, opcode, step};

use crate::failure::{Failure, Outcome};
use crate::queue_pair::QueuePair;

/// How many requests were posted, and why not all.
pub(crate) struct Posted {
    pub(crate) count: usize,
    pub(crate) failure: Option<Failure>,
}

impl QueuePair {
    /// Posts sends in order.
    pub(crate) fn post_sends(&self, sends: &[Send]) -> Posted {
        chain_by_chain(sends, |chunk| self.post_send_chain(chunk))
    }

    /// Posts receives in order.
    pub(crate) fn post_receives(&self, receives: &[Receive]) -> Posted {
        chain_by_chain(receives, |chunk| self.post_receive_chain(chunk))
    }

    fn post_send_chain(&self, sends: &[Send]) -> (usize, Option<Failure>) {
        let mut requests = [const { MaybeUninit::<ibv_send_wr>::uninit() }; CHAIN];
        let mut pieces = [const { MaybeUninit::<ibv_sge>::uninit() }; CHAIN];
        let first: *mut ibv_send_wr = requests.as_mut_ptr().cast();
        let mut built = 0;
        let mut broken = None;
        for (send, (request, piece)) in sends.iter().zip(requests.iter_mut().zip(&mut pieces)) {
            let piece: *mut ibv_sge = piece.write(piece_of(send.local_address, send.bytes, send.local_key));
            match request_of(send, piece) {
                Ok(made) => request.write(made),
                Err(failure) => {
                    broken = Some(failure);
                    break;
                }
            };
            built += 1;
        }
        if built == 0 {
            return (0, broken);
        }
        for index in 1..built {
            // SAFETY: requests 0 to `built` are written, and lie in one array.
            unsafe { (*first.add(index - 1)).next = first.add(index) };
        }
        let mut bad = null_mut();
        // SAFETY: the queue pair is alive; the chain is `built` long, and is read during the call only.
        let status = unsafe { ibv_post_send(self.raw(), first, &raw mut bad) };
        if status == 0 {
            return (built, broken);
        }
        let failure = Failure::numbered(step::POST, status, "post to the send queue");
        (posted_before(bad.addr(), first.addr(), size_of::<ibv_send_wr>(), built), Some(failure))
    }

    fn post_receive_chain(&self, receives: &[Receive]) -> (usize, Option<Failure>) {
        let mut requests = [const { MaybeUninit::<ibv_recv_wr>::uninit() }; CHAIN];
        let mut pieces = [const { MaybeUninit::<ibv_sge>::uninit() }; CHAIN];
        let first: *mut ibv_recv_wr = requests.as_mut_ptr().cast();
        for (receive, (request, piece)) in receives.iter().zip(requests.iter_mut().zip(&mut pieces)) {
            let piece: *mut ibv_sge =
                piece.write(piece_of(receive.local_address, receive.bytes, receive.local_key));
            request.write(ibv_recv_wr {
                wr_id: receive.id,
                next: null_mut(),
                sg_list: piece,
                num_sge: i32::from(receive.bytes != 0),
            });
        }
        for index in 1..receives.len() {
            // SAFETY: as many requests as receives are written, and lie in one array.
            unsafe { (*first.add(index - 1)).next = first.add(index) };
        }
        let mut bad = null_mut();
        // SAFETY: the queue pair is alive; the chain is not empty, and is read during the call only.
        let status = unsafe { ibv_post_recv(self.raw(), first, &raw mut bad) };
        if status == 0 {
            return (receives.len(), None);
        }
        let failure = Failure::numbered(step::POST, status, "post to the receive queue");
        (posted_before(bad.addr(), first.addr(), size_of::<ibv_recv_wr>(), receives.len()), Some(failure))
    }
}

fn chain_by_chain<T>(all: &[T], mut post: impl FnMut(&[T]) -> (usize, Option<Failure>)) -> Posted {
    let mut count = 0;
    for chunk in all.chunks(CHAIN) {
        let (posted, failure) = post(chunk);
        count += posted;
        if failure.is_some() {
            return Posted { count, failure };
        }
    }
    Posted { count, failure: None }
}

fn piece_of(address: u64, bytes: u32, key: u32) -> ibv_sge {
    ibv_sge { addr: address, length: bytes, lkey: key }
}

fn request_of(send: &Send, piece: *mut ibv_sge) -> Outcome<ibv_send_wr> {
    // SAFETY: all zeros is a valid structure of numbers and null pointers.
    let mut request: ibv_send_wr = unsafe { zeroed() };
    request.wr_id = send.id;
    request.sg_list = piece;
    request.num_sge = i32::from(send.bytes != 0);
    request.opcode = match send.opcode {
        opcode::WRITE => ibv_wr_opcode::IBV_WR_RDMA_WRITE,
        opcode::WRITE_WITH_IMMEDIATE => ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM,
        opcode::SEND => ibv_wr_opcode::IBV_WR_SEND,
        opcode::READ => ibv_wr_opcode::IBV_WR_RDMA_READ,
        other => {
            return Err(Failure::new(step::POST, format!("there is no send request with opcode {other}")));
        }
    };
    let flags = [
        (flag::SIGNALED, ibv_send_flags::IBV_SEND_SIGNALED),
        (flag::INLINE, ibv_send_flags::IBV_SEND_INLINE),
        (flag::FENCE, ibv_send_flags::IBV_SEND_FENCE),
    ];
    for (ours, theirs) in flags {
        if send.flags & ours != 0 {
            request.send_flags |= theirs.0;
        }
    }
    request.imm_data_invalidated_rkey_union =
        imm_data_invalidated_rkey_union_t { imm_data: send.immediate.to_be() };
    request.wr = wr_t { rdma: rdma_t { remote_addr: send.remote_address, rkey: send.remote_key } };
    Ok(request)
}

/// How many of a chain were posted before the bad one, by its address.
fn posted_before(bad: usize, first: usize, each: usize, count: usize) -> usize {
    let index = bad.checked_sub(first).map_or(0, |offset| offset / each);
    // A provider that failed without naming a request has posted none.
    if index < count { index } else { 0 }
}

/// The longest chain; 2 KiB of stack.
const CHAIN: usize = 16;
