//! Tar archives as streams, for whoever carries files and no images.
//!
//! What comes in is read by the same walk as a layer: whatever stands in an archive, what is held of it in
//! memory is bounded. Names are given as they stand there; it is for the caller to judge them.

use std::io::{self, BufReader, Read, Write};

use crate::packing::{UnknownPacking, Unpacked};
use crate::tarball::{Body, Entries, Piece, Source, TarError, Writer};
use crate::tree::{Device, Time};

/// One file, directory, link or device of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarFile {
    /// As it stands in the archive.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// Permissions, setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes by their whole names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Kinds of files in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "devices by their major and minor number, links by what they say")]
pub enum TarKind {
    File { bytes: u64 },
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Block(u32, u32),
    Character(u32, u32),
    Fifo,
}

/// An archive being read, plain or packed as a layer may be.
pub struct TarReader<R: Read> {
    entries: Entries<Stream<R>>,
    /// Of the current file: its length, how much of it was given out, and where the archive has bytes of it.
    bytes: u64,
    at: u64,
    pieces: std::collections::VecDeque<Piece>,
}

struct Stream<R: Read>(Unpacked<BufReader<R>>);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {}

impl<R: Read> TarReader<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> io::Result<Result<Self, UnknownPacking>> {
        Ok(Unpacked::new(BufReader::with_capacity(1 << 16, source))?.map(|unpacked| Self {
            entries: Entries::new(Stream(unpacked)),
            bytes: 0,
            at: 0,
            pieces: Default::default(),
        }))
    }

    /// The next file, behind what is left of the last one; `None` at the end.
    pub fn file(&mut self) -> Result<Option<TarFile>, TarError> {
        let Some(entry) = self.entries.next()? else { return Ok(None) };
        (self.bytes, self.at) = (0, 0);
        let kind = match entry.body {
            Body::File { bytes, pieces } => {
                (self.bytes, self.pieces) = (bytes, pieces.into());
                TarKind::File { bytes }
            }
            Body::Directory => TarKind::Directory,
            Body::Symlink(to) => TarKind::Symlink(to),
            Body::HardLink(to) => TarKind::HardLink(to),
            Body::Block(Device { major, minor }) => TarKind::Block(major, minor),
            Body::Character(Device { major, minor }) => TarKind::Character(major, minor),
            Body::Fifo => TarKind::Fifo,
        };
        Ok(Some(TarFile {
            name: entry.name,
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: (entry.mtime.seconds, entry.mtime.nanoseconds),
            xattrs: entry.xattrs.into_iter().collect(),
        }))
    }

    /// The next bytes of the current file, its holes as zeros; 0 at its end.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let room = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        while self.pieces.front().is_some_and(|piece| piece.offset + piece.bytes <= self.at) {
            self.pieces.pop_front();
        }
        let next = self.pieces.front().map_or(self.bytes, |piece| piece.offset);
        let count = if self.at < next {
            let count = room(next - self.at);
            buffer[..count].fill(0);
            count
        } else if let Some(piece) = self.pieces.front() {
            let count = room(piece.offset + piece.bytes - self.at);
            self.entries.read(&mut buffer[..count])?
        } else {
            0
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// An archive being written.
pub struct TarWriter<W: Write>(Writer<W>);

impl<W: Write> TarWriter<W> {
    /// Writes to `sink`.
    pub fn new(sink: W) -> Self {
        Self(Writer::new(sink))
    }

    /// Begins a file, of whose bytes all have to follow.
    pub fn file(&mut self, file: TarFile) -> io::Result<()> {
        let (body, bytes) = match file.kind {
            TarKind::File { bytes } => (Body::File { bytes, pieces: Vec::new() }, bytes),
            TarKind::Directory => (Body::Directory, 0),
            TarKind::Symlink(to) => (Body::Symlink(to), 0),
            TarKind::HardLink(to) => (Body::HardLink(to), 0),
            TarKind::Block(major, minor) => (Body::Block(Device { major, minor }), 0),
            TarKind::Character(major, minor) => (Body::Character(Device { major, minor }), 0),
            TarKind::Fifo => (Body::Fifo, 0),
        };
        let entry = crate::tarball::Entry {
            name: file.name,
            body,
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
            mtime: Time { seconds: file.mtime.0, nanoseconds: file.mtime.1 },
            xattrs: file.xattrs.into_iter().collect(),
        };
        self.0.begin(&entry, bytes)
    }

    /// Some bytes of the file that was begun.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.data(bytes)
    }

    /// Ends the archive, and gives back what it was written to.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}
