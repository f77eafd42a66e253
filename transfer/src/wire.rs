//! Items as bytes, and back.

use std::io::{self, Read, Write};

use proto::files::{BadPath, Bytes, Entry, Item, Kind, parts};
use proto::frame::{self, FrameError, PREFIX_BYTES};

/// The most entries that are heard in one stream. Nothing is kept of them, but whoever sends them without
/// end should not fill a disk with empty files.
pub const MOST_ENTRIES: u64 = 10_000_000;

/// Says a tree.
pub struct Sender<W> {
    sink: W,
    owner: Option<(u32, u32)>,
}

/// Why something cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The other side has hung up, or the connection broke.
    #[error("the connection broke off")]
    Broken(#[from] io::Error),
    /// It is too long for a frame.
    #[error("{path:?}")]
    Frame {
        /// What.
        path: Bytes,
        /// Why.
        source: FrameError,
    },
}

impl<W: Write> Sender<W> {
    /// Says it to `sink`.
    pub fn new(sink: W) -> Self {
        Self { sink, owner: None }
    }

    /// Says of every file that it is this user's and group's.
    pub fn owned_by(self, uid: u32, gid: u32) -> Self {
        Self { owner: Some((uid, gid)), ..self }
    }

    /// Says an entry. Of a file, all its bytes have to follow, by [`data`](Self::data).
    pub fn entry(&mut self, mut entry: Entry) -> Result<(), SendError> {
        if let Some((uid, gid)) = self.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        let path = entry.path.clone();
        self.item(&path, &Item::Entry(Box::new(entry)))
    }

    /// Some bytes of a file.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        Ok(self.sink.write_all(bytes)?)
    }

    /// That was all.
    pub fn end(&mut self) -> Result<(), SendError> {
        self.item(&Bytes::default(), &Item::End)?;
        Ok(self.sink.flush()?)
    }

    /// There is no more, and this is why. Between two entries only: in a file's bytes nobody would hear it.
    pub fn failed(&mut self, message: &str) -> Result<(), SendError> {
        let message = message.chars().take(4096).collect();
        self.item(&Bytes::default(), &Item::Failed { message })?;
        Ok(self.sink.flush()?)
    }

    fn item(&mut self, path: &Bytes, item: &Item) -> Result<(), SendError> {
        let frame = frame::encode(item);
        let frame = frame.map_err(|source| SendError::Frame { path: path.clone(), source })?;
        Ok(self.sink.write_all(&frame)?)
    }
}

/// Hears a tree that may be a stranger's.
pub struct Receiver<R> {
    source: R,
    /// What is left of the current file's bytes.
    left: u64,
    entries_left: u64,
    most_entries: u64,
}

/// Why there is no more to be heard.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// It ended before the tree did.
    #[error("the connection ended too early")]
    Early,
    /// What was said is no item.
    #[error(transparent)]
    Nonsense(#[from] FrameError),
    /// A name leads out of the tree.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// There are too many.
    #[error("over the limit of {0} files")]
    Entries(u64),
    /// The other side could not go on, in its own words.
    #[error("{0}")]
    Failed(String),
}

impl<R: Read> Receiver<R> {
    /// Hears it from `source`, `most_entries` at most.
    pub fn new(source: R, most_entries: u64) -> Self {
        Self { source, left: 0, entries_left: most_entries, most_entries }
    }

    /// The next entry, behind what is left of the last one's bytes; `None` at the end.
    pub fn entry(&mut self) -> Result<Option<Entry>, ReceiveError> {
        let mut passed_over = [0; 4096];
        while self.data(&mut passed_over)? > 0 {}
        let mut prefix = [0; PREFIX_BYTES];
        self.fill(&mut prefix)?;
        let mut json = vec![0; frame::length(prefix)?];
        self.fill(&mut json)?;
        let entry = match frame::decode(&json)? {
            Item::End => return Ok(None),
            Item::Failed { message } => {
                let clean = message.chars().map(|c| if c.is_control() { '?' } else { c });
                return Err(ReceiveError::Failed(clean.take(4096).collect()));
            }
            Item::Entry(entry) => entry,
        };
        let left = self.entries_left.checked_sub(1);
        self.entries_left = left.ok_or(ReceiveError::Entries(self.most_entries))?;
        parts(&entry.path)?;
        match &entry.kind {
            Kind::HardLink { to } => drop(parts(to)?),
            Kind::File { bytes } => self.left = *bytes,
            Kind::Directory { .. }
            | Kind::Symlink { .. }
            | Kind::Fifo
            | Kind::Character { .. }
            | Kind::Block { .. }
            | Kind::Gone => {}
        }
        Ok(Some(*entry))
    }

    /// The next bytes of the current file; 0 at its end.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<usize, ReceiveError> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let count = self.read(&mut buffer[..room])?;
        self.left -= count as u64;
        Ok(count)
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), ReceiveError> {
        while !buffer.is_empty() {
            let count = self.read(buffer)?;
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReceiveError> {
        loop {
            match self.source.read(buffer) {
                Ok(0) => return Err(ReceiveError::Early),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReceiveError::Broken(error)),
            }
        }
    }
}
