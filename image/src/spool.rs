//! Where file data waits until it is known what is on top: a file without a name, gone with the
//! process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::tree::Data;

#[derive(Debug)]
pub(crate) struct Spool {
    directory: PathBuf,
    file: File,
    end: u64,
}

/// The unnamed file cannot be made or written; a full disk, mostly.
#[derive(Debug, thiserror::Error)]
#[error("unnamed file in {directory}")]
pub struct SpoolError {
    /// Where it is.
    pub directory: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Spool {
    /// An empty one in `directory`.
    pub(crate) fn new(directory: &Path) -> Result<Self, SpoolError> {
        let directory = directory.to_owned();
        match tempfile::tempfile_in(&directory) {
            Ok(file) => Ok(Self { directory, file, end: 0 }),
            Err(source) => Err(SpoolError { directory, source }),
        }
    }

    /// Room for `bytes`, zeros until they are written.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Data {
        let offset = self.end;
        // What is reserved in all is bounded by `Limits::unpacked_bytes`.
        self.end = self.end.saturating_add(bytes);
        Data { offset, bytes }
    }

    /// Puts `bytes` at `offset` of what was reserved.
    pub(crate) fn write(&self, data: Data, offset: u64, bytes: &[u8]) -> Result<(), SpoolError> {
        write_with_holes(&self.file, bytes, data.offset + offset)
            .map_err(|source| self.refused(source))
    }

    /// The file, as long as all that was reserved.
    pub(crate) fn finish(self) -> Result<File, SpoolError> {
        self.file.set_len(self.end).map_err(|source| self.refused(source))?;
        Ok(self.file)
    }

    fn refused(&self, source: io::Error) -> SpoolError {
        SpoolError { directory: self.directory.clone(), source }
    }
}

/// Writes `bytes` at `offset`, but for pieces that are all zeros, where `file` has nothing yet.
pub(crate) fn write_with_holes(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    const PIECE_BYTES: usize = 4096;
    const ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];
    let is_zero = |piece: &[u8]| *piece == ZEROS[..piece.len()];
    let pieces: Vec<&[u8]> = bytes.chunks(PIECE_BYTES).collect();
    let mut start = 0;
    for run in pieces.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let end = start + run.iter().map(|piece| piece.len()).sum::<usize>();
        if !is_zero(run[0]) {
            file.write_all_at(&bytes[start..end], offset + start as u64)?;
        }
        start = end;
    }
    Ok(())
}
