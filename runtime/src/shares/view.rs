//! All that a file server sees: a mount namespace whose root holds the shares and nothing else.
//!
//! ```text
//!   /shares/NAME       a share each, read-only or not, following no symbolic link
//!   /proc/self/fd      the server's own descriptors, by which an inode is opened that it holds
//!   /proc/self/mountinfo
//! ```
//!
//! The last two are those files and nothing more of `/proc`: the library that serves wants them by
//! these names. A guest sees `/shares` as its root and is not let out of it; if it were, this is all
//! there is.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

use super::{Wanted, sys};
use crate::mount::{copy, pivot};
use crate::plan::{Extent, Holds};

/// The guest's root.
pub(super) const SHARES: &str = "/shares";

/// Where the new root is put together: a place that every system has.
const PLACE: &str = "/proc";

/// What the server needs of `/proc`.
const OF_PROC: [&str; 2] = ["/proc/self/fd", "/proc/self/mountinfo"];

/// Nothing in a share is a device, a program or a way to somewhere else, to the server.
const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC)
    .union(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW);

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub(super) enum ViewError {
    #[error("share {name}: {step}")]
    Share { name: String, step: &'static str, source: std::io::Error },
    #[error("{step}")]
    Step { step: &'static str, source: std::io::Error },
}

fn wrong<E: Into<std::io::Error>>(step: &'static str) -> impl Fn(E) -> ViewError {
    move |error| ViewError::Step { step, source: error.into() }
}

/// Lets the calling process, which must have one thread, see `shares` and nothing else.
pub(super) fn enter(shares: Vec<(Wanted, OwnedFd)>) -> Result<(), ViewError> {
    // Copies are made first: from another mount namespace these would be somebody else's mounts.
    let mut trees = Vec::with_capacity(shares.len());
    for (wanted, source) in shares {
        let tree = copy(&source, "", wanted.recursive)
            .map_err(|errno| of_share(&wanted, "copy of its mount", errno.into()))?;
        trees.push((wanted, tree));
    }
    let mut of_proc = Vec::with_capacity(OF_PROC.len());
    for path in OF_PROC {
        of_proc.push((path, copy(CWD, path, false).map_err(wrong("own descriptors"))?));
    }

    unshare(CloneFlags::CLONE_NEWNS).map_err(wrong("mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(wrong("private mounts"))?;
    let root = new_root().map_err(wrong("new root"))?;
    make_directory(&root, SHARES).map_err(wrong("new root"))?;
    for (wanted, tree) in trees {
        for (attributes, recursive) in [(INERT, true)].into_iter().chain(held(&wanted.holds)) {
            sys::set_mount_attributes(tree.as_fd(), attributes, recursive)
                .map_err(|source| of_share(&wanted, "attributes of its mount", source))?;
        }
        put(&tree, &root, &format!("{SHARES}/{}", wanted.name))
            .map_err(|errno| of_share(&wanted, "mount", errno.into()))?;
    }
    for directory in ["/proc", "/proc/self"] {
        make_directory(&root, directory).map_err(wrong("new root"))?;
    }
    for (path, tree) in of_proc {
        put(&tree, &root, path).map_err(wrong("own descriptors"))?;
    }
    sys::set_mount_attributes(root.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)
        .map_err(wrong("read-only root"))?;
    pivot(&root).map_err(wrong("leaving the old root"))
}

/// What holds for a share, as attributes of its mount, and with `true` of those below.
fn held(holds: &Holds) -> impl Iterator<Item = (MountAttrFlags, bool)> {
    let all = [
        (holds.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (holds.no_access_times, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (holds.no_directory_access_times, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ];
    all.into_iter().filter_map(|(extent, attributes)| match extent {
        Extent::Nothing => None,
        Extent::Top => Some((attributes, false)),
        Extent::All => Some((attributes, true)),
    })
}

fn of_share(wanted: &Wanted, step: &'static str, source: std::io::Error) -> ViewError {
    ViewError::Share { name: wanted.name.clone(), step, source }
}

/// An empty file system, mounted.
fn new_root() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "mode", "755")?;
    fsconfig_create(context.as_fd())?;
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, plain)?;
    move_mount(&root, "", CWD, PLACE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(root)
}

/// Mounts `tree` at `path` of the new root, where nothing is yet.
fn put(tree: &OwnedFd, root: &OwnedFd, path: &str) -> Result<(), Errno> {
    if FileType::from_raw_mode(fstat(tree)?.st_mode) == FileType::Directory {
        make_directory(root, path)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(root, within(path), flags, Mode::from_raw_mode(0o600))?;
    }
    move_mount(tree, "", root, within(path), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn make_directory(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    mkdirat(root, within(path), Mode::from_raw_mode(0o755))
}

/// A path of the new root as it is named before that is the root.
fn within(path: &str) -> &str {
    path.trim_start_matches('/')
}
