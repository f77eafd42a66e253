//! What every container finds in `/dev`, whatever its image holds.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use proto::spec::{Container, Device, Mount};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::mounts;
use super::namespaces;
use super::options::{Bind, Options};
use super::root::{RootError, Stage};
use super::within::Within;
use crate::process::terminal::Terminal;
use crate::words::words;

/// Name, major and minor number of the default devices of the OCI specification.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Names that lead to a process's own descriptors.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// A device that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("{path}: {}", words(*.errno))]
    Refused { path: String, errno: Errno },
    #[error("linux.devices: {path}: \"{kind}\" is no type of a device")]
    NoKind { path: String, kind: String },
    #[error("linux.devices: {path}: no file can be there")]
    NoPlace { path: String },
    #[error("linux.devices: {path}: something else is there")]
    Taken { path: String },
    #[error("linux.devices: {path}: nobody stands for its owner")]
    NoOwner { path: String },
    #[error(transparent)]
    Stage(#[from] RootError),
}

impl DeviceError {
    /// Whether it is the specification that is wrong, rather than the kernel unwilling.
    pub(crate) fn is_of_the_spec(&self) -> bool {
        match self {
            Self::NoKind { .. }
            | Self::NoPlace { .. }
            | Self::Taken { .. }
            | Self::NoOwner { .. } => true,
            Self::Refused { .. } | Self::Stage(_) => false,
        }
    }
}

/// A file that stands for a device.
struct Node {
    path: PathBuf,
    kind: FileType,
    device: Dev,
    mode: Mode,
    owner: (u32, u32),
    /// It was asked for, so it has to be what was asked for.
    is_listed: bool,
}

impl Node {
    fn refused(&self) -> impl Fn(Errno) -> DeviceError + use<'_> {
        |errno| DeviceError::Refused { path: self.path.display().to_string(), errno }
    }

    /// Makes the node in `directory`, of this name, owned by these.
    fn make(&self, directory: &OwnedFd, name: &OsStr, owner: (u32, u32)) -> Result<(), Errno> {
        mknodat(directory, name, self.kind, self.mode, self.device)?;
        // The agent's mask is not the container's.
        chmodat(directory, name, self.mode, AtFlags::empty())?;
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Whether what is there is this very device.
    fn is(&self, directory: &OwnedFd, name: &OsStr) -> Result<bool, Errno> {
        let there = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_node = self.kind == FileType::Fifo || there.st_rdev == self.device;
        Ok(FileType::from_raw_mode(there.st_mode) == self.kind && is_node)
    }
}

/// Those of the specification and then those every container has. What is there already is not made
/// again, so the first of a path counts.
fn nodes(devices: &[Device]) -> Result<Vec<Node>, DeviceError> {
    let listed = devices.iter().map(|device| {
        let path = || device.path.display().to_string();
        let kind = match device.kind.as_str() {
            "c" | "u" => FileType::CharacterDevice,
            "b" => FileType::BlockDevice,
            "p" => FileType::Fifo,
            kind => return Err(DeviceError::NoKind { path: path(), kind: kind.to_owned() }),
        };
        Ok(Node {
            path: device.path.clone(),
            kind,
            device: makedev(device.major, device.minor),
            mode: Mode::from_raw_mode(device.file_mode.unwrap_or(0o666)),
            owner: (device.uid, device.gid),
            is_listed: true,
        })
    });
    let usual = DEVICES.map(|(name, major, minor)| {
        Ok(Node {
            path: Path::new("/dev").join(name),
            kind: FileType::CharacterDevice,
            device: makedev(major, minor),
            mode: Mode::from_raw_mode(0o666),
            owner: (0, 0),
            is_listed: false,
        })
    });
    // Only the `ptmx` of the container's own `devpts` gives terminals it can use.
    let is_ours = |node: &Result<Node, _>| {
        node.as_ref().is_ok_and(|node| node.path == Path::new("/dev/ptmx"))
    };
    listed.chain(usual).filter(|node| !is_ours(node)).collect()
}

/// Makes the nodes of a container that has users of its own, who may not make any, on the stage.
pub(crate) fn lay_out(spec: &Container, stage: &Stage) -> Result<(), DeviceError> {
    let directory = stage.mount_devices()?;
    for (number, node) in nodes(&spec.devices)?.iter().enumerate() {
        let uid = namespaces::guests(&spec.uid_mappings, node.owner.0);
        let gid = namespaces::guests(&spec.gid_mappings, node.owner.1);
        let (Some(uid), Some(gid)) = (uid, gid) else {
            return Err(DeviceError::NoOwner { path: node.path.display().to_string() });
        };
        node.make(&directory, number.to_string().as_ref(), (uid, gid)).map_err(node.refused())?;
    }
    Ok(())
}

/// Makes devices and links. What is there already stays, but for `ptmx`: only the one of the
/// container's own `devpts` gives terminals it can use. A `/dev` that is somebody else's, by a bind
/// mount, is left alone.
pub(crate) fn make(root: &Within<'_>, spec: &Container, stage: &Stage) -> Result<(), DeviceError> {
    if spec.mounts.iter().any(is_foreign_dev) {
        return Ok(());
    }
    for (number, node) in nodes(&spec.devices)?.iter().enumerate() {
        let (Some(above), Some(name)) = (node.path.parent(), node.path.file_name()) else {
            return Err(DeviceError::NoPlace { path: node.path.display().to_string() });
        };
        let directory = root.make_directory(above).map_err(node.refused())?;
        let made = match namespaces::has_users(spec) {
            false => node.make(&directory, name, node.owner),
            true => bind_node(root, node, &stage.device(number)),
        };
        match made {
            Err(Errno::EXIST) => {
                let is_it = node.is(&directory, name).map_err(node.refused())?;
                if node.is_listed && !is_it {
                    return Err(DeviceError::Taken { path: node.path.display().to_string() });
                }
            }
            made => made.map_err(node.refused())?,
        }
    }
    let wrong = |name| move |errno| DeviceError::Refused { path: format!("/dev/{name}"), errno };
    let dev = root.make_directory(Path::new("/dev")).map_err(wrong(""))?;
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(wrong(name)(errno)),
        }
    }
    match unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(wrong("ptmx")(errno)),
    }
    symlinkat("pts/ptmx", &dev, "ptmx").map_err(wrong("ptmx"))
}

/// Puts a node of the stage in its place, unless something is there.
fn bind_node(root: &Within<'_>, node: &Node, staged: &str) -> Result<(), Errno> {
    match root.find(&node.path) {
        Err(Errno::NOENT) => {}
        found => return found.and(Err(Errno::EXIST)),
    }
    let tree = mounts::copy_of(CWD, Path::new(staged), Bind::One)?;
    mounts::attach(tree.as_fd(), root.make_file(&node.path)?.as_fd())
}

/// Makes `/dev/console` the container's terminal.
pub(crate) fn console(root: &Within<'_>, terminal: &Terminal) -> Result<(), DeviceError> {
    let bind = || {
        let tree = mounts::copy_of(&terminal.slave, Path::new(""), Bind::One)?;
        let place = root.make_file(Path::new("/dev/console"))?;
        mounts::attach(tree.as_fd(), place.as_fd())
    };
    bind().map_err(|errno| DeviceError::Refused { path: "/dev/console".to_owned(), errno })
}

fn is_foreign_dev(mount: &Mount) -> bool {
    let is_bind = || mount.kind.as_deref() == Some("bind");
    mount.destination == Path::new("/dev")
        && (is_bind() || Options::parse(&mount.options).is_ok_and(|options| options.bind.is_some()))
}
