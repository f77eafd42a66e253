//! A disk of a directory of this machine, by the same road as a layer: every file becomes an entry.
//!
//! The directory may change under our hands, or be someone else's to change. Each file is opened
//! beneath it without following links, and judged by what was opened.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::erofs::WriteError;
use crate::limits::Budget;
use crate::merge::{Merge, MergeError};
use crate::spool::{Spool, SpoolError};
use crate::tarball::{Body, Entry};
use crate::tree::{Data, Device, Time, Xattrs};
use crate::{LimitError, Limits, erofs};

/// Why a directory cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file or directory in there cannot be read.
    #[error("{path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file became another one, or shorter, while it was read.
    #[error("{path} changed while it was packed")]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// It is too large.
    #[error("directory {path}")]
    Limit {
        /// The directory.
        path: PathBuf,
        /// The limit.
        source: LimitError,
    },
    /// A file in there cannot be on a disk.
    #[error("directory {path}")]
    Entry {
        /// The directory.
        path: PathBuf,
        /// Which file, and why.
        source: MergeError,
    },
    /// There is no room for file data.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The disk cannot be written.
    #[error("disk of directory {path}")]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
}

/// Writes a disk of everything in `directory` to `disk`, an empty file; returns its length in bytes.
/// File data waits in an unnamed file in the directory `scratch` meanwhile. Sockets are left out, and
/// so is what lies on file systems mounted in there.
pub fn pack_directory(
    directory: &Path,
    disk: &File,
    scratch: &Path,
    limits: &Limits,
) -> Result<u64, PackError> {
    let mut packing = Packing::open(directory, scratch, limits)?;
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        packing.put_directory(path, &mut pending)?;
    }
    let write = |source| PackError::Write { path: directory.to_owned(), source };
    let spool = packing.spool.finish()?;
    erofs::write(&packing.merge.into_tree(), &spool, disk).map_err(write)
}

struct Packing<'a> {
    top: &'a Path,
    root: OwnedFd,
    device: u64,
    merge: Merge,
    spool: Spool,
    budget: Budget,
    /// Files with several names, by inode: the name that was seen first.
    linked: BTreeMap<u64, PathBuf>,
    buffer: Vec<u8>,
}

impl<'a> Packing<'a> {
    fn open(top: &'a Path, scratch: &Path, limits: &Limits) -> Result<Self, PackError> {
        let read = |source: Errno| PackError::Read { path: top.to_owned(), source: source.into() };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(top, flags, Mode::empty()).map_err(read)?;
        let device = rustix::fs::fstat(&root).map_err(read)?.st_dev;
        let mut merge = Merge::new(limits);
        merge.begin_layer();
        let mut budget = Budget::new(limits);
        // What takes room already cannot be a bomb; only its length is judged.
        budget.add_packed(u64::MAX);
        let spool = Spool::new(scratch)?;
        let (linked, buffer) = (BTreeMap::new(), vec![0; 1 << 17]);
        Ok(Self { top, root, device, merge, spool, budget, linked, buffer })
    }

    /// Puts the directory `path` and its files; the directories in it are `pending`.
    fn put_directory(
        &mut self,
        path: PathBuf,
        pending: &mut Vec<PathBuf>,
    ) -> Result<(), PackError> {
        let top = self.top;
        let read = |source: Errno| unreadable(top, &path, source.into());
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dot = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
        let here =
            rustix::fs::openat2(&self.root, dot, flags, Mode::empty(), beneath).map_err(read)?;
        let stat = rustix::fs::fstat(&here).map_err(read)?;
        let xattrs = xattrs(here.as_fd(), OsStr::new(".")).map_err(read)?;
        let name = dot.as_os_str().as_bytes().to_vec();
        self.add(entry(name, Body::Directory, &stat, xattrs), Data { offset: 0, bytes: 0 })?;
        if stat.st_dev != self.device {
            return Ok(());
        }
        let entries = rustix::fs::Dir::read_from(&here).map_err(read)?;
        for listed in entries {
            let listed = listed.map_err(read)?;
            let name = OsStr::from_bytes(listed.file_name().to_bytes());
            if name != "." && name != ".." {
                self.put_child(here.as_fd(), name, path.join(name), pending)?;
            }
        }
        Ok(())
    }

    fn put_child(
        &mut self,
        here: BorrowedFd<'_>,
        name: &OsStr,
        path: PathBuf,
        pending: &mut Vec<PathBuf>,
    ) -> Result<(), PackError> {
        let top = self.top;
        let read = |source: Errno| unreadable(top, &path, source.into());
        let stat = rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW).map_err(read)?;
        let whole_name = path.as_os_str().as_bytes().to_vec();
        let nothing = Data { offset: 0, bytes: 0 };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            pending.push(path);
            return Ok(());
        }
        if kind == FileType::Socket {
            // Of use to no one but the process that made it.
            return Ok(());
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&stat.st_ino) {
                let first = Body::HardLink(first.as_os_str().as_bytes().to_vec());
                return self.add(entry(whole_name, first, &stat, Xattrs::new()), nothing);
            }
            self.linked.insert(stat.st_ino, path.clone());
        }
        let device = Device {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        };
        let (body, data) = match kind {
            FileType::RegularFile => {
                let data = self.set_aside(here, name, &path, &stat)?;
                (Body::File { bytes: data.bytes, pieces: Vec::new() }, data)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(here, name, Vec::new()).map_err(read)?;
                (Body::Symlink(target.into_bytes()), nothing)
            }
            FileType::BlockDevice => (Body::Block(device), nothing),
            FileType::CharacterDevice => (Body::Character(device), nothing),
            _ => (Body::Fifo, nothing),
        };
        let xattrs = xattrs(here, name).map_err(read)?;
        self.add(entry(whole_name, body, &stat, xattrs), data)
    }

    fn set_aside(
        &mut self,
        here: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        listed: &Stat,
    ) -> Result<Data, PackError> {
        let top = self.top;
        let changed = || PackError::Changed { path: top.join(path) };
        let read = |source: io::Error| unreadable(top, path, source);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(here, name, flags, Mode::empty())
            .map_err(|source| read(source.into()))?;
        let stat = rustix::fs::fstat(&file).map_err(|source| read(source.into()))?;
        if (stat.st_dev, stat.st_ino) != (listed.st_dev, listed.st_ino) {
            return Err(changed());
        }
        let bytes = stat.st_size.cast_unsigned();
        let limit = |source| PackError::Limit { path: top.to_owned(), source };
        self.budget.add_unpacked(bytes).map_err(limit)?;
        let data = self.spool.reserve(bytes);
        let mut file = File::from(file);
        let mut at = 0;
        while at < bytes {
            let room = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(self.buffer.len());
            match file.read(&mut self.buffer[..room]) {
                Ok(0) => return Err(changed()),
                Ok(count) => {
                    self.spool.write(data, at, &self.buffer[..count])?;
                    at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read(error)),
            }
        }
        Ok(data)
    }

    fn add(&mut self, entry: Entry, data: Data) -> Result<(), PackError> {
        let path = self.top;
        self.merge
            .add(entry, data)
            .map_err(|source| PackError::Entry { path: path.to_owned(), source })
    }
}

fn unreadable(top: &Path, path: &Path, source: io::Error) -> PackError {
    PackError::Read { path: top.join(path), source }
}

fn entry(name: Vec<u8>, body: Body, stat: &Stat, xattrs: Xattrs) -> Entry {
    Entry {
        name,
        body,
        // The permissions alone.
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            seconds: stat.st_mtime,
            // Below 10⁹.
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        xattrs,
    }
}

/// The extended attributes of `name` in the directory `here`, itself if it is a link. The host's
/// SELinux label means nothing in a disk.
fn xattrs(here: BorrowedFd<'_>, name: &OsStr) -> Result<Xattrs, Errno> {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", here.as_raw_fd()));
    path.push(name);
    let mut names = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(&path, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    let mut xattrs = Xattrs::new();
    let mut value = vec![0; if length > 0 { 1 << 16 } else { 0 }];
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name == b"security.selinux" {
            continue;
        }
        let length = rustix::fs::lgetxattr(&path, OsStr::from_bytes(name), &mut value[..])?;
        xattrs.insert(name.to_vec(), value[..length].to_vec());
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests;
