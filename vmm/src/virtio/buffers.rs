//! Bytes of guest memory that a chain names.
//!
//! The fence around moving them: by copy, or by one system call straight between guest memory and a
//! descriptor.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// The most parts the kernel takes in one call (`UIO_MAXIOV`).
const PARTS: usize = 1024;

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

    /// Writes `head` and these bytes into a file with one call that does not wait, as one message: whole or
    /// not at all.
    pub fn write_behind(&mut self, head: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
        if self.pieces.len() >= PARTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let head_part =
            libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() };
        let parts: Vec<_> = [vec![head_part], self.parts(usize::MAX)].concat();
        // SAFETY: the first part is readable for the call, and each other is guest memory, readable and
        // mapped for as long as `'m`.
        let count =
            unsafe { libc::writev(file.as_raw_fd(), parts.as_ptr(), parts.len() as libc::c_int) };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Adds a piece behind the others.
    pub(super) fn push(&mut self, piece: VolatileSlice<'m, ()>) {
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
    use crate::virtio::mock::{DATA, Driver, with_chain};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

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
