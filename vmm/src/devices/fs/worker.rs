//! Brings the driver's queues and the server's socket together.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use virtio_queue::QueueT;

use super::core::{Arrival, Core, Fate, Line, Place, Reply};
use crate::event_loop::{Interest, Readiness, Subscriber, Watch};
use crate::virtio::chain::{self, Lie};
use crate::virtio::device::{Kicks, Live, borrow};

/// The queue for what cannot wait behind a full one, and the queue for requests (5.11.2).
pub(super) const QUEUES: usize = 2;

const SOCKET: u32 = 2;

/// What is taken from the server before others have their turn.
const ARRIVALS: usize = 256;

pub(super) struct Worker {
    core: Core<Socket>,
    kicks: Kicks,
    pub(super) live: Option<Live>,
}

impl Worker {
    pub(super) fn new(socket: Option<OwnedFd>, kicks: Kicks, watch: &Watch) -> io::Result<Self> {
        for (token, kick) in (0..).zip(kicks.iter()) {
            watch.add(borrow(kick), token, Interest::Readable)?;
        }
        if let Some(socket) = &socket {
            watch.add(socket.as_fd(), SOCKET, Interest::Edges)?;
        }
        Ok(Self { core: Core::new(Socket(socket)), kicks, live: None })
    }

    /// The driver is gone. What the server still answers is for nobody.
    pub(super) fn stop(&mut self) -> Option<Live> {
        self.core.forget_all();
        self.live.take()
    }

    /// Requests the server has not answered.
    pub(super) fn owes(&self) -> usize {
        self.core.asked()
    }

    /// Moves messages both ways until neither way goes on.
    fn exchange(&mut self) {
        let mut live = self.live.take();
        match &mut live {
            Some(live) if !live.irq.is_broken() => match self.exchange_with(live) {
                Ok(true) => live.irq.used_ring(),
                Ok(false) => {}
                Err(_) => live.irq.device_is_broken(),
            },
            Some(_) | None => self.discard(),
        }
        self.live = live;
    }

    /// One round. `true` when the guest wants to hear of it.
    fn exchange_with(&mut self, live: &mut Live) -> Result<bool, Lie> {
        let mut used = [false; QUEUES];
        for (queue, used) in used.iter_mut().enumerate() {
            *used = self.take_requests(live, queue)?;
        }
        let mut turn = ARRIVALS;
        while let Some(arrival) = self.arrival(&mut turn) {
            let Some(Reply { at, room, message }) = arrival else { continue };
            let written = room.open(&live.memory)?.copy_from(message);
            chain::complete(&mut live.queues[at.queue], &live.memory, at.head, written)?;
            used[at.queue] = true;
        }
        let mut interrupt = false;
        for (queue, used) in live.queues.iter_mut().zip(used) {
            interrupt |= used && chain::wants_interrupt(queue, &live.memory)?;
        }
        Ok(interrupt)
    }

    /// What was answered to a driver that is gone.
    fn discard(&mut self) {
        let mut turn = ARRIVALS;
        while self.arrival(&mut turn).is_some() {}
    }

    /// The next thing that has come, which may be nobody's reply; `None` when `turn` is over or there
    /// is nothing more.
    fn arrival(&mut self, turn: &mut usize) -> Option<Option<Reply<'_>>> {
        if *turn == 0 {
            // The socket says once that there is something: we have to come back by ourselves.
            let _ = self.kicks[0].write(1);
            return None;
        }
        *turn -= 1;
        match self.core.arrival() {
            Arrival::Reply(reply) => Some(Some(reply)),
            Arrival::Stray => Some(None),
            Arrival::Nothing => None,
        }
    }

    /// Sends what is in a queue, a queue's worth at most and while there is room. The socket says when
    /// there is room again.
    fn take_requests(&mut self, live: &mut Live, index: usize) -> Result<bool, Lie> {
        let (queue, memory) = (&mut live.queues[index], &live.memory);
        let mut used = false;
        for _ in 0..queue.size() {
            let Some(chain) = chain::next(queue, memory)? else {
                if chain::wants_kick(queue, memory)? {
                    continue;
                }
                return Ok(used);
            };
            let at = Place { queue: index, head: chain.head() };
            // More than both queues hold is a chain offered again before it came back.
            if self.core.asked() >= QUEUES * usize::from(queue.max_size()) {
                return Err(Lie::Rings);
            }
            let written = match chain.open_for_later() {
                Err(_) => 0,
                Ok((readable, room)) => match self.core.request(at, readable, room) {
                    Fate::Sent => continue,
                    Fate::Later => {
                        chain::put_back(queue);
                        return Ok(used);
                    }
                    Fate::Done(room, reply) if room.len() < reply.len() => 0,
                    Fate::Done(room, reply) => room.open(memory)?.copy_from(&reply),
                },
            };
            chain::complete(queue, memory, at.head, written)?;
            used = true;
        }
        // What is left is for the next turn of the event loop, since others wait too.
        if chain::wants_kick(queue, memory)? {
            let _ = self.kicks[index].write(1);
        }
        Ok(used)
    }
}

impl Subscriber for Worker {
    fn ready(&mut self, token: u32, _: Readiness) {
        if let Some(kick) = self.kicks.get(token as usize) {
            // An empty counter is a kick that was taken already.
            let _ = kick.read();
        }
        self.exchange();
    }
}

/// The server's socket. Where there is none, every message meets a server that is gone.
struct Socket(Option<OwnedFd>);

impl Socket {
    fn number(&self) -> io::Result<libc::c_int> {
        self.0.as_ref().map(OwnedFd::as_raw_fd).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Line for Socket {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let socket = self.number()?;
        // SAFETY: `message` is readable for its length.
        let sent = unsafe { libc::send(socket, message.as_ptr().cast(), message.len(), flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let socket = self.number()?;
        // SAFETY: `into` is writable for its length.
        let got = unsafe { libc::recv(socket, into.as_mut_ptr().cast(), into.len(), flags) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }
}
