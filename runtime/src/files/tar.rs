//! Trees as tar archives, and back.

use std::io::{Read, Write};

use image::{TarFile, TarKind, TarReader, TarWriter};
use proto::files::{Bytes, Entry, Kind, parts};
use transfer::Sender;

use super::{CopyError, Heard, next};

/// Bytes of a file that are on their way at a time.
const PIECE_BYTES: usize = 64 << 10;

/// What files are called in an archive.
pub(crate) enum Naming<'a> {
    /// The tree's top has this name.
    Top(&'a str),
    /// As they are called from the top, which is left out.
    Bare,
}

impl Naming<'_> {
    fn name(&self, path: &Bytes) -> Option<Vec<u8>> {
        match self {
            Self::Bare if path.0.is_empty() => None,
            Self::Bare => Some(path.0.clone()),
            Self::Top(top) if path.0.is_empty() => Some(top.as_bytes().to_vec()),
            Self::Top(top) => Some([top.as_bytes(), b"/", &path.0].concat()),
        }
    }
}

/// Writes what a container says, `first` before what follows it, as an archive.
pub(crate) fn tar<W: Write>(
    first: Option<Entry>,
    heard: &mut Heard,
    naming: &Naming<'_>,
    sink: W,
) -> Result<W, CopyError> {
    let mut archive = TarWriter::new(sink);
    let mut entry = first;
    loop {
        let this = match entry.take() {
            Some(first) => Some(first),
            None => next(heard)?,
        };
        let Some(this) = this else { break };
        if let Some(name) = naming.name(&this.path)
            && let Some(file) = file(&this, name, |to| naming.name(to).unwrap_or_default())
        {
            archive.file(file).map_err(CopyError::Write)?;
            content(heard, &mut archive)?;
        }
    }
    archive.finish().map_err(CopyError::Write)
}

/// Writes what a container says that it has changed as a layer (OCI image specification, "Layer Filesystem
/// Changeset").
pub(crate) fn layer<W: Write>(heard: &mut Heard, sink: W) -> Result<W, CopyError> {
    let mut archive = TarWriter::new(sink);
    while let Some(entry) = next(heard)? {
        let Some((name, parents)) = parts(&entry.path)
            .unwrap_or_default()
            .split_last()
            .map(|(name, parents)| (name.to_vec(), parents.join(&b'/')))
        else {
            continue;
        };
        if name.starts_with(WHITEOUT) {
            return Err(CopyError::Whiteout { path: entry.path });
        }
        let within = |directory: &[u8], name: &[u8]| match directory {
            b"" => name.to_vec(),
            directory => [directory, b"/", name].concat(),
        };
        let mark = |name| TarFile {
            name,
            kind: TarKind::File { bytes: 0 },
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: entry.mtime,
            xattrs: vec![],
        };
        if entry.kind == Kind::Gone {
            let name = within(&parents, &[WHITEOUT, &name].concat());
            archive.file(mark(name)).map_err(CopyError::Write)?;
            continue;
        }
        let Some(file) = file(&entry, entry.path.0.clone(), |to| to.0.clone()) else { continue };
        archive.file(file).map_err(CopyError::Write)?;
        content(heard, &mut archive)?;
        if entry.kind == (Kind::Directory { opaque: true }) {
            let name = within(&entry.path.0, OPAQUE);
            archive.file(mark(name)).map_err(CopyError::Write)?;
        }
    }
    archive.finish().map_err(CopyError::Write)
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

fn content<W: Write>(heard: &mut Heard, archive: &mut TarWriter<W>) -> Result<(), CopyError> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match heard.data(&mut buffer).map_err(CopyError::Said)? {
            0 => return Ok(()),
            count => archive.data(&buffer[..count]).map_err(CopyError::Write)?,
        }
    }
}

fn file(entry: &Entry, name: Vec<u8>, named: impl Fn(&Bytes) -> Vec<u8>) -> Option<TarFile> {
    let kind = match &entry.kind {
        Kind::File { bytes } => TarKind::File { bytes: *bytes },
        Kind::Directory { .. } => TarKind::Directory,
        Kind::Symlink { to } => TarKind::Symlink(to.0.clone()),
        Kind::HardLink { to } => TarKind::HardLink(named(to)),
        Kind::Fifo => TarKind::Fifo,
        Kind::Character { major, minor } => TarKind::Character(*major, *minor),
        Kind::Block { major, minor } => TarKind::Block(*major, *minor),
        Kind::Gone => return None,
    };
    let xattrs = match kind {
        TarKind::HardLink(_) => vec![],
        _ => entry.xattrs.iter().map(|(name, value)| (name.0.clone(), value.0.clone())).collect(),
    };
    let Entry { mode, uid, gid, mtime, .. } = *entry;
    Some(TarFile { name, kind, mode, uid, gid, mtime, xattrs })
}

/// Says what is in an archive.
pub(super) fn untar<W: Write>(source: impl Read, sink: &mut Sender<W>) -> Result<(), CopyError> {
    let mut archive = TarReader::new(source).map_err(CopyError::Read)??;
    let mut buffer = vec![0; PIECE_BYTES];
    while let Some(file) = archive.file()? {
        let path = inside(&file.name)?;
        let kind = match file.kind {
            TarKind::File { bytes } => Kind::File { bytes },
            TarKind::Directory => Kind::Directory { opaque: false },
            TarKind::Symlink(to) => Kind::Symlink { to: Bytes(to) },
            TarKind::HardLink(to) => Kind::HardLink { to: inside(&to)? },
            TarKind::Block(major, minor) => Kind::Block { major, minor },
            TarKind::Character(major, minor) => Kind::Character { major, minor },
            TarKind::Fifo => Kind::Fifo,
        };
        let xattrs = file.xattrs.into_iter();
        let TarFile { mode, uid, gid, mtime, .. } =
            TarFile { xattrs: vec![], kind: TarKind::Fifo, ..file };
        sink.entry(Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
            xattrs: xattrs.map(|(name, value)| (Bytes(name), Bytes(value))).collect(),
            covers: false,
        })?;
        loop {
            match archive.data(&mut buffer)? {
                0 => break,
                count => sink.data(&buffer[..count])?,
            }
        }
    }
    Ok(())
}

/// A name of an archive as one from the top, however many slashes and dots are in it.
fn inside(name: &[u8]) -> Result<Bytes, CopyError> {
    let parts = name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<&[u8]> = parts.collect();
    match parts.iter().any(|part| *part == b"..") {
        true => Err(CopyError::Climbs { path: name.into() }),
        false => Ok(Bytes(parts.join(&b'/'))),
    }
}

#[cfg(test)]
mod tests;
