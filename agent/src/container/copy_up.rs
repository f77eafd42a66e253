//! What an image has where a `tmpfs` or a volume is mounted, copied into it: `tmpcopyup`, and what docker
//! does with a volume that is empty.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, Uid, chownat,
    fchmod, fchown, fstat, futimens, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use super::within::Within;
use crate::words::words;

/// How deep directories of an image may be in one another. Each costs a descriptor or two.
const MOST_DEEP: usize = 128;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A file that could not be copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("{file}: {}", words(*.errno))]
    Refused { file: String, errno: Errno },
    #[error("{file}: over {MOST_DEEP} directories deep")]
    TooDeep { file: String },
}

/// Copies what is at `from` into `to`, if it is a directory: its files with their modes, owners and
/// times. Links are copied as links and never followed.
pub(crate) fn copy(root: &Within<'_>, from: &Path, to: &OwnedFd) -> Result<(), CopyError> {
    source(root, from)?.map_or(Ok(()), |directory| contents(&directory, to, 0))
}

/// What is at `from`, if it is a directory.
fn source(root: &Within<'_>, from: &Path) -> Result<Option<OwnedFd>, CopyError> {
    match root.open(from, DIRECTORY) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(CopyError::Refused { file: from.display().to_string(), errno }),
    }
}

/// Copies what is at `from`, if it is a directory, into the mount `to` as [`copy`] does, and makes that look
/// like it; but only if nothing is there yet.
pub(crate) fn fill(root: &Within<'_>, from: &Path, to: &OwnedFd) -> Result<(), CopyError> {
    let refused = |errno| CopyError::Refused { file: from.display().to_string(), errno };
    let Some(source) = source(root, from)? else { return Ok(()) };
    let place = openat(to, ".", DIRECTORY, Mode::empty()).map_err(refused)?;
    for entry in Dir::read_from(&place).map_err(refused)? {
        if !matches!(entry.map_err(refused)?.file_name().to_bytes(), b"." | b"..") {
            return Ok(());
        }
    }
    contents(&source, &place, 0)?;
    dress(&place, &fstat(&source).map_err(refused)?).map_err(refused)
}

fn contents(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), CopyError> {
    let unreadable = |errno| CopyError::Refused { file: ".".to_owned(), errno };
    for entry in Dir::read_from(from).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let file = || name.to_string_lossy().into_owned();
        let refused = |errno| CopyError::Refused { file: file(), errno };
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refused)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if depth == MOST_DEEP {
                return Err(CopyError::TooDeep { file: file() });
            }
            let open =
                |above: &OwnedFd| openat(above, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
            mkdirat(to, name, Mode::RWXU).map_err(refused)?;
            let below = open(to).map_err(refused)?;
            contents(&open(from).map_err(refused)?, &below, depth + 1)?;
            dress(&below, &stat).map_err(refused)?;
        } else {
            one(from, to, name, &stat).map_err(refused)?;
        }
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> Result<(), Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut source = File::from(openat(from, name, read, Mode::empty())?);
            let mut copy = File::from(openat(to, name, write, Mode::RUSR | Mode::WUSR)?);
            io::copy(&mut source, &mut copy).map_err(|error| {
                error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
            })?;
            dress(&copy, stat)
        }
        FileType::Symlink => {
            symlinkat(&readlinkat(from, name, Vec::new())?, to, name)?;
            own(to, name, stat)
        }
        // A socket is nothing without who listens to it.
        FileType::Socket | FileType::Directory | FileType::Unknown => Ok(()),
        kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
            mknodat(to, name, kind, mode(stat), stat.st_rdev)?;
            own(to, name, stat)
        }
    }
}

fn own(to: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner first: a change of it takes set-user-ID bits away.
fn dress(file: impl AsFd, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchown(&file, Some(uid), Some(gid))?;
    fchmod(&file, mode(stat))?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    futimens(file, &times)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & RawMode::from(0o7777_u16))
}
