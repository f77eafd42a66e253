//! Mounts as the processes of a VM need them on the host: copies, and a root of one's own.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount};
use rustix::path::Arg;

/// A detached copy of what is at `path`, as a mount; with `recursive`, of everything mounted below too.
pub(crate) fn copy(
    directory: impl AsFd,
    path: impl Arg,
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(directory, path, flags)
}

/// Makes the mount `root` the calling process's root, and lets go of the one before.
pub(crate) fn pivot(root: impl AsFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    // The old root ends up on top of the new one, where it can be taken off again.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}
