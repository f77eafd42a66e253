//! A container's root file system.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use proto::spec::Root;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::mounts::{self, FileSystemError};
use super::options::{Bind, Options};
use crate::boot;
use crate::control::Layers;
use crate::sys;
use crate::words::words;

/// Where the parts of a root are put together. Each container does so in a mount namespace of its
/// own, so the places are the same for all and hold nothing outside of it.
pub(crate) struct Stage {
    /// The image.
    lower: String,
    /// What is written over it.
    upper: String,
    /// The two in one.
    root: String,
    /// Nodes of devices, for a container that may not make any.
    devices: String,
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("root.disk {index}: there are slots 0 to 25 only")]
    NoSuchSlot { index: u8 },
    #[error("root.disk {device}: {error}")]
    Disk { device: String, error: FileSystemError },
    #[error("root: writable layer: {0}")]
    Upper(FileSystemError),
    #[error("linux.devices: {0}")]
    Devices(FileSystemError),
    #[error("linux.rootfsPropagation: \"{word}\" is no propagation")]
    NoPropagation { word: String },
    #[error("root: overlay: {0}")]
    Overlay(FileSystemError),
    #[error("root.path {path}: {}", words(*.errno))]
    Directory { path: String, errno: Errno },
    #[error("root: {step}: {}", words(*.errno))]
    Step { step: &'static str, errno: Errno },
}

impl Stage {
    /// A stage in a directory of the guest, which must exist.
    pub(crate) fn new(directory: &Path) -> Self {
        let place = |name| directory.join(name).to_string_lossy().into_owned();
        Self {
            lower: place("lower"),
            upper: place("upper"),
            root: place("root"),
            devices: place("devices"),
        }
    }

    /// Makes the places, once.
    pub(crate) fn build(&self) -> Result<(), Errno> {
        for place in [&self.lower, &self.upper, &self.root, &self.devices] {
            make_directory(place)?;
        }
        Ok(())
    }

    /// Mounts a root and gives it, not yet entered. It can be written to whatever the specification
    /// says about that, because mount points may have to be made in it.
    pub(crate) fn mount(&self, root: &Root) -> Result<OwnedFd, RootError> {
        let tree = match root {
            Root::Disk { index, upper_bytes, upper_disk } => {
                let upper = upper_disk.map_or(Upper::Memory(*upper_bytes), Upper::Disk);
                self.overlay(*index, upper)?
            }
            Root::Directory { path } => directory(path)?,
            Root::Share { name } => directory(&Path::new(boot::SHARES).join(name))?,
        };
        put(&tree, &self.root)?;
        Ok(tree)
    }

    /// What a root from a disk, mounted by the calling process, is made of.
    pub(crate) fn layers(&self) -> Result<Layers, RootError> {
        let open = |path: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(wrong("layers"))
        };
        Ok(Layers { upper: open(&format!("{}/data", self.upper))?, lower: open(&self.lower)? })
    }

    /// Takes over a root that was mounted before the calling process came to have users of its own. It
    /// is locked to what it was mounted on, so what is given is a copy.
    pub(crate) fn take_over(&self) -> Result<OwnedFd, RootError> {
        let tree = mounts::copy_of(CWD, Path::new(&self.root), Bind::All).map_err(wrong("copy"))?;
        put(&tree, &self.root)?;
        Ok(tree)
    }

    /// Mounts an empty directory for nodes of devices.
    pub(crate) fn mount_devices(&self) -> Result<OwnedFd, RootError> {
        let mode = [("mode".to_owned(), Some("755".to_owned()))];
        let tree = mounts::file_system("tmpfs", Some("tmpfs"), &mode, MountAttrFlags::empty())
            .map_err(RootError::Devices)?;
        put(&tree, &self.devices)?;
        Ok(tree)
    }

    /// Where the node of this number is.
    pub(crate) fn device(&self, number: usize) -> String {
        format!("{}/{number}", self.devices)
    }

    fn overlay(&self, index: u8, upper: Upper) -> Result<OwnedFd, RootError> {
        let device = device_of(index)?;
        let read_only = [("ro".to_owned(), None)];
        let lower =
            mounts::file_system("erofs", Some(&device), &read_only, MountAttrFlags::empty())
                .map_err(|error| RootError::Disk { device, error })?;
        put(&lower, &self.lower)?;

        put(&upper.mount()?, &self.upper)?;
        let (data, work) = (format!("{}/data", self.upper), format!("{}/work", self.upper));
        for place in [&data, &work] {
            make_directory(place).map_err(wrong("writable layer"))?;
        }

        let layers = [("lowerdir", &self.lower), ("upperdir", &data), ("workdir", &work)]
            .map(|(name, path)| (name.to_owned(), Some(path.clone())));
        mounts::file_system("overlay", Some("overlay"), &layers, MountAttrFlags::empty())
            .map_err(RootError::Overlay)
    }
}

/// What is written over an image: where it goes.
enum Upper {
    /// The guest's memory, and at most so much of it.
    Memory(Option<u64>),
    /// The ext4 file system of this disk.
    Disk(u8),
}

impl Upper {
    fn mount(&self) -> Result<OwnedFd, RootError> {
        match *self {
            Self::Memory(bytes) => {
                let size = bytes.map(|bytes| ("size".to_owned(), Some(bytes.to_string())));
                let mode = ("mode".to_owned(), Some("755".to_owned()));
                let data: Vec<_> = size.into_iter().chain([mode]).collect();
                mounts::file_system("tmpfs", Some("tmpfs"), &data, MountAttrFlags::empty())
                    .map_err(RootError::Upper)
            }
            Self::Disk(index) => {
                let device = device_of(index)?;
                // What is removed is room on the host again.
                let data = [("discard".to_owned(), None)];
                mounts::file_system("ext4", Some(&device), &data, MountAttrFlags::empty())
                    .map_err(|error| RootError::Disk { device, error })
            }
        }
    }
}

fn device_of(index: u8) -> Result<String, RootError> {
    let letter = (b'a'..=b'z').nth(index.into()).ok_or(RootError::NoSuchSlot { index })?;
    Ok(format!("/dev/vd{}", char::from(letter)))
}

/// Makes `root` the calling process's `/` and lets go of everything outside of it.
pub(crate) fn enter(root: &OwnedFd) -> Result<(), RootError> {
    rustix::process::fchdir(root).map_err(wrong("enter"))?;
    // The old root ends up on top of the new one, where it can be taken off again.
    rustix::process::pivot_root(".", ".").map_err(wrong("pivot"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(wrong("old root"))?;
    rustix::process::chdir("/").map_err(wrong("enter"))
}

/// Says what happens to later mounts below the root that was entered.
pub(crate) fn propagate(root: &OwnedFd, word: &str) -> Result<(), RootError> {
    let options = Options::parse(&[word.to_owned()]).unwrap_or_default();
    let (attributes, recursive) = match word.starts_with('r') {
        true => (options.recursive, true),
        false => (options.own, false),
    };
    if attributes.propagation == 0 {
        return Err(RootError::NoPropagation { word: word.to_owned() });
    }
    sys::set_mount_attributes(root.as_fd(), &attributes, recursive)
        .map_err(wrong("linux.rootfsPropagation"))
}

fn directory(path: &Path) -> Result<OwnedFd, RootError> {
    mounts::copy_of(CWD, path, Bind::All)
        .map_err(|errno| RootError::Directory { path: path.display().to_string(), errno })
}

fn put(tree: &OwnedFd, place: &str) -> Result<(), RootError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let place = rustix::fs::open(place, flags, Mode::empty()).map_err(wrong("stage"))?;
    mounts::attach(tree.as_fd(), place.as_fd()).map_err(wrong("mount"))
}

fn wrong(step: &'static str) -> impl Fn(Errno) -> RootError {
    move |errno| RootError::Step { step, errno }
}

fn make_directory(path: &str) -> Result<(), Errno> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}
