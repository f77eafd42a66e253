//! From a stream to a directory.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use proto::files::{BadPath, Bytes, Entry, Kind, parts};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::wire::{ReceiveError, Receiver};
use crate::{MOST_DEEP, PIECE_BYTES, words};

/// What of an entry is honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Owner and group; else files are the calling process's.
    pub owners: bool,
    /// Set-user-ID and set-group-ID, extended attributes, and devices, which else are refused: all that a
    /// stranger's file could do more than hold bytes.
    pub powers: bool,
}

/// A place that entries are put in.
pub struct Put {
    /// The directory it is in. Every name is opened from here on, and no link followed.
    directory: OwnedFd,
    /// What the tree's top is called there; without a name it is the directory itself.
    name: Option<Vec<u8>>,
    rules: Rules,
    /// Directories that were made and are not left yet: their times are set when they are.
    open: Vec<Open>,
    buffer: Vec<u8>,
}

struct Open {
    path: Vec<u8>,
    directory: OwnedFd,
    entry: Entry,
}

/// Why something cannot be put in its place.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PutError {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Path(#[from] BadPath),
    #[error("{path:?}: {}", words(*.errno))]
    Refused { path: Bytes, errno: Errno },
    #[error("{path:?} is on its way, and a link or file stands there")]
    NoDirectory { path: Bytes },
    #[error("{path:?} is a directory here, and none there")]
    IsDirectory { path: Bytes },
    #[error("{path:?} is {what}, which is not made here")]
    Unwanted { path: Bytes, what: &'static str },
    #[error("{path:?}: over {MOST_DEEP} directories deep")]
    TooDeep { path: Bytes },
}

impl Put {
    /// Puts a tree into `directory`, its top as `name`, or as the directory itself.
    pub fn new(directory: OwnedFd, name: Option<Vec<u8>>, rules: Rules) -> Result<Self, PutError> {
        if let Some(name) = &name {
            let name = Bytes(name.clone());
            if parts(&name)?.len() != 1 {
                return Err(BadPath { path: name }.into());
            }
        }
        Ok(Self { directory, name, rules, open: Vec::new(), buffer: vec![0; PIECE_BYTES] })
    }

    /// Puts everything that `source` says in its place.
    pub fn all<R: Read>(mut self, source: &mut Receiver<R>) -> Result<(), PutError> {
        while let Some(entry) = source.entry()? {
            self.put(&entry, source)?;
        }
        self.leave(&[])
    }

    /// Puts an entry in its place.
    pub fn put<R: Read>(
        &mut self,
        entry: &Entry,
        source: &mut Receiver<R>,
    ) -> Result<(), PutError> {
        let said = Bytes(self.place(&entry.path.0));
        let place = said.clone();
        let path = parts(&place)?;
        if path.len() > MOST_DEEP {
            return Err(PutError::TooDeep { path: said });
        }
        self.leave(&said.0)?;
        let Some((&name, parents)) = path.split_last() else {
            // The directory that was there stays as it is.
            return match &entry.kind {
                Kind::Directory { .. } => Ok(()),
                _ => Err(PutError::IsDirectory { path: said }),
            };
        };
        let parent = self.parent(parents, true)?;
        let parent = parent.as_ref().map_or(self.nearest(parents), |parent| parent.as_fd());
        let name = OsStr::from_bytes(name);
        let refused = |errno| PutError::Refused { path: said.clone(), errno };
        let unwanted = |what| Err(PutError::Unwanted { path: said.clone(), what });
        if !matches!(entry.kind, Kind::Directory { .. }) {
            make_room(parent, name, &said)?;
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        match &entry.kind {
            Kind::Directory { .. } => {
                let directory =
                    enter(parent, name, true).map_err(|errno| in_the_way(errno, &said))?;
                self.open.push(Open { path: said.0, directory, entry: entry.clone() });
                return Ok(());
            }
            Kind::File { .. } => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(refused)?;
                loop {
                    let count = source.data(&mut self.buffer)?;
                    let mut piece = &self.buffer[..count];
                    if piece.is_empty() {
                        break;
                    }
                    while !piece.is_empty() {
                        match rustix::io::write(&file, piece) {
                            Err(Errno::INTR) => {}
                            written => piece = &piece[written.map_err(refused)?..],
                        }
                    }
                }
                return dress(&file, entry, self.rules).map_err(refused);
            }
            Kind::HardLink { to } => {
                let to = Bytes(self.place(&to.0));
                let path = parts(&to)?;
                let Some((&target, parents)) = path.split_last() else {
                    return Err(PutError::IsDirectory { path: to.clone() });
                };
                let from = self.parent(parents, false)?;
                let from = from.as_ref().map_or(self.nearest(parents), |from| from.as_fd());
                let target = OsStr::from_bytes(target);
                return linkat(from, target, parent, name, AtFlags::empty()).map_err(refused);
            }
            Kind::Symlink { to } => {
                symlinkat(OsStr::from_bytes(&to.0), parent, name).map_err(refused)?;
            }
            Kind::Fifo => {
                mknodat(parent, name, FileType::Fifo, mode(entry, self.rules), 0)
                    .map_err(refused)?;
            }
            Kind::Character { .. } | Kind::Block { .. } if !self.rules.powers => {
                return unwanted("a device");
            }
            Kind::Character { major, minor } | Kind::Block { major, minor } => {
                let kind = match entry.kind {
                    Kind::Block { .. } => FileType::BlockDevice,
                    _ => FileType::CharacterDevice,
                };
                let device = rustix::fs::makedev(*major, *minor);
                mknodat(parent, name, kind, mode(entry, self.rules), device).map_err(refused)?;
            }
            Kind::Gone => return unwanted("what is gone"),
        }
        if self.rules.owners {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chownat(parent, name, Some(uid), Some(gid), flags).map_err(refused)?;
        }
        utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(refused)
    }

    fn place(&self, path: &[u8]) -> Vec<u8> {
        match &self.name {
            None => path.to_vec(),
            Some(name) if path.is_empty() => name.clone(),
            Some(name) => [name, &b"/"[..], path].concat(),
        }
    }

    /// Leaves the directories that `path` is not in, the deepest first.
    fn leave(&mut self, path: &[u8]) -> Result<(), PutError> {
        let is_in = |open: &Open| {
            path.strip_prefix(&open.path[..]).is_some_and(|rest| rest.starts_with(b"/"))
        };
        while let Some(open) = self.open.pop_if(|open| !is_in(open)) {
            let Open { path, directory, entry } = open;
            let refused = |errno| PutError::Refused { path: Bytes(path), errno };
            dress(&directory, &entry, self.rules).map_err(refused)?;
        }
        Ok(())
    }

    /// The directory `parts` lead to, where it is not the [`nearest`](Self::nearest); made with all above it
    /// if `make`.
    fn parent(&self, parts: &[&[u8]], make: bool) -> Result<Option<OwnedFd>, PutError> {
        if parts.is_empty() || self.is_open(parts) {
            return Ok(None);
        }
        let mut here: Option<OwnedFd> = None;
        for (at, part) in parts.iter().enumerate() {
            let above = here.as_ref().map_or(self.directory.as_fd(), |here| here.as_fd());
            let below = enter(above, OsStr::from_bytes(part), make);
            let path = || Bytes(parts[..=at].join(&b'/'));
            here = Some(below.map_err(|errno| in_the_way(errno, &path()))?);
        }
        Ok(here)
    }

    fn is_open(&self, parts: &[&[u8]]) -> bool {
        self.open.last().is_some_and(|open| open.path == parts.join(&b'/'))
    }

    /// The directory that is open already: the last one made, or the place itself.
    fn nearest(&self, parts: &[&[u8]]) -> BorrowedFd<'_> {
        match self.open.last() {
            Some(open) if !parts.is_empty() => open.directory.as_fd(),
            _ => self.directory.as_fd(),
        }
    }
}

/// Opens a directory and nothing else, made first if it is missing and `make`.
fn enter(parent: BorrowedFd<'_>, name: &OsStr, make: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) if make => {
            mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            openat(parent, name, flags, Mode::empty())
        }
        opened => opened,
    }
}

/// Takes away what has the name, unless it is a directory.
fn make_room(parent: BorrowedFd<'_>, name: &OsStr, path: &Bytes) -> Result<(), PutError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(PutError::IsDirectory { path: path.clone() }),
        Err(errno) => Err(PutError::Refused { path: path.clone(), errno }),
    }
}

fn in_the_way(errno: Errno, path: &Bytes) -> PutError {
    match errno {
        Errno::NOTDIR | Errno::LOOP => PutError::NoDirectory { path: path.clone() },
        errno => PutError::Refused { path: path.clone(), errno },
    }
}

fn mode(entry: &Entry, rules: Rules) -> Mode {
    let bits = if rules.powers { 0o7777 } else { 0o1777 };
    Mode::from_raw_mode(u32::from(entry.mode) & bits)
}

fn times(entry: &Entry) -> Timestamps {
    // A time that is none is the last of its second.
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.min(999_999_999).into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Owner first: a change of it takes set-user-ID bits and capabilities away.
fn dress(file: &OwnedFd, entry: &Entry, rules: Rules) -> Result<(), Errno> {
    if rules.owners {
        fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    }
    fchmod(file, mode(entry, rules))?;
    for (name, value) in entry.xattrs.iter().filter(|_| rules.powers) {
        match fsetxattr(file, OsStr::from_bytes(&name.0), &value.0, XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {}
            set => set?,
        }
    }
    futimens(file, &times(entry))
}
