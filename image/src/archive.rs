//! Archives as a set of named members: a directory, or a tar file that is indexed once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::limits::Budget;
use crate::packing::{UnknownPacking, Unpacked};
use crate::spool::{Spool, SpoolError};
use crate::tarball::{Body, Entries, Source, TarError, shown};
use crate::{Digest, Limits, Platform};

/// An open archive.
pub(crate) struct Archive {
    place: Place,
}

enum Place {
    Directory(PathBuf),
    Tar { file: File, members: BTreeMap<Vec<u8>, Indexed> },
}

enum Indexed {
    Data {
        offset: u64,
        bytes: u64,
    },
    /// To another member: `docker save` writes these for layers that images share.
    Link(Vec<u8>),
}

/// One member's bytes.
#[derive(Debug)]
pub(crate) struct Member {
    file: File,
    offset: u64,
    bytes: u64,
}

/// Why an archive does not hold what an image archive holds.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ArchiveError {
    #[error("{path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is no file and no directory")]
    Special { path: PathBuf },
    #[error("it is no tar archive")]
    NotTar,
    #[error(transparent)]
    Packing(#[from] UnknownPacking),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("member {member} is stored as a sparse file, make the archive without --sparse")]
    Sparse { member: String },
    #[error("more than {0} members")]
    TooManyMembers(u32),
    #[error("it holds no {member}")]
    Missing { member: String },
    #[error("{member} has {bytes} bytes, over the limit of {most}")]
    TooLong { member: String, bytes: u64, most: u64 },
    #[error("{member} has {found} bytes, its descriptor says {said}")]
    WrongSize { member: String, said: u64, found: u64 },
    #[error("{member} has the digest {found}")]
    WrongDigest { member: String, found: Digest },
    #[error("{member}")]
    Json { member: String, source: serde_json::Error },
    #[error("{member}: {what}")]
    Says { member: String, what: String },
    #[error("it holds no image for {platform}")]
    NoImage { platform: Platform },
}

/// The most members that may link to one another.
const MAX_LINKS: usize = 8;

impl Archive {
    /// Opens `path`. A compressed tar file is unpacked into an unnamed file in `scratch` first.
    pub(crate) fn open(path: &Path, scratch: &Path, limits: &Limits) -> Result<Self, ArchiveError> {
        let io = |source| ArchiveError::Io { path: path.to_owned(), source };
        let file = open_without_waiting(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Ok(Self { place: Place::Directory(path.to_owned()) });
        }
        if !metadata.is_file() {
            return Err(ArchiveError::Special { path: path.to_owned() });
        }
        let reader = BufReader::new(Member { offset: 0, bytes: metadata.len(), file });
        let mut unpacked = Unpacked::new(reader).map_err(io)??;
        let file = if unpacked.is_plain() {
            open_without_waiting(path).map_err(io)?
        } else {
            let mut budget = Budget::new(limits);
            budget.add_packed(metadata.len());
            spool_all(&mut unpacked, &mut budget, path, scratch)?
        };
        let members = index(&file, limits).map_err(|error| match error {
            ArchiveError::Tar(
                TarError::Checksum { offset: 0 } | TarError::Truncated { offset: 0..512 },
            ) => ArchiveError::NotTar,
            error => error,
        })?;
        Ok(Self { place: Place::Tar { file, members } })
    }

    /// The member `name`, a path without `.` and `..`; `None` if there is none.
    pub(crate) fn member(&self, name: &str) -> Result<Option<Member>, ArchiveError> {
        let Some(normal) = normal(name.as_bytes()) else { return Ok(None) };
        match &self.place {
            Place::Directory(directory) => {
                let path = directory.join(name);
                match open_without_waiting(&path).and_then(|file| Ok((file.metadata()?, file))) {
                    Ok((metadata, file)) if metadata.is_file() => {
                        Ok(Some(Member { file, offset: 0, bytes: metadata.len() }))
                    }
                    Ok(_) => Err(ArchiveError::Special { path }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(ArchiveError::Io { path, source }),
                }
            }
            Place::Tar { file, members } => {
                let mut at = normal;
                for _ in 0..=MAX_LINKS {
                    match members.get(&at) {
                        Some(&Indexed::Data { offset, bytes }) => {
                            let io = |source| ArchiveError::Io { path: name.into(), source };
                            let file = file.try_clone().map_err(io)?;
                            return Ok(Some(Member { file, offset, bytes }));
                        }
                        Some(Indexed::Link(target)) => at = target.clone(),
                        None => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }

    /// All bytes of the member `name`, of which there are at most `most`.
    pub(crate) fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(mut member) = self.member(name)? else { return Ok(None) };
        if member.bytes > most {
            let bytes = member.bytes;
            return Err(ArchiveError::TooLong { member: name.to_owned(), bytes, most });
        }
        let mut content = Vec::new();
        let io = |source| ArchiveError::Io { path: name.into(), source };
        member.read_to_end(&mut content).map_err(io)?;
        Ok(Some(content))
    }
}

impl Member {
    /// All of the file at `path`.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let file = open_without_waiting(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, offset: 0, bytes })
    }

    /// The same bytes for another reader.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, ..*self })
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> u64 {
        self.bytes
    }
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..room], self.offset)?;
        self.offset += count as u64;
        self.bytes -= count as u64;
        Ok(count)
    }
}

/// Bytes of a tar file are passed over without reading them.
impl Source for BufReader<Member> {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let buffered = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer().len());
        self.consume(buffered);
        let member = self.get_mut();
        let further = (bytes - buffered as u64).min(member.bytes);
        member.offset += further;
        member.bytes -= further;
        Ok(buffered as u64 + further)
    }
}

/// For reading, and at once: a fifo in an archive's place must not hold us up.
fn open_without_waiting(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path)
}

fn spool_all(
    unpacked: &mut impl Read,
    budget: &mut Budget,
    path: &Path,
    scratch: &Path,
) -> Result<File, ArchiveError> {
    let reading = |source| ArchiveError::Io { path: path.to_owned(), source };
    let mut spool = Spool::new(scratch)?;
    let mut buffer = vec![0; 1 << 17];
    loop {
        let count = match unpacked.read(&mut buffer) {
            Ok(0) => return Ok(spool.finish()?),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(reading(error)),
        };
        budget.add_unpacked(count as u64).map_err(|limit| reading(io::Error::other(limit)))?;
        let data = spool.reserve(count as u64);
        spool.write(data, 0, &buffer[..count])?;
    }
}

fn index(file: &File, limits: &Limits) -> Result<BTreeMap<Vec<u8>, Indexed>, ArchiveError> {
    let io = |source| ArchiveError::Tar(TarError::Read { offset: 0, source });
    let bytes = file.metadata().map_err(io)?.len();
    let file = file.try_clone().map_err(io)?;
    let mut entries = Entries::new(BufReader::new(Member { file, offset: 0, bytes }));
    let mut members = BTreeMap::new();
    while let Some(entry) = entries.next()? {
        // Names that are no plain paths name nothing that an image could ask for.
        let Some(name) = normal(&entry.name) else { continue };
        let indexed = match entry.body {
            Body::File { bytes, pieces } => {
                if pieces.iter().map(|piece| piece.bytes).sum::<u64>() != bytes {
                    return Err(ArchiveError::Sparse { member: shown(&entry.name) });
                }
                Indexed::Data { offset: entries.position(), bytes }
            }
            Body::HardLink(target) => match normal(&target) {
                Some(target) => Indexed::Link(target),
                None => continue,
            },
            Body::Symlink(target) => match beside(&name, &target) {
                Some(target) => Indexed::Link(target),
                None => continue,
            },
            _ => continue,
        };
        members.insert(name, indexed);
        if members.len() > limits.entries as usize {
            return Err(ArchiveError::TooManyMembers(limits.entries));
        }
    }
    Ok(members)
}

/// A member's name without `.` parts; `None` if it is absolute, empty or has a `..`.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    let parts = name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<&[u8]> = parts.collect();
    let plain = !name.starts_with(b"/") && !parts.is_empty() && !parts.contains(&&b".."[..]);
    plain.then(|| parts.join(&b'/'))
}

/// Where a symbolic link that is the member `name` leads, by words alone.
fn beside(name: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = name.split(|&byte| byte == b'/').collect();
    parts.pop();
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!target.starts_with(b"/") && !parts.is_empty()).then(|| parts.join(&b'/'))
}

#[cfg(test)]
mod tests;
