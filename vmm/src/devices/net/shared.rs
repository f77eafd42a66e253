//! One wire for several pairs of queues: all of them send by it, and the first alone hears it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::core::{HEADER, Offloads, Wire};
use crate::sync::lock;
use crate::virtio::buffers::Buffers;

/// A pair's end of it.
struct Shared {
    wire: Arc<Mutex<Box<dyn Wire>>>,
    /// What each of them is told by.
    fd: OwnedFd,
    hears: bool,
}

/// An end for each of `pairs`.
pub(super) fn share(wire: Box<dyn Wire>, pairs: usize) -> io::Result<Vec<Box<dyn Wire>>> {
    let ends = (0..pairs).map(|_| wire.as_fd().try_clone_to_owned());
    let ends = ends.collect::<io::Result<Vec<_>>>()?;
    let wire = Arc::new(Mutex::new(wire));
    let end = |(pair, fd)| Shared { wire: wire.clone(), fd, hears: pair == 0 };
    Ok(ends.into_iter().enumerate().map(|it| Box::new(end(it)) as Box<dyn Wire>).collect())
}

impl Wire for Shared {
    fn send(&mut self, header: &[u8; HEADER], frame: Buffers<'_>) -> io::Result<()> {
        lock(&self.wire).send(header, frame)
    }

    fn go_on(&mut self) {
        lock(&self.wire).go_on();
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.hears {
            true => lock(&self.wire).receive(into),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn offload(&mut self, offloads: Offloads) -> io::Result<()> {
        lock(&self.wire).offload(offloads)
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
