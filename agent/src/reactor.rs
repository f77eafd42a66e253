//! Waiting for many descriptors at once.
//!
//! Edge-triggered: a descriptor is told about once when it becomes readable or writable (or is hung
//! up), so whoever owns it goes on until `EAGAIN`. A descriptor leaves by being closed. Where a copy
//! of it lives on for a moment in a forked child, an edge for a token nobody knows any more may come;
//! the agent skips those.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// Names one watched thing. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(u64);

/// The epoll instance and the next token.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    next: u64,
}

/// What the events of one wait can be, at most. More stay queued in the kernel.
const EVENTS: usize = 64;

impl Reactor {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, next: 0 })
    }

    /// A token for something about to be watched.
    pub(crate) fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }

    /// Watches a descriptor, both ways. If it is ready already, that is the first edge.
    pub(crate) fn watch(&self, descriptor: impl AsFd, token: Token) -> Result<(), Errno> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, descriptor, EventData::new_u64(token.0), edges)
    }

    /// Watches a descriptor no longer, though it stays open.
    pub(crate) fn forget(&self, descriptor: impl AsFd) {
        // It is only called for what is watched, which is the one way this can go wrong.
        let _ = epoll::delete(&self.epoll, descriptor);
    }

    /// Whose descriptors have changed. With `patient` it waits until one does.
    pub(crate) fn wait(&self, patient: bool) -> Result<Vec<Token>, Errno> {
        let mut space = [MaybeUninit::<Event>::uninit(); EVENTS];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if patient { None } else { Some(&now) };
        match epoll::wait(&self.epoll, &mut space, timeout) {
            Ok((events, _)) => Ok(events.iter().map(|event| Token(event.data.u64())).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }
}
