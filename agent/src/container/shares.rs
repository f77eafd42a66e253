//! The host's directories and files, which come to the guest as one file system.

use proto::spec::{Container, Root};
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, move_mount};

use super::mounts::{self, FileSystemError};
use crate::boot;
use crate::words::words;

/// What the VM's file share is mounted by.
const TAG: &str = "shares";

/// Why there are no shares.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SharesError {
    #[error("shares: {0}")]
    FileSystem(#[from] FileSystemError),
    #[error("shares: {}: {}", boot::SHARES, words(*.0))]
    Place(#[from] Errno),
}

/// Mounts the file share in the calling process's mount namespace if `spec` wants something of it.
/// Each container does so for itself, and a VM in which none does is spared the trouble; to the kernel
/// it is one file system all the same.
pub(crate) fn mount(spec: &Container) -> Result<(), SharesError> {
    let wanted = matches!(spec.root, Root::Share { .. })
        || spec.mounts.iter().any(|mount| mount.share.is_some());
    if !wanted {
        return Ok(());
    }
    let shares = mounts::file_system("virtiofs", Some(TAG), &[], MountAttrFlags::empty())?;
    match rustix::fs::mkdir(boot::SHARES, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&shares, "", CWD, boot::SHARES, flags)?)
}
