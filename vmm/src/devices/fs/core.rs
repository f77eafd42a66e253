//! Requests to a file server and its replies (virtio 1.2, 5.11.6).
//!
//! Both are FUSE messages, and of those nothing is known here but the two headers every one of them
//! begins with:
//!
//! ```text
//!   request  len u32 · opcode u32 · unique u64 · 24 bytes more · what is asked
//!   reply    len u32 · error i32  · unique u64 · what is answered
//! ```
//!
//! A request is copied out of guest memory once, its length is held against what came, and it goes on
//! with a number of ours for the guest's `unique`. That number is never used again, so a reply finds
//! the request it belongs to or none, whatever the guest has named its requests and however often the
//! device was reset meanwhile. Server and guest are both hostile: the one may be the other's by now.

use std::collections::BTreeMap;
use std::io;

use crate::virtio::buffers::Buffers;
use crate::virtio::chain::Room;

/// `struct fuse_in_header`.
pub(super) const REQUEST_HEADER: usize = 40;
/// `struct fuse_out_header`.
pub(super) const REPLY_HEADER: usize = 16;

/// The longest message: 64 KiB of data, and headers and names around it. A Unix socket keeps a message
/// of this size in pieces of a few pages; a longer one needs contiguous memory, which a host that has
/// been up for long may not find.
pub(super) const MAX_MESSAGE: usize = (64 << 10) + (4 << 10);

/// Where both headers have `unique`.
const UNIQUE: std::ops::Range<usize> = 8..16;

/// The way to the server: messages, each whole or not at all.
pub(super) trait Line: Send {
    /// Sends one without waiting.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;
    /// Takes one without waiting and gives its length, which may be more than fits. 0 is the end.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize>;
}

/// A request the server has.
#[derive(Debug)]
struct Asked {
    at: Place,
    unique: [u8; 8],
    room: Room,
}

/// Where a request came from: queue and head of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) queue: usize,
    pub(super) head: u16,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The server has it.
    Sent,
    /// It is done with: this goes into its room, if there is any.
    Done(Room, Vec<u8>),
    /// There is no room on the way to the server.
    Later,
}

/// A reply and where it goes.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) at: Place,
    pub(super) room: Room,
    pub(super) message: &'a [u8],
}

/// What has come from the server.
#[derive(Debug)]
pub(super) enum Arrival<'a> {
    /// The answer to a request.
    Reply(Reply<'a>),
    /// Something nobody waits for.
    Stray,
    /// Nothing for now.
    Nothing,
}

/// Carries messages.
pub(super) struct Core<L> {
    line: L,
    asked: BTreeMap<u64, Asked>,
    next: u64,
    message: Vec<u8>,
    server_is_gone: bool,
}

impl<L: Line> Core<L> {
    pub(super) fn new(line: L) -> Self {
        let message = vec![0; MAX_MESSAGE];
        Self { line, asked: BTreeMap::new(), next: 1, message, server_is_gone: false }
    }

    /// How many requests the server has.
    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Sends a request on its way.
    pub(super) fn request(&mut self, at: Place, mut from: Buffers<'_>, room: Room) -> Fate {
        let bytes = from.len();
        if !(REQUEST_HEADER..=MAX_MESSAGE).contains(&bytes) {
            let mut header = [0; REQUEST_HEADER];
            from.copy_to(&mut header);
            return Fate::Done(room, refusal(unique(&header)));
        }
        let message = &mut self.message[..bytes];
        from.copy_to(message);
        let guests = unique(message);
        if length(message) != bytes || self.server_is_gone {
            return Fate::Done(room, refusal(guests));
        }
        message[UNIQUE].copy_from_slice(&self.next.to_le_bytes());
        match self.line.send(message) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Later,
            Err(error) => {
                self.server_is_gone |= is_the_end(&error);
                return Fate::Done(room, refusal(guests));
            }
        }
        let number = self.next;
        self.next += 1;
        // Whoever leaves no room for a reply wants none: requests to forget something.
        if room.is_empty() {
            return Fate::Done(room, vec![]);
        }
        self.asked.insert(number, Asked { at, unique: guests, room });
        Fate::Sent
    }

    /// Takes in what the server has sent.
    pub(super) fn arrival(&mut self) -> Arrival<'_> {
        if self.server_is_gone {
            return self.next_orphan();
        }
        let bytes = match self.line.receive(&mut self.message) {
            Ok(0) => {
                self.server_is_gone = true;
                return self.next_orphan();
            }
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Arrival::Nothing,
            Err(error) => {
                self.server_is_gone |= is_the_end(&error);
                return if self.server_is_gone { self.next_orphan() } else { Arrival::Stray };
            }
        };
        let kept = bytes.min(MAX_MESSAGE);
        let number = u64::from_le_bytes(unique(&self.message[..kept]));
        let Some(asked) = self.asked.remove(&number) else { return Arrival::Stray };
        if bytes > asked.room.len() || bytes != kept || length(&self.message) != bytes {
            return self.broken(asked);
        }
        self.message[UNIQUE].copy_from_slice(&asked.unique);
        let Asked { at, room, .. } = asked;
        Arrival::Reply(Reply { at, room, message: &self.message[..bytes] })
    }

    /// The device was reset: nobody waits for anything any more.
    pub(super) fn forget_all(&mut self) {
        self.asked.clear();
    }

    /// Without a server each request is answered all the same: a guest waits for its files without end.
    fn next_orphan(&mut self) -> Arrival<'_> {
        match self.asked.pop_first() {
            Some((_, asked)) => self.broken(asked),
            None => Arrival::Nothing,
        }
    }

    fn broken(&mut self, asked: Asked) -> Arrival<'_> {
        let Asked { at, unique, room } = asked;
        let message = &mut self.message[..REPLY_HEADER];
        message.copy_from_slice(&refusal(unique));
        Arrival::Reply(Reply { at, room, message })
    }
}

/// A reply that is nothing but an I/O error.
fn refusal(unique: [u8; 8]) -> Vec<u8> {
    let mut reply = Vec::from((REPLY_HEADER as u32).to_le_bytes());
    reply.extend((-libc::EIO).to_le_bytes());
    reply.extend(unique);
    reply
}

/// The length a message says it has; 0 for one without a header.
fn length(message: &[u8]) -> usize {
    let said = message.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    usize::try_from(said).unwrap_or(usize::MAX)
}

/// The number a message has; 0, which is no request's, for one without a header.
fn unique(message: &[u8]) -> [u8; 8] {
    message.get(UNIQUE).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}

/// The server will not be heard of again.
fn is_the_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}
