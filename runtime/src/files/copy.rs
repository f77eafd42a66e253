//! `cp`, by docker's rules of what a path means where something is and where nothing is.

use std::io::{self, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use proto::files::{Bytes, Entry, Kind, Work};
use rustix::fs::{Mode, OFlags};
use transfer::{Put, PutError, Receiver, Rules, Sender, walk};

use super::tar::{self, Naming};
use super::{CopyError, Heard, Word, heard, next};
use crate::visit::{Carrier, Visited};

/// How files are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    /// With their owners and groups.
    pub(crate) archive: bool,
    /// What a link leads to is meant.
    pub(crate) follow: bool,
}

/// From a container to this machine.
pub(crate) fn from_container(
    container: &Visited,
    path: &str,
    to: &Path,
    manner: Manner,
) -> Result<(), CopyError> {
    let from = Word::of(path);
    let (_carrier, mut heard, first) = read(container, &from, manner)?;
    let is_directory = matches!(first.kind, Kind::Directory { .. });
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| CopyError::Host { path, source }
    };
    let (directory, name) = match std::fs::metadata(to) {
        Ok(there) if there.is_dir() && is_directory && from.contents => (to.to_owned(), None),
        Ok(there) if there.is_dir() => {
            let name = from.name().ok_or_else(|| nameless(path))?;
            (to.to_owned(), Some(name.as_bytes().to_vec()))
        }
        Ok(_) if is_directory => {
            return Err(CopyError::DirectoryOverFile { word: to.display().to_string() });
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(to)(error)),
        Err(error) if !is_directory && Word::of(&to.to_string_lossy()).directory => {
            return Err(at(to)(error));
        }
        // What a link leads to is written, and not the link, as elsewhere.
        there => {
            let to = match there {
                Ok(_) => std::fs::canonicalize(to).map_err(at(to))?,
                Err(_) => to.to_owned(),
            };
            let name = to.file_name().ok_or_else(|| nameless(&to.to_string_lossy()))?;
            let name = std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec();
            (parent(&to), Some(name))
        }
    };
    let mine = Rules { owners: manner.archive, powers: false };
    let put = |source| CopyError::Put { path: to.to_owned(), source };
    let mut place = Put::new(open(&directory)?, name, mine).map_err(put)?;
    place.put(&first, &mut heard).and_then(|()| place.all(&mut heard)).map_err(
        |error| match error {
            PutError::Receive(error) => CopyError::Said(error),
            error => put(error),
        },
    )
}

/// From a container to an archive.
pub(crate) fn to_tar(
    container: &Visited,
    path: &str,
    sink: impl Write,
    manner: Manner,
) -> Result<(), CopyError> {
    let from = Word::of(path);
    let (_carrier, mut heard, first) = read(container, &from, manner)?;
    let naming = match from.name() {
        Some(name) if !from.contents => Naming::Top(name),
        _ => Naming::Top("."),
    };
    tar::tar(Some(first), &mut heard, &naming, sink).map(drop)
}

/// From this machine to a container.
pub(crate) fn into_container(
    container: &Visited,
    from: &Path,
    path: &str,
    manner: Manner,
) -> Result<(), CopyError> {
    let at = |source| CopyError::Host { path: from.to_owned(), source };
    let said = from.to_string_lossy().into_owned();
    let said = Word::of(&said);
    let meant = match manner.follow || said.directory || said.name().is_none() {
        true => std::fs::canonicalize(from).map_err(at)?,
        false => PathBuf::from(from.components().as_path()),
    };
    let is_directory = std::fs::symlink_metadata(&meant).map_err(at)?.is_dir();
    if said.directory && !is_directory {
        return Err(at(io::ErrorKind::NotADirectory.into()));
    }
    let to = Word::of(path);
    let (directory, name, follow) = match look(container, to.path)? {
        Some(Kind::Directory { .. }) if is_directory && said.contents => (to.path, None, false),
        Some(Kind::Directory { .. }) => {
            let own = said.name().map(str::to_owned);
            let own = own.or_else(|| Some(meant.file_name()?.to_string_lossy().into_owned()));
            (to.path, Some(own.ok_or_else(|| nameless(&from.to_string_lossy()))?), false)
        }
        Some(_) if is_directory => {
            return Err(CopyError::DirectoryOverFile { word: path.to_owned() });
        }
        Some(_) if to.directory => return Err(CopyError::NoDirectory { word: path.to_owned() }),
        None if to.directory && !is_directory => {
            return Err(CopyError::Nothing { word: path.to_owned() });
        }
        _ => {
            let name = to.name().ok_or_else(|| nameless(path))?;
            (to.parent(), Some(name.to_owned()), true)
        }
    };
    let name = name.map(|name| Bytes(name.into_bytes()));
    let work = Work::Write { directory: directory.as_bytes().into(), name, follow };
    let carrier = container.carry(work)?;
    let (parent, name) = match (is_directory, meant.file_name()) {
        (false, Some(name)) => {
            (open(&parent(&meant))?, std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec())
        }
        _ => (open(&meant)?, b".".to_vec()),
    };
    say(carrier, manner, |sink| {
        walk(parent, &name, None, sink)
            .map_err(|source| CopyError::Walk { path: from.to_owned(), source })
    })
}

/// From an archive to a directory of a container. Owners are the archive's.
pub(crate) fn from_tar(
    container: &Visited,
    source: impl Read,
    path: &str,
) -> Result<(), CopyError> {
    let to = Word::of(path);
    match look(container, to.path)? {
        Some(Kind::Directory { .. }) => {}
        Some(_) => return Err(CopyError::NoDirectory { word: path.to_owned() }),
        None => return Err(CopyError::Nothing { word: path.to_owned() }),
    }
    let directory = to.path.as_bytes().into();
    let carrier = container.carry(Work::Write { directory, name: None, follow: false })?;
    let as_said = Manner { archive: true, follow: false };
    say(carrier, as_said, |sink| tar::untar(source, sink))
}

/// Says something to a carrier, and hears how that went.
fn say(
    carrier: Carrier,
    manner: Manner,
    what: impl FnOnce(&mut Sender<BufWriter<&std::os::unix::net::UnixStream>>) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    let Some(input) = &carrier.input else { return Ok(()) };
    let sender = Sender::new(BufWriter::with_capacity(64 << 10, input));
    let mut sender = if manner.archive { sender } else { sender.owned_by(0, 0) };
    let said = what(&mut sender).and_then(|()| Ok(sender.end()?));
    if let Err(error) = &said {
        // Between two entries it is heard; in a file the end that comes too early is.
        let _ = sender.failed(&error.to_string());
    }
    drop(sender);
    let _ = input.shutdown(Shutdown::Write);
    // What went wrong there explains what went wrong here: a connection that broke.
    let mut answer = Receiver::new(&carrier.output, 1);
    match (said, answer.entry()) {
        (
            Err(CopyError::Send(_) | CopyError::Walk { source: transfer::WalkError::Send(_), .. }),
            Err(why),
        ) => Err(CopyError::Said(why)),
        (Err(error), _) => Err(error),
        (Ok(()), answer) => answer.map(drop).map_err(CopyError::Said),
    }
}

/// What there is at a path of a container.
fn look(container: &Visited, path: &str) -> Result<Option<Kind>, CopyError> {
    let carrier = container.carry(Work::Look { path: path.as_bytes().into() })?;
    Ok(next(&mut heard(&carrier)?)?.map(|entry| entry.kind))
}

/// Begins to read, and tells what it is that comes.
fn read(
    container: &Visited,
    from: &Word<'_>,
    manner: Manner,
) -> Result<(Carrier, Heard, Entry), CopyError> {
    let follow = manner.follow || from.directory;
    let path = from.path.as_bytes().into();
    let carrier = container.carry(Work::Read { path, follow })?;
    let mut heard = heard(&carrier)?;
    let first = next(&mut heard)?;
    let first = first.ok_or_else(|| CopyError::Nothing { word: from.path.to_owned() })?;
    Ok((carrier, heard, first))
}

fn nameless(word: &str) -> CopyError {
    let source = io::Error::new(io::ErrorKind::InvalidInput, "it has no name of its own");
    CopyError::Host { path: word.into(), source }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn open(directory: &Path) -> Result<OwnedFd, CopyError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|errno| CopyError::Host { path: directory.to_owned(), source: errno.into() })
}
