//! What the host has mounted below a directory that is shared with everything below it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use proto::spec::Submount;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The most that a guest is told of. What is behind that is in the share like any of its directories.
const MOST: usize = 1024;

/// The mounts below `directory` that can be seen from there, parents first.
pub(super) fn below(directory: BorrowedFd<'_>) -> io::Result<Vec<Submount>> {
    let place = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    let table = fs::read("/proc/self/mountinfo")?;
    let mut below: Vec<_> = entries(&table)
        .filter(|entry| entry.place != place && entry.place.starts_with(&place))
        .collect();
    // One mount can lie over others, at its place or above it.
    below.retain(|entry| mount_at(&entry.place) == Some(entry.id));
    below.sort_by_key(|entry| entry.place.components().count());
    let relative = below.into_iter().take(MOST).filter_map(|entry| {
        let path = entry.place.strip_prefix(&place).ok()?.to_owned();
        Some(Submount { path, options: entry.options })
    });
    Ok(relative.collect())
}

/// A line of a `mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    id: u64,
    place: PathBuf,
    options: Vec<String>,
}

fn entries(table: &[u8]) -> impl Iterator<Item = Entry> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let place = unescaped(fields.nth(3)?);
        let options = str::from_utf8(fields.next()?).ok()?;
        Some(Entry { id, place, options: options.split(',').map(str::to_owned).collect() })
    })
}

/// A path in which `\040` stands for a space, and the like.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let octal = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        (rest, _) = match (byte, octal) {
            (b'\\', Some(meant)) => (&after[3..], path.push(meant)),
            _ => (after, path.push(byte)),
        };
    }
    PathBuf::from(OsString::from_vec(path))
}

/// The number of the mount that is found at `path`.
fn mount_at(path: &Path) -> Option<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = statx(CWD, path, flags, StatxFlags::MNT_ID).ok()?;
    Some(found.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_line_says_what_is_mounted_where_and_how() {
        let table =
            b"36 35 98:0 /mnt1 /a\\040b/c\\134 rw,noexec,noatime master:1 - ext3 /dev/root rw\n";
        let options = ["rw", "noexec", "noatime"].map(str::to_owned).to_vec();
        let expected = Entry { id: 36, place: "/a b/c\\".into(), options };
        assert_eq!(entries(table).collect::<Vec<_>>(), [expected]);
        assert_eq!(entries(b"\nno number\n36 35\n").count(), 0);
    }

    #[test]
    fn what_is_mounted_below_the_root_is_told_parents_first() {
        let root = fs::File::open("/").unwrap();
        let below = below(root.as_fd()).unwrap();
        let at = |path: &str| below.iter().position(|mount| mount.path == Path::new(path));
        assert!(at("proc").is_some());
        assert!(below.is_sorted_by_key(|mount| mount.path.components().count()));
        assert!(below.iter().all(|mount| !mount.path.has_root() && !mount.options.is_empty()));
    }
}
