//! Tar archives, read as a stream that may be hostile.
//!
//! ```text
//!   [x: what the next header cannot say] [header, 512 bytes] [data, padded to 512] … [zeros]
//! ```
//!
//! Numbers and names in a header are the `tar` crate's to read. The walk is ours, because what stands
//! before a header (PAX records, GNU long names, sparse maps) is of the archive's choosing and must be
//! bounded before it is held in memory.

mod pax;
mod sparse;
mod write;

use std::io::{self, Read};

use crate::tree::{Device, Time, Xattrs};
pub(crate) use sparse::Piece;
pub(crate) use write::Writer;

const BLOCK_BYTES: u64 = 512;

/// The most bytes of PAX records or of a GNU long name before one entry.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// A tar archive on the way.
pub(crate) struct Entries<R> {
    source: R,
    /// How many bytes were taken out of `source`.
    position: u64,
    /// What is left of the current entry's data, and of its padding.
    data_left: u64,
    padding_left: u64,
}

/// One file, directory, link or device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As it stands in the archive.
    pub(crate) name: Vec<u8>,
    pub(crate) body: Body,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Xattrs,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// A file of `bytes`, of which the archive holds `pieces`, one behind the other; the rest is
    /// zeros. Pieces rise and do not overlap.
    File {
        bytes: u64,
        pieces: Vec<Piece>,
    },
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Block(Device),
    Character(Device),
    Fifo,
}

/// Why bytes are no tar archive that we read.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it; offsets are in bytes of the unpacked archive"
)]
pub enum TarError {
    #[error("tar archive at byte {offset}")]
    Read { offset: u64, source: io::Error },
    #[error("tar archive ends in the middle of an entry, at byte {offset}")]
    Truncated { offset: u64 },
    #[error("tar header at byte {offset} has a wrong checksum")]
    Checksum { offset: u64 },
    #[error("tar entry {name} at byte {offset}: {field} is no number this system has")]
    Number { name: String, offset: u64, field: &'static str },
    #[error("tar entry {name} at byte {offset}: {why}")]
    Malformed { name: String, offset: u64, why: &'static str },
    #[error("tar entry {name} at byte {offset} is of unknown type {kind:?}")]
    UnknownType { name: String, offset: u64, kind: char },
}

/// A reader that can pass over bytes without giving them out.
pub(crate) trait Source: Read + Sized {
    /// Passes over up to `bytes`; how many is told, fewer if there are no more.
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        io::copy(&mut self.by_ref().take(bytes), &mut io::sink())
    }
}

/// What stood before a header and is about it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: pax::Records,
}

impl<R: Source> Entries<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, position: 0, data_left: 0, padding_left: 0 }
    }

    /// The next entry, behind what is left of the last one's data. `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let offset = self.position;
            let Some(header) = self.header()? else { return Ok(None) };
            let name = header.path_bytes().into_owned();
            let number = |field, value: io::Result<u64>| {
                value.map_err(|_| TarError::Number { name: shown(&name), offset, field })
            };
            let bytes = number("the size", or_blank(&header.as_old().size, header.entry_size()))?;
            match header.as_bytes()[TYPE_OFFSET] {
                b'x' | b'L' | b'K' if bytes > MAX_EXTENSION_BYTES => {
                    let why = "its long name or PAX records are over 1 MiB";
                    return Err(TarError::Malformed { name: shown(&name), offset, why });
                }
                b'x' => {
                    let records = self.extension(bytes)?;
                    extensions.pax = pax::Records::parse(&records).ok_or_else(|| {
                        let why = "its PAX records are malformed";
                        TarError::Malformed { name: shown(&name), offset, why }
                    })?;
                }
                b'L' => extensions.name = Some(until_nul(self.extension(bytes)?)),
                b'K' => extensions.link = Some(until_nul(self.extension(bytes)?)),
                // Records for the whole archive (a commit's id, from `git archive`) and a volume's
                // label: nothing that a file system holds.
                b'g' | b'V' => self.expect(bytes),
                _ => {
                    self.expect(bytes);
                    return self.entry(&header, extensions, offset).map(Some);
                }
            }
        }
    }

    /// The next bytes of the current entry's data as the archive holds them; 0 at its end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let room = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let count = self.read_some(&mut buffer[..room])?;
        if count == 0 {
            return Err(TarError::Truncated { offset: self.position });
        }
        self.data_left -= count as u64;
        Ok(count)
    }

    /// How many bytes of the archive lie behind: after [`next`](Self::next), where the data begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// What the archive is read from.
    pub(crate) fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The same, behind the archive's end.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        extensions: Extensions,
        offset: u64,
    ) -> Result<Entry, TarError> {
        let Extensions { name, link, pax } = extensions;
        let name = pax.sparse.name.clone().or(pax.path).or(name);
        let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
        let number = |field| TarError::Number { name: shown(&name), offset, field };
        let link = || {
            pax.link_path
                .clone()
                .or_else(|| link.clone())
                .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
                .unwrap_or_default()
        };
        let device = || -> Result<Device, TarError> {
            match (header.device_major(), header.device_minor()) {
                (Ok(Some(major)), Ok(Some(minor))) => Ok(Device { major, minor }),
                _ => Err(number("the device number")),
            }
        };
        let mut body = match header.as_bytes()[TYPE_OFFSET] {
            // Before POSIX, a directory was a file whose name ends in a slash.
            0 | b'0' if name.ends_with(b"/") => Body::Directory,
            0 | b'0' | b'7' | b'S' => Body::File { bytes: 0, pieces: Vec::new() },
            b'1' => Body::HardLink(link()),
            b'2' => Body::Symlink(link()),
            b'3' => Body::Character(device()?),
            b'4' => Body::Block(device()?),
            b'5' => Body::Directory,
            b'6' => Body::Fifo,
            kind => {
                let kind = char::from(kind);
                return Err(TarError::UnknownType { name: shown(&name), offset, kind });
            }
        };
        let id = |field, pax: Option<u64>, header: io::Result<u64>| {
            let wide = pax.or(header.ok()).ok_or_else(|| number(field))?;
            u32::try_from(wide).map_err(|_| number(field))
        };
        let old = header.as_old();
        let uid = id("the user", pax.uid, or_blank(&old.uid, header.uid()))?;
        let gid = id("the group", pax.gid, or_blank(&old.gid, header.gid()))?;
        // A number below zero is two's complement in the header's binary form.
        let seconds = or_blank(&old.mtime, header.mtime()).map(|seconds| seconds as i64).ok();
        let mtime = pax.mtime.or(seconds.map(|seconds| Time { seconds, nanoseconds: 0 }));
        let mtime = mtime.ok_or_else(|| number("the time"))?;
        let mode = header.mode().map_err(|_| number("the mode"))?;
        match &mut body {
            Body::File { bytes, pieces } => {
                let stored = pax.size.unwrap_or(self.data_left);
                self.expect(stored);
                (*bytes, *pieces) = match header.as_gnu() {
                    Some(gnu) if header.as_bytes()[TYPE_OFFSET] == b'S' => {
                        self.gnu_sparse(gnu, &name, offset)?
                    }
                    _ if pax.sparse.is_present() => self.pax_sparse(&pax.sparse, &name, offset)?,
                    _ => (stored, Vec::from([Piece { offset: 0, bytes: stored }])),
                };
            }
            // Links, devices and directories have no data, whatever their size says.
            _ => self.expect(0),
        }
        // The 12 bits that are permissions; some archivers put the file's type there too.
        let mode = (mode & 0o7777) as u16;
        Ok(Entry { name, body, mode, uid, gid, mtime, xattrs: pax.xattrs })
    }

    /// Sets what [`Self::read`] gives out and [`Self::skip_rest`] passes over.
    fn expect(&mut self, bytes: u64) {
        self.data_left = bytes;
        self.padding_left = bytes.wrapping_neg() % BLOCK_BYTES;
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        for left in [std::mem::take(&mut self.data_left), std::mem::take(&mut self.padding_left)] {
            let skipped = self.source.skip(left).map_err(|source| self.refused(source))?;
            self.position += skipped;
            if skipped < left {
                return Err(TarError::Truncated { offset: self.position });
            }
        }
        Ok(())
    }

    /// The next header, `None` at the end: a block of zeros, or nothing.
    fn header(&mut self) -> Result<Option<Box<tar::Header>>, TarError> {
        let offset = self.position;
        let mut header = Box::new(tar::Header::new_old());
        if !self.block(header.as_mut_bytes())? || header.as_bytes().iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        // The sum is of the bytes as if the field itself held spaces.
        let (before, rest) = header.as_bytes().split_at(148);
        let sum = before.iter().chain(&rest[8..]).map(|&byte| u32::from(byte)).sum::<u32>();
        match header.cksum() {
            Ok(said) if said == sum + 8 * u32::from(b' ') => Ok(Some(header)),
            _ => Err(TarError::Checksum { offset }),
        }
    }

    /// Fills `block`; `false` if there was nothing at all.
    fn block(&mut self, block: &mut [u8; BLOCK_BYTES as usize]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.read_some(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(TarError::Truncated { offset: self.position }),
                count => filled += count,
            }
        }
        Ok(true)
    }

    /// All data of an entry that was judged to be small.
    fn extension(&mut self, bytes: u64) -> Result<Vec<u8>, TarError> {
        self.expect(bytes);
        let mut data = vec![0; bytes as usize];
        let mut filled = 0;
        while filled < data.len() {
            filled += self.read(&mut data[filled..])?;
        }
        Ok(data)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.source.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.refused(source)),
            }
        }
    }

    fn refused(&self, source: io::Error) -> TarError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated { offset: self.position },
            _ => TarError::Read { offset: self.position, source },
        }
    }
}

/// Where a header has its type.
const TYPE_OFFSET: usize = 156;

/// A number that some archivers leave out.
fn or_blank(field: &[u8], value: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|&byte| matches!(byte, 0 | b' ')) { Ok(0) } else { value }
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
    name
}

/// A name from an archive, fit for a message: quoted, on one line, without control characters.
pub(crate) fn shown(name: &[u8]) -> String {
    const MOST_BYTES: usize = 200;
    match name.get(..MOST_BYTES) {
        Some(start) => format!("{:?}…", String::from_utf8_lossy(start)),
        None => format!("{:?}", String::from_utf8_lossy(name)),
    }
}

#[cfg(test)]
mod tests;
