//! Making mounts and putting them in their places, by descriptor: no path is looked up twice.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::spec::{Mount, Submount};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::copy_up::{self, CopyError};
use super::options::{Bind, Options};
use super::within::Within;
use crate::boot;
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
    #[error("mounts: {destination}: options: {option} is not supported")]
    Unsupported { destination: String, option: String },
    #[error("mounts: {destination}: options: {option} means nothing there")]
    Meaningless { destination: String, option: String },
    #[error("mounts: {destination}: {kind} must be mounted on ordinary directory")]
    OnLink { destination: String, kind: String },
    #[error("mounts: {destination}: copying what the image has there: {error}")]
    CopyUp { destination: String, error: CopyError },
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
            Self::OverRoot { .. }
            | Self::NoSource { .. }
            | Self::NoType { .. }
            | Self::Unsupported { .. }
            | Self::Meaningless { .. }
            | Self::OnLink { .. } => true,
            Self::Source { errno, .. } => *errno == Errno::NOENT,
            Self::FileSystem { error, .. } => matches!(error.errno, Errno::INVAL | Errno::NODEV),
            Self::Step { .. } | Self::CopyUp { .. } => false,
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

/// Makes one of a container's `mounts` and puts it in its place, which is made if it is missing. Gives the file that
/// was made for it, if there is one.
pub(crate) fn mount(root: &Within<'_>, mount: &Mount) -> Result<Option<OwnedFd>, MountError> {
    let destination = || mount.destination.display().to_string();
    let step = |step: &'static str| {
        move |errno| MountError::Step { destination: destination(), step, errno }
    };
    let options = parse(mount)?;
    if mount.destination.components().count() < 2 {
        return Err(MountError::OverRoot { destination: destination() });
    }
    // A share is what the host has bound: all of it, as the host meant it.
    let share = mount.share.as_ref().map(|_| Bind::All);
    let own = mount.content.as_ref().map(|_| Bind::One);
    let bind = share.or(own).or(options.bind);
    let bind = bind.or((mount.kind.as_deref() == Some("bind")).then_some(Bind::One));
    let is_tmpfs = bind.is_none() && mount.kind.as_deref() == Some("tmpfs");
    // A bind has no file system of its own to tell: mount(2) takes the words and does nothing with
    // them, other runtimes leave it at that, and bundles count on it.
    let meaningless = options.data.iter().find(|(word, _)| options.remount && !of_superblock(word));
    if let Some((option, _)) = meaningless {
        let option = option.clone();
        return Err(MountError::Meaningless { destination: destination(), option });
    }
    if options.copies_up && !is_tmpfs {
        let option = "tmpcopyup".to_owned();
        return Err(MountError::Meaningless { destination: destination(), option });
    }
    if options.remount {
        let place = root.find(&mount.destination).map_err(step("destination"))?;
        return change(place.as_fd(), &options).map(|()| None).map_err(step("remount"));
    }
    // What is masked and made read-only later is looked for at the usual places: an image may not
    // move them.
    if let Some(kind @ ("proc" | "sysfs")) = mount.kind.as_deref()
        && bind.is_none()
        && is_link(root, &mount.destination)
    {
        return Err(MountError::OnLink { destination: destination(), kind: kind.to_owned() });
    }
    let mut file = None;
    let (tree, is_directory) = match (bind, &mount.content) {
        (_, Some(content)) => {
            let (tree, made) = file_with(content).map_err(step("content"))?;
            file = Some(made);
            (tree, false)
        }
        (Some(bind), None) => bound(mount, bind)?,
        (None, None) => (new_mount(root, mount, &options)?, true),
    };
    if mount.copies_up && share.is_some() && is_directory {
        copy_up::fill(root, &mount.destination, &tree)
            .map_err(|error| MountError::CopyUp { destination: destination(), error })?;
    }
    if options.copies_up {
        copy_up::copy(root, &mount.destination, &tree)
            .map_err(|error| MountError::CopyUp { destination: destination(), error })?;
    }
    if bind.is_some() {
        let own = Options { recursive: MountAttributes::default(), ..options.clone() };
        change(tree.as_fd(), &own).map_err(step("options"))?;
    }
    let place = match is_directory {
        true => root.make_directory(&mount.destination),
        false => root.make_file(&mount.destination),
    };
    let place = place.map_err(step("destination"))?;
    attach(tree.as_fd(), place.as_fd()).map_err(step("mount"))?;
    for submount in &mount.submounts {
        below(&tree, mount, submount)?;
    }
    let recursive = Options { own: MountAttributes::default(), ..options };
    change(tree.as_fd(), &recursive).map_err(step("recursive options"))?;
    Ok(file)
}

fn is_link(root: &Within<'_>, path: &Path) -> bool {
    let place = root.open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC);
    let mode = place.and_then(|place| rustix::fs::fstat(&place)).map(|place| place.st_mode);
    mode.is_ok_and(|mode| FileType::from_raw_mode(mode) == FileType::Symlink)
}

/// Says what happens to later mounts below one of a container's `mounts`. The container's root must
/// not be shared with anybody until it is entered, and has its own say first: so this comes last.
pub(crate) fn propagate(root: &Within<'_>, mount: &Mount) -> Result<(), MountError> {
    let options = parse(mount)?;
    let step = |errno| {
        let destination = mount.destination.display().to_string();
        MountError::Step { destination, step: "propagation", errno }
    };
    for (attributes, recursive) in [(options.own, false), (options.recursive, true)] {
        if attributes.propagation != 0 {
            let place = root.find(&mount.destination).map_err(step)?;
            let only = MountAttributes { set: 0, clear: 0, ..attributes };
            sys::set_mount_attributes(place.as_fd(), &only, recursive).map_err(step)?;
        }
    }
    Ok(())
}

fn parse(mount: &Mount) -> Result<Options, MountError> {
    Options::parse(&mount.options).map_err(|option| {
        let destination = mount.destination.display().to_string();
        MountError::Unsupported { destination, option }
    })
}

/// Changes what can be told of a mount without asking its file system, but for its propagation.
fn change(mount: BorrowedFd<'_>, options: &Options) -> Result<(), Errno> {
    for (attributes, recursive) in [(options.own, false), (options.recursive, true)] {
        let attributes = MountAttributes { propagation: 0, ..attributes };
        if !attributes.is_empty() {
            sys::set_mount_attributes(mount, &attributes, recursive)?;
        }
    }
    Ok(())
}

/// A detached copy of the source of a bind mount, and whether it is a directory.
fn bound(mount: &Mount, bind: Bind) -> Result<(OwnedFd, bool), MountError> {
    let destination = mount.destination.display().to_string();
    let from = match (&mount.share, &mount.source) {
        (Some(name), _) => format!("{}/{name}", boot::SHARES),
        (None, Some(source)) => source.clone(),
        (None, None) => return Err(MountError::NoSource { destination }),
    };
    let copy = || {
        let tree = copy_of(CWD, Path::new(&from), bind)?;
        let mode = rustix::fs::fstat(&tree)?.st_mode;
        Ok((tree, FileType::from_raw_mode(mode) == FileType::Directory))
    };
    copy().map_err(|errno| MountError::Source { destination, from, errno })
}

/// Mounts what the host has mounted below a share, which is in its place: the share shows it already, but as
/// a part of itself.
fn below(tree: &OwnedFd, mount: &Mount, submount: &Submount) -> Result<(), MountError> {
    let destination = || mount.destination.join(&submount.path).display().to_string();
    let step = |step: &'static str| {
        move |errno| MountError::Step { destination: destination(), step, errno }
    };
    let name = mount.share.as_deref().unwrap_or_default();
    let from = Path::new(boot::SHARES).join(name).join(&submount.path);
    let copy = copy_of(CWD, &from, Bind::One).map_err(step("copy"))?;
    let options = Options::parse(&submount.options).unwrap_or_default();
    change(copy.as_fd(), &options).map_err(step("options"))?;
    let place = Within::new(tree).find(&submount.path).map_err(step("place"))?;
    attach(copy.as_fd(), place.as_fd()).map_err(step("mount"))
}

/// What can be mounted as a file with this in it, alone on a file system of its own, and the file. That file system is
/// mounted in the calling process's mount namespace, because of one that is nowhere no part can be mounted elsewhere.
fn file_with(content: &str) -> Result<(OwnedFd, OwnedFd), Errno> {
    const NAME: &str = "file";
    match rustix::fs::mkdir(boot::FILES, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let room = file_system("tmpfs", None, &[], MountAttrFlags::empty()).map_err(|it| it.errno)?;
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&room, NAME, flags, Mode::from_raw_mode(0o644))?;
    let mut left = content.as_bytes();
    while !left.is_empty() {
        left = &left[rustix::io::write(&file, left)?..];
    }
    move_mount(&room, "", CWD, boot::FILES, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok((copy_of(&room, Path::new(NAME), Bind::One)?, file))
}

fn new_mount(root: &Within<'_>, mount: &Mount, options: &Options) -> Result<OwnedFd, MountError> {
    let destination = || mount.destination.display().to_string();
    let kind = match mount.kind.as_deref() {
        // What a specification calls `cgroup` is whatever hierarchy there is; here it is version 2.
        Some("cgroup") => "cgroup2",
        Some(kind) => kind,
        None => return Err(MountError::NoType { destination: destination() }),
    };
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(options.own.set).unwrap_or(0));
    let source = mount.source.as_deref();
    let mut data = options.data.clone();
    if kind == "tmpfs" && !data.iter().any(|(name, _)| name == "mode") {
        data.extend(mode_of(root, &mount.destination));
    }
    match file_system(kind, source, &data, attributes) {
        // Who has users of its own may not mount what shows a network that is the guest's.
        Err(FileSystemError { errno: Errno::PERM, .. }) if kind == "sysfs" => guests_sysfs(options)
            .map_err(|errno| {
                let (destination, from) = (destination(), SYSFS.to_owned());
                MountError::Source { destination, from, errno }
            }),
        made => made.map_err(|error| MountError::FileSystem { destination: destination(), error }),
    }
}

const SYSFS: &str = "/sys";

fn guests_sysfs(options: &Options) -> Result<OwnedFd, Errno> {
    let tree = copy_of(CWD, Path::new(SYSFS), Bind::All)?;
    change(tree.as_fd(), options)?;
    Ok(tree)
}

/// The mode of the directory that a `tmpfs` is to hide, for one that has none of its own.
fn mode_of(root: &Within<'_>, destination: &Path) -> Option<(String, Option<String>)> {
    let there = rustix::fs::fstat(root.find(destination).ok()?).ok()?;
    let is_directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
    is_directory.then(|| ("mode".to_owned(), Some(format!("{:o}", there.st_mode & 0o7777))))
}

/// Words for how a file system as a whole writes. A remount leaves that as it is.
fn of_superblock(word: &str) -> bool {
    ["async", "dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync"].contains(&word)
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
