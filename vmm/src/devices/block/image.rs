//! What is in a slot: a file, or nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use super::core::{Range, Storage};
use crate::virtio::buffers::Buffers;

/// A clone is the same disk, for another of its queues.
#[derive(Clone)]
pub(super) struct Image {
    file: Option<Arc<File>>,
    sectors: u64,
    read_only: bool,
}

impl Image {
    /// A slot without a disk. It is not a read-only one: the disk that comes may be writable.
    pub(super) fn empty() -> Self {
        Self { file: None, sectors: 0, read_only: false }
    }

    pub(super) fn new(file: File, sectors: u64, read_only: bool) -> Self {
        Self { file: Some(Arc::new(file)), sectors, read_only }
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_deref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for Image {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, mut offset: u64, mut into: Buffers<'_>) -> io::Result<()> {
        let file = self.file()?;
        while !into.is_empty() {
            match into.read_at(file.as_fd(), offset) {
                // Shorter than when it was measured.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => offset += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self, mut offset: u64, mut from: Buffers<'_>) -> io::Result<()> {
        let file = self.file()?;
        while !from.is_empty() {
            match from.write_at(file.as_fd(), offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => offset += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    fn discard(&mut self, Range { offset, bytes }: Range) -> io::Result<()> {
        let file = self.file()?;
        match fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, bytes)
        {
            // Nobody has a right to the room that could have become free.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            done => done,
        }
    }

    fn zero(&mut self, Range { offset, bytes }: Range, unmap: bool) -> io::Result<()> {
        let file = self.file()?;
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        if unmap {
            return fallocate(file, hole, offset, bytes);
        }
        match fallocate(file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, offset, bytes)
        {
            // A file system in memory has no zeros but holes: the room is taken again afterwards.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                fallocate(file, hole, offset, bytes)?;
                fallocate(file, libc::FALLOC_FL_KEEP_SIZE, offset, bytes)
            }
            done => done,
        }
    }
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, bytes: u64) -> io::Result<()> {
    // Nothing is a range that the kernel does not take.
    if bytes == 0 {
        return Ok(());
    }
    loop {
        // Both are under the file's length, which fits.
        let (offset, bytes) = (offset as libc::off_t, bytes as libc::off_t);
        // SAFETY: no memory is passed.
        match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, bytes) } {
            0 => return Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}
