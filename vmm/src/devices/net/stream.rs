//! A stream socket, whose other end is a network stack in user space: passt.
//!
//! Each frame, either way, stands behind its length: four bytes, the highest first. It is what QEMU's `-netdev
//! stream` speaks, and has no words for work that is left to the other side: checksums are filled in, and no
//! frame is to be cut into segments.
//!
//! A socket may take half of a frame. The other half is kept here, and no other frame goes before it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::core::{ETHERNET, HEADER, MAX_FRAME, Offloads, Wire};
use crate::virtio::buffers::Buffers;

/// How long a frame is.
const LENGTH: usize = 4;

/// What is read at once.
const ROOM: usize = 2 * (LENGTH + MAX_FRAME);

/// A connected socket.
#[derive(Debug)]
pub(super) struct Stream {
    socket: OwnedFd,
    /// A frame that was begun, and how much of it the socket has taken.
    leaving: Vec<u8>,
    left: usize,
    /// What has come; of that, what is not taken yet.
    come: Box<[u8]>,
    untaken: std::ops::Range<usize>,
    /// What came is no frame: nobody knows where the next one begins.
    broken: bool,
}

impl Stream {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let come = vec![0; ROOM].into_boxed_slice();
        Self { socket, leaving: vec![], left: 0, come, untaken: 0..0, broken: false }
    }

    /// Passes on what is left of a frame.
    fn flush(&mut self) -> io::Result<()> {
        while let Some(rest @ [_, ..]) = self.leaving.get(self.left..) {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: `rest` is readable for its length.
            let sent = unsafe {
                libc::send(self.socket.as_raw_fd(), rest.as_ptr().cast(), rest.len(), flags)
            };
            self.left += usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        }
        Ok(())
    }

    /// Reads what there is room for. 0 is the end.
    fn fill(&mut self) -> io::Result<usize> {
        self.come.copy_within(self.untaken.clone(), 0);
        self.untaken = 0..self.untaken.len();
        let room = &mut self.come[self.untaken.end..];
        // SAFETY: `room` is writable for its length.
        let got = unsafe {
            let (at, bytes) = (room.as_mut_ptr().cast(), room.len());
            libc::recv(self.socket.as_raw_fd(), at, bytes, libc::MSG_DONTWAIT)
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        self.untaken.end += got;
        Ok(got)
    }

    /// The length of the frame that is next, if it is all there.
    fn next(&self) -> io::Result<Option<usize>> {
        let come = &self.come[self.untaken.clone()];
        let Some((length, rest)) = come.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(ETHERNET..=MAX_FRAME).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((rest.len() >= length).then_some(length))
    }
}

impl Wire for Stream {
    fn send(&mut self, header: &[u8; HEADER], mut frame: Buffers<'_>) -> io::Result<()> {
        if header.iter().any(|byte| *byte != 0) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.flush()?;
        // As a frame it is MAX_FRAME bytes long at most.
        self.leaving.clear();
        self.leaving.extend((frame.len() as u32).to_be_bytes());
        self.leaving.resize(LENGTH + frame.len(), 0);
        frame.copy_to(&mut self.leaving[LENGTH..]);
        self.left = 0;
        // It is taken, whatever the socket takes of it now.
        let _ = self.flush();
        Ok(())
    }

    fn go_on(&mut self) {
        let _ = self.flush();
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !self.broken {
            let Ok(next) = self.next() else {
                self.broken = true;
                break;
            };
            let Some(length) = next else {
                // There is room, because no frame is as long as the buffer.
                match self.fill()? {
                    0 => return Ok(0),
                    _ => continue,
                }
            };
            let begin = self.untaken.start + LENGTH;
            self.untaken.start = begin + length;
            let (header, rest) = into.split_at_mut(HEADER);
            header.fill(0);
            rest[..length].copy_from_slice(&self.come[begin..begin + length]);
            return Ok(HEADER + length);
        }
        Ok(0)
    }

    fn offload(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::virtio::mock::{DATA, Driver, with_chain};

    fn wire() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Stream::new(ours.into()), theirs)
    }

    fn received(wire: &mut Stream) -> Option<Vec<u8>> {
        let mut frame = vec![1; HEADER + MAX_FRAME];
        let bytes = wire.receive(&mut frame).ok().filter(|bytes| *bytes > 0)?;
        assert_eq!(frame[..HEADER], [0; HEADER]);
        Some(frame[HEADER..bytes].to_vec())
    }

    fn framed(frame: &[u8]) -> Vec<u8> {
        [&(frame.len() as u32).to_be_bytes(), frame].concat()
    }

    #[test]
    fn frames_come_whole_however_they_were_cut() {
        let (mut wire, mut peer) = wire();
        let frames: Vec<Vec<u8>> =
            [14, 60, 1514, MAX_FRAME, 99].iter().map(|&bytes| vec![bytes as u8; bytes]).collect();
        let all: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
        let mut got = Vec::new();
        for piece in all.chunks(1001) {
            peer.write_all(piece).unwrap();
            got.extend(std::iter::from_fn(|| received(&mut wire)));
        }
        assert!(got == frames);
    }

    #[test]
    fn what_is_no_frame_ends_all_that_comes() {
        for length in [0, 13, MAX_FRAME as u32 + 1, u32::MAX] {
            let (mut wire, mut peer) = wire();
            peer.write_all(&framed(&[7; 20])).unwrap();
            peer.write_all(&length.to_be_bytes()).unwrap();
            peer.write_all(&framed(&[8; 20])).unwrap();
            assert_eq!(received(&mut wire), Some(vec![7; 20]));
            assert_eq!(received(&mut wire), None, "{length}");
            assert_eq!(received(&mut wire), None, "{length}");
        }
        let (mut wire, peer) = wire();
        drop(peer);
        assert_eq!(received(&mut wire), None);
    }

    #[test]
    fn a_full_socket_takes_no_more_and_loses_nothing() {
        let (mut wire, mut peer) = wire();
        let frame = [5; 40_000];
        let mut guest = Driver::new();
        guest.write(DATA, &frame);
        let mut send = |wire: &mut Stream| {
            let parts = [(DATA, frame.len() as u32, false)];
            with_chain(&mut guest, &parts, |readable, _| wire.send(&[0; HEADER], readable))
        };
        let mut taken = 0;
        let full = loop {
            match send(&mut wire) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let mut got = Vec::new();
        while got.len() < taken * framed(&frame).len() {
            let mut bytes = [0; 10_000];
            let count = peer.read(&mut bytes).unwrap();
            got.extend_from_slice(&bytes[..count]);
            wire.go_on();
        }
        assert!(got == framed(&frame).repeat(taken));
        assert!(peer.read(&mut [0]).is_err(), "more than was taken");
    }

    #[test]
    fn what_is_left_to_others_is_not_sent() {
        let (mut wire, mut peer) = wire();
        let mut header = [0; HEADER];
        header[0] = 1;
        assert!(wire.send(&header, Buffers::default()).is_err());
        assert!(peer.read(&mut [0]).is_err());
    }
}
