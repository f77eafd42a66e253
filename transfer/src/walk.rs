//! From a directory to a stream.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use proto::files::{Bytes, Entry, Kind};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags,
    fgetxattr, flistxattr, fstat, fstatfs, openat, openat2, readlinkat, statat, statx,
};
use rustix::io::Errno;

use crate::wire::{SendError, Sender};
use crate::{MOST_DEEP, PIECE_BYTES, words};

/// The upper layer of an overlay, to be said as what it changes.
pub struct Layer<'a> {
    /// What it lies over.
    pub lower: BorrowedFd<'a>,
    /// The two in one, as whoever is in there sees them. An empty file that something is mounted on there, and
    /// that was not in the lower layer, is but a place for that and not said.
    pub root: BorrowedFd<'a>,
    /// Files are said to be empty.
    pub names_only: bool,
}

/// Why a tree cannot be said to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WalkError {
    #[error("{path:?}: {}", words(*.errno))]
    Refused { path: Bytes, errno: Errno },
    #[error("{path:?}: over {MOST_DEEP} directories deep")]
    TooDeep { path: Bytes },
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Says what is called `name` in `directory`, and all in it. Links are said as links. What a kernel makes up
/// as it is read (`proc`, `sysfs`, cgroups) is passed over, unless it is what is asked for; sockets always,
/// and what is gone before it could be opened.
pub fn walk<W: Write>(
    directory: impl AsFd,
    name: &[u8],
    layer: Option<&Layer<'_>>,
    sink: &mut Sender<W>,
) -> Result<(), WalkError> {
    let mut walk = Walk { layer, sink, links: BTreeMap::new(), buffer: vec![0; PIECE_BYTES] };
    let top = Bytes::default();
    match walk.visit(directory.as_fd(), OsStr::from_bytes(name), &top, 0)? {
        Visit::Said => Ok(()),
        Visit::Gone => Err(WalkError::Refused { path: name.into(), errno: Errno::NOENT }),
    }
}

struct Walk<'a, W> {
    layer: Option<&'a Layer<'a>>,
    sink: &'a mut Sender<W>,
    /// Files with several names, by device and inode: the name that was said.
    links: BTreeMap<(u64, u64), Bytes>,
    buffer: Vec<u8>,
}

#[derive(PartialEq, Eq)]
enum Visit {
    Said,
    Gone,
}

impl<W: Write> Walk<'_, W> {
    fn visit(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Bytes,
        depth: usize,
    ) -> Result<Visit, WalkError> {
        let refused = |errno| WalkError::Refused { path: path.clone(), errno };
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Visit::Gone),
            stat => stat.map_err(refused)?,
        };
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.directory(parent, name, path, depth),
            FileType::Socket | FileType::Unknown => return Ok(Visit::Said),
            FileType::CharacterDevice if self.layer.is_some() && (major, minor) == (0, 0) => {
                Kind::Gone
            }
            _ if stat.st_nlink > 1
                && let Some(to) = self.links.get(&(stat.st_dev, stat.st_ino)) =>
            {
                Kind::HardLink { to: to.clone() }
            }
            FileType::RegularFile => return self.file(parent, name, path),
            FileType::Symlink => {
                let to = readlinkat(parent, name, Vec::new()).map_err(refused)?;
                Kind::Symlink { to: Bytes(to.into_bytes()) }
            }
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::Character { major, minor },
            FileType::BlockDevice => Kind::Block { major, minor },
        };
        if kind != Kind::Gone {
            self.remember(&stat, path);
        }
        let entry = self.describe(path, kind, &stat, vec![]);
        self.sink.entry(entry)?;
        Ok(Visit::Said)
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Bytes,
        depth: usize,
    ) -> Result<Visit, WalkError> {
        let refused = |errno| WalkError::Refused { path: path.clone(), errno };
        if depth == MOST_DEEP {
            return Err(WalkError::TooDeep { path: path.clone() });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let here = match openat(parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Visit::Gone),
            here => here.map_err(refused)?,
        };
        let stat = fstat(&here).map_err(refused)?;
        let opaque = self.layer.is_some() && is_opaque(&here);
        let attributes = xattrs(&here).map_err(refused)?;
        let entry = self.describe(path, Kind::Directory { opaque }, &stat, attributes);
        self.sink.entry(entry)?;
        if depth > 0 && is_made_up(&here) {
            return Ok(Visit::Said);
        }
        let mut names = Vec::new();
        for listed in Dir::read_from(&here).map_err(refused)? {
            let listed = listed.map_err(refused)?;
            if !matches!(listed.file_name().to_bytes(), b"." | b"..") {
                names.push(listed.file_name().to_bytes().to_vec());
            }
        }
        names.sort_unstable();
        for name in names {
            let slash = if path.0.is_empty() { &b""[..] } else { b"/" };
            let below = Bytes([&path.0, slash, &name].concat());
            self.visit(here.as_fd(), OsStr::from_bytes(&name), &below, depth + 1)?;
        }
        Ok(Visit::Said)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Bytes,
    ) -> Result<Visit, WalkError> {
        let refused = |errno| WalkError::Refused { path: path.clone(), errno };
        // It may be another kind of thing by now, and must not hold us up then.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Visit::Gone),
            file => file.map_err(refused)?,
        };
        let stat = fstat(&file).map_err(refused)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Visit::Gone);
        }
        if stat.st_size == 0 && self.layer.is_some_and(|layer| is_a_place(layer, path)) {
            return Ok(Visit::Said);
        }
        self.remember(&stat, path);
        let names_only = self.layer.is_some_and(|layer| layer.names_only);
        let bytes = if names_only { 0 } else { stat.st_size.unsigned_abs() };
        let attributes = xattrs(&file).map_err(refused)?;
        let entry = self.describe(path, Kind::File { bytes }, &stat, attributes);
        self.sink.entry(entry)?;
        let (mut left, mut ended) = (bytes, false);
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let piece = &mut self.buffer[..room];
            let count = match ended {
                // It became shorter, or cannot be read on. Its length was said: it ends in zeros, as in tar.
                true => {
                    piece.fill(0);
                    room
                }
                false => match rustix::io::read(&file, &mut *piece) {
                    Ok(0) => {
                        ended = true;
                        continue;
                    }
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(refused(errno)),
                    Ok(count) => count,
                },
            };
            self.sink.data(&self.buffer[..count])?;
            left -= count as u64;
        }
        Ok(Visit::Said)
    }

    fn remember(&mut self, stat: &Stat, path: &Bytes) {
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
    }

    fn describe(
        &self,
        path: &Bytes,
        kind: Kind,
        stat: &Stat,
        xattrs: Vec<(Bytes, Bytes)>,
    ) -> Entry {
        Entry {
            path: path.clone(),
            kind,
            // The twelve bits that are permissions.
            mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or_default(),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
            xattrs,
            covers: self.layer.is_some_and(|layer| is_in(layer.lower, path)),
        }
    }
}

/// Whether the image has something of this name.
fn is_in(lower: BorrowedFd<'_>, path: &Bytes) -> bool {
    let path = if path.0.is_empty() { &b"."[..] } else { &path.0 };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // What is behind a link of the image's is not of this name.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(lower, OsStr::from_bytes(path), flags, Mode::empty(), resolve).is_ok()
}

/// Whether a file of the upper layer is there for a mount alone.
fn is_a_place(layer: &Layer<'_>, path: &Bytes) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let seen = statx(layer.root, OsStr::from_bytes(&path.0), flags, StatxFlags::empty());
    seen.is_ok_and(|seen| seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        && !is_in(layer.lower, path)
}

/// Whether an overlay shows nothing of the lower directory here (Linux, Documentation/filesystems/overlayfs.rst).
fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 2];
    matches!(fgetxattr(directory, "trusted.overlay.opaque", &mut value), Ok(1)) && value[0] == b'y'
}

/// Whether a directory is of a file system that has no files, but makes them up.
fn is_made_up(directory: &OwnedFd) -> bool {
    const PROC: u64 = 0x9fa0;
    const SYSFS: u64 = 0x6265_6572;
    const CGROUP2: u64 = 0x6367_7270;
    fstatfs(directory).is_ok_and(|of| [PROC, SYSFS, CGROUP2].contains(&(of.f_type as u64)))
}

/// Attributes that mean the same elsewhere: not those of an overlay, nor a host's SELinux label.
fn xattrs(file: &OwnedFd) -> Result<Vec<(Bytes, Bytes)>, Errno> {
    let mut names = [0; 4096];
    let length = match flistxattr(file, &mut names) {
        Err(Errno::NOTSUP | Errno::RANGE) => 0,
        length => length?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name == b"security.selinux" || name.starts_with(b"trusted.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match fgetxattr(file, OsStr::from_bytes(name), &mut value) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.into(), Bytes(value)));
            }
            // Removed meanwhile, or not to be had.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}
