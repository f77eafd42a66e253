//! What others find who look into the container's process on the host: the container's files, and
//! nothing of the host's.
//!
//! `podman cp` goes into the mount namespace of that process and copies there. So the supervisor's
//! first thread, which is the process to everybody else, has a namespace of its own that is rooted in
//! the container's root, with the host's files that the container was lent in their places, and the
//! guest's processes in `/proc`, where `podman top` looks for them. The supervisor's work is done by
//! other threads, which stay where they were.

mod processes;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use proto::spec::Mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};

use crate::mount;
use crate::plan::Shared;

/// The container's files on the host.
pub(super) struct View {
    root: PathBuf,
    /// Where in the root, and what.
    lent: Vec<(PathBuf, PathBuf)>,
}

impl View {
    /// Of a container with these shares, the first of which is its root.
    pub(super) fn new(shares: &[Shared], mounts: &[Mount]) -> Self {
        let source = |name: &str| shares.iter().find(|share| share.name == name);
        let lent = mounts.iter().filter_map(|mount| {
            let share = source(mount.share.as_deref()?)?;
            Some((mount.destination.clone(), share.path.clone()))
        });
        Self {
            root: shares.first().map(|root| root.path.clone()).unwrap_or_default(),
            lent: lent.collect(),
        }
    }

    /// Moves the calling thread into it, for good. Whoever looks for processes there makes us `ask` the
    /// guest.
    pub(super) fn enter(&self, ask: impl processes::Ask + 'static) -> io::Result<()> {
        // Without FUSE there are files and no processes.
        let processes = processes::mount(ask);
        unshare(CloneFlags::CLONE_NEWNS)?;
        let all = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", all)?;
        let root = mount::copy(CWD, &self.root, true)?;
        move_mount(&root, "", CWD, &self.root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        for (destination, source) in &self.lent {
            // Names in the root are the image's: none of them leads out of it. What has no place on
            // the host, because the guest has mounted something of its own there, is left out.
            let place = place(&root, destination);
            let (Ok(place), Ok(tree)) = (place, mount::copy(CWD, source, true)) else { continue };
            put(&tree, &place);
        }
        if let (Ok(place), Ok(tree)) = (place(&root, Path::new("proc")), processes) {
            put(&tree, &place);
        }
        Ok(mount::pivot(&root)?)
    }
}

/// A place in the container's root, whatever links lead to it.
fn place(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
}

/// Puts a detached mount at its place, if it fits there.
fn put(tree: impl AsFd, place: impl AsFd) {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let _ = move_mount(tree, "", place, "", both);
}
