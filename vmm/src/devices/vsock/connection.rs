//! One stream: what has passed, what is owed, what is over.
//!
//! Two directions, each with its own end. From the guest: data goes straight to the host's socket,
//! and what that does not take is kept in a backlog that credit bounds. From the host: data is read
//! when the guest has given credit and room for it. The socket is edge-triggered, so two flags
//! remember what it was last ready for.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use super::packet::{Credit, Halves, MAX_DATA_BYTES, Operation, Ports};
use crate::event_loop::Readiness;
use crate::virtio::buffers::Buffers;

/// What we buffer for a reader on the host, and what the guest is told of it.
pub(super) const BACKLOG_BYTES: u32 = 256 << 10;

/// The guest is told again once so much more has been passed on than it knows of. Well under the
/// whole, so that a guest that was told is never left without credit.
const TELL_CREDIT_BYTES: u32 = BACKLOG_BYTES / 4;

/// The host's end of a stream. No call waits.
pub(super) trait Stream {
    /// Sends from guest memory.
    fn send(&mut self, from: &mut Buffers<'_>) -> io::Result<usize>;
    /// Sends from the backlog.
    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Receives up to `limit` bytes into guest memory; 0 is the end.
    fn receive(&mut self, into: &mut Buffers<'_>, limit: usize) -> io::Result<usize>;
    /// Nothing more will be sent.
    fn finish_sending(&mut self);
    /// Nothing more will be received.
    fn finish_receiving(&mut self);
}

/// How far dialling has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The host dialled; the guest has not answered.
    Dialled,
    /// Both know of each other.
    Open,
    /// The guest knows nothing of it any more; the backlog still goes out.
    Orphaned,
}

/// Packets to be sent as soon as there is room.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit: bool,
}

/// The guest did what no driver does; its stream is reset.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation;

pub(super) struct Connection<S> {
    pub(super) ports: Ports,
    /// It stands in the list of those with something to send.
    pub(super) listed: bool,
    stream: S,
    stage: Stage,
    owed: Owed,

    /// From guest to host: what the socket has not taken yet, and three counts of bytes, wrapping.
    backlog: VecDeque<u8>,
    received: u32,
    forwarded: u32,
    told_forwarded: u32,

    /// From host to guest.
    guest_credit: Credit,
    sent: u32,

    /// What the guest will do no more.
    guest_done: Halves,
    /// What the host will do no more, and how much of that the guest was told.
    host_done: Halves,
    told_host_done: Halves,

    /// The guest's last byte is out, and the socket was told so.
    finished_sending: bool,

    readable: bool,
    writable: bool,
    hung_up: bool,
    gone: bool,
}

impl<S: Stream> Connection<S> {
    /// The host dials the guest.
    pub(super) fn to_guest(ports: Ports, stream: S) -> Self {
        let owed = Owed { request: true, ..Owed::default() };
        Self::new(ports, stream, Stage::Dialled, owed)
    }

    /// The guest dialled the host, and is answered.
    pub(super) fn from_guest(ports: Ports, stream: S) -> Self {
        let owed = Owed { response: true, ..Owed::default() };
        Self::new(ports, stream, Stage::Open, owed)
    }

    fn new(ports: Ports, stream: S, stage: Stage, owed: Owed) -> Self {
        Self {
            ports,
            listed: false,
            stream,
            stage,
            owed,
            backlog: VecDeque::new(),
            received: 0,
            forwarded: 0,
            told_forwarded: 0,
            guest_credit: Credit::default(),
            sent: 0,
            guest_done: Halves::default(),
            host_done: Halves::default(),
            told_host_done: Halves::default(),
            finished_sending: false,
            // Trying is how one finds out.
            readable: true,
            writable: true,
            hung_up: false,
            gone: false,
        }
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// What every packet to the guest says about credit.
    pub(super) fn credit(&self) -> Credit {
        Credit { buf_alloc: BACKLOG_BYTES, fwd_cnt: self.forwarded }
    }

    /// A packet of the guest said this about credit.
    pub(super) fn set_guest_credit(&mut self, credit: Credit) {
        self.guest_credit = credit;
    }

    /// The guest takes the call.
    pub(super) fn response(&mut self) -> Result<(), Violation> {
        if self.stage != Stage::Dialled || self.owed.request {
            return Err(Violation);
        }
        self.stage = Stage::Open;
        // The greeting's end. A socket that was just opened takes a line whole, or is gone.
        let line = format!("OK {}\n", self.ports.host);
        match self.stream.send_bytes(line.as_bytes()) {
            Ok(bytes) if bytes == line.len() => {}
            _ => self.host_gone(),
        }
        Ok(())
    }

    /// The guest sends data.
    pub(super) fn data(&mut self, mut from: Buffers<'_>) -> Result<(), Violation> {
        // No longer than a packet, which is checked before.
        let bytes = from.len() as u32;
        let held = self.received.wrapping_sub(self.forwarded);
        if self.stage != Stage::Open || self.guest_done.send || held + bytes > BACKLOG_BYTES {
            return Err(Violation);
        }
        self.received = self.received.wrapping_add(bytes);
        while self.writable && self.backlog.is_empty() && !from.is_empty() {
            let outcome = self.stream.send(&mut from);
            self.sent_to_host(outcome);
        }
        if self.host_done.receive {
            self.discard();
        } else {
            let start = self.backlog.len();
            self.backlog.resize(start + from.len(), 0);
            from.copy_to(&mut self.backlog.make_contiguous()[start..]);
        }
        self.consider_credit();
        Ok(())
    }

    /// The guest will send or receive no more.
    pub(super) fn shutdown(&mut self, halves: Halves) {
        if halves.receive && !self.guest_done.receive {
            self.stream.finish_receiving();
        }
        self.guest_done = self.guest_done.and(halves);
        self.finish_when_drained();
    }

    /// The guest asks what it may send.
    pub(super) fn credit_request(&mut self) {
        self.owed.credit = true;
    }

    /// The guest has forgotten this stream. What it sent before still goes out.
    pub(super) fn orphan(&mut self) {
        self.shutdown(Halves::BOTH);
        self.stage = Stage::Orphaned;
    }

    /// The socket is ready for something.
    pub(super) fn ready(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable();
        self.writable |= readiness.writable();
        self.hung_up |= readiness.hung_up();
        self.gone |= readiness.gone();
        if self.gone && self.host_done.send {
            // It had ended its half before: nothing is read any more that could tell.
            self.host_gone();
        }
        while self.writable && !self.backlog.is_empty() {
            let outcome = self.stream.send_bytes(self.backlog.as_slices().0);
            if let Ok(bytes) = outcome {
                self.backlog.drain(..bytes);
            }
            self.sent_to_host(outcome);
        }
        self.finish_when_drained();
        self.consider_credit();
    }

    /// What the guest will be sent next, if anything: data is put into `room`.
    pub(super) fn next_packet(&mut self, room: &mut Buffers<'_>) -> Option<Operation> {
        if std::mem::take(&mut self.owed.request) {
            return Some(Operation::Request);
        }
        if std::mem::take(&mut self.owed.response) {
            return Some(Operation::Response);
        }
        if self.stage != Stage::Open {
            return None;
        }
        let operation = match self.receive(room) {
            Some(bytes) => Operation::Data(bytes),
            None if self.told_host_done != self.host_done => {
                self.told_host_done = self.host_done;
                Operation::Shutdown(self.host_done)
            }
            None if self.owed.credit => Operation::CreditUpdate,
            None => return None,
        };
        // Every packet says it.
        self.owed.credit = false;
        self.told_forwarded = self.forwarded;
        Some(operation)
    }

    /// There may be something to send to the guest.
    pub(super) fn has_packet(&self) -> bool {
        let Owed { request, response, credit } = self.owed;
        let told = self.told_host_done == self.host_done;
        request || response || self.stage == Stage::Open && (credit || !told || self.may_receive())
    }

    /// Everything the guest sent has reached the host's socket.
    pub(super) fn is_drained(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Nothing more will come of it.
    pub(super) fn is_over(&self) -> bool {
        self.guest_done.both() && self.backlog.is_empty()
    }

    fn may_receive(&self) -> bool {
        self.readable && !self.host_done.send && !self.guest_done.receive && self.room() > 0
    }

    /// What the guest's credit leaves. A guest that claims to have passed on more than it was sent
    /// gets nothing.
    fn room(&self) -> u32 {
        let Credit { buf_alloc, fwd_cnt } = self.guest_credit;
        buf_alloc.saturating_sub(self.sent.wrapping_sub(fwd_cnt))
    }

    fn receive(&mut self, room: &mut Buffers<'_>) -> Option<usize> {
        let limit = room.len().min(MAX_DATA_BYTES).min(self.room() as usize);
        if !self.may_receive() || limit == 0 {
            return None;
        }
        match self.stream.receive(room, limit) {
            Ok(0) if self.gone || self.host_done.receive => self.host_gone(),
            Ok(0) => self.host_done.send = true,
            Ok(bytes) => {
                self.sent = self.sent.wrapping_add(bytes as u32);
                // A socket that gave less than asked for is empty; a new edge will tell of more, but
                // not of an end that was told of already.
                self.readable = bytes == limit || self.hung_up;
                return Some(bytes);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.host_gone(),
        }
        None
    }

    /// Sending to the host went like this.
    fn sent_to_host(&mut self, outcome: io::Result<usize>) {
        match outcome {
            Ok(bytes) => self.forwarded = self.forwarded.wrapping_add(bytes as u32),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => {
                // It reads no more; what it has sent still comes through.
                self.host_done.receive = true;
                self.writable = false;
                self.discard();
            }
        }
    }

    fn host_gone(&mut self) {
        self.host_done = Halves::BOTH;
        self.discard();
    }

    /// There is nobody to take it: count it as passed on, so that the guest does not wait.
    fn discard(&mut self) {
        self.backlog.clear();
        self.forwarded = self.received;
    }

    fn finish_when_drained(&mut self) {
        if self.guest_done.send && self.backlog.is_empty() && !self.finished_sending {
            self.stream.finish_sending();
            self.finished_sending = true;
        }
    }

    fn consider_credit(&mut self) {
        let news = self.forwarded.wrapping_sub(self.told_forwarded);
        self.owed.credit |= news >= TELL_CREDIT_BYTES;
    }
}
