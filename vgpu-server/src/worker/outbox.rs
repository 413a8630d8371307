//! Everything that a worker sends, in one order.
//!
//! Order is the promise: bytes that land are pushed before the reply that covers them. A thread that may block sends
//! for itself when nobody else is sending; a device callback only leaves its message to the writer thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cuda_types::HostSpan;
use transport::Link;
use transport::direct::{LocalRange, RemoteAddress};

/// Runs when the bytes of a message have been taken by the link: frees the staging that they lay in.
pub(crate) type Sent = Box<dyn FnOnce() + Send>;

/// One message on its way.
pub(crate) struct Message {
    frame: Vec<u8>,
    bulk: Option<HostSpan>,
    sent: Option<Sent>,
    /// Bytes that the network moves before the frame arrives; `sent` then waits for them.
    write: Option<(LocalRange, RemoteAddress)>,
}

impl Message {
    /// A message that is all in `frame`.
    pub(crate) fn frame(frame: Vec<u8>) -> Message {
        Message { frame, bulk: None, sent: None, write: None }
    }

    /// A message whose bulk bytes lie in staging until `sent` is called.
    pub(crate) fn with_bulk(frame: Vec<u8>, bulk: HostSpan, sent: Sent) -> Message {
        Message { frame, bulk: Some(bulk), sent: Some(sent), write: None }
    }

    /// A message that is to arrive after `from` has been written to `to`; `sent` is called when `from` is free again.
    pub(crate) fn behind_write(
        frame: Vec<u8>,
        from: LocalRange,
        to: RemoteAddress,
        sent: Option<Sent>,
    ) -> Message {
        Message { frame, bulk: None, sent, write: Some((from, to)) }
    }
}

/// The queue in front of a link's sending side.
pub(crate) struct Outbox {
    link: Arc<dyn Link>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Message>,
    /// Whether a thread is sending what it took from the queue.
    sending: bool,
    /// A thread waits in [`close`](Outbox::close).
    closing: bool,
    closed: bool,
    /// The only message of the queue may wait for another.
    is_lazy: bool,
}

impl State {
    fn add(&mut self, message: Message) {
        self.queue.push_back(message);
        self.is_lazy = false;
    }

    /// Whether there is something that must be sent.
    fn is_due(&self) -> bool {
        !self.queue.is_empty() && !self.is_lazy
    }
}

impl Outbox {
    pub(crate) fn new(link: Arc<dyn Link>) -> Outbox {
        Outbox { link, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a message to whoever sends. Never blocks.
    pub(crate) fn push(&self, message: Message) {
        let mut state = self.lock();
        state.add(message);
        if !state.sending {
            self.changed.notify_all();
        }
    }

    /// Leaves a message that may wait for the next one; never more than one waits.
    pub(crate) fn push_lazily(&self, message: Message) {
        let mut state = self.lock();
        let is_only = state.queue.is_empty();
        state.add(message);
        state.is_lazy = is_only;
        if !state.sending && !is_only {
            self.changed.notify_all();
        }
    }

    /// Queues a message and sends what is queued, if nobody else is sending already.
    pub(crate) fn send(&self, message: Message) {
        let mut state = self.lock();
        state.add(message);
        if !state.sending {
            drop(self.drain(state));
        }
    }

    /// Sends a message as far as that is possible without waiting; the writer thread does the rest. For the thread that
    /// reads, which must not wait for the peer to read.
    pub(crate) fn send_now(&self, message: Message) {
        let mut state = self.lock();
        let is_plain =
            |message: &Message| message.write.is_none() && message.bulk.is_none() && message.sent.is_none();
        state.add(message);
        if state.sending || !state.queue.iter().all(is_plain) {
            self.changed.notify_all();
            return;
        }
        state.sending = true;
        let batch: Vec<u8> = match state.queue.len() {
            1 => state.queue.pop_front().map(|message| message.frame).unwrap_or_default(),
            _ => state.queue.drain(..).flat_map(|message| message.frame).collect(),
        };
        drop(state);
        let sent = self.link.try_send(&[&batch]);
        let mut state = self.lock();
        state.sending = false;
        match sent {
            Ok(sent) if sent == batch.len() => {}
            Ok(sent) => state.queue.push_front(Message::frame(batch[sent..].to_vec())),
            // As in `transmit`.
            Err(_) => self.link.shutdown(),
        }
        if !state.queue.is_empty() || state.closing {
            self.changed.notify_all();
        }
    }

    /// The writer thread: sends what callbacks have left behind, until [`close`](Outbox::close).
    pub(crate) fn write_until_closed(&self) {
        let mut state = self.lock();
        while !state.closed {
            if !state.is_due() || state.sending {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                state = self.drain(state);
            }
        }
    }

    /// Ends the writer thread, once the queue is empty or the link is down.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        while !state.queue.is_empty() || state.sending {
            state = if state.sending {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.drain(state)
            };
        }
        state.closed = true;
        self.changed.notify_all();
    }

    fn drain<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.sending = true;
        while !state.queue.is_empty() {
            let batch = std::mem::take(&mut state.queue);
            drop(state);
            self.transmit(batch);
            state = self.lock();
        }
        state.sending = false;
        // The writer has nothing to do: the queue is empty.
        if state.closing {
            self.changed.notify_all();
        }
        state
    }

    fn transmit(&self, mut batch: VecDeque<Message>) {
        for message in &mut batch {
            let Some((from, to)) = message.write.take() else { continue };
            let sent = message.sent.take();
            let done = sent.map(|sent| Box::new(move |_| sent()) as transport::direct::Done);
            let written = self.link.direct().map(|direct| direct.write(from, to, done));
            if !matches!(written, Some(Ok(_))) {
                self.link.shutdown();
            }
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(batch.len() * 2);
        for message in &batch {
            parts.push(&message.frame);
            if let Some(bulk) = &message.bulk {
                parts.push(bulk.read());
            }
        }
        if self.link.send(&parts).is_err() {
            // The reader sees the same end of the link and ends the session; what is queued has no receiver.
            self.link.shutdown();
        }
        for sent in batch.into_iter().filter_map(|message| message.sent) {
            sent();
        }
    }
}
