//! Requests as the guest wrote them, judged.
//!
//! A request is a chain of descriptors: first parts the device reads, then parts it writes (virtio
//! 1.2, 2.7.4.2). [`next`] takes one off a queue; [`Chain::open`] walks it once, copying each
//! descriptor, and gives two [`Buffers`] that are known to lie in guest memory. What the bytes in
//! them mean is still the guest's word, and they can change while we look: cores copy a header once.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestMemoryBackend, VolatileSlice};

use crate::memory::Memory;

/// The most parts the kernel takes in one call (`UIO_MAXIOV`).
const PARTS: usize = 1024;

/// What is wrong with a request or a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// The rings cannot be what the guest says: nothing more can be read from this queue.
    #[error("the queue's rings are broken")]
    Rings,
    /// A chain that goes in a circle, leaves its table, or is cut off.
    #[error("the descriptor chain is broken")]
    Chain,
    /// A part that does not lie in guest memory.
    #[error("a descriptor of {bytes} bytes at {address:#x} is not in memory")]
    Outside {
        /// Where it says it is.
        address: u64,
        /// How long it says it is.
        bytes: u32,
    },
    /// A part to be read behind a part to be written.
    #[error("a readable descriptor behind a writable one")]
    Order,
}

/// Takes the next chain off `queue`. `None` when the guest has put nothing more there.
pub fn next<'m>(queue: &mut Queue, memory: &'m Memory) -> Result<Option<Chain<'m>>, Lie> {
    if !queue.ready() {
        return Ok(None);
    }
    let mut available = queue.iter(memory).map_err(|_| Lie::Rings)?;
    Ok(available.next().map(|chain| Chain { memory, chain }))
}

/// Puts the last chain that [`next`] took back onto its queue.
pub fn put_back(queue: &mut Queue) {
    queue.set_next_avail(queue.next_avail().wrapping_sub(1));
}

/// Gives a chain back to the guest, with how many bytes were written into it.
pub fn complete(queue: &mut Queue, memory: &Memory, head: u16, written: usize) -> Result<(), Lie> {
    let written = u32::try_from(written).unwrap_or(u32::MAX);
    queue.add_used(memory, head, written).map_err(|_| Lie::Rings)
}

/// What [`serve`] leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The guest wants to hear of it.
    pub interrupt: bool,
    /// There is more in the queue than one round takes.
    pub more: bool,
}

/// Answers the requests in `queue`, each by how many bytes `answer` wrote. A request that is a lie
/// comes back with nothing written. One round is as many requests as the queue holds, so that a guest
/// that never pauses holds up nobody else.
pub fn serve(
    queue: &mut Queue,
    memory: &Memory,
    mut answer: impl FnMut(Buffers<'_>, Buffers<'_>) -> usize,
) -> Result<Served, Lie> {
    let mut served = false;
    let mut room = queue.size();
    loop {
        while let Some(chain) = next(queue, memory)? {
            let head = chain.head();
            let written = chain.open().map_or(0, |(readable, writable)| answer(readable, writable));
            complete(queue, memory, head, written)?;
            served = true;
            room -= 1;
            if room == 0 {
                return Ok(Served { interrupt: wants_interrupt(queue, memory)?, more: true });
            }
        }
        if !wants_kick(queue, memory)? {
            let interrupt = served && wants_interrupt(queue, memory)?;
            return Ok(Served { interrupt, more: false });
        }
    }
}

/// Asks the guest to kick for the next request. `true` when there is one already.
pub fn wants_kick(queue: &mut Queue, memory: &Memory) -> Result<bool, Lie> {
    if !queue.ready() {
        return Ok(false);
    }
    queue.enable_notification(memory).map_err(|_| Lie::Rings)
}

/// Whether the guest wants to hear of what was put into the used ring since it was last asked.
pub fn wants_interrupt(queue: &mut Queue, memory: &Memory) -> Result<bool, Lie> {
    queue.needs_notification(memory).map_err(|_| Lie::Rings)
}

/// A chain off a queue.
#[derive(Debug)]
pub struct Chain<'m> {
    memory: &'m Memory,
    chain: DescriptorChain<&'m Memory>,
}

impl<'m> Chain<'m> {
    /// What names it when it is given back.
    pub fn head(&self) -> u16 {
        self.chain.head_index()
    }

    /// What the device may read and what it may write.
    pub fn open(self) -> Result<(Buffers<'m>, Buffers<'m>), Lie> {
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        let mut unfinished = true;
        for descriptor in self.chain {
            unfinished = descriptor.has_next();
            let part = if descriptor.is_write_only() {
                &mut writable
            } else if writable.is_empty() {
                &mut readable
            } else {
                return Err(Lie::Order);
            };
            let bytes = descriptor.len();
            let outside = Lie::Outside { address: descriptor.addr().0, bytes };
            for slice in self.memory.get_slices(descriptor.addr(), bytes as usize) {
                part.push(slice.map_err(|_| outside)?);
            }
        }
        if unfinished { Err(Lie::Chain) } else { Ok((readable, writable)) }
    }
}

/// Bytes of guest memory, in pieces, used up from the front.
#[derive(Debug, Default)]
pub struct Buffers<'m> {
    pieces: VecDeque<VolatileSlice<'m, ()>>,
    bytes: usize,
}

impl<'m> Buffers<'m> {
    /// How many bytes are left.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// No bytes are left.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The next `N` bytes, copied once, unless fewer are left.
    pub fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if self.bytes < N {
            return None;
        }
        self.copy_to(&mut bytes);
        Some(bytes)
    }

    /// Copies the next bytes out, as many as there are and fit.
    pub fn copy_to(&mut self, mut out: &mut [u8]) -> usize {
        let wanted = out.len().min(self.bytes);
        for piece in self.split_to(wanted).pieces {
            let (now, later) = out.split_at_mut(piece.len());
            piece.copy_to(now);
            out = later;
        }
        wanted
    }

    /// Copies bytes in, as many as there are and fit.
    pub fn copy_from(&mut self, mut bytes: &[u8]) -> usize {
        let fitting = bytes.len().min(self.bytes);
        for piece in self.split_to(fitting).pieces {
            let (now, later) = bytes.split_at(piece.len());
            piece.copy_from(now);
            bytes = later;
        }
        fitting
    }

    /// The next `bytes` bytes, or all if there are not so many, as buffers of their own.
    pub fn split_to(&mut self, bytes: usize) -> Self {
        let mut front = Self::default();
        let mut missing = bytes.min(self.bytes);
        while let Some(piece) = self.pieces.pop_front() {
            match piece.split_at(missing) {
                Ok((now, later)) if !later.is_empty() => {
                    self.pieces.push_front(later);
                    if !now.is_empty() {
                        front.push(now);
                    }
                    break;
                }
                _ => {
                    missing -= piece.len();
                    front.push(piece);
                }
            }
        }
        self.bytes -= front.bytes;
        front
    }

    /// Receives up to `limit` bytes with one call that does not wait, and uses up as many as came. 0
    /// is the end.
    pub fn receive_from(&mut self, socket: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        let mut parts = self.parts(limit);
        let mut message = message(&mut parts);
        // SAFETY: each part is guest memory, writable and mapped for as long as `'m`; that the guest
        // writes there too is its own affair.
        let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
        self.used_up(count)
    }

    /// Sends these bytes with one call that does not wait, and uses up as many as went. A socket whose
    /// other end is gone gives an error and no signal.
    pub fn send_to(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut parts = self.parts(usize::MAX);
        let message = message(&mut parts);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: each part is guest memory, readable and mapped for as long as `'m`.
        let count = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
        self.used_up(count)
    }

    /// Reads from a file at `offset` with one call, and uses up as many bytes as came. 0 is the end.
    pub fn read_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let parts = self.parts(usize::MAX);
        // SAFETY: each part is guest memory, writable and mapped for as long as `'m`.
        let count = unsafe {
            libc::preadv(
                file.as_raw_fd(),
                parts.as_ptr(),
                parts.len() as libc::c_int,
                offset as libc::off_t,
            )
        };
        self.used_up(count)
    }

    /// Writes into a file at `offset` with one call, and uses up as many bytes as went.
    pub fn write_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let parts = self.parts(usize::MAX);
        // SAFETY: each part is guest memory, readable and mapped for as long as `'m`.
        let count = unsafe {
            libc::pwritev(
                file.as_raw_fd(),
                parts.as_ptr(),
                parts.len() as libc::c_int,
                offset as libc::off_t,
            )
        };
        self.used_up(count)
    }

    fn push(&mut self, piece: VolatileSlice<'m, ()>) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    fn parts(&self, mut limit: usize) -> Vec<libc::iovec> {
        let mut parts = Vec::with_capacity(self.pieces.len().min(PARTS));
        for piece in self.pieces.iter().take(PARTS) {
            let iov_len = piece.len().min(limit);
            if iov_len == 0 {
                break;
            }
            parts.push(libc::iovec { iov_base: piece.ptr_guard_mut().as_ptr().cast(), iov_len });
            limit -= iov_len;
        }
        parts
    }

    fn used_up(&mut self, count: isize) -> io::Result<usize> {
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.split_to(count);
        Ok(count)
    }
}

fn message(parts: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: zero bits are a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    // Its type differs between C libraries; the value is 1024 at most.
    message.msg_iovlen = parts.len() as _;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::mock::{DATA, Driver, END, INDIRECT, NEXT, SIZE, WRITE, with_chain};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    /// What a lying guest writes before it offers descriptor 0.
    type Lying = fn(&Driver);

    #[test]
    fn every_lie_in_a_chain_is_called_by_its_name() {
        let cases: [(&str, Lying, Lie); 9] = [
            (
                "a circle of two",
                |guest| {
                    guest.describe(0, (DATA, 8, NEXT, 1));
                    guest.describe(1, (DATA, 8, NEXT, 0));
                },
                Lie::Chain,
            ),
            (
                "next is not in the table",
                |guest| guest.describe(0, (DATA, 8, NEXT, SIZE)),
                Lie::Chain,
            ),
            (
                "outside of memory",
                |guest| guest.describe(0, (END, 8, 0, 0)),
                Lie::Outside { address: END, bytes: 8 },
            ),
            (
                "over the end of memory",
                |guest| guest.describe(0, (END - 4, 8, WRITE, 0)),
                Lie::Outside { address: END - 4, bytes: 8 },
            ),
            (
                "over the end of addresses",
                |guest| guest.describe(0, (u64::MAX - 3, 8, 0, 0)),
                Lie::Outside { address: u64::MAX - 3, bytes: 8 },
            ),
            (
                "four gigabytes",
                |guest| guest.describe(0, (DATA, u32::MAX, 0, 0)),
                Lie::Outside { address: DATA, bytes: u32::MAX },
            ),
            (
                "readable behind writable",
                |guest| {
                    guest.describe(0, (DATA, 8, NEXT | WRITE, 1));
                    guest.describe(1, (DATA, 8, 0, 0));
                },
                Lie::Order,
            ),
            (
                "a table in a table",
                |guest| {
                    guest.describe(0, (DATA, 16, INDIRECT, 0));
                    guest.describe_in(DATA, 0, (DATA, 16, INDIRECT, 0));
                },
                Lie::Chain,
            ),
            (
                "a table of half a descriptor",
                |guest| guest.describe(0, (DATA, 8, INDIRECT, 0)),
                Lie::Chain,
            ),
        ];
        for (name, lie, want) in cases {
            let mut guest = Driver::new();
            lie(&guest);
            guest.offer_head(0);
            let mut queue = guest.queue();
            let chain = next(&mut queue, &guest.memory).unwrap().unwrap();
            assert_eq!(chain.open().unwrap_err(), want, "{name}");
        }
    }

    #[test]
    fn a_head_that_is_no_descriptor_breaks_the_queue_and_not_the_host() {
        let mut guest = Driver::new();
        guest.offer_head(SIZE);
        let outcome = serve(&mut guest.queue(), &guest.memory, |_, _| unreachable!());
        assert_eq!(outcome, Err(Lie::Rings));
    }

    #[test]
    fn more_offers_than_the_queue_holds_break_it() {
        let guest = Driver::new();
        guest.set_offered(SIZE + 1);
        assert_eq!(next(&mut guest.queue(), &guest.memory).unwrap_err(), Lie::Rings);
    }

    #[test]
    fn a_lying_request_comes_back_empty_and_the_next_one_is_served() {
        let mut guest = Driver::new();
        guest.offer(&[(END, 4, false)]);
        guest.offer(&[(DATA, 4, true)]);
        let served =
            serve(&mut guest.queue(), &guest.memory, |_, mut into| into.copy_from(b"abcdef"));
        assert_eq!(served, Ok(Served { interrupt: true, more: false }));
        assert_eq!(guest.used(), [(0, 0), (1, 4)]);
        assert_eq!(guest.read(DATA, 4), b"abcd");
    }

    #[test]
    fn a_full_queue_is_one_round() {
        let mut guest = Driver::new();
        for _ in 0..SIZE {
            guest.offer(&[(DATA, 1, true)]);
        }
        let served = serve(&mut guest.queue(), &guest.memory, |_, _| 0);
        assert_eq!(served, Ok(Served { interrupt: true, more: true }));
        assert_eq!(guest.used().len(), usize::from(SIZE));
    }

    #[test]
    fn bytes_keep_their_order_over_pieces_of_any_size() {
        let mut guest = Driver::new();
        guest.write(DATA, b"abc");
        guest.write(DATA + 0x100, b"d");
        guest.write(DATA + 0x200, b"efghij");
        let parts = [
            (DATA, 3, false),
            (DATA + 0x100, 1, false),
            (DATA + 0x300, 0, false),
            (DATA + 0x200, 6, false),
        ];
        with_chain(&mut guest, &parts, |mut bytes, _| {
            assert_eq!(bytes.take_array(), Some(*b"ab"));
            let mut front = bytes.split_to(3);
            assert_eq!((front.len(), bytes.len()), (3, 5));
            assert_eq!(front.take_array::<4>(), None);
            assert_eq!(front.take_array(), Some(*b"cde"));
            let mut rest = [0; 8];
            assert_eq!(bytes.copy_to(&mut rest), 5);
            assert_eq!(&rest[..5], b"fghij");
            assert!(bytes.is_empty() && bytes.split_to(1).is_empty());
        });
    }

    #[test]
    fn what_a_socket_did_not_take_is_still_there() {
        let mut guest = Driver::new();
        let (mut near, far) = UnixStream::pair().unwrap();
        guest.write(DATA, &[7; 4096]);
        let chain: Vec<_> = (0..10).map(|_| (DATA, 0x10_0000, false)).collect();
        with_chain(&mut guest, &chain, |mut bytes, _| {
            let all = bytes.len();
            let sent = bytes.send_to(far.as_fd()).unwrap();
            assert!(sent > 0 && sent < all, "{sent}");
            assert_eq!(bytes.len(), all - sent);
            let error = bytes.send_to(far.as_fd()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(bytes.len(), all - sent);
            near.read_exact(&mut vec![0; sent]).unwrap();
        });
    }

    #[test]
    fn no_more_is_received_than_was_asked_for() {
        let mut guest = Driver::new();
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"0123456789").unwrap();
        let memory = guest.memory.clone();
        with_chain(&mut guest, &[(DATA, 3, true), (DATA + 0x100, 16, true)], |_, mut into| {
            assert_eq!(into.receive_from(far.as_fd(), 5).unwrap(), 5);
            assert_eq!(into.receive_from(far.as_fd(), 100).unwrap(), 5);
            drop(near);
            assert_eq!(into.receive_from(far.as_fd(), 100).unwrap(), 0);
            assert_eq!(into.len(), 9);
        });
        let guest = Driver::at(0, memory);
        assert_eq!(guest.read(DATA, 3), b"012");
        assert_eq!(guest.read(DATA + 0x100, 7), b"3456789");
    }
}
