//! Brings the driver's queues, the host's sockets and the core together.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::connection::Stream;
use super::core::{Core, Id, MAX_CONNECTIONS};
use super::greeting::{self, Greeting};
use super::packet::{HEADER_BYTES, RawHeader};
use virtio_queue::QueueT;

use crate::event_loop::{Interest, Readiness, Subscriber, Watch};
use crate::virtio::buffers::Buffers;
use crate::virtio::chain::{self, Lie};
use crate::virtio::device::{Kicks, Live, borrow};

/// Receive queue: packets for the guest.
const RX: usize = 0;
/// Transmit queue: packets from the guest.
const TX: usize = 1;
/// Event queue: news about the device itself.
const EVENT: usize = 2;

/// How many that makes.
const QUEUES: usize = 3;

const LISTENER: u32 = 3;
const FIRST_ID: Id = 16;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (5.10.6.7): every stream is gone, and the guest's context id
/// may be another one.
const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

/// Told which port of the host the guest has reached.
pub type Dialled = Box<dyn Fn(u32) + Send>;

pub(super) struct Worker {
    core: Core<Socket>,
    listener: OwnedFd,
    /// Clients of the listener that have not said where to.
    callers: BTreeMap<Id, OwnedFd>,
    kicks: Kicks,
    watch: Watch,
    dialled: Dialled,
    next_id: Id,
    pub(super) reset_to_tell: bool,
    pub(super) live: Option<Live>,
}

impl Worker {
    pub(super) fn new(
        core: Core<Socket>,
        listener: OwnedFd,
        kicks: Kicks,
        watch: Watch,
        dialled: Dialled,
    ) -> io::Result<Self> {
        for (token, kick) in (0..).zip(kicks.iter()) {
            watch.add(borrow(kick), token, Interest::Readable)?;
        }
        do_not_wait(&listener)?;
        watch.add(listener.as_fd(), LISTENER, Interest::Readable)?;
        Ok(Self {
            core,
            listener,
            callers: BTreeMap::new(),
            kicks,
            watch,
            dialled,
            next_id: FIRST_ID,
            reset_to_tell: false,
            live: None,
        })
    }

    pub(super) fn guest_cid(&self) -> u64 {
        self.core.guest_cid()
    }

    /// The driver is gone, or the whole guest: takes what it has sent, and nothing after that. Linux
    /// resets the device on its way down, right behind its last packets.
    pub(super) fn stop(&mut self) -> Option<Live> {
        let mut live = self.live.take();
        if let Some(live) = live.as_mut().filter(|live| !live.irq.is_broken()) {
            // A queue that is a lie has nothing more to give.
            let _ = self.take_packets(live);
        }
        self.core.orphan_all();
        live
    }

    /// Everything the guest sent has reached the host's sockets.
    pub(super) fn is_drained(&self) -> bool {
        self.core.is_drained()
    }

    /// Moves packets both ways until neither way goes on.
    fn exchange(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        if !live.irq.is_broken() {
            match self.exchange_with(&mut live) {
                Ok(true) => live.irq.used_ring(),
                Ok(false) => {}
                Err(_) => live.irq.device_is_broken(),
            }
        }
        self.live = Some(live);
    }

    /// One round in each direction. `true` when the guest wants to hear of it.
    fn exchange_with(&mut self, live: &mut Live) -> Result<bool, Lie> {
        let mut used = [false; QUEUES];
        used[TX] = self.take_packets(live)?;
        used[RX] = self.give_packets(live)?;
        used[EVENT] = self.tell_reset(live)?;
        // What is left is for the next turn of the event loop, since others wait too. But where there
        // is no room for answers, nothing is taken until the receive queue is kicked.
        if self.core.takes_packets() && chain::wants_kick(&mut live.queues[TX], &live.memory)? {
            let _ = self.kicks[TX].write(1);
        }
        let mut interrupt = false;
        for (queue, used) in live.queues.iter_mut().zip(used) {
            interrupt |= used && chain::wants_interrupt(queue, &live.memory)?;
        }
        Ok(interrupt)
    }

    /// Takes packets off the transmit queue, a queue's worth at most.
    fn take_packets(&mut self, live: &mut Live) -> Result<bool, Lie> {
        let queue = &mut live.queues[TX];
        let mut used = false;
        for _ in 0..queue.size() {
            if !self.core.takes_packets() {
                break;
            }
            let Some(chain) = chain::next(queue, &live.memory)? else { break };
            let head = chain.head();
            if let Ok((readable, _)) = chain.open() {
                self.take_packet(readable);
            }
            chain::complete(queue, &live.memory, head, 0)?;
            used = true;
        }
        Ok(used)
    }

    fn take_packet(&mut self, mut readable: Buffers<'_>) {
        let Some(header) = readable.take_array::<HEADER_BYTES>() else { return };
        let id = self.next_id;
        if let Some(port) = self.core.packet(RawHeader(header), readable, id) {
            self.opened(id, port);
        }
    }

    /// Puts packets into the receive queue while there are some and there is room.
    fn give_packets(&mut self, live: &mut Live) -> Result<bool, Lie> {
        let queue = &mut live.queues[RX];
        let mut used = false;
        while self.core.has_packet() {
            let Some(chain) = chain::next(queue, &live.memory)? else {
                // From here on each new buffer is news.
                if chain::wants_kick(queue, &live.memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head();
            let written = match chain.open() {
                Ok((_, mut writable)) if writable.len() >= HEADER_BYTES => {
                    let header = writable.split_to(HEADER_BYTES);
                    self.core.next_packet(header, writable)
                }
                // No packet fits: the guest gets its buffer back.
                Ok(_) | Err(_) => Some(0),
            };
            let Some(written) = written else {
                chain::put_back(queue);
                break;
            };
            chain::complete(queue, &live.memory, head, written)?;
            used = true;
        }
        Ok(used)
    }

    /// Tells the guest, once, that its streams are gone.
    fn tell_reset(&mut self, live: &mut Live) -> Result<bool, Lie> {
        if !self.reset_to_tell {
            return Ok(false);
        }
        let queue = &mut live.queues[EVENT];
        let Some(chain) = chain::next(queue, &live.memory)? else { return Ok(false) };
        let head = chain.head();
        let written = chain.open().map_or(0, |(_, mut into)| into.copy_from(&TRANSPORT_RESET));
        chain::complete(queue, &live.memory, head, written)?;
        self.reset_to_tell = written != TRANSPORT_RESET.len();
        Ok(true)
    }

    /// The guest has opened connection `id` to a port of the host.
    fn opened(&mut self, id: Id, port: u32) {
        self.next_id = next_id(id);
        if let Some(Socket(socket)) = self.core.stream(id)
            && self.watch.add(socket.as_fd(), id, Interest::Edges).is_err()
        {
            self.core.ready(id, Readiness::GONE);
        }
        (self.dialled)(port);
    }

    /// Takes in a client of the listener, or shows it out if there are too many.
    fn accept(&mut self) {
        // SAFETY: null pointers: the other end's address is not asked for.
        let fd = unsafe {
            libc::accept4(
                self.listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        if fd < 0 {
            return;
        }
        // SAFETY: `fd` was made just now and belongs to nobody else.
        let caller = unsafe { OwnedFd::from_raw_fd(fd) };
        let id = self.next_id;
        let full = self.core.count() + self.callers.len() >= MAX_CONNECTIONS;
        if !full && self.watch.add(caller.as_fd(), id, Interest::Edges).is_ok() {
            self.next_id = next_id(id);
            self.callers.insert(id, caller);
        }
    }

    /// A client says where to, or goes.
    fn greet(&mut self, id: Id, caller: OwnedFd, readiness: Readiness) {
        let mut said = [0; greeting::MAX_BYTES];
        // Looked at first and taken then, since what stands behind the line is the guest's.
        let peeked = receive(&caller, &mut said, libc::MSG_PEEK).unwrap_or(0);
        match greeting::read(&said[..peeked]) {
            Greeting::Connect { port, bytes } => {
                if receive(&caller, &mut said[..bytes], 0).is_ok_and(|taken| taken == bytes) {
                    self.core.dial(id, port, Socket(caller));
                    self.core.ready(id, readiness);
                }
            }
            Greeting::Unfinished if !readiness.hung_up() => {
                self.callers.insert(id, caller);
            }
            Greeting::Unfinished | Greeting::Nonsense => {}
        }
    }
}

impl Subscriber for Worker {
    fn ready(&mut self, token: u32, readiness: Readiness) {
        if let Some(kick) = self.kicks.get(token as usize) {
            // An empty counter is a kick that was taken already.
            let _ = kick.read();
        } else if token == LISTENER {
            self.accept();
            return;
        } else if let Some(caller) = self.callers.remove(&token) {
            self.greet(token, caller, readiness);
        } else {
            self.core.ready(token, readiness);
        }
        self.exchange();
    }
}

/// Tokens under the first are the queues' and the listener's.
fn next_id(id: Id) -> Id {
    id.checked_add(1).unwrap_or(FIRST_ID)
}

/// A stream socket of the host.
pub(super) struct Socket(pub(super) OwnedFd);

impl Stream for Socket {
    fn send(&mut self, from: &mut Buffers<'_>) -> io::Result<usize> {
        from.send_to(self.0.as_fd())
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `bytes` is readable for its length.
        let sent =
            unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn receive(&mut self, into: &mut Buffers<'_>, limit: usize) -> io::Result<usize> {
        into.receive_from(self.0.as_fd(), limit)
    }

    fn finish_sending(&mut self) {
        shut_down(&self.0, libc::SHUT_WR);
    }

    fn finish_receiving(&mut self) {
        shut_down(&self.0, libc::SHUT_RD);
    }
}

fn shut_down(socket: &OwnedFd, how: libc::c_int) {
    // A socket whose other end is gone needs no telling.
    // SAFETY: no memory is passed.
    unsafe { libc::shutdown(socket.as_raw_fd(), how) };
}

fn receive(socket: &OwnedFd, into: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // SAFETY: `into` is writable for its length.
    let got = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            into.as_mut_ptr().cast(),
            into.len(),
            flags | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

fn do_not_wait(listener: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
