//! The disk as it is written: from front to back, with holes where there are zeros.

use std::fs::File;
use std::io;

use super::format::BLOCK_BYTES;
use crate::Digest;
use crate::digest::Hasher;
use crate::spool::write_with_holes;

const BUFFER_BYTES: usize = 64 * BLOCK_BYTES as usize;

pub(super) struct Sink<'a> {
    disk: &'a File,
    /// Always `BUFFER_BYTES` long; the first `filled` wait to be written at `flushed`.
    buffer: Vec<u8>,
    filled: usize,
    flushed: u64,
    first_block: Vec<u8>,
    /// Of what was flushed; `None` once it was asked.
    hasher: Option<Hasher>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(disk: &'a File) -> Self {
        Self {
            disk,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0,
            flushed: 0,
            first_block: Vec::new(),
            hasher: Some(Hasher::new()),
        }
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len() as u64)?;
            let (now, later) = bytes.split_at(room.len());
            room.copy_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Up to `bytes` of room at the current position, which the caller fills.
    pub(super) fn room(&mut self, bytes: u64) -> io::Result<&mut [u8]> {
        if self.filled == BUFFER_BYTES {
            self.flush()?;
        }
        let start = self.filled;
        // No more than the buffer's length.
        self.filled += (BUFFER_BYTES - start).min(usize::try_from(bytes).unwrap_or(BUFFER_BYTES));
        Ok(&mut self.buffer[start..self.filled])
    }

    /// Zeros up to the position `offset`, which is not behind.
    pub(super) fn zeros_until(&mut self, offset: u64) -> io::Result<()> {
        loop {
            match offset.saturating_sub(self.flushed + self.filled as u64) {
                0 => return Ok(()),
                missing => self.room(missing)?.fill(0),
            }
        }
    }

    /// The digest of everything so far. What follows is not hashed.
    pub(super) fn digest(&mut self) -> io::Result<Digest> {
        self.flush()?;
        Ok(self.hasher.take().unwrap_or_else(Hasher::new).finish())
    }

    /// Writes out what is left. Returns the first block.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.flush()?;
        self.disk.set_len(self.flushed)?;
        Ok(self.first_block)
    }

    fn flush(&mut self) -> io::Result<()> {
        let filled = &self.buffer[..self.filled];
        if let Some(hasher) = &mut self.hasher {
            hasher.update(filled);
        }
        if self.flushed == 0 {
            self.first_block = filled[..filled.len().min(BLOCK_BYTES as usize)].to_vec();
        }
        write_with_holes(self.disk, filled, self.flushed)?;
        self.flushed += filled.len() as u64;
        self.filled = 0;
        Ok(())
    }
}
