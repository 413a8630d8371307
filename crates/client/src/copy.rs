//! Copies between host and device.
//!
//! | copy | how |
//! | --- | --- |
//! | to the device, small | captured in the call's own frame |
//! | to the device, from pageable memory | captured into granted staging; waits for a grant |
//! | to the device, from registered memory | the same while there is a grant, else pulled in stream order; pulled also when something pending can still write the bytes |
//! | to pageable memory | waits until the bytes are there |
//! | to registered memory | posted; the bytes land before any reply or notice that covers them |

use cuda_types::{CUdeviceptr, CUstream, CuError, CuResult, HostSpan};
use proto::calls::{self, Row};
use proto::control::{Pulled, Upload};
use proto::{Caller, MemoryCalls, StreamCalls, codec};
use transport::direct::Ticket;

use crate::hazards::{self, PendingWrite};
use crate::session::Session;
use crate::staging::Use;
use crate::state::{LandingState, PullState};

/// Up to here, bytes to the device travel inside the call.
const INLINE_BYTES: usize = 16 * 1024;
/// Up to here, bytes to pageable memory travel inside the reply.
const INLINE_REPLY_BYTES: usize = 64 * 1024;

fn row(opcode: u16) -> &'static Row {
    calls::row(opcode).expect("an opcode of the table")
}

impl Session {
    /// Copies `src` to the device in stream order.
    ///
    /// Returns when the bytes may be overwritten, unless they lie in registered memory: then when the copy is posted,
    /// as CUDA has it. With `wait`, always when the copy has taken the bytes.
    pub fn copy_to_device(
        &self,
        dst: CUdeviceptr,
        src: HostSpan,
        stream: CUstream,
        wait: bool,
    ) -> CuResult<()> {
        if src.is_empty() {
            return self.check();
        }
        self.check_target(dst, src.len() as u64)?;
        let registered = hazards::is_registered(src);
        if registered && hazards::can_change(src) {
            self.pull(dst, src, stream)?;
            return if wait { self.cuStreamSynchronize(stream) } else { Ok(()) };
        }
        if !registered && hazards::host_function_pending() {
            // CUDA Runtime API, "API synchronization behavior": pageable memory is read after the stream's work.
            StreamCalls::cuStreamSynchronize(self, stream)?;
        }
        if src.len() <= INLINE_BYTES {
            return self.cuMemcpyHtoD_v2(dst, src.read(), stream);
        }
        if registered && self.direct().is_some_and(|(_, bulk)| bulk.gpudirect) {
            self.pull(dst, src, stream)?;
            return if wait { self.cuStreamSynchronize(stream) } else { Ok(()) };
        }
        let mut unread = None;
        let mut offset = 0;
        while offset < src.len() {
            let (part_bytes, taken) = {
                let mut state = self.state();
                let bytes = (src.len() - offset)
                    .min(usize::try_from(state.staging.part_bytes()).unwrap_or(usize::MAX));
                (bytes, state.staging.take(bytes as u64, Use::Call))
            };
            let rest = || src.slice(offset, src.len() - offset).expect("offset is inside");
            let at = CUdeviceptr(dst.0 + offset as u64);
            let staging = match taken {
                Some(staging) => staging,
                None if registered && !wait => return self.pull(at, rest(), stream),
                None => {
                    self.flush()?;
                    let start = self.clock();
                    let staging =
                        self.wait_until(|state| state.staging.take(part_bytes as u64, Use::Call))?;
                    self.account_since(start, |account, waited| account.room.add(waited, 0));
                    staging
                }
            };
            let part = src.slice(offset, part_bytes).expect("at most the rest");
            unread = self.upload(at, part, staging, stream)?;
            offset += part_bytes;
        }
        match (self.direct(), unread) {
            (Some((direct, _)), Some(ticket)) if wait => {
                direct.wait_for(ticket).map_err(|error| self.lose(&error))
            }
            _ => Ok(()),
        }
    }

    /// Sends bytes to granted staging, and the copy from there. With an answer, `part` is read until that transfer is
    /// complete.
    fn upload(
        &self,
        dst: CUdeviceptr,
        part: HostSpan,
        staging: u64,
        stream: CUstream,
    ) -> CuResult<Option<Ticket>> {
        let bytes = part.len() as u64;
        self.account(|account| account.staged_bytes += bytes);
        if let Some((direct, bulk)) = self.direct() {
            let ticket = bulk.upload(direct, part, staging).map_err(|error| self.lose(&error))?;
            // What is written is there before the call that is sent behind it.
            self.post_call(row(0x0801), |out| codec::put(out, (dst, staging, bytes, stream)))?;
            return Ok(ticket);
        }
        let mut frame = Vec::new();
        Upload { staging }.append(&mut frame, u32::try_from(bytes).expect("a part is at most 1 MiB"));
        self.post_behind(&[&frame, part.read()], row(0x0801), |out| {
            codec::put(out, (dst, staging, bytes, stream));
        })?;
        Ok(None)
    }

    /// Posts a copy whose bytes the worker will ask for when its stream has arrived.
    fn pull(&self, dst: CUdeviceptr, src: HostSpan, stream: CUstream) -> CuResult<()> {
        let copy = self.new_name();
        let mut state = self.state();
        state.pulls.insert(copy, PullState { span: src, sent: 0, call: proto::frame::CallId(0) });
        drop(state);
        let gpudirect = self.direct().is_some_and(|(_, bulk)| bulk.gpudirect);
        let named = if gpudirect { self.name_host_memory(copy, src) } else { Ok(()) };
        let posted = named.and_then(|()| {
            self.post_call(row(0x0802), |out| codec::put(out, (copy, dst, src.len() as u64, stream)))
        });
        let mut state = self.state();
        match posted {
            Ok(call) => {
                if let Some(pull) = state.pulls.get_mut(&copy) {
                    pull.call = call;
                }
                Ok(())
            }
            Err(error) => {
                state.pulls.remove(&copy);
                Err(error)
            }
        }
    }

    /// Tells the worker where the memory of a copy lies, if it can reach it.
    fn name_host_memory(&self, copy: u64, span: HostSpan) -> CuResult<()> {
        let named = self.direct().and_then(|(direct, bulk)| bulk.host_memory(direct, copy, span));
        named.map_or(Ok(()), |memory| self.post_control(|out| memory.append(out, 0)))
    }

    /// The progress thread sends bytes of pulled copies, as far as there is staging for them; whether there
    /// were any.
    pub(crate) fn send_pulled(&self) -> bool {
        let mut any = false;
        loop {
            let mut state = self.state();
            let Some(copy) = state.pull_queue.front().copied() else { return any };
            let Some((span, sent)) = state.pulls.get(&copy).map(|pull| (pull.span, pull.sent)) else {
                state.pull_queue.pop_front();
                continue;
            };
            let bytes = (span.len() as u64 - sent).min(state.staging.part_bytes());
            let Some(staging) = state.staging.take(bytes, Use::Pull) else { return any };
            let complete = sent + bytes == span.len() as u64;
            if complete {
                state.pulls.remove(&copy);
                state.pull_queue.pop_front();
            } else if let Some(pull) = state.pulls.get_mut(&copy) {
                pull.sent += bytes;
            }
            drop(state);
            any = true;
            self.account(|account| account.staged_bytes += bytes);
            let part = usize::try_from(sent)
                .ok()
                .zip(usize::try_from(bytes).ok())
                .and_then(|(sent, bytes)| span.slice(sent, bytes))
                .expect("a part of the span");
            if let Some((direct, bulk)) = self.direct() {
                let mut pulled = Vec::new();
                Pulled { copy, offset: sent, staging, bytes }.append(&mut pulled, 0);
                let written = bulk.upload(direct, part, staging).map_err(|error| self.lose(&error));
                if written.is_err() || self.send_parts(&[&pulled]).is_err() {
                    return any;
                }
                continue;
            }
            let (mut upload, mut pulled) = (Vec::new(), Vec::new());
            Upload { staging }.append(&mut upload, u32::try_from(bytes).expect("a part is at most 1 MiB"));
            Pulled { copy, offset: sent, staging, bytes }.append(&mut pulled, 0);
            if self.send_parts(&[&upload, part.read(), &pulled]).is_err() {
                return any;
            }
        }
    }

    /// Copies device memory to `dst` in stream order: waits for the bytes if `dst` is pageable or `wait` is set.
    pub fn copy_to_host(
        &self,
        mut dst: HostSpan,
        src: CUdeviceptr,
        stream: CUstream,
        wait: bool,
    ) -> CuResult<()> {
        if dst.is_empty() {
            return self.check();
        }
        self.check_range(src, dst.len() as u64)?;
        let awaited = wait || !hazards::is_registered(dst);
        if awaited && dst.len() <= INLINE_REPLY_BYTES {
            let bytes = self.cuMemcpyDtoH_v2(src, dst.len() as u64, stream)?;
            if bytes.len() != dst.len() {
                return Err(CuError::UNKNOWN);
            }
            dst.write().copy_from_slice(&bytes);
            return self.deliver_deferred();
        }
        let copy = self.new_name();
        // Known before the call is sent: its bytes may land before the next line runs.
        let entry = LandingState {
            span: dst,
            received: 0,
            call: proto::frame::CallId(0),
            awaited,
            _pending: PendingWrite::landing(dst),
        };
        self.state().landings.insert(copy, entry);
        let posted = self.name_host_memory(copy, dst).and_then(|()| {
            self.post_call(row(0x0803), |out| codec::put(out, (copy, src, dst.len() as u64, stream)))
        });
        let call = match posted {
            Ok(call) => call,
            Err(error) => {
                self.state().landings.remove(&copy);
                return Err(error);
            }
        };
        if let Some(entry) = self.state().landings.get_mut(&copy) {
            entry.call = call;
        }
        if !awaited {
            return Ok(());
        }
        let start = self.clock();
        self.flush()?;
        let landed = self.wait_until(|state| state.landed.remove(&copy))?;
        self.account_since(start, |account, waited| account.landings.add(waited, dst.len() as u64));
        if landed {
            return self.deliver_deferred();
        }
        // The copy failed: this call tells why.
        StreamCalls::cuStreamSynchronize(self, stream)?;
        Err(self.take_deferred().unwrap_or(CuError::INVALID_VALUE))
    }

    /// The error of an earlier posted call, if one is due.
    pub(crate) fn deliver_deferred(&self) -> CuResult<()> {
        self.take_deferred().map_or(Ok(()), Err)
    }
}
