//! Making mounts and putting them in their places, by descriptor: no path is looked up twice.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::spec::Mount;
use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::options::{Bind, Options};
use super::within::Within;
use crate::sys::{self, MountAttributes};
use crate::words::words;

/// Why one of the `mounts` cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("mounts: {destination}: the destination cannot be the root")]
    OverRoot { destination: String },
    #[error("mounts: {destination}: a bind mount needs a source")]
    NoSource { destination: String },
    #[error("mounts: {destination}: no file system type and no bind")]
    NoType { destination: String },
    #[error("mounts: {destination}: source {from}: {}", words(*.errno))]
    Source { destination: String, from: String, errno: Errno },
    #[error("mounts: {destination}: {step}: {}", words(*.errno))]
    Step { destination: String, step: &'static str, errno: Errno },
    #[error("mounts: {destination}: {error}")]
    FileSystem { destination: String, error: FileSystemError },
}

impl MountError {
    /// Whether it is the specification that is wrong, rather than the kernel unwilling.
    pub(crate) fn is_of_the_spec(&self) -> bool {
        match self {
            Self::OverRoot { .. } | Self::NoSource { .. } | Self::NoType { .. } => true,
            Self::Source { errno, .. } => *errno == Errno::NOENT,
            Self::FileSystem { error, .. } => matches!(error.errno, Errno::INVAL | Errno::NODEV),
            Self::Step { .. } => false,
        }
    }
}

/// A file system that cannot be mounted, with what the kernel had to say about it.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {step}: {}{said}", words(*.errno))]
pub(crate) struct FileSystemError {
    kind: String,
    step: String,
    errno: Errno,
    said: String,
}

/// Makes one of a container's `mounts` and puts it in its place, which is made if it is missing.
pub(crate) fn mount(root: &Within<'_>, mount: &Mount) -> Result<(), MountError> {
    let destination = || mount.destination.display().to_string();
    let step = |step: &'static str| {
        move |errno| MountError::Step { destination: destination(), step, errno }
    };
    let options = Options::parse(&mount.options);
    if mount.destination.components().count() < 2 {
        return Err(MountError::OverRoot { destination: destination() });
    }
    let bind = options.bind.or((mount.kind.as_deref() == Some("bind")).then_some(Bind::One));
    let (tree, is_directory) = match bind {
        Some(bind) => bound(mount, bind)?,
        None => (new_mount(mount, &options)?, true),
    };
    if bind.is_some() && !options.own.is_empty() {
        let own = MountAttributes { propagation: 0, ..options.own };
        sys::set_mount_attributes(tree.as_fd(), &own, false).map_err(step("options"))?;
    }
    let place = match is_directory {
        true => root.make_directory(&mount.destination),
        false => root.make_file(&mount.destination),
    };
    let place = place.map_err(step("destination"))?;
    attach(tree.as_fd(), place.as_fd()).map_err(step("mount"))?;
    if options.own.propagation != 0 {
        let own = MountAttributes { set: 0, clear: 0, ..options.own };
        sys::set_mount_attributes(tree.as_fd(), &own, false).map_err(step("propagation"))?;
    }
    if !options.recursive.is_empty() {
        sys::set_mount_attributes(tree.as_fd(), &options.recursive, true)
            .map_err(step("recursive options"))?;
    }
    Ok(())
}

/// A detached copy of the source of a bind mount, and whether it is a directory.
fn bound(mount: &Mount, bind: Bind) -> Result<(OwnedFd, bool), MountError> {
    let destination = mount.destination.display().to_string();
    let Some(from) = mount.source.clone() else {
        return Err(MountError::NoSource { destination });
    };
    let copy = || {
        let tree = copy_of(CWD, Path::new(&from), bind)?;
        let mode = rustix::fs::fstat(&tree)?.st_mode;
        Ok((tree, FileType::from_raw_mode(mode) == FileType::Directory))
    };
    copy().map_err(|errno| MountError::Source { destination, from, errno })
}

fn new_mount(mount: &Mount, options: &Options) -> Result<OwnedFd, MountError> {
    let destination = || mount.destination.display().to_string();
    let kind = match mount.kind.as_deref() {
        // What a specification calls `cgroup` is whatever hierarchy there is; here it is version 2.
        Some("cgroup") => "cgroup2",
        Some(kind) => kind,
        None => return Err(MountError::NoType { destination: destination() }),
    };
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(options.own.set).unwrap_or(0));
    let source = mount.source.as_deref();
    file_system(kind, source, &options.data, attributes)
        .map_err(|error| MountError::FileSystem { destination: destination(), error })
}

/// A new, detached mount of a file system.
pub(crate) fn file_system(
    kind: &str,
    source: Option<&str>,
    data: &[(String, Option<String>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, FileSystemError> {
    let wrong = |step: &str, context: Option<&OwnedFd>| {
        let (kind, step) = (kind.to_owned(), step.to_owned());
        let said = context.map(what_the_kernel_said).unwrap_or_default();
        move |errno| FileSystemError { kind, step, errno, said }
    };
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(wrong("type", None))?;
    if let Some(source) = source {
        fsconfig_set_string(context.as_fd(), "source", source)
            .map_err(|errno| wrong("source", Some(&context))(errno))?;
    }
    for (name, value) in data {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), name.as_str(), value.as_str()),
            None => fsconfig_set_flag(context.as_fd(), name.as_str()),
        }
        .map_err(|errno| wrong(&format!("option {name}"), Some(&context))(errno))?;
    }
    fsconfig_create(context.as_fd())
        .map_err(|errno| wrong("new file system", Some(&context))(errno))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| wrong("new mount", Some(&context))(errno))
}

/// A detached copy of what is mounted at `path`, seen from there.
pub(crate) fn copy_of(directory: impl AsFd, path: &Path, bind: Bind) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if bind == Bind::All {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(directory, path, flags)
}

/// Puts a detached mount over `place`.
pub(crate) fn attach(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", place, "", flags)
}

/// The messages a file system left in its context, for a person: ` (tmpfs: Bad value for 'size')`.
fn what_the_kernel_said(context: &OwnedFd) -> String {
    let mut said = String::new();
    let mut line = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let text = OsStr::from_bytes(&line[..length]).to_string_lossy();
        // "e " stands before an error, "w " and "i " before what explains nothing.
        if let Some(text) = text.strip_prefix("e ") {
            said.push_str(&format!(" ({})", text.trim_end()));
        }
    }
    said
}
